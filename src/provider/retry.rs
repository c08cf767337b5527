//! Asking the same provider once more: how long to wait, and how often at most. Plain; the clock is an argument.

use std::time::{Duration, Instant};

/// The wait before the first retry; it doubles with each.
const BASE: Duration = Duration::from_millis(250);
/// The longest wait that a provider may ask for: with a longer one the next candidate is better.
pub const MAX_WAIT: Duration = Duration::from_secs(5);
/// The most retries of one candidate.
pub const MAX_RETRIES: u32 = 2;

/// Retries that one call pays for, in tenths.
const EARNED: u32 = 1;
const RETRY: u32 = 10;
/// What may be saved up, so that a quiet hour does not pay for a storm.
const SAVED: u32 = 100;
/// A few retries that nobody has to earn, and how soon one of them comes back.
const FLOOR: u32 = 3 * RETRY;
const FLOOR_EACH: Duration = Duration::from_secs(10);

/// How many retries a provider may still get: a tenth of its calls, and a few of its own.
#[derive(Debug)]
pub struct Budget {
    tenths: u32,
    refilled: Instant,
}

impl Budget {
    /// A fresh one.
    pub fn new(now: Instant) -> Self {
        Self { tenths: FLOOR, refilled: now }
    }

    /// A call is made.
    pub fn earn(&mut self) {
        self.tenths = (self.tenths + EARNED).min(SAVED);
    }

    /// Takes a retry, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        while self.tenths < FLOOR && now.saturating_duration_since(self.refilled) >= FLOOR_EACH {
            self.tenths = (self.tenths + RETRY).min(FLOOR);
            self.refilled += FLOOR_EACH;
        }
        if self.tenths >= FLOOR {
            self.refilled = now;
        }
        let enough = self.tenths >= RETRY;
        if enough {
            self.tenths -= RETRY;
        }
        enough
    }
}

/// How long to wait before the retry of that number, from 0 on; `None` if the provider asks for too much.
/// `chance` spreads those that failed together.
pub fn wait(number: u32, asked: Option<Duration>, chance: u8) -> Option<Duration> {
    if asked.is_some_and(|asked| asked > MAX_WAIT) {
        return None;
    }
    let whole = BASE * 2u32.saturating_pow(number.min(MAX_RETRIES));
    let jittered = whole / 2 + whole / 2 * u32::from(chance) / 255;
    Some(jittered.max(asked.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_spread() {
        assert_eq!(wait(0, None, 0), Some(BASE / 2));
        assert_eq!(wait(0, None, 255), Some(BASE));
        assert_eq!(wait(1, None, 255), Some(BASE * 2));
    }

    #[test]
    fn a_provider_s_own_wait_is_kept_or_the_retry_is_left() {
        let second = Duration::from_secs(1);
        assert_eq!(wait(0, Some(second), 0), Some(second));
        assert_eq!(wait(0, Some(MAX_WAIT), 0), Some(MAX_WAIT));
        assert_eq!(wait(0, Some(MAX_WAIT + second), 0), None);
    }

    #[test]
    fn retries_are_a_tenth_of_the_calls() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        while budget.take(now) {}
        let mut retries = 0;
        for _ in 0..1_000 {
            budget.earn();
            retries += u32::from(budget.take(now));
        }
        assert_eq!(retries, 100);
    }

    #[test]
    fn a_quiet_provider_has_a_few_retries_all_the_same() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let taken = |budget: &mut Budget, now| (0..20).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, now), 3);
        assert_eq!(taken(&mut budget, now + FLOOR_EACH / 2), 0);
        assert_eq!(taken(&mut budget, now + FLOOR_EACH), 1);
        assert_eq!(taken(&mut budget, now + 100 * FLOOR_EACH), 3);
    }

    #[test]
    fn what_is_saved_up_has_a_bound() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.take(now)).count(), 10);
    }
}
