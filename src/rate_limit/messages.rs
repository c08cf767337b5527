//! What the limiter is asked.

use std::sync::Arc;

use actix::prelude::*;

use crate::auth::caller::Caller;
use crate::error::{Error, Refusal};
use crate::rate_limit::Status;
use crate::rate_limit::table::Class;

/// May this caller make a call now?
#[derive(Message)]
#[rtype(result = "(Result<(), Refusal>, Status)")]
pub struct Admit {
    pub caller: Arc<Caller>,
    pub class: Class,
}

/// How many entries are there?
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Count;

/// May this caller's turn take so many tokens now?
#[derive(Message)]
#[rtype(result = "Result<Status, Error>")]
pub struct DebitTokens {
    pub caller: Arc<Caller>,
    pub tokens: u64,
}

/// Tokens that a turn took and did not use.
#[derive(Message)]
#[rtype(result = "()")]
pub struct GiveBack {
    pub caller: Arc<Caller>,
    pub tokens: u64,
}

/// A turn that was let in has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Leave {
    pub caller: Arc<Caller>,
    pub given_up: bool,
}
