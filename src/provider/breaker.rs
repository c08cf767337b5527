//! Leaving a provider alone that fails: closed, open, half-open, closed again. Plain; the clock is an argument.

use std::time::{Duration, Instant};

/// Pieces of the window: what is older than the window leaves it piece by piece.
const PIECES: u32 = 10;

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is looked at.
    pub window: Duration,
    /// The fewest calls in the window that prove anything.
    pub min_calls: u32,
    /// The share of failures among them that opens it, in percent.
    pub failure_percent: u32,
    /// How long nobody calls then.
    pub open_for: Duration,
    /// How many calls at once try it after that; as many successes close it.
    pub probes: u32,
}

impl Settings {
    /// Half of at least 20 calls in 30 s; then 10 s of rest and two probes.
    pub const DEFAULT: Self = Self {
        window: Duration::from_secs(30),
        min_calls: 20,
        failure_percent: 50,
        open_for: Duration::from_secs(10),
        probes: 2,
    };
}

/// Where a circuit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls pass.
    Closed,
    /// None does.
    Open,
    /// A few do, to see whether it is well again.
    HalfOpen,
}

impl State {
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Leave for one call; to be told how it went. What is told after the state has changed counts no more.
#[derive(Debug, PartialEq, Eq)]
pub struct Pass {
    era: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    number: u64,
    calls: u32,
    failures: u32,
}

/// The circuit of one provider and model.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    /// Counts changes of state.
    era: u64,
    began: Instant,
    pieces: [Piece; PIECES as usize],
    open_until: Instant,
    probing: u32,
    succeeded: u32,
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            state: State::Closed,
            era: 0,
            began: now,
            pieces: [Piece::default(); PIECES as usize],
            open_until: now,
            probing: 0,
            succeeded: 0,
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Leave for a call, or how long to wait before asking again.
    ///
    /// # Errors
    /// The wait; never zero.
    pub fn enter(&mut self, now: Instant) -> Result<Pass, Duration> {
        if self.state == State::Open {
            if now < self.open_until {
                return Err(self.open_until - now);
            }
            self.change(State::HalfOpen);
        }
        if self.state == State::HalfOpen {
            if self.probing + self.succeeded >= self.settings.probes {
                return Err(Duration::from_secs(1));
            }
            self.probing += 1;
        }
        Ok(Pass { era: self.era })
    }

    /// A call went well.
    pub fn succeeded(&mut self, pass: &Pass, now: Instant) {
        if pass.era != self.era {
            return;
        }
        match self.state {
            State::Closed => self.count(now, 0),
            State::Open => {}
            State::HalfOpen => {
                self.probing = self.probing.saturating_sub(1);
                self.succeeded += 1;
                if self.succeeded >= self.settings.probes {
                    self.change(State::Closed);
                }
            }
        }
    }

    /// A call failed by the provider's fault.
    pub fn failed(&mut self, pass: &Pass, now: Instant) {
        if pass.era != self.era {
            return;
        }
        match self.state {
            State::Closed => {
                self.count(now, 1);
                let (calls, failures) = self.counts(now);
                let share = u64::from(failures) * 100;
                let due = u64::from(calls) * u64::from(self.settings.failure_percent);
                if calls >= self.settings.min_calls && share >= due {
                    self.open(now);
                }
            }
            State::Open => {}
            State::HalfOpen => self.open(now),
        }
    }

    /// A call ended in a way that says nothing of the provider.
    pub fn ended(&mut self, pass: &Pass) {
        if pass.era == self.era && self.state == State::HalfOpen {
            self.probing = self.probing.saturating_sub(1);
        }
    }

    /// Calls and failures in the window.
    pub fn counts(&self, now: Instant) -> (u32, u32) {
        let newest = self.number(now);
        let live = self.pieces.iter().filter(|piece| piece.number + u64::from(PIECES) > newest);
        live.fold((0, 0), |(calls, failures), piece| (calls + piece.calls, failures + piece.failures))
    }

    /// How long it stays open.
    pub fn open_for(&self, now: Instant) -> Option<Duration> {
        (self.state == State::Open).then(|| self.open_until.saturating_duration_since(now))
    }

    fn open(&mut self, now: Instant) {
        self.change(State::Open);
        self.open_until = now + self.settings.open_for;
    }

    fn change(&mut self, to: State) {
        self.state = to;
        self.era += 1;
        (self.probing, self.succeeded) = (0, 0);
        self.pieces = [Piece::default(); PIECES as usize];
    }

    fn number(&self, now: Instant) -> u64 {
        let piece = (self.settings.window / PIECES).max(Duration::from_millis(1));
        let passed = now.saturating_duration_since(self.began).as_nanos() / piece.as_nanos();
        // The first one is numbered so that pieces never used are of the past.
        u64::try_from(passed).unwrap_or(u64::MAX / 2) + u64::from(PIECES)
    }

    fn count(&mut self, now: Instant, failures: u32) {
        let number = self.number(now);
        let place = usize::try_from(number % u64::from(PIECES)).unwrap_or(0);
        let piece = &mut self.pieces[place];
        if piece.number != number {
            *piece = Piece { number, calls: 0, failures: 0 };
        }
        piece.calls = piece.calls.saturating_add(1);
        piece.failures += failures;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        window: Duration::from_secs(10),
        min_calls: 4,
        failure_percent: 50,
        open_for: Duration::from_secs(5),
        probes: 2,
    };
    const SECOND: Duration = Duration::from_secs(1);

    fn fail(breaker: &mut Breaker, now: Instant, times: u32) {
        for _ in 0..times {
            let pass = breaker.enter(now).expect("closed");
            breaker.failed(&pass, now);
        }
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(SETTINGS, now);
        fail(&mut breaker, now, 4);
        assert_eq!(breaker.state(), State::Open);
        breaker
    }

    #[test]
    fn few_failures_prove_nothing() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS, now);
        fail(&mut breaker, now, 3);
        assert_eq!((breaker.state(), breaker.counts(now)), (State::Closed, (3, 3)));
    }

    #[test]
    fn it_opens_when_half_of_the_calls_fail() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS, now);
        for _ in 0..3 {
            let pass = breaker.enter(now).expect("closed");
            breaker.succeeded(&pass, now);
        }
        fail(&mut breaker, now, 2);
        assert_eq!(breaker.state(), State::Closed, "two of five");
        fail(&mut breaker, now, 1);
        assert_eq!(breaker.state(), State::Open, "three of six");
        assert_eq!(breaker.enter(now + SECOND), Err(4 * SECOND));
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS, now);
        fail(&mut breaker, now, 3);
        let later = now + 11 * SECOND;
        fail(&mut breaker, later, 3);
        assert_eq!((breaker.state(), breaker.counts(later)), (State::Closed, (3, 3)));
    }

    #[test]
    fn after_its_rest_a_few_probes_pass_and_close_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + 5 * SECOND;
        let first = breaker.enter(later).expect("a probe");
        let second = breaker.enter(later).expect("a probe");
        assert_eq!(breaker.state(), State::HalfOpen);
        assert_eq!(breaker.enter(later), Err(SECOND), "no third one");
        breaker.succeeded(&first, later);
        assert_eq!(breaker.state(), State::HalfOpen);
        breaker.succeeded(&second, later);
        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(breaker.counts(later), (0, 0), "it begins anew");
    }

    #[test]
    fn a_probe_that_fails_opens_it_again() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + 5 * SECOND;
        let probe = breaker.enter(later).expect("a probe");
        breaker.failed(&probe, later);
        assert_eq!(breaker.state(), State::Open);
        assert_eq!(breaker.enter(later + 4 * SECOND), Err(SECOND));
        assert!(breaker.enter(later + 5 * SECOND).is_ok());
    }

    #[test]
    fn a_probe_that_says_nothing_leaves_its_place_to_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + 5 * SECOND;
        let passes = [breaker.enter(later).expect("a probe"), breaker.enter(later).expect("a probe")];
        breaker.ended(&passes[0]);
        assert_eq!(breaker.state(), State::HalfOpen);
        assert!(breaker.enter(later).is_ok());
        assert!(breaker.enter(later).is_err());
    }

    #[test]
    fn calls_of_an_earlier_state_count_no_more() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS, now);
        let late = breaker.enter(now).expect("closed");
        fail(&mut breaker, now, 4);
        let probe = breaker.enter(now + 5 * SECOND).expect("a probe");
        breaker.failed(&late, now + 5 * SECOND);
        assert_eq!(breaker.state(), State::HalfOpen, "a call from before the rest does not open it again");
        breaker.succeeded(&late, now + 5 * SECOND);
        breaker.succeeded(&probe, now + 5 * SECOND);
        assert_eq!(breaker.state(), State::HalfOpen, "nor does it close it");
    }
}
