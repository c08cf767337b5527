//! Queries on `session`. What was said in them is in [`lineage`], and read by [`message`](crate::store::message).

use diesel::prelude::*;
use diesel::result::Error::NotFound;
use diesel::sql_types::BigInt;

use crate::conversation::opening::Opening;
use crate::conversation::turn::Completeness;
use crate::error::Error;
use crate::store::fixed::Value::{Int, MaybeText, Text};
use crate::store::fixed::{Value, fixed, last_rowid};
use crate::store::lineage::{self, Behind, Note, Place};
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

/// A turn on its way into the database.
#[derive(Clone, Debug)]
pub struct StoredTurn {
    /// What the client said, as JSON.
    pub messages: Vec<String>,
    /// The answer, as JSON.
    pub reply: String,
    /// Whether it came whole.
    pub completeness: Completeness,
    /// The client's own notes, as JSON.
    pub metadata: Option<String>,
    /// What it brings along if it is the first of its session.
    pub opening: Option<Opening>,
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

/// Whose a turn is, and how it was paid.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each field is an id")]
pub struct Of<'a> {
    pub account: &'a str,
    pub agent: &'a str,
    pub session: &'a str,
    pub completion: &'a str,
    pub hold: &'a str,
}

/// Where a turn finds its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Queryable)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Found {
    pub id: i64,
    pub head: i64,
}

/// Where a turn's session has come to, if it still exists.
pub fn standing(conn: &mut SqliteConnection, of: Of<'_>) -> QueryResult<Option<Found>> {
    const FIND: &str = "SELECT id, head FROM session WHERE account_id = ? AND agent_id = ? AND name = ?";
    let own = [Text(of.account), Text(of.agent), Text(of.session)];
    fixed!(FIND, own).returning::<(BigInt, BigInt)>().get_result(conn).optional()
}

/// Whether a session still is where it was found.
pub fn is_at(conn: &mut SqliteConnection, own: Found) -> QueryResult<bool> {
    const ASK: &str = "SELECT 1 FROM session WHERE id = ? AND head = ?";
    let asked = fixed!(ASK, [Int(own.id), Int(own.head)]);
    Ok(asked.returning::<BigInt>().get_result::<i64>(conn).optional()?.is_some())
}

/// The anchor of the message that was stored just now, whose row is the one that was inserted last.
macro_rules! last_anchor {
    () => {
        "(SELECT anchor_id FROM message WHERE id = last_insert_rowid())"
    };
}

/// Stores a turn behind the others of its session, and answers where it is then. `None` if the session is not where it
/// was found, if it has turns already: then nothing was written. One without turns has to be there.
pub fn append_turn(
    conn: &mut SqliteConnection,
    own: Found,
    of: Of<'_>,
    new: &StoredTurn,
    now: i64,
) -> QueryResult<Option<Found>> {
    const MOVE: &str = concat!(
        "UPDATE session SET message_id = last_insert_rowid(), anchor_id = ",
        last_anchor!(),
        ", head = ?, updated_at = ? WHERE id = ? AND head = ?"
    );
    const OPEN: &str = concat!(
        "UPDATE session SET message_id = last_insert_rowid(), anchor_id = ",
        last_anchor!(),
        ", head = ?, updated_at = ?, given = ?, given_at = ?, title = COALESCE(title, ?) WHERE id = ? AND head = ?"
    );
    let Some(last) = store_turn(conn, Some(own), of, new, now)? else { return Ok(None) };
    let moved = match opening(own.head, new) {
        Some(opening) => {
            let (given, title) = (given(opening), MaybeText(opening.title.as_deref()));
            let to = [Int(last), Int(now), given, Int(now), title, Int(own.id), Int(own.head)];
            fixed!(OPEN, to).execute(conn)?
        }
        None => fixed!(MOVE, [Int(last), Int(now), Int(own.id), Int(own.head)]).execute(conn)?,
    };
    if moved == 0 {
        return Err(NotFound);
    }
    Ok(Some(Found { id: own.id, head: last }))
}

/// As [`append_turn`], wherever the session is by now; `None` if it is gone. It may be at `place`.
pub fn append_wherever(
    conn: &mut SqliteConnection,
    place: Option<Found>,
    of: Of<'_>,
    new: &StoredTurn,
    now: i64,
) -> QueryResult<Option<Found>> {
    if let Some(place) = place
        && let Some(then) = append_turn(conn, place, of, new, now)?
    {
        return Ok(Some(then));
    }
    match standing(conn, of)? {
        Some(own) => append_turn(conn, own, of, new, now),
        None => Ok(None),
    }
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

/// As [`begin`] at one time and [`append_turn`] at another; where the session is then.
pub fn begin_with(
    conn: &mut SqliteConnection,
    of: Of<'_>,
    by_server: bool,
    made: i64,
    new: &StoredTurn,
    now: i64,
) -> QueryResult<Found> {
    const MAKE: &str = concat!(
        "INSERT INTO session (account_id, agent_id, name, named_by, status, created_at, updated_at, head, given, given_at, \
         title, message_id, anchor_id) VALUES (?, ?, ?, ?, 'active', ?, ?, ?, ?, ?, ?, last_insert_rowid(), ",
        last_anchor!(),
        ")"
    );
    let Some(last) = store_turn(conn, None, of, new, now)? else {
        return Err(diesel::result::Error::NotFound);
    };
    let opening = opening(0, new);
    let row = [
        Text(of.account),
        Text(of.agent),
        Text(of.session),
        named_by(by_server),
        Int(made),
        Int(now),
        Int(last),
        opening.map_or(Int(0), given),
        Int(opening.map_or(0, |_| now)),
        MaybeText(opening.and_then(|opening| opening.title.as_deref())),
    ];
    fixed!(MAKE, row).execute(conn)?;
    Ok(Found { id: last_rowid(conn)?, head: last })
}

fn named_by(server: bool) -> Value<'static> {
    Text(if server { "server" } else { "client" })
}

/// What a turn brings along, if it is the first of its session.
fn opening(head: i64, new: &StoredTurn) -> Option<&Opening> {
    new.opening.as_ref().filter(|_| head == 0)
}

fn given(opening: &Opening) -> Value<'static> {
    Int(i64::try_from(opening.given()).unwrap_or(i64::MAX))
}

/// Stores a turn behind the others of a session, or as the first; answers the number of its last message. `None` if the
/// session is not where it was found: then nothing was written.
fn store_turn(
    conn: &mut SqliteConnection,
    own: Option<Found>,
    of: Of<'_>,
    new: &StoredTurn,
    now: i64,
) -> QueryResult<Option<i64>> {
    let begun = own.filter(|own| own.head > 0);
    let opening = opening(begun.map_or(0, |own| own.head), new);
    let known = match opening {
        Some(opening) => opening.longest_known(|len, chain| lineage::known(conn, len, chain))?,
        None => None,
    };
    // What is known is stored already, and read from there.
    let (skipped, behind) = match (known, begun) {
        (Some((len, last)), _) => {
            (len, (Behind::Message(Some(last)), i64::try_from(len).unwrap_or(i64::MAX)))
        }
        (None, Some(own)) => (0, (Behind::Session(own.id), own.head)),
        (None, None) => (0, (Behind::Message(None), 0)),
    };
    let said: Vec<&String> = new.messages[skipped..].iter().chain([&new.reply]).collect();
    let chains = opening.map_or(&[][..], |opening| opening.chains.get(skipped..).unwrap_or_default());
    let note = Note {
        completion: of.completion,
        hold: of.hold,
        status: new.completeness.as_str(),
        metadata: new.metadata.as_deref(),
    };
    lineage::append(conn, behind, said.into_iter(), chains, (note, now))
}
