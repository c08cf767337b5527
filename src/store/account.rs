//! Queries on `account`. Rows only: what a balance means is in `billing`.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text as SqlText};

use crate::billing::money::Nanos;
use crate::error::Error;
use crate::store::fixed::Value::{Int, Text};
use crate::store::fixed::fixed;
use crate::store::schema::account::columns;
use crate::store::schema::account::dsl::*;
use crate::store::writer::WriteError;
use crate::store::{account_provider, agent, api_key, webhook};

/// A tenant, as stored.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = crate::store::schema::account)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct AccountRow {
    pub account_id: String,
    pub name: String,
    pub status: String,
    pub limits: String,
    pub last_seq: i64,
    pub available: i64,
    pub held: i64,
    pub agent_count: i64,
    pub session_count: i64,
    pub created_at: i64,
    pub retention_days: Option<i64>,
    pub closed_at: Option<i64>,
}

impl AccountRow {
    /// `active`, `suspended` or `closed`.
    pub fn state(&self) -> &str {
        if self.closed_at.is_some() { "closed" } else { &self.status }
    }
}

/// The account of that id.
pub fn find(conn: &mut SqliteConnection, id: &str) -> QueryResult<Option<AccountRow>> {
    account.find(id).select(AccountRow::as_select()).get_result(conn).optional()
}

/// All accounts, newest first.
pub fn list(conn: &mut SqliteConnection, limit: i64, offset: i64) -> QueryResult<(Vec<AccountRow>, i64)> {
    let rows = account
        .select(AccountRow::as_select())
        .order((created_at.desc(), account_id.desc()))
        .limit(limit)
        .offset(offset)
        .load(conn)?;
    Ok((rows, account.count().get_result(conn)?))
}

/// Whether there is no account yet.
pub fn none(conn: &mut SqliteConnection) -> QueryResult<bool> {
    Ok(account.count().get_result::<i64>(conn)? == 0)
}

/// The account that was made first.
pub fn first(conn: &mut SqliteConnection) -> QueryResult<Option<AccountRow>> {
    account.select(AccountRow::as_select()).order((created_at, account_id)).first(conn).optional()
}

/// Adds an account.
pub fn insert(conn: &mut SqliteConnection, row: &AccountRow) -> QueryResult<()> {
    diesel::insert_into(account).values(row).execute(conn).map(drop)
}

/// Changes what is given; `false` if there is no such account.
pub fn update(
    conn: &mut SqliteConnection,
    id: &str,
    new_status: Option<&str>,
    new_limits: Option<&str>,
) -> QueryResult<bool> {
    let mut found = account.find(id).count().get_result::<i64>(conn)? == 1;
    if let Some(new) = new_status {
        found = diesel::update(account.find(id)).set(status.eq(new)).execute(conn)? == 1;
    }
    if let Some(new) = new_limits {
        found = diesel::update(account.find(id)).set(limits.eq(new)).execute(conn)? == 1;
    }
    Ok(found)
}

/// Closes an account for good: nothing more is reserved, and nobody comes in or is told of it. Its agents, keys, webhooks
/// and provider keys go; its sessions go after them, and its ledger stays. Answers the agents that it had.
///
/// # Errors
/// [`Error::NotFound`] if there is no such account.
pub fn close_for_good(conn: &mut SqliteConnection, id: &str, now: i64) -> Result<Vec<String>, WriteError> {
    let row = find(conn, id)?.ok_or(Error::NotFound("the account"))?;
    let closed =
        (status.eq("suspended"), closed_at.eq(row.closed_at.unwrap_or(now)), retention_days.eq(None::<i64>));
    diesel::update(account.find(id)).set(closed).execute(conn)?;
    let agents = agent::delete_of_account(conn, id)?;
    api_key::delete_of_account(conn, id)?;
    webhook::delete_of_account(conn, id)?;
    account_provider::delete_of_account(conn, id)?;
    Ok(agents)
}

/// Sets after how many idle days sessions are deleted; `false` if there is no such account.
pub fn set_retention(conn: &mut SqliteConnection, id: &str, days: Option<i64>) -> QueryResult<bool> {
    Ok(diesel::update(account.find(id)).set(retention_days.eq(days)).execute(conn)? == 1)
}

/// The accounts whose idle sessions are deleted, and after how many days.
pub fn with_retention(conn: &mut SqliteConnection) -> QueryResult<Vec<(String, i64)>> {
    account
        .filter(retention_days.is_not_null())
        .select((account_id, retention_days.assume_not_null()))
        .load(conn)
}

/// What may be spent, and what is set aside.
pub fn money(conn: &mut SqliteConnection, id: &str) -> QueryResult<(Nanos, Nanos)> {
    let (free, aside) = account.find(id).select((columns::available, columns::held)).get_result(conn)?;
    Ok((Nanos(free), Nanos(aside)))
}

/// Moves `amount` from available to held and counts `begun` sessions: how the account stands then. `None` if it is not
/// active, cannot pay, or did not stand as it did `before`.
pub fn reserve(
    conn: &mut SqliteConnection,
    id: &str,
    before: Standing,
    amount: i64,
    begun: i64,
) -> QueryResult<Option<Standing>> {
    const MOVE: &str = "UPDATE account SET available = available - ?, held = held + ?, \
                        session_count = session_count + ? WHERE account_id = ? AND last_seq = ? \
                        AND available = ? AND status = 'active' AND available >= ?";
    let stood = [Int(before.seq), Int(before.available)];
    let moved = [Int(amount), Int(amount), Int(begun), Text(id), stood[0], stood[1], Int(amount)];
    let moved = fixed!(MOVE, moved).execute(conn)? == 1;
    Ok(moved.then(|| Standing { available: before.available - amount, held: before.held + amount, ..before }))
}

/// Takes `amount` out of held and puts `back` of it into available.
pub fn close(conn: &mut SqliteConnection, id: &str, amount: i64, back: i64) -> QueryResult<()> {
    const MOVE: &str = "UPDATE account SET held = held - ?, available = available + ? WHERE account_id = ?";
    fixed!(MOVE, [Int(amount), Int(back), Text(id)]).execute(conn).map(drop)
}

/// How an account stands, and what else concerns a movement that an entry tells of.
#[derive(Clone, Debug, Queryable)]
pub struct Standing {
    /// What may be spent.
    pub available: i64,
    /// What is set aside.
    pub held: i64,
    /// The number of the last entry.
    pub seq: i64,
    /// Its hash.
    pub last: Option<String>,
    /// Whether somebody may want to be told.
    pub watched: bool,
    /// Whether the key that pays has, or had, a budget.
    pub budgeted: bool,
}

/// The types of the columns of a [`Standing`].
pub type StandingTypes = (BigInt, BigInt, BigInt, Nullable<SqlText>, Bool, Bool);

/// What every question asks that tells how an account `a` stands: its columns, whose value is the key, and its tables.
macro_rules! standing_sql {
    (columns) => {
        "a.available, a.held, a.last_seq, e.hash, \
         EXISTS (SELECT 1 FROM webhook w WHERE w.account_id = a.account_id), \
         EXISTS (SELECT 1 FROM key_budget b WHERE b.key_id = ?) "
    };
    (from) => {
        "FROM account a LEFT JOIN ledger_entry e ON e.account_id = a.account_id AND e.seq = a.last_seq "
    };
}
pub(super) use standing_sql;

/// How an account of which that key pays stands.
///
/// A question and then an UPDATE: for RETURNING, SQLite makes a table and throws it away again.
pub fn standing(conn: &mut SqliteConnection, (id, key): (&str, &str)) -> QueryResult<Standing> {
    const ASK: &str =
        concat!("SELECT ", standing_sql!(columns), standing_sql!(from), "WHERE a.account_id = ?");
    fixed!(ASK, [Text(key), Text(id)]).returning::<StandingTypes>().get_result(conn)
}

impl Standing {
    /// After a movement of so much into available and held, which has the next number.
    fn moved(self, available_by: i64, held_by: i64) -> Self {
        Self {
            available: self.available + available_by,
            held: self.held + held_by,
            seq: self.seq + 1,
            ..self
        }
    }
}

/// As [`close`] of a hold, and numbers the entry that tells of it: how the account stands then, with the hash of the
/// entry before. `None` if it did not stand as it did `before`.
pub fn post(
    conn: &mut SqliteConnection,
    id: &str,
    before: Standing,
    (amount, back): (i64, i64),
) -> QueryResult<Option<Standing>> {
    const MOVE: &str = "UPDATE account SET held = held - ?, available = available + ?, last_seq = last_seq + 1 \
                        WHERE account_id = ? AND last_seq = ? AND available = ?";
    let moved = [Int(amount), Int(back), Text(id), Int(before.seq), Int(before.available)];
    let moved = fixed!(MOVE, moved).execute(conn)? == 1;
    Ok(moved.then(|| before.moved(back, -amount)))
}

/// Takes `charged` out of available where `worst` is there, counts `begun` sessions and numbers the entry that tells of
/// it; `None` if the account is not active, does not have the worst, or did not stand as it did `before`.
pub fn charge(
    conn: &mut SqliteConnection,
    id: &str,
    before: Standing,
    (worst, charged): (i64, i64),
    begun: i64,
) -> QueryResult<Option<Standing>> {
    const TAKE: &str = "UPDATE account SET available = available - ?, session_count = session_count + ?, \
                        last_seq = last_seq + 1 WHERE account_id = ? AND last_seq = ? \
                        AND available = ? AND status = 'active' AND available >= ?";
    let stood = [Int(before.seq), Int(before.available)];
    let taken = [Int(charged), Int(begun), Text(id), stood[0], stood[1], Int(worst)];
    let taken = fixed!(TAKE, taken).execute(conn)? == 1;
    Ok(taken.then(|| before.moved(-charged, 0)))
}

/// Counts agents and sessions up or down.
pub fn count(conn: &mut SqliteConnection, id: &str, agents: i64, sessions: i64) -> QueryResult<()> {
    const COUNT: &str = "UPDATE account SET agent_count = agent_count + ?, session_count = session_count + ? \
                         WHERE account_id = ?";
    fixed!(COUNT, [Int(agents), Int(sessions), Text(id)]).execute(conn).map(drop)
}
