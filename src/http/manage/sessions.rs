//! `/v2/sessions` and `/v2/chats`: conversations as their owner sees them.

use actix_web::{HttpRequest, HttpResponse, web};
use diesel::result::Error::DeserializationError;
use serde_json::{Map, Value, json};

use crate::agents::Agents;
use crate::auth::caller::Caller;
use crate::clock;
use crate::error::{Error, Invalid};
use crate::http::access::{SessionReader, Tenant};
use crate::http::body::{self, Given};
use crate::http::error::ApiError;
use crate::http::manage::agents::own;
use crate::http::query::Query;
use crate::http::whole::whole;
use crate::id::SessionName;
use crate::session::{Busy, SessionKey, Sessions};
use crate::store::audit_log::{self, Action, By, Deed};
use crate::store::session::{Change, SessionRow};
use crate::store::session_list::Filter;
use crate::store::writer::WriteError;
use crate::store::{self, Conn, Store};
use crate::wire::native::messages::{
    Chat, ChatList, Message, MessageList, Summary, WholeSession, message_seq,
};
use crate::wire::native::objects::Session;
use crate::wire::openai::chat::session_name;

type Answer = Result<HttpResponse, ApiError>;

/// Messages of each chat in a list of chats.
const CHAT_MESSAGES_LISTED: i64 = 100;
/// Messages of one chat.
const CHAT_MESSAGES: i64 = 1_000;
/// What the messages of one answer have together, in bytes as they are stored, unless a single one has more.
const ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// The longest title, in bytes.
const MAX_TITLE: usize = 256;
/// The most notes of a session, and the longest name and value of one, in characters.
const MAX_NOTES: usize = 16;
const MAX_NOTE_NAME: usize = 64;
const MAX_NOTE: usize = 512;

/// `POST /v2/sessions`: 201, or 200 with the session that has the name already.
pub async fn create(
    request: HttpRequest,
    tenant: Tenant,
    payload: web::Payload,
    (store, agents): (web::Data<Store>, web::Data<Agents>),
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let agent_id = given.required("agent_id", 64)?;
    let (name, by_server) = new_name(&mut given)?;
    let change = changes(&mut given)?;
    given.finish()?;
    let agent = own(&tenant, &agent_id, &agents).await?;
    let (owner, now, by) = (tenant.account.clone(), clock::now_ms(), tenant.by());
    let (row, made) = store
        .write(move |conn| {
            use store::session::{change as apply, ensure, find};
            let made = ensure(conn, owner.as_str(), agent.id.as_str(), name.as_str(), by_server, now)?;
            let row = find(conn, owner.as_str(), agent.id.as_str(), name.as_str())?;
            let row =
                row.ok_or_else(|| Error::Internal("a session that was just made is gone".to_owned()))?;
            if !made {
                return Ok((row, false));
            }
            let row = apply(conn, row.id, &change, now)?.unwrap_or(row);
            record(conn, &by, Action::SessionCreate, None, Some(&row))?;
            Ok((row, true))
        })
        .await?;
    let mut answer = if made { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(answer.json(Session::from(&row)))
}

/// The name of a new session, and whether it is ours.
pub fn new_name(given: &mut Given) -> Result<(SessionName, bool), Invalid> {
    match given.text("session_id", 1_024)? {
        Some(name) => Ok((session_name(&name, "session_id")?, false)),
        None => Ok((SessionName::random(), true)),
    }
}

/// What a call changes of a session, `status` aside.
pub fn changes(given: &mut Given) -> Result<Change, Invalid> {
    let title = match given.take_even_null("title") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(Value::String(text)) if text.len() <= MAX_TITLE => {
            Some(Some(text).filter(|text| !text.is_empty()))
        }
        Some(_) => {
            return Err(Invalid::value(
                "title",
                format_args!("expected a string of at most {MAX_TITLE} bytes"),
            ));
        }
    };
    let metadata = match given.take_even_null("metadata") {
        None => None,
        Some(Value::Null) => Some(Vec::new()),
        Some(notes) => Some(read_notes(&notes)?),
    };
    Ok(Change { status: None, title, metadata })
}

fn read_notes(notes: &Value) -> Result<Vec<(String, String)>, Invalid> {
    let expected = format!(
        "expected an object of at most {MAX_NOTES} strings, names up to {MAX_NOTE_NAME} and values up to {MAX_NOTE} characters"
    );
    let fields = notes.as_object().filter(|fields| fields.len() <= MAX_NOTES);
    let fields = fields.ok_or_else(|| Invalid::value("metadata", &expected))?;
    let one = |(name, value): (&String, &Value)| match value.as_str() {
        Some(value) if value.chars().count() <= MAX_NOTE && name.chars().count() <= MAX_NOTE_NAME => {
            Ok((name.clone(), value.to_owned()))
        }
        _ => Err(Invalid::value(format!("metadata.{name}"), &expected)),
    };
    fields.iter().map(one).collect()
}

/// `GET /v2/sessions`.
pub async fn list(reader: SessionReader, query: Query, store: web::Data<Store>) -> Answer {
    let rows = listed(&reader, &query, &store).await?;
    Ok(HttpResponse::Ok().json(rows.iter().map(Session::from).collect::<Vec<_>>()))
}

/// The agent that a list of sessions is about, if it is about one.
pub fn chosen_agent(reader: &Caller, query: &Query) -> Result<Option<String>, Error> {
    match (&reader.agent, query.text("agent_id")) {
        (Some(own), Some(named)) if named != own.as_str() => Err(Error::NotFound("the agent")),
        (Some(own), _) => Ok(Some(own.to_string())),
        (None, named) => Ok(named.map(str::to_owned)),
    }
}

async fn listed(reader: &SessionReader, query: &Query, store: &Store) -> Result<Vec<SessionRow>, Error> {
    let status = query.text("status").map(str::to_owned);
    if status.as_deref().is_some_and(|status| !matches!(status, "active" | "archived")) {
        return Err(Invalid::value("status", "expected active or archived").into());
    }
    let agent = chosen_agent(reader, query)?;
    let metadata = query.pairs("metadata");
    if metadata.len() > MAX_NOTES {
        return Err(Invalid::value("metadata", format_args!("expected at most {MAX_NOTES} notes")).into());
    }
    let (limit, offset) = (query.limit()?, query.offset()?);
    let mut filter = Filter { agent: agent.clone(), status, metadata, before: None, limit, offset };
    let (owner, after) = (reader.account.clone(), query.text("after").map(str::to_owned));
    let rows = store.read(move |conn| {
        if let Some(after) = after {
            let named = store::session::named(conn, owner.as_str(), &after)?;
            let own = named.iter().find(|row| agent.as_ref().is_none_or(|agent| *agent == row.agent_id));
            let Some(row) = own else { return Ok(None) };
            filter.before = Some(row.id);
        }
        store::session_list::list(conn, owner.as_str(), &filter).map(Some)
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
    let (rowid, money) = (row.id, reader.sees_money());
    let summary = store.read(move |conn| store::session_summary::find(conn, rowid)).await?;
    let summary = summary.map(|summary| Summary::new(&summary, money));
    Ok(HttpResponse::Ok().json(WholeSession::new(&row, summary)))
}

/// The session of that name that the key may see; with `?agent_id=` where two agents have the name.
///
/// # Errors
/// [`Error::SessionNotFound`], or that two have the name.
pub async fn find(caller: &Caller, name: &str, query: &Query, store: &Store) -> Result<SessionRow, Error> {
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

/// `PATCH /v2/sessions/{id}`. A turn that runs goes on; what was changed holds for the next one.
pub async fn update(
    request: HttpRequest,
    tenant: Tenant,
    id: web::Path<String>,
    query: Query,
    payload: web::Payload,
    (store, sessions): (web::Data<Store>, web::Data<Sessions>),
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let mut change = changes(&mut given)?;
    change.status = given.text("status", 16)?;
    given.finish()?;
    if change.status.as_deref().is_some_and(|status| !matches!(status, "active" | "archived")) {
        return Err(Invalid::value("status", "expected active or archived").into());
    }
    let row = find(&tenant, &id, &query, &store).await?;
    let (rowid, now, by) = (row.id, clock::now_ms(), tenant.by());
    let changed = whole(async move {
        let update = move |conn: &mut _| {
            let before = store::session::by_id(conn, rowid)?.ok_or(Error::SessionNotFound)?;
            let after = store::session::change(conn, rowid, &change, now)?.ok_or(Error::SessionNotFound)?;
            record(conn, &by, Action::SessionUpdate, Some(&before), Some(&after))?;
            Ok(after)
        };
        let changed = store.write(update).await?;
        sessions.reload(&key(&row));
        Ok(changed)
    });
    let row = changed.await?;
    Ok(HttpResponse::Ok().json(Session::from(&row)))
}

/// `DELETE /v2/sessions/{id}` and `DELETE /v2/chats/{id}`. A turn that runs is ended first, and charged for.
pub async fn delete(
    tenant: Tenant,
    id: web::Path<String>,
    query: Query,
    (store, sessions): (web::Data<Store>, web::Data<Sessions>),
) -> Answer {
    let row = find(&tenant, &id, &query, &store).await?;
    let (key, rowid, by) = (key(&row), row.id, tenant.by());
    let place = sessions.place(&key, Busy::End).await?;
    let deleted = whole(async move {
        let deleted = store.write(move |conn| match store::session::by_id(conn, rowid)? {
            Some(row) => {
                record(conn, &by, Action::SessionDelete, Some(&row), None)?;
                Ok(store::session::delete(conn, &row)?)
            }
            None => Err(Error::SessionNotFound.into()),
        });
        deleted.await?;
        sessions.turns().forget_where(|turn| turn.is_of(&key));
        drop(place);
        Ok(())
    });
    deleted.await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Records what is done to a session. What was said, its title and the values of its notes stay out of it: a session
/// that is deleted is gone, and records are not.
pub fn record(
    conn: &mut Conn,
    by: &By,
    action: Action,
    before: Option<&SessionRow>,
    after: Option<&SessionRow>,
) -> Result<(), WriteError> {
    let Some(row) = after.or(before) else { return Ok(()) };
    let seen = |row: &SessionRow| {
        let notes: Map<String, Value> =
            row.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        json!({
            "id": row.name,
            "agent_id": row.agent_id,
            "status": row.status,
            "message_count": row.head,
            "title": if row.title.is_some() { "set" } else { "unset" },
            "metadata": notes.keys().collect::<Vec<_>>(),
        })
    };
    let deed = Deed {
        action,
        account: Some(&row.account_id),
        object: &row.name,
        before: before.map(seen),
        after: after.map(seen),
    };
    Ok(audit_log::record(conn, by, &deed)?)
}

/// Which conversation a row is.
pub fn key(row: &SessionRow) -> SessionKey {
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
    let rowid = find(&reader, &id, &query, &store).await?.id;
    let read = move |conn: &mut _| {
        let Some(row) = store::session::by_id(conn, rowid)? else { return Ok(None) };
        let summary = store::session_summary::find(conn, rowid)?;
        Ok(Some((store::message::messages(conn, &row, before, limit + 1, ANSWER_BYTES)?, summary)))
    };
    let ((mut rows, cut), summary) = store.read(read).await?.ok_or(Error::SessionNotFound)?;
    let beyond = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    if beyond {
        rows.remove(0);
    }
    let has_more = cut || beyond;
    let money = reader.sees_money();
    let one = |row| Message::new(row, money).map_err(|cause| damaged(rowid, &cause));
    let messages = rows.iter().map(one).collect::<Result<_, _>>()?;
    let summary = summary.map(|summary| Summary::new(&summary, money));
    Ok(HttpResponse::Ok().json(MessageList { messages, has_more, summary }))
}

/// What is stored cannot be read. It concerns one session; the log says which.
pub fn damaged(rowid: i64, cause: &dyn std::fmt::Display) -> Error {
    Error::Internal(format!("session {rowid} is damaged: {cause}"))
}

/// `GET /v2/chats`.
pub async fn list_chats(reader: SessionReader, query: Query, store: web::Data<Store>) -> Answer {
    let rows = listed(&reader, &query, &store).await?;
    // The number of all sessions is kept; others are not counted.
    let filtered = reader.agent.is_some()
        || ["agent_id", "status"].iter().any(|name| query.text(name).is_some())
        || !query.pairs("metadata").is_empty();
    let owner = reader.account.clone();
    let (chats, total) = store
        .read(move |conn| {
            let mut chats = Vec::with_capacity(rows.len());
            let mut left = ANSWER_BYTES;
            for listed in &rows {
                let Some(row) = store::session::by_id(conn, listed.id)? else { continue };
                let read = match left {
                    0 => Ok((Vec::new(), row.head > 0)),
                    _ => store::message::messages(conn, &row, i64::MAX, CHAT_MESSAGES_LISTED, left),
                };
                let (mut messages, mut cut) = match read {
                    // The others can be read all the same.
                    Err(DeserializationError(cause)) => {
                        tracing::error!(session = row.id, %cause, "a stored session is damaged");
                        chats.push(Chat::damaged(&row));
                        continue;
                    }
                    read => read?,
                };
                let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
                if bytes > left && !chats.is_empty() {
                    messages.clear();
                    cut = true;
                }
                // Whoever comes after one that is cut is left out, so that it is the newest that is there.
                left = if cut { 0 } else { left.saturating_sub(bytes) };
                chats.push(Chat::new(&row, &messages, cut).unwrap_or_else(|cause| {
                    tracing::error!(session = row.id, %cause, "a stored session is damaged");
                    Chat::damaged(&row)
                }));
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
    let rowid = find(&reader, &id, &query, &store).await?.id;
    let read = move |conn: &mut _| {
        let Some(row) = store::session::by_id(conn, rowid)? else { return Ok(None) };
        let (messages, cut) = store::message::messages(conn, &row, i64::MAX, CHAT_MESSAGES, ANSWER_BYTES)?;
        Ok(Some((row, messages, cut)))
    };
    let (row, messages, cut) = store.read(read).await?.ok_or(Error::SessionNotFound)?;
    let chat = Chat::new(&row, &messages, cut).map_err(|cause| damaged(row.id, &cause))?;
    Ok(HttpResponse::Ok().json(chat))
}
