//! Tells a connection where its request stands, and closes it after a body that was not read to its end.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::middleware::Next;
use bytes::Bytes;
use futures_util::Stream;

use crate::http::socket::Line;

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
    answering.unread = source.filter(|source| !source.borrow().over);
    if answering.unread.is_some() {
        answer.response_mut().head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    }
    Ok(answer.map_body(|_, body| BoxBody::new(Answer { body, _answering: answering })))
}

/// A body as it comes from the connection.
struct Source {
    payload: Payload,
    over: bool,
    line: Rc<Line>,
}

/// A body as a handler reads it.
struct Reading(Rc<RefCell<Source>>);

impl Stream for Reading {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let source = &mut *self.0.borrow_mut();
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
