//! Queries on `webhook` and `webhook_delivery`: who is to be told what, and what is still to be told.
//!
//! A notice is written in the transaction that makes it true, so neither exists without the other.

use std::collections::BTreeMap;
use std::ops::Range;

use diesel::prelude::*;
use serde_json::{Value, json};

use crate::billing::money::Nanos;
use crate::clock::EpochMs;
use crate::error::{Error, Invalid};
use crate::store::audit_log::{self, Action, By, Deed};
use crate::store::schema::{account, api_key, key_budget, webhook, webhook_delivery};
use crate::store::writer::WriteError;
use crate::webhook::event::{Event, Kind};

/// Webhooks that an account may have.
pub const MAX_WEBHOOKS: i64 = 10;
/// Notices that may wait for one webhook; what comes beyond is lost, and the log says so.
const MAX_WAITING: i64 = 1_000;

/// A webhook, as stored.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = crate::store::schema::webhook)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct WebhookRow {
    pub id: String,
    pub account_id: String,
    pub url: String,
    pub events: String,
    pub balance_low: String,
    pub created_at: i64,
}

impl WebhookRow {
    /// Whether it wants events of that kind.
    pub fn wants(&self, kind: Kind) -> bool {
        let kinds: Vec<&str> = serde_json::from_str(&self.events).unwrap_or_default();
        kinds.contains(&kind.as_str())
    }

    /// The balances whose crossing it is told of.
    pub fn thresholds(&self) -> Vec<Nanos> {
        let stored: Vec<i64> = serde_json::from_str(&self.balance_low).unwrap_or_default();
        stored.into_iter().map(Nanos).collect()
    }
}

impl WebhookRow {
    /// What is done to it, for the audit log. Of its URL the beginning alone: what follows may be a secret.
    pub fn deed(&self, action: Action) -> Deed<'_> {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        let thresholds: Vec<_> = self.thresholds().iter().map(ToString::to_string).collect();
        let seen = json!({
            "id": self.id,
            "url": format!("{scheme}://{host}/…"),
            "events": serde_json::from_str::<Value>(&self.events).unwrap_or_default(),
            "balance_low": thresholds,
        });
        let (before, after) =
            if action == Action::WebhookDelete { (Some(seen), None) } else { (None, Some(seen)) };
        Deed { action, account: Some(&self.account_id), object: &self.id, before, after }
    }
}

/// The webhooks of an account, oldest first.
pub fn list(conn: &mut SqliteConnection, owner: &str) -> QueryResult<Vec<WebhookRow>> {
    webhook::table
        .filter(webhook::account_id.eq(owner))
        .order((webhook::created_at, webhook::id))
        .select(WebhookRow::as_select())
        .load(conn)
}

/// Whether anybody has a webhook.
pub fn any(conn: &mut SqliteConnection) -> QueryResult<bool> {
    diesel::select(diesel::dsl::exists(webhook::table.select(webhook::id))).get_result(conn)
}

/// Adds a webhook, unless the account has [`MAX_WEBHOOKS`].
pub fn insert(conn: &mut SqliteConnection, row: &WebhookRow) -> Result<(), WriteError> {
    let own = webhook::table.filter(webhook::account_id.eq(&row.account_id));
    if own.count().get_result::<i64>(conn)? >= MAX_WEBHOOKS {
        let message = format!("an account has at most {MAX_WEBHOOKS} webhooks; delete one first");
        return Err(Error::from(Invalid { param: None, code: "invalid_value", message }).into());
    }
    diesel::insert_into(webhook::table).values(row).execute(conn)?;
    Ok(())
}

/// Deletes a webhook of `owner` with what it was still to be told; `false` if there is none.
pub fn delete(conn: &mut SqliteConnection, owner: &str, id: &str) -> QueryResult<bool> {
    let own = webhook::table.find(id).filter(webhook::account_id.eq(owner));
    Ok(diesel::delete(own).execute(conn)? == 1)
}

/// Deletes an account's webhooks with what they were still to be told.
pub fn delete_of_account(conn: &mut SqliteConnection, owner: &str) -> QueryResult<()> {
    diesel::delete(webhook::table.filter(webhook::account_id.eq(owner))).execute(conn).map(drop)
}

/// Deletes a webhook whose receiver wants no more.
pub fn delete_gone(conn: &mut SqliteConnection, id: &str) -> QueryResult<()> {
    let row = webhook::table.find(id).select(WebhookRow::as_select()).get_result(conn).optional()?;
    let Some(row) = row else { return Ok(()) };
    delete(conn, &row.account_id, id)?;
    audit_log::record(conn, &By::server(), &row.deed(Action::WebhookDelete))
}

fn wanting(conn: &mut SqliteConnection, owner: &str, kind: Kind) -> QueryResult<Vec<WebhookRow>> {
    let mut rows = list(conn, owner)?;
    rows.retain(|row| row.wants(kind));
    Ok(rows)
}

/// The balance fell from the range's start to its end: tells who wants to know of a threshold in between.
pub fn balance_fell(
    conn: &mut SqliteConnection,
    owner: &str,
    balance: Range<i64>,
    available: Nanos,
    now: EpochMs,
) -> QueryResult<()> {
    let rows = wanting(conn, owner, Kind::BalanceLow)?;
    let mut crossed: BTreeMap<Nanos, Vec<&WebhookRow>> = BTreeMap::new();
    for row in &rows {
        for threshold in row.thresholds() {
            if balance.start > threshold.0 && threshold.0 >= balance.end {
                crossed.entry(threshold).or_default().push(row);
            }
        }
    }
    // The highest first, as they were crossed.
    for (threshold, rows) in crossed.into_iter().rev() {
        let after = Nanos(balance.end);
        tell(conn, rows, &Event::balance_low(owner, after, available, threshold, now), now)?;
    }
    Ok(())
}

/// There is new money: its lack may be told again.
pub fn replenished(conn: &mut SqliteConnection, owner: &str) -> QueryResult<()> {
    let told = account::table.find(owner).filter(account::exhausted_at.is_not_null());
    diesel::update(told).set(account::exhausted_at.eq(None::<i64>)).execute(conn).map(drop)
}

/// The balance does not cover what is needed. Told once until there is new money; whether it is told now.
pub fn exhausted(
    conn: &mut SqliteConnection,
    owner: &str,
    needed: Nanos,
    available: Nanos,
    now: EpochMs,
) -> QueryResult<bool> {
    let rows = wanting(conn, owner, Kind::BalanceExhausted)?;
    if rows.is_empty() {
        return Ok(false);
    }
    let untold = account::table.find(owner).filter(account::exhausted_at.is_null());
    if diesel::update(untold).set(account::exhausted_at.eq(Some(now))).execute(conn)? == 0 {
        return Ok(false);
    }
    tell(conn, &rows, &Event::balance_exhausted(owner, available, needed, now), now)?;
    Ok(true)
}

/// A key's budget does not cover what is needed. Told once in its period; whether it is told now.
pub fn budget_exceeded(
    conn: &mut SqliteConnection,
    owner: &str,
    key: &str,
    now: EpochMs,
) -> QueryResult<bool> {
    let rows = wanting(conn, owner, Kind::BudgetExceeded)?;
    if rows.is_empty() {
        return Ok(false);
    }
    let other = key_budget::told_period.ne(key_budget::period.nullable());
    let untold = key_budget::table.find(key).filter(key_budget::told_period.is_null().or(other));
    let told = key_budget::told_period.eq(key_budget::period.nullable());
    if diesel::update(untold).set(told).execute(conn)? == 0 {
        return Ok(false);
    }
    let budget: Option<Option<String>> =
        api_key::table.find(key).select(api_key::budget).get_result(conn).optional()?;
    let budget: Value =
        budget.flatten().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    tell(conn, &rows, &Event::budget_exceeded(owner, key, budget, now), now)?;
    Ok(true)
}

fn tell<'a>(
    conn: &mut SqliteConnection,
    rows: impl IntoIterator<Item = &'a WebhookRow>,
    event: &Event,
    now: EpochMs,
) -> QueryResult<()> {
    for row in rows {
        let own = webhook_delivery::table.filter(webhook_delivery::webhook_id.eq(&row.id));
        if own.count().get_result::<i64>(conn)? >= MAX_WAITING {
            tracing::warn!(webhook = %row.id, event = %event.id, "too much waits for a webhook; an event is lost");
            continue;
        }
        let values = (
            webhook_delivery::webhook_id.eq(&row.id),
            webhook_delivery::event_id.eq(event.id.as_str()),
            webhook_delivery::kind.eq(event.kind.as_str()),
            webhook_delivery::body.eq(&event.body),
            webhook_delivery::attempts.eq(0),
            webhook_delivery::next_at.eq(now),
            webhook_delivery::created_at.eq(now),
        );
        diesel::insert_into(webhook_delivery::table).values(values).execute(conn)?;
    }
    Ok(())
}

/// A notice whose time has come, and where it goes.
#[derive(Clone, Debug, Queryable)]
pub struct Due {
    /// The notice's row.
    pub id: i64,
    /// The webhook.
    pub webhook: String,
    /// What it is called: the same at each try.
    pub event: String,
    /// What it says.
    pub body: String,
    /// How often it was tried.
    pub attempts: i32,
    /// Where it goes.
    pub url: String,
}

/// The notices whose time has come, longest waiting first, without those of webhooks that are `busy`.
pub fn due(conn: &mut SqliteConnection, now: EpochMs, busy: &[String], limit: i64) -> QueryResult<Vec<Due>> {
    webhook_delivery::table
        .inner_join(webhook::table.on(webhook::id.eq(webhook_delivery::webhook_id)))
        .filter(webhook_delivery::next_at.le(now))
        .filter(webhook_delivery::webhook_id.ne_all(busy))
        .order((webhook_delivery::next_at, webhook_delivery::id))
        .limit(limit)
        .select((
            webhook_delivery::id,
            webhook_delivery::webhook_id,
            webhook_delivery::event_id,
            webhook_delivery::body,
            webhook_delivery::attempts,
            webhook::url,
        ))
        .load(conn)
}

/// Forgets a notice: it was delivered, or given up.
pub fn forget(conn: &mut SqliteConnection, id: i64) -> QueryResult<()> {
    diesel::delete(webhook_delivery::table.find(id)).execute(conn).map(drop)
}

/// Puts a notice off after a try that failed, and the webhook's others with it until `others_at`.
pub fn put_off(conn: &mut SqliteConnection, due: &Due, at: EpochMs, others_at: EpochMs) -> QueryResult<()> {
    let others = webhook_delivery::table
        .filter(webhook_delivery::webhook_id.eq(&due.webhook))
        .filter(webhook_delivery::next_at.lt(others_at));
    diesel::update(others).set(webhook_delivery::next_at.eq(others_at)).execute(conn)?;
    let tried = (webhook_delivery::attempts.eq(due.attempts + 1), webhook_delivery::next_at.eq(at));
    diesel::update(webhook_delivery::table.find(due.id)).set(tried).execute(conn).map(drop)
}
