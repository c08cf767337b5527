//! Whether the digests by which conversations are shared are those of what is stored.

use diesel::prelude::*;

use crate::conversation::opening::{Chain, normal};
use crate::json::Raw;
use crate::store::schema::{branch, message, session};

/// The answers whose digest is not that of the conversation up to them.
pub fn changed(conn: &mut SqliteConnection) -> QueryResult<Vec<String>> {
    let shareable: Vec<i64> = message::table
        .filter(message::chain.is_not_null())
        .select(message::branch_id)
        .distinct()
        .order(message::branch_id)
        .load(conn)?;
    let mut changed = Vec::new();
    for own in shareable {
        changed.extend(changed_in(conn, own)?);
    }
    Ok(changed)
}

fn changed_in(conn: &mut SqliteConnection, own: i64) -> QueryResult<Vec<String>> {
    let mut chain = before(conn, own)?;
    let mut changed = Vec::new();
    let lines = message::table.filter(message::branch_id.eq(own)).order(message::seq).select((
        message::seq,
        message::body,
        message::chain,
    ));
    type Line = (i64, String, Option<Vec<u8>>);
    for line in lines.load_iter::<Line, diesel::connection::DefaultLoadingMode>(conn)? {
        let (seq, body, stored) = line?;
        chain = chain.map(|chain| chain.and(&normal(&Raw::trusted(body))));
        let same = chain.as_ref().map(Chain::bytes) == stored.as_deref();
        if stored.is_some() && !same {
            changed.push(format!("{own} {seq}"));
        }
    }
    Ok(changed)
}

/// The digest of what comes before a branch; `None` if there is none, and then there is none in it.
fn before(conn: &mut SqliteConnection, own: i64) -> QueryResult<Option<Chain>> {
    let (parent, base): (Option<i64>, i64) =
        branch::table.find(own).select((branch::parent_id, branch::base)).get_result(conn)?;
    match parent {
        None => Ok(owner(conn, own)?.map(|(account, agent)| Chain::begin((&account, &agent)))),
        Some(parent) => {
            let stored: Option<Option<Vec<u8>>> =
                message::table.find((parent, base)).select(message::chain).get_result(conn).optional()?;
            Ok(stored.flatten().as_deref().and_then(Chain::stored))
        }
    }
}

/// Account and agent of the sessions that have a branch. Nothing is shared between agents, so any will do.
fn owner(conn: &mut SqliteConnection, own: i64) -> QueryResult<Option<(String, String)>> {
    let mut next = Some(own);
    while let Some(at) = next {
        let found = session::table
            .filter(session::branch_id.eq(at))
            .select((session::account_id, session::agent_id))
            .first(conn)
            .optional()?;
        if found.is_some() {
            return Ok(found);
        }
        next = branch::table.filter(branch::parent_id.eq(at)).select(branch::id).first(conn).optional()?;
    }
    Ok(None)
}
