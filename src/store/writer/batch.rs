//! One transaction for a whole batch: all of it is committed, or nothing is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use diesel::connection::{AnsiTransactionManager, TransactionManager};
use diesel::dsl::max;
use diesel::prelude::*;

use super::fault::{Fault, Told, Watch};
use super::work::{Entry, Guard, Ran};
use crate::store::schema::node_epoch;

/// Why a batch was not committed. Nothing of it is in the database, unless the fault is [`Fault::Broken`].
#[derive(Debug)]
pub enum Failed {
    /// The piece at this place panicked, or ended the transaction that all share.
    Piece(usize, &'static str),
    /// The database or the disk.
    Batch(Told),
    /// A piece has to be undone alone, which takes savepoints.
    Unguarded,
}

/// Commits the batch; how long the commit took.
///
/// A savepoint costs about as much as the writes in it, and hardly any is ever rolled back to. So the batch is made
/// without any first, and made again with one for each piece when one of them has to be undone.
///
/// `epoch` is the run of the server that has to be the newest, or 0. `changes` counts attempts that came to nothing.
/// `late` is asked, by how many there are, for what came while the batch was made, until nothing did: that is committed
/// along and spares a commit.
pub fn commit(
    conn: &mut SqliteConnection,
    watch: &Watch,
    (epoch, changes): (i64, &AtomicU64),
    batch: &mut Vec<Entry>,
    late: impl Fn(usize) -> Vec<Entry>,
) -> Result<Duration, Failed> {
    let mut attempt = |guard| {
        let done = attempt(conn, watch, epoch, (batch, &late), guard);
        if done.is_err() {
            changes.fetch_add(1, Relaxed);
        }
        done
    };
    match attempt(Guard::None) {
        Err(Failed::Unguarded) => attempt(Guard::Savepoint),
        done => done,
    }
}

fn attempt(
    conn: &mut SqliteConnection,
    watch: &Watch,
    epoch: i64,
    batch: (&mut Vec<Entry>, &impl Fn(usize) -> Vec<Entry>),
    guard: Guard,
) -> Result<Duration, Failed> {
    // What was seen earlier, by a checkpoint say, is not about this batch.
    watch.take();
    let made = run(conn, watch, epoch, batch, guard).and_then(|()| {
        let began = Instant::now();
        match AnsiTransactionManager::commit_transaction(conn) {
            Ok(()) => Ok(began.elapsed()),
            Err(cause) => Err(Failed::Batch(at_commit(&cause))),
        }
    });
    made.map_err(|failed| match roll_back(conn) {
        Ok(()) => failed,
        Err(cause) => Failed::Batch(Told::new(Fault::Broken, cause)),
    })
}

/// Begins the transaction and runs every piece in it.
fn run(
    conn: &mut SqliteConnection,
    watch: &Watch,
    epoch: i64,
    (batch, late): (&mut Vec<Entry>, &impl Fn(usize) -> Vec<Entry>),
    guard: Guard,
) -> Result<(), Failed> {
    let unable = |cause| Failed::Batch(Told::of(&cause).unwrap_or(Told::new(Fault::Undone, cause)));
    AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE").map_err(unable)?;
    if epoch != 0 {
        let newest = node_epoch::table.select(max(node_epoch::epoch)).get_result::<Option<i64>>(conn);
        let newest = newest.map_err(unable)?;
        if newest != Some(epoch) {
            let cause = format!("this is run {epoch}, and the newest on this database is {newest:?}");
            return Err(Failed::Batch(Told::new(Fault::Broken, cause)));
        }
    }
    let mut at = 0;
    loop {
        if at == batch.len() {
            batch.append(&mut late(at));
        }
        let Some(entry) = batch.get_mut(at) else { break };
        let ran = catch_unwind(AssertUnwindSafe(|| entry.work.run(conn, guard)));
        let Ok(ran) = ran else { return Err(Failed::Piece(at, "a write panicked")) };
        // A failed piece is undone to its savepoint and keeps its own answer, unless the fault concerns all.
        let told = match (watch.take(), ran) {
            (Some(told), _) => Some(told),
            (None, Err(cause)) => {
                tracing::warn!(%cause, "a write failed");
                Told::of(&cause)
            }
            (None, Ok(Ran::Undo)) => return Err(Failed::Unguarded),
            (None, Ok(Ran::Whole)) => None,
        };
        if let Some(told) = told {
            return Err(Failed::Batch(told));
        }
        if !in_transaction(conn) {
            // Without a fault to blame, the piece did that itself; the next would run outside.
            return Err(Failed::Piece(at, "a write ended the transaction it ran in"));
        }
        at += 1;
    }
    Ok(())
}

/// An error of a commit that is not known to leave nothing behind leaves us unsure.
fn at_commit(cause: &diesel::result::Error) -> Told {
    Told::of(cause).unwrap_or_else(|| Told::new(Fault::Broken, cause))
}

/// Whether exactly the batch's own transaction is open, as far as diesel knows; it notices when a savepoint
/// can neither be released nor rolled back because SQLite has ended the transaction.
fn in_transaction(conn: &mut SqliteConnection) -> bool {
    let status = AnsiTransactionManager::transaction_manager_status_mut(conn);
    matches!(status.transaction_depth(), Ok(Some(depth)) if depth.get() == 1)
}

/// Ends whatever is open, savepoints that a panic left behind included; for SQLite and for diesel.
fn roll_back(conn: &mut SqliteConnection) -> QueryResult<()> {
    while AnsiTransactionManager::transaction_manager_status_mut(conn).transaction_depth()?.is_some() {
        match AnsiTransactionManager::rollback_transaction(conn) {
            Ok(()) => {}
            // SQLite had ended it already, and diesel has taken note of that just now.
            Err(_)
                if AnsiTransactionManager::transaction_manager_status_mut(conn)
                    .transaction_depth()?
                    .is_none() => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}
