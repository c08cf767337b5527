//! A client's connection, with the bounds that actix-http does not set.
//!
//! By itself actix-http times only the first head of a connection, reads 128 KiB ahead of what it answers, and waits
//! for ever for a client that takes nothing. So it reads and writes through a [`Socket`], which knows from the
//! connection's [`Line`] whether a head is due, a body is wanted, or a request is being answered.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_web::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::http::listener::Place;
use crate::wire::openai::error::{ErrorBody, ErrorObject};

/// The largest head of a request, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// How much is read ahead while a request is answered, in bytes: a client that leaves is noticed behind as much.
const AHEAD: usize = 4 * 1024;
/// How long what a refused client still sends is read and thrown away, so that it gets to read its answer.
pub const LINGER: Duration = Duration::from_secs(1);

/// What the two ends of a connection's handling tell each other: its requests, and its socket.
#[derive(Debug, Default)]
pub struct Line {
    phase: Cell<Phase>,
    /// How many requests were answered.
    answered: Cell<u64>,
    /// Whether the last answer was the last one of the connection.
    closing: Cell<bool>,
    /// Whether there is something to read of which the kernel will not tell.
    held: Cell<bool>,
    /// Whom that concerns when it may be read.
    reader: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// No request is there yet.
    #[default]
    Waiting,
    /// A request is being answered.
    Busy,
    /// It needs more of its body for that.
    Body,
}

impl Line {
    /// A request has come.
    pub fn begin(&self) {
        self.set(Phase::Busy);
    }

    /// More of its body is needed, or no more.
    pub fn want(&self, more: bool) {
        self.set(if more { Phase::Body } else { Phase::Busy });
    }

    /// It is answered, and the connection with it if it is `closing`.
    pub fn end(&self, closing: bool) {
        self.answered.set(self.answered.get() + 1);
        self.closing.set(closing);
        self.set(Phase::Waiting);
    }

    fn set(&self, phase: Phase) {
        if self.phase.replace(phase) != phase
            && phase != Phase::Busy
            && self.held.get()
            && let Some(reader) = &*self.reader.borrow()
        {
            reader.wake_by_ref();
        }
    }

    fn read_by(&self, reader: &Waker) {
        let mut known = self.reader.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(reader)) {
            *known = Some(reader.clone());
        }
    }
}

/// How long a client is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of a request.
    pub head: Duration,
    /// For another request.
    pub keep_alive: Duration,
    /// Until it takes something of its answer.
    pub stall: Duration,
}

/// The connection itself.
pub struct Socket<T> {
    stream: T,
    /// Whether it keeps the bounds, which are those of HTTP/1.1.
    bounded: bool,
    /// What was read ahead.
    ahead: Vec<u8>,
    line: Rc<Line>,
    patience: Patience,
    /// When the wait for a head is over, or the linger of a refused client.
    timer: Pin<Box<Sleep>>,
    /// When a client has taken nothing for too long.
    stall: Option<Pin<Box<Sleep>>>,
    /// The number of answers at which the wait for this head began.
    since: u64,
    /// What was read since.
    read: usize,
    /// Whether actix-http had the time to find a whole head in that.
    searched: bool,
    /// Whether no more is taken from the client.
    refused: bool,
    lingers: bool,
    _place: Place,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Socket<T> {
    /// A connection that was just accepted.
    pub fn new(stream: T, patience: Patience, place: Place, bounded: bool) -> Self {
        Self {
            stream,
            bounded,
            ahead: Vec::new(),
            line: Rc::default(),
            patience,
            timer: Box::pin(sleep(patience.head)),
            stall: None,
            since: 0,
            read: 0,
            searched: false,
            refused: false,
            lingers: false,
            _place: place,
        }
    }

    /// What its requests tell it, if it keeps the bounds.
    pub fn line(&self) -> Option<&Rc<Line>> {
        self.bounded.then_some(&self.line)
    }

    /// Only notices that the client leaves: most of what it sends meanwhile waits in the kernel.
    fn watch(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < AHEAD {
            let mut piece = [const { MaybeUninit::uninit() }; AHEAD];
            let mut buf = ReadBuf::uninit(&mut piece[..AHEAD - self.ahead.len()]);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(buf.filled());
            self.line.held.set(true);
        }
        Poll::Pending
    }

    /// Reads what was read ahead, then from the connection.
    fn read_on(&mut self, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buf);
        }
        let size = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..size]);
        self.ahead.drain(..size);
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
            self.line.held.set(false);
        }
        Poll::Ready(Ok(()))
    }

    /// Begins the wait for the next head, if an answer ended since; whether it did.
    ///
    /// Called where answers are flushed, so that the connection's task is not woken once more for it.
    fn await_head(&mut self, context: &mut Context<'_>) -> bool {
        let answered = self.line.answered.get();
        if answered == self.since || self.line.phase.get() != Phase::Waiting {
            return false;
        }
        // Of several requests that came at once, actix-http may have left some for its next turn.
        let more = answered - self.since > 1 || !self.ahead.is_empty();
        (self.since, self.read, self.searched) = (answered, 0, false);
        let wait = if self.line.closing.get() { LINGER * 2 } else { self.patience.keep_alive };
        self.timer.as_mut().reset(Instant::now() + wait);
        if more || self.timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
        true
    }

    fn read_head(&mut self, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.await_head(context) {
            // What actix-http has read already comes first.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let closing = self.line.closing.get();
        if self.timer.as_mut().poll(context).is_ready() {
            let is_late = !closing && (self.read > 0 || self.since == 0);
            return self.refuse(
                context,
                is_late.then_some((
                    StatusCode::REQUEST_TIMEOUT,
                    "request_timeout",
                    "the head of the request came too slowly",
                )),
            );
        }
        if self.read >= MAX_HEAD && !closing {
            if self.searched {
                return self.refuse(
                    context,
                    Some((
                        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                        "head_too_large",
                        "the head of the request is over the limit of 16384 bytes",
                    )),
                );
            }
            self.searched = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(self.read_on(context, buf))?;
        let read = buf.filled().len() - before;
        if self.read == 0 && read > 0 && self.since > 0 && !closing {
            self.timer.as_mut().reset(Instant::now() + self.patience.head);
        }
        self.read += read;
        Poll::Ready(Ok(()))
    }

    /// Lets actix-http see the end of the connection, after an answer of our own if there is one to give.
    fn refuse(
        &mut self,
        context: &mut Context<'_>,
        answer: Option<(StatusCode, &str, &str)>,
    ) -> Poll<io::Result<()>> {
        self.refused = true;
        // Where an earlier answer is stuck, nothing may follow it.
        if let (Some((status, code, message)), None) = (answer, &self.stall) {
            // A client that does not even take this is not worth more.
            let text = refusal(status, code, message);
            let _ = Pin::new(&mut self.stream).poll_write(context, text.as_bytes());
        }
        Poll::Ready(Ok(()))
    }
}

/// An answer to what actix-http does not know as a request.
pub fn refusal(status: StatusCode, code: &str, message: &str) -> String {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    let error = ErrorObject {
        message: message.to_owned(),
        kind: kind.to_owned(),
        param: None,
        code: code.to_owned(),
        needed: None,
        available: None,
    };
    let body = serde_json::to_string(&ErrorBody::new(error, status.as_u16())).unwrap_or_default();
    let retry = if status == StatusCode::SERVICE_UNAVAILABLE { "retry-after: 1\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         {retry}connection: close\r\n\r\n{body}",
        body.len()
    )
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if !socket.bounded {
            return Pin::new(&mut socket.stream).poll_read(context, buf);
        }
        if socket.refused {
            return Poll::Ready(Ok(()));
        }
        socket.line.read_by(context.waker());
        match socket.line.phase.get() {
            Phase::Waiting => socket.read_head(context, buf),
            Phase::Busy => socket.watch(context),
            Phase::Body => socket.read_on(context, buf),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let written = Pin::new(&mut socket.stream).poll_write(context, buf);
        if written.is_ready() {
            socket.stall = None;
            return written;
        }
        let stall = socket.stall.get_or_insert_with(|| Box::pin(sleep(socket.patience.stall)));
        ready!(stall.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if socket.bounded && !socket.refused {
            socket.await_head(context);
        }
        Pin::new(&mut socket.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if !socket.lingers {
            ready!(Pin::new(&mut socket.stream).poll_shutdown(context))?;
            if !socket.refused {
                return Poll::Ready(Ok(()));
            }
            socket.lingers = true;
            socket.timer.as_mut().reset(Instant::now() + LINGER);
        }
        // Closed with bytes unread, the connection would be reset, and the answer lost on its way.
        let mut scrap = [0; 4096];
        while socket.timer.as_mut().poll(context).is_pending() {
            let mut buf = ReadBuf::new(&mut scrap);
            ready!(Pin::new(&mut socket.stream).poll_read(context, &mut buf))?;
            if buf.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
