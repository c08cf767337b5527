//! What sessions are asked.

use std::sync::Arc;
use std::task::Context;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::conversation::turn::{OnDisconnect, Turn};
use crate::error::Error;
use crate::pressure::Starting;
use crate::rate_limit::Permit;
use crate::session::{Busy, Place, Running};

/// A turn to be run in its session. The answer goes into `reply`, whose closing means that the client left.
pub struct RunTurn {
    pub turn: Turn,
    pub permit: Permit,
    pub reply: oneshot::Sender<Result<Running, Error>>,
    pub starting: Starting,
}

impl RunTurn {
    /// Whether the client has left, and its turn with it.
    pub fn has_left(&self) -> bool {
        self.reply.is_closed() && self.turn.on_disconnect == OnDisconnect::Cancel
    }

    /// The same; the task is woken when that changes.
    pub fn poll_left(&mut self, task: &mut Context<'_>) -> bool {
        self.turn.on_disconnect == OnDisconnect::Cancel && self.reply.poll_closed(task).is_ready()
    }
}

/// Runs a turn. While the lease lives, the session stays awake.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Begin {
    pub run: RunTurn,
    pub lease: Arc<()>,
}

/// Has the session to itself, between two turns. The answer is a [`Place`], which ends that when it is dropped.
#[derive(Message)]
#[rtype(result = "()")]
pub struct GivePlace {
    pub busy: Busy,
    pub reply: oneshot::Sender<Result<Place, Error>>,
    pub lease: Arc<()>,
}

/// The server is stopping: what waits need not wait for its refusal.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct RefuseWaiting;

/// The session's row has changed: forget what is in memory.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Reload;
