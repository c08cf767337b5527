//! Whether the digests by which conversations are shared are those of what is stored.

use diesel::prelude::*;
use foldhash::{HashSet, HashSetExt};

use crate::conversation::opening::{Chain, normal};
use crate::json::Raw;
use crate::store::lineage::{self, Line, Place};
use crate::store::schema::session;

/// The answers whose digest is not that of the conversation up to them, by session and number.
pub fn changed(conn: &mut SqliteConnection) -> QueryResult<Vec<String>> {
    type Row = (i64, String, String, Option<i64>, i64);
    let (mut seen, mut changed, mut after) = (HashSet::new(), Vec::new(), 0);
    loop {
        let next: Option<Row> = session::table
            .filter(session::id.gt(after))
            .order(session::id)
            .select((session::id, session::account_id, session::agent_id, session::message_id, session::head))
            .first(conn)
            .optional()?;
        let Some((id, account, agent, message, head)) = next else { return Ok(changed) };
        let begin = Chain::begin((&account, &agent));
        let those = changed_in(conn, Place { message, head }, begin, &mut seen)?;
        changed.extend(those.into_iter().map(|seq| format!("{id} {seq}")));
        after = id;
    }
}

/// The numbers of those in one conversation, as far as it was not seen with another.
fn changed_in(
    conn: &mut SqliteConnection,
    place: Place,
    begin: Chain,
    seen: &mut HashSet<i64>,
) -> QueryResult<Vec<i64>> {
    let (mut chain, mut lines) = (Some(begin), Vec::<Line>::new());
    lineage::each_back(conn, place, |line| {
        let known = seen.contains(&line.id);
        if known {
            chain = line.chain.as_deref().and_then(Chain::stored);
        } else if line.chain.is_some() || !lines.is_empty() {
            // What was said after the first turn has none.
            lines.push(line);
        }
        !known
    })?;
    let mut changed = Vec::new();
    for Line { id, seq, body, chain: stored, .. } in lines.into_iter().rev() {
        seen.insert(id);
        chain = chain.map(|chain| chain.and(&normal(&Raw::trusted(body))));
        let same = chain.as_ref().map(Chain::bytes) == stored.as_deref();
        if stored.is_some() && !same {
            changed.push(seq);
        }
    }
    Ok(changed)
}
