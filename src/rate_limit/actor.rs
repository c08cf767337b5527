//! The actor that keeps the table small: who asks for leave looks into it himself.

use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::rate_limit::Tracked;

/// How often entries that equal a fresh one are dropped.
const SWEEP: Duration = Duration::from_secs(10);

pub struct RateLimiter {
    /// The table goes with the last of its handles, and this actor with it.
    tracked: Weak<Mutex<Tracked>>,
    _gone: oneshot::Sender<()>,
}

impl RateLimiter {
    pub fn new(tracked: Weak<Mutex<Tracked>>, gone: oneshot::Sender<()>) -> Self {
        Self { tracked, _gone: gone }
    }

    fn sweep(&mut self, ctx: &mut Context<Self>) {
        match self.tracked.upgrade() {
            Some(tracked) => tracked.lock().unwrap_or_else(PoisonError::into_inner).sweep(),
            None => ctx.stop(),
        }
    }
}

impl Actor for RateLimiter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(SWEEP, Self::sweep);
    }
}
