//! What registries and sessions are asked.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::conversation::turn::{OnDisconnect, Turn};
use crate::error::Error;
use crate::rate_limit::Permit;
use crate::session::{Running, SessionKey};

/// Runs a turn in its session. The answer goes into `reply`, whose closing means that the client left.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RunTurn {
    pub key: SessionKey,
    pub turn: Turn,
    pub permit: Permit,
    pub reply: oneshot::Sender<Result<Running, Error>>,
}

impl RunTurn {
    /// Whether the client has left, and its turn with it.
    pub fn has_left(&self) -> bool {
        self.reply.is_closed() && self.turn.on_disconnect == OnDisconnect::Cancel
    }
}

/// The same on its way from the registry to the session. While the lease lives, the session stays in memory.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Begin {
    pub run: RunTurn,
    pub lease: Arc<()>,
}

/// The session's row has changed: forget what is in memory. With `cancel`, a running turn ends.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload {
    pub key: SessionKey,
    pub cancel: bool,
}
