//! `/v2/account`: what a tenant sees and sets of its own account.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use crate::error::{Error, Invalid};
use crate::http::access::Tenant;
use crate::http::body::{self, Given};
use crate::http::error::ApiError;
use crate::store::audit_log::{self, Action, Deed, state};
use crate::store::{self, Store};
use crate::wire::native::objects::OwnAccount;

type Answer = Result<HttpResponse, ApiError>;

/// The longest time that sessions are kept and then deleted, in days.
const MAX_RETENTION: i64 = 36_500;

/// `GET /v2/account`.
pub async fn show(tenant: Tenant, store: web::Data<Store>) -> Answer {
    let own = tenant.account.clone();
    let row = store.read(move |conn| store::account::find(conn, own.as_str())).await?;
    Ok(HttpResponse::Ok().json(OwnAccount::from(&row.ok_or(Error::NotFound("the account"))?)))
}

/// `PATCH /v2/account`.
pub async fn update(
    request: HttpRequest,
    tenant: Tenant,
    payload: web::Payload,
    store: web::Data<Store>,
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let retention = retention(&mut given)?;
    given.finish()?;
    if let Some(days) = retention {
        let (own, by) = (tenant.account.clone(), tenant.by());
        let set = move |conn: &mut _| {
            let before = store::account::find(conn, own.as_str())?.ok_or(Error::NotFound("the account"))?;
            let mut after = before.clone();
            after.retention_days = days;
            store::account::set_retention(conn, own.as_str(), days)?;
            let deed = Deed {
                action: Action::AccountUpdate,
                account: Some(own.as_str()),
                object: own.as_str(),
                before: state(OwnAccount::from(&before)),
                after: state(OwnAccount::from(&after)),
            };
            Ok(audit_log::record(conn, &by, &deed)?)
        };
        store.write(set).await?;
    }
    show(tenant, store).await
}

/// `retention_days`: after how many idle days sessions are deleted; `Some(None)` for never.
///
/// # Errors
/// When it is something else.
pub fn retention(given: &mut Given) -> Result<Option<Option<i64>>, Invalid> {
    match given.take_even_null("retention_days") {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(days) => match days.as_i64().filter(|days| (1..=MAX_RETENTION).contains(days)) {
            Some(days) => Ok(Some(Some(days))),
            None => {
                let expected = format!("expected a whole number of days from 1 to {MAX_RETENTION}, or null");
                Err(Invalid::value("retention_days", expected))
            }
        },
    }
}
