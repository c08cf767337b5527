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

#[cfg(test)]
mod tests {
    use diesel::sql_types::{BigInt, Text};

    use super::*;
    use crate::store::schema::session;
    use crate::store::session::SessionRow;
    use crate::store::{message, verify};

    #[derive(Debug, PartialEq, Eq, QueryableByName)]
    struct Used {
        #[diesel(sql_type = Text)]
        hold_id: String,
        #[diesel(sql_type = Text)]
        model: String,
        #[diesel(sql_type = Text)]
        price_id: String,
        #[diesel(sql_type = BigInt)]
        created_at: i64,
        #[diesel(sql_type = BigInt)]
        charged: i64,
    }

    fn usage(conn: &mut SqliteConnection) -> Vec<Used> {
        let all = "SELECT hold_id, model, price_id, created_at, charged FROM usage_record ORDER BY hold_id";
        diesel::sql_query(all).load(conn).expect("usage")
    }

    /// Goes back to before the migration of that version.
    fn go_back(conn: &mut SqliteConnection, version: &str) {
        let reverted = |conn: &mut SqliteConnection| {
            let applied = conn.applied_migrations().expect("versions");
            applied.iter().all(|applied| applied.to_string().as_str() < version)
        };
        while !reverted(conn) {
            conn.revert_last_migration(MIGRATIONS).expect("a migration that can be reverted");
        }
    }

    /// What is said in each session.
    fn conversations(conn: &mut SqliteConnection) -> Vec<(String, Vec<String>)> {
        let all = session::table.select(SessionRow::as_select()).order(session::name);
        let sessions: Vec<SessionRow> = all.load(conn).expect("sessions");
        let one = |row: SessionRow| {
            let said = message::bodies(conn, &row).expect("messages");
            (row.name, said.into_iter().map(|(_, body)| body).collect())
        };
        sessions.into_iter().map(one).collect()
    }

    /// The messages of a branch from one number to another.
    fn said(by: &str, from: i64, to: i64) -> Vec<String> {
        (from..=to).map(|seq| format!("\"{by}{seq}\"")).collect()
    }

    #[test]
    fn conversations_that_were_branches_are_there_and_can_go_back() {
        const NAMED: &str = "20261127193000";
        let dir = tempfile::tempdir().expect("a directory");
        let mut conn = open_writer(&database_file(dir.path())).expect("a database");
        go_back(&mut conn, NAMED);
        conn.batch_execute(
            "INSERT INTO account (account_id, name, status, available, held, session_count, created_at)
               VALUES ('a', 'A', 'active', 0, 0, 5, 1);
             INSERT INTO branch (id, parent_id, base) VALUES (1, NULL, 0), (2, 1, 128), (3, 2, 130), (4, NULL, 0);
             CREATE TEMP TABLE own (branch_id, lo, hi);
             INSERT INTO own VALUES (1, 1, 200), (2, 129, 140), (3, 131, 300), (4, 1, 2);
             INSERT INTO message (branch_id, seq, turn_seq, body, created_at)
               WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300)
               SELECT branch_id, n, n + n % 2, '\"' || branch_id || '.' || n || '\"', 1 FROM n, own WHERE n BETWEEN lo AND hi
               ORDER BY n, branch_id;
             INSERT INTO session (account_id, agent_id, name, named_by, status, head, created_at, updated_at, branch_id) VALUES
               ('a', 'g', 'whole', 'client', 'active', 200, 1, 1, 1), ('a', 'g', 'before', 'client', 'active', 64, 1, 1, 1),
               ('a', 'g', 'beside', 'client', 'active', 140, 1, 1, 2), ('a', 'g', 'beyond', 'client', 'active', 300, 1, 1, 3),
               ('a', 'g', 'empty', 'client', 'active', 0, 1, 1, NULL);
             DELETE FROM branch WHERE id = 4;",
        )
        .expect("branches");
        let beside = [said("1.", 1, 128), said("2.", 129, 140)].concat();
        let beyond = [said("1.", 1, 128), said("2.", 129, 130), said("3.", 131, 300)].concat();
        let expected = [
            ("before", said("1.", 1, 64)),
            ("beside", beside),
            ("beyond", beyond),
            ("empty", Vec::new()),
            ("whole", said("1.", 1, 200)),
        ];
        let expected = expected.map(|(name, said)| (name.to_owned(), said));
        for _ in 0..2 {
            conn.run_pending_migrations(MIGRATIONS).expect("the database of now");
            assert_eq!(conversations(&mut conn), expected);
            let report = verify::run(&mut conn).expect("a report");
            assert!(report.ok, "{:?}", report.checks);
            go_back(&mut conn, NAMED);
        }
        conn.batch_execute(
            "SELECT 1 / (SELECT COUNT(*) = 3 FROM branch), 1 / (SELECT COUNT(*) = 0 FROM pragma_foreign_key_check);",
        )
        .expect("what was there before");
    }

    #[test]
    fn usage_that_had_a_table_of_its_own_is_there_with_its_hold_and_can_go_back() {
        const MOVED: &str = "20261127165000";
        let dir = tempfile::tempdir().expect("a directory");
        let mut conn = open_writer(&database_file(dir.path())).expect("a database");
        go_back(&mut conn, MOVED);
        conn.batch_execute(
            "INSERT INTO account (account_id, name, status, available, held, created_at) VALUES ('a', 'A', 'active', 0, 5, 1);
             INSERT INTO price VALUES ('p1', 'm', 1, 1, 1, 1, 0), ('p2', 'n', 1, 1, 1, 1, 0);
             INSERT INTO hold (id, account_id, key_id, agent_id, session_id, completion_id, model, request_id, step, amount,
               price_id, state, owner_epoch, created_at, expires_at, closed_at) VALUES
               ('h1', 'a', 'k', 'g', 's', 'c', 'm', 'r1', 0, 5, 'p1', 'settled', 1, 1, 9, 7),
               ('h2', 'a', 'k', 'g', 's', 'c', 'm', 'r2', 0, 5, 'p1', 'settled', 1, 1, 9, 7),
               ('h3', 'a', 'k', 'g', 's', 'c', 'm', 'r3', 0, 5, 'p1', 'released', 1, 1, 9, 7),
               ('h4', 'a', 'k', 'g', 's', 'c', 'm', 'r4', 0, 5, 'p1', 'open', 1, 1, 9, NULL);
             INSERT INTO usage_record VALUES ('h1', 'a', 'k', 'g', 's', 'c', 'm', 7, 'p1', 3, 1, 2, 'upstream', 4, 3, 1),
               ('h2', 'a', 'k', 'g', 's', 'c', 'n', 8, 'p2', 3, 1, 2, 'local', 4, 4, 0);",
        )
        .expect("holds and usage");
        let before = usage(&mut conn);
        assert_eq!(before.len(), 2);
        conn.run_pending_migrations(MIGRATIONS).expect("the database of now");
        assert_eq!(usage(&mut conn), before);
        for refused in [
            "UPDATE hold SET state = 'settled', closed_at = 9 WHERE id = 'h4'",
            "UPDATE hold SET cost = 1, charged = 1, written_off = 0 WHERE id = 'h4'",
            "UPDATE hold SET served_price_id = 'none' WHERE id = 'h4'",
        ] {
            conn.batch_execute(refused).expect_err(refused);
        }
        go_back(&mut conn, MOVED);
        assert_eq!(usage(&mut conn), before);
    }
}
