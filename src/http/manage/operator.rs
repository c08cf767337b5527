//! `/admin`: accounts, credit, and a look at what runs.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::agents::Agents;
use crate::auth::api_key::KeyKind;
use crate::auth::keyring::Keyring;
use crate::billing::money::Nanos;
use crate::clock;
use crate::credentials::Credentials;
use crate::error::{Error, Invalid, Stop};
use crate::http::access::Operator;
use crate::http::body::{self, Given};
use crate::http::error::ApiError;
use crate::http::manage::{account, keys};
use crate::http::query::Query;
use crate::http::whole::whole;
use crate::id::AccountId;
use crate::provider::Routes;
use crate::rate_limit::limits::Limits;
use crate::retention;
use crate::session::Sessions;
use crate::store::account::AccountRow;
use crate::store::api_key::KeyRow;
use crate::store::audit_log::{self, Action, By, Deed, state};
use crate::store::ledger_entry::{self, EntryRow, NewEntry};
use crate::store::writer::WriteError;
use crate::store::{self, Conn, Store};
use crate::wire::native::ledger::{PostedEntry, Verdict};
use crate::wire::native::{explain, objects, providers};

type Answer = Result<HttpResponse, ApiError>;

const MAX_NAME: usize = 256;
const MAX_NOTE: usize = 4_096;

/// `POST /admin/accounts`.
pub async fn create_account(
    request: HttpRequest,
    operator: Operator,
    payload: web::Payload,
    store: web::Data<Store>,
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let name = given.required("name", MAX_NAME)?;
    let balance = given.money("balance")?.unwrap_or(Nanos::ZERO);
    if balance < Nanos::ZERO {
        return Err(Invalid::value("balance", "expected nothing or more").into());
    }
    let limits = Limits::parse(&given.take("limits").unwrap_or_default(), "limits")?;
    given.finish()?;
    let (row, secret) = new_account(&store, name, balance, limits, operator.by()).await?;
    Ok(HttpResponse::Created().json(objects::MadeAccount::new(&row, secret)))
}

/// Makes an account with its first key and its opening balance.
///
/// # Errors
/// When the store cannot be written.
pub async fn new_account(
    store: &Store,
    name: String,
    balance: Nanos,
    limits: Limits,
    by: By,
) -> Result<(AccountRow, String), Error> {
    let id = AccountId::random();
    let row = AccountRow {
        account_id: id.to_string(),
        name,
        status: "active".to_owned(),
        limits: limits.to_json().to_string(),
        last_seq: 0,
        available: 0,
        held: 0,
        agent_count: 0,
        session_count: 0,
        created_at: clock::now_ms(),
        retention_days: None,
        closed_at: None,
    };
    let first = Given::from(json!({"name": "first key"}));
    let (key, secret) = keys::new_key(KeyKind::Account, Some(&id), None, first)?;
    let actor = by.key.as_ref().map_or_else(|| "server".to_owned(), |(_, key)| key.clone());
    let row = store.write(move |conn| {
        store::account::insert(conn, &row)?;
        store::api_key::insert(conn, &key)?;
        if balance > Nanos::ZERO {
            let opening = NewEntry {
                account: &row.account_id,
                kind: "grant",
                delta: balance.0,
                actor: &actor,
                note: Some("opening balance"),
                now: row.created_at,
                ..NewEntry::default()
            };
            ledger_entry::post(conn, &opening)?;
        }
        let made = store::account::find(conn, &row.account_id)?;
        let missing = || Error::Internal("an account that was just made is not there".to_owned());
        let made = made.ok_or_else(missing)?;
        audit_log::record(conn, &by, &made_with(&made, &key))?;
        Ok(made)
    });
    Ok((row.await?, secret))
}

/// That an account was made, with its first key.
pub fn made_with<'a>(row: &'a AccountRow, key: &KeyRow) -> Deed<'a> {
    let mut after = state(objects::Account::from(row));
    if let Some(after) = &mut after {
        after["first_key"] = json!(objects::Key::from(key));
    }
    Deed { after, ..deed(Action::AccountCreate, &row.account_id) }
}

fn deed(action: Action, account: &str) -> Deed<'_> {
    Deed { action, account: Some(account), object: account, before: None, after: None }
}

/// `GET /admin/accounts`.
pub async fn list_accounts(_: Operator, query: Query, store: web::Data<Store>) -> Answer {
    let (limit, offset) = (query.limit()?, query.offset()?);
    let (rows, total) = store.read(move |conn| store::account::list(conn, limit, offset)).await?;
    let accounts = rows.iter().map(objects::Account::from).collect();
    Ok(HttpResponse::Ok().json(objects::AccountList { accounts, total }))
}

/// `GET /admin/accounts/{id}`.
pub async fn show_account(_: Operator, id: web::Path<String>, store: web::Data<Store>) -> Answer {
    Ok(HttpResponse::Ok().json(objects::Account::from(&find(&store, id.into_inner()).await?)))
}

async fn find(store: &Store, id: String) -> Result<AccountRow, Error> {
    let row = store.read(move |conn| store::account::find(conn, &id)).await?;
    row.ok_or(Error::NotFound("the account"))
}

fn closed() -> Error {
    let message = "the account is closed for good".to_owned();
    Invalid { param: Some("id".to_owned()), code: "account_closed", message }.into()
}

/// `PATCH /admin/accounts/{id}`.
pub async fn update_account(
    request: HttpRequest,
    operator: Operator,
    id: web::Path<String>,
    payload: web::Payload,
    (store, keyring): (web::Data<Store>, web::Data<Keyring>),
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let status = given.text("status", 16)?;
    if status.as_deref().is_some_and(|status| !matches!(status, "active" | "suspended")) {
        return Err(Invalid::value("status", "expected active or suspended").into());
    }
    let limits = match given.take_even_null("limits") {
        Some(limits) => Some(Limits::parse(&limits, "limits")?.to_json().to_string()),
        None => None,
    };
    let retention = account::retention(&mut given)?;
    given.finish()?;
    let (sought, by) = (id.into_inner(), operator.by());
    let updated = whole(async move {
        let update = move |conn: &mut _| {
            let find = |conn: &mut _| -> Result<AccountRow, WriteError> {
                Ok(store::account::find(conn, &sought)?.ok_or(Error::NotFound("the account"))?)
            };
            let before = find(conn)?;
            if before.closed_at.is_some() {
                return Err(closed().into());
            }
            if let Some(days) = retention {
                store::account::set_retention(conn, &sought, days)?;
            }
            store::account::update(conn, &sought, status.as_deref(), limits.as_deref())?;
            let after = find(conn)?;
            let (was, is) = (state(objects::Account::from(&before)), state(objects::Account::from(&after)));
            let deed = Deed { before: was, after: is, ..deed(Action::AccountUpdate, &sought) };
            audit_log::record(conn, &by, &deed)?;
            Ok(after)
        };
        let updated = store.write(update).await?;
        keyring.forget();
        Ok(updated)
    });
    Ok(HttpResponse::Ok().json(objects::Account::from(&updated.await?)))
}

/// `DELETE /admin/accounts/{id}`: closes it for good. Everything of it goes but its books; what runs is ended and charged
/// for.
pub async fn close_account(
    operator: Operator,
    id: web::Path<String>,
    store: web::Data<Store>,
    (agents, keyring): (web::Data<Agents>, web::Data<Keyring>),
    (credentials, sessions): (web::Data<Credentials>, web::Data<Sessions>),
) -> Answer {
    let id = AccountId::from(id.into_inner());
    whole(async move {
        let (closed, by) = (id.clone(), operator.by());
        let close = move |conn: &mut _| {
            let row = store::account::find(conn, closed.as_str())?.ok_or(Error::NotFound("the account"))?;
            let gone = store::account::close_for_good(conn, closed.as_str(), clock::now_ms())?;
            if row.closed_at.is_none() {
                let mut before = state(objects::Account::from(&row));
                if let Some(before) = &mut before {
                    before["agents"] = json!(gone);
                }
                let deed = Deed { before, ..deed(Action::AccountClose, closed.as_str()) };
                audit_log::record(conn, &by, &deed)?;
            }
            Ok(gone)
        };
        let gone = store.write(close).await?;
        gone.iter().for_each(|agent| agents.forget(&agent.as_str().into()));
        keyring.forget();
        credentials.forget(&id);
        sessions.turns().stop_where(Stop::Cancelled, |turn| turn.account == id);
        for agent in &gone {
            retention::delete_sessions_of(&store, id.as_str(), agent).await?;
        }
        // Those that waited found their sessions while they were there.
        sessions.turns().stop_where(Stop::Cancelled, |turn| turn.account == id);
        sessions.turns().forget_where(|turn| turn.account == id);
        Ok::<_, Error>(())
    })
    .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /admin/accounts/{id}/credit`: the same reference twice is one credit.
pub async fn credit(
    request: HttpRequest,
    operator: Operator,
    id: web::Path<String>,
    payload: web::Payload,
    store: web::Data<Store>,
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let amount = given.money("amount")?.ok_or_else(|| Invalid::missing("amount"))?;
    if amount <= Nanos::ZERO {
        return Err(Invalid::value("amount", "expected more than nothing").into());
    }
    let reference = given.required("external_ref", MAX_NAME)?;
    let note = given.text("note", MAX_NOTE)?;
    given.finish()?;
    let (account, actor, by) = (id.into_inner(), operator.key.to_string(), operator.by());
    let (entry, new) = store
        .write(move |conn| {
            if let Some(earlier) = ledger_entry::by_reference(conn, "topup", &reference)? {
                if earlier.account_id == account && earlier.delta == amount.0 {
                    return Ok((earlier, false));
                }
                let message =
                    format!("`{reference}` was credited before, to another account or another amount");
                return Err(Error::Mismatch(message).into());
            }
            if store::account::find(conn, &account)?.is_some_and(|row| row.closed_at.is_some()) {
                return Err(closed().into());
            }
            let entry = NewEntry {
                account: &account,
                kind: "topup",
                external_ref: Some(&reference),
                delta: amount.0,
                actor: &actor,
                note: note.as_deref(),
                now: clock::now_ms(),
                ..NewEntry::default()
            };
            let entry = post(conn, &by, Action::AccountCredit, &entry)?;
            Ok((entry, true))
        })
        .await?;
    crate::failpoint::hit("top-up committed");
    Ok(if new { HttpResponse::Created() } else { HttpResponse::Ok() }.json(PostedEntry::from(&entry)))
}

/// `POST /admin/accounts/{id}/adjust`: a correction, signed, with a reason.
pub async fn adjust(
    request: HttpRequest,
    operator: Operator,
    id: web::Path<String>,
    payload: web::Payload,
    store: web::Data<Store>,
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let amount = given.money("amount")?.ok_or_else(|| Invalid::missing("amount"))?;
    if amount == Nanos::ZERO {
        return Err(Invalid::value("amount", "expected more or less than nothing").into());
    }
    let note = given.required("note", MAX_NOTE)?;
    given.finish()?;
    let (account, actor, by) = (id.into_inner(), operator.key.to_string(), operator.by());
    let entry = store
        .write(move |conn| {
            let entry = NewEntry {
                account: &account,
                kind: "adjust",
                delta: amount.0,
                actor: &actor,
                note: Some(&note),
                now: clock::now_ms(),
                ..NewEntry::default()
            };
            post(conn, &by, Action::AccountAdjust, &entry)
        })
        .await?;
    Ok(HttpResponse::Created().json(PostedEntry::from(&entry)))
}

/// Moves money and records it.
fn post(conn: &mut Conn, by: &By, action: Action, new: &NewEntry<'_>) -> Result<EntryRow, WriteError> {
    let row = store::account::find(conn, new.account)?.ok_or(Error::NotFound("the account"))?;
    let entry = ledger_entry::post(conn, new)?;
    let before = state(objects::Balance::from(&row));
    let deed = Deed { before, after: state(PostedEntry::from(&entry)), ..deed(action, new.account) };
    audit_log::record(conn, by, &deed)?;
    Ok(entry)
}

/// `GET /admin/providers`: how each of them does.
pub async fn providers(_: Operator, routes: web::Data<Routes>) -> Answer {
    let all = routes.providers().iter().zip(routes.standings());
    let providers = all.map(|(config, standing)| providers::Provider::of(config, standing)).collect();
    let balance = routes.policy().balance.as_str();
    Ok(HttpResponse::Ok().json(providers::ProviderList { balance, providers }))
}

/// `GET /admin/ledger/verify`.
pub async fn verify(_: Operator, store: web::Data<Store>) -> Answer {
    let report = store.read(store::verify::run).await?;
    Ok(HttpResponse::Ok().json(Verdict::from(&report)))
}

/// `GET /admin/ledger/explain/{id}`: the life of a charge, by request, completion or hold.
pub async fn explain(_: Operator, id: web::Path<String>, store: web::Data<Store>) -> Answer {
    let id = id.into_inner();
    let charges = store.read(move |conn| store::explain::find(conn, &id)).await?;
    if charges.is_empty() {
        return Err(Error::NotFound("a request of this id that reached a provider").into());
    }
    let charges = charges.iter().map(explain::Charge::from).collect();
    Ok(HttpResponse::Ok().json(explain::Explanation { charges }))
}

/// `GET /admin/streams`.
pub async fn streams(_: Operator, sessions: web::Data<Sessions>) -> Answer {
    let streams = sessions.turns().list().iter().map(objects::RunningTurn::from).collect();
    Ok(HttpResponse::Ok().json(objects::RunningTurns { streams }))
}
