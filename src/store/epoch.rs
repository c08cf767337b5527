//! Queries on `node_epoch`: which run of the server owns a hold.

use diesel::dsl::max;
use diesel::prelude::*;

use crate::store::schema::node_epoch::dsl::*;

/// Ends every earlier run and begins a new one; its number.
pub fn begin(conn: &mut SqliteConnection, this_node: &str, now: i64) -> QueryResult<i64> {
    diesel::update(node_epoch.filter(ended_at.is_null())).set(ended_at.eq(Some(now))).execute(conn)?;
    let next = node_epoch.select(max(epoch)).get_result::<Option<i64>>(conn)?.unwrap_or(0) + 1;
    let row = (epoch.eq(next), node.eq(this_node), seen_at.eq(now));
    diesel::insert_into(node_epoch).values(row).execute(conn)?;
    Ok(next)
}

/// Ends a run that stopped in order.
pub fn end(conn: &mut SqliteConnection, own: i64, now: i64) -> QueryResult<()> {
    diesel::update(node_epoch.find(own)).set(ended_at.eq(Some(now))).execute(conn).map(drop)
}
