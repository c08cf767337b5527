//! Who may come in how often, and how many at once.
//!
//! Owns: buckets and running turns, by key and by account. Touches: the clock, and no other actor.
//! Mailbox: [`actor::MAILBOX`]. If it dies: the server drains and exits.

mod actor;
pub mod bucket;
mod entries;
pub mod limits;
mod messages;
pub mod table;

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::auth::caller::Caller;
use crate::error::Error;
use actor::RateLimiter;
use bucket::Level;
use messages::{Admit, Count, DebitTokens, GiveBack, Leave};
pub use table::Class;

/// How full the tighter of key and account is; what the rate headers tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Requests of the call's class.
    pub requests: Option<Level>,
    /// Tokens.
    pub tokens: Option<Level>,
}

/// The handle to the limiter. Cheap to clone; all clones share one slot of its mailbox.
#[derive(Clone)]
pub struct RateLimits(Arc<Addr<RateLimiter>>);

impl RateLimits {
    /// Starts the limiter of a server that runs `places` turns at once on `arbiter`. `gone` is dropped when it ends.
    pub fn start(arbiter: &ArbiterHandle, places: u64, gone: oneshot::Sender<()>) -> Self {
        let limiter = RateLimiter::new(places, gone);
        Self(Arc::new(Actor::start_in_arbiter(arbiter, |ctx| {
            ctx.set_mailbox_capacity(actor::MAILBOX);
            limiter
        })))
    }

    /// How many keys and accounts are remembered.
    pub async fn entries(&self) -> usize {
        self.0.send(Count).await.unwrap_or(0)
    }

    /// Lets one call in, or refuses it.
    ///
    /// # Errors
    /// [`Error::RateLimited`], together with what the headers tell.
    pub async fn admit(&self, caller: &Arc<Caller>, class: Class) -> (Result<Permit, Error>, Status) {
        let permit = |counted| Permit {
            caller: caller.clone(),
            limits: self.clone(),
            class,
            counted,
            given_up: false,
        };
        if !table::limited(caller, class) {
            return (Ok(permit(false)), Status::default());
        }
        match self.0.send(Admit { caller: caller.clone(), class }).await {
            Ok((Ok(()), status)) => (Ok(permit(true)), status),
            Ok((Err(refusal), status)) => (Err(Error::RateLimited(refusal)), status),
            Err(gone) => (Err(Error::Internal(format!("the rate limiter: {gone}"))), Status::default()),
        }
    }
}

/// Leave to run one call. Gives its place back when dropped.
pub struct Permit {
    caller: Arc<Caller>,
    limits: RateLimits,
    class: Class,
    counted: bool,
    given_up: bool,
}

impl Permit {
    /// The client left before the first byte, after the provider was called.
    pub fn give_up(mut self) {
        self.given_up = true;
    }

    /// Takes `tokens` from the buckets of the key and its account.
    ///
    /// # Errors
    /// [`Error::RateLimited`] when they do not fit now, [`Error::Invalid`] when they never would.
    pub async fn debit(&self, tokens: u64) -> Result<TokenDebit, Error> {
        let debit =
            |status| TokenDebit { caller: self.caller.clone(), limits: self.limits.clone(), tokens, status };
        if !table::tokens_limited(&self.caller) {
            return Ok(debit(Status::default()));
        }
        let answer = self.limits.0.send(DebitTokens { caller: self.caller.clone(), tokens }).await;
        let status = answer.map_err(|gone| Error::Internal(format!("the rate limiter: {gone}")))??;
        Ok(debit(status))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.counted && self.class == Class::Chat {
            // Bounded by the permits that were given.
            self.limits.0.do_send(Leave { caller: self.caller.clone(), given_up: self.given_up });
        }
    }
}

/// Tokens that were taken for a turn. What the turn did not use goes back with [`TokenDebit::used`].
pub struct TokenDebit {
    caller: Arc<Caller>,
    limits: RateLimits,
    tokens: u64,
    /// What the headers tell.
    pub status: Status,
}

impl TokenDebit {
    /// The turn used this many; the rest goes back.
    pub fn used(self, tokens: u64) {
        let unused = self.tokens.saturating_sub(tokens);
        if unused > 0 && table::tokens_limited(&self.caller) {
            // Bounded by the debits that were made.
            self.limits.0.do_send(GiveBack { caller: self.caller, tokens: unused });
        }
    }
}
