//! `/v2/account/providers`: what a tenant brings to call providers with.

use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::clock;
use crate::credentials::{Credentials, belongs};
use crate::error::{Error, Invalid};
use crate::http::access::Tenant;
use crate::http::body;
use crate::http::error::ApiError;
use crate::http::whole::whole;
use crate::outbound::{self, MAX_URL};
use crate::provider::{OWN, Routes};
use crate::store::account_provider::OwnRow;
use crate::store::audit_log::{self, Action};
use crate::store::{self, Store};
use crate::wire::native::providers::{OwnProvider, OwnProviderList};

type Answer = Result<HttpResponse, ApiError>;

/// The longest name, in bytes.
const MAX_NAME: usize = 64;
/// The longest key, in bytes.
const MAX_KEY: usize = 1_024;
/// Of shorter keys the last four characters would tell too much.
const LEAST_SHOWN: usize = 12;

/// `PUT /v2/account/providers/{name}`: the key is never shown again.
pub async fn set(
    request: HttpRequest,
    tenant: Tenant,
    name: web::Path<String>,
    payload: web::Payload,
    (store, credentials, routes): (web::Data<Store>, web::Data<Credentials>, web::Data<Routes>),
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let vault = credentials.vault().ok_or_else(|| Invalid {
        param: None,
        code: "secrets_key_missing",
        message: "this server cannot keep keys of providers: its operator has to set `secrets_key`"
            .to_owned(),
    })?;
    let key = given.required("api_key", MAX_KEY)?;
    let base_url = given.text("base_url", MAX_URL)?;
    given.finish()?;
    if HeaderValue::from_str(&key).is_err() || key.contains(char::is_whitespace) {
        return Err(Invalid::value("api_key", "expected visible ASCII characters").into());
    }
    let name = checked_name(name.into_inner())?;
    let base_url = match base_url {
        Some(url) => Some(checked_url(&url, &name, &routes)?),
        None if replaceable(&name, &routes) => None,
        None => {
            let expected = "expected a URL: the operator has no provider of this name that takes a key";
            return Err(Invalid::value("base_url", expected).into());
        }
    };
    let shown = key.get(key.len().saturating_sub(4)..).filter(|_| key.len() >= LEAST_SHOWN);
    let mut row = OwnRow {
        account_id: tenant.account.to_string(),
        name,
        base_url,
        sealed: Vec::new(),
        last_four: shown.unwrap_or_default().to_owned(),
        created_at: clock::now_ms(),
    };
    let sealed = vault.seal(belongs(&row), &key.into());
    row.sealed = sealed.ok_or_else(|| Error::Internal("a key that cannot be sealed".to_owned()))?;
    let object = OwnProvider::from(&row);
    let by = tenant.by();
    let set = move |conn: &mut _| {
        let former = store::account_provider::find(conn, &row.account_id, &row.name)?;
        let new = store::account_provider::set(conn, &row)?;
        let deed = row.deed(Action::ProviderSet, former.as_ref(), Some(&row));
        audit_log::record(conn, &by, &deed)?;
        Ok(new)
    };
    let new = whole(async move {
        let new = store.write(set).await?;
        credentials.forget(&tenant.account);
        Ok(new)
    });
    let new = new.await?;
    Ok(if new { HttpResponse::Created() } else { HttpResponse::Ok() }.json(object))
}

fn checked_name(name: String) -> Result<String, Invalid> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !letters || !(1..=MAX_NAME).contains(&name.len()) || name == OWN {
        let expected = format!("expected 1 to {MAX_NAME} of A-Za-z0-9_.- other than `{OWN}`");
        return Err(Invalid::value("name", expected));
    }
    Ok(name)
}

fn checked_url(url: &str, name: &str, routes: &Routes) -> Result<String, Invalid> {
    if routes.providers().iter().any(|provider| provider.name == name) {
        let expected = "the operator has a provider of this name; choose another name, or leave this out";
        return Err(Invalid::value("base_url", expected));
    }
    outbound::check(url, routes.policy().allow_private).map_err(|cause| Invalid::value("base_url", cause))?;
    if url.contains(['?', '#']) {
        return Err(Invalid::value("base_url", "a query has no place in it"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// Whether a tenant's key can stand in the place of the operator's.
fn replaceable(name: &str, routes: &Routes) -> bool {
    routes.providers().iter().any(|provider| provider.name == name && provider.takes_own_key())
}

/// `GET /v2/account/providers`.
pub async fn list(tenant: Tenant, store: web::Data<Store>) -> Answer {
    let owner = tenant.account.clone();
    let rows = store.read(move |conn| store::account_provider::list(conn, owner.as_str())).await?;
    Ok(HttpResponse::Ok().json(OwnProviderList { providers: rows.iter().map(OwnProvider::from).collect() }))
}

/// `DELETE /v2/account/providers/{name}`.
pub async fn delete(
    tenant: Tenant,
    name: web::Path<String>,
    (store, credentials): (web::Data<Store>, web::Data<Credentials>),
) -> Answer {
    let (owner, name) = (tenant.account.clone(), name.into_inner());
    let by = tenant.by();
    let delete = move |conn: &mut _| {
        let row = store::account_provider::find(conn, owner.as_str(), &name)?;
        let row = row.ok_or(Error::NotFound("the provider"))?;
        store::account_provider::delete(conn, owner.as_str(), &name)?;
        Ok(audit_log::record(conn, &by, &row.deed(Action::ProviderDelete, Some(&row), None))?)
    };
    whole(async move {
        store.write(delete).await?;
        credentials.forget(&tenant.account);
        Ok(())
    })
    .await?;
    Ok(HttpResponse::NoContent().finish())
}
