//! Where the money went.

use schemars::JsonSchema;
use serde::Serialize;

use crate::store::ledger_entry::{ChargeRow, EntryRow};
use crate::store::usage_record::UsageSum;
use crate::store::verify::Report;
use crate::wire::native::values::{Time, Usd};

/// An entry of the ledger.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Entry {
    /// Its place in the account's ledger, from 1.
    seq: i64,
    /// `grant`, `topup`, `charge`, `refund`, `adjust` or `expire`.
    kind: String,
    /// The movement, signed.
    delta: Usd,
    /// The account's balance after it.
    balance_after: Usd,
    created_at: Time,
    /// What the payment is called elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    external_ref: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl From<&EntryRow> for Entry {
    fn from(row: &EntryRow) -> Self {
        Self {
            seq: row.seq,
            kind: row.kind.clone(),
            delta: row.delta.into(),
            balance_after: row.balance_after.into(),
            created_at: row.created_at.into(),
            external_ref: row.external_ref.clone(),
            note: row.note.clone(),
        }
    }
}

/// An entry that an operator just made.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PostedEntry {
    #[serde(flatten)]
    entry: Entry,
    account_id: String,
}

impl From<&EntryRow> for PostedEntry {
    fn from(row: &EntryRow) -> Self {
        Self { entry: row.into(), account_id: row.account_id.clone() }
    }
}

/// What a charge was for.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Charge {
    request_id: String,
    completion_id: String,
    session_id: String,
    agent_id: String,
    key_id: String,
    /// The provider's name of the model.
    model: String,
    prompt_tokens: i64,
    cached_tokens: i64,
    output_tokens: i64,
}

impl From<&ChargeRow> for Charge {
    fn from(row: &ChargeRow) -> Self {
        Self {
            request_id: row.request_id.clone(),
            completion_id: row.completion_id.clone(),
            session_id: row.session_id.clone(),
            agent_id: row.agent_id.clone(),
            key_id: row.key_id.clone(),
            model: row.model.clone(),
            prompt_tokens: row.prompt,
            cached_tokens: row.cached,
            output_tokens: row.output,
        }
    }
}

/// An entry of the ledger; a charge with what it was for.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Transaction {
    #[serde(flatten)]
    entry: Entry,
    #[serde(flatten)]
    charge: Option<Charge>,
}

impl Transaction {
    /// The entry of `row`.
    pub fn new(row: &EntryRow, charge: Option<&ChargeRow>) -> Self {
        Self { entry: row.into(), charge: charge.map(Charge::from) }
    }
}

/// A page of the ledger.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TransactionList {
    /// The newest first.
    pub transactions: Vec<Transaction>,
    /// Whether there are older ones.
    pub has_more: bool,
}

/// A sum of usage.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UsageRow {
    /// The agent, key, model or day.
    group: String,
    requests: i64,
    prompt_tokens: i64,
    cached_tokens: i64,
    output_tokens: i64,
    cost: Usd,
}

impl From<&UsageSum> for UsageRow {
    fn from(sum: &UsageSum) -> Self {
        Self {
            group: sum.grouped.clone(),
            requests: sum.requests,
            prompt_tokens: sum.prompt_tokens,
            cached_tokens: sum.cached_tokens,
            output_tokens: sum.output_tokens,
            cost: sum.charges.into(),
        }
    }
}

/// Sums of usage between two moments.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UsageReport {
    /// From this moment on.
    pub from: Time,
    /// Up to this moment.
    pub to: Time,
    /// A row a group.
    pub usage: Vec<UsageRow>,
}

/// Whether the books are right.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Verdict {
    /// Whether everything agrees.
    ok: bool,
    /// What has to hold, by its name.
    invariants: serde_json::Map<String, serde_json::Value>,
}

impl From<&Report> for Verdict {
    fn from(report: &Report) -> Self {
        let one = |check: &crate::store::verify::Check| {
            let found = serde_json::json!({"violations": check.violations, "rows": check.rows});
            (check.name.clone(), found)
        };
        Self { ok: report.ok, invariants: report.checks.iter().map(one).collect() }
    }
}
