//! An answer on its connection: its head, then its body piece by piece.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use awc::http::StatusCode;
use bytes::Bytes;

use super::body::{Decoder, Malformed};
use super::connection::Connection;
use super::head::{self, Head};
use super::target::Request;
use super::{Lease, Unanswered};

/// A head is looked at with each packet up to this length, so that what is none is seen at once; then only at an empty
/// line.
const EAGERLY: usize = 1_024;

/// Writes a request and reads the head of its answer; answers what came after it, too.
pub async fn ask(connection: &mut Connection, request: Request) -> Result<(Head, Bytes), Unanswered> {
    let sent = connection.write(request).await;
    // Who refuses a request may do so before all of it was written, and hang up.
    match (read_head(connection).await, sent) {
        (Ok((head, rest)), Err(_)) => Ok((Head { keeps: false, ..head }, rest)),
        (Err(Unanswered::Left(_)), Err(cause)) => Err(Unanswered::Left(cause.to_string())),
        (answer, _) => answer,
    }
}

async fn read_head(connection: &mut Connection) -> Result<(Head, Bytes), Unanswered> {
    let mut seen = Vec::new();
    loop {
        let read = connection.read(|bytes| took(&mut seen, bytes)).await;
        match read {
            Ok(Took::Head(head, rest)) => return Ok((head, rest)),
            Ok(Took::Part) => {}
            Ok(Took::Malformed(cause)) => return Err(cause.into()),
            Ok(Took::Nothing) if seen.is_empty() => {
                return Err(Unanswered::Left("the connection was closed without an answer".to_owned()));
            }
            Err(cause) if seen.is_empty() => return Err(Unanswered::Left(cause.to_string())),
            Ok(Took::Nothing) | Err(_) => return Err(Malformed("the head of the answer was cut").into()),
        }
    }
}

enum Took {
    Nothing,
    Part,
    Head(Head, Bytes),
    Malformed(Malformed),
}

/// Takes in what came of a head; `seen` is what had come before, and stays empty where the head comes at once.
fn took(seen: &mut Vec<u8>, bytes: &[u8]) -> Took {
    if bytes.is_empty() {
        return Took::Nothing;
    }
    let before = seen.len();
    if before > 0 {
        seen.extend_from_slice(bytes);
    }
    let all = if before > 0 { &seen[..] } else { bytes };
    let worth_it = all.len() <= EAGERLY
        || all.len() >= head::MAX_HEAD
        || has_empty_line(&all[before.saturating_sub(2)..]);
    let parsed = if worth_it { head::parse(all) } else { Ok(None) };
    match parsed {
        Ok(Some((head, length))) => Took::Head(head, Bytes::copy_from_slice(&all[length..])),
        Ok(None) => {
            if before == 0 {
                seen.extend_from_slice(bytes);
            }
            Took::Part
        }
        Err(cause) => Took::Malformed(cause),
    }
}

fn has_empty_line(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes)
        .any(|at| bytes[at + 1..].starts_with(b"\n") || bytes[at + 1..].starts_with(b"\r\n"))
}

/// Why there is no more of a body.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The other side has closed the connection.
    #[error("the connection was closed in the middle of the body")]
    Cut,
    /// The connection is of no use any more.
    #[error("{0}")]
    Io(io::Error),
    /// The chunks are none.
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// An answer whose body is still to be read. Dropping it closes the connection, unless the end of the body was read.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// How long it asks to wait, in seconds.
    pub retry_after: Option<u64>,
    keeps: bool,
    decoder: Decoder,
    /// What came with the head.
    rest: Bytes,
    /// `None` once the body has ended, or broken.
    lease: Option<Lease>,
}

impl Answer {
    /// An answer that began so.
    pub(super) fn new(head: Head, rest: Bytes, lease: Lease) -> Self {
        let Head { status, retry_after, framing, keeps } = head;
        let decoder = Decoder::new(framing);
        let mut answer = Self { status, retry_after, keeps, decoder, rest, lease: Some(lease) };
        if answer.decoder.ended() {
            answer.end(answer.rest.is_empty());
        }
        answer
    }

    /// Gives what comes next of the body to `take`, perhaps in several pieces; `false` at its end.
    ///
    /// # Errors
    /// When the body breaks.
    pub async fn more(&mut self, mut take: impl FnMut(&[u8])) -> Result<bool, Broken> {
        poll_fn(|cx| self.poll_more(cx, &mut take)).await
    }

    /// The same, for who has a context.
    pub fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<bool, Broken>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(Ok(false)) };
        let rest = std::mem::take(&mut self.rest);
        let decoder = &mut self.decoder;
        let decoded = if rest.is_empty() {
            let read = ready!(lease.connection.poll_read(cx, |bytes| decode(decoder, bytes, take)));
            read.unwrap_or_else(|cause| Err(Broken::Io(cause)))
        } else {
            decode(decoder, &rest, take)
        };
        match decoded {
            Ok(stray) => {
                if self.decoder.ended() {
                    self.end(stray == 0);
                }
                Poll::Ready(Ok(true))
            }
            Err(cause) => {
                self.lease = None;
                Poll::Ready(Err(cause))
            }
        }
    }

    fn end(&mut self, clean: bool) {
        let lease = self.lease.take();
        if let Some(lease) = lease.filter(|_| self.keeps && clean) {
            lease.give_back();
        }
    }
}

/// Hands on the body in these bytes; no bytes are the end of the connection. Tells how many came after the body.
fn decode(decoder: &mut Decoder, mut bytes: &[u8], take: &mut impl FnMut(&[u8])) -> Result<usize, Broken> {
    if bytes.is_empty() && !decoder.close() {
        return Err(Broken::Cut);
    }
    while let Some(piece) = decoder.next(&mut bytes)? {
        take(piece);
    }
    Ok(bytes.len())
}
