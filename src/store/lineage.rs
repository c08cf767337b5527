//! Queries on `message`: what was said, each message with the number of the row before it, stored once for all
//! conversations that have it in common.
//!
//! A conversation is the way from its last message back to its first. Whoever goes on from a message adds one that names
//! it; whoever else goes on from there adds another, and both share what lies before. Nothing that somebody has is
//! changed. A message counts who refers to it, the sessions that end with it and the messages that name it, and goes
//! with the last of them.
//!
//! So a turn writes at the end of the table: no index has the places of messages. A way is gone back step by step, or
//! from anchor to anchor: each message has the row of the last one before it whose number is a multiple of 64.

use diesel::dsl::max;
use diesel::prelude::*;
use diesel::result::Error;
use diesel::sql_types::{BigInt, Binary, Nullable, Text as TextType};

use crate::conversation::opening::Chain;
use crate::store::fixed::Value::{Int, MaybeBlob, MaybeInt, MaybeText, Text};
use crate::store::fixed::{Value, fixed};
use crate::store::schema::message;

/// How far a conversation has come, and where. It is good for the transaction in which it was read: rows that were deleted
/// are given to other messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The row of the last message; `None` before the first.
    pub message: Option<i64>,
    /// The number of the last message, so the number of messages.
    pub head: i64,
}

/// What new messages are put behind.
#[derive(Clone, Copy, Debug)]
pub enum Behind {
    /// The last message of the session with that row, if it still has as many as it should. It is moved by the caller.
    Session(i64),
    /// A message that somebody else refers to, or none.
    Message(Option<i64>),
}

/// A message as it is stored.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Line {
    pub id: i64,
    pub seq: i64,
    pub turn_seq: i64,
    pub body: String,
    pub created_at: i64,
    pub chain: Option<Vec<u8>>,
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

/// How many messages there are from one anchor to the next. It is part of what is stored: the migration has it, too.
macro_rules! stride {
    () => {
        64
    };
}
const STRIDE: i64 = stride!();

/// The anchor of what follows a message of which row, number and anchor are given.
macro_rules! anchor_after {
    ($id:literal, $seq:literal, $anchor:literal) => {
        concat!("iif(", $seq, " % ", $crate::store::lineage::stride!(), " = 0, ", $id, ", ", $anchor, ")")
    };
}
pub(crate) use {anchor_after, stride};

/// What a row is made of beside its place.
macro_rules! own_columns {
    () => {
        "seq, turn_seq, body, created_at, chain, completion_id, hold_id, status, metadata"
    };
}

/// Stores messages behind the first `head` of a conversation, as one turn, of which the last one is the answer. The
/// answer's row is the one that was inserted last then, and its number is returned; `None` if the session is not where it
/// should be: then nothing was written.
///
/// `chains` may be shorter than `bodies`; what is missing is none.
pub fn append<'a>(
    conn: &mut SqliteConnection,
    (behind, head): (Behind, i64),
    bodies: impl ExactSizeIterator<Item = &'a String>,
    chains: &[Option<Chain>],
    (note, now): (Note<'_>, i64),
) -> QueryResult<Option<i64>> {
    const OF_SESSION: &str = concat!(
        "INSERT INTO message (previous_id, anchor_id, ",
        own_columns!(),
        ") SELECT message_id, ",
        anchor_after!("message_id", "head", "anchor_id"),
        ", ?, ?, ?, ?, ?, ?, ?, ?, ? FROM session WHERE id = ? AND head = ?"
    );
    const OF_MESSAGE: &str = concat!(
        "INSERT INTO message (",
        own_columns!(),
        ", previous_id, anchor_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT ",
        anchor_after!("id", "seq", "anchor_id"),
        " FROM message WHERE id = ?))"
    );
    const NEXT: &str = concat!(
        "INSERT INTO message (",
        own_columns!(),
        ", previous_id, anchor_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, last_insert_rowid(), (SELECT ",
        anchor_after!("id", "seq", "anchor_id"),
        " FROM message WHERE id = last_insert_rowid()))"
    );
    let last = head + i64::try_from(bodies.len()).unwrap_or(i64::MAX);
    let answer = [Text(note.completion), Text(note.hold), Text(note.status), MaybeText(note.metadata)];
    for ((seq, body), at) in (head + 1..).zip(bodies).zip(0..) {
        let chain = chains.get(at).and_then(|chain| chain.as_ref()).map(Chain::bytes);
        let [completion, hold, status, metadata] = if seq == last { answer } else { [MaybeText(None); 4] };
        let own =
            [Int(seq), Int(last), Text(body), Int(now), MaybeBlob(chain), completion, hold, status, metadata];
        match behind {
            _ if at > 0 => fixed!(NEXT, own).execute(conn)?,
            Behind::Session(id) => {
                if fixed!(OF_SESSION, with(own, [Int(id), Int(head)])).execute(conn)? == 0 {
                    return Ok(None);
                }
                1
            }
            Behind::Message(id) => {
                if let Some(id) = id {
                    retain(conn, id)?;
                }
                fixed!(OF_MESSAGE, with(own, [MaybeInt(id), MaybeInt(id)])).execute(conn)?
            }
        };
    }
    Ok(Some(last))
}

fn with<'a>(own: [Value<'a>; 9], [one, other]: [Value<'a>; 2]) -> [Value<'a>; 11] {
    let [a, b, c, d, e, f, g, h, i] = own;
    [a, b, c, d, e, f, g, h, i, one, other]
}

/// The message with which a conversation of `len` messages with this digest ends, the newest if there are several.
pub fn known(conn: &mut SqliteConnection, len: usize, chain: &Chain) -> QueryResult<Option<i64>> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let same = message::table.filter(message::chain.eq(chain.bytes())).filter(message::seq.eq(len));
    same.select(max(message::id)).get_result(conn)
}

/// A message is missing: what is stored is damaged. Which session has it, the caller knows.
fn missing(at: Place) -> Error {
    Error::DeserializationError(format!("message {} is missing", at.head).into())
}

/// The place of the message number `head` on the way to a place. That of number 0 is before the first.
pub fn back_to(conn: &mut SqliteConnection, from: Place, head: i64) -> QueryResult<Place> {
    const STEPS: &str = "SELECT previous_id, anchor_id FROM message WHERE id = ? AND seq = ?";
    if head <= 0 {
        return Ok(Place::default());
    }
    let mut at = from;
    while at.head > head {
        let asked = fixed!(STEPS, [MaybeInt(at.message), Int(at.head)]);
        let steps = asked.returning::<(Nullable<BigInt>, Nullable<BigInt>)>().get_result(conn).optional()?;
        let (previous, anchor) = steps.ok_or_else(|| missing(at))?;
        let anchored = (at.head - 1) / STRIDE * STRIDE;
        at = match anchored >= head {
            true => Place { message: anchor, head: anchored },
            false => Place { message: previous, head: at.head - 1 },
        };
    }
    Ok(at)
}

/// The row of the anchor of a place's message.
pub fn anchor(conn: &mut SqliteConnection, of: Place) -> QueryResult<Option<i64>> {
    let Some(id) = of.message else { return Ok(None) };
    let found = message::table.find(id).select(message::anchor_id).get_result(conn).optional()?;
    found.ok_or_else(|| missing(of))
}

/// The messages after number `low` up to number `high`, in order. Stops early once it has `most_bytes`, but never
/// before the first.
pub fn lines(
    conn: &mut SqliteConnection,
    place: Place,
    (low, high): (i64, i64),
    most_bytes: usize,
) -> QueryResult<Vec<Line>> {
    const SIZE: &str = "SELECT previous_id, octet_length(body) FROM message WHERE id = ? AND seq = ?";
    let mut upto = high;
    if most_bytes < usize::MAX {
        let (mut at, mut sizes) = (back_to(conn, place, high)?, Vec::new());
        while at.head > low {
            let asked = fixed!(SIZE, [MaybeInt(at.message), Int(at.head)]);
            let found = asked.returning::<(Nullable<BigInt>, BigInt)>().get_result(conn).optional()?;
            let (previous, size): (Option<i64>, i64) = found.ok_or_else(|| missing(at))?;
            sizes.push((at.head, usize::try_from(size).unwrap_or(usize::MAX)));
            at = Place { message: previous, head: at.head - 1 };
        }
        let mut bytes = 0_usize;
        let enough = sizes.iter().rev().find(|(_, size)| {
            bytes = bytes.saturating_add(*size);
            bytes >= most_bytes
        });
        upto = enough.map_or(high, |(seq, _)| *seq);
    }
    let (lines, _) = newest(conn, place, (low, upto), usize::MAX)?;
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
    let (mut lines, mut bytes, mut cut) = (Vec::new(), 0_usize, false);
    let from = back_to(conn, place, high)?;
    each_back(conn, from, low, |line| {
        bytes = bytes.saturating_add(line.body.len());
        cut = bytes > most_bytes && !lines.is_empty();
        if !cut {
            lines.push(line);
        }
        !cut
    })?;
    lines.reverse();
    Ok((lines, cut))
}

/// Hands on the messages of a conversation after number `low`, the last one first, as long as more of them are `wanted`.
pub fn each_back(
    conn: &mut SqliteConnection,
    place: Place,
    low: i64,
    mut wanted: impl FnMut(Line) -> bool,
) -> QueryResult<()> {
    const LINE: &str =
        "SELECT previous_id, turn_seq, body, created_at, chain FROM message WHERE id = ? AND seq = ?";
    type Columns = (Nullable<BigInt>, BigInt, TextType, BigInt, Nullable<Binary>);
    let mut at = place;
    while at.head > low {
        let asked = fixed!(LINE, [MaybeInt(at.message), Int(at.head)]).returning::<Columns>();
        type Found = (Option<i64>, i64, String, i64, Option<Vec<u8>>);
        let found: Option<Found> = asked.get_result(conn).optional()?;
        let (Some(id), Some(found)) = (at.message, found) else { return Err(missing(at)) };
        let (previous, turn_seq, body, created_at, chain) = found;
        if !wanted(Line { id, seq: at.head, turn_seq, body, created_at, chain }) {
            break;
        }
        at = Place { message: previous, head: at.head - 1 };
    }
    Ok(())
}

/// One more refers to a message.
pub fn retain(conn: &mut SqliteConnection, id: i64) -> QueryResult<()> {
    const RETAIN: &str = "UPDATE message SET reference_count = reference_count + 1 WHERE id = ?";
    fixed!(RETAIN, [Int(id)]).execute(conn).map(drop)
}

/// One less refers to a message: deletes it, and those before it, as far as nobody has them any more.
pub fn release(conn: &mut SqliteConnection, id: i64) -> QueryResult<()> {
    const ASK: &str = "SELECT previous_id, reference_count FROM message WHERE id = ?";
    const RELEASE: &str = "UPDATE message SET reference_count = reference_count - 1 WHERE id = ?";
    const DELETE: &str = "DELETE FROM message WHERE id = ?";
    let mut next = Some(id);
    while let Some(own) = next {
        let asked = fixed!(ASK, [Int(own)]).returning::<(Nullable<BigInt>, BigInt)>();
        next = match asked.get_result::<(Option<i64>, i64)>(conn).optional()? {
            Some((previous, 1)) => {
                fixed!(DELETE, [Int(own)]).execute(conn)?;
                previous
            }
            Some((_, 2..)) => {
                fixed!(RELEASE, [Int(own)]).execute(conn)?;
                None
            }
            _ => {
                tracing::error!(message = own, "a message that somebody has is missing, or counts nobody");
                None
            }
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::connection::{database_file, open_writer};

    const LONGEST: i64 = 300;

    /// Adds messages of ten bytes each, so that they are found by their number.
    fn go_on(conn: &mut SqliteConnection, from: Place, more: i64) -> Place {
        let bodies: Vec<String> = (1..=more).map(|at| format!("{:010}", from.head + at)).collect();
        let note = Note { completion: "c", hold: "h", status: "complete", metadata: None };
        let behind = (Behind::Message(from.message), from.head);
        let head = append(conn, behind, bodies.iter(), &[], (note, 1)).expect("a write").expect("a number");
        let message = message::table.select(max(message::id)).get_result(conn).expect("a row");
        Place { message, head }
    }

    fn numbers(lines: &[Line]) -> Vec<i64> {
        lines.iter().map(|line| line.body.parse().expect("a number")).collect()
    }

    #[test]
    fn every_message_is_found_on_the_way_back_and_every_range() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut conn = open_writer(&database_file(dir.path())).expect("a database");
        let conn = &mut conn;
        // Two conversations that part behind a message beside an anchor, and grow by turns of all lengths.
        for parting in [63, 64, 65, 130] {
            let common = go_on(conn, Place::default(), parting);
            let (mut one, mut other) = (common, common);
            for more in (2..).take_while(|more| parting + (2 + more) * more / 2 < LONGEST) {
                one = go_on(conn, one, more);
                other = go_on(conn, other, 2);
            }
            for place in [one, other] {
                let whole = lines(conn, place, (0, place.head), usize::MAX).expect("messages");
                assert_eq!(numbers(&whole), (1..=place.head).collect::<Vec<_>>());
                for head in 1..=place.head {
                    let found = back_to(conn, place, head).expect("a read");
                    let row = usize::try_from(head - 1).ok().and_then(|at| whole.get(at)).expect("a line").id;
                    assert_eq!(found, Place { message: Some(row), head });
                }
                assert_eq!(back_to(conn, place, 0), Ok(Place::default()));
                for (low, high) in [(0, 1), (0, 64), (62, 66), (64, 65), (100, 200), (5, place.head)] {
                    let high = high.min(place.head);
                    let expected: Vec<i64> = (low + 1..=high).collect();
                    // Of ten bytes each, three make 25 and more; so many are begun from the one side, fit on the other.
                    let first = lines(conn, place, (low, high), 25).expect("messages");
                    assert_eq!(numbers(&first), expected[..expected.len().min(3)]);
                    let (last, cut) = newest(conn, place, (low, high), 25).expect("messages");
                    assert_eq!(numbers(&last), expected[expected.len().saturating_sub(2)..]);
                    assert_eq!(cut, expected.len() > 2);
                }
            }
        }
    }
}
