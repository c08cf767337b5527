//! The only writing connection, on a thread of its own, with group commit.
//!
//! Whatever queued up while the last transaction was being made durable becomes the next one, so an idle
//! server answers after one fsync and a busy one shares it. There is no timer. Each piece of work runs in a
//! savepoint: one that fails takes nothing of the others with it. Nobody is answered before the commit.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use tokio::sync::oneshot;

use crate::error::Error;

/// The most that one transaction takes.
pub const BATCH: usize = 256;
/// New work that may wait; beyond it, work is refused.
pub const QUEUE: usize = 10_000;

/// Which queue a piece of work waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Closes what was opened: never refused, and ahead of the rest. Bounded by the open holds.
    Close,
    /// Opens something new: refused beyond [`QUEUE`].
    Open,
}

/// Work for the writing connection.
///
/// It may run more than once, if a transaction has to be made again.
trait Work: Send {
    fn run(&mut self, conn: &mut SqliteConnection) -> QueryResult<()>;
    fn answer(self: Box<Self>, committed: Result<(), Error>);
}

struct Job<F, T> {
    work: F,
    outcome: Option<Result<T, Error>>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl<F, T> Work for Job<F, T>
where
    F: FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send,
    T: Send,
{
    fn run(&mut self, conn: &mut SqliteConnection) -> QueryResult<()> {
        let outcome = conn.transaction(|conn| (self.work)(conn));
        let (outcome, rollback) = match outcome {
            Ok(value) => (Ok(value), None),
            Err(WriteError::Refused(error)) => (Err(error), None),
            Err(WriteError::Query(cause)) => (Err(Error::StoreUnavailable(cause.to_string())), Some(cause)),
        };
        self.outcome = Some(outcome);
        rollback.map_or(Ok(()), Err)
    }

    fn answer(self: Box<Self>, committed: Result<(), Error>) {
        let lost = || Err(Error::Internal("the writer dropped a piece of work".to_owned()));
        let outcome = match committed {
            Ok(()) => self.outcome.unwrap_or_else(lost),
            Err(error) => Err(error),
        };
        // Whoever asked may be gone; what was committed stays committed.
        let _ = self.answer.send(outcome);
    }
}

/// Why a piece of work is undone.
#[derive(Debug)]
pub enum WriteError {
    /// It decided so: a value, not a fault.
    Refused(Error),
    /// The database would not.
    Query(diesel::result::Error),
}

impl From<diesel::result::Error> for WriteError {
    fn from(cause: diesel::result::Error) -> Self {
        Self::Query(cause)
    }
}

impl From<Error> for WriteError {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

#[derive(Default)]
struct Queue {
    close: VecDeque<Box<dyn Work>>,
    open: VecDeque<Box<dyn Work>>,
    stopping: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work and takes a batch, what closes first; `None` when stopped and empty.
    fn next_batch(&self) -> Option<Vec<Box<dyn Work>>> {
        let mut queue = self.lock();
        while queue.close.is_empty() && queue.open.is_empty() {
            if queue.stopping {
                return None;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let closes = queue.close.len().min(BATCH);
        let opens = queue.open.len().min(BATCH - closes);
        let mut batch: Vec<_> = queue.close.drain(..closes).collect();
        batch.extend(queue.open.drain(..opens));
        Some(batch)
    }
}

/// The handle of the writer thread.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

impl Writer {
    /// Starts the thread. `gone` is dropped when it ends, however it ends.
    pub fn start(
        mut conn: SqliteConnection,
        gone: oneshot::Sender<()>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let shared = Arc::new(Shared::default());
        let queue = shared.clone();
        let thread = std::thread::Builder::new().name("writer".to_owned()).spawn(move || {
            let _gone = gone;
            while let Some(batch) = queue.next_batch() {
                commit(&mut conn, batch);
            }
            // A stop in order leaves one file that can be copied alone.
            if let Err(cause) = conn.batch_execute("PRAGMA wal_checkpoint(TRUNCATE);") {
                tracing::warn!(%cause, "the write-ahead log was not merged");
            }
        })?;
        Ok((Self(shared), thread))
    }

    /// Queues `work`; the answer comes after the commit.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full, [`Error::Draining`] after [`Writer::stop`].
    pub fn submit<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        let (answer, committed) = oneshot::channel();
        let job = Box::new(Job { work, outcome: None, answer });
        let mut queue = self.0.lock();
        match lane {
            _ if queue.stopping => return Err(Error::Draining),
            Lane::Open if queue.open.len() >= QUEUE => return Err(Error::Overloaded),
            Lane::Open => queue.open.push_back(job),
            Lane::Close => queue.close.push_back(job),
        }
        drop(queue);
        self.0.filled.notify_one();
        Ok(committed)
    }

    /// Queues `work` and waits for its commit.
    ///
    /// # Errors
    /// As [`Writer::submit`], and what the work itself answers.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, Error> {
        let committed = self.submit(Lane::Open, work)?;
        committed.await.map_err(|_| Error::StoreUnavailable("the writer is gone".to_owned()))?
    }

    /// Takes no more work; the thread ends when what is queued is done.
    pub fn stop(&self) {
        self.0.lock().stopping = true;
        self.0.filled.notify_one();
    }
}

/// One transaction for the whole batch, then every answer.
fn commit(conn: &mut SqliteConnection, mut batch: Vec<Box<dyn Work>>) {
    let together = catch_unwind(AssertUnwindSafe(|| {
        conn.immediate_transaction(|conn| {
            for work in &mut batch {
                // A failed piece is undone to its savepoint and keeps its own answer.
                if let Err(cause) = work.run(conn) {
                    tracing::warn!(%cause, "a write failed");
                }
            }
            QueryResult::Ok(())
        })
    }));
    match together {
        Ok(committed) => {
            let committed = committed.map_err(|cause| cause.to_string());
            if let Err(cause) = &committed {
                tracing::error!(%cause, size = batch.len(), "a batch could not be committed");
            }
            for work in batch {
                work.answer(committed.clone().map_err(Error::StoreUnavailable));
            }
        }
        Err(_) => {
            tracing::error!("a write panicked; the batch is made again piece by piece");
            roll_back(conn);
            for work in batch {
                commit_alone(conn, work);
            }
        }
    }
}

fn commit_alone(conn: &mut SqliteConnection, mut work: Box<dyn Work>) {
    let alone = catch_unwind(AssertUnwindSafe(|| conn.immediate_transaction(|conn| work.run(conn))));
    match alone {
        Ok(committed) => work.answer(committed.map_err(|cause| Error::StoreUnavailable(cause.to_string()))),
        Err(_) => {
            roll_back(conn);
            work.answer(Err(Error::Internal("a write panicked".to_owned())));
        }
    }
}

/// After a panic inside a transaction diesel still believes in it; this ends it for both.
fn roll_back(conn: &mut SqliteConnection) {
    use diesel::connection::{AnsiTransactionManager, TransactionManager};
    while let Ok(Some(_)) = AnsiTransactionManager::transaction_manager_status_mut(conn).transaction_depth() {
        if AnsiTransactionManager::rollback_transaction(conn).is_err() {
            break;
        }
    }
}
