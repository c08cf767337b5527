//! `/v2/sessions/{id}/fork` and `/truncate`: another way from a certain message on.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use crate::clock;
use crate::error::{Error, Invalid};
use crate::http::access::Tenant;
use crate::http::body;
use crate::http::error::ApiError;
use crate::http::manage::sessions::{changes, find, key, new_name, record};
use crate::http::query::Query;
use crate::session::{Busy, Sessions};
use crate::store::audit_log::Action;
use crate::store::session::{Fork, SessionRow};
use crate::store::{self, Store};
use crate::wire::native::messages::message_seq;
use crate::wire::native::objects::Session;

type Answer = Result<HttpResponse, ApiError>;

/// The number in the id of a message, such as `msg_12`.
fn message_number(value: &Value, field: &str) -> Result<i64, Invalid> {
    let number = value.as_str().and_then(message_seq);
    number.ok_or_else(|| Invalid::value(field, "expected the id of a message, such as msg_12"))
}

/// Whether the session has that message.
fn within(row: &SessionRow, head: i64) -> Result<i64, Error> {
    if head <= row.head { Ok(head) } else { Err(Error::NotFound("the message")) }
}

/// `POST /v2/sessions/{id}/fork`: a new session that has this one's messages up to one of them.
pub async fn fork(
    request: HttpRequest,
    tenant: Tenant,
    id: web::Path<String>,
    query: Query,
    payload: web::Payload,
    store: web::Data<Store>,
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let upto = given.take("message_id").map(|id| message_number(&id, "message_id")).transpose()?;
    let (name, by_server) = new_name(&mut given)?;
    let change = changes(&mut given)?;
    given.finish()?;
    let source = find(&tenant, &id, &query, &store).await?;
    let now = clock::now_ms();
    let (taken, by) = (name.clone(), tenant.by());
    let made = store.write(move |conn| {
        let source = store::session::by_id(conn, source.id)?.ok_or(Error::SessionNotFound)?;
        let head = within(&source, upto.unwrap_or(source.head))?;
        let fork = Fork { name: name.to_string(), by_server, head, change: change.clone() };
        let made = store::session::fork(conn, &source, &fork, now)?;
        if let Some(made) = &made {
            record(conn, &by, Action::SessionFork, Some(&source), Some(made))?;
        }
        Ok(made)
    });
    let row = made.await?.ok_or_else(|| Invalid {
        param: Some("session_id".to_owned()),
        code: "session_exists",
        message: format!("there is a session `{taken}` already"),
    })?;
    Ok(HttpResponse::Created().json(Session::from(&row)))
}

/// `POST /v2/sessions/{id}/truncate`: takes back what came after a message, or all of it.
pub async fn truncate(
    request: HttpRequest,
    tenant: Tenant,
    id: web::Path<String>,
    query: Query,
    payload: web::Payload,
    (store, sessions): (web::Data<Store>, web::Data<Sessions>),
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let after = match given.take_even_null("after") {
        None => return Err(Invalid::missing("after").into()),
        Some(Value::Null) => 0,
        Some(id) => message_number(&id, "after")?,
    };
    given.finish()?;
    let row = find(&tenant, &id, &query, &store).await?;
    let place = sessions.place(&key(&row), Busy::Refuse).await?;
    let (now, by) = (clock::now_ms(), tenant.by());
    let cut = store.write(move |conn| {
        // It is given back after the commit, even if the client does not wait for that.
        let _held = &place;
        let row = store::session::by_id(conn, row.id)?.ok_or(Error::SessionNotFound)?;
        let head = within(&row, after)?;
        let cut = store::session::truncate(conn, &row, head, now)?.ok_or(Error::SessionNotFound)?;
        record(conn, &by, Action::SessionTruncate, Some(&row), Some(&cut))?;
        Ok(cut)
    });
    Ok(HttpResponse::Ok().json(Session::from(&cut.await?)))
}
