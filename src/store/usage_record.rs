//! Queries on `usage_record`: the tokens and the cost behind each charge. A view of the holds that were charged.

use diesel::prelude::*;
use diesel::sql_types;

use crate::store::schema::hold;
use crate::store::schema::usage_record::dsl::*;

/// A record, as stored.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = crate::store::schema::usage_record)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct UsageRow {
    pub hold_id: String,
    pub account_id: String,
    pub key_id: String,
    pub agent_id: String,
    pub session_id: String,
    pub completion_id: String,
    pub model: String,
    pub created_at: i64,
    pub price_id: String,
    pub prompt: i64,
    pub cached: i64,
    pub output: i64,
    pub source: String,
    pub cost: i64,
    pub charged: i64,
    pub written_off: i64,
}

/// The record of a hold.
pub fn find(conn: &mut SqliteConnection, of_hold: &str) -> QueryResult<Option<UsageRow>> {
    usage_record.find(of_hold).select(UsageRow::as_select()).get_result(conn).optional()
}

/// What the steps of a request before that one were charged.
pub fn charged_before(conn: &mut SqliteConnection, request: &str, step: i32) -> QueryResult<i64> {
    if step == 0 {
        return Ok(0);
    }
    let before = hold::table
        .inner_join(usage_record.on(hold_id.eq(hold::id)))
        .filter(hold::request_id.eq(request))
        .filter(hold::step.lt(step))
        .select(charged);
    Ok(before.load::<i64>(conn)?.into_iter().sum())
}

/// What usage is summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// The agent.
    Agent,
    /// The key.
    Key,
    /// The provider's model.
    Model,
    /// The day, UTC.
    Day,
}

/// A sum of usage.
#[derive(Clone, Debug, QueryableByName)]
#[expect(missing_docs, reason = "named as on the wire")]
pub struct UsageSum {
    #[diesel(sql_type = sql_types::Text)]
    pub grouped: String,
    #[diesel(sql_type = sql_types::BigInt)]
    pub requests: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub prompt_tokens: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub cached_tokens: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub output_tokens: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub charges: i64,
}

/// An account's usage from `from` up to, but not with, `to`, in groups.
pub fn sums(
    conn: &mut SqliteConnection,
    owner: &str,
    (from, to): (i64, i64),
    by: GroupBy,
) -> QueryResult<Vec<UsageSum>> {
    let group = match by {
        GroupBy::Agent => "agent_id",
        GroupBy::Key => "key_id",
        GroupBy::Model => "model",
        GroupBy::Day => "strftime('%Y-%m-%d', created_at / 1000, 'unixepoch')",
    };
    diesel::sql_query(format!(
        "SELECT {group} AS grouped, COUNT(*) AS requests, SUM(prompt) AS prompt_tokens, \
         SUM(cached) AS cached_tokens, SUM(output) AS output_tokens, SUM(charged) AS charges \
         FROM usage_record WHERE account_id = ? AND created_at >= ? AND created_at < ? \
         GROUP BY grouped ORDER BY grouped"
    ))
    .bind::<sql_types::Text, _>(owner)
    .bind::<sql_types::BigInt, _>(from)
    .bind::<sql_types::BigInt, _>(to)
    .load(conn)
}
