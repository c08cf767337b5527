//! Queries on `branch` and `message`: what was said, stored once for all sessions that have it in common.
//!
//! A branch is a run of messages that goes on from a message of another branch, its parent; the numbers of its
//! messages go on too. A session is a [place](Place) in a branch: it has the branch's messages up to its head, and
//! of the parents what lies before. Whoever goes on from a place writes into the branch if the place is its end,
//! else into a branch of his own. Nothing that somebody has is changed, and what nobody has any more is deleted.

use diesel::dsl::max;
use diesel::prelude::*;

use crate::conversation::opening::Chain;
use crate::store::fixed::Value::{Int, MaybeBlob, MaybeInt, MaybeText, Text};
use crate::store::fixed::{fixed, last_rowid};
use crate::store::schema::{branch, message, session};

/// How far a conversation has come, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The branch of the last message; `None` before the first.
    pub branch: Option<i64>,
    /// The number of the last message, so the number of messages.
    pub head: i64,
}

/// The messages that a conversation has of one branch.
#[derive(Clone, Copy, Debug)]
struct Segment {
    branch: i64,
    /// The first one comes after this number,
    after: i64,
    /// and this is the last.
    upto: i64,
}

/// A message as it is stored.
#[derive(Clone, Debug, Queryable)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Line {
    pub branch: i64,
    pub seq: i64,
    pub turn_seq: i64,
    pub body: String,
    pub created_at: i64,
}

/// What is noted of an answer.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Note<'a> {
    pub completion: &'a str,
    pub hold: &'a str,
    pub status: &'a str,
    pub metadata: Option<&'a str>,
}

/// Stores messages behind a place, as one turn, of which the last one is the answer; answers where the conversation has
/// come to.
///
/// `chains` may be shorter than `bodies`; what is missing is none.
pub fn append<'a>(
    conn: &mut SqliteConnection,
    place: Place,
    bodies: impl ExactSizeIterator<Item = &'a String>,
    chains: &[Option<Chain>],
    (note, now): (Note<'_>, i64),
) -> QueryResult<(i64, i64)> {
    let last = place.head + i64::try_from(bodies.len()).unwrap_or(i64::MAX);
    let mut into = match place.branch {
        Some(into) => into,
        None => begin(conn, None, 0)?,
    };
    for ((seq, body), at) in (place.head + 1..).zip(bodies).zip(0..) {
        let chain = chains.get(at).and_then(|chain| chain.as_ref()).map(Chain::bytes);
        let put = |conn: &mut SqliteConnection, into: i64| {
            const PUT: &str = "INSERT INTO message (branch_id, seq, turn_seq, body, created_at, chain) \
                               VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
            const ANSWER: &str = "INSERT INTO message (branch_id, seq, turn_seq, body, created_at, chain, \
                                  completion_id, hold_id, status, metadata) \
                                  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
            let own = [Int(into), Int(seq), Int(last), Text(body), Int(now), MaybeBlob(chain)];
            if seq < last {
                return fixed!(PUT, own).execute(conn);
            }
            let [into, seq, last, body, now, chain] = own;
            let Note { completion, hold, status, metadata } = note;
            let noted = [Text(completion), Text(hold), Text(status), MaybeText(metadata)];
            let [completion, hold, status, metadata] = noted;
            let row = [into, seq, last, body, now, chain, completion, hold, status, metadata];
            fixed!(ANSWER, row).execute(conn)
        };
        if put(conn, into)? == 0 {
            // Somebody else has gone on from here; it can only be the first one that meets him.
            into = begin(conn, Some(into), place.head)?;
            put(conn, into)?;
        }
    }
    Ok((into, last))
}

fn begin(conn: &mut SqliteConnection, parent: Option<i64>, base: i64) -> QueryResult<i64> {
    const BEGIN: &str = "INSERT INTO branch (parent_id, base) VALUES (?, ?)";
    fixed!(BEGIN, [MaybeInt(parent), Int(base)]).execute(conn)?;
    last_rowid(conn)
}

/// The branch in which a conversation of `len` messages with this digest ends, the newest if there are several.
pub fn known(conn: &mut SqliteConnection, len: usize, chain: &Chain) -> QueryResult<Option<i64>> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let same = message::table.filter(message::chain.eq(chain.bytes())).filter(message::seq.eq(len));
    same.select(max(message::branch_id)).get_result(conn)
}

/// The place of the message number `head` on the way to a place.
pub fn back_to(conn: &mut SqliteConnection, place: Place, head: i64) -> QueryResult<Place> {
    let path = path(conn, place, head.saturating_sub(1))?;
    let last = path.last().filter(|segment| head > segment.after);
    Ok(Place { branch: last.map(|segment| segment.branch), head: if last.is_some() { head } else { 0 } })
}

/// The branches of a conversation, the last one first, as far back as that of the message after `low`.
fn path(conn: &mut SqliteConnection, place: Place, low: i64) -> QueryResult<Vec<Segment>> {
    let (mut next, mut upto) = (place.branch, place.head);
    let mut path = Vec::new();
    while let Some(own) = next {
        let (parent, base) =
            branch::table.find(own).select((branch::parent_id, branch::base)).get_result(conn)?;
        path.push(Segment { branch: own, after: base, upto });
        (next, upto) = if base <= low { (None, base) } else { (parent, base) };
    }
    Ok(path)
}

type Columns = (message::branch_id, message::seq, message::turn_seq, message::body, message::created_at);

fn columns() -> Columns {
    (message::branch_id, message::seq, message::turn_seq, message::body, message::created_at)
}

/// The messages after number `low` up to number `high`, in order. Stops early once it has `most_bytes`, but never
/// before the first.
pub fn lines(
    conn: &mut SqliteConnection,
    place: Place,
    (low, high): (i64, i64),
    most_bytes: usize,
) -> QueryResult<Vec<Line>> {
    let path = path(conn, place, low)?;
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for Segment { branch, after, upto } in path.into_iter().rev() {
        let (from, to) = (after.max(low) + 1, upto.min(high));
        if from > to {
            continue;
        }
        let rows = message::table
            .filter(message::branch_id.eq(branch))
            .filter(message::seq.between(from, to))
            .order(message::seq)
            .select(columns());
        for line in rows.load_iter::<Line, diesel::connection::DefaultLoadingMode>(conn)? {
            let line = line?;
            bytes += line.body.len();
            lines.push(line);
            if bytes >= most_bytes {
                return Ok(lines);
            }
        }
    }
    Ok(lines)
}

/// The newest messages after number `low` up to number `high`, in order, and whether older ones of them are left out:
/// those with which they would have more than `most_bytes`. One is there in any case.
pub fn newest(
    conn: &mut SqliteConnection,
    place: Place,
    (low, high): (i64, i64),
    most_bytes: usize,
) -> QueryResult<(Vec<Line>, bool)> {
    let (mut lines, mut bytes) = (Vec::new(), 0_usize);
    for Segment { branch, after, upto } in path(conn, place, low)? {
        let rows = message::table
            .filter(message::branch_id.eq(branch))
            .filter(message::seq.between(after.max(low) + 1, upto.min(high)))
            .order(message::seq.desc())
            .select(columns());
        for line in rows.load_iter::<Line, diesel::connection::DefaultLoadingMode>(conn)? {
            let line = line?;
            bytes = bytes.saturating_add(line.body.len());
            if bytes > most_bytes && !lines.is_empty() {
                lines.reverse();
                return Ok((lines, true));
            }
            lines.push(line);
        }
    }
    lines.reverse();
    Ok((lines, false))
}

/// Deletes of a branch, and of those before it, what no session has any more. For after a session has left it.
pub fn let_go(conn: &mut SqliteConnection, left: i64) -> QueryResult<()> {
    let mut next = Some(left);
    while let Some(own) = next {
        let of_sessions: Option<i64> =
            session::table.filter(session::branch_id.eq(own)).select(max(session::head)).get_result(conn)?;
        let of_children: Option<i64> =
            branch::table.filter(branch::parent_id.eq(own)).select(max(branch::base)).get_result(conn)?;
        let end = of_sessions.max(of_children);
        let kept = end.unwrap_or(0);
        let tail = message::table.filter(message::branch_id.eq(own)).filter(message::seq.gt(kept));
        diesel::delete(tail).execute(conn)?;
        if end.is_some() {
            break;
        }
        // It may be gone already, if a session in a branch of it left at the same time.
        let parent = branch::table.find(own).select(branch::parent_id).get_result(conn).optional()?;
        next = parent.flatten();
        diesel::delete(branch::table.find(own)).execute(conn)?;
    }
    Ok(())
}
