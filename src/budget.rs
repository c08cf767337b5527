//! How many bytes may be in memory at once, of a kind that clients decide about.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// A bound that many share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    used: AtomicUsize,
}

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// A budget of `most` bytes.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Shared { most, used: AtomicUsize::new(0) }))
    }

    /// A share of nothing, which may grow.
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }

    /// A share of `bytes`, if there is room for it.
    pub fn take(&self, bytes: usize) -> Option<Share> {
        let mut share = self.share();
        share.grow(bytes).then_some(share)
    }

    /// What is taken now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// What can be taken at most.
    pub fn most(&self) -> usize {
        self.0.most
    }
}

impl Share {
    /// Takes so many bytes more, if there is room for them.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let most = self.budget.0.most;
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= most);
        let taken = self.budget.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Gives so many bytes back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The same bytes, which keep the share for as long as any slice of them lives.
    pub fn of(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Owned { bytes, _share: self })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Owned<B> {
    bytes: B,
    _share: Share,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Owned<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_given_than_there_is() {
        let budget = Budget::new(10);
        let mut first = budget.take(6).expect("there is room");
        assert!(budget.take(5).is_none());
        assert!(first.grow(4));
        assert!(!first.grow(1));
        assert!(!first.grow(usize::MAX));
        assert_eq!(budget.used(), 10);
        first.shrink(3);
        assert_eq!(budget.used(), 7);
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_share_lives_as_long_as_any_slice_of_its_bytes() {
        let budget = Budget::new(10);
        let whole = budget.take(5).expect("there is room").of(b"hello".to_vec());
        let part = whole.slice(1..2);
        drop(whole);
        assert_eq!((&part[..], budget.used()), (&b"e"[..], 5));
        drop(part);
        assert_eq!(budget.used(), 0);
    }
}
