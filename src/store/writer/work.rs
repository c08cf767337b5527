//! A piece of work: what runs in a batch, and whom it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use tokio::sync::oneshot;

use super::Lane;
use crate::error::Error;
use crate::store::fixed::fixed;

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

/// What a piece of work runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Nothing of its own: what it wrote can be undone with the whole batch alone.
    None,
    /// A savepoint.
    Savepoint,
}

/// How a piece of work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// It has an answer.
    Whole,
    /// It has to be undone, and had no savepoint.
    Undo,
}

/// Work for the writing connection.
///
/// It may run more than once, if a transaction has to be made again.
pub(super) trait Work: Send {
    /// Runs. An error is the database's; a refusal is an answer like any other.
    fn run(&mut self, conn: &mut SqliteConnection, guard: Guard) -> QueryResult<Ran>;
    /// Answers: what [`Work::run`] came to if it was committed, else why not.
    fn answer(self: Box<Self>, committed: Result<(), Error>);
}

/// New work that nobody waits for yet: one batch may pass it over, since what comes meanwhile may save a second piece
/// of work. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Patience(Arc<AtomicBool>);

impl Patience {
    /// From now on somebody waits. That alone makes no batch: if there is none under way, the work is in the next.
    pub fn end(&self) {
        self.0.store(true, Relaxed);
    }
}

/// A piece of work and where it belongs.
pub(super) struct Entry {
    pub lane: Lane,
    /// `None`: somebody waits from the start.
    pub patience: Option<Patience>,
    pub work: Box<dyn Work>,
}

impl Entry {
    /// Whether nobody waits for it yet.
    pub fn is_patient(&self) -> bool {
        self.patience.as_ref().is_some_and(|patience| !patience.0.load(Relaxed))
    }

    /// Answers that the database could not do it.
    pub fn fail(self, cause: &str) {
        self.work.answer(Err(Error::StoreUnavailable(cause.to_owned())));
    }
}

/// Rows that the connection has inserted, changed or deleted so far.
fn rows_written(conn: &mut SqliteConnection) -> QueryResult<i64> {
    fixed!("SELECT total_changes()", []).returning::<BigInt>().get_result(conn)
}

/// A closure with the channel for its answer.
pub(super) struct Job<F, T> {
    work: F,
    outcome: Option<Result<T, Error>>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl<F, T> Job<F, T> {
    pub fn new(work: F, answer: oneshot::Sender<Result<T, Error>>) -> Self {
        Self { work, outcome: None, answer }
    }
}

impl<F, T> Work for Job<F, T>
where
    F: FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send,
    T: Send,
{
    fn run(&mut self, conn: &mut SqliteConnection, guard: Guard) -> QueryResult<Ran> {
        // What an earlier run came to is void, even if this one panics.
        self.outcome = None;
        let outcome = match guard {
            Guard::Savepoint => conn.transaction(|conn| (self.work)(conn)),
            Guard::None => {
                let before = rows_written(conn)?;
                let outcome = (self.work)(conn);
                match outcome {
                    Err(WriteError::Query(_)) => return Ok(Ran::Undo),
                    Err(WriteError::Refused(_)) if rows_written(conn)? != before => return Ok(Ran::Undo),
                    outcome => outcome,
                }
            }
        };
        let (outcome, rollback) = match outcome {
            Ok(value) => (Ok(value), None),
            Err(WriteError::Refused(error)) => (Err(error), None),
            Err(WriteError::Query(cause)) => (Err(crate::store::failed(&cause)), Some(cause)),
        };
        self.outcome = Some(outcome);
        rollback.map_or(Ok(Ran::Whole), Err)
    }

    fn answer(self: Box<Self>, committed: Result<(), Error>) {
        let lost = || Err(Error::Internal("the writer dropped a piece of work".to_owned()));
        let Self { work, outcome, answer } = *self;
        let outcome = match committed {
            Ok(()) => outcome.unwrap_or_else(lost),
            Err(error) => Err(error),
        };
        // What it held, such as a session's place, is free once its client hears of it.
        drop(work);
        // Whoever asked may be gone; what was committed stays committed.
        let _ = answer.send(outcome);
    }
}
