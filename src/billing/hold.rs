//! Money set aside for one provider call, from the decision to the charge.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use diesel::SqliteConnection;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::billing::actor::{Ledger, committed};
use crate::billing::messages::{Abandon, Release, Settle};
use crate::billing::{Account, HOLD_LIFE_MS, Sent};
use crate::clock;
use crate::conversation::usage::{Usage, UsageSource};
use crate::error::Error;
use crate::id::HoldId;
use crate::metrics;
use crate::store::hold::{self, Closed, Granted, NewHold, Served, Settlement};
use crate::store::writer::{Lane, Patience, WriteError, Writer};

/// Money set aside for one provider call. Closes itself when dropped: at its marks, if anything was received.
pub struct Hold {
    id: HoldId,
    granted: Granted,
    prompt_max: u64,
    marks: Usage,
    served: Option<Served>,
    /// The reservation, until it is known to be durable.
    opening: Option<Opening>,
    /// Whether it was decided here, before the writer did.
    promised: bool,
    ends: Option<Ends>,
}

/// What a hold needs in order to be closed.
#[derive(Clone)]
pub(super) struct Ends {
    pub account: Account,
    pub writer: Writer,
    pub ledger: Addr<Ledger>,
}

impl Ends {
    /// The writer granted nothing: there is nothing to close.
    fn void(ends: &mut Option<Self>, promised: bool, error: &Error) {
        if let Some(ends) = ends.take()
            && promised
        {
            ends.account.disagreed(error);
        }
    }
}

/// What a reservation came to.
pub(super) struct Opened {
    granted: Granted,
    /// The charge, if that came along.
    closed: Option<Closed>,
}

/// A reservation on its way into the database.
pub(super) struct Opening {
    new: Arc<NewHold>,
    ride: Arc<Mutex<Ride>>,
    patience: Patience,
    done: oneshot::Receiver<Result<Result<Opened, Error>, Error>>,
}

/// A charge may ride along with the reservation as long as the writer has not taken that up.
#[derive(Default)]
struct Ride {
    charge: Option<Arc<Settlement>>,
    left: bool,
}

impl Opening {
    /// Queues the reservation; nobody waits for a `patient` one until he is told.
    ///
    /// # Errors
    /// When the writer takes nothing.
    pub fn queue(writer: &Writer, sent: Sent, new: NewHold, patient: bool) -> Result<Self, Error> {
        let patience = Patience::default();
        let ride = Arc::new(Mutex::new(Ride::default()));
        let (own, payer) = (ride.clone(), sent.account.name.clone());
        let new = Arc::new(new);
        let wanted = new.clone();
        let work = move |conn: &mut SqliteConnection| {
            let charge = {
                let mut ride = own.lock().unwrap_or_else(PoisonError::into_inner);
                ride.left = true;
                ride.charge.clone()
            };
            open(conn, &sent.account, &wanted, charge.as_deref())
        };
        let done = writer.open_for(payer.as_str(), patient.then(|| patience.clone()), work)?;
        Ok(Self { new, ride, patience, done })
    }

    /// Lets the charge come along; `false` if the writer is at the reservation already.
    fn take_along(&self, charge: &Arc<Settlement>) -> bool {
        let mut ride = self.ride.lock().unwrap_or_else(PoisonError::into_inner);
        if !ride.left {
            ride.charge = Some(charge.clone());
        }
        !ride.left
    }

    /// What it came to, once that is durable.
    ///
    /// # Errors
    /// That it was refused, or could not be written.
    pub async fn opened(&mut self) -> Result<Opened, Error> {
        self.patience.end();
        committed(&mut self.done).await?
    }
}

/// The writer's part of it. Tells what the account can spend then.
fn open(
    conn: &mut SqliteConnection,
    account: &Account,
    new: &NewHold,
    charge: Option<&Settlement>,
) -> Result<Result<Opened, Error>, WriteError> {
    let memory = &mut *account.memory();
    let opened = match charge {
        None => hold::reserve_or_tell(conn, memory, new)?.map(|granted| Opened { granted, closed: None }),
        Some(charge) => {
            let done = hold::charge_at_once_or_tell(conn, memory, new, charge, clock::now_ms())?;
            done.map(|(granted, closed)| Opened { granted, closed: Some(closed) })
        }
    };
    if let Ok(Opened { granted, closed }) = &opened {
        account.told(closed.as_ref().map_or(granted.left, |closed| closed.left));
    }
    Ok(opened)
}

impl Hold {
    pub(super) fn new(
        (id, prompt_max): (HoldId, u64),
        promised: Option<Granted>,
        opening: Opening,
        ends: Ends,
    ) -> Self {
        Self {
            id,
            granted: promised.unwrap_or_default(),
            prompt_max,
            marks: Usage::default(),
            served: None,
            opening: Some(opening),
            promised: promised.is_some(),
            ends: Some(ends),
        }
    }

    /// The hold's id.
    pub fn id(&self) -> &str {
        self.id.as_str()
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

    /// Answers when the reservation is durable: nothing may reach the client before.
    ///
    /// # Errors
    /// When the writer does not grant what was decided here, or cannot write. Then nothing is held.
    pub async fn durable(&mut self) -> Result<(), Error> {
        let Some(opening) = self.opening.as_mut() else { return Ok(()) };
        let opened = opening.opened().await;
        self.opening = None;
        match opened {
            Ok(opened) => {
                self.granted = opened.granted;
                Ok(())
            }
            Err(error) => {
                Ends::void(&mut self.ends, self.promised, &error);
                Err(error)
            }
        }
    }

    /// Notes what was received so far: a floor, never an upper bound. Kept here; see [`Hold::checkpoint`].
    pub fn mark(&mut self, marks: Usage) {
        self.marks = marks;
    }

    /// Writes the marks down, and what the client `said`, so that a crash does not lose them.
    pub fn checkpoint(&self, said: Option<String>) {
        let Some(ends) = &self.ends else { return };
        let expires = clock::now_ms() + HOLD_LIFE_MS;
        let (id, marks, served) = (self.id.clone(), self.marks, self.served.clone());
        // Bounded by the open holds: one each two seconds. Nobody waits for it; the next one says the same and more.
        drop(ends.writer.submit(Lane::Mark, move |conn| {
            Ok(hold::checkpoint(conn, id.as_str(), (marks, served.as_ref()), said.as_deref(), expires)?)
        }));
    }

    /// Charges what was used. Answered after the commit; tried again until the ledger can be written, even if nobody
    /// waits for the answer any more. Once the reservation is durable, the charge is waited for as long as `patience`.
    ///
    /// # Errors
    /// When the writer does not grant what was decided here; when the charge is late; when the ledger is gone for good,
    /// and recovery will charge the last checkpoint.
    pub fn settle(
        mut self,
        settlement: Settlement,
        patience: Duration,
    ) -> impl Future<Output = Result<Closed, Error>> {
        let closing = Closing {
            hold: self.id.clone(),
            charge: Arc::new(settlement),
            opening: self.opening.take(),
            promised: self.promised,
            ends: self.ends.take(),
        };
        closing.run(patience)
    }

    /// Gives everything back, since nothing was received. Answered after the commit.
    ///
    /// # Errors
    /// When the ledger is gone for good; recovery will release the hold.
    pub async fn release(mut self, reason: &'static str) -> Result<(), Error> {
        let durable = self.durable().await;
        let Some(ends) = self.ends.take() else { return durable };
        let order = Release { hold: self.id.clone(), reason };
        ends.ledger.send(order).await.map_err(|gone| Error::Internal(format!("the ledger: {gone}")))?
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take() {
            let settlement = (self.marks.total() > 0).then_some(Settlement {
                usage: self.marks,
                source: UsageSource::Recovered,
                served: self.served.take(),
                turn: None,
                summary: None,
                answer: None,
            });
            let opening = self.opening.take();
            // Bounded by the open holds: each says this once.
            ends.ledger.do_send(Abandon {
                hold: self.id.clone(),
                settlement: settlement.map(Arc::new),
                opening,
            });
        }
    }
}

/// A charge on its way. Who waits for it may go: then the ledger sees to it.
struct Closing {
    hold: HoldId,
    charge: Arc<Settlement>,
    opening: Option<Opening>,
    promised: bool,
    ends: Option<Ends>,
}

impl Closing {
    async fn run(mut self, patience: Duration) -> Result<Closed, Error> {
        let mut reserved = None;
        if let Some(opening) = &mut self.opening {
            let along = opening.take_along(&self.charge);
            let opened = opening.opened().await;
            let new = opening.new.clone();
            self.opening = None;
            match opened {
                Ok(Opened { closed: Some(closed), .. }) if along => return Ok(self.done(closed)),
                Ok(opened) => reserved = Some((new, opened.granted)),
                Err(error) => {
                    Ends::void(&mut self.ends, self.promised, &error);
                    return Err(error);
                }
            }
        }
        let closed = timeout(patience, self.queue(reserved)?).await;
        match closed.map_err(|_| Error::StoreUnavailable("the charge is late".to_owned()))? {
            Ok(closed) => Ok(self.done(closed)),
            Err(Error::StoreUnavailable(cause)) => {
                tracing::error!(%cause, "a hold could not be closed; the ledger goes on trying");
                let late = timeout(patience, Box::pin(self.hand_over())).await;
                late.unwrap_or_else(|_| Err(Error::StoreUnavailable("the charge is late".to_owned())))
            }
            Err(error) => {
                self.ends = None;
                Err(error)
            }
        }
    }

    /// Gives the charge to the writer, with what was reserved if that is known.
    fn queue(
        &self,
        reserved: Option<(Arc<NewHold>, Granted)>,
    ) -> Result<impl Future<Output = Result<Closed, Error>> + use<>, Error> {
        let Some(ends) = &self.ends else { return Err(Error::Draining) };
        let (id, charge, account) = (self.hold.clone(), self.charge.clone(), ends.account.clone());
        let queued = ends.writer.submit(Lane::Close, move |conn| {
            let closed = match &reserved {
                Some((new, granted)) => {
                    let memory = &mut *account.memory();
                    hold::settle_reserved(conn, memory, new, *granted, &charge, clock::now_ms())?
                }
                None => hold::settle(conn, id.as_str(), &charge, None, clock::now_ms())?,
            };
            account.told(closed.left);
            Ok(closed)
        });
        queued.map(committed)
    }

    /// Gives it to the ledger, which tries on.
    async fn hand_over(mut self) -> Result<Closed, Error> {
        let Some(ends) = self.ends.take() else { return Err(Error::Draining) };
        let order = Settle { hold: self.hold.clone(), settlement: self.charge.clone() };
        ends.ledger.send(order).await.map_err(|gone| Error::Internal(format!("the ledger: {gone}")))?
    }

    fn done(mut self, closed: Closed) -> Closed {
        self.ends = None;
        metrics::charged(&closed);
        closed
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take() {
            let (hold, opening) = (self.hold.clone(), self.opening.take());
            // Once a hold at most. What is closed already stays as it is.
            ends.ledger.do_send(Abandon { hold, settlement: Some(self.charge.clone()), opening });
        }
    }
}
