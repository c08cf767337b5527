//! Queries on `session`, `turn` and `message`.

use diesel::prelude::*;

use crate::conversation::turn::Completeness;
use crate::store::account;
use crate::store::fixed::Value::{Int, Text};
use crate::store::fixed::fixed;
use crate::store::hold::HoldRow;
use crate::store::schema::{message, session, turn, usage_record};

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
}

/// Makes the session unless it exists.
pub fn ensure(
    conn: &mut SqliteConnection,
    owner: &str,
    of_agent: &str,
    called: &str,
    by_server: bool,
    now: i64,
) -> QueryResult<bool> {
    const MAKE: &str = "INSERT INTO session (account_id, agent_id, name, named_by, status, created_at, updated_at) \
                        VALUES (?, ?, ?, ?, 'active', ?, ?) ON CONFLICT DO NOTHING";
    let named_by = if by_server { "server" } else { "client" };
    let row = [Text(owner), Text(of_agent), Text(called), Text(named_by), Int(now), Int(now)];
    let made = fixed(MAKE, row).execute(conn)? == 1;
    if made {
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

/// The sessions of that name, whichever agent they are with; two at most.
pub fn named(conn: &mut SqliteConnection, owner: &str, called: &str) -> QueryResult<Vec<SessionRow>> {
    session::table
        .filter(session::account_id.eq(owner))
        .filter(session::name.eq(called))
        .select(SessionRow::as_select())
        .limit(2)
        .load(conn)
}

/// Which sessions a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// With this agent.
    pub agent: Option<String>,
    /// In this state.
    pub status: Option<String>,
    /// Made before the session with this rowid.
    pub before: Option<i64>,
    /// How many.
    pub limit: i64,
    /// How many to pass over.
    pub offset: i64,
}

/// An account's sessions, newest first.
pub fn list(conn: &mut SqliteConnection, owner: &str, filter: &Filter) -> QueryResult<Vec<SessionRow>> {
    let mut query = session::table
        .filter(session::account_id.eq(owner))
        .select(SessionRow::as_select())
        .order(session::id.desc())
        .limit(filter.limit)
        .offset(filter.offset)
        .into_boxed();
    if let Some(of_agent) = &filter.agent {
        query = query.filter(session::agent_id.eq(of_agent));
    }
    if let Some(state) = &filter.status {
        query = query.filter(session::status.eq(state));
    }
    if let Some(before) = filter.before {
        query = query.filter(session::id.lt(before));
    }
    query.load(conn)
}

/// Archives or reopens a session.
pub fn set_status(conn: &mut SqliteConnection, rowid: i64, to: &str, now: i64) -> QueryResult<bool> {
    let changed = (session::status.eq(to), session::updated_at.eq(now));
    Ok(diesel::update(session::table.find(rowid)).set(changed).execute(conn)? == 1)
}

/// Deletes a session with its messages; its charges stay.
pub fn delete(conn: &mut SqliteConnection, row: &SessionRow) -> QueryResult<bool> {
    let gone = diesel::delete(session::table.find(row.id)).execute(conn)? == 1;
    if gone {
        account::count(conn, &row.account_id, 0, -1)?;
    }
    Ok(gone)
}

/// Deletes the sessions of an agent that goes; how many there were.
pub fn delete_of_agent(conn: &mut SqliteConnection, owner: &str, of_agent: &str) -> QueryResult<i64> {
    let own = session::table.filter(session::account_id.eq(owner)).filter(session::agent_id.eq(of_agent));
    let gone = diesel::delete(own).execute(conn)?;
    Ok(i64::try_from(gone).unwrap_or(i64::MAX))
}

/// Stores a turn behind the others, if its session still exists.
pub fn append_turn(
    conn: &mut SqliteConnection,
    hold: &HoldRow,
    new: &StoredTurn,
    now: i64,
) -> QueryResult<()> {
    let Some(row) = find(conn, &hold.account_id, &hold.agent_id, &hold.session_id)? else { return Ok(()) };
    let said = new.messages.iter().chain(std::iter::once(&new.reply));
    let last = row.head + i64::try_from(new.messages.len()).unwrap_or(i64::MAX) + 1;
    for (seq, body) in (row.head + 1..).zip(said) {
        let line = (
            message::session_id.eq(row.id),
            message::seq.eq(seq),
            message::turn_seq.eq(last),
            message::body.eq(body),
            message::created_at.eq(now),
        );
        diesel::insert_into(message::table).values(line).execute(conn)?;
    }
    let line = (
        turn::session_id.eq(row.id),
        turn::seq.eq(last),
        turn::completion_id.eq(&hold.completion_id),
        turn::hold_id.eq(&hold.id),
        turn::status.eq(new.completeness.as_str()),
        turn::metadata.eq(&new.metadata),
        turn::created_at.eq(now),
    );
    diesel::insert_into(turn::table).values(line).execute(conn)?;
    const MOVE: &str = "UPDATE session SET head = ?, updated_at = ? WHERE id = ?";
    fixed(MOVE, [Int(last), Int(now), Int(row.id)]).execute(conn).map(drop)
}

/// A message, as stored, with what its turn came to (for the last one of a turn).
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct MessageRow {
    pub seq: i64,
    pub turn_seq: i64,
    pub body: String,
    pub created_at: i64,
    pub answer: Option<AnswerRow>,
}

/// What an answer came to.
#[derive(Clone, Debug, Queryable)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct AnswerRow {
    pub seq: i64,
    pub status: String,
    pub metadata: Option<String>,
    pub prompt: Option<i64>,
    pub cached: Option<i64>,
    pub output: Option<i64>,
    pub charged: Option<i64>,
}

/// Bodies of all messages in order, each with the seq of its turn: what a session's actor starts from.
pub fn bodies(conn: &mut SqliteConnection, rowid: i64) -> QueryResult<Vec<(i64, String)>> {
    message::table
        .filter(message::session_id.eq(rowid))
        .order(message::seq)
        .select((message::turn_seq, message::body))
        .load(conn)
}

/// The newest messages before `before`, oldest first.
pub fn messages(
    conn: &mut SqliteConnection,
    rowid: i64,
    before: i64,
    limit: i64,
) -> QueryResult<Vec<MessageRow>> {
    let mut rows: Vec<(i64, i64, String, i64)> = message::table
        .filter(message::session_id.eq(rowid))
        .filter(message::seq.lt(before))
        .order(message::seq.desc())
        .limit(limit)
        .select((message::seq, message::turn_seq, message::body, message::created_at))
        .load(conn)?;
    rows.reverse();
    let (first, last) = (rows.first().map_or(0, |row| row.0), rows.last().map_or(0, |row| row.0));
    let mut answers: Vec<AnswerRow> = turn::table
        .left_join(usage_record::table.on(usage_record::hold_id.eq(turn::hold_id)))
        .filter(turn::session_id.eq(rowid))
        .filter(turn::seq.between(first, last))
        .select((
            turn::seq,
            turn::status,
            turn::metadata,
            usage_record::prompt.nullable(),
            usage_record::cached.nullable(),
            usage_record::output.nullable(),
            usage_record::charged.nullable(),
        ))
        .load(conn)?;
    let with_answer = |(seq, turn_seq, body, created_at)| {
        let own = answers.iter().position(|answer| answer.seq == seq);
        MessageRow { seq, turn_seq, body, created_at, answer: own.map(|at| answers.swap_remove(at)) }
    };
    Ok(rows.into_iter().map(with_answer).collect())
}
