//! What the ledger is asked.

use std::sync::Arc;

use actix::prelude::*;

use crate::billing::hold::Opening;
use crate::error::Error;
use crate::id::HoldId;
use crate::store::hold::{Closed, Settlement};

/// Charges a hold. Answered after the commit.
#[derive(Message)]
#[rtype(result = "Result<Closed, Error>")]
pub struct Settle {
    pub hold: HoldId,
    pub settlement: Arc<Settlement>,
}

/// Gives a hold back. Answered after the commit.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Release {
    pub hold: HoldId,
    pub reason: &'static str,
}

/// Closes a hold that was dropped: at its marks, or released if nothing was received.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Abandon {
    pub hold: HoldId,
    pub settlement: Option<Arc<Settlement>>,
    /// The reservation, if it is not known to be durable.
    pub opening: Option<Opening>,
}

/// Answered when everything that was asked before is in the writer's queue.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flush;
