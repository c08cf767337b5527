//! The turns that run, across all threads: to list them, to end them, to read along, and to wait for their end. And
//! those that have ended, for a while.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use tokio::sync::{Notify, oneshot};

use crate::clock::{self, EpochMs};
use crate::conversation::turn::{Form, NamedBy, OnDisconnect, Turn};
use crate::error::{Error, Stop};
use crate::id::{AccountId, AgentId, CompletionId, KeyId, SessionName};
use crate::session::log::{Budget, Log, Reader};
use crate::session::shelf::{EndedTurn, Shelf};
use crate::session::{SessionKey, TurnEvent};

/// What the streams of a server keep for readers that come back, in bytes, unless it is told otherwise.
pub const DEFAULT_REPLAY: usize = 64 * 1024 * 1024;
/// How often what is too old is let go.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the turns of keys that have expired are ended.
const EXPIRY: Duration = Duration::from_millis(500);

/// A turn that runs, or has run.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct TurnInfo {
    pub completion: CompletionId,
    pub session: SessionName,
    pub account: AccountId,
    pub agent: AgentId,
    pub key: KeyId,
    pub key_expires_at: Option<EpochMs>,
    pub stream: bool,
    pub form: Form,
    pub on_disconnect: OnDisconnect,
    /// Whether the session's name is one of ours.
    pub named_by_server: bool,
    pub started_at: EpochMs,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its answer is whole.
    Completed,
    /// It was ended from outside, or nobody read it any more.
    Cancelled,
    /// A newer request took its place.
    Interrupted,
    /// Something went wrong.
    Failed,
}

impl Outcome {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }

    fn of(last: &TurnEvent) -> Option<Self> {
        match last {
            TurnEvent::Delta(_) => None,
            TurnEvent::Ended(_) => Some(Self::Completed),
            TurnEvent::Failed(error) => Some(match **error {
                Error::Stopped(Stop::Cancelled) => Self::Cancelled,
                Error::Stopped(Stop::Interrupted) => Self::Interrupted,
                _ => Self::Failed,
            }),
        }
    }
}

/// A turn that somebody asked for by its id.
pub struct Found {
    /// Which one.
    pub info: TurnInfo,
    /// How it ended, unless it runs.
    pub outcome: Option<Outcome>,
    /// Its stream, while it is kept.
    pub log: Option<Log>,
    /// The stream of its answer as it was given again, while it is kept.
    pub again: Option<Log>,
}

struct Entry {
    info: TurnInfo,
    log: Log,
    stop: Option<oneshot::Sender<Stop>>,
    /// Whether nobody may ask for it once it has ended.
    forgotten: bool,
}

#[derive(Default)]
struct List {
    running: HashMap<CompletionId, Entry>,
    closed: bool,
    ended: Shelf,
    /// Streams that are kept for nobody else but the readers they have.
    leftover: Vec<Log>,
}

struct Shared {
    list: Mutex<List>,
    ended: Notify,
    budget: Arc<Budget>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The list of turns. Cheap to clone; touched twice a turn.
#[derive(Clone)]
pub struct Turns(Arc<Shared>);

impl Default for Turns {
    fn default() -> Self {
        Self::new(DEFAULT_REPLAY)
    }
}

impl Turns {
    /// An empty list, whose streams together keep `replay` bytes for readers that come back.
    pub fn new(replay: usize) -> Self {
        let budget = Arc::new(Budget::new(replay));
        Self(Arc::new(Shared { list: Mutex::default(), ended: Notify::new(), budget }))
    }

    /// Takes no more turns: the server is stopping.
    pub fn close(&self) {
        self.0.lock().closed = true;
    }

    /// Puts a turn on the list until the guard is dropped; the receiver tells when it shall end. `None` if the
    /// list is closed.
    pub fn enter(&self, turn: &Turn) -> Option<(Entered, oneshot::Receiver<Stop>)> {
        let (stop, stopped) = oneshot::channel();
        let log = Log::new(self.0.budget.clone());
        let info = TurnInfo::of(turn);
        let mut list = self.0.lock();
        if list.closed {
            return None;
        }
        let entry = Entry { info, log: log.clone(), stop: Some(stop), forgotten: false };
        list.running.insert(turn.completion.clone(), entry);
        let entered =
            Entered { turns: self.clone(), completion: turn.completion.clone(), log, outcome: None };
        Some((entered, stopped))
    }

    /// Ends one turn.
    pub fn stop(&self, completion: &CompletionId, why: Stop) {
        if let Some(entry) = self.0.lock().running.get_mut(completion) {
            entry.stop(why);
        }
    }

    /// Ends every turn that `chosen` names.
    pub fn stop_where(&self, why: Stop, chosen: impl Fn(&TurnInfo) -> bool) {
        for entry in self.0.lock().running.values_mut().filter(|entry| chosen(&entry.info)) {
            entry.stop(why);
        }
    }

    /// From now on nobody finds the turns that `chosen` names, once they have ended.
    pub fn forget_where(&self, chosen: impl Fn(&TurnInfo) -> bool) {
        let mut list = self.0.lock();
        for entry in list.running.values_mut().filter(|entry| chosen(&entry.info)) {
            entry.forgotten = true;
        }
        let gone = list.ended.forget(chosen);
        drop(list);
        self.let_go(gone);
    }

    /// The turn of that id, running or ended, if `allowed` says so.
    pub fn find(&self, id: &CompletionId, allowed: impl FnOnce(&TurnInfo) -> bool) -> Option<Found> {
        let list = self.0.lock();
        let running = || {
            let entry = list.running.get(id).filter(|entry| !entry.forgotten)?;
            Some(Found { info: entry.info.clone(), outcome: None, log: Some(entry.log.clone()), again: None })
        };
        let ended = || {
            let EndedTurn { info, outcome, log, again } = list.ended.find(id)?.clone();
            Some(Found { info, outcome: Some(outcome), log, again })
        };
        running().or_else(ended).filter(|found| allowed(&found.info))
    }

    /// Lets an answer be read that `turn` gets again, which has `ids` already; a stream can be taken up, too.
    pub fn give_again(
        &self,
        turn: &Turn,
        ids: (&CompletionId, &SessionName),
        events: impl IntoIterator<Item = TurnEvent>,
    ) -> Option<Reader> {
        let (log, reader) = Log::of(events, self.0.budget.clone()).ok()?;
        if turn.stream {
            let info = TurnInfo { completion: ids.0.clone(), session: ids.1.clone(), ..TurnInfo::of(turn) };
            let turn = EndedTurn { info, outcome: Outcome::Completed, log: None, again: None };
            let gone = self.0.lock().ended.put_again(turn, log, Instant::now());
            self.let_go(gone);
            self.make_room();
        }
        Some(reader)
    }

    /// The turns that run, the oldest first, each with the number of its readers and the bytes that are kept.
    pub fn list(&self) -> Vec<(TurnInfo, usize, usize)> {
        let one = |entry: &Entry| {
            let (readers, kept) = entry.log.load();
            (entry.info.clone(), readers, kept)
        };
        let mut list: Vec<_> = self.0.lock().running.values().map(one).collect();
        list.sort_by_key(|(info, ..)| info.started_at);
        list
    }

    /// How many streamed turns run, and how many others.
    pub fn counts(&self) -> (usize, usize) {
        let list = self.0.lock();
        let streamed = list.running.values().filter(|entry| entry.info.stream).count();
        (streamed, list.running.len() - streamed)
    }

    /// Answers when no turn runs.
    pub async fn all_ended(&self) {
        self.until(|list| list.running.is_empty()).await;
    }

    /// Answers when that turn does not run.
    pub async fn has_ended(&self, id: &CompletionId) {
        self.until(|list| !list.running.contains_key(id)).await;
    }

    async fn until(&self, reached: impl Fn(&List) -> bool) {
        loop {
            let ended = self.0.ended.notified();
            if reached(&self.0.lock()) {
                return;
            }
            ended.await;
        }
    }

    /// Lets streams go, those that ended first before the others, until what is kept is within its bound.
    fn make_room(&self) {
        while self.0.budget.is_over() {
            let oldest = self.0.lock().ended.take_oldest_streams();
            if oldest.is_empty() {
                return;
            }
            self.let_go(oldest);
        }
    }

    /// Keeps of streams only what their readers still need.
    fn let_go(&self, logs: impl IntoIterator<Item = Log>) {
        for log in logs {
            log.keep_nothing();
            if log.load().0 > 0 {
                self.0.lock().leftover.push(log);
            }
        }
    }

    fn sweep(&self) {
        let mut list = self.0.lock();
        let gone = list.ended.expire(Instant::now());
        let leftover = std::mem::take(&mut list.leftover);
        drop(list);
        leftover.iter().for_each(Log::sweep);
        self.let_go(leftover.into_iter().chain(gone));
    }

    /// Lets go what is too old, and ends the turns of keys that have expired, now and again, as long as it is polled.
    pub async fn watch(self) {
        let mut swept = Instant::now();
        loop {
            tokio::time::sleep(EXPIRY).await;
            let now = clock::now_ms();
            self.stop_where(Stop::Cancelled, |turn| turn.key_expires_at.is_some_and(|end| end <= now));
            if swept.elapsed() >= SWEEP {
                self.sweep();
                swept = Instant::now();
            }
        }
    }

    /// A key ends at another time than its running turns know.
    pub fn key_ends(&self, key: &KeyId, at: Option<EpochMs>) {
        let mut list = self.0.lock();
        let own = list.running.values_mut().filter(|entry| entry.info.key == *key);
        own.for_each(|entry| entry.info.key_expires_at = at);
    }
}

impl Entry {
    fn stop(&mut self, why: Stop) {
        if let Some(stop) = self.stop.take() {
            // A turn that is past listening ends by itself.
            let _ = stop.send(why);
        }
    }
}

impl TurnInfo {
    fn of(turn: &Turn) -> Self {
        Self {
            completion: turn.completion.clone(),
            session: turn.session.clone(),
            account: turn.agent.account.clone(),
            agent: turn.agent.id.clone(),
            key: turn.caller.key.clone(),
            key_expires_at: turn.caller.expires_at,
            stream: turn.stream,
            form: turn.form,
            on_disconnect: turn.on_disconnect,
            named_by_server: turn.named_by == NamedBy::Nobody,
            started_at: clock::now_ms(),
        }
    }

    /// Whether it is one of that session.
    pub fn is_of(&self, key: &SessionKey) -> bool {
        self.session == key.name && self.agent == key.agent && self.account == key.account
    }

    /// Whether the stream of such a turn can be read again after its end. The client of a plain call learns its id
    /// only with the whole answer.
    fn is_kept(&self) -> bool {
        self.stream || self.on_disconnect == OnDisconnect::Continue
    }

    #[cfg(test)]
    pub(crate) fn example(completion: &str) -> Self {
        use crate::conversation::turn::Dialect;
        Self {
            completion: completion.into(),
            session: "s".into(),
            account: "acct_1".into(),
            agent: "ag_1".into(),
            key: "key_1".into(),
            key_expires_at: None,
            stream: true,
            form: Form { dialect: Dialect::OpenAi, include_usage: false, created: 7 },
            on_disconnect: OnDisconnect::Cancel,
            named_by_server: false,
            started_at: 0,
        }
    }
}

/// A place on the list of running turns, and the pen that writes the turn's log.
pub struct Entered {
    turns: Turns,
    completion: CompletionId,
    log: Log,
    outcome: Option<Outcome>,
}

impl Entered {
    /// What the turn's clients read.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The session turned out to have a name of ours.
    pub fn named_by_server(&self) {
        if let Some(entry) = self.turns.0.lock().running.get_mut(&self.completion) {
            entry.info.named_by_server = true;
        }
    }

    /// Writes an event down; nothing follows an end.
    pub fn write(&mut self, event: TurnEvent) {
        self.outcome = Outcome::of(&event);
        self.log.push(event);
        if self.turns.0.budget.is_over() {
            self.turns.make_room();
            if self.turns.0.budget.is_over() {
                self.log.keep_nothing();
            }
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.outcome.is_none() {
            // The turn's task ends without a last word: a defect of ours, and no end to fake.
            self.write(TurnEvent::Failed(Box::new(Error::Internal("a turn without an end".to_owned()))));
        }
        let mut gone = Vec::new();
        let mut list = self.turns.0.lock();
        if let Some(Entry { info, log, stop, forgotten }) = list.running.remove(&self.completion) {
            // Of one that was refused before anybody could read of it, nobody has the id. Who stops one asks how it ended.
            let known = !forgotten && (stop.is_none() || log.was_read());
            let kept = known && info.is_kept();
            if known {
                let outcome = self.outcome.unwrap_or(Outcome::Failed);
                let turn = EndedTurn { info, outcome, log: kept.then(|| log.clone()), again: None };
                gone = list.ended.put(turn, Instant::now());
            }
            if !kept {
                gone.push(log);
            }
        }
        drop(list);
        self.turns.let_go(gone);
        self.turns.0.ended.notify_waiters();
    }
}
