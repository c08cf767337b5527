//! Which sessions are in memory, and where: awake on the thread of the client that woke them, or at rest.
//!
//! A session that is awake is an actor. With nothing more to do it leaves its conversation here and ends; who asks for it
//! next wakes it on his own thread. So a turn nearly always runs beside its client's connection, and what the provider
//! sends reaches the client without another thread.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::prelude::*;
use tokio::sync::oneshot;

use crate::metrics;
use crate::pressure::Starting;
use crate::session::actor::Session;
use crate::session::conduct::Conversation;
use crate::session::messages::{RefuseWaiting, Reload};
use crate::session::turns::Turns;
use crate::session::{LocalRooms, Rooms, SessionKey};

/// How often idle sessions are looked for, at most.
const SWEEP: Duration = Duration::from_secs(10);
/// Parts of the map, each with a lock of its own.
const PARTS: usize = 32;

/// The handle to all sessions that are in memory. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    parts: Vec<Mutex<HashMap<SessionKey, Resident>>>,
    digests: RandomState,
    rooms: Rooms,
    /// Tells one server's registry from another's in the same process.
    number: u64,
}

struct Resident {
    state: State,
    used: Instant,
    _counted: metrics::Resident,
}

enum State {
    Resting(Box<Conversation>),
    Awake {
        session: Addr<Session>,
        /// Whoever is on his way to the session, or waits or runs in it, holds a clone: alone means idle. Clones are
        /// made under the lock alone, so that nothing slips between the question and its answer.
        lease: Arc<()>,
        /// Whether the row changed since it woke up: what it brings back may be old.
        changed: bool,
    },
}

impl Registry {
    pub fn new(rooms: Rooms) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(Shared {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            digests: RandomState::new(),
            rooms,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
        }))
    }

    /// What sessions need on this thread.
    pub fn local(&self) -> std::rc::Rc<LocalRooms> {
        LocalRooms::here(&self.0.rooms, self.0.number)
    }

    /// A turn's request is here.
    pub fn start(&self) -> Starting {
        self.0.rooms.pressure.start()
    }

    /// The list of turns.
    pub fn turns(&self) -> &Turns {
        &self.0.rooms.turns
    }

    fn part(&self, key: &SessionKey) -> MutexGuard<'_, HashMap<SessionKey, Resident>> {
        let at = self.0.digests.hash_one(key) % PARTS as u64;
        let part = &self.0.parts[usize::try_from(at).unwrap_or(0)];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a session what `message` makes of a lease, and wakes it on this thread unless it is awake.
    ///
    /// How much may be on its way is bounded by the turns and calls that were admitted.
    pub fn send<M>(&self, key: &SessionKey, message: impl FnOnce(Arc<()>) -> M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        Session: Handler<M>,
        Context<Session>: ToEnvelope<Session, M>,
    {
        let mut part = self.part(key);
        let fresh = || {
            let state = self.wake(key, None);
            Resident { state, used: Instant::now(), _counted: metrics::Resident::enter() }
        };
        let resident = part.entry(key.clone()).or_insert_with(fresh);
        let known = match &mut resident.state {
            State::Awake { session, .. } if session.connected() => None,
            // An actor that is gone without a word went with its thread.
            State::Awake { .. } => Some(None),
            State::Resting(conversation) => Some(Some(std::mem::take(&mut **conversation))),
        };
        if let Some(known) = known {
            resident.state = self.wake(key, known);
        }
        if let State::Awake { session, lease, .. } = &resident.state {
            session.do_send(message(lease.clone()));
        }
    }

    fn wake(&self, key: &SessionKey, conversation: Option<Conversation>) -> State {
        let session = Session::new(self.clone(), key.clone(), conversation).start();
        State::Awake { session, lease: Arc::new(()), changed: false }
    }

    /// Takes what a session knows, which ends then; gives it back if somebody is on his way to the session.
    pub fn rest(
        &self,
        key: &SessionKey,
        conversation: Option<Conversation>,
    ) -> Result<(), Option<Conversation>> {
        let mut part = self.part(key);
        let Some(resident) = part.get_mut(key) else { return Ok(()) };
        let State::Awake { lease, changed, .. } = &resident.state else { return Ok(()) };
        if Arc::strong_count(lease) > 1 {
            return Err(conversation);
        }
        match conversation.filter(|_| !changed) {
            Some(conversation) => {
                resident.state = State::Resting(Box::new(conversation));
                resident.used = Instant::now();
            }
            None => drop(part.remove(key)),
        }
        Ok(())
    }

    /// A session forgets what it knows, since its row has changed.
    pub fn reload(&self, key: &SessionKey) {
        let mut part = self.part(key);
        match part.get_mut(key).map(|resident| &mut resident.state) {
            Some(State::Awake { session, changed, .. }) => {
                *changed = true;
                session.do_send(Reload);
            }
            Some(State::Resting(_)) => drop(part.remove(key)),
            None => {}
        }
    }

    /// The turns that wait are refused, since the server is stopping.
    pub fn refuse_waiting(&self) {
        for part in &self.0.parts {
            for resident in part.lock().unwrap_or_else(PoisonError::into_inner).values() {
                if let State::Awake { session, .. } = &resident.state {
                    // Once in the life of the server.
                    session.do_send(RefuseWaiting);
                }
            }
        }
    }

    fn sweep(&self, idle: Duration) {
        for part in &self.0.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.retain(|_, resident| match &resident.state {
                State::Resting(_) => resident.used.elapsed() < idle,
                State::Awake { session, .. } => session.connected(),
            });
        }
    }
}

/// The actor that lets sessions go which nobody uses.
pub struct Upkeep {
    registry: Registry,
    idle: Duration,
    _gone: oneshot::Sender<()>,
}

impl Upkeep {
    /// A session that has rested for `idle` leaves memory.
    pub fn new(registry: Registry, idle: Duration, gone: oneshot::Sender<()>) -> Self {
        Self { registry, idle, _gone: gone }
    }
}

impl Actor for Upkeep {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.idle.min(SWEEP), |upkeep, _| upkeep.registry.sweep(upkeep.idle));
    }
}
