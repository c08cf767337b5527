//! Who may come in how often, and how many at once.
//!
//! Owns: buckets and running turns, by key and by account. Touches: the clock, and no other actor.
//! A decision takes well under a microsecond, less than a message to another thread would, so whoever asks makes it in
//! place, behind a mutex; the actor sweeps. If it dies: the server drains and exits.

mod actor;
pub mod bucket;
mod entries;
pub mod limits;
pub mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::auth::caller::Caller;
use crate::clock::Ticks;
use crate::error::Error;
use actor::RateLimiter;
use bucket::Level;
pub use table::Class;
use table::Table;

/// How full the tighter of key and account is; what the rate headers tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Requests of the call's class.
    pub requests: Option<Level>,
    /// Tokens.
    pub tokens: Option<Level>,
}

/// Everybody's buckets and places, and the clock that they go by.
struct Tracked {
    table: Table,
    clock: Ticks,
}

impl Tracked {
    fn sweep(&mut self) {
        self.table.sweep(self.clock.now());
    }
}

/// The handle to the limiter. Cheap to clone.
#[derive(Clone)]
pub struct RateLimits(Arc<Mutex<Tracked>>);

impl RateLimits {
    /// Starts the limiter of a server that runs `places` turns at once on `arbiter`. `gone` is dropped when it ends.
    pub fn start(arbiter: &ArbiterHandle, places: u64, gone: oneshot::Sender<()>) -> Self {
        let tracked = Arc::new(Mutex::new(Tracked { table: Table::new(places), clock: Ticks::start() }));
        let limiter = RateLimiter::new(Arc::downgrade(&tracked), gone);
        Actor::start_in_arbiter(arbiter, |_| limiter);
        Self(tracked)
    }

    fn lock(&self) -> MutexGuard<'_, Tracked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many keys and accounts are remembered.
    pub fn entries(&self) -> usize {
        self.lock().table.len()
    }

    /// Lets one call in, or refuses it.
    ///
    /// # Errors
    /// [`Error::RateLimited`], together with what the headers tell.
    pub fn admit(&self, caller: &Arc<Caller>, class: Class) -> (Result<Permit, Error>, Status) {
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
        let tracked = &mut *self.lock();
        let now = tracked.clock.now();
        let admitted = tracked.table.admit(caller, class, now);
        let status = tracked.table.status(caller, class, now);
        (admitted.map(|()| permit(true)).map_err(Error::RateLimited), status)
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
    pub fn debit(&self, tokens: u64) -> Result<TokenDebit, Error> {
        let debit =
            |status| TokenDebit { caller: self.caller.clone(), limits: self.limits.clone(), tokens, status };
        if !table::tokens_limited(&self.caller) {
            return Ok(debit(Status::default()));
        }
        let tracked = &mut *self.limits.lock();
        let now = tracked.clock.now();
        tracked.table.debit(&self.caller, tokens, now).map(debit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.counted && self.class == Class::Chat {
            let tracked = &mut *self.limits.lock();
            tracked.table.leave(&self.caller, self.given_up, tracked.clock.now());
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
            let tracked = &mut *self.limits.lock();
            tracked.table.give_back(&self.caller, unused, tracked.clock.now());
        }
    }
}
