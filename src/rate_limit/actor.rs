//! The actor around the table: it owns it, gives it the time, and sweeps it.

use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::clock::Ticks;
use crate::error::{Error, Refusal};
use crate::rate_limit::Status;
use crate::rate_limit::messages::{Admit, Count, DebitTokens, GiveBack, Leave};
use crate::rate_limit::table::Table;

/// Messages that may wait.
pub const MAILBOX: usize = 256;
/// How often entries that equal a fresh one are dropped.
const SWEEP: Duration = Duration::from_secs(10);

pub struct RateLimiter {
    table: Table,
    clock: Ticks,
    _gone: oneshot::Sender<()>,
}

impl RateLimiter {
    pub fn new(places: u64, gone: oneshot::Sender<()>) -> Self {
        Self { table: Table::new(places), clock: Ticks::start(), _gone: gone }
    }
}

impl Actor for RateLimiter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(SWEEP, |limiter, _| limiter.table.sweep(limiter.clock.now()));
    }
}

impl Handler<Admit> for RateLimiter {
    type Result = MessageResult<Admit>;

    fn handle(&mut self, msg: Admit, _: &mut Self::Context) -> Self::Result {
        let now = self.clock.now();
        let answer: Result<(), Refusal> = self.table.admit(&msg.caller, msg.class, now);
        let status: Status = self.table.status(&msg.caller, msg.class, now);
        MessageResult((answer, status))
    }
}

impl Handler<Count> for RateLimiter {
    type Result = usize;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> Self::Result {
        self.table.len()
    }
}

impl Handler<DebitTokens> for RateLimiter {
    type Result = Result<Status, Error>;

    fn handle(&mut self, msg: DebitTokens, _: &mut Self::Context) -> Self::Result {
        self.table.debit(&msg.caller, msg.tokens, self.clock.now())
    }
}

impl Handler<GiveBack> for RateLimiter {
    type Result = ();

    fn handle(&mut self, msg: GiveBack, _: &mut Self::Context) {
        self.table.give_back(&msg.caller, msg.tokens, self.clock.now());
    }
}

impl Handler<Leave> for RateLimiter {
    type Result = ();

    fn handle(&mut self, msg: Leave, _: &mut Self::Context) {
        self.table.leave(&msg.caller, msg.given_up, self.clock.now());
    }
}
