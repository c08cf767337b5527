//! One conversation: at most one running turn, a bounded queue of waiting ones.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::conversation::turn::Conflict;
use crate::error::{Error, Stop};
use crate::id::CompletionId;
use crate::metrics;
use crate::session::conduct::{self, Conversation};
use crate::session::messages::{Begin, GivePlace, RefuseWaiting, Reload, RunTurn};
use crate::session::registry::Registry;
use crate::session::{Busy, Place, SessionKey};

/// Turns that may wait for their place.
pub const WAITING: usize = 8;
/// How long a turn waits for its place.
pub const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// How long a turn that was told to end is left alone before it is told again.
const STOP_AGAIN: Duration = Duration::from_millis(200);

pub struct Session {
    registry: Registry,
    key: SessionKey,
    /// What the store has; `None` before it was read, and while a turn has it.
    conversation: Option<Conversation>,
    running: Option<CompletionId>,
    /// The row changed while a turn ran: what that turn brings back is old.
    stale: bool,
    waiting: VecDeque<Waiting>,
    /// Whether somebody has the session to himself.
    taken: bool,
    /// Those who want it to themselves. They come before turns.
    takers: VecDeque<GivePlace>,
    /// Whether the one timer runs that looks for turns that have waited too long.
    timed: bool,
    /// Whether [`Leaving`] runs.
    watched: bool,
}

struct Waiting {
    run: RunTurn,
    lease: Arc<()>,
    since: Instant,
    _counted: metrics::Waiting,
}

/// Lets turns go whose clients leave while they wait: what they hold, such as a place among the turns that a key may
/// run at once, is free at once. Runs while any wait.
struct Leaving;

impl ActorFuture<Session> for Leaving {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        session: &mut Session,
        _: &mut Context<Session>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        session.waiting.retain_mut(|waiting| !waiting.run.poll_left(task));
        session.watched = !session.waiting.is_empty();
        if session.watched { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Session {
    /// A session that knows this of its conversation.
    pub fn new(registry: Registry, key: SessionKey, conversation: Option<Conversation>) -> Self {
        Self {
            registry,
            key,
            conversation,
            running: None,
            stale: false,
            waiting: VecDeque::new(),
            taken: false,
            takers: VecDeque::new(),
            timed: false,
            watched: false,
        }
    }

    fn start(&mut self, run: RunTurn, lease: Arc<()>, ctx: &mut Context<Self>) {
        self.running = Some(run.turn.completion.clone());
        self.stale = false;
        // A task of its own: a panic in it ends this turn alone.
        let (local, key) = (self.registry.local(), self.key.clone());
        let turn = actix::spawn(conduct::conduct(local, key, self.conversation.take(), run));
        let watch = turn.into_actor(self).map(move |ended, session, ctx| {
            match ended {
                Ok(conversation) => session.conversation = conversation.filter(|_| !session.stale),
                Err(panic) => tracing::error!(%panic, "a turn ended by a defect"),
            }
            session.running = None;
            drop(lease);
            session.next(ctx);
        });
        ctx.spawn(watch);
    }

    fn is_busy(&self) -> bool {
        self.taken || self.running.is_some()
    }

    /// Why a turn that comes now is refused, if it is.
    fn refusal(&mut self, conflict: Conflict) -> Option<Error> {
        if !self.is_busy() {
            return None;
        }
        // A client that left has given up its place.
        self.waiting.retain(|waiting| !waiting.run.has_left());
        match conflict {
            Conflict::Reject => Some(Error::SessionBusy),
            Conflict::Queue | Conflict::Interrupt => {
                (self.waiting.len() >= WAITING).then_some(Error::SessionQueueFull)
            }
        }
    }

    /// Starts a turn, or has it wait.
    fn take_in(&mut self, Begin { mut run, lease }: Begin, ctx: &mut Context<Self>) {
        if !self.is_busy() {
            return self.start(run, lease, ctx);
        }
        run.starting.waits();
        let interrupts = run.turn.conflict == Conflict::Interrupt;
        let counted = metrics::Waiting::enter();
        let waiting = Waiting { run, lease, since: Instant::now(), _counted: counted };
        if interrupts {
            self.waiting.push_front(waiting);
            self.interrupt(ctx);
        } else {
            self.waiting.push_back(waiting);
        }
        if !self.timed {
            self.expire(ctx);
        }
        if !std::mem::replace(&mut self.watched, true) {
            ctx.spawn(Leaving);
        }
    }

    /// Puts somebody who wants the session to himself before all turns; what runs and waits ends for him if he says so.
    fn let_in(&mut self, taker: GivePlace, ctx: &mut Context<Self>) {
        if taker.busy == Busy::End {
            for waiting in self.waiting.drain(..) {
                let _ = waiting.run.reply.send(Err(Error::Stopped(Stop::Cancelled)));
            }
        }
        self.takers.push_back(taker);
        if self.is_busy() {
            self.end_running(ctx);
        } else {
            self.next(ctx);
        }
    }

    /// Lets somebody have the session to himself, until he drops what he is given.
    fn give_place(&mut self, GivePlace { reply, lease, .. }: GivePlace, ctx: &mut Context<Self>) -> bool {
        let (place, left) = oneshot::channel();
        self.taken = reply.send(Ok(Place(place))).is_ok();
        if self.taken {
            let watch = left.into_actor(self).map(move |_, session, ctx| {
                session.conversation = None;
                session.taken = false;
                drop(lease);
                session.next(ctx);
            });
            ctx.spawn(watch);
        }
        self.taken
    }

    fn next(&mut self, ctx: &mut Context<Self>) {
        while let Some(taker) = self.takers.pop_front() {
            if self.give_place(taker, ctx) {
                return;
            }
        }
        while let Some(waiting) = self.waiting.pop_front() {
            if !waiting.run.has_left() {
                return self.start(waiting.run, waiting.lease, ctx);
            }
        }
        match self.registry.rest(&self.key, self.conversation.take()) {
            Ok(()) => ctx.stop(),
            Err(conversation) => self.conversation = conversation.map(|own| *own),
        }
    }

    fn stop_running(&self, why: Stop) {
        if let Some(completion) = &self.running {
            self.registry.turns().stop(completion, why);
        }
    }

    /// Ends the running turn for somebody who waits for that. Again and again: one that has only just begun may
    /// not be on the list of running turns yet.
    fn end_running(&mut self, ctx: &mut Context<Self>) {
        if self.running.is_some() && !self.takers.is_empty() {
            self.stop_running(Stop::Cancelled);
            ctx.run_later(STOP_AGAIN, Self::end_running);
        }
    }

    /// Ends the running turn for one that waits in front, likewise again and again while both are there.
    fn interrupt(&mut self, ctx: &mut Context<Self>) {
        let wanted = |waiting: &Waiting| waiting.run.turn.conflict == Conflict::Interrupt;
        let Some(running) = self.running.clone().filter(|_| self.waiting.front().is_some_and(wanted)) else {
            return;
        };
        self.stop_running(Stop::Interrupted);
        ctx.run_later(STOP_AGAIN, move |session, ctx| {
            if session.running.as_ref() == Some(&running) {
                session.interrupt(ctx);
            }
        });
    }

    /// Refuses turns that have waited too long, now and again when the next one will have.
    fn expire(&mut self, ctx: &mut Context<Self>) {
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.since.elapsed() < WAIT_LIMIT {
                self.waiting.push_back(waiting);
            } else {
                // The client may be gone; then nobody is there to be told.
                let _ = waiting.run.reply.send(Err(Error::Overloaded));
            }
        }
        let next = self.waiting.iter().map(|waiting| waiting.since).min();
        self.timed = next.is_some();
        if let Some(since) = next {
            let wait = WAIT_LIMIT.saturating_sub(since.elapsed());
            ctx.run_later(wait, Self::expire);
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;
}

/// A message that would be refused since the session is busy, given once more to the session by itself. What has ended
/// already may not be known yet: a context takes in messages before it looks at what it waits for, and what it is given
/// meanwhile it does after that.
#[derive(Message)]
#[rtype(result = "()")]
struct AtLast<M>(M);

impl Handler<Begin> for Session {
    type Result = ();

    fn handle(&mut self, begin: Begin, ctx: &mut Self::Context) {
        match self.refusal(begin.run.turn.conflict) {
            Some(_) => ctx.notify(AtLast(begin)),
            None => self.take_in(begin, ctx),
        }
    }
}

impl Handler<AtLast<Begin>> for Session {
    type Result = ();

    fn handle(&mut self, AtLast(begin): AtLast<Begin>, ctx: &mut Self::Context) {
        match self.refusal(begin.run.turn.conflict) {
            Some(error) => drop(begin.run.reply.send(Err(error))),
            None => self.take_in(begin, ctx),
        }
    }
}

impl Handler<GivePlace> for Session {
    type Result = ();

    fn handle(&mut self, taker: GivePlace, ctx: &mut Self::Context) {
        if taker.busy == Busy::Refuse && self.is_busy() {
            ctx.notify(AtLast(taker));
        } else {
            self.let_in(taker, ctx);
        }
    }
}

impl Handler<AtLast<GivePlace>> for Session {
    type Result = ();

    fn handle(&mut self, AtLast(taker): AtLast<GivePlace>, ctx: &mut Self::Context) {
        if taker.busy == Busy::Refuse && self.is_busy() {
            let _ = taker.reply.send(Err(Error::SessionBusy));
        } else {
            self.let_in(taker, ctx);
        }
    }
}

impl Handler<RefuseWaiting> for Session {
    type Result = ();

    fn handle(&mut self, _: RefuseWaiting, _: &mut Self::Context) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.run.reply.send(Err(Error::Draining));
        }
    }
}

impl Handler<Reload> for Session {
    type Result = ();

    fn handle(&mut self, Reload: Reload, _: &mut Self::Context) {
        self.conversation = None;
        self.stale = true;
    }
}
