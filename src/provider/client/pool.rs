//! Connections that wait for their next request. Plain: time is an argument.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use foldhash::HashMap;

/// How long a connection is kept without use: many servers close theirs after little more.
pub const IDLE: Duration = Duration::from_secs(15);
/// How long a connection is used at most.
pub const CONNECTION_LIFE: Duration = Duration::from_secs(600);
/// Connections of one client that wait at once, whatever their origins.
const MAX_IDLE: usize = 1_024;

/// What waits, by origin.
pub struct Pool<T> {
    idle: HashMap<Rc<str>, VecDeque<Waiting<T>>>,
    count: usize,
}

struct Waiting<T> {
    connection: T,
    born: Instant,
    since: Instant,
}

impl<T> Waiting<T> {
    fn until(&self) -> Instant {
        (self.since + IDLE).min(self.born + CONNECTION_LIFE)
    }
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { idle: HashMap::default(), count: 0 }
    }
}

impl<T> Pool<T> {
    /// The connection to an origin that was used last, if it is still `good`, and when it was made. So those that are too
    /// many are not used, and go.
    pub fn take(
        &mut self,
        origin: &str,
        now: Instant,
        mut good: impl FnMut(&mut T) -> bool,
    ) -> Option<(T, Instant)> {
        let waiting = self.idle.get_mut(origin)?;
        let mut found = None;
        while found.is_none()
            && let Some(mut last) = waiting.pop_back()
        {
            self.count -= 1;
            if now < last.until() && good(&mut last.connection) {
                found = Some((last.connection, last.born));
            }
        }
        if waiting.is_empty() {
            self.idle.remove(origin);
        }
        found
    }

    /// Keeps a connection, unless it is too old or too many wait.
    pub fn put(&mut self, origin: Rc<str>, connection: T, born: Instant, now: Instant) {
        let waiting = Waiting { connection, born, since: now };
        if self.count < MAX_IDLE && now < waiting.until() {
            self.count += 1;
            self.idle.entry(origin).or_default().push_back(waiting);
        }
    }

    /// Lets go of those whose time is over; tells when the next one's is.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        let (mut next, mut count) = (None, 0);
        self.idle.retain(|_, waiting| {
            waiting.retain(|one| now < one.until());
            count += waiting.len();
            next = waiting.iter().map(Waiting::until).chain(next).min();
            !waiting.is_empty()
        });
        self.count = count;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_connection_used_last_is_used_next_and_only_to_its_origin() {
        let (mut pool, now) = (Pool::default(), Instant::now());
        pool.put("a".into(), 1, now, now);
        pool.put("a".into(), 2, now, now + SECOND);
        pool.put("b".into(), 3, now, now);
        assert_eq!(pool.take("a", now + SECOND, |_| true), Some((2, now)));
        assert_eq!(pool.take("c", now + SECOND, |_| true), None);
        assert_eq!(pool.take("a", now + SECOND, |_| true), Some((1, now)));
        assert_eq!(pool.take("a", now + SECOND, |_| true), None);
        assert_eq!(pool.count, 1);
    }

    #[test]
    fn one_that_is_not_good_any_more_is_passed_over() {
        let (mut pool, now) = (Pool::default(), Instant::now());
        (1..=3).for_each(|connection| pool.put("a".into(), connection, now, now));
        assert_eq!(pool.take("a", now, |connection| *connection == 2), Some((2, now)));
        assert_eq!(pool.count, 1);
    }

    #[test]
    fn idle_and_old_ones_go_whether_somebody_asks_or_not() {
        let (mut pool, now) = (Pool::default(), Instant::now());
        pool.put("a".into(), 1, now, now);
        assert_eq!(pool.take("a", now + IDLE, |_| true), None);
        pool.put("a".into(), 1, now, now);
        pool.put("b".into(), 2, now, now + SECOND);
        assert_eq!(pool.expire(now + SECOND), Some(now + IDLE));
        assert_eq!(pool.expire(now + IDLE), Some(now + IDLE + SECOND));
        assert_eq!((pool.count, pool.idle.len()), (1, 1));
        assert_eq!(pool.expire(now + IDLE + SECOND), None);
        pool.put("a".into(), 1, now, now + CONNECTION_LIFE);
        assert_eq!(pool.count, 0, "one at the end of its life is kept");
        pool.put("a".into(), 1, now, now + CONNECTION_LIFE - SECOND);
        assert_eq!(pool.expire(now + CONNECTION_LIFE - SECOND), Some(now + CONNECTION_LIFE));
    }

    #[test]
    fn no_more_than_the_bound_are_kept() {
        let (mut pool, now) = (Pool::default(), Instant::now());
        (0..2 * MAX_IDLE).for_each(|connection| pool.put("a".into(), connection, now, now));
        assert_eq!(pool.count, MAX_IDLE);
    }
}
