//! Reading all messages of one session or of many, page by page, in bounded memory.

use diesel::prelude::*;

use crate::store::message::{MessageRow, messages_after};
use crate::store::session::SessionRow;
use crate::store::session_list::next_after;

/// The most messages that are read of a session at once, and the most sessions.
const PAGE: i64 = 200;
/// A page ends with the message that makes it this large.
const PAGE_BYTES: usize = 256 * 1_024;

/// Where an export is.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The session whose messages come next, and the last one that was written.
    current: Option<(SessionRow, i64)>,
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
    pub fn of(row: SessionRow) -> Self {
        Self { current: Some((row, 0)), others: None }
    }

    /// Of all sessions of an account, or of one of its agents, oldest first.
    pub fn of_all(owner: String, agent: Option<String>) -> Self {
        Self { current: None, others: Some(Others { owner, agent, after: 0 }) }
    }

    /// Whether it is about one session alone.
    pub fn is_of_one(&self) -> bool {
        self.others.is_none()
    }

    /// Reads on, as much as one page takes; nothing at the end.
    pub fn read(&mut self, conn: &mut SqliteConnection) -> QueryResult<Vec<Part>> {
        let (mut parts, mut bytes) = (Vec::new(), 0);
        for _ in 0..PAGE {
            let (row, after) = match self.current.take() {
                Some(current) => current,
                None => match self.next_session(conn)? {
                    Some(row) => (row, 0),
                    None => break,
                },
            };
            let messages = messages_after(conn, &row, after, PAGE, PAGE_BYTES - bytes)?;
            bytes += messages.iter().map(|message| message.body.len()).sum::<usize>();
            let last = messages.last().map_or(row.head, |message| message.seq);
            if last < row.head {
                self.current = Some((row.clone(), last));
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
