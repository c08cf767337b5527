//! The database: one writing thread, a pool of readers, a query file per table.
//!
//! The only room that knows diesel. Reads run off the async threads; writes go through [`writer::Writer`].

pub mod account;
pub mod account_provider;
pub mod agent;
pub mod api_key;
pub mod audit_log;
pub mod connection;
pub mod epoch;
pub mod explain;
pub mod export;
mod fixed;
pub mod hold;
mod key_budget;
pub mod ledger_entry;
pub mod lineage;
pub mod message;
pub mod price;
pub mod request_key;
pub mod schema;
pub mod session;
pub mod session_list;
pub mod session_summary;
pub mod turn;
pub mod usage_record;
pub mod verify;
pub mod webhook;
pub mod writer;

use std::sync::Arc;

use diesel::prelude::*;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::Error;
use connection::{READER_WAIT, READERS, Readers};
use writer::{WriteError, Writer};

/// The connection that work in a transaction is given.
pub type Conn = SqliteConnection;

/// The handle to the database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    readers: Readers,
    /// As many as there are connections, so that no thread of the runtime waits for one.
    places: Arc<Semaphore>,
    writer: Writer,
}

impl Store {
    /// A handle over an opened database.
    pub fn new(readers: Readers, writer: Writer) -> Self {
        Self { readers, places: Arc::new(Semaphore::new(READERS as usize)), writer }
    }

    /// The queue of the writing thread.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Runs `query` on a reading connection, off the async threads. It sees the database as it is at one moment, however
    /// many statements it is made of.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`] when no connection is free in time or the database fails, [`Error::Internal`] when what
    /// is stored cannot be understood.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, Error> {
        let place = timeout(READER_WAIT, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(Error::StoreUnavailable("no connection was free in time".to_owned()));
        };
        let readers = self.readers.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            let mut conn = readers.get().map_err(|cause| Error::StoreUnavailable(cause.to_string()))?;
            SqliteConnection::transaction(&mut conn, query).map_err(|cause| failed(&cause))
        });
        done.await.map_err(|panic| Error::Internal(panic.to_string()))?
    }

    /// Runs `work` in the writing thread's next transaction and waits for its commit.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, Error> {
        self.writer.write(work).await
    }
}

/// What a failed query is to whoever asked: to try again helps where the database failed, not where it has what cannot be
/// understood.
fn failed(cause: &diesel::result::Error) -> Error {
    match cause {
        diesel::result::Error::DeserializationError(_) => Error::Internal(cause.to_string()),
        _ => Error::StoreUnavailable(cause.to_string()),
    }
}
