//! Which session runs where: one registry a thread, each with the sessions of its share.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::metrics;
use crate::provider::Providers;
use crate::session::actor::Session;
use crate::session::messages::{Begin, GivePlace, RefuseWaiting, Reload, RunTurn, TakePlace};
use crate::session::{LocalRooms, Rooms, SessionKey};

/// Messages that may wait.
pub const MAILBOX: usize = 256;
/// How often idle sessions are looked for, at most.
const SWEEP: Duration = Duration::from_secs(10);

pub struct Registry {
    sessions: HashMap<SessionKey, Resident>,
    rooms: Rooms,
    local: Option<Rc<LocalRooms>>,
    idle: Duration,
    _gone: oneshot::Sender<()>,
}

struct Resident {
    session: Addr<Session>,
    /// Every turn on its way or running holds a clone: alone means idle. Only this registry makes clones.
    lease: Arc<()>,
    used: Instant,
    _counted: metrics::Resident,
}

impl Registry {
    pub fn new(rooms: Rooms, idle: Duration, gone: oneshot::Sender<()>) -> Self {
        Self { sessions: HashMap::new(), rooms, local: None, idle, _gone: gone }
    }

    fn local(&mut self) -> Rc<LocalRooms> {
        let rooms = &self.rooms;
        let local = self.local.get_or_insert_with(|| {
            let providers = Providers::connect(&rooms.routes);
            Rc::new(LocalRooms { rooms: rooms.clone(), providers })
        });
        local.clone()
    }

    fn resident(&mut self, key: SessionKey) -> &Resident {
        let local = self.local();
        let start = || Resident {
            session: Session::new(local).start(),
            lease: Arc::new(()),
            used: Instant::now(),
            _counted: metrics::Resident::enter(),
        };
        let resident = self.sessions.entry(key).or_insert_with(start);
        resident.used = Instant::now();
        resident
    }

    /// Lets idle sessions go. A session whose last address is dropped stops by itself.
    fn sweep(&mut self) {
        let idle = self.idle;
        self.sessions.retain(|_, resident| {
            let in_use = Arc::strong_count(&resident.lease) > 1;
            if in_use {
                resident.used = Instant::now();
            }
            in_use || resident.used.elapsed() < idle
        });
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.idle.min(SWEEP), |registry, _| registry.sweep());
        self.local();
    }
}

impl Handler<RunTurn> for Registry {
    type Result = ();

    fn handle(&mut self, run: RunTurn, _: &mut Self::Context) {
        let resident = self.resident(run.key.clone());
        // Bounded by the turns that were admitted; the session refuses what is too much for it.
        resident.session.do_send(Begin { run, lease: resident.lease.clone() });
    }
}

impl Handler<TakePlace> for Registry {
    type Result = ();

    fn handle(&mut self, TakePlace { key, busy, reply }: TakePlace, _: &mut Self::Context) {
        let resident = self.resident(key);
        // Bounded by the management calls that were admitted.
        resident.session.do_send(GivePlace { busy, reply, lease: resident.lease.clone() });
    }
}

impl Handler<RefuseWaiting> for Registry {
    type Result = ();

    fn handle(&mut self, refuse: RefuseWaiting, _: &mut Self::Context) {
        // Once in the life of the server. Who waits holds a lease.
        let in_use = self.sessions.values().filter(|resident| Arc::strong_count(&resident.lease) > 1);
        in_use.for_each(|resident| resident.session.do_send(refuse));
    }
}

impl Handler<Reload> for Registry {
    type Result = ();

    fn handle(&mut self, reload: Reload, _: &mut Self::Context) {
        if let Some(resident) = self.sessions.get(&reload.key) {
            resident.session.do_send(reload);
        }
    }
}
