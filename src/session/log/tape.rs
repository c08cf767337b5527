//! What a log keeps and who has read how far. Plain: time is an argument, and nobody waits here.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::session::log::event_id::EventId;
use crate::session::{Ended, TurnEvent};

/// How far a log may be ahead of its fastest reader, in bytes.
pub const AHEAD: usize = 256 * 1024;
/// The most that a stream keeps for readers that come back or are slow, in bytes.
pub const KEPT: usize = 1024 * 1024;
/// A reader that has something to read and takes nothing for this long counts as gone.
pub const STALL_LIMIT: Duration = Duration::from_secs(30);
/// What an event weighs beside its bytes, so that the number of small ones is bounded, too.
pub const ENTRY: usize = 64;

/// Readers of one stream at the same time.
pub const READERS: usize = 256;

/// Names a reader of one tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

/// The events of a turn, as far as they are kept, and its readers.
pub struct Tape {
    entries: VecDeque<Entry>,
    /// How many there were in all: the number of the newest one.
    last: u64,
    /// Their weight in all.
    written: u64,
    /// The weight of those that are kept.
    kept: usize,
    /// How much is kept of what has been read.
    limit: usize,
    ended: bool,
    readers: Vec<Cursor>,
    keys: u64,
}

struct Entry {
    event: TurnEvent,
    /// The weight of all events up to and with this one.
    end: u64,
}

struct Cursor {
    key: Key,
    /// The number of the event that it gets next.
    next: u64,
    /// The weight of what it has passed on: asking for an event says that those before it are.
    passed: u64,
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
            entries: VecDeque::new(),
            last: 0,
            written: 0,
            kept: 0,
            limit: KEPT,
            ended: false,
            readers: Vec::new(),
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
        self.kept += weight;
        self.last += 1;
        self.entries.push_back(Entry { event, end: self.written });
        for reader in &mut self.readers {
            reader.busy_since.get_or_insert_with(&now);
            reader.waker.take().into_iter().for_each(&mut wake);
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
        self.readers.push(Cursor {
            key,
            next,
            passed: self.before(next),
            busy_since: (next <= self.last).then_some(now),
            state: Presence::Here,
            waker: None,
        });
        self.trim(Waker::wake);
        Ok(key)
    }

    /// The next event of a reader; asking says that what it got before is passed on.
    pub fn read(&mut self, key: Key, now: Instant, waker: &Waker) -> Read {
        let (first, last, ended) = (self.first(), self.last, self.ended);
        let Some(at) = self.readers.iter().position(|reader| reader.key == key) else { return Read::Lost };
        let (next, state) = (self.readers[at].next, self.readers[at].state);
        if state == Presence::Lost {
            return Read::Lost;
        }
        let passed = self.before(next);
        let entry = (next <= last).then(|| self.entries[index(next - first)].event.clone());
        let reader = &mut self.readers[at];
        reader.passed = passed;
        reader.state = Presence::Here;
        let read = match entry {
            Some(event) => {
                reader.next += 1;
                reader.busy_since = Some(now);
                Read::Event(next, event)
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
        self.trim(Waker::wake);
        read
    }

    /// A reader goes.
    pub fn leave(&mut self, key: Key) {
        self.readers.retain(|reader| reader.key != key);
        self.trim(Waker::wake);
    }

    /// Counts readers as gone that have taken nothing for too long.
    pub fn sweep(&mut self, now: Instant) {
        for reader in self.readers.iter_mut().filter(|reader| reader.state == Presence::Here) {
            if reader.busy_since.is_some_and(|since| now.saturating_duration_since(since) >= STALL_LIMIT) {
                reader.state = Presence::Stalled;
            }
        }
        self.trim(Waker::wake);
    }

    /// Keeps no more than `limit` of what has been read.
    pub fn keep(&mut self, limit: usize) {
        self.limit = limit;
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

    /// The weight of what is kept.
    pub fn kept(&self) -> usize {
        self.kept
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
    fn first(&self) -> u64 {
        self.last + 1 - self.entries.len() as u64
    }

    /// The weight of everything before event `number`, which is kept or the next one.
    fn before(&self, number: u64) -> u64 {
        match number.checked_sub(self.first() + 1) {
            Some(at) => self.entries[index(at)].end,
            None => self.written - self.kept as u64,
        }
    }

    /// The weight of what the fastest reader has passed on; everything, where nobody reads.
    fn passed_on(&self) -> u64 {
        let here = self.readers.iter().filter(|reader| reader.state == Presence::Here);
        here.map(|reader| reader.passed).max().unwrap_or(self.written)
    }

    /// Drops what is too much and has been read by the fastest reader. Who would have read it is lost. Where there is
    /// little room, readers that are slower still get what they need in the next moment.
    fn trim(&mut self, mut wake: impl FnMut(Waker)) {
        if self.kept <= self.limit {
            return;
        }
        let read = self.passed_on();
        while self.kept > self.limit {
            let first = self.first();
            let mut here = self.readers.iter().filter(|reader| reader.state == Presence::Here);
            if self.kept <= AHEAD && here.any(|reader| reader.next <= first) {
                return;
            }
            let before = self.written - self.kept as u64;
            let Some(entry) = self.entries.pop_front_if(|entry| entry.end <= read) else { return };
            self.kept -= index(entry.end - before);
            for reader in self.readers.iter_mut().filter(|reader| reader.next == first) {
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
