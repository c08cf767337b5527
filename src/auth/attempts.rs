//! How often an address may come with a key that is none. Plain; a table of fixed size, whatever comes.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::rate_limit::bucket::{Bucket, Rate, Ticks};

/// Buckets of the table. Addresses whose digests meet in one share it.
const BUCKETS: usize = 65_536;

/// Failed logins by address: an IPv4 address, or an IPv6 network of 64 bits, since that is what one subscriber gets.
pub struct Attempts {
    buckets: Box<[AtomicU64]>,
    digests: RandomState,
    /// `None` for any number.
    rate: Option<Rate>,
}

impl Attempts {
    /// A table in which nobody has failed, for so many failures a minute; 0 for any number.
    pub fn new(per_minute: u64) -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            digests: RandomState::new(),
            rate: (per_minute > 0).then(|| Rate::tokens(per_minute)),
        }
    }

    fn bucket(&self, from: IpAddr) -> &AtomicU64 {
        let network = match from.to_canonical() {
            IpAddr::V4(own) => u128::from(own.to_bits()),
            IpAddr::V6(own) => own.to_bits() >> 64 << 64,
        };
        let at = usize::try_from(self.digests.hash_one(network) % BUCKETS as u64).unwrap_or(0);
        &self.buckets[at]
    }

    /// Whether an address may try a key that is not known yet; if not, how long it has to wait.
    ///
    /// # Errors
    /// The wait.
    pub fn check(&self, from: IpAddr, now: Ticks) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        Bucket::at(self.bucket(from).load(Ordering::Relaxed)).take(rate, 1, now)
    }

    /// An address came with a key that is none.
    ///
    /// # Errors
    /// The wait, if it has done so too often.
    pub fn failed(&self, from: IpAddr, now: Ticks) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let mut wait = Duration::ZERO;
        let take = |tat| {
            let mut bucket = Bucket::at(tat);
            bucket.take(rate, 1, now).map(|()| bucket.tat()).map_err(|after| wait = after).ok()
        };
        let taken = self.bucket(from).fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(drop).map_err(|_| wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn failures(attempts: &Attempts, from: &str, now: Ticks) -> usize {
        (0..100).take_while(|_| attempts.failed(address(from), now).is_ok()).count()
    }

    #[test]
    fn an_address_fails_so_often_and_then_waits() {
        let attempts = Attempts::new(60);
        assert_eq!(failures(&attempts, "192.0.2.1", 0), 60);
        assert_eq!(attempts.check(address("192.0.2.1"), 0), Err(Duration::from_secs(1)));
        assert_eq!(attempts.check(address("192.0.2.1"), 1_000_000_000), Ok(()));
        assert_eq!(failures(&attempts, "192.0.2.2", 0), 60, "another address is another one");
    }

    #[test]
    fn a_network_of_64_bits_is_one_address_and_a_mapped_one_is_what_it_maps() {
        let attempts = Attempts::new(60);
        assert_eq!(failures(&attempts, "2001:db8::1", 0), 60);
        assert_eq!(failures(&attempts, "2001:db8::ffff:2", 0), 0);
        assert_eq!(failures(&attempts, "2001:db8:0:1::1", 0), 60);
        assert_eq!(failures(&attempts, "::ffff:192.0.2.9", 0), 60);
        assert_eq!(failures(&attempts, "192.0.2.9", 0), 0);
    }

    #[test]
    fn without_a_limit_there_is_none() {
        assert_eq!(failures(&Attempts::new(0), "192.0.2.1", 0), 100);
    }
}
