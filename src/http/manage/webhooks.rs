//! Where an account wants to be told what happens to its money.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::billing::money::Nanos;
use crate::clock;
use crate::error::{Error, Invalid};
use crate::http::access::Tenant;
use crate::http::body::{self, Given};
use crate::http::error::ApiError;
use crate::id::WebhookId;
use crate::outbound::MAX_URL;
use crate::store::audit_log::{self, Action};
use crate::store::webhook::WebhookRow;
use crate::store::{self, Store};
use crate::webhook::Webhooks;
use crate::webhook::event::Kind;
use crate::wire::native::objects::{MadeWebhook, Webhook, WebhookList};

type Answer = Result<HttpResponse, ApiError>;

/// Thresholds that a webhook may have.
const MAX_THRESHOLDS: usize = 10;

/// `POST /v2/webhooks`.
pub async fn create(
    request: HttpRequest,
    tenant: Tenant,
    payload: web::Payload,
    (store, webhooks): (web::Data<Store>, web::Data<Webhooks>),
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let url = given.required("url", MAX_URL)?;
    webhooks.check(&url).map_err(|expected| Invalid::value("url", expected))?;
    let row = WebhookRow {
        id: WebhookId::random().to_string(),
        account_id: tenant.account.to_string(),
        url,
        events: json!(read_events(&mut given)?).to_string(),
        balance_low: json!(read_thresholds(&mut given)?).to_string(),
        created_at: clock::now_ms(),
    };
    given.finish()?;
    let (new, by) = (row.clone(), tenant.by());
    let insert = move |conn: &mut _| {
        store::webhook::insert(conn, &new)?;
        Ok(audit_log::record(conn, &by, &new.deed(Action::WebhookCreate))?)
    };
    store.write(insert).await?;
    Ok(HttpResponse::Created().json(MadeWebhook::new(&row, webhooks.secret(&row.id))))
}

fn read_events(given: &mut Given) -> Result<Vec<&'static str>, Invalid> {
    let Some(value) = given.take("events") else { return Ok(Kind::ALL.map(Kind::as_str).to_vec()) };
    let named = |item: &Value| item.as_str().and_then(Kind::named).map(Kind::as_str);
    let named = value.as_array().and_then(|items| items.iter().map(named).collect::<Option<Vec<_>>>());
    let all = Kind::ALL.map(Kind::as_str).join(", ");
    let mut named = named
        .filter(|events| !events.is_empty())
        .ok_or_else(|| Invalid::value("events", format_args!("expected a list of {all}")))?;
    named.sort_unstable();
    named.dedup();
    Ok(named)
}

/// In nano-dollars, the highest first, each once.
fn read_thresholds(given: &mut Given) -> Result<Vec<i64>, Invalid> {
    let Some(value) = given.take("balance_low") else { return Ok(Vec::new()) };
    let amount = |item: &Value| Nanos::parse(item.as_str()?).ok().filter(|amount| amount.0 > 0);
    let amounts = value
        .as_array()
        .filter(|items| items.len() <= MAX_THRESHOLDS)
        .and_then(|items| items.iter().map(amount).collect::<Option<Vec<_>>>());
    let expected =
        format_args!("expected at most {MAX_THRESHOLDS} decimal strings above 0, such as \"1.00\"")
            .to_string();
    let mut amounts = amounts.ok_or_else(|| Invalid::value("balance_low", expected))?;
    amounts.sort_unstable_by(|one, other| other.cmp(one));
    amounts.dedup();
    Ok(amounts.into_iter().map(|amount| amount.0).collect())
}

/// `GET /v2/webhooks`.
pub async fn list(tenant: Tenant, store: web::Data<Store>) -> Answer {
    let owner = tenant.account.clone();
    let rows = store.read(move |conn| store::webhook::list(conn, owner.as_str())).await?;
    let webhooks = rows.iter().map(Webhook::from).collect();
    Ok(HttpResponse::Ok().json(WebhookList { webhooks }))
}

/// `DELETE /v2/webhooks/{id}`.
pub async fn delete(tenant: Tenant, id: web::Path<String>, store: web::Data<Store>) -> Answer {
    let (owner, id, by) = (tenant.account.clone(), id.into_inner(), tenant.by());
    let delete = move |conn: &mut _| {
        let all = store::webhook::list(conn, owner.as_str())?;
        let row = all.iter().find(|row| row.id == id).ok_or(Error::NotFound("the webhook"))?;
        store::webhook::delete(conn, owner.as_str(), &row.id)?;
        Ok(audit_log::record(conn, &by, &row.deed(Action::WebhookDelete))?)
    };
    store.write(delete).await?;
    Ok(HttpResponse::NoContent().finish())
}
