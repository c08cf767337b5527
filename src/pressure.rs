//! Whether the server keeps up with the turns that begin.
//!
//! At more than it can do, each turn would wait for all that came before it, and none would be answered in time. So
//! what is measured is how long turns take from their whole request until their money is safe. Where that was too long
//! for a while, not just in a burst, new ones are refused until few are left, and for as long as more keep coming.
//! (Controlled delay, as of queues in RFC 8289.)

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long turns may begin slowly without anything being refused: a burst is worked off in that.
const BURST: Duration = Duration::from_millis(500);
/// How long after the last refusal, or the last slow beginning, others are still refused.
const AFTER: Duration = Duration::from_secs(1);
/// Turns that may be beginning all the same.
const FEW: usize = 64;

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
    starting: usize,
    /// Since when turns have begun slowly without one that did not.
    slow_since: Option<Instant>,
    /// Until when turns are refused.
    refusing_until: Option<Instant>,
}

impl State {
    /// Whether one more turn is too much now.
    fn refuses(&mut self, now: Instant) -> bool {
        let refuses = self.starting >= FEW && self.refusing_until.is_some_and(|until| now < until);
        if refuses {
            self.refusing_until = Some(now + AFTER);
        }
        refuses
    }

    /// A turn has begun, after so long.
    fn begun(&mut self, took: Duration, most: Duration, now: Instant) {
        if took <= most {
            self.slow_since = None;
            return;
        }
        let since = *self.slow_since.get_or_insert(now);
        if now.duration_since(since) >= BURST {
            self.refusing_until = Some(now + AFTER);
        }
    }
}

impl Pressure {
    /// None yet. Turns may take `most` to begin.
    pub fn new(most: Duration) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), most }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more turn is too much now.
    pub fn refuses(&self) -> bool {
        self.lock().refuses(Instant::now())
    }

    /// A turn's request is here.
    pub fn start(&self) -> Starting {
        self.lock().starting += 1;
        Starting { pressure: self.clone(), since: Some(Instant::now()) }
    }

    /// How many turns are beginning.
    pub fn starting(&self) -> usize {
        self.lock().starting
    }
}

/// A turn that begins, until this is dropped.
pub struct Starting {
    pressure: Pressure,
    /// Since when; `None` if it waits for something else than the server.
    since: Option<Instant>,
}

impl Starting {
    /// It waits for a provider, or for another turn of its session: how long that takes tells nothing.
    pub fn waits(&mut self) {
        if self.since.take().is_some() {
            self.pressure.lock().starting -= 1;
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let (now, most) = (Instant::now(), self.pressure.0.most);
        if let Some(since) = self.since {
            let mut state = self.pressure.lock();
            state.starting -= 1;
            state.begun(now.duration_since(since), most, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_millis(250);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Turns that begin one a millisecond, each after `took`.
    fn begin(state: &mut State, took: Duration, from: Instant, for_ms: u64) -> Instant {
        for at in 0..for_ms {
            state.begun(took, MOST, from + ms(at));
        }
        from + ms(for_ms)
    }

    #[test]
    fn a_burst_that_is_worked_off_is_no_pressure() {
        let mut state = State { starting: 10_000, ..State::default() };
        let now = begin(&mut state, ms(400), Instant::now(), 450);
        assert!(!state.refuses(now));
        let now = begin(&mut state, ms(200), now, 1);
        let now = begin(&mut state, ms(400), now, 450);
        assert!(!state.refuses(now), "one that was in time ends it");
    }

    #[test]
    fn what_lasts_is_refused_until_few_are_left() {
        let mut state = State { starting: 1_000, ..State::default() };
        let now = begin(&mut state, ms(400), Instant::now(), 600);
        assert!(state.refuses(now));
        state.starting = FEW - 1;
        assert!(!state.refuses(now), "few may begin at any time");
        state.starting = FEW;
        assert!(
            state.refuses(now + ms(900)) && state.refuses(now + ms(1_800)),
            "as long as more keep coming"
        );
        assert!(!state.refuses(now + ms(1_800) + AFTER), "and no longer");
    }
}
