//! The events of a turn: written once, read by any number of clients, each where it stands.
//!
//! `tape` says what is kept and who has to wait; here are those who wait. The turn is woken when a reader has made
//! room it waits for, or when the last one is gone; a reader when there is something to read.

mod event_id;
mod packed;
mod tape;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

pub use event_id::EventId;
use tape::{Key, Read, Tape};
pub use tape::{Refused, STALL_LIMIT, weight};

use crate::session::TurnEvent;

/// What all logs together keep.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// Room for `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Whether more is kept than there is room for.
    pub fn is_over(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }

    fn moved(&self, before: usize, after: usize) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

/// The log of one turn. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    budget: Arc<Budget>,
}

struct State {
    tape: Tape,
    /// The turn, while it waits.
    writer: Option<Waker>,
    /// The weight that the turn waits to find room for.
    wanted: Option<usize>,
}

impl State {
    /// The turn, if what it waits for has come about.
    fn due(&mut self) -> Option<Waker> {
        let room = self.wanted.is_some_and(|weight| self.tape.has_room(weight));
        if room || self.tape.present() == 0 {
            self.wanted = None;
            return self.writer.take();
        }
        None
    }

    fn wait(&mut self, context: &Context<'_>) {
        if !self.writer.as_ref().is_some_and(|own| own.will_wake(context.waker())) {
            self.writer = Some(context.waker().clone());
        }
    }
}

impl Log {
    /// An empty log, kept within `budget`.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State { tape: Tape::new(), writer: None, wanted: None }),
            budget,
        }))
    }

    /// A log that is whole already, and its first reader, who gets all of it.
    ///
    /// # Errors
    /// None: a new log has a start.
    pub fn of(
        events: impl IntoIterator<Item = TurnEvent>,
        budget: Arc<Budget>,
    ) -> Result<(Self, Reader), Refused> {
        let log = Self::new(budget);
        let reader = log.read()?;
        events.into_iter().for_each(|event| log.push(event));
        Ok((log, reader))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the tape, counts what it keeps then, and wakes the turn where it is due.
    fn change<T>(&self, change: impl FnOnce(&mut Tape) -> T) -> T {
        let mut state = self.lock();
        let before = state.tape.kept();
        let answer = change(&mut state.tape);
        self.0.budget.moved(before, state.tape.kept());
        let due = state.due();
        drop(state);
        due.into_iter().for_each(Waker::wake);
        answer
    }

    /// Adds an event, without waiting for room. Nothing follows an end.
    pub fn push(&self, event: TurnEvent) {
        // Nearly always there is one reader: its waker needs no list.
        let (mut first, mut others) = (None, Vec::new());
        let limit = if self.0.budget.is_over() { 0 } else { tape::KEPT };
        self.change(|tape| {
            tape.keep(limit);
            tape.push(event, Instant::now, |waker| match first {
                None => first = Some(waker),
                Some(_) => others.push(waker),
            });
        });
        first.into_iter().chain(others).for_each(Waker::wake);
    }

    /// Answers when there is room for an event of this weight, so that what readers do not take stays with the
    /// provider. One caller at a time.
    pub async fn room(&self, weight: usize) {
        poll_fn(|context| {
            let mut state = self.lock();
            if state.tape.has_room(weight) {
                state.wanted = None;
                return Poll::Ready(());
            }
            state.wanted = Some(weight);
            state.wait(context);
            Poll::Pending
        })
        .await;
    }

    /// Whether there is room for an event of this weight now.
    pub fn has_room(&self, weight: usize) -> bool {
        self.lock().tape.has_room(weight)
    }

    /// Answers when nobody reads any more. One caller at a time, the same that waits for room.
    pub async fn abandoned(&self) {
        poll_fn(|context| {
            let mut state = self.lock();
            if state.tape.present() == 0 {
                return Poll::Ready(());
            }
            state.wait(context);
            Poll::Pending
        })
        .await;
    }

    /// Begins to read after `seen`.
    ///
    /// # Errors
    /// When that is not kept any more, or was never written.
    pub fn read_after(&self, seen: EventId) -> Result<Reader, Refused> {
        let key = self.change(|tape| tape.join(seen, Instant::now()))?;
        Ok(Reader { log: self.clone(), key })
    }

    /// Begins to read at the start, if that is still kept.
    pub fn read(&self) -> Result<Reader, Refused> {
        self.read_after(EventId::default())
    }

    /// Counts readers as gone that have taken nothing for [`STALL_LIMIT`].
    pub fn sweep(&self) {
        self.change(|tape| tape.sweep(Instant::now()));
    }

    /// Drops what has been read, now and as long as there is no room and nothing is written.
    pub fn keep_nothing(&self) {
        self.change(|tape| tape.keep(0));
    }

    /// The number of readers that take something, and the bytes that are kept.
    pub fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.tape.present(), state.tape.kept())
    }

    /// Whether anybody has ever read it, or begun to.
    pub fn was_read(&self) -> bool {
        self.lock().tape.was_read()
    }

    /// Whether everything is kept from the first event on.
    pub fn is_whole(&self) -> bool {
        self.lock().tape.is_whole()
    }

    /// Whether the event that ends the stream was written.
    pub fn has_ended(&self) -> bool {
        self.lock().tape.has_ended()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.moved(state.tape.kept(), 0);
    }
}

/// Someone who reads a log. Dropping it is leaving.
pub struct Reader {
    log: Log,
    key: Key,
}

/// The part of the log that a reader would read next is not kept any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost;

impl Reader {
    /// The next event and its number; `None` after the last one. Asking says that those before are passed on.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(u64, TurnEvent), Lost>>> {
        let read = self.log.change(|tape| tape.read(self.key, Instant::now(), context.waker()));
        match read {
            Read::Event(number, event) => Poll::Ready(Some(Ok((number, event)))),
            Read::Wait => Poll::Pending,
            Read::Lost => Poll::Ready(Some(Err(Lost))),
            Read::End => Poll::Ready(None),
        }
    }

    /// The next events as [`Self::poll_next`] gives them, all that are there up to a weight of `most`, which the last one
    /// may exceed; at least one. So they are asked for once, and those behind them wait that long.
    pub fn poll_some(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
        into: &mut VecDeque<(u64, TurnEvent)>,
    ) -> Poll<Option<Result<(), Lost>>> {
        let mut taken = 0;
        let read = self.log.change(|tape| {
            let now = Instant::now();
            while taken < most {
                match tape.read(self.key, now, context.waker()) {
                    Read::Event(number, event) => {
                        taken += weight(&event);
                        into.push_back((number, event));
                    }
                    other => return other,
                }
            }
            Read::Wait
        });
        match read {
            // Whatever comes after them is told again.
            _ if taken > 0 => Poll::Ready(Some(Ok(()))),
            Read::Event(..) | Read::Wait => Poll::Pending,
            Read::Lost => Poll::Ready(Some(Err(Lost))),
            Read::End => Poll::Ready(None),
        }
    }

    /// As [`Self::poll_next`].
    pub async fn next(&mut self) -> Option<Result<(u64, TurnEvent), Lost>> {
        poll_fn(|context| self.poll_next(context)).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.log.change(|tape| tape.leave(self.key));
    }
}
