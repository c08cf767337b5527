//! Conversations: an actor for each that is in use, found through a registry, with one turn at a time.
//!
//! Owns: the conversations in memory. Touches: the store, the limiter, the ledger and a provider, once each a
//! turn. If a session's turn panics, that turn ends and its hold closes itself; the next request starts the
//! session again from the store.

mod actor;
mod attempt;
mod conduct;
mod first;
pub mod log;
mod lot;
mod messages;
pub mod prompt;
mod registry;
mod relay;
mod replay;
mod shelf;
mod summary;
pub mod turns;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::auth::keyring::Keyring;
use crate::billing::Billing;
use crate::billing::money::Nanos;
use crate::budget::Budget;
use crate::conversation::outline::Outline;
use crate::conversation::tokens::Ratios;
use crate::conversation::turn::{NamedBy, Turn};
use crate::conversation::usage::Usage;
use crate::credentials::Credentials;
use crate::error::{Error, Stop};
use crate::id::{AccountId, AgentId, CompletionId, SessionName};
use crate::json::Raw;
use crate::pressure::Pressure;
use crate::provider::{Providers, Routes};
use crate::rate_limit::{Permit, Status};
use crate::store::Store;
use log::Reader;
use messages::{Begin, GivePlace, RunTurn};
use registry::{Registry, Upkeep};
pub use replay::as_chunks;
use tokio::time::timeout;
use turns::{Found, TurnInfo, Turns};

/// How long a cancelled turn may take to end before its canceller is answered that it still runs.
const CANCEL_WAIT: Duration = Duration::from_secs(10);

/// The most that all conversations together take up in memory between their turns, in bytes, where nothing else is said. For
/// more, some of those leave that have not been used for long, and are read again by their next turn.
pub const DEFAULT_SESSION_MEMORY: usize = 256 * 1024 * 1024;

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

/// What every session needs.
#[derive(Clone)]
pub struct Rooms {
    /// Who is known by which key.
    pub keyring: Keyring,
    /// Whether turns begin in time.
    pub pressure: Pressure,
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

impl LocalRooms {
    /// Those of this thread, for the registry of that `number`.
    fn here(rooms: &Rooms, number: u64) -> Rc<Self> {
        thread_local! {
            static LOCAL: RefCell<Option<(u64, Rc<LocalRooms>)>> = const { RefCell::new(None) };
        }
        LOCAL.with_borrow_mut(|local| match local {
            Some((known, local)) if *known == number => local.clone(),
            _ => {
                let made =
                    Rc::new(Self { rooms: rooms.clone(), providers: Providers::connect(&rooms.routes) });
                *local = Some((number, made.clone()));
                made
            }
        })
    }
}

/// The handle to all sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    registry: Registry,
    turns: Turns,
    store: Store,
}

impl Sessions {
    /// Starts their upkeep on `arbiter`. A session idle for `idle` leaves memory.
    pub fn start(arbiter: &ArbiterHandle, rooms: Rooms, idle: Duration, gone: oneshot::Sender<()>) -> Self {
        let (turns, store) = (rooms.turns.clone(), rooms.store.clone());
        let registry = Registry::new(rooms);
        let upkeep = Upkeep::new(registry.clone(), idle, gone);
        Actor::start_in_arbiter(arbiter, |_| upkeep);
        Self { registry, turns, store }
    }

    /// Makes ready what turns need on this thread, so that the first one does not wait for it.
    pub fn prepare(&self) {
        drop(self.registry.local());
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
        let run = RunTurn { turn, permit, reply, starting: self.registry.start() };
        self.registry.send(&key, |lease| Begin { run, lease });
        answer.await.map_err(|_| ended())?
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
    pub fn refuse_waiting(&self) {
        self.registry.refuse_waiting();
    }

    /// Makes a session in memory forget what it knows, after its row changed.
    pub fn reload(&self, key: &SessionKey) {
        self.registry.reload(key);
    }

    /// Waits until no turn runs in a session and keeps others from starting until the place is dropped; then the
    /// session reads anew what is stored.
    ///
    /// # Errors
    /// [`Error::SessionBusy`] if turns run or wait, unless they shall end.
    pub async fn place(&self, key: &SessionKey, busy: Busy) -> Result<Place, Error> {
        let (reply, answer) = oneshot::channel();
        self.registry.send(key, |lease| GivePlace { busy, reply, lease });
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> Error {
    Error::Internal("the session ended before it answered".to_owned())
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
    pub served: Option<Arc<str>>,
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
    Failed(Box<Error>),
}

/// The end of a turn, told after the commit.
#[derive(Debug)]
pub struct Ended {
    /// The chunks that tell the end, or the whole answer of a plain call.
    pub tail: Vec<Bytes>,
    /// Where the parts of that answer stand, if somebody looked.
    pub outline: Option<Outline>,
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
