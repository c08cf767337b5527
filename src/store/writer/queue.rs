//! What waits for the writer: closes in their order, opens in turn from each account.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::HashMap;

use super::work::Entry;
use super::{Counters, Lane, QUEUE};
use crate::error::Error;

/// The account of work that is done for none; it takes its turn like the others.
pub const NOBODY: &str = "";
/// Told to those whose work the thread can no longer do.
pub const GONE: &str = "the writer is gone";

/// Things that wait by account and are taken one an account in turn.
pub struct Turns<T> {
    /// The accounts that have something waiting, the next one first.
    order: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, VecDeque<T>>,
    len: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), waiting: HashMap::default(), len: 0 }
    }
}

impl<T> Turns<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn push(&mut self, account: &str, thing: T) {
        self.len += 1;
        if let Some(own) = self.waiting.get_mut(account) {
            own.push_back(thing);
            return;
        }
        let account: Arc<str> = account.into();
        self.order.push_back(account.clone());
        self.waiting.insert(account, VecDeque::from([thing]));
    }

    pub fn pop(&mut self) -> Option<T> {
        let account = self.order.pop_front()?;
        let own = self.waiting.get_mut(&account)?;
        let thing = own.pop_front();
        if own.is_empty() {
            // Nothing is kept of an account that has nothing waiting.
            self.waiting.remove(&account);
        } else {
            self.order.push_back(account);
        }
        self.len -= 1;
        thing
    }
}

/// New work that nobody waited for when it came.
struct Patient {
    open: Entry,
    /// Whether a batch has passed it over.
    passed: bool,
}

#[derive(Default)]
struct Queue {
    closes: VecDeque<Entry>,
    opens: Turns<Entry>,
    /// New work, by account, that [may be](Entry::patience) passed over by one batch.
    patient: HashMap<Arc<str>, Vec<Patient>>,
    stopping: Option<Instant>,
    ended: bool,
    /// Whether the thread waits for work. To wake one that does not would be a system call for nothing.
    idle: bool,
}

impl Queue {
    /// New work that waits.
    fn opening(&self) -> usize {
        self.opens.len() + self.patient.values().map(Vec::len).sum::<usize>()
    }

    /// Adds new work. What is patient waits beside the others, as long as nothing else of its account comes: that must
    /// not go before it, since it could take the money that the patient work was promised.
    fn open(&mut self, account: &str, open: Entry) {
        if !open.is_patient() {
            let before = self.patient.remove(account).unwrap_or_default().into_iter().map(|own| own.open);
            before.chain([open]).for_each(|open| self.opens.push(account, open));
            return;
        }
        let own = Patient { open, passed: false };
        match self.patient.get_mut(account) {
            Some(others) => others.push(own),
            None => drop(self.patient.insert(account.into(), vec![own])),
        }
    }

    /// Takes up to `most` pieces, what closes first. Patient work is left for the next batch if there is anything else.
    fn take(&mut self, most: usize) -> Vec<Entry> {
        self.end_patience(|own| own.passed);
        if self.closes.is_empty() && self.opens.len() == 0 {
            self.end_patience(|_| true);
        }
        self.patient.values_mut().flatten().for_each(|own| own.passed = true);
        self.take_awaited(most)
    }

    /// Takes up to `most` pieces more for a batch that is being made: that is no batch that passes anything over.
    fn take_late(&mut self, most: usize) -> Vec<Entry> {
        self.end_patience(|_| false);
        self.take_awaited(most)
    }

    /// Puts patient work among the rest for which somebody waits by now, or that is `due`.
    fn end_patience(&mut self, due: impl Fn(&Patient) -> bool) {
        for (account, own) in &mut self.patient {
            let ended = own.extract_if(.., |own| due(own) || !own.open.is_patient());
            ended.for_each(|own| self.opens.push(account, own.open));
        }
        self.patient.retain(|_, own| !own.is_empty());
    }

    fn take_awaited(&mut self, most: usize) -> Vec<Entry> {
        let closes = self.closes.len().min(most);
        let mut taken: Vec<_> = self.closes.drain(..closes).collect();
        while taken.len() < most
            && let Some(open) = self.opens.pop()
        {
            taken.push(open);
        }
        taken
    }
}

/// What the handles and the thread share.
#[derive(Default)]
pub struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    pub counters: Counters,
    /// The run of the server that batches check; 0 for none.
    pub epoch: AtomicI64,
    /// Counts what may be otherwise than a turn has seen it: see [`Writer::changes`](super::Writer::changes).
    pub changes: Arc<AtomicU64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, account: &str, entry: Entry) -> Result<(), Error> {
        let mut queue = self.lock();
        let waiting = match entry.lane {
            Lane::Close => 0,
            Lane::Mark => queue.closes.len(),
            Lane::Open => queue.opening(),
        };
        match entry.lane {
            _ if queue.ended => return Err(Error::StoreUnavailable(GONE.to_owned())),
            _ if queue.stopping.is_some() => return Err(Error::Draining),
            _ if waiting >= QUEUE => return Err(Error::Overloaded),
            Lane::Close | Lane::Mark => queue.closes.push_back(entry),
            Lane::Open => queue.open(account, entry),
        }
        let idle = std::mem::take(&mut queue.idle);
        drop(queue);
        if idle {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Waits for work and takes up to `most` pieces, what closes first; `None` when stopped and empty.
    pub fn next_batch(&self, most: usize) -> Option<Vec<Entry>> {
        let mut queue = self.lock();
        while queue.closes.is_empty() && queue.opening() == 0 {
            if queue.stopping.is_some() {
                return None;
            }
            queue.idle = true;
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.idle = false;
        Some(queue.take(most))
    }

    /// Takes up to `most` pieces that came since a batch was taken, to be committed with it.
    pub fn late(&self, most: usize) -> Vec<Entry> {
        self.lock().take_late(most)
    }

    /// Puts closes back to where they were taken from.
    pub fn put_back(&self, closes: Vec<Entry>) {
        let mut queue = self.lock();
        for entry in closes.into_iter().rev() {
            queue.closes.push_front(entry);
        }
    }

    /// Takes all new work that waits.
    pub fn take_opens(&self) -> Vec<Entry> {
        let mut queue = self.lock();
        let patient = std::mem::take(&mut queue.patient).into_values().flatten().map(|own| own.open);
        std::iter::from_fn(|| queue.opens.pop()).chain(patient).collect()
    }

    /// Takes everything that waits.
    pub fn take_all(&self) -> Vec<Entry> {
        let closes = std::mem::take(&mut self.lock().closes);
        closes.into_iter().chain(self.take_opens()).collect()
    }

    pub fn stop(&self, now: Instant) {
        self.lock().stopping.get_or_insert(now);
        self.filled.notify_one();
    }

    /// Since when no more work is taken.
    pub fn stopping(&self) -> Option<Instant> {
        self.lock().stopping
    }

    /// The closes and the opens that wait.
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.lock();
        (queue.closes.len(), queue.opening())
    }

    /// The thread ends: what still waits is dropped, which those who wait for it notice.
    pub fn end(&self) {
        self.lock().ended = true;
        drop(self.take_all());
    }
}

#[cfg(test)]
mod tests {
    use diesel::prelude::*;

    use super::*;
    use crate::store::writer::Patience;
    use crate::store::writer::work::{Guard, Ran, Work};

    fn all(turns: &mut Turns<u32>) -> Vec<u32> {
        std::iter::from_fn(|| turns.pop()).collect()
    }

    /// Work that does nothing.
    struct Nothing;

    impl Work for Nothing {
        fn run(&mut self, _: &mut SqliteConnection, _: Guard) -> QueryResult<Ran> {
            Ok(Ran::Whole)
        }

        fn answer(self: Box<Self>, _: Result<(), Error>) {}
    }

    #[test]
    fn patient_work_alone_is_taken_and_beside_other_work_is_left_once() {
        let mut queue = Queue::default();
        let open = |patience| Entry { lane: Lane::Open, patience, work: Box::new(Nothing) };
        queue.open("a", open(Some(Patience::default())));
        queue.open("b", open(Some(Patience::default())));
        assert_eq!(queue.take(10).len(), 2, "there is nothing else");
        queue.open("a", open(Some(Patience::default())));
        queue.open("b", open(None));
        assert_eq!((queue.take(10).len(), queue.opening()), (1, 1));
        queue.open("b", open(None));
        assert_eq!((queue.take(10).len(), queue.opening()), (2, 0));
    }

    #[test]
    fn latecomers_for_whom_somebody_waits_come_along_and_patient_ones_stay() {
        let mut queue = Queue::default();
        let open = |patience| Entry { lane: Lane::Open, patience, work: Box::new(Nothing) };
        let (one, other) = (Patience::default(), Patience::default());
        queue.open("a", open(Some(one.clone())));
        queue.open("b", open(Some(other.clone())));
        queue.open("c", open(None));
        assert_eq!((queue.take(10).len(), queue.opening()), (1, 2), "both are passed over");
        assert_eq!(queue.take_late(10).len(), 0, "nobody waits for them");
        one.end();
        queue.closes.push_back(Entry { lane: Lane::Close, ..open(None) });
        queue.open("d", open(None));
        queue.open("e", open(None));
        assert_eq!((queue.take_late(3).len(), queue.opening()), (3, 2), "there is room for three");
        assert_eq!((queue.take(10).len(), queue.opening()), (2, 0), "it was passed over once");
    }

    #[test]
    fn accounts_take_turns_and_each_keeps_its_order() {
        let mut turns = Turns::default();
        for thing in [10, 11, 12, 13] {
            turns.push("a", thing);
        }
        turns.push("b", 20);
        turns.push("c", 30);
        turns.push("b", 21);
        assert_eq!(turns.len(), 7);
        assert_eq!(all(&mut turns), [10, 20, 30, 11, 21, 12, 13]);
        assert_eq!(turns.len(), 0);
    }

    #[test]
    fn a_latecomer_waits_for_one_thing_of_each_account() {
        let mut turns = Turns::default();
        for thing in 0..10_000 {
            turns.push("greedy", thing);
        }
        assert_eq!(turns.pop(), Some(0));
        turns.push("late", 99_999);
        assert_eq!([turns.pop(), turns.pop()], [Some(1), Some(99_999)]);
    }

    #[test]
    fn nothing_is_kept_of_an_account_that_has_nothing_waiting() {
        let mut turns = Turns::default();
        for account in 0..1_000 {
            turns.push(&account.to_string(), account);
        }
        all(&mut turns);
        assert!(turns.waiting.is_empty() && turns.order.is_empty());
    }
}
