//! What was said, as its owner reads it.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::clock::rfc3339;
use crate::store::message::MessageRow;
use crate::store::session::SessionRow;
use crate::store::session_summary::SummaryRow;
use crate::wire::native::objects::Session;
use crate::wire::native::values::{Time, Usd};

/// The id of a message, which is unique in its session.
pub fn message_id(seq: i64) -> String {
    format!("msg_{seq}")
}

/// The number in a message's id.
pub fn message_seq(id: &str) -> Option<i64> {
    id.strip_prefix("msg_")?.parse().ok().filter(|seq| *seq > 0)
}

/// A message with what its turn came to.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Message {
    id: String,
    role: Value,
    /// Text, or a list of content parts.
    content: Value,
    #[schemars(with = "Time")]
    created_at: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    name: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    tool_calls: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    tool_call_id: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    refusal: Value,
    /// `complete` or `incomplete`; on answers of a turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    /// The caller's own notes on the turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<MessageUsage>,
    /// For keys that see money.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Usd>,
}

/// The tokens of a turn.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MessageUsage {
    prompt_tokens: i64,
    completion_tokens: i64,
    total_tokens: i64,
}

impl From<(i64, i64)> for MessageUsage {
    fn from((prompt, output): (i64, i64)) -> Self {
        Self { prompt_tokens: prompt, completion_tokens: output, total_tokens: prompt + output }
    }
}

impl Message {
    /// The message of `row`, with its cost if the key sees `money`.
    ///
    /// # Errors
    /// When what is stored is no JSON.
    pub fn new(row: &MessageRow, money: bool) -> serde_json::Result<Self> {
        let body = body(row)?;
        let field = |name: &str| body[name].clone();
        let mut message = Self {
            id: message_id(row.seq),
            role: field("role"),
            content: field("content"),
            created_at: rfc3339(row.created_at),
            name: field("name"),
            tool_calls: field("tool_calls"),
            tool_call_id: field("tool_call_id"),
            refusal: field("refusal"),
            ..Self::default()
        };
        let Some(answer) = &row.answer else { return Ok(message) };
        message.status = Some(answer.status.clone());
        message.metadata = answer.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok());
        message.usage = answer.prompt.zip(answer.output).map(MessageUsage::from);
        message.cost = answer.charged.filter(|_| money).map(Usd::from);
        Ok(message)
    }
}

fn body(row: &MessageRow) -> serde_json::Result<Value> {
    let body = serde_json::from_str::<Map<String, Value>>(&row.body);
    let named = |cause: serde_json::Error| serde::de::Error::custom(format!("message {}: {cause}", row.seq));
    body.map(Value::Object).map_err(named)
}

/// A message with everything that there is of it: a line of an export.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ExportedMessage {
    session_id: String,
    agent_id: String,
    #[serde(flatten)]
    message: Message,
    /// On answers of a turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_id: Option<String>,
    /// What else was sent or received.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl ExportedMessage {
    /// The message of `row`, which `session` has.
    ///
    /// # Errors
    /// When what is stored is no JSON.
    pub fn new(session: &SessionRow, row: &MessageRow, money: bool) -> serde_json::Result<Self> {
        /// Names that the line has already.
        const TAKEN: [&str; 14] = [
            "session_id",
            "agent_id",
            "completion_id",
            "id",
            "role",
            "content",
            "created_at",
            "name",
            "tool_calls",
            "tool_call_id",
            "refusal",
            "status",
            "usage",
            "cost",
        ];
        let mut rest: Map<String, Value> = serde_json::from_value(body(row)?)?;
        rest.retain(|name, _| !TAKEN.contains(&name.as_str()) && name != "metadata");
        Ok(Self {
            session_id: session.name.clone(),
            agent_id: session.agent_id.clone(),
            message: Message::new(row, money)?,
            completion_id: row.answer.as_ref().map(|answer| answer.completion_id.clone()),
            rest,
        })
    }
}

/// A page of messages.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MessageList {
    /// The oldest of the page first.
    pub messages: Vec<Message>,
    /// Whether there are older ones.
    pub has_more: bool,
    /// What stands for the oldest ones in prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// What stands for the beginning of a long conversation in its prompts.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Summary {
    content: String,
    /// The last message that it stands for.
    upto: String,
    created_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<MessageUsage>,
    /// For keys that see money.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Usd>,
}

impl Summary {
    /// The summary of `row`, with its cost if the key sees `money`.
    pub fn new(row: &SummaryRow, money: bool) -> Self {
        Self {
            content: row.body.clone(),
            upto: message_id(row.upto),
            created_at: row.created_at.into(),
            usage: row.prompt.zip(row.output).map(MessageUsage::from),
            cost: row.charged.filter(|_| money).map(Usd::from),
        }
    }
}

/// A session by itself.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WholeSession {
    #[serde(flatten)]
    session: Session,
    /// What stands for its oldest messages in prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

impl WholeSession {
    /// The session of `row`.
    pub fn new(row: &SessionRow, summary: Option<Summary>) -> Self {
        Self { session: row.into(), summary }
    }
}

/// A session with its messages.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Chat {
    #[serde(flatten)]
    session: Session,
    /// The oldest first.
    messages: Vec<ChatMessage>,
    /// Older messages are left out because the answer would be too large; `/v2/sessions/{id}/messages` has them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    /// In a list: what is stored of it cannot be read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
}

/// A message, in short.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatMessage {
    role: Value,
    /// Text, or a list of content parts.
    content: Value,
    timestamp: Time,
}

impl Chat {
    /// The session of `row` with these messages, the newest that it has; `truncated` if there was no room for more.
    ///
    /// # Errors
    /// When what is stored is no JSON.
    pub fn new(row: &SessionRow, messages: &[MessageRow], truncated: bool) -> serde_json::Result<Self> {
        let short = |message: &MessageRow| {
            let body = body(message)?;
            Ok(ChatMessage {
                role: body["role"].clone(),
                content: body["content"].clone(),
                timestamp: message.created_at.into(),
            })
        };
        let messages = messages.iter().map(short).collect::<serde_json::Result<_>>()?;
        Ok(Self { session: row.into(), messages, truncated, damaged: false })
    }

    /// The session of `row`, whose messages cannot be read.
    pub fn damaged(row: &SessionRow) -> Self {
        Self { session: row.into(), messages: Vec::new(), truncated: false, damaged: true }
    }
}

/// A page of sessions with their messages.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatList {
    /// The newest first.
    pub chats: Vec<Chat>,
    /// How many sessions the account has; null under a filter and for an agent's key.
    pub total: Option<i64>,
}
