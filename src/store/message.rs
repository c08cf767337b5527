//! Queries on what was said in a session, with what its turns came to.

use diesel::prelude::*;
use diesel::result::Error;

use crate::conversation::opening::normal;
use crate::json::Raw;
use crate::store::lineage::{self, Line};
use crate::store::schema::{hold, message, usage_record};
use crate::store::session::SessionRow;
use crate::store::usage_record::charged_before;

/// Answers of which one statement asks what they came to.
const AT_ONCE: usize = 500;

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

impl MessageRow {
    /// In the place of one that is not there.
    pub fn missing(seq: i64) -> Self {
        Self { seq, turn_seq: seq, body: String::new(), created_at: 0, answer: None }
    }
}

/// What an answer came to.
#[derive(Clone, Debug, Queryable)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct AnswerRow {
    pub seq: i64,
    pub completion_id: String,
    pub status: String,
    pub metadata: Option<String>,
    pub prompt: Option<i64>,
    pub cached: Option<i64>,
    pub output: Option<i64>,
    pub charged: Option<i64>,
    pub request_id: Option<String>,
    pub step: Option<i32>,
}

/// Bodies of all messages in order, each with a number that is the same for those of one turn: what a session's
/// actor starts from.
pub fn bodies(conn: &mut SqliteConnection, row: &SessionRow) -> QueryResult<Vec<(i64, String)>> {
    let lines = lineage::lines(conn, row.place(), (0, row.head), usize::MAX).map_err(of(row))?;
    // What was given came with the first turn, whoever said it before.
    let first = lines.iter().find(|line| line.seq > row.given).map_or(row.given, |line| line.turn_seq);
    let one = |line: Line| {
        let turn = if line.seq <= row.given { first } else { line.turn_seq };
        (turn, shown(row, line.seq, line.body))
    };
    Ok(lines.into_iter().map(one).collect())
}

/// The newest messages before `before`, oldest first, and whether older ones of the `limit` are left out because they
/// would have more than `most_bytes` together. One is there in any case.
pub fn messages(
    conn: &mut SqliteConnection,
    row: &SessionRow,
    before: i64,
    limit: i64,
    most_bytes: usize,
) -> QueryResult<(Vec<MessageRow>, bool)> {
    let high = row.head.min(before.saturating_sub(1));
    let range = (high.saturating_sub(limit).max(0), high);
    let (lines, cut) = lineage::newest(conn, row.place(), range, most_bytes).map_err(of(row))?;
    Ok((with_answers(conn, row, lines)?, cut))
}

/// The messages after number `after`, oldest first, at most `limit` of them, and not many more than `most_bytes`.
pub fn messages_after(
    conn: &mut SqliteConnection,
    row: &SessionRow,
    after: i64,
    limit: i64,
    most_bytes: usize,
) -> QueryResult<Vec<MessageRow>> {
    let range = (after, row.head.min(after.saturating_add(limit)));
    let lines = lineage::lines(conn, row.place(), range, most_bytes).map_err(of(row))?;
    with_answers(conn, row, lines)
}

fn with_answers(
    conn: &mut SqliteConnection,
    row: &SessionRow,
    lines: Vec<Line>,
) -> QueryResult<Vec<MessageRow>> {
    let own = lines.iter().filter(|line| line.seq > row.given && line.seq == line.turn_seq);
    let own: Vec<i64> = own.map(|line| line.id).collect();
    let mut answers = Vec::new();
    for some in own.chunks(AT_ONCE) {
        answers.extend(answers_of(conn, some)?);
    }
    let one = |line: Line| {
        let own = answers.iter().position(|answer: &AnswerRow| answer.seq == line.seq);
        MessageRow {
            seq: line.seq,
            turn_seq: line.turn_seq,
            created_at: if line.seq <= row.given { row.given_at } else { line.created_at },
            body: shown(row, line.seq, line.body),
            answer: own.map(|at| answers.swap_remove(at)),
        }
    };
    Ok(lines.into_iter().map(one).collect())
}

fn answers_of(conn: &mut SqliteConnection, rows: &[i64]) -> QueryResult<Vec<AnswerRow>> {
    let mut answers: Vec<AnswerRow> = message::table
        .left_join(usage_record::table.on(message::hold_id.eq(usage_record::hold_id.nullable())))
        .left_join(hold::table.on(message::hold_id.eq(hold::id.nullable())))
        .filter(message::id.eq_any(rows))
        .filter(message::completion_id.is_not_null())
        .select((
            message::seq,
            message::completion_id.assume_not_null(),
            message::status.assume_not_null(),
            message::metadata,
            usage_record::prompt.nullable(),
            usage_record::cached.nullable(),
            usage_record::output.nullable(),
            usage_record::charged.nullable(),
            hold::request_id.nullable(),
            hold::step.nullable(),
        ))
        .load(conn)?;
    for answer in &mut answers {
        if let (Some(charged), Some(request), Some(step)) =
            (&mut answer.charged, &answer.request_id, answer.step)
        {
            *charged += charged_before(conn, request, step)?;
        }
    }
    Ok(answers)
}

/// Says which session is damaged.
fn of(row: &SessionRow) -> impl FnOnce(Error) -> Error {
    let id = row.id;
    move |cause| match cause {
        Error::DeserializationError(cause) => {
            Error::DeserializationError(format!("session {id} is damaged: {cause}").into())
        }
        cause => cause,
    }
}

/// A message as this session has it: what was given may have been stored by another one, in its words.
fn shown(row: &SessionRow, seq: i64, body: String) -> String {
    if seq > row.given { body } else { normal(&Raw::trusted(body)).text().into_owned() }
}
