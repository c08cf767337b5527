//! The objects of the management API, as they are answered. Their schemas in `/openapi.json` follow from them.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::auth::api_key::{KeyKind, preview};
use crate::billing::price;
use crate::conversation::agent::{self, Definition};
use crate::rate_limit::limits;
use crate::session::turns::TurnInfo;
use crate::store::account::AccountRow;
use crate::store::api_key::KeyRow;
use crate::store::session::SessionRow;
use crate::store::webhook::WebhookRow;
use crate::wire::native::requests::Limits;
use crate::wire::native::values::{Time, Usd};

/// What was stored as JSON text.
fn stored(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// An agent.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Agent {
    /// What clients name as `model`.
    id: String,
    account_id: String,
    created_at: Time,
    updated_at: Time,
    #[serde(flatten)]
    definition: Definition,
}

impl From<&agent::Agent> for Agent {
    fn from(agent: &agent::Agent) -> Self {
        Self {
            id: agent.id.to_string(),
            account_id: agent.account.to_string(),
            created_at: agent.created_at.into(),
            updated_at: agent.updated_at.into(),
            definition: agent.definition.clone(),
        }
    }
}

/// A page of agents.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AgentList {
    /// The agents of this page.
    pub agents: Vec<Agent>,
    /// How many there are in all.
    pub total: i64,
}

/// A key, without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Key {
    id: String,
    name: String,
    /// `agent` or `account`.
    kind: String,
    /// The secret's beginning and end.
    preview: String,
    agent_id: Option<String>,
    /// What the key may do; empty for an account key that may do everything.
    #[schemars(with = "Vec<String>")]
    scopes: Value,
    #[schemars(with = "Limits")]
    limits: Value,
    #[schemars(with = "Option<Budget>")]
    budget: Option<Value>,
    /// Whether it may stand in a web page.
    public: bool,
    created_at: Time,
    expires_at: Option<Time>,
}

/// What a key may spend in a period.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Budget {
    /// In USD.
    amount: Usd,
    /// `day`, `month` or `total`.
    period: String,
}

impl From<&KeyRow> for Key {
    fn from(row: &KeyRow) -> Self {
        let kind = KeyKind::named(&row.kind).unwrap_or(KeyKind::Agent);
        Self {
            id: row.key_id.clone(),
            name: row.name.clone(),
            kind: row.kind.clone(),
            preview: preview(kind, &row.last_four),
            agent_id: row.agent_id.clone(),
            scopes: stored(&row.scopes),
            limits: stored(&row.limits),
            budget: row.budget.as_deref().map(stored),
            public: row.public,
            created_at: row.created_at.into(),
            expires_at: row.expires_at.map(Time::from),
        }
    }
}

/// A key just made, with its secret this once.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MadeKey {
    #[serde(flatten)]
    object: Key,
    /// The secret. It is not shown again.
    key: String,
}

impl MadeKey {
    /// The key of `row`.
    pub fn new(row: &KeyRow, secret: &str) -> Self {
        Self { object: row.into(), key: secret.to_owned() }
    }
}

/// Keys, each without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyList {
    /// The oldest first.
    pub api_keys: Vec<Key>,
}

/// What an account has.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Balance {
    /// Always `USD`.
    currency: &'static str,
    /// What may be spent now.
    available: Usd,
    /// What is set aside for calls that run.
    held: Usd,
    /// Both together.
    balance: Usd,
}

impl From<&AccountRow> for Balance {
    fn from(row: &AccountRow) -> Self {
        Self {
            currency: "USD",
            available: row.available.into(),
            held: row.held.into(),
            balance: row.available.saturating_add(row.held).into(),
        }
    }
}

/// An account, as its operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Account {
    id: String,
    name: String,
    /// `active`, `suspended` or `closed`.
    status: String,
    #[schemars(with = "Limits")]
    limits: Value,
    agent_count: i64,
    session_count: i64,
    /// Sessions idle for longer are deleted; null for never.
    retention_days: Option<i64>,
    created_at: Time,
    #[serde(flatten)]
    balance: Balance,
}

impl From<&AccountRow> for Account {
    fn from(row: &AccountRow) -> Self {
        Self {
            id: row.account_id.clone(),
            name: row.name.clone(),
            status: row.state().to_owned(),
            limits: limits::Limits::stored(&row.limits).to_json(),
            agent_count: row.agent_count,
            session_count: row.session_count,
            retention_days: row.retention_days,
            created_at: row.created_at.into(),
            balance: row.into(),
        }
    }
}

/// An account, as it sees itself.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OwnAccount {
    id: String,
    name: String,
    /// `active` or `suspended`.
    status: String,
    agent_count: i64,
    session_count: i64,
    /// Sessions idle for longer are deleted; null for never.
    retention_days: Option<i64>,
    created_at: Time,
}

impl From<&AccountRow> for OwnAccount {
    fn from(row: &AccountRow) -> Self {
        Self {
            id: row.account_id.clone(),
            name: row.name.clone(),
            status: row.status.clone(),
            agent_count: row.agent_count,
            session_count: row.session_count,
            retention_days: row.retention_days,
            created_at: row.created_at.into(),
        }
    }
}

/// An account just made, with its first key this once.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MadeAccount {
    #[serde(flatten)]
    account: Account,
    /// The secret of its first account key. It is not shown again.
    key: String,
}

impl MadeAccount {
    /// The account of `row`.
    pub fn new(row: &AccountRow, secret: String) -> Self {
        Self { account: row.into(), key: secret }
    }
}

/// A page of accounts.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AccountList {
    /// The accounts of this page.
    pub accounts: Vec<Account>,
    /// How many there are in all.
    pub total: i64,
}

/// A webhook, without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Webhook {
    id: String,
    url: String,
    /// What it is told.
    #[schemars(with = "Vec<String>")]
    events: Value,
    /// The thresholds of `balance.low`, the highest first.
    balance_low: Vec<Usd>,
    created_at: Time,
}

impl From<&WebhookRow> for Webhook {
    fn from(row: &WebhookRow) -> Self {
        Self {
            id: row.id.clone(),
            url: row.url.clone(),
            events: stored(&row.events),
            balance_low: row.thresholds().into_iter().map(Usd::from).collect(),
            created_at: row.created_at.into(),
        }
    }
}

/// A webhook just made, with its secret this once.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MadeWebhook {
    #[serde(flatten)]
    webhook: Webhook,
    /// What its requests are signed with. It is not shown again.
    secret: String,
}

impl MadeWebhook {
    /// The webhook of `row`.
    pub fn new(row: &WebhookRow, secret: String) -> Self {
        Self { webhook: row.into(), secret }
    }
}

/// The webhooks of an account.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WebhookList {
    /// The oldest first.
    pub webhooks: Vec<Webhook>,
}

/// A row of the price list. In USD per million tokens, `per_request` in USD.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Price {
    id: String,
    model: String,
    input: Usd,
    cached_input: Usd,
    output: Usd,
    per_request: Usd,
    effective_from: Time,
}

impl From<&price::Price> for Price {
    fn from(price: &price::Price) -> Self {
        Self {
            id: price.id.to_string(),
            model: price.model.clone(),
            input: price.input.into(),
            cached_input: price.cached_input.into(),
            output: price.output.into(),
            per_request: price.per_request.into(),
            effective_from: price.effective_from.into(),
        }
    }
}

/// Rows of the price list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PriceList {
    /// Rows are added and never changed.
    pub prices: Vec<Price>,
}

/// The price that was set, or all that were.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum SetPrices {
    /// One was sent.
    One(Price),
    /// A list was sent.
    Many(PriceList),
}

/// A session.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Session {
    /// Unique in its account and agent.
    id: String,
    agent_id: String,
    /// What the user said first, in short, unless it was set.
    title: Option<String>,
    /// The tenant's own notes.
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    metadata: Value,
    /// `active` or `archived`.
    status: String,
    message_count: i64,
    created_at: Time,
    updated_at: Time,
}

impl From<&SessionRow> for Session {
    fn from(row: &SessionRow) -> Self {
        Self {
            id: row.name.clone(),
            agent_id: row.agent_id.clone(),
            title: row.title.clone(),
            metadata: stored(row.metadata.as_deref().unwrap_or("{}")),
            status: row.status.clone(),
            message_count: row.head,
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
        }
    }
}

/// A running turn.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunningTurn {
    /// The completion's id.
    id: String,
    session_id: String,
    account_id: String,
    agent_id: String,
    key_id: String,
    stream: bool,
    /// How many read it now.
    readers: usize,
    /// What of its events is in memory.
    kept_bytes: usize,
    started_at: Time,
}

impl From<&(TurnInfo, usize, usize)> for RunningTurn {
    fn from((turn, readers, kept): &(TurnInfo, usize, usize)) -> Self {
        Self {
            id: turn.completion.to_string(),
            session_id: turn.session.to_string(),
            account_id: turn.account.to_string(),
            agent_id: turn.agent.to_string(),
            key_id: turn.key.to_string(),
            stream: turn.stream,
            readers: *readers,
            kept_bytes: *kept,
            started_at: turn.started_at.into(),
        }
    }
}

/// The turns that run.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunningTurns {
    /// The oldest first.
    pub streams: Vec<RunningTurn>,
}

/// A turn that was cancelled, or had ended before.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CancelledTurn {
    /// The completion's id.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// `cancelled`, or how it had ended before: `completed`, `interrupted` or `failed`; `in_progress` if it takes long
    /// to end.
    pub status: &'static str,
    /// Whose turn it was.
    pub agent_id: String,
    /// Where.
    pub session_id: String,
}

/// Whether the server reaches its database.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Health {
    /// `healthy` or `unhealthy`.
    pub status: &'static str,
    /// Of the server.
    pub version: &'static str,
    /// `ok` or `unavailable`.
    pub database: &'static str,
    /// Seconds since the start.
    pub uptime: u64,
}

/// A probe's answer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Probe {
    /// `ok`, `ready` or `draining`.
    pub status: &'static str,
}
