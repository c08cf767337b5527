//! Queries on `request_key`: which requests may be asked again without being charged again.

use diesel::prelude::*;

use crate::clock::EpochMs;
use crate::error::Error;
use crate::store::fixed::Value::Text;
use crate::store::fixed::fixed;
use crate::store::schema::request_key::dsl::*;
use crate::store::schema::{hold, ledger_entry, usage_record};
use crate::store::usage_record::charged_before;
use crate::store::writer::WriteError;

/// How long an answer is kept for being asked again.
pub const KEPT_MS: EpochMs = 24 * 60 * 60 * 1_000;

/// A request's own name, as its client chose it, and what it asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The header's value.
    pub key: String,
    /// A digest of the request: the same key with another request is an error.
    pub fingerprint: String,
}

/// What is known of a key.
#[derive(Clone, Debug)]
pub enum Known {
    /// Nothing, or nothing any more.
    Unknown,
    /// The same request runs.
    Running,
    /// The key was used for another request.
    Mismatch,
    /// The same request was answered.
    Answered(Answered),
}

/// An answer that is kept, with what it cost then.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer, as the session wrote it.
    pub answer: String,
    /// Tokens of the prompt, cached ones of these, and of the answer.
    pub tokens: [i64; 3],
    /// What was charged, in nano-dollars.
    pub charged: i64,
    /// The balance after it, in nano-dollars.
    pub balance: i64,
}

/// What is known of `own` for that account and API key.
pub fn find(
    conn: &mut SqliteConnection,
    of: (&str, &str),
    own: &Idempotency,
    now: EpochMs,
) -> QueryResult<Known> {
    type Row = (String, String, String, Option<String>, EpochMs);
    let row: Option<Row> = request_key
        .find((of.0, of.1, &own.key))
        .select((fingerprint, request_id, state, answer, created_at))
        .get_result(conn)
        .optional()?;
    let Some((asked, request, progress, stored, at)) = row else { return Ok(Known::Unknown) };
    if at <= now - KEPT_MS {
        return Ok(Known::Unknown);
    }
    if asked != own.fingerprint {
        return Ok(Known::Mismatch);
    }
    let (true, Some(stored)) = (progress == "done", stored) else { return Ok(Known::Running) };
    let (step, prompt, cached, output, charged, balance) = hold::table
        .inner_join(usage_record::table.on(usage_record::hold_id.eq(hold::id)))
        .inner_join(ledger_entry::table.on(ledger_entry::hold_id.eq(hold::id.nullable())))
        .filter(hold::request_id.eq(&request))
        .select((
            hold::step,
            usage_record::prompt,
            usage_record::cached,
            usage_record::output,
            usage_record::charged,
            ledger_entry::balance_after,
        ))
        .order(hold::step.desc())
        .get_result::<(i32, i64, i64, i64, i64, i64)>(conn)?;
    let charged = charged + charged_before(conn, &request, step)?;
    Ok(Known::Answered(Answered { answer: stored, tokens: [prompt, cached, output], charged, balance }))
}

/// Refuses a request whose key is taken.
pub fn check_free(
    conn: &mut SqliteConnection,
    of: (&str, &str),
    own: &Idempotency,
    now: EpochMs,
) -> Result<(), WriteError> {
    let taken: Option<EpochMs> =
        request_key.find((of.0, of.1, &own.key)).select(created_at).get_result(conn).optional()?;
    // Another one was faster; it runs, or it ended a moment ago and will be found at the next try.
    if taken.is_some_and(|at| at > now - KEPT_MS) { Err(Error::IdempotencyInProgress.into()) } else { Ok(()) }
}

/// Takes the key for a request that begins; forgets what is too old.
pub fn begin(
    conn: &mut SqliteConnection,
    of: (&str, &str),
    own: &Idempotency,
    request: &str,
    now: EpochMs,
) -> Result<(), WriteError> {
    diesel::delete(request_key.filter(created_at.le(now - KEPT_MS))).execute(conn)?;
    let row = (
        account_id.eq(of.0),
        key_id.eq(of.1),
        idem_key.eq(&own.key),
        fingerprint.eq(&own.fingerprint),
        request_id.eq(request),
        state.eq("running"),
        created_at.eq(now),
    );
    let insert = diesel::insert_into(request_key).values(row).on_conflict_do_nothing();
    match insert.execute(conn)? {
        1 => Ok(()),
        _ => Err(Error::IdempotencyInProgress.into()),
    }
}

/// Keeps the answer of a request that ended whole, or frees its key.
pub fn finish(conn: &mut SqliteConnection, request: &str, whole: Option<&str>) -> QueryResult<()> {
    const KEEP: &str = "UPDATE request_key SET state = 'done', answer = ? WHERE request_id = ?";
    const FREE: &str = "DELETE FROM request_key WHERE request_id = ?";
    match whole {
        Some(whole) => fixed!(KEEP, [Text(whole), Text(request)]).execute(conn).map(drop),
        None => fixed!(FREE, [Text(request)]).execute(conn).map(drop),
    }
}

/// Frees the keys of requests that an earlier run left running.
pub fn free_running(conn: &mut SqliteConnection) -> QueryResult<()> {
    diesel::delete(request_key.filter(state.eq("running"))).execute(conn).map(drop)
}
