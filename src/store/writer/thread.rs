//! The thread: takes batches, commits them, answers, and does about a fault what has to be done.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;
use tokio::sync::oneshot;

use super::ballast::Room;
use super::batch::{self, Failed};
use super::fault::{Fault, Told, Watch, end_process};
use super::merge::Merger;
use super::queue::Shared;
use super::work::Entry;
use super::{BATCH, Lane, Settings};
use crate::error::Error;

/// Pieces of work that may panic within [`PANIC_SPAN`]; one more, and the server is asked to stop.
const PANICS: usize = 3;
/// The time over which panics are counted.
const PANIC_SPAN: Duration = Duration::from_secs(60);
/// A batch of so many pieces is committed without a look whether others have to run first.
const WORTH_A_COMMIT: usize = 16;
/// The wait before closes are tried again; it doubles with each try.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How long after a stop closes are still tried again.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Panics of the last [`PANIC_SPAN`].
#[derive(Default)]
struct Panics(VecDeque<Instant>);

impl Panics {
    /// Notes one; whether there are too many to put them down to chance.
    fn note(&mut self, now: Instant) -> bool {
        self.0.retain(|then| now.duration_since(*then) < PANIC_SPAN);
        self.0.push_back(now);
        self.0.len() > PANICS
    }
}

pub struct Thread {
    conn: SqliteConnection,
    shared: Arc<Shared>,
    watch: Watch,
    database: Option<PathBuf>,
    merger: Merger,
    panics: Panics,
    /// Tells the server that it has to stop.
    gone: Option<oneshot::Sender<()>>,
    /// The most that the next batch takes: less than [`BATCH`] after one that did not fit.
    most: usize,
    /// How often in a row a batch has failed.
    failures: u32,
    settings: Settings,
}

impl Thread {
    pub fn new(
        mut conn: SqliteConnection,
        shared: Arc<Shared>,
        gone: oneshot::Sender<()>,
        settings: Settings,
    ) -> QueryResult<Self> {
        let database = database_file(&mut conn)?;
        // SQLite would do it inside the commit, and keep a failed sync of the database to itself.
        conn.batch_execute("PRAGMA wal_autocheckpoint = 0;")?;
        let watch = Watch::on(&mut conn);
        let (panics, gone, merger) = (Panics::default(), Some(gone), Merger::of(database.clone()));
        Ok(Self { conn, shared, watch, database, merger, panics, gone, most: BATCH, failures: 0, settings })
    }

    /// Works until stopped and done.
    pub fn run(mut self) {
        let _end = End(self.shared.clone());
        let mut room =
            Room::beside(self.database.as_deref(), self.settings.ballast, self.settings.probe_every);
        self.tell_room(&room);
        while let Some(batch) = self.shared.next_batch(self.most) {
            self.serve(batch, &mut room);
            self.tell_room(&room);
        }
        // A stop in order leaves one file that can be copied alone.
        self.merger.finish(&mut self.conn);
    }

    fn serve(&mut self, mut batch: Vec<Entry>, room: &mut Room) {
        if !room.is_there() && batch.iter().any(|entry| entry.lane == Lane::Open) && !room.look_again() {
            let (opens, closes) = split(batch);
            self.refuse(opens, "the disk is full");
            batch = closes;
        }
        match self.commit(&mut batch, room.is_there()) {
            Ok(()) => {
                crate::failpoint::committed();
                self.succeed(batch);
            }
            Err(told) => self.fail(batch, told, room),
        }
    }

    /// Commits the batch, with what comes meanwhile if there is room, and without those of its pieces that panic. They
    /// are refused, and the rest is made again: which piece it was is known, so that the others need not be tried one by
    /// one, at an fsync each.
    fn commit(&mut self, batch: &mut Vec<Entry>, room: bool) -> Result<(), Told> {
        let (shared, most) = (self.shared.clone(), if room { self.most } else { 0 });
        let late = |have: usize| {
            let came = shared.late(most.saturating_sub(have));
            if !came.is_empty() || have >= WORTH_A_COMMIT {
                return came;
            }
            // Where this thread keeps others from running, they may be about to bring more.
            std::thread::yield_now();
            shared.late(most.saturating_sub(have))
        };
        while !batch.is_empty() {
            let run = (self.shared.epoch.load(Relaxed), &*self.shared.changes);
            match batch::commit(&mut self.conn, &self.watch, run, batch, late) {
                Ok(took) => {
                    self.count(batch.len(), took);
                    break;
                }
                Err(Failed::Batch(told)) => return Err(told),
                // With savepoints every piece can be undone, so this does not come out.
                Err(Failed::Unguarded) => {
                    return Err(Told::new(Fault::Undone, "a piece could not be undone alone"));
                }
                Err(Failed::Piece(at, what)) => {
                    tracing::error!(lane = ?batch[at].lane, "{what}; it is refused, the rest is made again");
                    batch.remove(at).work.answer(Err(Error::Internal(what.to_owned())));
                    self.note_panic();
                }
            }
        }
        Ok(())
    }

    /// With too many panics the server is told to stop, but served until it has: each of them was undone as a
    /// whole, and leaving at once would cut answers that can still be charged in order.
    fn note_panic(&mut self) {
        self.shared.counters.panics.fetch_add(1, Relaxed);
        if self.panics.note(Instant::now()) && self.gone.take().is_some() {
            tracing::error!(limit = PANICS, span = ?PANIC_SPAN, "too many writes panicked; the server has to stop");
        }
    }

    fn succeed(&mut self, batch: Vec<Entry>) {
        let pieces = batch.len();
        for entry in batch {
            entry.work.answer(Ok(()));
        }
        self.failures = 0;
        self.most = (self.most * 2).min(BATCH);
        // After the answers: nobody has to wait for it but the next batch.
        self.merger.committed(pieces, &mut self.conn);
    }

    /// What opens is refused; what closes waits at the front of its queue and is tried again.
    fn fail(&mut self, batch: Vec<Entry>, told: Told, room: &mut Room) {
        let Told { fault, cause } = told;
        if fault == Fault::Broken {
            end_process(&cause);
        }
        let (opens, closes) = split(batch);
        tracing::error!(%cause, opens = opens.len(), closes = closes.len(), "a batch could not be committed");
        self.shared.counters.failed_batches.fetch_add(1, Relaxed);
        self.refuse(opens, &cause);
        let had_room = room.is_there();
        match fault {
            Fault::Full => {
                room.run_out();
                // What the log holds goes into the database, so that the log's own room can be used again.
                self.merger.merge(&mut self.conn);
            }
            // Those that came meanwhile have waited for the lock as well; each batch of them would once more.
            Fault::Locked => {
                let waiting = self.shared.take_opens();
                self.refuse(waiting, &cause);
            }
            Fault::Undone | Fault::Broken => {}
        }
        if fault != Fault::Locked {
            self.most = (closes.len() / 2).clamp(1, BATCH);
        }
        if closes.is_empty() {
            return;
        }
        self.shared.put_back(closes);
        if self.shared.stopping().is_some_and(|since| since.elapsed() >= self.settings.stop_patience) {
            tracing::error!(
                "closes could not be committed before the stop; the next start makes up for them"
            );
            self.shared.take_all().into_iter().for_each(|entry| entry.fail(&cause));
        } else if fault != Fault::Full || !had_room {
            std::thread::sleep(FIRST_WAIT.saturating_mul(1 << self.failures.min(10)).min(LONGEST_WAIT));
            self.failures += 1;
        }
    }

    fn refuse(&self, opens: Vec<Entry>, cause: &str) {
        self.shared.counters.refused_opens.fetch_add(opens.len() as u64, Relaxed);
        opens.into_iter().for_each(|entry| entry.fail(cause));
    }

    fn count(&self, items: usize, commit: Duration) {
        let counters = &self.shared.counters;
        let micros = u64::try_from(commit.as_micros()).unwrap_or(u64::MAX);
        counters.batches.fetch_add(1, Relaxed);
        counters.items.fetch_add(items as u64, Relaxed);
        counters.largest_batch.fetch_max(items as u64, Relaxed);
        counters.last_commit_us.store(micros, Relaxed);
        counters.commits_us.fetch_add(micros, Relaxed);
    }

    fn tell_room(&self, room: &Room) {
        self.shared.counters.no_room.store(u64::from(!room.is_there()), Relaxed);
    }
}

/// Ends the queue with the thread, however that ends.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Takes new work and what closes apart, each in its order.
fn split(batch: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
    batch.into_iter().partition(|entry| entry.lane == Lane::Open)
}

#[derive(QueryableByName)]
struct Attached {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    file: String,
}

/// Where the connection's database lies; `None` for one in memory.
fn database_file(conn: &mut SqliteConnection) -> QueryResult<Option<PathBuf>> {
    let attached: Vec<Attached> = diesel::sql_query("PRAGMA database_list").load(conn)?;
    let main = attached.into_iter().find(|attached| attached.name == "main" && !attached.file.is_empty());
    Ok(main.map(|main| main.file.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_panics_close_together_are_too_many() {
        let start = Instant::now();
        let mut panics = Panics::default();
        let slow: Vec<bool> = (0..10).map(|at| panics.note(start + PANIC_SPAN / 3 * at)).collect();
        assert_eq!(slow, [false; 10]);
        let mut panics = Panics::default();
        assert_eq!([0, 1, 2, 3].map(|at| panics.note(start + at * FIRST_WAIT)), [false, false, false, true]);
    }
}
