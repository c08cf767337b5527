//! Queries on `key_budget`: what a key may spend in a period, and what of it is spent and held.

use diesel::prelude::*;

use crate::billing::money::Nanos;
use crate::store::fixed::Value::{Int, Text};
use crate::store::fixed::fixed;
use crate::store::schema::{hold, key_budget};

/// Brings a key's budget up to date and tells what is left of it.
pub fn left(conn: &mut SqliteConnection, key: &str, cap: Nanos, period: i64) -> QueryResult<Nanos> {
    const FRESH: &str = "INSERT INTO key_budget (key_id, period, cap, spent, held) VALUES (?, ?, ?, 0, 0) \
                         ON CONFLICT DO NOTHING";
    // Another amount is another budget: that it is used up is told again.
    const CHANGE: &str = "UPDATE key_budget SET cap = ?, told_period = NULL WHERE key_id = ? AND cap <> ?";
    const RENEW: &str = "UPDATE key_budget SET period = ?, spent = 0 WHERE key_id = ? AND period <> ?";
    let made = fixed!(FRESH, [Text(key), Int(period), Int(cap.0)]).execute(conn)?;
    let own = key_budget::table.find(key);
    if made == 1 {
        let open: Vec<i64> = hold::table
            .filter(hold::key_id.eq(key))
            .filter(hold::state.eq("open"))
            .select(hold::amount)
            .load(conn)?;
        diesel::update(own).set(key_budget::held.eq(open.iter().sum::<i64>())).execute(conn)?;
    }
    fixed!(CHANGE, [Int(cap.0), Text(key), Int(cap.0)]).execute(conn)?;
    fixed!(RENEW, [Int(period), Text(key), Int(period)]).execute(conn)?;
    let (spent, held): (i64, i64) = own.select((key_budget::spent, key_budget::held)).get_result(conn)?;
    Ok(Nanos(cap.0.saturating_sub(spent).saturating_sub(held).max(0)))
}

/// Counts a hold, where the key has a row. Once a key has had a budget, every hold of it counts, so that the budget may come and go in between.
pub fn hold(conn: &mut SqliteConnection, key: &str, amount: Nanos) -> QueryResult<()> {
    const COUNT: &str = "UPDATE key_budget SET held = held + ? WHERE key_id = ?";
    fixed!(COUNT, [Int(amount.0), Text(key)]).execute(conn).map(drop)
}

/// A hold of `amount` is closed by a charge.
pub fn close(conn: &mut SqliteConnection, key: &str, amount: Nanos, charged: Nanos) -> QueryResult<()> {
    const MOVE: &str = "UPDATE key_budget SET held = held - ?, spent = spent + ? WHERE key_id = ?";
    fixed!(MOVE, [Int(amount.0), Int(charged.0), Text(key)]).execute(conn).map(drop)
}
