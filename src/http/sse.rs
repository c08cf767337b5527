//! A turn's events as a body of server-sent events, in either dialect.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, Sleep, sleep};

use crate::conversation::turn::{Dialect, Form};
use crate::error::Error;
use crate::http::error::ApiError;
use crate::session::log::{EventId, Lost, Reader, weight};
use crate::session::{Ended, TurnEvent, as_chunks};
use crate::wire::native;
use crate::wire::openai::chat::Told;
use crate::wire::openai::stream::ChunkWriter;
use crate::wire::sse::Events;

/// After so long a silence a comment is sent, so that a client that has gone is noticed.
const PING: Duration = Duration::from_secs(5);
/// Events that are ready together go out together, up to about this many bytes.
const BATCH: usize = 16 * 1024;

/// Writes a turn's events in one dialect, for a client that may have seen part of them.
pub struct Writer {
    events: Events,
    dialect: Writing,
    money: bool,
}

enum Writing {
    OpenAi(Box<ChunkWriter>),
    Native(Box<(Told, native::stream::DeltaWriter)>),
}

impl Writer {
    /// A writer for a client that stands at `seen`.
    pub fn new(told: Told, form: Form, seen: EventId) -> Self {
        let money = told.money;
        let dialect = match form.dialect {
            Dialect::OpenAi => Writing::OpenAi(Box::new(ChunkWriter::new(told, form.include_usage))),
            Dialect::Native => Writing::Native(Box::new((told, native::stream::DeltaWriter::default()))),
        };
        Self { events: Events::after(seen), dialect, money }
    }

    /// Writes the events of one entry of the log; `true` if it was the last.
    fn write(&mut self, number: u64, entry: TurnEvent) -> bool {
        self.events.begin(number);
        let over = match entry {
            TurnEvent::Delta(chunk) => {
                match &mut self.dialect {
                    Writing::OpenAi(writer) => writer.delta(&chunk, &mut self.events),
                    Writing::Native(native) => native.1.delta(&chunk, &mut self.events),
                }
                false
            }
            TurnEvent::Ended(ended) => {
                self.ended(&ended);
                true
            }
            TurnEvent::Failed(error) => {
                let data = self.failed(*error);
                self.events.last(data.as_bytes());
                true
            }
        };
        self.events.end();
        over
    }

    fn ended(&mut self, ended: &Ended) {
        let of_plain = ended.tail.first().filter(|_| ended.plain).and_then(|whole| as_chunks(whole).ok());
        let chunks = of_plain.map(|(said, end)| [said, end]);
        let tail = chunks.as_ref().map_or(&ended.tail[..], |chunks| chunks);
        match &mut self.dialect {
            Writing::OpenAi(writer) => writer.ended(ended, tail, &mut self.events),
            Writing::Native(native) => {
                let (told, deltas) = &mut **native;
                native::stream::ended(told, ended, tail, deltas, &mut self.events);
            }
        }
    }

    /// An error as the last event has it.
    fn failed(&self, error: Error) -> String {
        let error = ApiError::told(error, self.money);
        error.count();
        if let Some(cause) = error.cause() {
            tracing::error!(cause, "a stream failed");
        }
        match &self.dialect {
            Writing::OpenAi(_) => serde_json::json!({"error": error.object()}).to_string(),
            Writing::Native(_) => native::stream::failed(&error.object()).text().into_owned(),
        }
    }
}

/// Answers with a stream. The body ends right after the last event.
pub fn respond(
    mut answer: HttpResponseBuilder,
    reader: Reader,
    writer: Writer,
    key: ReadWith,
) -> HttpResponse {
    const NO_BUFFERING: (HeaderName, HeaderValue) =
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    answer
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header(NO_BUFFERING)
        .streaming(Body {
            reader,
            read: VecDeque::new(),
            writer,
            key: key.into(),
            ended: false,
            last: Instant::now(),
            ping: Box::pin(sleep(PING)),
        })
}

/// Whose key a stream is read with.
pub enum ReadWith {
    /// The turn's own: the turn ends with it.
    Own,
    /// Another one; resolves when that has ended.
    Another(LocalBoxFuture<'static, ()>),
}

impl From<ReadWith> for Option<LocalBoxFuture<'static, ()>> {
    fn from(key: ReadWith) -> Self {
        match key {
            ReadWith::Own => None,
            ReadWith::Another(end) => Some(end),
        }
    }
}

struct Body {
    reader: Reader,
    /// What was read and is not written yet: what goes out together.
    read: VecDeque<(u64, TurnEvent)>,
    writer: Writer,
    /// Resolves when the reader's key has ended, unless the turn ends with it.
    key: Option<LocalBoxFuture<'static, ()>>,
    ended: bool,
    last: Instant,
    ping: Pin<Box<Sleep>>,
}

impl Body {
    /// Writes what there is to be read, up to a batch.
    fn fill(&mut self, context: &mut Context<'_>) {
        // A large event leaves whole before the next one is asked for: asking says that it has left.
        while !self.ended && self.writer.events.out().len() < BATCH {
            if let Some((number, entry)) = self.read.pop_front() {
                self.ended = self.writer.write(number, entry);
                continue;
            }
            match self.reader.poll_some(context, BATCH, &mut self.read) {
                Poll::Ready(Some(Ok(()))) => {
                    let size: usize = self.read.iter().map(|(_, entry)| weight(entry)).sum();
                    self.writer.events.out().reserve(size.min(BATCH));
                }
                Poll::Ready(Some(Err(Lost))) => {
                    let data = self.writer.failed(Error::StreamGone);
                    self.writer.events.aside(data.as_bytes());
                    self.ended = true;
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return,
            }
        }
    }
}

impl Stream for Body {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = &mut *self;
        if !body.ended && body.key.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready()) {
            let data = body.writer.failed(Error::Unauthenticated("ended while it read".to_owned()));
            body.writer.events.aside(data.as_bytes());
            body.ended = true;
        }
        if body.writer.events.out().is_empty() {
            body.fill(context);
        }
        if let Some(piece) = body.writer.events.out().take() {
            body.last = Instant::now();
            return Poll::Ready(Some(Ok(piece)));
        }
        if body.ended {
            return Poll::Ready(None);
        }
        // The timer is not moved at each chunk: when it rings, it is asked how long ago the last one was.
        while body.ping.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let due = body.last + PING;
            if now >= due {
                body.last = now;
                body.ping.as_mut().reset(now + PING);
                return Poll::Ready(Some(Ok(Bytes::from_static(b": ping\n\n"))));
            }
            body.ping.as_mut().reset(due);
        }
        Poll::Pending
    }
}
