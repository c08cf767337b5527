//! A turn's events as a body of server-sent events, in either dialect.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

use crate::error::Error;
use crate::http::error::ApiError;
use crate::session::TurnEvent;
use crate::wire::native;
use crate::wire::openai::chat::Told;
use crate::wire::openai::stream::{ChunkWriter, event};

/// After so long a silence a comment is sent, so that a client that has gone is noticed.
const PING: Duration = Duration::from_secs(5);
/// Events that are ready together go out together, up to about this many bytes.
const BATCH: usize = 16 * 1024;

/// Writes a turn's events in one dialect.
pub enum Writer {
    /// OpenAI's.
    OpenAi(Box<ChunkWriter>, bool),
    /// Ours.
    Native(Box<Told>),
}

impl Writer {
    /// A writer of OpenAI's dialect.
    pub fn openai(told: Told, include_usage: bool) -> Self {
        let money = told.money;
        Self::OpenAi(Box::new(ChunkWriter::new(told, include_usage)), money)
    }

    /// A writer of the native dialect.
    pub fn native(told: Told) -> Self {
        Self::Native(Box::new(told))
    }

    /// Writes one event; `true` if it was the last.
    fn write(&mut self, turn_event: TurnEvent, out: &mut BytesMut) -> bool {
        match (turn_event, self) {
            (TurnEvent::Delta(chunk), Self::OpenAi(writer, _)) => writer.delta(&chunk, out),
            (TurnEvent::Delta(chunk), Self::Native(_)) => native::stream::delta(&chunk, out),
            (TurnEvent::Ended(ended), Self::OpenAi(writer, _)) => {
                writer.ended(&ended, out);
                return true;
            }
            (TurnEvent::Ended(ended), Self::Native(told)) => {
                native::stream::ended(told, &ended, out);
                return true;
            }
            (TurnEvent::Failed(error), writer) => {
                writer.failed(error, out);
                return true;
            }
        }
        false
    }

    fn failed(&mut self, error: Error, out: &mut BytesMut) {
        let money = match self {
            Self::OpenAi(_, money) => *money,
            Self::Native(told) => told.money,
        };
        let error = ApiError::told(error, money);
        error.count();
        if let Some(cause) = error.cause() {
            tracing::error!(cause, "a stream failed");
        }
        match self {
            Self::OpenAi(..) => {
                let body = serde_json::json!({"error": error.object()});
                event(body.to_string().as_bytes(), out);
            }
            Self::Native(_) => native::stream::failed(&error.object(), out),
        }
    }
}

/// Answers with a stream. The body ends right after the last event.
pub fn respond(
    mut answer: HttpResponseBuilder,
    events: mpsc::Receiver<TurnEvent>,
    writer: Writer,
) -> HttpResponse {
    const NO_BUFFERING: (HeaderName, HeaderValue) =
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    answer
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header(NO_BUFFERING)
        .streaming(Body { events, writer, ended: false, last: Instant::now(), ping: Box::pin(sleep(PING)) })
}

struct Body {
    events: mpsc::Receiver<TurnEvent>,
    writer: Writer,
    ended: bool,
    last: Instant,
    ping: Pin<Box<Sleep>>,
}

impl Stream for Body {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = &mut *self;
        if body.ended {
            return Poll::Ready(None);
        }
        let mut out = BytesMut::new();
        while !body.ended && out.len() < BATCH {
            match body.events.poll_recv(context) {
                Poll::Ready(Some(turn_event)) => body.ended = body.writer.write(turn_event, &mut out),
                Poll::Ready(None) => {
                    // The turn's task is gone without a last word: a defect of ours, and no end to fake.
                    body.writer.failed(Error::Internal("a turn without an end".to_owned()), &mut out);
                    body.ended = true;
                }
                Poll::Pending => break,
            }
        }
        if !out.is_empty() {
            body.last = Instant::now();
            return Poll::Ready(Some(Ok(out.freeze())));
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
