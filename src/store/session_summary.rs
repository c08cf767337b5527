//! Queries on `session_summary`: what stands for the beginning of a long conversation in its prompts.

use diesel::prelude::*;

use crate::store::fixed::Value::{Int, Text};
use crate::store::fixed::fixed;
use crate::store::schema::{session_summary, usage_record};
use crate::store::turn::Of;

/// A summary on its way into the database.
#[derive(Clone, Debug)]
pub struct NewSummary {
    /// The number of messages that it stands for.
    pub upto: i64,
    /// The text.
    pub body: String,
}

/// A summary, as stored, with what it came to.
#[derive(Clone, Debug, Queryable)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct SummaryRow {
    pub upto: i64,
    pub body: String,
    pub created_at: i64,
    pub prompt: Option<i64>,
    pub output: Option<i64>,
    pub charged: Option<i64>,
}

/// Stores a summary in the place of the one before, if its session still exists and has all that it stands for.
pub fn keep(conn: &mut SqliteConnection, of: Of<'_>, new: &NewSummary, now: i64) -> QueryResult<()> {
    const KEEP: &str = "INSERT OR REPLACE INTO session_summary (session_id, upto, body, hold_id, created_at) \
                        SELECT id, ?, ?, ?, ? FROM session \
                        WHERE account_id = ? AND agent_id = ? AND name = ? AND head >= ?";
    let values = [
        Int(new.upto),
        Text(&new.body),
        Text(of.hold),
        Int(now),
        Text(of.account),
        Text(of.agent),
        Text(of.session),
        Int(new.upto),
    ];
    fixed!(KEEP, values).execute(conn).map(drop)
}

/// The summary of a session.
pub fn find(conn: &mut SqliteConnection, rowid: i64) -> QueryResult<Option<SummaryRow>> {
    session_summary::table
        .find(rowid)
        .left_join(usage_record::table.on(usage_record::hold_id.eq(session_summary::hold_id)))
        .select((
            session_summary::upto,
            session_summary::body,
            session_summary::created_at,
            usage_record::prompt.nullable(),
            usage_record::output.nullable(),
            usage_record::charged.nullable(),
        ))
        .get_result(conn)
        .optional()
}

/// Deletes the summary of a session that has no more than `head` messages now, if it stands for more.
pub fn cut(conn: &mut SqliteConnection, rowid: i64, head: i64) -> QueryResult<()> {
    let beyond = session_summary::table.find(rowid).filter(session_summary::upto.gt(head));
    diesel::delete(beyond).execute(conn).map(drop)
}

/// Gives a session the summary of another one of whose messages it has the first `head`.
pub fn copy(conn: &mut SqliteConnection, from: i64, to: i64, head: i64) -> QueryResult<()> {
    const COPY: &str = "INSERT OR REPLACE INTO session_summary (session_id, upto, body, hold_id, created_at) \
                        SELECT ?, upto, body, hold_id, created_at FROM session_summary \
                        WHERE session_id = ? AND upto <= ?";
    fixed!(COPY, [Int(to), Int(from), Int(head)]).execute(conn).map(drop)
}
