//! What the ledger is asked.

use actix::prelude::*;

use crate::billing::Hold;
use crate::clock::EpochMs;
use crate::conversation::usage::Usage;
use crate::error::Error;
use crate::store::hold::{Closed, NewHold, Served, Settlement};

/// Sets aside the most that a provider call may cost. Answered after the commit.
#[derive(Message)]
#[rtype(result = "Result<Hold, Error>")]
pub struct Reserve(pub NewHold);

/// Charges a hold. Answered after the commit.
#[derive(Message)]
#[rtype(result = "Result<Closed, Error>")]
pub struct Settle {
    pub hold: String,
    pub settlement: Settlement,
}

/// Gives a hold back. Answered after the commit.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Release {
    pub hold: String,
    pub reason: &'static str,
}

/// Writes down how far a call has come.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Checkpoint {
    pub hold: String,
    pub marks: Usage,
    pub served: Option<Served>,
    pub said: Option<String>,
    pub expires: EpochMs,
}

/// Closes a hold that was dropped: at its marks, or released if nothing was received.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Abandon {
    pub hold: String,
    pub settlement: Option<Settlement>,
}

/// Answered when everything that was asked before is in the writer's queue.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flush;
