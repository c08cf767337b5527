//! Telling accounts what happened to their money, by signed requests to where they want them.
//!
//! The notices are written by the store, in the transactions that make them true; this room delivers them.
//! Owns: which webhook is being called. Touches: the store, and no other actor. Mailbox: [`actor::MAILBOX`].
//! If it dies: the server exits; what was not noted as delivered is sent again by the next start.

mod actor;
pub mod event;
mod sign;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::outbound;
use crate::store::Store;
use actor::{Courier, Stop};
pub use sign::KEY_FILE;
use sign::ServerKey;

/// How long requests under way may take at a stop; what they told is told again if they take longer.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// How webhooks are delivered.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// Whether targets may lie in the operator's own network.
    pub allow_private: bool,
    /// The wait after the first try that failed.
    pub first_retry: Duration,
}

/// The handle to the courier. Cheap to clone; all clones share one slot of its mailbox.
#[derive(Clone)]
pub struct Webhooks {
    courier: Arc<Addr<Courier>>,
    key: ServerKey,
    allow_private: bool,
}

impl Webhooks {
    /// Reads or makes the server's key and starts the courier on `arbiter`. `gone` is dropped when it ends.
    /// `in_use` says whether there are webhooks whose secrets follow from the key.
    ///
    /// # Errors
    /// When the key cannot be read or made.
    pub fn start(
        arbiter: &ArbiterHandle,
        store: Store,
        (data, in_use): (&Path, bool),
        delivery: Delivery,
        gone: oneshot::Sender<()>,
    ) -> anyhow::Result<Self> {
        let (key, made) = ServerKey::load(data)?;
        if made && in_use {
            tracing::warn!("{KEY_FILE} was not there: the secrets of all webhooks are others now");
        }
        let own = key.clone();
        let courier = Actor::start_in_arbiter(arbiter, move |ctx| {
            ctx.set_mailbox_capacity(actor::MAILBOX);
            Courier::new(store, own, delivery, gone)
        });
        Ok(Self { courier: Arc::new(courier), key, allow_private: delivery.allow_private })
    }

    /// Whether a URL may be a target, as far as can be told without looking up its name.
    ///
    /// # Errors
    /// What was expected.
    pub fn check(&self, url: &str) -> Result<(), String> {
        outbound::check(url, self.allow_private)
    }

    /// The secret of a webhook, for its owner.
    pub fn secret(&self, webhook: &str) -> String {
        self.key.secret(webhook).reveal()
    }

    /// Begins no more deliveries and waits shortly for those under way.
    pub async fn stop(&self) {
        if !matches!(timeout(STOP_WAIT, self.courier.send(Stop)).await, Ok(Ok(()))) {
            tracing::warn!("a webhook was being called; the next start calls it again");
        }
    }
}
