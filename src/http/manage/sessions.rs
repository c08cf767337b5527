//! `/v2/sessions` and `/v2/chats`: conversations as their owner sees them.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::agents::Agents;
use crate::clock;
use crate::error::{Error, Invalid};
use crate::http::access::{SessionReader, Tenant};
use crate::http::body;
use crate::http::error::ApiError;
use crate::http::manage::agents::own;
use crate::http::query::Query;
use crate::id::SessionName;
use crate::session::{SessionKey, Sessions};
use crate::store::session::{Filter, SessionRow};
use crate::store::{self, Store};
use crate::wire::native::messages::{Chat, ChatList, Message, MessageList, message_seq};
use crate::wire::native::objects::Session;

type Answer = Result<HttpResponse, ApiError>;

/// Messages of each chat in a list of chats.
const CHAT_MESSAGES_LISTED: i64 = 100;
/// Messages of one chat.
const CHAT_MESSAGES: i64 = 1_000;

/// `POST /v2/sessions`.
pub async fn create(
    request: HttpRequest,
    tenant: Tenant,
    payload: web::Payload,
    (store, agents): (web::Data<Store>, web::Data<Agents>),
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let agent_id = given.required("agent_id", 64)?;
    given.finish()?;
    let agent = own(&tenant, &agent_id, &agents).await?;
    let (owner, name, now) = (tenant.account.clone(), SessionName::random(), clock::now_ms());
    let row = store
        .write(move |conn| {
            use store::session::{ensure, find};
            ensure(conn, owner.as_str(), agent.id.as_str(), name.as_str(), true, now)?;
            Ok(find(conn, owner.as_str(), agent.id.as_str(), name.as_str())?)
        })
        .await?;
    let row = row.ok_or_else(|| Error::Internal("a session that was just made is not there".to_owned()))?;
    Ok(HttpResponse::Created().json(Session::from(&row)))
}

/// `GET /v2/sessions`.
pub async fn list(reader: SessionReader, query: Query, store: web::Data<Store>) -> Answer {
    let rows = listed(&reader, &query, &store).await?;
    Ok(HttpResponse::Ok().json(rows.iter().map(Session::from).collect::<Vec<_>>()))
}

async fn listed(reader: &SessionReader, query: &Query, store: &Store) -> Result<Vec<SessionRow>, Error> {
    let status = query.text("status").map(str::to_owned);
    if status.as_deref().is_some_and(|status| !matches!(status, "active" | "archived")) {
        return Err(Invalid::value("status", "expected active or archived").into());
    }
    let agent = match (&reader.agent, query.text("agent_id")) {
        (Some(own), Some(named)) if named != own.as_str() => return Err(Error::NotFound("the agent")),
        (Some(own), _) => Some(own.to_string()),
        (None, named) => named.map(str::to_owned),
    };
    let mut filter =
        Filter { agent: agent.clone(), status, before: None, limit: query.limit()?, offset: query.offset()? };
    let (owner, after) = (reader.account.clone(), query.text("after").map(str::to_owned));
    let rows = store.read(move |conn| {
        if let Some(after) = after {
            let named = store::session::named(conn, owner.as_str(), &after)?;
            let own = named.iter().find(|row| agent.as_ref().is_none_or(|agent| *agent == row.agent_id));
            let Some(row) = own else { return Ok(None) };
            filter.before = Some(row.id);
        }
        store::session::list(conn, owner.as_str(), &filter).map(Some)
    });
    rows.await?.ok_or_else(|| Invalid::value("after", "expected the id of a session").into())
}

/// `GET /v2/sessions/{id}`.
pub async fn show(
    reader: SessionReader,
    id: web::Path<String>,
    query: Query,
    store: web::Data<Store>,
) -> Answer {
    let row = find(&reader, &id, &query, &store).await?;
    Ok(HttpResponse::Ok().json(Session::from(&row)))
}

/// The session of that name that the key may see; with `?agent_id=` where two agents have the name.
async fn find(
    caller: &crate::auth::caller::Caller,
    name: &str,
    query: &Query,
    store: &Store,
) -> Result<SessionRow, Error> {
    let agent = caller.agent.as_ref().map(ToString::to_string).or(query.text("agent_id").map(str::to_owned));
    let (owner, name) = (caller.account.clone(), name.to_owned());
    let mut rows = store
        .read(move |conn| match agent {
            Some(agent) => {
                Ok(store::session::find(conn, owner.as_str(), &agent, &name)?.into_iter().collect())
            }
            None => store::session::named(conn, owner.as_str(), &name),
        })
        .await?;
    match (rows.pop(), rows.is_empty()) {
        (Some(row), true) => Ok(row),
        (None, _) => Err(Error::SessionNotFound),
        (Some(_), false) => {
            let message = "two agents have a session of this name; say which with ?agent_id=".to_owned();
            Err(Invalid { param: Some("agent_id".to_owned()), code: "ambiguous_session", message }.into())
        }
    }
}

/// `PATCH /v2/sessions/{id}`.
pub async fn update(
    request: HttpRequest,
    tenant: Tenant,
    id: web::Path<String>,
    query: Query,
    payload: web::Payload,
    (store, sessions): (web::Data<Store>, web::Data<Sessions>),
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let status = given.required("status", 16)?;
    given.finish()?;
    if !matches!(status.as_str(), "active" | "archived") {
        return Err(Invalid::value("status", "expected active or archived").into());
    }
    let mut row = find(&tenant, &id, &query, &store).await?;
    let (rowid, now, to) = (row.id, clock::now_ms(), status.clone());
    let kept = store.write(move |conn| Ok(store::session::set_status(conn, rowid, &to, now)?)).await?;
    sessions.reload(key(&row), false).await;
    if !kept {
        return Err(Error::SessionNotFound.into());
    }
    (row.status, row.updated_at) = (status, now);
    Ok(HttpResponse::Ok().json(Session::from(&row)))
}

/// `DELETE /v2/sessions/{id}` and `DELETE /v2/chats/{id}`.
pub async fn delete(
    tenant: Tenant,
    id: web::Path<String>,
    query: Query,
    (store, sessions): (web::Data<Store>, web::Data<Sessions>),
) -> Answer {
    let row = find(&tenant, &id, &query, &store).await?;
    let gone = row.clone();
    let deleted = store.write(move |conn| Ok(store::session::delete(conn, &gone)?)).await?;
    let key = key(&row);
    sessions.turns().forget_where(|turn| turn.is_of(&key));
    sessions.reload(key, true).await;
    if deleted { Ok(HttpResponse::NoContent().finish()) } else { Err(Error::SessionNotFound.into()) }
}

fn key(row: &SessionRow) -> SessionKey {
    SessionKey {
        account: row.account_id.as_str().into(),
        agent: row.agent_id.as_str().into(),
        name: row.name.as_str().into(),
    }
}

/// `GET /v2/sessions/{id}/messages`: the newest page first, the oldest message first within it.
pub async fn messages(
    reader: SessionReader,
    id: web::Path<String>,
    query: Query,
    store: web::Data<Store>,
) -> Answer {
    let limit = query.limit()?;
    let before = match query.text("before") {
        None => i64::MAX,
        Some(id) => message_seq(id)
            .ok_or_else(|| Invalid::value("before", "expected the id of a message, such as msg_12"))?,
    };
    let row = find(&reader, &id, &query, &store).await?;
    let mut rows = store.read(move |conn| store::session::messages(conn, row.id, before, limit + 1)).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > page;
    if has_more {
        rows.remove(0);
    }
    let money = reader.sees_money();
    let messages = rows.iter().map(|row| Message::new(row, money)).collect();
    Ok(HttpResponse::Ok().json(MessageList { messages, has_more }))
}

/// `GET /v2/chats`.
pub async fn list_chats(reader: SessionReader, query: Query, store: web::Data<Store>) -> Answer {
    let rows = listed(&reader, &query, &store).await?;
    // The number of all sessions is kept; others are not counted.
    let filtered =
        reader.agent.is_some() || query.text("agent_id").is_some() || query.text("status").is_some();
    let owner = reader.account.clone();
    let (chats, total) = store
        .read(move |conn| {
            let mut chats = Vec::with_capacity(rows.len());
            for row in &rows {
                let messages = store::session::messages(conn, row.id, i64::MAX, CHAT_MESSAGES_LISTED)?;
                chats.push(Chat::new(row, &messages));
            }
            let total = store::account::find(conn, owner.as_str())?.map(|row| row.session_count);
            Ok((chats, total.filter(|_| !filtered)))
        })
        .await?;
    Ok(HttpResponse::Ok().json(ChatList { chats, total }))
}

/// `GET /v2/chats/{session_id}`.
pub async fn show_chat(
    reader: SessionReader,
    id: web::Path<String>,
    query: Query,
    store: web::Data<Store>,
) -> Answer {
    let row = find(&reader, &id, &query, &store).await?;
    let rowid = row.id;
    let messages =
        store.read(move |conn| store::session::messages(conn, rowid, i64::MAX, CHAT_MESSAGES)).await?;
    Ok(HttpResponse::Ok().json(Chat::new(&row, &messages)))
}
