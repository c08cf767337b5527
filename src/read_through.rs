//! What is read from the database and remembered: once for all who seek it at the same time.
//!
//! Without that, everything that is in flight when a busy key is forgotten would read it anew, each for itself.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::OnceCell;

use crate::error::Error;

/// Values that one cache remembers.
pub const REMEMBERED: u64 = 100_000;
/// How long; a change made here acts at once all the same.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// What one read found, for all who wait for it.
type Read<V> = Arc<OnceCell<Result<Option<V>, Error>>>;

/// A read-through cache with a bound and a lifetime. Cheap to clone, as its values should be.
pub struct ReadThrough<K, V> {
    known: Cache<K, Read<V>>,
}

impl<K, V> Clone for ReadThrough<K, V> {
    fn clone(&self) -> Self {
        Self { known: self.known.clone() }
    }
}

impl<K, V> Default for ReadThrough<K, V>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    fn default() -> Self {
        Self { known: Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build() }
    }
}

impl<K, V> ReadThrough<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// What is remembered of `key`.
    pub fn remembered(&self, key: &K) -> Option<V> {
        self.known.get(key)?.get()?.as_ref().ok()?.clone()
    }

    /// What is remembered of `key`, or what `read` finds, or a read that is on its way already. Nothing and failures are
    /// told to those who wait, and not remembered.
    ///
    /// # Errors
    /// Those of the read.
    pub async fn find<F>(&self, key: &K, read: impl FnOnce() -> F) -> Result<Option<V>, Error>
    where
        F: Future<Output = Result<Option<V>, Error>>,
    {
        // The read begins when its place is there already: a change after that takes the place away, so that what was
        // read before a change is not remembered after it.
        let place = match self.known.get(key) {
            Some(place) => place,
            None => self.known.get_with_by_ref(key, Read::default),
        };
        let found = place.get_or_init(read).await;
        if !matches!(found, Ok(Some(_))) {
            self.known.invalidate(key);
        }
        found.clone()
    }

    /// `key` is read anew: it has changed.
    pub fn forget(&self, key: &K) {
        self.known.invalidate(key);
    }

    /// Everything is read anew.
    pub fn forget_all(&self) {
        self.known.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::oneshot;

    use super::*;

    fn cache() -> ReadThrough<u8, u32> {
        ReadThrough::default()
    }

    #[tokio::test]
    async fn those_who_seek_at_once_share_one_read() {
        let (cache, reads) = (cache(), Cell::new(0));
        let (go, gone) = oneshot::channel::<()>();
        let first = cache.find(&1, || async {
            reads.set(reads.get() + 1);
            gone.await.expect("a word");
            Ok(Some(7))
        });
        let second = async {
            let sought = cache.find(&1, || async { unreachable!("it is being read") });
            // Both wait by now.
            let (found, ()) = tokio::join!(sought, async { go.send(()).expect("a reader") });
            found
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.expect("read"), second.expect("read"), reads.get()), (Some(7), Some(7), 1));
        assert_eq!(cache.remembered(&1), Some(7));
    }

    #[tokio::test]
    async fn what_was_read_before_a_change_is_not_remembered_after_it() {
        for forget in [|cache: &ReadThrough<u8, u32>| cache.forget(&1), ReadThrough::forget_all] {
            let cache = cache();
            let old = cache.find(&1, || async {
                forget(&cache);
                Ok(Some(7))
            });
            assert_eq!(old.await.expect("read"), Some(7));
            assert_eq!(cache.remembered(&1), None);
            assert_eq!(cache.find(&1, || async { Ok(Some(8)) }).await.expect("read"), Some(8));
            assert_eq!(cache.remembered(&1), Some(8));
        }
    }

    #[tokio::test]
    async fn nothing_and_failures_are_not_remembered() {
        let cache = cache();
        assert_eq!(cache.find(&1, || async { Ok(None) }).await.expect("read"), None);
        assert!(cache.find(&1, || async { Err(Error::Overloaded) }).await.is_err());
        assert_eq!(cache.find(&1, || async { Ok(Some(9)) }).await.expect("read"), Some(9));
    }

    #[tokio::test]
    async fn who_leaves_in_mid_read_leaves_it_to_the_next() {
        let cache = cache();
        let left = tokio::time::timeout(Duration::ZERO, cache.find(&1, std::future::pending)).await;
        assert!(left.is_err());
        assert_eq!(cache.remembered(&1), None);
        assert_eq!(cache.find(&1, || async { Ok(Some(9)) }).await.expect("read"), Some(9));
    }
}
