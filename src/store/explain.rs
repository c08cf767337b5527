//! The life of one charge, from the rows that it left.

use diesel::prelude::*;

use crate::billing::price::Price;
use crate::store::hold::HoldRow;
use crate::store::ledger_entry::EntryRow;
use crate::store::price;
use crate::store::schema::{hold, ledger_entry, usage_record};
use crate::store::usage_record::UsageRow;

/// Everything that one provider call left behind.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What was set aside, and when.
    pub hold: HoldRow,
    /// At which price: that of the model that served it, or else the dearest that could have.
    pub price: Price,
    /// The price that the amount of the hold comes from.
    pub pinned: Price,
    /// What was used, if it was charged.
    pub usage: Option<UsageRow>,
    /// The movement of money, if there was one.
    pub entry: Option<EntryRow>,
}

/// The provider calls of a request, completion or hold of that id.
pub fn find(conn: &mut SqliteConnection, id: &str) -> QueryResult<Vec<Explained>> {
    let named = hold::table.select(HoldRow::as_select()).order(hold::step);
    let rows: Vec<HoldRow> = match id.split_once(['_', '-']).map(|(kind, _)| kind) {
        Some("hold") => named.filter(hold::id.eq(id)).load(conn)?,
        Some("chatcmpl") => named.filter(hold::completion_id.eq(id)).load(conn)?,
        _ => named.filter(hold::request_id.eq(id)).load(conn)?,
    };
    rows.into_iter()
        .map(|row| {
            let usage = usage_record::table.find(&row.id).select(UsageRow::as_select());
            let entry = ledger_entry::table.filter(ledger_entry::hold_id.eq(&row.id));
            let usage = usage.get_result(conn).optional()?;
            let charged_at = usage.as_ref().map_or(&row.price_id, |usage| &usage.price_id);
            Ok(Explained {
                price: price::find(conn, charged_at)?,
                pinned: price::find(conn, &row.price_id)?,
                usage,
                entry: entry.select(EntryRow::as_select()).get_result(conn).optional()?,
                hold: row,
            })
        })
        .collect()
}
