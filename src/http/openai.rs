//! `POST /v1/chat/completions` and `GET /v1/models`.

use std::sync::Arc;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder, web};

use crate::agents::Agents;
use crate::auth::caller::Caller;
use crate::clock;
use crate::conversation::agent::Agent;
use crate::conversation::turn::{Conflict, Form, NamedBy, OnDisconnect, Turn};
use crate::credentials::Credentials;
use crate::error::{Error, Invalid};
use crate::http::access::{Authenticated, ModelReader, named_agent};
use crate::http::error::ApiError;
use crate::http::{HttpSettings, body, names, sse};
use crate::id::{AgentId, CompletionId, RequestId, SessionName};
use crate::provider::Routes;
use crate::rate_limit::Status;
use crate::session::log::EventId;
use crate::session::{Ended, Running, Sessions, TurnEvent};
use crate::store::Store;
use crate::store::request_key::Idempotency;
use crate::wire::openai::answer;
use crate::wire::openai::chat::{self, ChatRequest, Told};
use crate::wire::openai::describe::{Model, ModelList};

/// The longest idempotency key, in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// `POST /v1/chat/completions` and `POST /v2/chats/openai`.
///
/// # Errors
/// Everything that can be refused before the first byte.
pub async fn create(
    request: HttpRequest,
    caller: Authenticated,
    payload: web::Payload,
    rooms: Rooms,
) -> Result<HttpResponse, ApiError> {
    let (caller, permit) = caller.chat(&request).await?;
    let money = caller.sees_money();
    let answered = async {
        let body = body::read(&request, payload, &rooms.settings).await?;
        crate::failpoint::hit("request received");
        let mut chat = ChatRequest::read(&body)?;
        let agent = rooms.agent(&caller, chat.agent.take()).await?;
        let (mut turn, style) = into_turn(&request, &caller, agent, chat)?;
        rooms.check(&turn).await?;
        turn.idempotency = idempotency(&request, &body)?;
        let running = rooms.sessions.run(turn, permit).await?;
        respond(&request, running, style).await
    };
    answered.await.map_err(|error| ApiError::told(error, money))
}

/// The handles that a chat needs.
pub struct Rooms {
    settings: web::Data<HttpSettings>,
    agents: web::Data<Agents>,
    routes: web::Data<Routes>,
    credentials: web::Data<Credentials>,
    sessions: web::Data<Sessions>,
}

impl actix_web::FromRequest for Rooms {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        fn handle<T: 'static>(request: &HttpRequest) -> Result<web::Data<T>, Error> {
            let missing = || Error::Internal(format!("no {}", std::any::type_name::<T>()));
            request.app_data::<web::Data<T>>().cloned().ok_or_else(missing)
        }
        let all = || -> Result<Self, Error> {
            Ok(Self {
                settings: handle(request)?,
                agents: handle(request)?,
                routes: handle(request)?,
                credentials: handle(request)?,
                sessions: handle(request)?,
            })
        };
        std::future::ready(all().map_err(ApiError::from))
    }
}

impl Rooms {
    /// The server's settings of the edge.
    pub fn settings(&self) -> &HttpSettings {
        &self.settings
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Refuses what no provider of the agent's model has a price or words for, before anything waits.
    ///
    /// # Errors
    /// Names the field.
    pub async fn check(&self, turn: &Turn) -> Result<(), Error> {
        let own = self.credentials.of(&turn.agent.account).await?;
        let routes = self.routes.all(&turn.agent.definition.model, &own);
        let refused = routes.iter().map(|route| self.routes.check(route, turn));
        // Who has no words for it is not asked; if that is all of them, there is no need to wait.
        refused
            .reduce(|one, other| if one.is_ok() { one } else { other })
            .unwrap_or(Ok(()))
            .map_err(Error::from)
    }

    /// The agent of a chat.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] for one that the key may not see.
    pub async fn agent(&self, caller: &Caller, named: Option<String>) -> Result<Arc<Agent>, Error> {
        let id = named_agent(caller, named)?;
        let found = self.agents.find(&id).await?.filter(|agent| agent.account == caller.account);
        found.ok_or_else(|| Error::ModelNotFound(id.to_string()))
    }
}

/// How the answer is to be written.
pub struct Style {
    told: Told,
    stream: bool,
    form: Form,
}

/// What a request's headers and body come to, as a turn.
pub fn into_turn(
    request: &HttpRequest,
    caller: &Arc<Caller>,
    agent: Arc<Agent>,
    chat: ChatRequest,
) -> Result<(Turn, Style), Error> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
    let on_disconnect = match header(names::ON_DISCONNECT) {
        None | Some("cancel") => OnDisconnect::Cancel,
        Some("continue") => OnDisconnect::Continue,
        Some(_) => return Err(Invalid::value("X-On-Disconnect", "expected cancel or continue").into()),
    };
    let conflict = match header(names::SESSION_CONFLICT) {
        None | Some("queue") => Conflict::Queue,
        Some("reject") => Conflict::Reject,
        Some("interrupt") => Conflict::Interrupt,
        Some(_) => {
            return Err(Invalid::value("X-Session-Conflict", "expected queue, reject or interrupt").into());
        }
    };
    let chat = chat.with_defaults(&agent)?;
    let in_header =
        header(names::SESSION_ID).map(|name| chat::session_name(name, "X-Session-Id")).transpose()?;
    if let (Some(header), Some(body)) = (&in_header, &chat.session)
        && header != body
    {
        return Err(Invalid::value("session_id", "the header X-Session-Id names another session").into());
    }
    let named = chat.session.or(in_header);
    let named_by = if named.is_some() { NamedBy::Client } else { NamedBy::Nobody };
    let session = named.unwrap_or_else(SessionName::random);
    let id = request.extensions().get::<RequestId>().cloned().unwrap_or_else(RequestId::random);
    let created = clock::now_ms() / 1_000;
    let form = Form { dialect: chat.dialect, include_usage: chat.include_usage, created };
    let turn = Turn {
        caller: caller.clone(),
        completion: CompletionId::random(),
        request: id,
        session,
        named_by,
        messages: chat.messages,
        metadata: None,
        idempotency: None,
        fields: chat.fields,
        stream: chat.stream,
        form,
        n: chat.n,
        max_output: chat.max_output,
        conflict,
        on_disconnect,
        agent,
    };
    let told = Told {
        completion: turn.completion.clone(),
        agent: turn.agent.id.clone(),
        session: turn.session.clone(),
        created,
        money: caller.sees_money(),
    };
    let style = Style { told, stream: chat.stream, form };
    Ok((turn, style))
}

/// The request's own name, if the client gave one, with a digest of what it asks.
pub fn idempotency(request: &HttpRequest, body: &[u8]) -> Result<Option<Idempotency>, Error> {
    let Some(key) = request.headers().get(names::IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()));
    let expected = format!("expected 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters");
    let key = key.ok_or_else(|| Invalid::value("Idempotency-Key", expected))?.to_owned();
    let mut hasher = blake3::Hasher::new();
    hasher.update(request.path().as_bytes());
    hasher.update(&[0]);
    hasher.update(request.headers().get(names::SESSION_ID).map_or(&b""[..], |name| name.as_bytes()));
    hasher.update(&[0]);
    hasher.update(body);
    Ok(Some(Idempotency { key, fingerprint: hasher.finalize().to_hex().to_string() }))
}

async fn respond(request: &HttpRequest, running: Running, mut style: Style) -> Result<HttpResponse, Error> {
    // An answer that is given again has the ids it had.
    (style.told.completion, style.told.session) = (running.completion.clone(), running.session.clone());
    let mut answer = HttpResponse::Ok();
    chat_headers(request, &running, &mut answer);
    if style.stream {
        let seen = EventId { again: running.replayed, ..EventId::default() };
        let writer = sse::Writer::new(style.told, style.form, seen);
        return Ok(sse::respond(answer, running.events, writer, sse::ReadWith::Own));
    }
    let ended = whole(running).await?;
    let text = answer::whole(&style.told, &ended)
        .ok_or_else(|| Error::Internal("an answer that is no object".into()))?;
    Ok(answer.content_type("application/json").body(text))
}

/// Waits for the end of a plain call.
///
/// # Errors
/// When the turn fails, or ends without a word.
pub async fn whole(mut running: Running) -> Result<Arc<Ended>, Error> {
    match running.events.next().await {
        Some(Ok((_, TurnEvent::Ended(ended)))) => Ok(ended),
        Some(Ok((_, TurnEvent::Failed(error)))) => Err(*error),
        Some(Ok((_, TurnEvent::Delta(_))) | Err(_)) | None => {
            Err(Error::Internal("a plain turn without an end".to_owned()))
        }
    }
}

/// The headers that every chat answer has.
pub fn chat_headers(request: &HttpRequest, running: &Running, answer: &mut HttpResponseBuilder) {
    if let Some(tokens) = running.tokens.tokens {
        let mut status = request.extensions().get::<Status>().copied().unwrap_or_default();
        status.tokens = Some(tokens);
        request.extensions_mut().insert(status);
    }
    let mut set = |name: HeaderName, value: Result<HeaderValue, _>| {
        if let Ok(value) = value {
            answer.insert_header((name, value));
        }
    };
    set(names::COMPLETION_ID, HeaderValue::from_str(running.completion.as_str()));
    set(names::SESSION_ID, HeaderValue::from_str(running.session.as_str()));
    if let Some(served) = &running.served {
        set(names::SERVED_MODEL, HeaderValue::from_str(served));
    }
    if running.replayed {
        set(names::IDEMPOTENT_REPLAYED, Ok(HeaderValue::from_static("true")));
    }
    if running.matched > 0 {
        set(names::HISTORY_MATCHED, Ok(running.matched.into()));
    }
    if running.dropped > 0 {
        set(names::CONTEXT_DROPPED, Ok(running.dropped.into()));
    }
    if let Some(bound) = running.max_output {
        set(names::MAX_COMPLETION_TOKENS, Ok(bound.into()));
    }
}

/// `GET /v1/models`.
///
/// # Errors
/// When the store cannot be read.
pub async fn models(
    caller: ModelReader,
    agents: web::Data<Agents>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    /// The most agents that one answer lists: OpenAI's clients do not page.
    const MOST: i64 = 10_000;
    let data = match &caller.agent {
        Some(own) => agents.find(own).await?.iter().map(|agent| model_object(agent)).collect::<Vec<_>>(),
        None => {
            let owner = caller.account.clone();
            let found =
                store.read(move |conn| crate::store::agent::list(conn, owner.as_str(), MOST, 0)).await?;
            found.iter().map(model_object).collect()
        }
    };
    Ok(HttpResponse::Ok().json(ModelList { object: "list", data }))
}

/// `GET /v1/models/{id}`.
///
/// # Errors
/// [`Error::ModelNotFound`] for an agent that the key may not see.
pub async fn model(
    caller: ModelReader,
    id: web::Path<String>,
    agents: web::Data<Agents>,
) -> Result<HttpResponse, ApiError> {
    let id = named_agent(&caller, Some(id.into_inner()))?;
    let found =
        agents.find(&AgentId::from(id.as_str())).await?.filter(|agent| agent.account == caller.account);
    let agent = found.ok_or_else(|| Error::ModelNotFound(id.to_string()))?;
    Ok(HttpResponse::Ok().json(model_object(&agent)))
}

fn model_object(agent: &Agent) -> Model {
    Model {
        id: agent.id.to_string(),
        object: "model",
        created: agent.created_at / 1_000,
        owned_by: agent.account.to_string(),
        name: agent.definition.name.clone(),
    }
}
