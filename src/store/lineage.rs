//! Queries on `message`: what was said, each message with the number of the row before it, stored once for all
//! conversations that have it in common.
//!
//! A conversation is the way from its last message back to its first. Whoever goes on from a message adds one that names
//! it; whoever else goes on from there adds another, and both share what lies before. Nothing that somebody has is
//! changed. A message counts who refers to it, the sessions that end with it and the messages that name it, and goes
//! with the last of them.
//!
//! So a turn writes at the end of the table and nowhere else: no index has the places of messages. A way is gone back
//! step by step, or from anchor to anchor: each message has the row of the last one before it whose number is a multiple
//! of 64.

use diesel::dsl::max;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, Text as TextType};

use crate::conversation::opening::Chain;
use crate::store::fixed::Value::{Int, MaybeBlob, MaybeInt, MaybeText, Text};
use crate::store::fixed::{Value, fixed};
use crate::store::schema::message;

/// How far a conversation has come, and where.
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
#[derive(Clone, Debug, Queryable)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Line {
    pub id: i64,
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

/// How many messages there are from one anchor to the next. It is part of what is stored.
macro_rules! stride {
    () => {
        64
    };
}

/// The anchor of what follows a message of which row, number and anchor are given.
macro_rules! anchor_after {
    ($id:literal, $seq:literal) => {
        concat!("iif(", $seq, " % ", stride!(), " = 0, ", $id, ", anchor_id)")
    };
}

/// What a row is made of beside its place.
macro_rules! own_columns {
    () => {
        "seq, turn_seq, body, created_at, chain, completion_id, hold_id, status, metadata"
    };
}

/// The way back from a message, of which row and number are given, to the one after a number.
macro_rules! way_back {
    () => {
        "WITH RECURSIVE way (id, seq) AS (SELECT ?, ? UNION ALL \
         SELECT m.previous_id, w.seq - 1 FROM way w CROSS JOIN message m ON m.id = w.id AND m.seq = w.seq \
         WHERE w.seq > 1 + ?) "
    };
}

/// The messages on it, the last one first.
macro_rules! messages_on_it {
    () => {
        "FROM way w CROSS JOIN message m ON m.id = w.id AND m.seq = w.seq"
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
        anchor_after!("message_id", "head"),
        ", ?, ?, ?, ?, ?, ?, ?, ?, ? FROM session WHERE id = ? AND head = ?"
    );
    const OF_MESSAGE: &str = concat!(
        "INSERT INTO message (",
        own_columns!(),
        ", previous_id, anchor_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT ",
        anchor_after!("id", "seq"),
        " FROM message WHERE id = ?))"
    );
    const NEXT: &str = concat!(
        "INSERT INTO message (",
        own_columns!(),
        ", previous_id, anchor_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, last_insert_rowid(), (SELECT ",
        anchor_after!("id", "seq"),
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

/// The place of the message number `head` on the way to a place. The first place is that of number 0.
pub fn back_to(conn: &mut SqliteConnection, from: Place, head: i64) -> QueryResult<Place> {
    // Where the anchor is no further than what is sought, else to the message before.
    const BACK: &str = concat!(
        "WITH RECURSIVE sought (seq, stride) AS (SELECT ?, ",
        stride!(),
        "), way (id, seq) AS (SELECT ?, ? UNION ALL SELECT \
         iif((w.seq - 1) / s.stride * s.stride >= s.seq, m.anchor_id, m.previous_id), \
         iif((w.seq - 1) / s.stride * s.stride >= s.seq, (w.seq - 1) / s.stride * s.stride, w.seq - 1) \
         FROM sought s CROSS JOIN way w CROSS JOIN message m ON m.id = w.id AND m.seq = w.seq WHERE w.seq > s.seq) \
         SELECT w.id FROM sought s CROSS JOIN way w WHERE w.seq = s.seq"
    );
    if head <= 0 {
        return Ok(Place::default());
    }
    if head >= from.head {
        return Ok(from);
    }
    let asked = fixed!(BACK, [Int(head), MaybeInt(from.message), Int(from.head)]);
    let message: Option<Option<i64>> = asked.returning::<Nullable<BigInt>>().get_result(conn).optional()?;
    match message.flatten() {
        Some(message) => Ok(Place { message: Some(message), head }),
        None => Err(diesel::result::Error::NotFound),
    }
}

/// The row of the anchor of a message.
pub fn anchor(conn: &mut SqliteConnection, of: Option<i64>) -> QueryResult<Option<i64>> {
    match of {
        Some(id) => message::table.find(id).select(message::anchor_id).get_result(conn),
        None => Ok(None),
    }
}

/// The messages after number `low` up to number `high`, in order. Stops early once it has `most_bytes`, but never
/// before the first.
pub fn lines(
    conn: &mut SqliteConnection,
    place: Place,
    (low, high): (i64, i64),
    most_bytes: usize,
) -> QueryResult<Vec<Line>> {
    const SIZES: &str = concat!(way_back!(), "SELECT octet_length(m.body) ", messages_on_it!());
    let mut from = back_to(conn, place, high)?;
    if most_bytes < usize::MAX && from.head > low {
        let sizes = fixed!(SIZES, [MaybeInt(from.message), Int(from.head), Int(low)]).returning::<BigInt>();
        let sizes: Vec<i64> = sizes.load(conn)?;
        let mut bytes = 0_usize;
        let enough = sizes.iter().rev().position(|size| {
            bytes = bytes.saturating_add(usize::try_from(*size).unwrap_or(0));
            bytes >= most_bytes
        });
        if let Some(at) = enough {
            from = back_to(conn, from, low + 1 + i64::try_from(at).unwrap_or(i64::MAX))?;
        }
    }
    let (lines, _) = newest(conn, from, (low, high), usize::MAX)?;
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
    const LINES: &str =
        concat!(way_back!(), "SELECT m.id, m.seq, m.turn_seq, m.body, m.created_at ", messages_on_it!());
    let from = back_to(conn, place, high)?;
    let (mut lines, mut bytes, mut cut) = (Vec::new(), 0_usize, false);
    if from.head > low {
        let rows = fixed!(LINES, [MaybeInt(from.message), Int(from.head), Int(low)]);
        let rows = rows.returning::<(BigInt, BigInt, BigInt, TextType, BigInt)>();
        for line in rows.load_iter::<Line, diesel::connection::DefaultLoadingMode>(conn)? {
            let line = line?;
            bytes = bytes.saturating_add(line.body.len());
            cut = bytes > most_bytes && !lines.is_empty();
            if cut {
                break;
            }
            lines.push(line);
        }
    }
    lines.reverse();
    Ok((lines, cut))
}

/// A message with its digest.
#[derive(Clone, Debug, Queryable)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Chained {
    pub id: i64,
    pub seq: i64,
    pub body: String,
    pub chain: Option<Vec<u8>>,
}

/// Hands on the messages of a conversation, the last one first, as long as more of them are `wanted`.
pub fn each_back(
    conn: &mut SqliteConnection,
    place: Place,
    mut wanted: impl FnMut(Chained) -> bool,
) -> QueryResult<()> {
    const CHAINS: &str = concat!(way_back!(), "SELECT m.id, m.seq, m.body, m.chain ", messages_on_it!());
    let rows = fixed!(CHAINS, [MaybeInt(place.message), Int(place.head), Int(0)]);
    let rows = rows.returning::<(BigInt, BigInt, TextType, Nullable<Binary>)>();
    for line in rows.load_iter::<Chained, diesel::connection::DefaultLoadingMode>(conn)? {
        if !wanted(line?) {
            break;
        }
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
    const DELETE: &str = "DELETE FROM message WHERE id = ? AND reference_count = 1 RETURNING previous_id";
    const RELEASE: &str = "UPDATE message SET reference_count = reference_count - 1 WHERE id = ?";
    let mut next = Some(id);
    while let Some(own) = next {
        let deleted = fixed!(DELETE, [Int(own)]).returning::<Nullable<BigInt>>();
        next = match deleted.get_result::<Option<i64>>(conn).optional()? {
            Some(previous) => previous,
            None => {
                fixed!(RELEASE, [Int(own)]).execute(conn)?;
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
                    let found = back_to(conn, place, head).expect("a place");
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
