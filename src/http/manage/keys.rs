//! Keys of agents and of accounts.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::agents::Agents;
use crate::auth::api_key::{self, KeyKind};
use crate::auth::caller::{Period, Scopes};
use crate::auth::keyring::Keyring;
use crate::billing::money::Nanos;
use crate::clock;
use crate::error::{Error, Invalid, Stop};
use crate::http::access::Tenant;
use crate::http::body::{self, Given};
use crate::http::error::ApiError;
use crate::http::manage::agents::own;
use crate::http::whole::whole;
use crate::id::{AccountId, AgentId, KeyId};
use crate::rate_limit::limits::Limits;
use crate::session::Sessions;
use crate::store::api_key::KeyRow;
use crate::store::audit_log::{self, Action, By, Deed, state};
use crate::store::writer::WriteError;
use crate::store::{self, Conn, Store};
use crate::wire::native::objects;

type Answer = Result<HttpResponse, ApiError>;

/// The longest name of a key, in bytes.
const MAX_NAME: usize = 256;

/// A new key with its secret. What `given` says is taken out of it.
///
/// # Errors
/// Names the field that is wrong and what was expected.
pub fn new_key(
    kind: KeyKind,
    account: Option<&AccountId>,
    agent: Option<&AgentId>,
    mut given: Given,
) -> Result<(KeyRow, String), Invalid> {
    let secret = api_key::generate(kind);
    let mut row = KeyRow {
        key_id: KeyId::random().to_string(),
        kind: kind.as_str().to_owned(),
        account_id: account.map(ToString::to_string),
        agent_id: agent.map(ToString::to_string),
        name: given.required("name", MAX_NAME)?,
        digest: api_key::digest(&secret).to_vec(),
        last_four: api_key::last_four(&secret).to_owned(),
        scopes: if kind == KeyKind::Agent { json!(["chat"]).to_string() } else { json!([]).to_string() },
        limits: "{}".to_owned(),
        budget: None,
        public: false,
        created_at: clock::now_ms(),
        expires_at: None,
        revoked_at: None,
    };
    change(&mut row, kind, given)?;
    Ok((row, secret))
}

/// Takes over the fields that are given.
fn change(row: &mut KeyRow, kind: KeyKind, mut given: Given) -> Result<(), Invalid> {
    if let Some(name) = given.text("name", MAX_NAME)? {
        row.name = name;
    }
    match given.take_even_null("expires_at") {
        None => {}
        Some(Value::Null) => row.expires_at = None,
        Some(Value::String(text)) => {
            let at = clock::parse_rfc3339(&text).filter(|at| *at > clock::now_ms());
            let expected = "expected a time to come, such as \"2030-01-31T12:00:00Z\"";
            row.expires_at = Some(at.ok_or_else(|| Invalid::value("expires_at", expected))?);
        }
        Some(_) => {
            return Err(Invalid::value("expires_at", "expected a time such as \"2030-01-31T12:00:00Z\""));
        }
    }
    if let Some(limits) = given.take_even_null("limits") {
        row.limits = Limits::parse(&limits, "limits")?.to_json().to_string();
    }
    if let Some(budget) = given.take_even_null("budget") {
        row.budget = read_budget(&budget)?;
    }
    if let Some(scopes) = given.take_even_null("scopes") {
        row.scopes = read_scopes(kind, &scopes)?;
    }
    if let Some(public) = given.take_even_null("public") {
        let wrong = || Invalid::value("public", "expected true or false");
        row.public = public.as_bool().ok_or_else(wrong)?;
        if row.public && kind != KeyKind::Agent {
            return Err(Invalid::value("public", "only an agent's key may stand in a web page"));
        }
    }
    given.finish()
}

fn read_budget(value: &Value) -> Result<Option<String>, Invalid> {
    if value.is_null() {
        return Ok(None);
    }
    let amount =
        value["amount"].as_str().and_then(|text| Nanos::parse(text).ok()).filter(|amount| amount.0 >= 0);
    let amount = amount
        .ok_or_else(|| Invalid::value("budget.amount", "expected a decimal string such as \"10.00\""))?;
    let period = value["period"].as_str().and_then(Period::named);
    let period = period.ok_or_else(|| Invalid::value("budget.period", "expected day, month or total"))?;
    Ok(Some(json!({"amount": amount.to_string(), "period": period.as_str()}).to_string()))
}

fn read_scopes(kind: KeyKind, value: &Value) -> Result<String, Invalid> {
    let expected =
        || Invalid::value("scopes", format_args!("expected a list of {}", Scopes::NAMES.join(", ")));
    let names: Vec<&str> = match value {
        Value::Null if kind == KeyKind::Agent => vec!["chat"],
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(expected)?,
        _ => return Err(expected()),
    };
    if names.iter().any(|name| !Scopes::NAMES.contains(name)) || (value.is_array() && names.is_empty()) {
        return Err(expected());
    }
    Ok(json!(names).to_string())
}

/// `POST /v2/agents/{id}/api-keys`.
pub async fn create_for_agent(
    request: HttpRequest,
    tenant: Tenant,
    id: web::Path<String>,
    payload: web::Payload,
    (store, agents): (web::Data<Store>, web::Data<Agents>),
) -> Answer {
    let given = body::read_object(&request, payload).await?;
    let agent = own(&tenant, &id.into_inner(), &agents).await?;
    let (row, secret) = new_key(KeyKind::Agent, Some(&tenant.account), Some(&agent.id), given)?;
    insert(&store, tenant.by(), &row, &secret).await
}

/// `GET /v2/agents/{id}/api-keys`.
pub async fn list_of_agent(
    tenant: Tenant,
    id: web::Path<String>,
    (store, agents): (web::Data<Store>, web::Data<Agents>),
) -> Answer {
    let agent = own(&tenant, &id.into_inner(), &agents).await?;
    let owner = tenant.account.clone();
    let rows = store
        .read(move |conn| store::api_key::list_of_agent(conn, owner.as_str(), agent.id.as_str()))
        .await?;
    Ok(listed(&rows))
}

/// `PATCH /v2/agents/{id}/api-keys/{key_id}`.
pub async fn update_of_agent(
    request: HttpRequest,
    tenant: Tenant,
    path: web::Path<(String, String)>,
    payload: web::Payload,
    (store, agents): (web::Data<Store>, web::Data<Agents>),
    (keyring, sessions): (web::Data<Keyring>, web::Data<Sessions>),
) -> Answer {
    let given = body::read_object(&request, payload).await?;
    let (id, key_id) = path.into_inner();
    let agent = own(&tenant, &id, &agents).await?;
    let mut row = find_of_agent(&store, &tenant.account, &agent.id, &key_id).await?;
    change(&mut row, KeyKind::Agent, given)?;
    let (new, by) = (row.clone(), tenant.by());
    let kept = whole(async move {
        let (id, ends) = (KeyId::from(new.key_id.as_str()), new.expires_at);
        let update = move |conn: &mut _| {
            let before = store::api_key::by_id(conn, &new.key_id)?.ok_or(Error::NotFound("the key"))?;
            store::api_key::update(conn, &new)?;
            record(conn, &by, Action::KeyUpdate, Some(&before), Some(&new))
        };
        store.write(update).await?;
        keyring.forget();
        sessions.turns().key_ends(&id, ends);
        Ok(())
    });
    kept.await?;
    Ok(HttpResponse::Ok().json(objects::Key::from(&row)))
}

/// `DELETE /v2/agents/{id}/api-keys/{key_id}`.
pub async fn revoke_of_agent(
    tenant: Tenant,
    path: web::Path<(String, String)>,
    (store, agents): (web::Data<Store>, web::Data<Agents>),
    (keyring, sessions): (web::Data<Keyring>, web::Data<Sessions>),
) -> Answer {
    let (id, key_id) = path.into_inner();
    let agent = own(&tenant, &id, &agents).await?;
    let row = find_of_agent(&store, &tenant.account, &agent.id, &key_id).await?;
    let id = row.key_id;
    let by = tenant.by();
    whole(async move {
        let gone = id.clone();
        store.write(move |conn| revoke(conn, &by, &gone)).await?;
        ended(&keyring, &sessions, &id);
        Ok(())
    })
    .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /v2/account/api-keys`.
pub async fn create_for_account(
    request: HttpRequest,
    tenant: Tenant,
    payload: web::Payload,
    store: web::Data<Store>,
) -> Answer {
    let given = body::read_object(&request, payload).await?;
    let (row, secret) = new_key(KeyKind::Account, Some(&tenant.account), None, given)?;
    insert(&store, tenant.by(), &row, &secret).await
}

/// `GET /v2/account/api-keys`.
pub async fn list_of_account(tenant: Tenant, store: web::Data<Store>) -> Answer {
    let owner = tenant.account.clone();
    let rows = store.read(move |conn| store::api_key::list_of_account(conn, owner.as_str())).await?;
    Ok(listed(&rows))
}

/// `DELETE /v2/account/api-keys/{key_id}`: not the last one.
pub async fn revoke_of_account(
    tenant: Tenant,
    id: web::Path<String>,
    store: web::Data<Store>,
    (keyring, sessions): (web::Data<Keyring>, web::Data<Sessions>),
) -> Answer {
    let (owner, id, by) = (tenant.account.clone(), id.into_inner(), tenant.by());
    whole(async move {
        let gone = id.clone();
        // Counted and revoked in one transaction: two requests cannot each delete the one before the last.
        let revoke = move |conn: &mut _| {
            may_go(&store::api_key::list_of_account(conn, owner.as_str())?, &gone)?;
            revoke(conn, &by, &gone)
        };
        store.write(revoke).await?;
        ended(&keyring, &sessions, &id);
        Ok(())
    })
    .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Whether an account with these keys can do without that one.
fn may_go(rows: &[KeyRow], gone: &str) -> Result<(), Error> {
    if !rows.iter().any(|row| row.key_id == gone) {
        return Err(Error::NotFound("the key"));
    }
    // A key with narrower scopes cannot make another one.
    let full = |row: &KeyRow| row.scopes == "[]" && row.expires_at.is_none() && row.key_id != gone;
    if !rows.iter().any(full) {
        let message = "the last unrestricted key of an account cannot be deleted".to_owned();
        return Err(Error::Invalid(Invalid { param: None, code: "last_key", message }));
    }
    Ok(())
}

async fn insert(store: &Store, by: By, row: &KeyRow, secret: &str) -> Answer {
    let new = row.clone();
    let insert = move |conn: &mut _| {
        store::api_key::insert(conn, &new)?;
        record(conn, &by, Action::KeyCreate, None, Some(&new))
    };
    store.write(insert).await?;
    Ok(HttpResponse::Created().json(objects::MadeKey::new(row, secret)))
}

/// Revokes a key and records it.
fn revoke(conn: &mut Conn, by: &By, id: &str) -> Result<(), WriteError> {
    let row = store::api_key::by_id(conn, id)?.ok_or(Error::NotFound("the key"))?;
    store::api_key::revoke(conn, id, clock::now_ms())?;
    record(conn, by, Action::KeyRevoke, Some(&row), None)
}

/// Records what is done to a key.
pub fn record(
    conn: &mut Conn,
    by: &By,
    action: Action,
    before: Option<&KeyRow>,
    after: Option<&KeyRow>,
) -> Result<(), WriteError> {
    let Some(row) = after.or(before) else { return Ok(()) };
    let seen = |row: Option<&KeyRow>| row.map(objects::Key::from).and_then(state);
    let (account, object) = (row.account_id.as_deref(), row.key_id.as_str());
    let deed = Deed { action, account, object, before: seen(before), after: seen(after) };
    Ok(audit_log::record(conn, by, &deed)?)
}

async fn find_of_agent(
    store: &Store,
    owner: &AccountId,
    agent: &AgentId,
    key: &str,
) -> Result<KeyRow, Error> {
    let (owner, agent) = (owner.clone(), agent.clone());
    let rows =
        store.read(move |conn| store::api_key::list_of_agent(conn, owner.as_str(), agent.as_str())).await?;
    rows.into_iter().find(|row| row.key_id == key).ok_or(Error::NotFound("the key"))
}

/// A key has ended, and with it what it was doing.
fn ended(keyring: &Keyring, sessions: &Sessions, id: &str) {
    keyring.forget();
    sessions.turns().stop_where(Stop::Cancelled, |turn| turn.key.as_str() == id);
}

fn listed(rows: &[KeyRow]) -> HttpResponse {
    let api_keys = rows.iter().map(objects::Key::from).collect();
    HttpResponse::Ok().json(objects::KeyList { api_keys })
}
