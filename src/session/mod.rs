//! Conversations: an actor for each, found through a registry, with one turn at a time.
//!
//! Owns: the conversations in memory. Touches: the store, the limiter, the ledger and a provider, once each a
//! turn. If a session's turn panics, that turn ends and its hold closes itself; the next request starts the
//! session again from the store.

mod actor;
mod attempt;
mod conduct;
pub mod log;
mod messages;
mod prompt;
mod registry;
mod relay;
mod replay;
mod shelf;
mod summary;
pub mod turns;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::billing::Billing;
use crate::billing::money::Nanos;
use crate::budget::Budget;
use crate::conversation::tokens::Ratios;
use crate::conversation::turn::{NamedBy, Turn};
use crate::conversation::usage::Usage;
use crate::credentials::Credentials;
use crate::error::{Error, Stop};
use crate::id::{AccountId, AgentId, CompletionId, SessionName};
use crate::json::Raw;
use crate::provider::{Providers, Routes};
use crate::rate_limit::{Permit, Status};
use crate::store::Store;
use log::Reader;
use messages::{RefuseWaiting, Reload, RunTurn, TakePlace};
use registry::Registry;
pub use replay::as_chunks;
use tokio::time::timeout;
use turns::{Found, TurnInfo, Turns};

/// How long a cancelled turn may take to end before its canceller is answered that it still runs.
const CANCEL_WAIT: Duration = Duration::from_secs(10);

/// The most that all conversations together take up in memory between their turns, in bytes. Others are read again.
pub const MAX_KEPT: usize = 64 * 1024 * 1024;

/// Which conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Whose.
    pub account: AccountId,
    /// With whom.
    pub agent: AgentId,
    /// Under which name.
    pub name: SessionName,
}

/// What every session needs; each thread that runs sessions makes its own.
#[derive(Clone)]
pub struct Rooms {
    /// Where models are called.
    pub routes: Routes,
    /// What tenants bring to call models with.
    pub credentials: Credentials,
    /// Where conversations are kept.
    pub store: Store,
    /// Where money is.
    pub billing: Billing,
    /// The turns that run.
    pub turns: Turns,
    /// What tokens are like, by model.
    pub ratios: Ratios,
    /// What requests, to the server and to providers, may take up in memory.
    pub bodies: Budget,
    /// What conversations may take up there between their turns.
    pub kept: Budget,
}

/// The same, with the provider clients of one thread.
pub(crate) struct LocalRooms {
    pub(crate) rooms: Rooms,
    pub(crate) providers: Providers,
}

/// The handle to all sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    shards: Arc<[Addr<Registry>]>,
    turns: Turns,
    store: Store,
}

impl Sessions {
    /// Starts a registry on each of the arbiters. A session idle for `idle` leaves memory.
    pub fn start(
        arbiters: &[ArbiterHandle],
        rooms: &Rooms,
        idle: Duration,
        mut gone: impl FnMut() -> oneshot::Sender<()>,
    ) -> Self {
        let one = |arbiter: &ArbiterHandle| {
            let (rooms, gone) = (rooms.clone(), gone());
            Registry::start_in_arbiter(arbiter, move |ctx| {
                ctx.set_mailbox_capacity(registry::MAILBOX);
                Registry::new(rooms, idle, gone)
            })
        };
        Self {
            shards: arbiters.iter().map(one).collect(),
            turns: rooms.turns.clone(),
            store: rooms.store.clone(),
        }
    }

    /// The turns that run.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Runs a turn in its session, or gives the answer again that it had under its idempotency key. Answers at
    /// the provider's first event. Dropping the future, or what it
    /// answers, ends the turn as the client's leaving does.
    ///
    /// # Errors
    /// Everything that can be refused before the first byte.
    pub async fn run(&self, turn: Turn, permit: Permit) -> Result<Running, Error> {
        if let Some(answered) = replay::look_up(&self.store, &self.turns, &turn).await? {
            return Ok(answered);
        }
        let key = SessionKey {
            account: turn.agent.account.clone(),
            agent: turn.agent.id.clone(),
            name: turn.session.clone(),
        };
        if turn.caller.public && turn.named_by == NamedBy::Client {
            self.check_public(key.clone()).await?;
        }
        let (reply, answer) = oneshot::channel();
        let run = RunTurn { key, turn, permit, reply };
        let gone = |what: &str| Error::Internal(format!("the session {what}"));
        self.shard(&run.key).send(run).await.map_err(|_| gone("registry is gone"))?;
        answer.await.map_err(|_| gone("ended before it answered"))?
    }

    /// A name can be guessed: a key that stands in a web page goes on only with names that we made. Asked before the
    /// session hears of the turn, which could end another one or take its place.
    async fn check_public(&self, key: SessionKey) -> Result<(), Error> {
        let find = move |conn: &mut _| {
            let (account, agent, name) = (key.account.as_str(), key.agent.as_str(), key.name.as_str());
            crate::store::session::find(conn, account, agent, name)
        };
        let found = self.store.read(find).await?;
        if found.is_some_and(|row| row.named_by == "server") { Ok(()) } else { Err(Error::SessionNotFound) }
    }

    /// Ends the turn of that id and waits until it has ended; `None` for one that is not known or not `allowed`.
    pub async fn cancel(&self, id: &CompletionId, allowed: impl Fn(&TurnInfo) -> bool) -> Option<Found> {
        let found = self.turns.find(id, &allowed)?;
        if found.outcome.is_some() {
            return Some(found);
        }
        self.turns.stop(id, Stop::Cancelled);
        if timeout(CANCEL_WAIT, self.turns.has_ended(id)).await.is_err() {
            tracing::warn!(completion = %id, "a cancelled turn takes long to end");
        }
        // Its session may have been deleted meanwhile.
        Some(self.turns.find(id, &allowed).unwrap_or(found))
    }

    /// Refuses the turns that wait, since the server is stopping. Those that run go on.
    pub async fn refuse_waiting(&self) {
        for shard in self.shards.iter() {
            if shard.send(RefuseWaiting).await.is_err() {
                tracing::error!("a session registry is gone");
            }
        }
    }

    /// Makes a session in memory forget what it knows, after its row changed.
    pub async fn reload(&self, key: SessionKey) {
        let shard = self.shard(&key).clone();
        if shard.send(Reload { key }).await.is_err() {
            tracing::error!("a session registry is gone");
        }
    }

    /// Waits until no turn runs in a session and keeps others from starting until the place is dropped; then the
    /// session reads anew what is stored.
    ///
    /// # Errors
    /// [`Error::SessionBusy`] if turns run or wait, unless they shall end.
    pub async fn place(&self, key: SessionKey, busy: Busy) -> Result<Place, Error> {
        let (reply, answer) = oneshot::channel();
        let gone = |what: &str| Error::Internal(format!("the session {what}"));
        let shard = self.shard(&key).clone();
        shard.send(TakePlace { key, busy, reply }).await.map_err(|_| gone("registry is gone"))?;
        answer.await.map_err(|_| gone("ended before it answered"))?
    }

    fn shard(&self, key: &SessionKey) -> &Addr<Registry> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let at = hasher.finish() % self.shards.len() as u64;
        &self.shards[usize::try_from(at).unwrap_or(0)]
    }
}

/// What somebody does who wants a session to himself and finds it busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// He is refused.
    Refuse,
    /// What runs and waits ends, in order, and he is next.
    End,
}

/// A session that nobody else works in. A turn that comes meanwhile waits.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "dropping it tells the session")] oneshot::Sender<()>);

/// A turn that has begun to answer.
pub struct Running {
    /// The answer's id.
    pub completion: CompletionId,
    /// The session it belongs to.
    pub session: SessionName,
    /// How many of the sent messages were known already.
    pub matched: usize,
    /// How many turns were left out of the prompt.
    pub dropped: usize,
    /// The bound of the answer, where neither the client nor the agent named one.
    pub max_output: Option<u64>,
    /// Who serves it, where the caller may know.
    pub served: Option<String>,
    /// Whether this is an answer that was given before.
    pub replayed: bool,
    /// What the rate headers tell of tokens.
    pub tokens: Status,
    /// What happens, in order; the last one is [`TurnEvent::Ended`] or [`TurnEvent::Failed`].
    pub events: Reader,
}

/// What happens in a turn.
#[derive(Clone, Debug)]
pub enum TurnEvent {
    /// A chunk of the provider's, as it came.
    Delta(Bytes),
    /// The turn is over and was charged.
    Ended(Arc<Ended>),
    /// The turn is over before its end; what was received was charged.
    Failed(Error),
}

/// The end of a turn, told after the commit.
#[derive(Debug)]
pub struct Ended {
    /// The chunks that tell the end, or the whole answer of a plain call.
    pub tail: Vec<Bytes>,
    /// Whether it was a plain call.
    pub plain: bool,
    /// The provider's chunk with usage alone, if it sent one.
    pub usage_chunk: Option<Bytes>,
    /// The tokens that were charged for.
    pub usage: Usage,
    /// The same in the provider's own words, if it told.
    pub usage_raw: Option<Raw>,
    /// What was charged.
    pub charged: Nanos,
    /// The account's balance after it.
    pub balance: Nanos,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// The whole text, of a plain call.
    pub content: Option<String>,
    /// From the request to the first event, in milliseconds.
    pub ttft_ms: u64,
    /// From the request to the end, in milliseconds.
    pub duration_ms: u64,
}
