//! The life of one charge, from the rows that it left.

use diesel::prelude::*;

use crate::billing::price::Price;
use crate::store::ledger_entry::EntryRow;
use crate::store::price;
use crate::store::schema::{hold, ledger_entry, usage_record};
use crate::store::usage_record::UsageRow;

/// A hold, whole.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = crate::store::schema::hold)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct WholeHold {
    pub id: String,
    pub account_id: String,
    pub key_id: String,
    pub agent_id: String,
    pub session_id: String,
    pub completion_id: String,
    pub model: String,
    pub request_id: String,
    pub step: i32,
    pub amount: i64,
    pub price_id: String,
    pub state: String,
    pub reason: Option<String>,
    pub owner_epoch: i64,
    pub mark_prompt: i64,
    pub mark_output: i64,
    pub created_at: i64,
    pub expires_at: i64,
    pub closed_at: Option<i64>,
}

/// Everything that one provider call left behind.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What was set aside, and when.
    pub hold: WholeHold,
    /// At which price.
    pub price: Price,
    /// What was used, if it was charged.
    pub usage: Option<UsageRow>,
    /// The movement of money, if there was one.
    pub entry: Option<EntryRow>,
}

/// The provider calls of a request, completion or hold of that id.
pub fn find(conn: &mut SqliteConnection, id: &str) -> QueryResult<Vec<Explained>> {
    let named = hold::table.select(WholeHold::as_select()).order(hold::step);
    let rows: Vec<WholeHold> = match id.split_once(['_', '-']).map(|(kind, _)| kind) {
        Some("hold") => named.filter(hold::id.eq(id)).load(conn)?,
        Some("chatcmpl") => named.filter(hold::completion_id.eq(id)).load(conn)?,
        _ => named.filter(hold::request_id.eq(id)).load(conn)?,
    };
    rows.into_iter()
        .map(|row| {
            let usage = usage_record::table.find(&row.id).select(UsageRow::as_select());
            let entry = ledger_entry::table.filter(ledger_entry::hold_id.eq(&row.id));
            Ok(Explained {
                price: price::find(conn, &row.price_id)?,
                usage: usage.get_result(conn).optional()?,
                entry: entry.select(EntryRow::as_select()).get_result(conn).optional()?,
                hold: row,
            })
        })
        .collect()
}
