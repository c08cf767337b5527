//! Faults of the database, by what has to be done about them.
//!
//! diesel hands SQLite's errors up as texts, without their codes. The texts are constants of the SQLite that is
//! built with this crate; the tests of the writer provoke those that can be provoked.

use std::sync::{Arc, Mutex, PoisonError};

use diesel::connection::InstrumentationEvent;
use diesel::prelude::*;
use diesel::result::Error;

use super::UNSURE_EXIT;

/// What befell a whole batch; a graver one comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Another process holds the lock for longer than we wait.
    Locked,
    /// The transaction is gone, and another try may succeed.
    Undone,
    /// The disk is full.
    Full,
    /// What was committed cannot be known, or cannot be trusted.
    Broken,
}

impl Fault {
    /// The fault behind an error, unless that concerns one piece of work alone.
    pub fn of(error: &Error) -> Option<Self> {
        match error {
            Error::DatabaseError(_, told) => Self::of_text(told.message()),
            Error::RollbackErrorOnCommit { .. } | Error::BrokenTransactionManager => Some(Self::Broken),
            _ => None,
        }
    }

    /// SQLite ends the whole transaction on most of these, and with it every savepoint.
    fn of_text(text: &str) -> Option<Self> {
        match text {
            "database is locked" | "locking protocol" => Some(Self::Locked),
            "out of memory" | "interrupted" | "unable to open database file" => Some(Self::Undone),
            "database or disk is full" => Some(Self::Full),
            "disk I/O error"
            | "database disk image is malformed"
            | "file is not a database"
            | "attempt to write a readonly database" => Some(Self::Broken),
            _ if text.starts_with("malformed database schema") => Some(Self::Broken),
            _ => None,
        }
    }
}

/// A fault and the words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub fault: Fault,
    pub cause: String,
}

impl Told {
    pub fn new(fault: Fault, cause: impl ToString) -> Self {
        Self { fault, cause: cause.to_string() }
    }

    pub fn of(error: &Error) -> Option<Self> {
        Fault::of(error).map(|fault| Self::new(fault, error))
    }
}

/// Sees the errors of a connection's statements, also those that a piece of work keeps to itself and those
/// that a failed rollback puts its own error in the place of.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Option<Told>>>);

impl Watch {
    pub fn on(conn: &mut SqliteConnection) -> Self {
        let watch = Self::default();
        let seen = watch.clone();
        conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::FinishQuery { error: Some(error), .. } = event
                && let Some(told) = Told::of(error)
            {
                seen.note(told);
            }
        });
        watch
    }

    fn note(&self, told: Told) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref().is_none_or(|seen| seen.fault < told.fault) {
            *seen = Some(told);
        }
    }

    /// The gravest fault since the last call.
    pub fn take(&self) -> Option<Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Nobody is answered: what was committed only the next start can tell. The log is written without a buffer,
/// and SQLite gets no chance to sync once more, as it would when the connection is closed.
pub fn end_process(cause: &str) -> ! {
    tracing::error!(%cause, "the database cannot be trusted any more; the process ends, a new start recovers");
    std::process::exit(UNSURE_EXIT)
}
