//! The writer on a real database in a directory of its own.

mod batches;
mod disk;
mod faults;
mod merge;
mod process;

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::{Counts, Lane, Settings, WriteError, Writer};
use crate::error::Error;
use crate::store::connection;

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// A ballast that fits on a small disk.
const SMALL_BALLAST: u64 = 2 << 20;

type Answer<T> = oneshot::Receiver<Result<T, Error>>;

/// A writer and the directory it writes in.
struct Rig {
    writer: Writer,
    thread: Option<JoinHandle<()>>,
    gone: oneshot::Receiver<()>,
    directory: PathBuf,
    _owned: Option<TempDir>,
}

impl Rig {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// `prepare` sees the connection before the writer gets it.
    fn start_with(prepare: impl FnOnce(&mut SqliteConnection)) -> Self {
        let owned = tempfile::tempdir().expect("a directory");
        let mut rig = Self::start_in(owned.path().to_owned(), prepare);
        rig._owned = Some(owned);
        rig
    }

    fn start_in(directory: PathBuf, prepare: impl FnOnce(&mut SqliteConnection)) -> Self {
        let mut conn = connection::open_writer(&connection::database_file(&directory)).expect("a database");
        conn.batch_execute(
            "CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY NOT NULL, body BLOB) WITHOUT ROWID;",
        )
        .expect("a table");
        prepare(&mut conn);
        let settings = Settings {
            ballast: SMALL_BALLAST,
            // Each piece of new work may look whether there is room.
            probe_every: Duration::ZERO,
            stop_patience: Duration::ZERO,
        };
        let (sender, gone) = oneshot::channel();
        let (writer, thread) = Writer::start_with(conn, sender, settings).expect("a thread");
        Self { writer, thread: Some(thread), gone, directory, _owned: None }
    }

    fn reader(&self) -> SqliteConnection {
        connection::open_reader(&connection::database_file(&self.directory)).expect("a reader")
    }

    /// The notes that are committed, by name.
    fn notes(&self) -> Vec<String> {
        names(&mut self.reader())
    }

    fn submit<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send + 'static,
    ) -> Answer<T> {
        self.writer.submit(lane, work).expect("a place in the queue")
    }

    fn note(&self, lane: Lane, name: &str) -> Answer<()> {
        let name = name.to_owned();
        self.submit(lane, move |conn| Ok(note(conn, &name, 0)?))
    }

    /// Keeps the writer busy until the gate is dropped, so that work gathers behind it.
    fn close_gate(&self) -> Gate {
        let (gate, closed) = mpsc::channel::<()>();
        let (entered, inside) = mpsc::channel();
        let passed = self.submit(Lane::Close, move |_| {
            let _ = entered.send(());
            // Ends when the gate is dropped.
            let _ = closed.recv();
            Ok(())
        });
        inside.recv_timeout(PATIENCE).expect("the writer at the gate");
        Gate { _gate: gate, _passed: passed }
    }

    fn counts(&self) -> Counts {
        self.writer.counts()
    }

    fn ballast(&self) -> Option<u64> {
        self.directory.join("ballast").metadata().ok().map(|file| file.len())
    }

    /// The size of the write-ahead log's file.
    fn log_bytes(&self) -> u64 {
        self.directory.join("switchboard.db-wal").metadata().map_or(0, |log| log.len())
    }

    /// Stops the writer and waits for its thread.
    fn stop(&mut self) {
        self.writer.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a thread that ends in order");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // After a failure the thread may be stuck.
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

struct Gate {
    _gate: mpsc::Sender<()>,
    _passed: Answer<()>,
}

/// Waits for an answer.
#[track_caller]
fn answer<T>(mut waiting: Answer<T>) -> Result<T, Error> {
    let mut found = None;
    until(|| {
        found = match waiting.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => panic!("nobody answered"),
        };
        found.is_some()
    });
    found.expect("waited for")
}

/// Waits for something to become true.
#[track_caller]
fn until(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited in vain");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Whether nobody has answered yet.
fn waits<T>(waiting: &mut Answer<T>) -> bool {
    matches!(waiting.try_recv(), Err(TryRecvError::Empty))
}

fn is_unavailable<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::StoreUnavailable(_)))
}

/// Adds a note with a body of that many bytes, which must not exist.
fn note(conn: &mut SqliteConnection, name: &str, bytes: i64) -> QueryResult<()> {
    let rows = diesel::sql_query("INSERT INTO note (name, body) VALUES (?, randomblob(?))")
        .bind::<Text, _>(name)
        .bind::<BigInt, _>(bytes)
        .execute(conn)?;
    assert_eq!(rows, 1);
    Ok(())
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

fn names(conn: &mut SqliteConnection) -> Vec<String> {
    let notes = diesel::sql_query("SELECT name FROM note ORDER BY name").load::<Name>(conn);
    notes.expect("notes").into_iter().map(|note| note.name).collect()
}
