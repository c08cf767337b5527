//! The write-ahead log on its way into the database, beside the writer.
//!
//! To copy thousands of pages and to sync them takes many milliseconds, in which nothing could be committed. So a thread of
//! its own does it while the writer goes on. What came meanwhile is left to the writer: only while nothing is written is a
//! log merged to its end, and only then does SQLite sync the database and begin the log anew.

use std::path::PathBuf;
use std::thread::JoinHandle;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::Integer;

use super::fault::{Fault, end_process};
use crate::store::connection::open_merger;

/// The most pages of the write-ahead log, about, that are not in the database yet: 16 MiB, as much as the
/// ballast holds, since on a full disk it has to be merged in the room that this leaves. Fewer would write and sync the
/// same pages of the database again and again.
const MOST_PAGES: i32 = 4_096;
/// From so many on it is merged beside the writer, so that it is done before they are as many as that.
const MERGE_PAGES: i32 = 3_072;
/// After how many pieces of work it is looked how many pages those are.
const LOOK_EVERY: usize = 128;
/// As how many pieces a commit counts at least: it writes the last page of each table and index, whatever is in it, which
/// comes to some 15 pages for one turn and to 20 for eight.
const LEAST_PIECES: usize = 8;

/// Decides when the log is merged, and by whom.
pub struct Merger {
    database: Option<PathBuf>,
    /// Pieces of work since the log was looked at, or what counts as such.
    unseen: usize,
    /// Kept from one time to the next.
    conn: Option<SqliteConnection>,
    running: Option<JoinHandle<Option<SqliteConnection>>>,
}

impl Merger {
    /// For the database in that file; `None` for one in memory, which has no log.
    pub fn of(database: Option<PathBuf>) -> Self {
        Self { database, unseen: 0, conn: None, running: None }
    }

    /// To be called by the writer after each commit, with its connection and the number of pieces that were committed.
    pub fn committed(&mut self, pieces: usize, writer: &mut SqliteConnection) {
        self.unseen += pieces.max(LEAST_PIECES);
        if self.ended() {
            checkpoint(writer);
        } else if self.unseen >= LOOK_EVERY {
            self.unseen = 0;
            match pages(writer) {
                MOST_PAGES.. => self.merge(writer),
                MERGE_PAGES.. => self.begin(),
                _ => {}
            }
        }
    }

    /// Merges all that there is, by the writer's connection.
    pub fn merge(&mut self, writer: &mut SqliteConnection) {
        self.wait();
        checkpoint(writer);
    }

    /// The same, when the writer has ended: nothing is left of the log.
    pub fn finish(&mut self, writer: &mut SqliteConnection) {
        self.wait();
        if let Err(cause) = writer.batch_execute("PRAGMA wal_checkpoint(TRUNCATE);") {
            tracing::warn!(%cause, "the write-ahead log was not merged");
        }
    }

    /// Has another thread begin, unless one has already. Where no thread can be started, it is the writer who merges a log of
    /// many pages.
    pub fn begin(&mut self) {
        let (Some(database), None) = (self.database.clone(), &self.running) else { return };
        let kept = self.conn.take();
        let merge = move || match kept.map_or_else(|| open_merger(&database), Ok) {
            Ok(mut conn) => {
                // All, then what came meanwhile, so that little is left to the writer.
                checkpoint(&mut conn);
                checkpoint(&mut conn);
                Some(conn)
            }
            Err(cause) => {
                tracing::warn!(%cause, "the database could not be opened to merge the write-ahead log");
                None
            }
        };
        match std::thread::Builder::new().name("merger".to_owned()).spawn(merge) {
            Ok(running) => self.running = Some(running),
            Err(cause) => tracing::warn!(%cause, "no thread could be started to merge the write-ahead log"),
        }
    }

    /// Whether that has come to its end, which is told once.
    pub fn ended(&mut self) -> bool {
        self.running.as_ref().is_some_and(JoinHandle::is_finished) && self.wait()
    }

    /// Waits for its end; whether there was one to wait for.
    pub fn wait(&mut self) -> bool {
        let Some(running) = self.running.take() else { return false };
        // After a panic there is no connection, and the next time makes one.
        self.conn = running.join().ok().flatten();
        true
    }
}

/// Copies the write-ahead log into the database, as far as nobody reads what it would take the place of.
fn checkpoint(conn: &mut SqliteConnection) {
    if let Err(cause) = conn.batch_execute("PRAGMA wal_checkpoint(PASSIVE);") {
        not_merged(&cause);
    }
}

/// The pages of the write-ahead log that are not in the database yet.
pub fn pages(conn: &mut SqliteConnection) -> i32 {
    match diesel::sql_query("PRAGMA wal_checkpoint(NOOP)").get_result::<Log>(conn) {
        Ok(log) => log.log - log.checkpointed,
        Err(cause) => {
            not_merged(&cause);
            0
        }
    }
}

/// Where it cannot be known what was done, the process ends.
fn not_merged(cause: &diesel::result::Error) {
    if Fault::of(cause) == Some(Fault::Broken) {
        end_process(&cause.to_string());
    }
    tracing::warn!(%cause, "the write-ahead log was not merged");
}

/// The state of the write-ahead log, in pages.
#[derive(QueryableByName)]
struct Log {
    #[diesel(sql_type = Integer)]
    log: i32,
    #[diesel(sql_type = Integer)]
    checkpointed: i32,
}
