//! Queries on `session`. What was said in them is in [`lineage`], put there by [`turn`](crate::store::turn) and read by
//! [`message`](crate::store::message).

use diesel::prelude::*;

use crate::error::Error;
use crate::store::fixed::Value::{Int, Text};
use crate::store::fixed::{Value, fixed};
use crate::store::lineage::{self, Place};
use crate::store::schema::{agent, hold, session};
use crate::store::writer::WriteError;
use crate::store::{account, session_list, session_summary};

/// A session, as stored.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = crate::store::schema::session)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct SessionRow {
    pub id: i64,
    pub account_id: String,
    pub agent_id: String,
    pub name: String,
    pub named_by: String,
    pub status: String,
    pub head: i64,
    pub created_at: i64,
    pub updated_at: i64,
    pub message_id: Option<i64>,
    pub given: i64,
    pub given_at: i64,
    pub title: Option<String>,
    pub metadata: Option<String>,
}

impl SessionRow {
    /// Where its conversation has come to.
    pub fn place(&self) -> Place {
        Place { message: self.message_id, head: self.head }
    }
}

/// Makes the session unless it exists.
///
/// # Errors
/// [`Error::ModelNotFound`] if its agent is gone.
pub fn ensure(
    conn: &mut SqliteConnection,
    owner: &str,
    of_agent: &str,
    called: &str,
    by_server: bool,
    now: i64,
) -> Result<bool, WriteError> {
    const MAKE: &str = "INSERT INTO session (account_id, agent_id, name, named_by, status, created_at, updated_at) \
                        VALUES (?, ?, ?, ?, 'active', ?, ?) ON CONFLICT DO NOTHING";
    let row = [Text(owner), Text(of_agent), Text(called), named_by(by_server), Int(now), Int(now)];
    let made = fixed!(MAKE, row).execute(conn)? == 1;
    if made {
        // A request may have found its agent and come here after the agent's end.
        let there = agent::table.filter(agent::agent_id.eq(of_agent)).select(agent::id);
        if there.get_result::<i64>(conn).optional()?.is_none() {
            return Err(Error::ModelNotFound(of_agent.to_owned()).into());
        }
        account::count(conn, owner, 0, 1)?;
    }
    Ok(made)
}

/// The session of that name with that agent.
pub fn find(
    conn: &mut SqliteConnection,
    owner: &str,
    of_agent: &str,
    called: &str,
) -> QueryResult<Option<SessionRow>> {
    session::table
        .filter(session::account_id.eq(owner))
        .filter(session::agent_id.eq(of_agent))
        .filter(session::name.eq(called))
        .select(SessionRow::as_select())
        .get_result(conn)
        .optional()
}

/// The session of that number.
pub fn by_id(conn: &mut SqliteConnection, rowid: i64) -> QueryResult<Option<SessionRow>> {
    session::table.find(rowid).select(SessionRow::as_select()).get_result(conn).optional()
}

/// The sessions of that name, whichever agent they are with; two at most.
pub fn named(conn: &mut SqliteConnection, owner: &str, called: &str) -> QueryResult<Vec<SessionRow>> {
    session::table
        .filter(session::account_id.eq(owner))
        .filter(session::name.eq(called))
        .select(SessionRow::as_select())
        .limit(2)
        .load(conn)
}

/// What a tenant may change of a session. `None` leaves it, `Some(None)` clears it.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Whether it takes more turns.
    pub status: Option<String>,
    /// What people see.
    pub title: Option<Option<String>>,
    /// The tenant's own notes.
    pub metadata: Option<Vec<(String, String)>>,
}

/// Changes a session; `None` if it is gone.
pub fn change(
    conn: &mut SqliteConnection,
    rowid: i64,
    to: &Change,
    now: i64,
) -> QueryResult<Option<SessionRow>> {
    let own = || diesel::update(session::table.find(rowid));
    if own().set(session::updated_at.eq(now)).execute(conn)? == 0 {
        return Ok(None);
    }
    if let Some(status) = &to.status {
        own().set(session::status.eq(status)).execute(conn)?;
    }
    if let Some(title) = &to.title {
        own().set(session::title.eq(title)).execute(conn)?;
    }
    if let Some(pairs) = &to.metadata {
        let document = session_list::document(pairs);
        let owner: String =
            own().set(session::metadata.eq(document)).returning(session::account_id).get_result(conn)?;
        session_list::replace(conn, &owner, rowid, pairs)?;
    }
    by_id(conn, rowid)
}

/// Deletes a session with what it alone has of messages; its charges stay.
pub fn delete(conn: &mut SqliteConnection, row: &SessionRow) -> QueryResult<bool> {
    Ok(delete_all(conn, &row.account_id, &[row.id], i64::MAX)? == 1)
}

/// Deletes those of an account's sessions that were last used at `idle_since` or before; how many there were.
pub fn delete_all(
    conn: &mut SqliteConnection,
    owner: &str,
    rowids: &[i64],
    idle_since: i64,
) -> QueryResult<i64> {
    let mut gone = 0;
    for rowid in rowids {
        let idle = session::table.find(rowid).filter(session::updated_at.le(idle_since));
        let last: Option<Option<i64>> =
            diesel::delete(idle).returning(session::message_id).get_result(conn).optional()?;
        gone += i64::from(last.is_some());
        if let Some(last) = last.flatten() {
            lineage::release(conn, last)?;
        }
    }
    if gone > 0 {
        account::count(conn, owner, 0, -gone)?;
    }
    Ok(gone)
}

/// As [`delete_all`], but for those in which a turn runs.
pub fn delete_idle(
    conn: &mut SqliteConnection,
    owner: &str,
    rowids: &[i64],
    idle_since: i64,
) -> QueryResult<i64> {
    let running: Vec<(String, String)> = hold::table
        .filter(hold::account_id.eq(owner))
        .filter(hold::state.eq("open"))
        .select((hold::agent_id, hold::session_id))
        .load(conn)?;
    let mut idle = rowids.to_vec();
    if !running.is_empty() {
        let in_use = keys(conn, rowids)?.into_iter().zip(rowids).filter(|(key, _)| running.contains(key));
        let in_use: Vec<i64> = in_use.map(|(_, rowid)| *rowid).collect();
        idle.retain(|rowid| !in_use.contains(rowid));
    }
    delete_all(conn, owner, &idle, idle_since)
}

/// Agents and names of sessions, blank for those that are gone.
pub fn keys(conn: &mut SqliteConnection, rowids: &[i64]) -> QueryResult<Vec<(String, String)>> {
    let one = |rowid: &i64| {
        let own = session::table.find(rowid).select((session::agent_id, session::name));
        own.get_result(conn).optional().map(Option::unwrap_or_default)
    };
    rowids.iter().map(one).collect()
}

/// The agents, with their accounts, that are gone and have sessions still.
pub fn orphaned(conn: &mut SqliteConnection) -> QueryResult<Vec<(String, String)>> {
    session::table
        .filter(session::agent_id.ne_all(agent::table.select(agent::agent_id)))
        .select((session::account_id, session::agent_id))
        .distinct()
        .load(conn)
}

/// Deletes up to `most` sessions of an agent that goes; how many there were.
pub fn delete_of_agent(
    conn: &mut SqliteConnection,
    owner: &str,
    of_agent: &str,
    most: i64,
) -> QueryResult<i64> {
    let own = session::table
        .filter(session::account_id.eq(owner))
        .filter(session::agent_id.eq(of_agent))
        .select(session::id)
        .limit(most)
        .load::<i64>(conn)?;
    delete_all(conn, owner, &own, i64::MAX)
}

/// What a new session begins with.
#[derive(Clone, Debug)]
pub struct Fork {
    /// What it is called.
    pub name: String,
    /// Whether we called it so.
    pub by_server: bool,
    /// How many messages it has of the other.
    pub head: i64,
    /// What else differs from the other.
    pub change: Change,
}

/// Makes a session that has the beginning of another; `None` if there is one of that name.
///
/// No message is copied.
pub fn fork(
    conn: &mut SqliteConnection,
    of: &SessionRow,
    new: &Fork,
    now: i64,
) -> Result<Option<SessionRow>, WriteError> {
    if !ensure(conn, &of.account_id, &of.agent_id, &new.name, new.by_server, now)? {
        return Ok(None);
    }
    let Some(made) = find(conn, &of.account_id, &of.agent_id, &new.name)? else { return Ok(None) };
    let place = lineage::back_to(conn, of.place(), new.head)?;
    let taken_over = (
        session::message_id.eq(place.message),
        session::anchor_id.eq(lineage::anchor(conn, place)?),
        session::head.eq(place.head),
        session::given.eq(of.given.min(place.head)),
        session::given_at.eq(of.given_at),
    );
    diesel::update(session::table.find(made.id)).set(taken_over).execute(conn)?;
    if let Some(last) = place.message {
        lineage::retain(conn, last)?;
    }
    session_summary::copy(conn, of.id, made.id, place.head)?;
    let mut change = new.change.clone();
    change.title = change.title.or_else(|| Some(of.title.clone()));
    change.metadata = change.metadata.or_else(|| Some(session_list::pairs(of.metadata.as_deref())));
    Ok(self::change(conn, made.id, &change, now)?)
}

/// Takes back what came after the message number `head`.
pub fn truncate(
    conn: &mut SqliteConnection,
    row: &SessionRow,
    head: i64,
    now: i64,
) -> QueryResult<Option<SessionRow>> {
    let place = lineage::back_to(conn, row.place(), head)?;
    let cut = (
        session::message_id.eq(place.message),
        session::anchor_id.eq(lineage::anchor(conn, place)?),
        session::head.eq(place.head),
        session::given.eq(row.given.min(place.head)),
        session::updated_at.eq(now),
    );
    diesel::update(session::table.find(row.id)).set(cut).execute(conn)?;
    session_summary::cut(conn, row.id, place.head)?;
    // First, since it may be the place of before.
    if let Some(last) = place.message {
        lineage::retain(conn, last)?;
    }
    if let Some(left) = row.message_id {
        lineage::release(conn, left)?;
    }
    by_id(conn, row.id)
}

/// Makes a session of which it is known that it does not exist; the account has counted it.
pub fn begin(
    conn: &mut SqliteConnection,
    (owner, of_agent): (&str, &str),
    (called, by_server): (&str, bool),
    now: i64,
) -> QueryResult<()> {
    const MAKE: &str = "INSERT INTO session (account_id, agent_id, name, named_by, status, created_at, updated_at) \
                        VALUES (?, ?, ?, ?, 'active', ?, ?)";
    let row = [Text(owner), Text(of_agent), Text(called), named_by(by_server), Int(now), Int(now)];
    fixed!(MAKE, row).execute(conn).map(drop)
}

/// Who named a session, as it is stored.
pub(super) fn named_by(server: bool) -> Value<'static> {
    Text(if server { "server" } else { "client" })
}
