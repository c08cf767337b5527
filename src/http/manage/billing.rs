//! What a tenant may see of its money.

use actix_web::{HttpResponse, web};

use crate::clock;
use crate::error::{Error, Invalid};
use crate::http::access::MoneyReader;
use crate::http::csv;
use crate::http::error::ApiError;
use crate::http::query::Query;
use crate::store::usage_record::GroupBy;
use crate::store::{self, Store};
use crate::wire::native::ledger::{Transaction, TransactionList, UsageReport, UsageRow};
use crate::wire::native::objects::Balance;

type Answer = Result<HttpResponse, ApiError>;

/// What a usage report covers where nothing is said, in days.
const DEFAULT_DAYS: i64 = 30;

const TRANSACTION_COLUMNS: [&str; 16] = [
    "seq",
    "created_at",
    "kind",
    "delta",
    "balance_after",
    "request_id",
    "completion_id",
    "session_id",
    "agent_id",
    "key_id",
    "model",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "external_ref",
    "note",
];
const USAGE_COLUMNS: [&str; 6] =
    ["group", "requests", "prompt_tokens", "cached_tokens", "output_tokens", "cost"];

fn csv_wanted(query: &Query) -> Result<bool, Invalid> {
    match query.text("format") {
        None | Some("json") => Ok(false),
        Some("csv") => Ok(true),
        Some(_) => Err(Invalid::value("format", "expected json or csv")),
    }
}

/// `GET /v2/billing/balance`.
pub async fn balance(reader: MoneyReader, store: web::Data<Store>) -> Answer {
    let owner = reader.account.clone();
    let row = store.read(move |conn| store::account::find(conn, owner.as_str())).await?;
    let row = row.ok_or(Error::NotFound("the account"))?;
    Ok(HttpResponse::Ok().json(Balance::from(&row)))
}

/// `GET /v2/billing/transactions`.
pub async fn transactions(reader: MoneyReader, query: Query, store: web::Data<Store>) -> Answer {
    let (limit, after) = (query.limit()?, query.number("after", 1..=i64::MAX)?);
    let owner = reader.account.clone();
    let mut rows =
        store.read(move |conn| store::ledger_entry::list(conn, owner.as_str(), after, limit + 1)).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > page;
    rows.truncate(page);
    let transactions: Vec<_> =
        rows.iter().map(|(row, charge)| Transaction::new(row, charge.as_ref())).collect();
    if csv_wanted(&query)? {
        return Ok(csv::respond(&TRANSACTION_COLUMNS, &transactions));
    }
    Ok(HttpResponse::Ok().json(TransactionList { transactions, has_more }))
}

/// `GET /v2/usage`.
pub async fn usage(reader: MoneyReader, query: Query, store: web::Data<Store>) -> Answer {
    let to = query.time("to")?.unwrap_or_else(clock::now_ms);
    let from = query.time("from")?.unwrap_or(to - DEFAULT_DAYS * 86_400_000);
    if from > to {
        return Err(Invalid::value("from", "expected a time before `to`").into());
    }
    let by = match query.text("group_by") {
        Some("agent") => GroupBy::Agent,
        Some("key") => GroupBy::Key,
        Some("model") => GroupBy::Model,
        None | Some("day") => GroupBy::Day,
        Some(_) => return Err(Invalid::value("group_by", "expected agent, key, model or day").into()),
    };
    let owner = reader.account.clone();
    let sums =
        store.read(move |conn| store::usage_record::sums(conn, owner.as_str(), (from, to), by)).await?;
    let usage: Vec<_> = sums.iter().map(UsageRow::from).collect();
    if csv_wanted(&query)? {
        return Ok(csv::respond(&USAGE_COLUMNS, &usage));
    }
    Ok(HttpResponse::Ok().json(UsageReport { from: from.into(), to: to.into(), usage }))
}
