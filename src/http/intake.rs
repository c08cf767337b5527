//! Tells a connection where its request stands, and what becomes of a body that nobody wanted: a small one that is there
//! is read and thrown away, after any other the connection is closed. So a refusal costs no new connection, which would
//! cost more than the refusal.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;

use crate::http::body::told_length;
use crate::http::socket::Line;

/// The largest body that is thrown away, in bytes.
const SCRAP: usize = 16 * 1024;
/// How long it may take to come: many clients send a head and its body one after the other.
const SCRAP_WAIT: Duration = Duration::from_millis(50);

/// Wraps every request.
///
/// # Errors
/// None of its own.
pub async fn watch(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let Some(line) = request.request().conn_data::<Rc<Line>>().cloned() else {
        return next.call(request).await;
    };
    line.begin();
    let mut answering = Answering { line: line.clone(), unread: None };
    let source = match request.take_payload() {
        Payload::None => None,
        payload => {
            let source = Rc::new(RefCell::new(Source { payload, over: false, line }));
            request.set_payload(Payload::Stream { payload: Box::pin(Reading(source.clone())) });
            Some(source)
        }
    };
    let mut answer = next.call(request).await?;
    if let Some(source) = source.filter(|source| !source.borrow().over)
        && !(is_scrap(&answer) && thrown_away(&source).await)
    {
        answering.unread = Some(source);
        answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(answer.map_body(|_, body| BoxBody::new(Answer { body, _answering: answering })))
}

/// Whether it is worth a try to read what is left of this body.
fn is_scrap(answer: &ServiceResponse<BoxBody>) -> bool {
    answer.status() != StatusCode::REQUEST_TIMEOUT
        && told_length(answer.request().headers()).is_none_or(|length| length <= SCRAP)
}

/// Reads what is left of a body; whether it was so little, and came so soon.
async fn thrown_away(source: &Rc<RefCell<Source>>) -> bool {
    let (mut left, mut room) = (Reading(source.clone()), SCRAP);
    let all = async {
        while let Some(Ok(piece)) = left.next().await {
            match room.checked_sub(piece.len()) {
                Some(less) => room = less,
                None => return,
            }
        }
    };
    // What takes longer is closed, as is what broke off.
    let _ = timeout(SCRAP_WAIT, all).await;
    let source = source.borrow();
    source.line.want(false);
    source.over
}

/// A body as it comes from the connection.
struct Source {
    payload: Payload,
    /// Whether it was read to its end.
    over: bool,
    line: Rc<Line>,
}

/// A body as a handler reads it.
struct Reading(Rc<RefCell<Source>>);

impl Stream for Reading {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let source = &mut *self.0.borrow_mut();
        // The task of a connection that speaks HTTP/1 brings the body and asks its reader again right after that. To be
        // woken for it as well would ask everybody once more, for nothing.
        let mut asked_anyway = Context::from_waker(Waker::noop());
        let context = match source.payload {
            Payload::H1 { .. } => &mut asked_anyway,
            _ => context,
        };
        let piece = Pin::new(&mut source.payload).poll_next(context);
        source.line.want(piece.is_pending());
        let piece = ready!(piece);
        source.over |= piece.is_none();
        Poll::Ready(piece)
    }
}

/// A request whose answer is on its way.
struct Answering {
    line: Rc<Line>,
    /// A body that nobody has read to its end. As long as it is there, actix-http closes the connection after the
    /// answer; without it, it would read a body in chunks for as long as there is one.
    unread: Option<Rc<RefCell<Source>>>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.line.end(self.unread.is_some());
    }
}

struct Answer {
    body: BoxBody,
    _answering: Answering,
}

impl MessageBody for Answer {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(context)
    }
}
