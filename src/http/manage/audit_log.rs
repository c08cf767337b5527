//! `/v2/account/audit-log` and `/admin/audit-log`: who did what to which object.

use actix_web::{HttpResponse, web};

use crate::error::Invalid;
use crate::http::access::{Operator, Tenant};
use crate::http::error::ApiError;
use crate::http::query::Query;
use crate::store::Store;
use crate::store::audit_log::{self, Action, AuditRow, Filter};
use crate::wire::native::audit_log::{AuditLog, AuditRecord};

type Answer = Result<HttpResponse, ApiError>;

/// `GET /v2/account/audit-log`.
pub async fn own(tenant: Tenant, query: Query, store: web::Data<Store>) -> Answer {
    let filter = Filter { account: Some(tenant.account.to_string()), ..filter(&query)? };
    page(filter, &store, AuditRecord::for_account).await
}

/// `GET /admin/audit-log`.
pub async fn all(_: Operator, query: Query, store: web::Data<Store>) -> Answer {
    let filter = Filter { account: query.text("account").map(str::to_owned), ..filter(&query)? };
    page(filter, &store, AuditRecord::from).await
}

fn filter(query: &Query) -> Result<Filter, Invalid> {
    let action = query.text("action").map(str::to_owned);
    if action.as_ref().is_some_and(|action| Action::ALL.iter().all(|(_, word)| word != action)) {
        let all = Action::ALL.map(|(_, word)| word).join(", ");
        return Err(Invalid::value("action", format_args!("expected one of {all}")));
    }
    Ok(Filter {
        account: None,
        object: query.text("object").map(str::to_owned),
        action,
        since: query.time("since")?,
        until: query.time("until")?,
        before: query.number("after", 1..=i64::MAX)?,
        limit: query.limit()?,
    })
}

async fn page(mut filter: Filter, store: &Store, show: fn(AuditRow) -> AuditRecord) -> Answer {
    let page = usize::try_from(filter.limit).unwrap_or(usize::MAX);
    filter.limit += 1;
    let mut rows = store.read(move |conn| audit_log::list(conn, &filter)).await?;
    let has_more = rows.len() > page;
    rows.truncate(page);
    Ok(HttpResponse::Ok().json(AuditLog { records: rows.into_iter().map(show).collect(), has_more }))
}
