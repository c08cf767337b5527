//! What the management API takes. The calls read their fields one by one, so that an error names the field; these
//! types say in `/openapi.json` which fields there are. A test sends each of them.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::rate_limit::limits::MAX_LIMIT;

/// A decimal string in USD, with at most nine places.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = r"^[0-9]{1,9}(\.[0-9]{1,9})?$", "examples" = ["5.00"]))]
pub struct Amount(pub String);

/// A decimal string in USD, with at most nine places; below nothing with a minus in front.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = r"^-?[0-9]{1,9}(\.[0-9]{1,9})?$", "examples" = ["-1.00"]))]
pub struct SignedAmount(pub String);

/// Limits: each a number, null for none, or absent for what stands above it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Chats in a minute.
    #[schemars(range(min = 1, max = MAX_LIMIT), skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompt and answer in a minute.
    #[schemars(range(min = 1, max = MAX_LIMIT), skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Chats at the same time.
    #[schemars(range(min = 1, max = MAX_LIMIT), skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// All other calls in a minute.
    #[schemars(range(min = 1, max = MAX_LIMIT), skip_serializing_if = "Option::is_none")]
    pub management_per_minute: Option<u64>,
}

/// The most that a key may spend in a period.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct BudgetSet {
    /// In USD.
    pub amount: Amount,
    /// How often it begins anew, in UTC.
    pub period: BudgetPeriod,
}

/// How often a budget begins anew.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum BudgetPeriod {
    Day,
    Month,
    Total,
}

/// What a key may do.
#[derive(Debug, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum Scope {
    #[serde(rename = "chat")]
    Chat,
    #[serde(rename = "sessions:read")]
    SessionsRead,
    #[serde(rename = "usage:read")]
    UsageRead,
}

/// A new agent's key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAgentKey {
    /// For people.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// A time to come.
    #[schemars(extend("format" = "date-time"))]
    pub expires_at: Option<String>,
    /// Narrower than the account's.
    pub limits: Option<Limits>,
    /// What it may spend.
    pub budget: Option<BudgetSet>,
    /// What it may do; without them, chat.
    #[schemars(length(min = 1))]
    pub scopes: Option<Vec<Scope>>,
    /// Whether it may stand in a web page.
    #[serde(default)]
    pub public: bool,
}

/// A new account key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccountKey {
    /// For people.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// A time to come.
    #[schemars(extend("format" = "date-time"))]
    pub expires_at: Option<String>,
    /// Narrower than the account's.
    pub limits: Option<Limits>,
    /// What it may spend.
    pub budget: Option<BudgetSet>,
    /// What it may do; without them, everything.
    #[schemars(length(min = 1))]
    pub scopes: Option<Vec<Scope>>,
}

/// Changes of an agent's key: absent fields stay, null clears.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyChange {
    /// For people.
    #[schemars(length(max = 256))]
    pub name: Option<String>,
    /// A time to come.
    #[schemars(extend("format" = "date-time"))]
    pub expires_at: Option<String>,
    /// In the place of the former ones, as a whole.
    pub limits: Option<Limits>,
    /// What it may spend.
    pub budget: Option<BudgetSet>,
    /// What it may do; null for chat.
    #[schemars(length(min = 1))]
    pub scopes: Option<Vec<Scope>>,
    /// Whether it may stand in a web page.
    #[serde(default)]
    pub public: bool,
}

/// A new session.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// Whose it is to be.
    #[schemars(length(min = 1, max = 64))]
    pub agent_id: String,
    /// What to call it; a random name by default.
    pub session_id: Option<SessionName>,
    /// What people see; by default what the user says first, in short.
    pub title: Option<Title>,
    /// Notes of your own, by which it can be found.
    pub metadata: Option<Notes>,
}

/// A name for a session.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = r"^[A-Za-z0-9_.:-]{1,128}$", "examples" = ["ada:1"]))]
pub struct SessionName(pub String);

/// A title of at most 256 bytes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("maxLength" = 64, "examples" = ["The weather"]))]
pub struct Title(pub String);

/// At most 16 strings, their names up to 64 and they up to 512 characters long.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend(
    "maxProperties" = 16,
    "propertyNames" = serde_json::json!({"maxLength": 64}),
    "additionalProperties" = serde_json::json!({"type": "string", "maxLength": 512}),
    "examples" = [serde_json::json!({"user": "42"})]
))]
pub struct Notes(pub std::collections::BTreeMap<String, String>);

/// Changes of a session: absent fields stay, null clears title and notes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionChange {
    /// An archived one takes no more turns.
    pub status: Option<SessionStatus>,
    /// What people see.
    pub title: Option<Title>,
    /// In the place of the former ones, as a whole.
    pub metadata: Option<Notes>,
}

/// A session that has the beginning of another.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionFork {
    /// The last message that it has; by default the last one that there is.
    pub message_id: Option<MessageId>,
    /// What to call it; a random name by default.
    pub session_id: Option<SessionName>,
    /// The other's by default.
    pub title: Option<Title>,
    /// The other's by default.
    pub metadata: Option<Notes>,
}

/// What of a session stays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionCut {
    /// The last message that stays; null for none.
    #[schemars(required)]
    pub after: Option<MessageId>,
}

/// The id of a message.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = "^msg_[1-9][0-9]{0,17}$", "examples" = ["msg_12"]))]
pub struct MessageId(pub String);

/// Changes of one's own account: absent fields stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnAccountChange {
    /// Sessions idle for longer are deleted for good; null for never.
    #[schemars(range(min = 1, max = 36_500))]
    pub retention_days: Option<i64>,
}

/// States of a session.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum SessionStatus {
    Active,
    Archived,
}

/// A new webhook.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// http or https, in the public internet.
    #[schemars(length(min = 1, max = 2048), extend("format" = "uri"))]
    pub url: String,
    /// What it wants to be told; without them, everything.
    #[schemars(length(min = 1))]
    pub events: Option<Vec<EventName>>,
    /// Thresholds of `balance.low`, in USD, above 0.
    #[schemars(length(max = 10))]
    pub balance_low: Option<Vec<Amount>>,
}

/// A key for a provider, or a provider of one's own.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct NewOwnProvider {
    /// Kept sealed, never shown again.
    #[schemars(length(min = 1, max = 1024))]
    pub api_key: String,
    /// http or https, in the public internet; up to and with the version.
    #[schemars(length(min = 1, max = 2048), extend("format" = "uri"))]
    pub base_url: Option<String>,
}

/// What a webhook can be told.
#[derive(Debug, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum EventName {
    #[serde(rename = "balance.low")]
    BalanceLow,
    #[serde(rename = "balance.exhausted")]
    BalanceExhausted,
    #[serde(rename = "budget.exceeded")]
    BudgetExceeded,
}

/// A new account.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// For people.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// What it starts with.
    pub balance: Option<Amount>,
    /// Its own limits.
    pub limits: Option<Limits>,
}

/// Changes of an account: absent fields stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountChange {
    /// A suspended one may not chat.
    pub status: Option<AccountStatus>,
    /// In the place of the former ones, as a whole; null for the server's.
    pub limits: Option<Limits>,
    /// Sessions idle for longer are deleted for good; null for never.
    #[schemars(range(min = 1, max = 36_500))]
    pub retention_days: Option<i64>,
}

/// States of an account.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum AccountStatus {
    Active,
    Suspended,
}

/// Money that was paid.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credit {
    /// More than nothing.
    pub amount: Amount,
    /// What the payment is called elsewhere. The same twice is one credit.
    #[schemars(length(min = 1, max = 256))]
    pub external_ref: String,
    /// For people.
    #[schemars(length(max = 4096))]
    pub note: Option<String>,
}

/// A correction.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adjustment {
    /// More or less than nothing.
    pub amount: SignedAmount,
    /// Why.
    #[schemars(length(min = 1, max = 4096))]
    pub note: String,
}

/// What a model costs from a moment on. In USD per million tokens, `per_request` in USD.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrice {
    /// As agents name it: `provider/model`, or bare.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// Of the prompt.
    pub input: Amount,
    /// Of the answer.
    pub output: Amount,
    /// Of what the provider had in its cache; without it, as `input`.
    pub cached_input: Option<Amount>,
    /// Of each call.
    pub per_request: Option<Amount>,
    /// Not in the past; without it, now.
    #[schemars(extend("format" = "date-time"))]
    pub effective_from: Option<String>,
}

/// Prices, all or none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPriceList {
    /// At most 1,000.
    #[schemars(length(min = 1, max = 1000))]
    pub prices: Vec<NewPrice>,
}

/// One price, or a list of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum NewPrices {
    /// One.
    One(NewPrice),
    /// Several.
    Many(NewPriceList),
}

/// One message to an agent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentMessage {
    /// What to say.
    #[schemars(length(min = 1))]
    pub message: String,
    /// Which conversation; without it, a new one.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.:-]{1,128}$"))]
    pub session_id: Option<String>,
    /// Whether the answer is streamed.
    pub stream: Option<bool>,
    /// Notes of your own. They are kept with the answer and not sent to the provider.
    pub metadata: Option<Map<String, Value>>,
}
