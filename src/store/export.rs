//! Reading all messages of one session or of many, page by page, in bounded memory.

use diesel::prelude::*;
use diesel::result::Error::{DeserializationError, NotFound};

use crate::store::message::{MessageRow, messages_after};
use crate::store::session::{self, SessionRow};
use crate::store::session_list::next_after;

/// The most messages that are read of a session at once, and the most sessions.
const PAGE: i64 = 200;
/// A page ends with the message that makes it this large.
const PAGE_BYTES: usize = 256 * 1_024;

/// Where an export is.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The session whose messages come next, and the last one that was written.
    current: Option<(i64, i64)>,
    /// Whose sessions come after it, and behind which one.
    others: Option<Others>,
}

#[derive(Clone, Debug)]
struct Others {
    owner: String,
    agent: Option<String>,
    after: i64,
}

/// Some messages of a session.
pub type Part = (SessionRow, Vec<MessageRow>);

impl Cursor {
    /// Of one session.
    pub fn of(row: &SessionRow) -> Self {
        Self { current: Some((row.id, 0)), others: None }
    }

    /// Of all sessions of an account, or of one of its agents, oldest first.
    pub fn of_all(owner: String, agent: Option<String>) -> Self {
        Self { current: None, others: Some(Others { owner, agent, after: 0 }) }
    }

    /// Whether it is about one session alone.
    pub fn is_of_one(&self) -> bool {
        self.others.is_none()
    }

    /// Reads on, as much as one page takes; nothing at the end. A session that changes meanwhile is read on as it is then.
    ///
    /// # Errors
    /// [`NotFound`] if the one session is gone, and [`DeserializationError`] if it is damaged.
    pub fn read(&mut self, conn: &mut SqliteConnection) -> QueryResult<Vec<Part>> {
        let (mut parts, mut bytes) = (Vec::new(), 0);
        for _ in 0..PAGE {
            let (row, after) = match self.current.take() {
                Some((rowid, after)) => match session::by_id(conn, rowid)? {
                    Some(row) => (row, after),
                    None if self.is_of_one() => return Err(NotFound),
                    None => continue,
                },
                None => match self.next_session(conn)? {
                    Some(row) => (row, 0),
                    None => break,
                },
            };
            let messages = match messages_after(conn, &row, after, PAGE, PAGE_BYTES - bytes) {
                // The others can be read all the same.
                Err(DeserializationError(cause)) if !self.is_of_one() => {
                    tracing::error!(session = row.id, %cause, "a stored session is damaged");
                    parts.push((row, vec![MessageRow::missing(after + 1)]));
                    continue;
                }
                read => read?,
            };
            bytes += messages.iter().map(|message| message.body.len()).sum::<usize>();
            let last = messages.last().map_or(row.head, |message| message.seq);
            if last < row.head {
                self.current = Some((row.id, last));
            }
            parts.push((row, messages));
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(parts)
    }

    fn next_session(&mut self, conn: &mut SqliteConnection) -> QueryResult<Option<SessionRow>> {
        let Some(others) = &mut self.others else { return Ok(None) };
        let next = next_after(conn, &others.owner, others.agent.as_deref(), others.after)?;
        if let Some(row) = &next {
            others.after = row.id;
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use diesel::connection::SimpleConnection;

    use super::*;
    use crate::conversation::turn::Completeness;
    use crate::store::connection::{database_file, open_writer};
    use crate::store::turn::{self, Of, StoredTurn};

    /// A session of an account, of 400 messages that say whose they are. A page has room for less than half of them.
    fn make(conn: &mut SqliteConnection, account: &str, name: &str) -> SessionRow {
        let of = Of { account, agent: "g", session: name, completion: "c", hold: "h" };
        let said = |seq| format!("\"{account} {seq} {:1600}\"", "");
        let turn = StoredTurn {
            messages: (1..400).map(said).collect(),
            reply: said(400),
            completeness: Completeness::Complete,
            metadata: None,
            opening: None,
        };
        turn::begin_with(conn, of, false, 1, &turn, 1).expect("a session");
        session::find(conn, account, "g", name).expect("a read").expect("a session")
    }

    fn numbers(read: QueryResult<Vec<Part>>) -> QueryResult<Vec<i64>> {
        Ok(read?.into_iter().flat_map(|(_, messages)| messages).map(|message| message.seq).collect())
    }

    #[test]
    fn a_session_that_is_cut_or_deleted_while_it_is_exported_shows_nothing_of_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut conn = open_writer(&database_file(dir.path())).expect("a database");
        let conn = &mut conn;
        conn.batch_execute(
            "INSERT INTO account (account_id, name, status, available, held, session_count, created_at)
               VALUES ('a', 'A', 'active', 0, 0, 2, 1), ('b', 'B', 'active', 0, 0, 1, 1);",
        )
        .expect("accounts");
        let (cut, gone) = (make(conn, "a", "cut"), make(conn, "a", "gone"));
        let (mut of_cut, mut of_gone) = (Cursor::of(&cut), Cursor::of(&gone));
        let mut of_all = Cursor { current: Some((gone.id, 0)), ..Cursor::of_all("a".to_owned(), None) };
        let mut page = 0;
        for cursor in [&mut of_cut, &mut of_gone, &mut of_all] {
            let first = numbers(cursor.read(conn)).expect("a page");
            page = *first.last().expect("messages");
            assert!((100..200).contains(&page) && first.iter().copied().eq(1..=page), "{first:?}");
        }
        assert!(session::delete(conn, &gone).expect("a deletion"));
        // Another's messages are given the rows of those that are gone.
        let other = make(conn, "b", "other");
        assert_eq!(other.message_id, gone.message_id);
        assert_eq!(numbers(of_gone.read(conn)), Err(NotFound));
        let rest = of_all.read(conn).expect("the others");
        assert!(rest.iter().all(|(row, _)| row.account_id == "a"));
        assert_eq!(numbers(Ok(rest)), Ok((1..=page).collect()), "of the account's other session");
        session::truncate(conn, &cut, page + 50, 1).expect("a cut");
        assert_eq!(numbers(of_cut.read(conn)), Ok((page + 1..=page + 50).collect()));
    }
}
