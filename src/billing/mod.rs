//! Reserving, settling and releasing money.
//!
//! Owns: the order in which money moves. Touches: the writer's queue, and no other actor.
//! Mailbox: [`actor::MAILBOX`]. If it dies: the server exits; recovery closes the open holds.

mod actor;
pub mod catalogue;
mod messages;
pub mod money;
pub mod price;

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::clock;
use crate::conversation::usage::{Usage, UsageSource};
use crate::error::Error;
use crate::store::Store;
use crate::store::hold::{Closed, Granted, NewHold, Served, Settlement};
use actor::Ledger;
use messages::{Abandon, Checkpoint, Flush, Release, Reserve, Settle};
use price::PriceBook;

/// The longest that a call can last, plus the time to settle it: after that nobody works on a hold.
pub const HOLD_LIFE_MS: i64 = 660_000;

/// The handle to the ledger. Cheap to clone; all clones share one slot of its mailbox.
#[derive(Clone)]
pub struct Billing {
    ledger: Arc<Addr<Ledger>>,
    prices: PriceBook,
    epoch: i64,
}

impl Billing {
    /// Starts the ledger on `arbiter`. `gone` is dropped when it ends.
    pub fn start(
        arbiter: &ArbiterHandle,
        store: Store,
        prices: PriceBook,
        epoch: i64,
        gone: oneshot::Sender<()>,
    ) -> Self {
        let ledger = Ledger::new(store, gone);
        let ledger = Actor::start_in_arbiter(arbiter, |ctx| {
            ctx.set_mailbox_capacity(actor::MAILBOX);
            ledger
        });
        Self { ledger: Arc::new(ledger), prices, epoch }
    }

    /// The price list.
    pub fn prices(&self) -> &PriceBook {
        &self.prices
    }

    /// The number of this run of the server, which owns the holds it makes.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Answers when everything that was asked before is in the writer's queue.
    pub async fn flush(&self) {
        if self.ledger.send(Flush).await.is_err() {
            tracing::error!("the ledger is gone; the next start closes what it left open");
        }
    }

    /// Sets aside the most that a provider call may cost. Answered after the commit.
    ///
    /// # Errors
    /// [`Error::InsufficientBalance`], [`Error::BudgetExceeded`], [`Error::AccountSuspended`], or that the
    /// ledger cannot be written now.
    pub async fn reserve(&self, new: NewHold) -> Result<Hold, Error> {
        self.ledger.send(Reserve(new)).await.map_err(|gone| Error::Internal(format!("the ledger: {gone}")))?
    }
}

/// Money set aside for one provider call. Closes itself when dropped: at its marks, if anything was received.
pub struct Hold {
    id: String,
    granted: Granted,
    prompt_max: u64,
    marks: Usage,
    served: Option<Served>,
    ledger: Option<Addr<Ledger>>,
}

impl Hold {
    fn new(id: String, granted: Granted, prompt_max: u64, ledger: Addr<Ledger>) -> Self {
        Self { id, granted, prompt_max, marks: Usage::default(), served: None, ledger: Some(ledger) }
    }

    /// The hold's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is held, and the answer's length that it covers.
    pub fn granted(&self) -> Granted {
        self.granted
    }

    /// The most tokens of prompt that it covers.
    pub fn prompt_max(&self) -> u64 {
        self.prompt_max
    }

    /// Notes who is asked now. Whoever is asked last before something comes is who serves the call.
    pub fn serve(&mut self, served: Served) {
        self.served = Some(served);
    }

    /// Who serves the call.
    pub fn served(&self) -> Option<&Served> {
        self.served.as_ref()
    }

    /// Notes what was received so far: a floor, never an upper bound. Kept here; see [`Hold::checkpoint`].
    pub fn mark(&mut self, marks: Usage) {
        self.marks = marks;
    }

    /// Writes the marks down, and what the client `said`, so that a crash does not lose them.
    pub fn checkpoint(&self, said: Option<String>) {
        if let Some(ledger) = &self.ledger {
            let expires = clock::now_ms() + HOLD_LIFE_MS;
            // Bounded by the open holds: one each two seconds.
            let (hold, marks, served) = (self.id.clone(), self.marks, self.served.clone());
            ledger.do_send(Checkpoint { hold, marks, served, said, expires });
        }
    }

    /// Charges what was used. Answered after the commit; tried again until the ledger can be written.
    ///
    /// # Errors
    /// When the ledger is gone for good; recovery will charge the last checkpoint.
    pub async fn settle(mut self, settlement: Settlement) -> Result<Closed, Error> {
        let Some(ledger) = self.ledger.take() else { return Err(Error::Draining) };
        let order = Settle { hold: self.id.clone(), settlement };
        ledger.send(order).await.map_err(|gone| Error::Internal(format!("the ledger: {gone}")))?
    }

    /// Gives everything back, since nothing was received. Answered after the commit.
    ///
    /// # Errors
    /// When the ledger is gone for good; recovery will release the hold.
    pub async fn release(mut self, reason: &'static str) -> Result<(), Error> {
        let Some(ledger) = self.ledger.take() else { return Ok(()) };
        let order = Release { hold: self.id.clone(), reason };
        ledger.send(order).await.map_err(|gone| Error::Internal(format!("the ledger: {gone}")))?
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            let settlement = (self.marks.total() > 0).then_some(Settlement {
                usage: self.marks,
                source: UsageSource::Recovered,
                served: self.served.take(),
                turn: None,
                summary: None,
                answer: None,
            });
            // Bounded by the open holds: each says this once.
            ledger.do_send(Abandon { hold: self.id.clone(), settlement });
        }
    }
}
