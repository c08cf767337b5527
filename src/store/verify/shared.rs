//! Whether the digests by which conversations are shared are those of what is stored.

use diesel::prelude::*;
use diesel::result::Error::DeserializationError;
use diesel::sql_types::BigInt;
use foldhash::{HashMap, HashMapExt};

use crate::conversation::opening::{Chain, normal};
use crate::json::Raw;
use crate::store::fixed::Value::Int;
use crate::store::fixed::fixed;
use crate::store::lineage::{self, Line, Place};
use crate::store::schema::session;

/// How many messages are taken at once.
const AT_ONCE: i64 = 1_000;

/// The messages with a digest that is not that of the conversation up to them, by row.
pub fn changed(conn: &mut SqliteConnection) -> QueryResult<Vec<String>> {
    // In the order of the table, whatever the planner makes of the index of digests.
    const NEXT: &str =
        "SELECT id, seq FROM message NOT INDEXED WHERE id > ? AND chain IS NOT NULL ORDER BY id LIMIT ?";
    let (mut changed, mut owners, mut after) = (Vec::new(), None, i64::MIN);
    loop {
        let next = fixed!(NEXT, [Int(after), Int(AT_ONCE)]).returning::<(BigInt, BigInt)>();
        let next: Vec<(i64, i64)> = next.load(conn)?;
        let Some((last, _)) = next.last() else { return Ok(changed) };
        after = *last;
        for (id, seq) in next {
            if !is_right(conn, Place { message: Some(id), head: seq }, &mut owners)? {
                changed.push(id.to_string());
            }
        }
    }
}

/// Whether a message's digest is that of the one before it that has one, or of nothing, and of what was said since. So
/// each message is looked at once, whoever has it.
fn is_right(
    conn: &mut SqliteConnection,
    place: Place,
    owners: &mut Option<HashMap<i64, Chain>>,
) -> QueryResult<bool> {
    let (mut since, mut before): (Vec<Line>, _) = (Vec::new(), None);
    let read = lineage::each_back(conn, place, 0, |line| {
        let begun = !since.is_empty() && line.chain.is_some();
        if begun {
            before = line.chain.as_deref().and_then(Chain::stored);
        } else {
            since.push(line);
        }
        !begun
    });
    if there(read)?.is_none() {
        return Ok(false);
    }
    let begin = match (since.last(), before) {
        (_, Some(before)) => Some(before),
        (Some(first), None) if first.seq == 1 => {
            let own = match owners {
                Some(own) => own,
                None => owners.insert(begins(conn)?),
            };
            own.get(&first.id).copied()
        }
        _ => None,
    };
    let stored = since.first().and_then(|line| Chain::stored(line.chain.as_deref()?));
    let and = |chain: Chain, line: Line| chain.and(&normal(&Raw::trusted(line.body)));
    let digest = begin.map(|begin| since.into_iter().rev().fold(begin, and));
    Ok(digest.is_some() && digest == stored)
}

/// What the digests begin with, by the row of each conversation's first message: its account and agent. Nothing is shared
/// between agents, so any session that has it will do.
fn begins(conn: &mut SqliteConnection) -> QueryResult<HashMap<i64, Chain>> {
    type Row = (i64, String, String, Option<i64>, i64);
    let (mut begins, mut after) = (HashMap::new(), i64::MIN);
    loop {
        let next: Option<Row> = session::table
            .filter(session::id.gt(after))
            .order(session::id)
            .select((session::id, session::account_id, session::agent_id, session::message_id, session::head))
            .first(conn)
            .optional()?;
        let Some((id, account, agent, message, head)) = next else { return Ok(begins) };
        let first = there(lineage::back_to(conn, Place { message, head }, head.min(1)))?;
        if let Some(first) = first.and_then(|first| first.message) {
            begins.insert(first, Chain::begin((&account, &agent)));
        }
        after = id;
    }
}

/// What was read, `None` where a message is missing.
fn there<T>(read: QueryResult<T>) -> QueryResult<Option<T>> {
    match read {
        Err(DeserializationError(_)) => Ok(None),
        read => read.map(Some),
    }
}
