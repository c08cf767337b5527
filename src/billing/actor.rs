//! The actor that orders how money moves: it hands each order to the writer and answers after the commit.

use std::future::Future;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::billing::Hold;
use crate::billing::messages::{Abandon, Checkpoint, Flush, Release, Reserve, Settle};
use crate::clock;
use crate::error::Error;
use crate::metrics;
use crate::store::Store;
use crate::store::hold::{self, Closed};
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

impl Handler<Reserve> for Ledger {
    type Result = ResponseFuture<Result<Hold, Error>>;

    fn handle(&mut self, Reserve(new): Reserve, ctx: &mut Self::Context) -> Self::Result {
        let (id, prompt_max, ledger) = (new.id.clone(), new.prompt_max, ctx.address());
        let account = new.account.clone();
        let work = move |conn: &mut _| hold::reserve_or_tell(conn, &new);
        let queued = self.store.writer().submit_for(Lane::Open, &account, work);
        // The answer is a guard: one that nobody takes gives the money back.
        Box::pin(async move {
            let granted = committed(queued?).await??;
            Ok(Hold::new(id, granted, prompt_max, ledger))
        })
    }
}

impl Handler<Settle> for Ledger {
    type Result = ResponseFuture<Result<Closed, Error>>;

    fn handle(&mut self, Settle { hold, settlement }: Settle, _: &mut Self::Context) -> Self::Result {
        let store = self.store.clone();
        let closed = until_closed(move || {
            let (hold, settlement) = (hold.clone(), settlement.clone());
            let queued = store.writer().submit(Lane::Close, move |conn| {
                hold::settle(conn, &hold, &settlement, None, clock::now_ms())
            });
            async move { committed(queued?).await }
        });
        Box::pin(async move { closed.await.inspect(metrics::charged) })
    }
}

impl Handler<Release> for Ledger {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Release { hold, reason }: Release, _: &mut Self::Context) -> Self::Result {
        Box::pin(release(self.store.clone(), hold, reason))
    }
}

impl Handler<Checkpoint> for Ledger {
    type Result = ();

    fn handle(&mut self, order: Checkpoint, _: &mut Self::Context) {
        let Checkpoint { hold, marks, served, said, expires } = order;
        let queued = self.store.writer().submit(Lane::Mark, move |conn| {
            Ok(hold::checkpoint(conn, &hold, (marks, served.as_ref()), said.as_deref(), expires)?)
        });
        // Nobody waits for it; the next one says the same and more.
        drop(queued);
    }
}

impl Handler<Flush> for Ledger {
    type Result = ();

    fn handle(&mut self, Flush: Flush, _: &mut Self::Context) {}
}

impl Handler<Abandon> for Ledger {
    type Result = ();

    fn handle(&mut self, Abandon { hold, settlement }: Abandon, ctx: &mut Self::Context) {
        let Some(settlement) = settlement else {
            let released = release(self.store.clone(), hold, "abandoned");
            actix::spawn(async move { drop(released.await) });
            return;
        };
        let closed = self.handle(Settle { hold, settlement }, ctx);
        actix::spawn(async move { drop(closed.await) });
    }
}

fn release(store: Store, hold: String, reason: &'static str) -> impl Future<Output = Result<(), Error>> {
    until_closed(move || {
        let hold = hold.clone();
        let queued = store
            .writer()
            .submit(Lane::Close, move |conn| Ok(hold::release(conn, &hold, reason, clock::now_ms())?));
        async move { committed(queued?).await }
    })
}

async fn committed<T>(queued: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
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
