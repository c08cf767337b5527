//! A turn by its completion's id: taking up its stream, and ending it.

use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::auth::caller::Caller;
use crate::auth::keyring::Keyring;
use crate::error::{Error, Invalid};
use crate::http::access::{Listener, bearer};
use crate::http::error::ApiError;
use crate::http::names;
use crate::http::query::Query;
use crate::http::sse::{self, ReadWith};
use crate::id::CompletionId;
use crate::session::Sessions;
use crate::session::log::{EventId, Refused};
use crate::session::turns::TurnInfo;
use crate::wire::native::objects::CancelledTurn;
use crate::wire::openai::chat::{self, Told};

type Answer = Result<HttpResponse, ApiError>;

/// The header with which a client says what it has seen, in the words of server-sent events.
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// `GET /v1/chat/completions/{id}/stream`: the events after `Last-Event-ID`, live or again.
pub async fn resume(
    request: HttpRequest,
    caller: Listener,
    id: web::Path<String>,
    query: Query,
    (sessions, keyring): (web::Data<Sessions>, web::Data<Keyring>),
) -> Answer {
    let mut seen = last_event_id(&request, &query)?;
    let dialect = query.text("stream_format").map(chat::dialect).transpose()?;
    let id = CompletionId::from(id.into_inner());
    let found = sessions.turns().find(&id, |info| may_see(&caller, info)).ok_or(NOT_FOUND)?;
    // Who has seen nothing takes either.
    seen.again |= seen == EventId::default() && found.log.is_none();
    let log = if seen.again { found.again } else { found.log }.ok_or(Error::StreamGone)?;
    let reader = log.read_after(seen).map_err(|refused| match refused {
        Refused::Gone => Error::StreamGone,
        Refused::Full => Error::Overloaded,
        Refused::Beyond => Invalid::value(LAST_EVENT_ID, "the stream has no such event").into(),
    })?;
    let TurnInfo { completion, session, agent, key, mut form, .. } = found.info;
    form.dialect = dialect.unwrap_or(form.dialect);
    let told = Told { completion, agent, session, created: form.created, money: caller.sees_money() };
    let mut answer = HttpResponse::Ok();
    let ids = [(names::COMPLETION_ID, told.completion.as_str()), (names::SESSION_ID, told.session.as_str())];
    for (name, id) in ids {
        if let Ok(value) = HeaderValue::from_str(id) {
            answer.insert_header((name, value));
        }
    }
    let key = if caller.key == key {
        ReadWith::Own
    } else {
        let secret = bearer(request.headers()).to_owned();
        ReadWith::Another(Box::pin(async move { keyring.end_of(&secret).await }))
    };
    Ok(sse::respond(answer, reader, sse::Writer::new(told, form, seen), key))
}

const NOT_FOUND: Error = Error::NotFound("the completion");

/// What the client has seen: the header, which a browser keeps up to date, before the query.
fn last_event_id(request: &HttpRequest, query: &Query) -> Result<EventId, Invalid> {
    let malformed = |name| Invalid::value(name, "expected the id of an event, such as 12 or 12.1");
    let mut sent = request.headers().get_all("last-event-id");
    let (header, second) = (sent.next(), sent.next());
    if second.is_some() {
        return Err(Invalid::value(LAST_EVENT_ID, "expected one of them"));
    }
    match (header, query.text("last_event_id")) {
        (Some(id), _) if !id.is_empty() => {
            id.to_str().ok().and_then(|id| id.parse().ok()).ok_or_else(|| malformed(LAST_EVENT_ID))
        }
        (_, Some(id)) => id.parse().map_err(|_| malformed("last_event_id")),
        // An empty one says, as in a browser, that nothing was seen.
        (_, None) => Ok(EventId::default()),
    }
}

/// `POST /v1/chat/completions/{id}/cancel`. Answers once the turn has ended.
pub async fn cancel(caller: Listener, id: web::Path<String>, sessions: web::Data<Sessions>) -> Answer {
    let id = CompletionId::from(id.into_inner());
    let found = sessions.cancel(&id, |info| may_see(&caller, info)).await.ok_or(NOT_FOUND)?;
    Ok(HttpResponse::Ok().json(CancelledTurn {
        id: id.to_string(),
        object: "chat.completion",
        status: found.outcome.map_or("in_progress", |outcome| outcome.as_str()),
        agent_id: found.info.agent.to_string(),
        session_id: found.info.session.to_string(),
    }))
}

/// An account's keys see the account's turns, an agent's keys those of the agent. One that stands in a web page sees
/// only sessions whose name cannot be guessed.
fn may_see(caller: &Caller, turn: &TurnInfo) -> bool {
    caller.account == turn.account
        && caller.agent.as_ref().is_none_or(|agent| *agent == turn.agent)
        && (!caller.public || turn.named_by_server)
}
