//! Opening the database: settings of a connection, the pool of readers, migrations.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::store::writer::make_room_for_start;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Readers at the same time.
pub const READERS: u32 = 8;
/// How long a read waits for a connection.
pub const READER_WAIT: Duration = Duration::from_secs(5);
/// How long a statement waits for another process that has locked the database.
const BUSY_TIMEOUT_MS: u32 = 5_000;

/// Memory for pages of the writing connection between batches.
///
/// Rows are added side by side, so what is written next lies in few pages. With 300,000 sessions a turn in one that is
/// taken at random reads 4.4 pages again with 2 MB, 4.1 with 4 MB and 3.8 with 8 MB, all in the same time; but at most
/// commits SQLite walks through all that it keeps (a page that moved had the number of the pending-byte page for a
/// moment), which with 64 MB took a fifth of the writer's time, and the processor's caches have to hold it.
const WRITER_CACHE_KIB: u32 = 4_000;
/// What a batch may take beyond that: several times what the largest needs, so that no page is written twice.
const WRITER_BATCH_KIB: u32 = 64_000;
/// The same for each reader.
const READER_CACHE_KIB: u32 = 16_000;

/// Connections that only read.
pub type Readers = Pool<ConnectionManager<SqliteConnection>>;

/// Where the database of a data directory lies.
pub fn database_file(data: &Path) -> PathBuf {
    data.join("switchboard.db")
}

/// Opens the writing connection, creating the database and bringing it up to date.
///
/// `synchronous=FULL`: with `NORMAL`, SQLite may lose acknowledged commits at a power loss. What savepoints need
/// to be undone stays in memory: it is little, and another disk could be full. On a full disk the room that an
/// earlier run kept for it is used.
pub fn open_writer(file: &Path) -> anyhow::Result<SqliteConnection> {
    make_room_for_start(file);
    let mut conn = establish(file)?;
    conn.batch_execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        .context("switching the database to write-ahead logging")?;
    let memory = format!(
        "PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{WRITER_CACHE_KIB}; PRAGMA cache_spill = -{WRITER_BATCH_KIB};"
    );
    conn.batch_execute(&memory).context("setting up the writing connection")?;
    conn.run_pending_migrations(MIGRATIONS)
        .map_err(|cause| anyhow::anyhow!("migrating the database: {cause}"))?;
    Ok(conn)
}

/// Opens a connection that only merges the write-ahead log into the database.
pub fn open_merger(file: &Path) -> anyhow::Result<SqliteConnection> {
    let mut conn = establish(file)?;
    conn.batch_execute("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;")
        .context("opening the database to merge its log")?;
    Ok(conn)
}

/// Opens one connection that only reads.
pub fn open_reader(file: &Path) -> anyhow::Result<SqliteConnection> {
    let mut conn = establish(file)?;
    conn.batch_execute("PRAGMA query_only = ON;").context("opening the database for reading")?;
    Ok(conn)
}

fn establish(file: &Path) -> anyhow::Result<SqliteConnection> {
    let url = file.to_str().context("the data directory's path is not UTF-8")?;
    let mut conn = SqliteConnection::establish(url).with_context(|| format!("opening {url}"))?;
    conn.batch_execute(&settings()).context("setting up the database connection")?;
    Ok(conn)
}

fn settings() -> String {
    format!(
        "PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}; PRAGMA foreign_keys = ON; PRAGMA cache_size = -{READER_CACHE_KIB};"
    )
}

/// Opens the pool of readers. Connections are made as they are needed.
pub fn open_readers(file: &Path) -> anyhow::Result<Readers> {
    let url = file.to_str().context("the data directory's path is not UTF-8")?;
    Pool::builder()
        .max_size(READERS)
        .min_idle(Some(0))
        .connection_timeout(READER_WAIT)
        .test_on_check_out(false)
        .connection_customizer(Box::new(ReadOnly))
        .build(ConnectionManager::new(url))
        .context("opening the pool of database readers")
}

#[derive(Debug)]
struct ReadOnly;

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for ReadOnly {
    fn on_acquire(&self, conn: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        conn.batch_execute(&settings())
            .and_then(|()| conn.batch_execute("PRAGMA query_only = ON;"))
            .map_err(diesel::r2d2::Error::QueryError)
    }
}
