//! Whether the server keeps up with the turns that begin.
//!
//! At more than it can do, each turn would wait for all that came before it, and none would be answered in time. So the
//! delay is watched: how late the threads of HTTP come to what is ready for them, and how long turns take from their
//! whole request until their money is safe. Where it was too long for a while, not just in a burst, part of the new
//! turns is refused, more of them while it stays too long and fewer when it does not. (After PIE, RFC 8033, which drops
//! packets by the delay of a queue.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// How often it is decided what part is refused.
const TICK: Duration = Duration::from_millis(100);
/// For how long the delay may be too long without anything being refused: a burst is worked off in that.
const BURST: Duration = Duration::from_millis(300);
/// How often a thread looks how late it is.
const BEAT: Duration = Duration::from_millis(50);
/// What parts are counted in.
const WHOLE: u32 = 1_000;
/// The most that is refused: something has to come in to tell that it is over.
const MOST: u32 = 950;
/// How much more is refused with each tick at twice the delay, or more than that.
const STEP: u32 = 250;

/// The pressure on a server. Cheap to clone.
#[derive(Clone)]
pub struct Pressure(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// The delay that is no pressure.
    most: Duration,
}

/// The plain part: time is an argument.
#[derive(Debug, Default)]
struct State {
    /// The turns that begin, by their number, and since when.
    starting: BTreeMap<u64, Instant>,
    numbers: u64,
    /// The longest delay since the last tick.
    delay: Duration,
    /// Since when it has been too long at each tick.
    slow_since: Option<Instant>,
    /// What part of the new turns is refused, of [`WHOLE`].
    part: u32,
    /// What was refused too little so far.
    due: u32,
}

impl State {
    /// Decides what part is refused until the next tick.
    fn tick(&mut self, most: Duration, now: Instant) {
        // Who is not through yet tells more of now than who is.
        let oldest = self.starting.values().next().map_or(Duration::ZERO, |since| now.duration_since(*since));
        let delay = std::mem::take(&mut self.delay).max(oldest);
        if delay <= most {
            self.slow_since = None;
        }
        if delay <= most / 2 {
            // Within a second all come in again.
            self.part = self.part * 6 / 10;
        } else if delay > most && now.duration_since(*self.slow_since.get_or_insert(now)) >= BURST {
            let beyond = (delay - most).as_micros().saturating_mul(u128::from(STEP));
            let more = beyond / most.as_micros().max(1);
            self.part = (self.part + u32::try_from(more).unwrap_or(STEP).clamp(1, STEP)).min(MOST);
        }
    }

    /// Whether this new turn is one of those.
    fn refuses(&mut self) -> bool {
        self.due += self.part;
        let refuses = self.due >= WHOLE;
        if refuses {
            self.due -= WHOLE;
        }
        refuses
    }
}

impl Pressure {
    /// None yet. A delay of up to `most` is none.
    pub fn new(most: Duration) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), most }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a new turn is too much now.
    pub fn refuses(&self) -> bool {
        self.lock().refuses()
    }

    /// A turn's request is here.
    pub fn start(&self) -> Starting {
        let mut state = self.lock();
        let number = state.numbers;
        state.numbers += 1;
        state.starting.insert(number, Instant::now());
        Starting { pressure: self.clone(), number: Some(number) }
    }

    fn felt(&self, delay: Duration) {
        let mut state = self.lock();
        state.delay = state.delay.max(delay);
    }

    /// Looks how late this thread comes to what is ready, as long as it is polled.
    pub async fn beat(self) {
        loop {
            let due = Instant::now() + BEAT;
            sleep(BEAT).await;
            self.felt(due.elapsed());
        }
    }

    /// Decides now and again what part of the new turns is refused, as long as it is polled.
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
        let Some(number) = self.number.take() else { return };
        let mut state = self.pressure.lock();
        if let Some(since) = state.starting.remove(&number) {
            state.delay = state.delay.max(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(250);

    /// So many ticks with this delay; of a thousand turns, how many are refused then.
    fn after(state: &mut State, now: &mut Instant, delay: u64, ticks: u32) -> usize {
        for _ in 0..ticks {
            state.delay = Duration::from_millis(delay);
            *now += TICK;
            state.tick(DELAY, *now);
        }
        (0..1_000).filter(|_| state.refuses()).count()
    }

    #[test]
    fn a_burst_that_is_worked_off_is_no_pressure() {
        let (mut state, mut now) = (State::default(), Instant::now());
        assert_eq!(after(&mut state, &mut now, 2_000, 3), 0);
        assert_eq!(after(&mut state, &mut now, 200, 1), 0);
        assert_eq!(after(&mut state, &mut now, 2_000, 3), 0, "a tick in time ends it");
    }

    #[test]
    fn more_is_refused_while_the_delay_is_too_long_and_never_all() {
        let (mut state, mut now) = (State::default(), Instant::now());
        assert_eq!(after(&mut state, &mut now, 500, 4), 250);
        assert_eq!(after(&mut state, &mut now, 375, 1), 375, "half as much too long, half as much more");
        assert_eq!(after(&mut state, &mut now, 200, 9), 375, "nearly too long changes nothing");
        assert_eq!(after(&mut state, &mut now, 5_000, 50), 950);
    }

    #[test]
    fn who_is_not_through_yet_is_a_delay() {
        let (mut state, mut now) = (State::default(), Instant::now());
        state.starting.insert(0, now);
        assert_eq!(after(&mut state, &mut now, 0, 6), 250, "after 600 ms it has been too long for 300");
        state.starting.clear();
        assert!(after(&mut state, &mut now, 0, 5) < 20);
    }

    #[test]
    fn within_a_second_after_it_all_come_in_again() {
        let (mut state, mut now) = (State::default(), Instant::now());
        after(&mut state, &mut now, 5_000, 50);
        assert!(after(&mut state, &mut now, 10, 5) < 80);
        assert!(after(&mut state, &mut now, 10, 5) < 10);
    }
}
