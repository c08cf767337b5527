//! The only writing connection, on a thread of its own, with group commit.
//!
//! Whatever queued up while the last transaction was being made durable becomes the next one, so an idle
//! server answers after one fsync and a busy one shares it. New work that nobody waits for yet may be left for the one
//! after that, if there is other work. There is no timer. A piece of work that fails takes
//! nothing of the others with it: then each of them is made again in a savepoint. Nobody is answered before the commit.
//!
//! | What happens | What closes | What opens |
//! |---|---|---|
//! | a piece panics | the batch is made again without it, it is refused | likewise |
//! | the disk is full | goes on, in the room that the [ballast](Writer::start) held | 503 until there is room |
//! | another process holds the lock | stays queued and is tried again | 503 |
//! | the transaction is lost (memory, interruption) | stays queued and is tried again | 503 |
//! | a write or a sync fails, the file is damaged, another server took over | the process ends at once | likewise |
//!
//! The last because a failed fsync must not be repeated (the kernel may have dropped the pages, and the next
//! one would succeed over the hole) and because only a new start can tell what was committed.

mod ballast;
mod batch;
mod fault;
mod merge;
mod queue;
mod thread;
mod work;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use tokio::sync::oneshot;

use crate::error::Error;
use queue::Shared;
use thread::Thread;
use work::{Entry, Job};

pub use work::{Patience, WriteError};

pub(super) use ballast::make_room_for_start;

/// The most that one transaction takes.
pub const BATCH: usize = 256;
/// New work that may wait; beyond it, work is refused.
pub const QUEUE: usize = 10_000;
/// The status with which the process ends when only a new start can tell what was committed.
pub const UNSURE_EXIT: i32 = 74;

/// Which queue a piece of work waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Closes what was opened: never refused, and ahead of the rest. Bounded by the open holds.
    Close,
    /// Says how far something open has come: ahead of the rest too, but refused when [`QUEUE`] pieces wait
    /// there, because the next one says the same and more.
    Mark,
    /// Opens something new: refused beyond [`QUEUE`].
    Open,
}

/// What may differ in a test.
#[derive(Clone, Copy)]
struct Settings {
    /// The size of the ballast file, in bytes.
    ballast: u64,
    /// How often, at most, it is tried whether a full disk has room again.
    probe_every: Duration,
    /// How long after a stop closes are still tried again.
    stop_patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ballast: ballast::LEN,
            probe_every: ballast::PROBE_EVERY,
            stop_patience: thread::STOP_PATIENCE,
        }
    }
}

/// What the thread counts; written by it alone, except where noted.
#[derive(Default)]
struct Counters {
    batches: AtomicU64,
    items: AtomicU64,
    largest_batch: AtomicU64,
    failed_batches: AtomicU64,
    last_commit_us: AtomicU64,
    commits_us: AtomicU64,
    panics: AtomicU64,
    /// By callers too, for want of a place in the queue.
    refused_opens: AtomicU64,
    no_room: AtomicU64,
}

/// What the writer has done since it was started. Each figure is read by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions that were committed.
    pub batches: u64,
    /// Pieces of work in them.
    pub items: u64,
    /// The most pieces in one of them.
    pub largest_batch: u64,
    /// Transactions that came to nothing because of the database or the disk.
    pub failed_batches: u64,
    /// How long the last commit took, fsync included, in microseconds.
    pub last_commit_us: u64,
    /// How long all commits took together.
    pub commits_us: u64,
    /// Pieces of work that panicked, or that ended the transaction they ran in.
    pub panics: u64,
    /// New work that was refused: the queue, the disk or the lock.
    pub refused_opens: u64,
    /// Whether new work is refused for want of disk space.
    pub disk_full: bool,
    /// Work that closes something and waits now.
    pub closes_waiting: u64,
    /// New work that waits now.
    pub opens_waiting: u64,
}

/// The handle of the writer thread.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

impl Writer {
    /// Starts the thread. `gone` is dropped when it ends, however it ends, and when more pieces of work have
    /// panicked than can be put down to chance; the thread then goes on, so that a server can stop in order.
    ///
    /// Beside the database a ballast file is kept, which takes up room that closing needs on a full disk.
    ///
    /// # Errors
    /// When the connection does not tell where its database lies, or no thread can be started.
    pub fn start(
        conn: SqliteConnection,
        gone: oneshot::Sender<()>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        Self::start_with(conn, gone, Settings::default())
    }

    fn start_with(
        conn: SqliteConnection,
        gone: oneshot::Sender<()>,
        settings: Settings,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let shared = Arc::new(Shared::default());
        let thread = Thread::new(conn, shared.clone(), gone, settings).map_err(std::io::Error::other)?;
        let thread = std::thread::Builder::new().name("writer".to_owned()).spawn(move || thread.run())?;
        Ok((Self(shared), thread))
    }

    /// Has each batch check that `epoch` is the newest run of the server on this database. Where it is not,
    /// another server has closed our holds, and the process ends at once.
    pub fn watch_epoch(&self, epoch: i64) {
        self.0.epoch.store(epoch, Relaxed);
    }

    /// Queues `work` that is done for nobody in particular; the answer comes after the commit.
    ///
    /// # Errors
    /// As [`Writer::open_for`].
    pub fn submit<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        self.queue(lane, queue::NOBODY, None, work)
    }

    /// Queues new `work` that is done for `account`; the answer comes after the commit.
    ///
    /// New work is taken in turn from all accounts that have some waiting: however much one of them queues,
    /// another waits behind one piece of it at a time. Where nobody waits for it yet, `patience` says so.
    ///
    /// `work` may run more than once, and must hand up each error of the database: after some of them the
    /// transaction is gone, and what it did next would stand alone.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full, [`Error::Draining`] after [`Writer::stop`],
    /// [`Error::StoreUnavailable`] when the thread is gone.
    pub fn open_for<T: Send + 'static>(
        &self,
        account: &str,
        patience: Option<Patience>,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        self.queue(Lane::Open, account, patience, work)
    }

    fn queue<T: Send + 'static>(
        &self,
        lane: Lane,
        account: &str,
        patience: Option<Patience>,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        let (answer, committed) = oneshot::channel();
        let work = Box::new(Job::new(work, answer));
        let queued = self.0.push(account, Entry { lane, patience, work });
        if lane == Lane::Open && matches!(queued, Err(Error::Overloaded)) {
            self.0.counters.refused_opens.fetch_add(1, Relaxed);
        }
        queued.map(|()| committed)
    }

    /// Counts, on the writer's thread, each piece of work that was queued by [`Writer::write`], and each transaction of
    /// which nothing was committed: what was read before, and is no part of a turn, may have changed then.
    pub fn changes(&self) -> Arc<AtomicU64> {
        self.0.changes.clone()
    }

    /// Queues `work` and waits for its commit.
    ///
    /// # Errors
    /// As [`Writer::open_for`], and what the work itself answers.
    pub async fn write<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, Error> {
        let changes = self.changes();
        let committed = self.submit(Lane::Open, move |conn| {
            changes.fetch_add(1, Relaxed);
            work(conn)
        })?;
        committed.await.map_err(|_| Error::StoreUnavailable(queue::GONE.to_owned()))?
    }

    /// Takes no more work; the thread ends when what is queued is done.
    ///
    /// Closes that the database does not take are tried for a while, then answered with an error; the next
    /// start closes their holds.
    pub fn stop(&self) {
        self.0.stop(Instant::now());
    }

    /// What was done so far, and what waits.
    pub fn counts(&self) -> Counts {
        let Counters {
            batches,
            items,
            largest_batch,
            failed_batches,
            last_commit_us,
            commits_us,
            panics,
            refused_opens,
            no_room,
        } = &self.0.counters;
        let (closes, opens) = self.0.waiting();
        let count = |waiting: usize| u64::try_from(waiting).unwrap_or(u64::MAX);
        Counts {
            batches: batches.load(Relaxed),
            items: items.load(Relaxed),
            largest_batch: largest_batch.load(Relaxed),
            failed_batches: failed_batches.load(Relaxed),
            last_commit_us: last_commit_us.load(Relaxed),
            commits_us: commits_us.load(Relaxed),
            panics: panics.load(Relaxed),
            refused_opens: refused_opens.load(Relaxed),
            disk_full: no_room.load(Relaxed) != 0,
            closes_waiting: count(closes),
            opens_waiting: count(opens),
        }
    }
}
