//! The limiter's plain core: what a bucket lets through. No clock of its own, no runtime.
//!
//! The generic cell rate algorithm (ITU-T I.371): a bucket is one number, the theoretical arrival time.
//! With `T = period / limit` and `tau = (burst - 1) * T`, `n` cells pass when
//! `max(tat, now) + n * T - now <= tau + T`. Nothing is refilled in the background, and any window of length
//! `t` passes at most `burst + t / T`.

use std::time::Duration;

/// Nanoseconds of the limiter's own clock.
pub type Ticks = u64;

const MINUTE: u64 = 60_000_000_000;

/// How fast a bucket fills and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_minute: u64,
    burst: u64,
}

impl Rate {
    /// Requests: a burst of ten seconds' worth, at least one.
    pub fn requests(per_minute: u64) -> Self {
        Self { per_minute, burst: (per_minute / 6).max(1) }
    }

    /// Tokens: a burst of the whole minute, since one large request must fit.
    pub fn tokens(per_minute: u64) -> Self {
        Self { per_minute, burst: per_minute }
    }

    /// The most that passes at once.
    pub fn burst(self) -> u64 {
        self.burst
    }

    /// The limit, per minute.
    pub fn per_minute(self) -> u64 {
        self.per_minute
    }

    /// `n` times T, rounded up.
    fn time_of(self, n: u64) -> u64 {
        let time = (u128::from(n) * u128::from(MINUTE)).div_ceil(u128::from(self.per_minute));
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

/// One bucket. A fresh one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    tat: Ticks,
}

/// How full a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The limit, per minute.
    pub limit: u64,
    /// What may be sent at once.
    pub remaining: u64,
    /// Until it is full.
    pub reset: Duration,
}

impl Bucket {
    /// One that is full at `tat`.
    pub fn at(tat: Ticks) -> Self {
        Self { tat }
    }

    /// Takes `n`, or tells how long to wait until `n` would pass.
    ///
    /// # Errors
    /// The wait. An `n` above the burst never passes; the caller checks that before.
    pub fn take(&mut self, rate: Rate, n: u64, now: Ticks) -> Result<(), Duration> {
        let after = self.tat.max(now).saturating_add(rate.time_of(n));
        let room = rate.time_of(rate.burst);
        let ahead = after - now;
        if ahead > room {
            return Err(Duration::from_nanos(ahead - room));
        }
        self.tat = after;
        Ok(())
    }

    /// Gives back `n` that were taken and not used. Never more than a full bucket.
    pub fn give_back(&mut self, rate: Rate, n: u64, now: Ticks) {
        // Rounded down, so that giving back never yields more than was taken.
        let time = u128::from(n) * u128::from(MINUTE) / u128::from(rate.per_minute);
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        self.tat = now.max(self.tat.saturating_sub(time)).min(self.tat);
    }

    /// How full it is.
    pub fn level(&self, rate: Rate, now: Ticks) -> Level {
        let ahead = self.tat.saturating_sub(now);
        let free = rate.time_of(rate.burst).saturating_sub(ahead);
        let remaining = u128::from(free) * u128::from(rate.per_minute) / u128::from(MINUTE);
        let remaining = u64::try_from(remaining).unwrap_or(u64::MAX).min(rate.burst);
        Level { limit: rate.per_minute, remaining, reset: Duration::from_nanos(ahead) }
    }

    /// When it will be full again, or was.
    pub fn tat(&self) -> Ticks {
        self.tat
    }

    /// Whether it equals a fresh one.
    pub fn is_full(&self, now: Ticks) -> bool {
        self.tat <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_and_then_one_each_interval() {
        let (mut bucket, rate) = (Bucket::default(), Rate::requests(60));
        let now = 77 * SECOND;
        for left in (0..10).rev() {
            assert_eq!(bucket.take(rate, 1, now), Ok(()));
            assert_eq!(bucket.level(rate, now).remaining, left);
        }
        let wait = bucket.take(rate, 1, now).expect_err("full");
        assert_eq!(wait, Duration::from_secs(1));
        assert_eq!(bucket.take(rate, 1, now + SECOND), Ok(()));
        assert!(bucket.take(rate, 1, now + SECOND).is_err());
    }

    #[test]
    fn waiting_as_long_as_told_passes() {
        for per_minute in [1, 7, 59, 60, 61, 999, 1_000_003] {
            let (mut bucket, rate) = (Bucket::default(), Rate::requests(per_minute));
            let mut now = 5;
            for _ in 0..rate.burst() + 20 {
                if let Err(wait) = bucket.take(rate, 1, now) {
                    now += u64::try_from(wait.as_nanos()).expect("short");
                    assert_eq!(bucket.take(rate, 1, now), Ok(()), "{per_minute}");
                }
            }
        }
    }

    #[test]
    fn any_window_passes_at_most_burst_and_rate() {
        let (mut bucket, rate) = (Bucket::default(), Rate::requests(600));
        let passed = (0..6_000).filter(|step| bucket.take(rate, 1, step * SECOND / 100).is_ok()).count();
        assert!(passed as u64 <= rate.burst() + 600, "{passed}");
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_but_no_more() {
        let (mut bucket, rate) = (Bucket::default(), Rate::tokens(1_000));
        assert_eq!(bucket.take(rate, 1_000, 0), Ok(()));
        assert!(bucket.take(rate, 1, 0).is_err());
        bucket.give_back(rate, 400, 0);
        assert_eq!(bucket.level(rate, 0).remaining, 400);
        assert!(bucket.take(rate, 401, 0).is_err());
        assert_eq!(bucket.take(rate, 400, 0), Ok(()));
        bucket.give_back(rate, 1_000_000, 0);
        assert_eq!(bucket.level(rate, 0).remaining, 1_000);
        assert!(bucket.is_full(0));
    }
}
