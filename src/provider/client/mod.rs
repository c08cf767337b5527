//! The HTTP/1.1 client that providers are called with: POSTs, one at a time on a connection, and their answers as they
//! come.
//!
//! A connection that waits owns no buffer, and nothing of a request is kept after it was written, so that a call costs
//! little more than its socket; one that is asked once more is made once more. [`body`], [`head`] and [`pool`] are plain.
//! Lives on one thread.

mod answer;
pub mod body;
mod connection;
pub mod head;
mod pool;
mod target;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::outbound::Reach;
pub use answer::{Answer, Broken};
use body::Malformed;
use connection::{Connection, Tls};
use pool::Pool;
pub use target::{Post, Request, Target};

/// Connections that one client may use at once.
const MAX_CONNECTIONS: usize = 20_000;
/// A kept connection that turns out to be closed fails within this time; a later failure is not tried again.
const STALE_WITHIN: Duration = Duration::from_millis(500);
/// The least time between two looks at connections that wait for too long.
const SWEEP: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// There is no connection.
    #[error("no connection: {0}")]
    Unreached(String),
    /// The other side ended the connection without a word, having read the request or not.
    #[error("{0}")]
    Left(String),
    /// The answer cannot be understood.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// It cannot be asked.
    #[error("the request cannot be sent: {0}")]
    Unsendable(&'static str),
}

impl Unanswered {
    fn unreached(cause: impl std::fmt::Display) -> Self {
        Self::Unreached(cause.to_string())
    }
}

/// A client of one thread, with its connections.
#[derive(Clone)]
pub struct Client(Rc<Inner>);

struct Inner {
    reach: Reach,
    /// How long connecting may take, and a handshake.
    patience: Duration,
    tls: Tls,
    places: Arc<Semaphore>,
    pool: RefCell<Pool<Connection>>,
    /// Whether somebody lets go of what waits for too long.
    swept: Cell<bool>,
}

impl Client {
    /// A client that reaches so far, and waits so long for a connection.
    pub fn new(reach: Reach, patience: Duration) -> Self {
        Self::speaking(reach, patience, connection::tls)
    }

    fn speaking(reach: Reach, patience: Duration, tls: Tls) -> Self {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (pool, swept) = (RefCell::default(), Cell::new(false));
        Self(Rc::new(Inner { reach, patience, tls, places, pool, swept }))
    }

    /// Sends the request that `make` makes; once more when a kept connection turns out to be closed. Dropping the future
    /// or the answer closes the connection.
    ///
    /// # Errors
    /// When there is no answer, or none that can be understood.
    pub async fn send(&self, target: &Target, make: impl Fn() -> Request) -> Result<Answer, Unanswered> {
        let mut place = self.0.places.clone().acquire_owned().await.map_err(Unanswered::unreached)?;
        let now = Instant::now();
        let kept = self.0.pool.borrow_mut().take(target.origin(), now, Connection::is_quiet);
        if let Some((connection, born)) = kept {
            let mut lease = self.lease(connection, born, target, place);
            match answer::ask(&mut lease.connection, make()).await {
                Err(Unanswered::Left(_)) if now.elapsed() < STALE_WITHIN => place = lease.place,
                answered => return answered.map(|(head, rest)| Answer::new(head, rest, lease)),
            }
        }
        // What connecting needs is large, and let go of before the answer is waited for.
        let opening = Connection::open(target, self.0.reach, self.0.patience, self.0.tls);
        let connection = Box::pin(opening).await?;
        let mut lease = self.lease(connection, Instant::now(), target, place);
        let (head, rest) = answer::ask(&mut lease.connection, make()).await?;
        Ok(Answer::new(head, rest, lease))
    }

    fn lease(
        &self,
        connection: Connection,
        born: Instant,
        target: &Target,
        place: OwnedSemaphorePermit,
    ) -> Lease {
        Lease { connection, born, origin: target.origin().clone(), client: self.clone(), place }
    }

    fn keep(&self, origin: Rc<str>, connection: Connection, born: Instant) {
        self.0.pool.borrow_mut().put(origin, connection, born, Instant::now());
        if !self.0.swept.replace(true) {
            actix_rt::spawn(sweep(Rc::downgrade(&self.0)));
        }
    }
}

/// Lets go of connections that wait for too long, until none waits.
async fn sweep(client: Weak<Inner>) {
    while let Some(inner) = client.upgrade() {
        let now = Instant::now();
        let Some(next) = inner.pool.borrow_mut().expire(now) else {
            inner.swept.set(false);
            return;
        };
        drop(inner);
        sleep(next.saturating_duration_since(now).max(SWEEP)).await;
    }
}

/// A connection in use.
struct Lease {
    connection: Connection,
    born: Instant,
    origin: Rc<str>,
    client: Client,
    place: OwnedSemaphorePermit,
}

impl Lease {
    /// Keeps the connection for the next request.
    fn give_back(self) {
        self.client.keep(self.origin, self.connection, self.born);
    }
}
