//! The turns that run, across all threads: to list them, to end them, and to wait for their end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::clock::{self, EpochMs};
use crate::conversation::turn::Turn;
use crate::error::Stop;
use crate::id::{AccountId, AgentId, CompletionId, KeyId, SessionName};

/// A turn that runs.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct TurnInfo {
    pub completion: CompletionId,
    pub session: SessionName,
    pub account: AccountId,
    pub agent: AgentId,
    pub key: KeyId,
    pub stream: bool,
    pub started_at: EpochMs,
}

struct Entry {
    info: TurnInfo,
    stop: Option<oneshot::Sender<Stop>>,
}

#[derive(Default)]
struct List {
    running: HashMap<CompletionId, Entry>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    list: Mutex<List>,
    ended: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The list of running turns. Cheap to clone; touched twice a turn.
#[derive(Clone, Default)]
pub struct Turns(Arc<Shared>);

impl Turns {
    /// Takes no more turns: the server is stopping.
    pub fn close(&self) {
        self.0.lock().closed = true;
    }

    /// Puts a turn on the list until the guard is dropped; the receiver tells when it shall end. `None` if the
    /// list is closed.
    pub fn enter(&self, turn: &Turn) -> Option<(Entered, oneshot::Receiver<Stop>)> {
        let (stop, stopped) = oneshot::channel();
        let info = TurnInfo {
            completion: turn.completion.clone(),
            session: turn.session.clone(),
            account: turn.agent.account.clone(),
            agent: turn.agent.id.clone(),
            key: turn.caller.key.clone(),
            stream: turn.stream,
            started_at: clock::now_ms(),
        };
        let mut list = self.0.lock();
        if list.closed {
            return None;
        }
        list.running.insert(turn.completion.clone(), Entry { info, stop: Some(stop) });
        Some((Entered { turns: self.clone(), completion: turn.completion.clone() }, stopped))
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

    /// The turns that run, the oldest first.
    pub fn list(&self) -> Vec<TurnInfo> {
        let mut list: Vec<_> = self.0.lock().running.values().map(|entry| entry.info.clone()).collect();
        list.sort_by_key(|info| info.started_at);
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
        loop {
            let ended = self.0.ended.notified();
            if self.0.lock().running.is_empty() {
                return;
            }
            ended.await;
        }
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

/// A place on the list of running turns.
pub struct Entered {
    turns: Turns,
    completion: CompletionId,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.turns.0.lock().running.remove(&self.completion);
        self.turns.0.ended.notify_waiters();
    }
}
