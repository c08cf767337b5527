//! The actor that sees to holds which nobody waits for, and to those that could not be closed at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::billing::messages::{Abandon, Flush, Release, Settle};
use crate::clock;
use crate::error::Error;
use crate::id::HoldId;
use crate::metrics;
use crate::store::Store;
use crate::store::hold::{self, Closed, Settlement};
use crate::store::writer::Lane;

/// Messages that may wait.
pub const MAILBOX: usize = 256;
/// How often closing a hold is tried while the database cannot be written.
const CLOSE_TRIES: u32 = 60;
/// The longest wait between two tries.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

pub struct Ledger {
    store: Store,
    _gone: oneshot::Sender<()>,
}

impl Ledger {
    pub fn new(store: Store, gone: oneshot::Sender<()>) -> Self {
        Self { store, _gone: gone }
    }
}

impl Actor for Ledger {
    type Context = Context<Self>;
}

impl Handler<Settle> for Ledger {
    type Result = ResponseFuture<Result<Closed, Error>>;

    fn handle(&mut self, Settle { hold, settlement }: Settle, _: &mut Self::Context) -> Self::Result {
        Box::pin(settle(self.store.clone(), hold, settlement))
    }
}

impl Handler<Release> for Ledger {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Release { hold, reason }: Release, _: &mut Self::Context) -> Self::Result {
        Box::pin(release(self.store.clone(), hold, reason))
    }
}

impl Handler<Flush> for Ledger {
    type Result = ();

    fn handle(&mut self, Flush: Flush, _: &mut Self::Context) {}
}

impl Handler<Abandon> for Ledger {
    type Result = ();

    fn handle(&mut self, Abandon { hold, settlement, opening }: Abandon, _: &mut Self::Context) {
        let store = self.store.clone();
        actix::spawn(async move {
            // What was never granted has nothing to close.
            let granted = match opening {
                Some(mut opening) => opening.opened().await.is_ok(),
                None => true,
            };
            let closed = match settlement {
                _ if !granted => Ok(()),
                None => release(store, hold, "abandoned").await,
                Some(settlement) => settle(store, hold, settlement).await.map(drop),
            };
            if let Err(error) = closed {
                tracing::error!(%error, "an abandoned hold could not be closed; the next start does it");
            }
        });
    }
}

/// Charges a hold; the first try is queued at once.
fn settle(
    store: Store,
    hold: HoldId,
    settlement: Arc<Settlement>,
) -> impl Future<Output = Result<Closed, Error>> {
    let closed = until_closed(move || {
        let (hold, settlement) = (hold.clone(), settlement.clone());
        let queued = store.writer().submit(Lane::Close, move |conn| {
            hold::settle(conn, hold.as_str(), &settlement, None, clock::now_ms())
        });
        async move { committed(queued?).await }
    });
    async move { closed.await.inspect(metrics::charged) }
}

fn release(store: Store, hold: HoldId, reason: &'static str) -> impl Future<Output = Result<(), Error>> {
    until_closed(move || {
        let hold = hold.clone();
        let queued = store.writer().submit(Lane::Close, move |conn| {
            Ok(hold::release(conn, hold.as_str(), reason, clock::now_ms())?)
        });
        async move { committed(queued?).await }
    })
}

/// What a piece of the writer's work came to, after its commit.
pub async fn committed<T>(
    queued: impl Future<Output = Result<Result<T, Error>, oneshot::error::RecvError>>,
) -> Result<T, Error> {
    queued.await.map_err(|_| Error::StoreUnavailable("the writer is gone".to_owned()))?
}

/// Tries to close a hold until the database takes it; work that is done is not thrown away.
///
/// The first try is queued at once, before the future is polled.
fn until_closed<T, F>(close: impl Fn() -> F) -> impl Future<Output = Result<T, Error>>
where
    F: Future<Output = Result<T, Error>>,
{
    let first = close();
    async move {
        let mut outcome = first.await;
        let mut wait = Duration::from_millis(20);
        for _ in 1..CLOSE_TRIES {
            match outcome {
                Err(Error::StoreUnavailable(cause)) => {
                    tracing::error!(%cause, "a hold could not be closed; trying again");
                }
                done => return done,
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(CLOSE_WAIT);
            outcome = close().await;
        }
        outcome
    }
}
