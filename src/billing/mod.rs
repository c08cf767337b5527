//! Reserving, settling and releasing money.
//!
//! Owns: the order in which money moves, which is that of the writer's queue. Who clearly can pay is promised the money at
//! once, so that the provider is called while the writer makes it durable; everybody else waits for the writer. The
//! actor drives what nobody waits for. Touches: the writer's queue, and no other actor.
//! Mailbox: [`actor::MAILBOX`]. If it dies: the server exits; recovery closes the open holds.

mod actor;
mod balances;
pub mod catalogue;
mod hold;
mod messages;
pub mod money;
pub mod price;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::id::AccountId;
use crate::metrics;
use crate::pressure::Starting;
use crate::store::Store;
use crate::store::hold::{Granted, Memory, NewHold, dearest};
use crate::store::writer::Writer;
use actor::Ledger;
use balances::Balances;
pub use hold::Hold;
use hold::{Ends, Opening};
use messages::Flush;
use money::Nanos;
use price::PriceBook;

/// The longest that a call can last, plus the time to settle it: after that nobody works on a hold.
pub const HOLD_LIFE_MS: i64 = 660_000;

/// The handle to the ledger. Cheap to clone.
#[derive(Clone)]
pub struct Billing {
    ledger: Addr<Ledger>,
    writer: Writer,
    balances: Arc<Mutex<Balances>>,
    memory: Arc<Mutex<Memory>>,
    /// Held by whoever decides and queues what he decided.
    order: Arc<Mutex<()>>,
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
        let writer = store.writer().clone();
        let ledger = Ledger::new(store, gone);
        let ledger = Actor::start_in_arbiter(arbiter, |ctx| {
            ctx.set_mailbox_capacity(actor::MAILBOX);
            ledger
        });
        let memory = Arc::new(Mutex::new(Memory::until(writer.changes())));
        Self { ledger, writer, balances: Arc::default(), memory, order: Arc::default(), prices, epoch }
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

    /// Sets aside the most that a provider call may cost. Where that is not durable yet, the account is known to have
    /// it, and [`Hold::durable`] has to be waited for before the client gets anything.
    ///
    /// # Errors
    /// [`Error::InsufficientBalance`], [`Error::BudgetExceeded`], [`Error::AccountSuspended`], or that the
    /// ledger cannot be written now.
    pub async fn reserve(
        &self,
        mut new: NewHold,
        Circumstances { current, whole, starting }: Circumstances,
    ) -> Result<Hold, Error> {
        let id = (new.id.clone(), new.prompt_max);
        let (balances, memory) = (self.balances.clone(), self.memory.clone());
        let account = Account { name: new.account.clone(), balances, memory };
        let (amount, _) = dearest(&new, new.wanted_output)?;
        let (granted, opening) = {
            // Whoever was promised money has to come to the writer before those who were not.
            let _in_order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            let (sent, enough) = account.send(amount, starting);
            // What needs more than the account's money is the writer's to decide.
            let plain = current && new.budget.is_none() && new.idempotency.is_none();
            let granted = (enough && plain).then_some(Granted {
                amount,
                max_output: new.wanted_output,
                left: Nanos::ZERO,
            });
            if let Some(granted) = &granted {
                // The writer grants just that, or nothing.
                new.least_output = granted.max_output;
            }
            // Of a whole answer that comes soon, the charge can come along.
            let patient = whole && granted.is_some();
            (granted, Opening::queue(&self.writer, sent, new, patient)?)
        };
        let ends = Ends { account, writer: self.writer.clone(), ledger: self.ledger.clone() };
        let mut hold = Hold::new(id, granted, opening, ends);
        if granted.is_none() {
            hold.durable().await?;
        }
        Ok(hold)
    }
}

/// What a reservation is asked for under.
pub struct Circumstances {
    /// Whether what is known of the key and its account is up to date: else nothing is promised.
    pub current: bool,
    /// Whether the client gets nothing before the answer is whole.
    pub whole: bool,
    /// The turn, which counts as beginning until the money is safe.
    pub starting: Option<Starting>,
}

/// An account, as far as what it can spend is known here.
#[derive(Clone)]
struct Account {
    name: AccountId,
    balances: Arc<Mutex<Balances>>,
    memory: Arc<Mutex<Memory>>,
}

impl Account {
    fn lock(&self) -> MutexGuard<'_, Balances> {
        self.balances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the writer remembers. For its thread alone, so that nobody waits.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `amount` as on its way to the writer; whether the account clearly has it.
    fn send(&self, amount: Nanos, starting: Option<Starting>) -> (Sent, bool) {
        let enough = self.lock().send(&self.name, amount);
        (Sent { account: self.clone(), amount, _starting: starting }, enough)
    }

    fn told(&self, available: Nanos) {
        self.lock().told(&self.name, available);
    }

    /// The writer did not grant what was decided here.
    fn disagreed(&self, error: &Error) {
        if matches!(error, Error::StoreUnavailable(_)) {
            // What cannot be written is promised to nobody, until something was.
            return self.lock().forget_all();
        }
        self.lock().forget(&self.name);
        metrics::disagreed();
        tracing::error!(account = %self.name, %error, "a promised reservation was not granted; its call was for nothing");
    }
}

/// Money that a reservation may take, until the writer has decided.
struct Sent {
    account: Account,
    amount: Nanos,
    /// The turn begins until then.
    _starting: Option<Starting>,
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.account.lock().arrived(&self.account.name, self.amount);
    }
}
