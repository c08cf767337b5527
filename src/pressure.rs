//! Whether the server keeps up with the turns that begin.
//!
//! At more than it can do, each turn would wait for all that came before it, and none would be answered in time. So two
//! things are watched. How many turns are beginning, from their whole request until their money is safe: where it is more
//! than will be through in time, at the pace of the last moments, the next one is refused, and comes in as soon as there
//! is room again. And how late the threads of HTTP come to what is ready for them, which no count tells: where that was
//! too long for a while, not just in a burst, part of the new turns is refused, more of them while it stays so and fewer
//! when it does not. (The latter after PIE, RFC 8033, which drops packets by the delay of a queue. For the former it would
//! be too slow: what comes in until a delay is seen has to be worked off.)

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::store::writer::BATCH;

/// How often it is decided how many may begin, and what part is refused.
const TICK: Duration = Duration::from_millis(100);
/// The ticks whose pace counts.
const LATELY: usize = 5;
/// So many may begin at any pace: the writer takes them at once.
const FEW: usize = BATCH;
/// For how long the threads may be late without anything being refused: a burst is worked off in that.
const BURST: Duration = Duration::from_millis(300);
/// For how long after a refusal for want of room the pace alone is reason for another one.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a thread looks how late it is.
const BEAT: Duration = Duration::from_millis(50);
/// What parts are counted in.
const WHOLE: u32 = 1_000;
/// The most that is refused for late threads: something has to come in to tell that it is over.
const MOST: u32 = 950;
/// How much more is refused with each tick of threads that are as late again as they may be.
const STEP: u32 = 100;
/// The most of it.
const STEP_MOST: u32 = 250;
/// How much less with each tick of threads that are in time: within a second all come in again.
const BACK: u32 = 100;

/// The pressure on a server. Cheap to clone.
#[derive(Clone)]
pub struct Pressure(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// How long a turn may take to begin.
    most: Duration,
}

/// The plain part: time is an argument.
#[derive(Debug, Default)]
struct State {
    /// The turns that begin, by their number, and since when.
    starting: BTreeMap<u64, Instant>,
    numbers: u64,
    /// How many are through.
    through: u64,
    /// How many were at each of the last ticks, the latest one last.
    paces: VecDeque<(Instant, u64)>,
    /// How many will be through in time if they begin now.
    room: usize,
    /// When one was refused because there was none.
    full: Option<Instant>,
    /// How late a thread was since the last tick, at most.
    late: Duration,
    /// Since when one was too late at each tick.
    late_since: Option<Instant>,
    /// What part of the new turns is refused for that, of [`WHOLE`].
    part: u32,
    /// What was refused too little so far.
    due: u32,
}

impl State {
    /// Decides what is refused until the next tick.
    fn tick(&mut self, most: Duration, now: Instant) {
        self.paces.push_back((now, self.through));
        if self.paces.len() > LATELY + 1 {
            self.paces.pop_front();
        }
        self.room = self.paces.front().map_or(0, |(then, before)| {
            let span = now.duration_since(*then).as_micros().max(1);
            let in_time = u128::from(self.through - before) * most.as_micros() * 3 / 4;
            usize::try_from(in_time / span).unwrap_or(usize::MAX)
        });
        let (late, most) = (std::mem::take(&mut self.late), (most / 2).max(BEAT));
        if late <= most {
            self.late_since = None;
        }
        if late <= most / 2 {
            self.part = self.part.saturating_sub(BACK);
        } else if late > most {
            let since = *self.late_since.get_or_insert(now);
            if self.part > 0 || now.duration_since(since) >= BURST {
                let beyond = (late - most).as_micros().saturating_mul(u128::from(STEP));
                let more = u32::try_from(beyond / most.as_micros().max(1)).unwrap_or(STEP_MOST);
                self.part = (self.part + more.clamp(1, STEP_MOST)).min(MOST);
            }
        }
    }

    /// Whether this new turn is too much.
    fn refuses(&mut self, most: Duration, now: Instant) -> bool {
        self.is_full(most, now) || self.is_unlucky()
    }

    /// Whether more are beginning than will be through in time. As long as even the oldest one is not late, the pace may
    /// tell how little there was to do and not how much can be done; where it was too much just now, it does not.
    fn is_full(&mut self, most: Duration, now: Instant) -> bool {
        if self.starting.len() < self.room.max(FEW) {
            return false;
        }
        let again = self.full.is_some_and(|then| now.duration_since(then) < AGAIN);
        let full =
            again || self.starting.values().next().is_some_and(|oldest| now.duration_since(*oldest) > most);
        if full {
            self.full = Some(now);
        }
        full
    }

    /// Whether it belongs to the part that is refused.
    fn is_unlucky(&mut self) -> bool {
        self.due += self.part;
        let refused = self.due >= WHOLE;
        if refused {
            self.due -= WHOLE;
        }
        refused
    }

    /// A turn is through.
    fn end(&mut self, number: u64) {
        if self.starting.remove(&number).is_some() {
            self.through += 1;
        }
    }
}

impl Pressure {
    /// None yet. A turn may take up to `most` to begin.
    pub fn new(most: Duration) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), most }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a new turn is too much now.
    pub fn refuses(&self) -> bool {
        self.lock().refuses(self.0.most, Instant::now())
    }

    /// A turn's request is here.
    pub fn start(&self) -> Starting {
        let mut state = self.lock();
        let number = state.numbers;
        state.numbers += 1;
        state.starting.insert(number, Instant::now());
        Starting { pressure: self.clone(), number: Some(number) }
    }

    fn felt(&self, late: Duration) {
        let mut state = self.lock();
        state.late = state.late.max(late);
    }

    /// Looks how late this thread comes to what is ready, as long as it is polled.
    pub async fn beat(self) {
        loop {
            let due = Instant::now() + BEAT;
            sleep(BEAT).await;
            self.felt(due.elapsed());
        }
    }

    /// Decides now and again what is refused, as long as it is polled.
    pub async fn watch(self) {
        loop {
            sleep(TICK).await;
            self.lock().tick(self.0.most, Instant::now());
        }
    }
}

/// A turn that begins, until this is dropped.
pub struct Starting {
    pressure: Pressure,
    /// `None` if it waits for something else than the server.
    number: Option<u64>,
}

impl Starting {
    /// It waits for a provider, or for another turn of its session: how long that takes tells nothing.
    pub fn waits(&mut self) {
        if let Some(number) = self.number.take() {
            self.pressure.lock().starting.remove(&number);
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            self.pressure.lock().end(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_millis(250);
    /// Turns that are through in a millisecond.
    const PACE: u64 = 4;

    /// So many ticks with threads so late; of a thousand turns, how many are refused then.
    fn after(state: &mut State, now: &mut Instant, late: u64, ticks: u32) -> usize {
        for _ in 0..ticks {
            state.late = Duration::from_millis(late);
            *now += TICK;
            state.tick(MOST, *now);
        }
        (0..1_000).filter(|_| state.is_unlucky()).count()
    }

    /// A server that does [`PACE`] turns a millisecond, in their order.
    #[derive(Default)]
    struct Server {
        state: State,
        passed: u64,
        /// The longest that a turn took to begin, in the last run.
        longest: Duration,
    }

    impl Server {
        /// So many milliseconds of so many new turns each, at a pace; how many of them are refused.
        fn run(&mut self, began: Instant, ms: u64, new: u64, pace: u64) -> u64 {
            let mut refused = 0;
            self.longest = Duration::ZERO;
            for _ in 0..ms {
                self.passed += 1;
                let now = began + Duration::from_millis(self.passed);
                for _ in 0..new {
                    if self.state.refuses(MOST, now) {
                        refused += 1;
                    } else {
                        self.state.starting.insert(self.state.numbers, now);
                        self.state.numbers += 1;
                    }
                }
                for _ in 0..pace {
                    let Some((number, since)) = self.state.starting.first_key_value() else { break };
                    let (number, since) = (*number, *since);
                    self.longest = self.longest.max(now - since);
                    self.state.end(number);
                }
                if self.passed.is_multiple_of(100) {
                    self.state.tick(MOST, now);
                }
            }
            refused
        }
    }

    #[test]
    fn at_twice_the_pace_half_is_refused_and_the_others_begin_in_time() {
        let (mut server, began) = (Server::default(), Instant::now());
        assert_eq!(server.run(began, 3_000, PACE / 2, PACE), 0, "half of it is no pressure");
        server.run(began, 1_500, 2 * PACE, PACE);
        assert!(server.longest <= MOST * 5 / 2, "it took {:?} while the pace was found out", server.longest);
        let refused = server.run(began, 5_000, 2 * PACE, PACE);
        assert!(refused.abs_diff(5_000 * PACE) < 50 * PACE, "{refused} are refused");
        assert!(server.longest <= MOST, "it took {:?}", server.longest);
        server.run(began, 250, PACE / 2, PACE);
        assert_eq!(server.run(began, 3_000, PACE / 2, PACE), 0, "all come in as soon as there is room");
    }

    #[test]
    fn a_burst_that_is_worked_off_is_no_pressure() {
        let (mut server, began) = (Server::default(), Instant::now());
        assert_eq!(server.run(began, 1, 900, PACE), 0);
        assert_eq!(server.run(began, 250, 0, PACE), 0);
        assert_eq!(server.run(began, 1, 900, PACE), 0);
    }

    #[test]
    fn a_slower_pace_takes_fewer_and_one_batch_at_any_pace() {
        let (mut server, began) = (Server::default(), Instant::now());
        server.run(began, 3_000, 2 * PACE, PACE);
        // What is there when the pace falls takes its time.
        server.run(began, 1_000, 2 * PACE, PACE / 2);
        server.run(began, 3_000, 2 * PACE, PACE / 2);
        assert!(server.longest <= MOST * 11 / 10, "{:?}", server.longest);
        server.run(began, 3_000, 2 * PACE, 0);
        assert_eq!(server.state.room, 0);
        assert!(server.run(began, 1_000, 1, 1) > 0);
        assert!(server.state.starting.len() >= FEW - 1, "{}", server.state.starting.len());
    }

    #[test]
    fn who_waits_for_something_else_is_not_counted() {
        let pressure = Pressure::new(MOST);
        let mut all: Vec<_> = (0..2 * FEW).map(|_| pressure.start()).collect();
        let later = Instant::now() + 2 * MOST;
        assert!(pressure.lock().refuses(MOST, later));
        all.iter_mut().for_each(Starting::waits);
        assert!(!pressure.lock().refuses(MOST, later));
        drop(all);
        assert_eq!(pressure.lock().through, 0, "what waits tells nothing of the pace");
    }

    #[test]
    fn threads_that_are_late_in_a_burst_are_no_pressure() {
        let (mut state, mut now) = (State::default(), Instant::now());
        assert_eq!(after(&mut state, &mut now, 2_000, 3), 0);
        assert_eq!(after(&mut state, &mut now, 100, 1), 0);
        assert_eq!(after(&mut state, &mut now, 2_000, 3), 0, "a tick in time ends it");
    }

    #[test]
    fn more_is_refused_while_threads_are_late_and_never_all() {
        let (mut state, mut now) = (State::default(), Instant::now());
        assert_eq!(after(&mut state, &mut now, 250, 4), 100);
        assert_eq!(after(&mut state, &mut now, 375, 1), 300, "twice as much too late, twice as much more");
        assert_eq!(after(&mut state, &mut now, 100, 9), 300, "nearly too late changes nothing");
        assert_eq!(after(&mut state, &mut now, 250, 1), 400, "late again, it is no burst any more");
        assert_eq!(after(&mut state, &mut now, 5_000, 50), 950);
    }

    #[test]
    fn within_a_second_after_it_all_come_in_again() {
        let (mut state, mut now) = (State::default(), Instant::now());
        after(&mut state, &mut now, 5_000, 50);
        assert_eq!(after(&mut state, &mut now, 10, 5), 450);
        assert_eq!(after(&mut state, &mut now, 10, 5), 0);
    }
}
