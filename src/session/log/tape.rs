//! What a log keeps and who has read how far. Plain: time is an argument, and nobody waits here.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::session::log::event_id::EventId;
use crate::session::log::packed::{Packed, Place};
use crate::session::{Ended, TurnEvent};

/// How far a log may be ahead of its fastest reader, in bytes.
pub const AHEAD: usize = 256 * 1024;
/// The most that a stream keeps for readers that come back or are slow, in bytes.
pub const KEPT: usize = 1024 * 1024;
/// A reader that has something to read and takes nothing for this long counts as gone.
pub const STALL_LIMIT: Duration = Duration::from_secs(30);
/// What an event weighs beside its bytes as long as it is not packed, so that the number of small ones is bounded, too.
pub const ENTRY: usize = 64;
/// So many events that have been read are packed at once.
pub const BATCH: usize = 8;
/// Events for which there is room without asking for memory, when those that waited are packed.
const SPARE: usize = 32;

/// Readers of one stream at the same time.
pub const READERS: usize = 256;

/// Names a reader of one tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

/// The events of a turn, as far as they are kept, and its readers.
pub struct Tape {
    /// What all readers have that are here.
    packed: Packed,
    /// What came after that.
    fresh: VecDeque<TurnEvent>,
    /// The weight of that.
    fresh_weight: usize,
    /// How many there were in all: the number of the newest one.
    last: u64,
    /// Their weight in all.
    written: u64,
    /// How much is kept of what has been read.
    limit: usize,
    ended: bool,
    readers: Vec<Cursor>,
    keys: u64,
}

struct Cursor {
    key: Key,
    /// The number of the event that it gets next.
    next: u64,
    /// The weight of all events before that.
    reached: u64,
    /// The weight of what it has passed on: asking for an event says that those before it are.
    passed: u64,
    /// Where it stands in what is packed.
    place: Place,
    /// Since when it has had something to pass on.
    busy_since: Option<Instant>,
    state: Presence,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    /// It takes nothing; it may come back while what it missed is kept.
    Stalled,
    /// What it would read next is not kept any more.
    Lost,
}

/// What a reader gets.
#[derive(Debug)]
pub enum Read {
    /// The next event and its number.
    Event(u64, TurnEvent),
    /// Nothing yet; the waker will be told.
    Wait,
    /// What it would read next is not kept any more.
    Lost,
    /// There is no more.
    End,
}

/// Why a reader cannot begin where it wants to.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// What comes next there is not kept any more.
    Gone,
    /// The stream has not come so far.
    Beyond,
    /// There are as many readers as there may be.
    Full,
}

/// How much of the bound an event takes.
pub fn weight(event: &TurnEvent) -> usize {
    let of_end = |ended: &Ended| {
        let tail: usize = ended.tail.iter().map(|chunk| chunk.len() + ENTRY).sum();
        let usage = ended.usage_chunk.as_ref().map_or(0, |chunk| chunk.len());
        tail + usage + ended.content.as_ref().map_or(0, String::len)
    };
    ENTRY
        + match event {
            TurnEvent::Delta(chunk) => chunk.len(),
            TurnEvent::Ended(ended) => of_end(ended),
            TurnEvent::Failed(_) => ENTRY,
        }
}

impl Tape {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            packed: Packed::default(),
            fresh: VecDeque::new(),
            fresh_weight: 0,
            last: 0,
            written: 0,
            limit: KEPT,
            ended: false,
            // Nearly always there is one.
            readers: Vec::with_capacity(1),
            keys: 0,
        }
    }

    /// Adds an event; nothing may follow an end. Wakes who waits for it through `wake`. The time is asked for only
    /// where somebody had nothing to do.
    pub fn push(&mut self, event: TurnEvent, now: impl Fn() -> Instant, mut wake: impl FnMut(Waker)) {
        debug_assert!(!self.ended, "an event after the end");
        let weight = weight(&event);
        self.ended = !matches!(event, TurnEvent::Delta(_));
        self.written += weight as u64;
        self.fresh_weight += weight;
        self.last += 1;
        self.fresh.push_back(event);
        for reader in &mut self.readers {
            reader.busy_since.get_or_insert_with(&now);
            reader.waker.take().into_iter().for_each(&mut wake);
        }
        // Where somebody reads, he has not read this one.
        if self.ended || self.readers.is_empty() {
            self.pack();
        }
        self.trim(wake);
    }

    /// Lets a reader begin after `seen`.
    ///
    /// # Errors
    /// When that is not kept any more, or was never written.
    pub fn join(&mut self, seen: EventId, now: Instant) -> Result<Key, Refused> {
        let partly = seen.parts > 0;
        if seen.entries > self.last || (partly && seen.entries == self.last) {
            return Err(Refused::Beyond);
        }
        if seen.entries + 1 < self.first() {
            return Err(Refused::Gone);
        }
        if self.readers.len() >= READERS {
            return Err(Refused::Full);
        }
        let key = Key(self.keys);
        self.keys += 1;
        let next = seen.entries + 1;
        let reached = self.before(next);
        self.readers.push(Cursor {
            key,
            next,
            reached,
            passed: reached,
            place: Place::default(),
            busy_since: (next <= self.last).then_some(now),
            state: Presence::Here,
            waker: None,
        });
        self.pack();
        self.trim(Waker::wake);
        Ok(key)
    }

    /// The next event of a reader; asking says that what it got before is passed on.
    pub fn read(&mut self, key: Key, now: Instant, waker: &Waker) -> Read {
        let (unread, ended) = (self.last + 1 - self.fresh.len() as u64, self.ended);
        let Some(reader) = self.readers.iter_mut().find(|reader| reader.key == key) else {
            return Read::Lost;
        };
        if reader.state == Presence::Lost {
            return Read::Lost;
        }
        let event = match reader.next.checked_sub(unread) {
            Some(at) => self.fresh.get(index(at)).cloned(),
            None => match self.packed.get(reader.next, &mut reader.place) {
                Some(chunk) => Some(TurnEvent::Delta(chunk)),
                None => return Read::Lost,
            },
        };
        reader.passed = reader.reached;
        reader.state = Presence::Here;
        let packable = ended || reader.next >= unread + BATCH as u64;
        let read = match event {
            Some(event) => {
                let number = reader.next;
                reader.next += 1;
                reader.reached += weight(&event) as u64;
                reader.busy_since = Some(now);
                Read::Event(number, event)
            }
            None if ended => {
                reader.busy_since = None;
                Read::End
            }
            None => {
                reader.busy_since = None;
                if !reader.waker.as_ref().is_some_and(|own| own.will_wake(waker)) {
                    reader.waker = Some(waker.clone());
                }
                Read::Wait
            }
        };
        if packable {
            self.pack();
        }
        self.trim(Waker::wake);
        read
    }

    /// A reader goes.
    pub fn leave(&mut self, key: Key) {
        self.readers.retain(|reader| reader.key != key);
        self.pack();
        self.trim(Waker::wake);
    }

    /// Counts readers as gone that have taken nothing for too long.
    pub fn sweep(&mut self, now: Instant) {
        for reader in self.readers.iter_mut().filter(|reader| reader.state == Presence::Here) {
            if reader.busy_since.is_some_and(|since| now.saturating_duration_since(since) >= STALL_LIMIT) {
                reader.state = Presence::Stalled;
            }
        }
        self.pack();
        self.trim(Waker::wake);
    }

    /// Keeps no more than `limit` of what has been read.
    pub fn keep(&mut self, limit: usize) {
        self.limit = limit;
        self.pack();
        self.trim(Waker::wake);
    }

    /// Whether an event of this weight may be written now. One that is too large for the bound waits until the
    /// fastest reader has everything else.
    pub fn has_room(&self, weight: usize) -> bool {
        let ahead = self.written - self.passed_on();
        ahead == 0 || ahead + weight as u64 <= AHEAD as u64
    }

    /// How many readers there are that take something.
    pub fn present(&self) -> usize {
        self.readers.iter().filter(|reader| reader.state == Presence::Here).count()
    }

    /// The weight of what is kept: of what is packed what it takes.
    pub fn kept(&self) -> usize {
        self.packed.taken() + self.fresh_weight
    }

    /// Whether the event that ends the stream was written.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether anybody has ever read it, or begun to.
    pub fn was_read(&self) -> bool {
        self.keys > 0
    }

    /// Whether everything is kept from the first event on.
    pub fn is_whole(&self) -> bool {
        self.first() == 1
    }

    /// The number of the oldest event that is kept, or of the next one.
    pub fn first(&self) -> u64 {
        self.packed.first().unwrap_or(self.last + 1 - self.fresh.len() as u64)
    }

    /// The weight of everything before event `number`, which is kept or the next one.
    fn before(&self, number: u64) -> u64 {
        let unread = self.last + 1 - self.fresh.len() as u64;
        match unread.checked_sub(number) {
            Some(1..) => self.packed.before(number, |length| length + ENTRY),
            Some(0) | None => {
                let since = self.fresh.range(index(number - unread)..).map(weight).sum::<usize>();
                self.written - since as u64
            }
        }
    }

    /// The weight of what the fastest reader has passed on; everything, where nobody reads.
    fn passed_on(&self) -> u64 {
        let here = self.readers.iter().filter(|reader| reader.state == Presence::Here);
        here.map(|reader| reader.passed).max().unwrap_or(self.written)
    }

    /// Packs what all readers have that are here, if it is enough to be worth it.
    fn pack(&mut self) {
        // Of what has ended, nothing is worth waiting for.
        let least = if self.ended { 1 } else { BATCH };
        let mut number = self.last + 1 - self.fresh.len() as u64;
        let here = self.readers.iter().filter(|reader| reader.state == Presence::Here);
        let next = here.map(|reader| reader.next).min().unwrap_or(self.last + 1);
        if next < number + least as u64 {
            return;
        }
        let mut before = self.written - self.fresh_weight as u64;
        while number < next
            && let Some(event @ TurnEvent::Delta(chunk)) = self.fresh.front()
        {
            let weight = weight(event);
            self.packed.push(number, before, before + weight as u64, chunk);
            self.fresh_weight -= weight;
            self.fresh.pop_front();
            (number, before) = (number + 1, before + weight as u64);
        }
        if self.ended {
            self.packed.close();
            self.fresh.shrink_to_fit();
        } else if self.fresh.capacity() > SPARE {
            self.fresh.shrink_to(SPARE);
        }
    }

    /// The number and the weight up to which everything goes that goes with the oldest event.
    pub fn oldest(&self) -> Option<(u64, u64)> {
        self.packed.oldest().or_else(|| {
            let before = self.written - self.fresh_weight as u64;
            self.fresh.front().map(|event| (self.first(), before + weight(event) as u64))
        })
    }

    /// Drops what is too much and has been read by the fastest reader. Who would have read it is lost. Where there is
    /// little room, readers that are slower still get what they need in the next moment.
    fn trim(&mut self, mut wake: impl FnMut(Waker)) {
        if self.kept() <= self.limit {
            return;
        }
        let read = self.passed_on();
        while self.kept() > self.limit {
            let Some((last, end)) = self.oldest().filter(|(_, end)| *end <= read) else { return };
            let mut here = self.readers.iter().filter(|reader| reader.state == Presence::Here);
            if self.kept() <= AHEAD && here.any(|reader| reader.next <= last) {
                return;
            }
            if !self.packed.drop_oldest() {
                self.fresh.pop_front();
                self.fresh_weight = index(self.written - end);
            }
            for reader in self.readers.iter_mut().filter(|reader| reader.next <= last) {
                reader.state = Presence::Lost;
                reader.waker.take().into_iter().for_each(&mut wake);
            }
        }
    }
}

/// A difference of numbers or weights that are in memory.
fn index(difference: u64) -> usize {
    usize::try_from(difference).unwrap_or(usize::MAX)
}
