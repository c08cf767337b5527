//! Turns on their way into their sessions.

use diesel::prelude::*;
use diesel::result::Error::NotFound;
use diesel::sql_types::BigInt;

use crate::conversation::opening::Opening;
use crate::conversation::turn::Completeness;
use crate::store::fixed::Value::{Int, MaybeText, Text};
use crate::store::fixed::{Value, fixed, last_rowid};
use crate::store::lineage::{self, Behind, Note};
use crate::store::session::named_by;

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

/// As [`begin`](crate::store::session::begin) at one time and [`append_turn`] at another; where the session is then.
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
