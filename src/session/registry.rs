//! Which sessions are in memory, and where: awake on the thread of the client that woke them, or at rest.
//!
//! A session that is awake is an actor. With nothing more to do it leaves its conversation here and ends; who asks for it
//! next wakes it on his own thread. So a turn nearly always runs beside its client's connection, and what the provider
//! sends reaches the client without another thread.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::prelude::*;
use foldhash::HashMap;
use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use crate::budget::Share;
use crate::metrics;
use crate::pressure::Starting;
use crate::session::actor::Session;
use crate::session::conduct::Conversation;
use crate::session::lot::{self, Lot};
use crate::session::messages::{RefuseWaiting, Reload};
use crate::session::turns::Turns;
use crate::session::{LocalRooms, Rooms, SessionKey};

/// How often idle sessions are looked for, at most.
const SWEEP: Duration = Duration::from_secs(10);
/// Parts of the map, each with a lock of its own.
const PARTS: usize = 32;
/// The most conversations that leave memory for one that is to stay.
const MOST_LEAVE: usize = 256;

/// The handle to all sessions that are in memory. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    parts: Vec<Mutex<Part>>,
    digests: RandomState,
    /// Where the next one is looked for that leaves.
    hand: AtomicUsize,
    rooms: Rooms,
    /// Tells one server's registry from another's in the same process.
    number: u64,
}

#[derive(Default)]
struct Part {
    residents: HashMap<SessionKey, Resident>,
    /// Those who may leave, each with its ticket.
    lot: Lot<(SessionKey, u64)>,
    /// Tickets given so far.
    tickets: u64,
}

struct Resident {
    state: State,
    used: Instant,
    /// Its place in the lot, if it has one; the key alone may be that of another one before it.
    ticket: Option<u64>,
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
            digests: RandomState::default(),
            hand: AtomicUsize::new(0),
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

    fn part(&self, key: &SessionKey) -> MutexGuard<'_, Part> {
        let at = self.0.digests.hash_one(key) % PARTS as u64;
        self.part_at(usize::try_from(at).unwrap_or(0))
    }

    fn part_at(&self, at: usize) -> MutexGuard<'_, Part> {
        self.0.parts[at % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
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
            Resident { state, used: Instant::now(), ticket: None, _counted: metrics::Resident::enter() }
        };
        let resident = part.residents.entry(key.clone()).or_insert_with(fresh);
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
    ) -> Result<(), Option<Box<Conversation>>> {
        let conversation = conversation.and_then(|own| {
            let share = Some(self.room(own.history.size())?);
            Some(Box::new(Conversation { share, ..own }))
        });
        let mut part = self.part(key);
        let Part { residents, lot, tickets } = &mut *part;
        let Some(resident) = residents.get_mut(key) else { return Ok(()) };
        let State::Awake { lease, changed, .. } = &resident.state else { return Ok(()) };
        if Arc::strong_count(lease) > 1 {
            return Err(conversation);
        }
        match conversation.filter(|_| !changed) {
            Some(conversation) => {
                resident.state = State::Resting(conversation);
                resident.used = Instant::now();
                resident.ticket.get_or_insert_with(|| {
                    *tickets += 1;
                    lot.add((key.clone(), *tickets));
                    *tickets
                });
            }
            None => drop(residents.remove(key)),
        }
        Ok(())
    }

    /// Room for so many bytes, for which others may have to leave that rest; none if that does not help.
    fn room(&self, bytes: usize) -> Option<Share> {
        let kept = &self.0.rooms.kept;
        for _ in 0..MOST_LEAVE {
            if let Some(share) = kept.take(bytes) {
                return Some(share);
            }
            if bytes > kept.most() || !self.let_one_go() {
                return None;
            }
        }
        None
    }

    fn let_one_go(&self) -> bool {
        for _ in 0..PARTS {
            let mut part = self.part_at(self.0.hand.fetch_add(1, Ordering::Relaxed));
            let Part { residents, lot, .. } = &mut *part;
            let drawn = lot.draw(|(key, ticket)| match residents.get(key) {
                Some(resident) if resident.ticket != Some(*ticket) => lot::State::Gone,
                Some(Resident { state: State::Resting(_), used, .. }) => lot::State::Resting(*used),
                Some(_) => lot::State::Busy,
                None => lot::State::Gone,
            });
            let left = drawn.and_then(|(key, _)| residents.remove(&key));
            drop(part);
            if left.is_some() {
                return true;
            }
        }
        false
    }

    /// A session forgets what it knows, since its row has changed.
    pub fn reload(&self, key: &SessionKey) {
        let residents = &mut self.part(key).residents;
        match residents.get_mut(key).map(|resident| &mut resident.state) {
            Some(State::Awake { session, changed, .. }) => {
                *changed = true;
                session.do_send(Reload);
            }
            Some(State::Resting(_)) => drop(residents.remove(key)),
            None => {}
        }
    }

    /// The turns that wait are refused, since the server is stopping.
    pub fn refuse_waiting(&self) {
        for part in &self.0.parts {
            for resident in part.lock().unwrap_or_else(PoisonError::into_inner).residents.values() {
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
            let Part { residents, lot, .. } = &mut *part;
            residents.retain(|_, resident| match &resident.state {
                State::Resting(_) => resident.used.elapsed() < idle,
                State::Awake { session, .. } => session.connected(),
            });
            lot.retain(|(key, ticket)| residents.get(key).is_some_and(|own| own.ticket == Some(*ticket)));
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
