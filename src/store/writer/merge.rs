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

/// Merges when it is told to, one at a time.
pub struct Merger {
    database: Option<PathBuf>,
    /// Kept from one time to the next.
    conn: Option<SqliteConnection>,
    running: Option<JoinHandle<Option<SqliteConnection>>>,
}

impl Merger {
    /// For the database in that file; `None` for one in memory, which has no log.
    pub fn of(database: Option<PathBuf>) -> Self {
        Self { database, conn: None, running: None }
    }

    /// Begins, unless it has begun already. Where no thread can be started, it is the writer who merges a log of many pages.
    pub fn begin(&mut self) {
        let (Some(database), None) = (self.database.clone(), &self.running) else { return };
        let kept = self.conn.take();
        let merge = move || match kept.map_or_else(|| open_merger(&database), Ok) {
            Ok(mut conn) => {
                merge(&mut conn);
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

    /// Whether it has come to its end, which is told once.
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

/// Merges all, then what came meanwhile, so that little is left to the writer.
fn merge(conn: &mut SqliteConnection) {
    checkpoint(conn);
    checkpoint(conn);
}

/// Copies the write-ahead log into the database, as far as nobody reads what it would take the place of.
pub fn checkpoint(conn: &mut SqliteConnection) {
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
