//! The objects of the management API.

use serde_json::{Value, json};

use crate::auth::api_key::{KeyKind, preview};
use crate::billing::money::Nanos;
use crate::billing::price::Price;
use crate::clock::{EpochMs, rfc3339};
use crate::conversation::agent::Agent;
use crate::rate_limit::limits::Limits;
use crate::session::turns::TurnInfo;
use crate::store::account::AccountRow;
use crate::store::api_key::KeyRow;
use crate::store::ledger_entry::{ChargeRow, EntryRow};
use crate::store::session::{MessageRow, SessionRow};
use crate::store::usage_record::UsageSum;
use crate::store::webhook::WebhookRow;

fn time(at: Option<EpochMs>) -> Value {
    at.map(rfc3339).into()
}

/// Fields of `more` after those of `object`.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (object.as_object_mut(), more) {
        fields.extend(more);
    }
    object
}

/// An agent.
pub fn agent(agent: &Agent) -> Value {
    let definition = serde_json::to_value(&agent.definition).unwrap_or_default();
    let ids = json!({
        "id": agent.id.as_str(),
        "account_id": agent.account.as_str(),
        "created_at": rfc3339(agent.created_at),
        "updated_at": rfc3339(agent.updated_at),
    });
    with(ids, definition)
}

/// A key, without its secret.
pub fn key(row: &KeyRow) -> Value {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let kind = KeyKind::named(&row.kind).unwrap_or(KeyKind::Agent);
    json!({
        "id": row.key_id,
        "name": row.name,
        "kind": row.kind,
        "preview": preview(kind, &row.last_four),
        "agent_id": row.agent_id,
        "scopes": parsed(&row.scopes),
        "limits": parsed(&row.limits),
        "budget": row.budget.as_deref().map(parsed),
        "public": row.public,
        "created_at": rfc3339(row.created_at),
        "expires_at": time(row.expires_at),
    })
}

/// A key just made, with its secret this once.
pub fn new_key(row: &KeyRow, secret: &str) -> Value {
    with(key(row), json!({"key": secret}))
}

/// An account, as its operator sees it.
pub fn account(row: &AccountRow) -> Value {
    with(
        json!({
            "id": row.account_id,
            "name": row.name,
            "status": row.status,
            "limits": Limits::stored(&row.limits).to_json(),
            "agent_count": row.agent_count,
            "session_count": row.session_count,
            "created_at": rfc3339(row.created_at),
        }),
        balance(row),
    )
}

/// What an account has.
pub fn balance(row: &AccountRow) -> Value {
    json!({
        "currency": "USD",
        "available": Nanos(row.available).to_string(),
        "held": Nanos(row.held).to_string(),
        "balance": Nanos(row.available.saturating_add(row.held)).to_string(),
    })
}

/// An entry of the ledger.
pub fn entry(row: &EntryRow, charge: Option<&ChargeRow>) -> Value {
    let mut entry = json!({
        "seq": row.seq,
        "kind": row.kind,
        "delta": Nanos(row.delta).to_string(),
        "balance_after": Nanos(row.balance_after).to_string(),
        "created_at": rfc3339(row.created_at),
    });
    if let Some(reference) = &row.external_ref {
        entry["external_ref"] = json!(reference);
    }
    if let Some(note) = &row.note {
        entry["note"] = json!(note);
    }
    match charge {
        None => entry,
        Some(charge) => with(
            entry,
            json!({
                "request_id": charge.request_id,
                "completion_id": charge.completion_id,
                "session_id": charge.session_id,
                "agent_id": charge.agent_id,
                "key_id": charge.key_id,
                "model": charge.model,
                "prompt_tokens": charge.prompt,
                "cached_tokens": charge.cached,
                "output_tokens": charge.output,
            }),
        ),
    }
}

/// A sum of usage.
pub fn usage(sum: &UsageSum) -> Value {
    json!({
        "group": sum.grouped,
        "requests": sum.requests,
        "prompt_tokens": sum.prompt_tokens,
        "cached_tokens": sum.cached_tokens,
        "output_tokens": sum.output_tokens,
        "cost": Nanos(sum.charges).to_string(),
    })
}

/// A webhook, without its secret.
pub fn webhook(row: &WebhookRow) -> Value {
    let thresholds: Vec<String> = row.thresholds().iter().map(ToString::to_string).collect();
    json!({
        "id": row.id,
        "url": row.url,
        "events": serde_json::from_str::<Value>(&row.events).unwrap_or_default(),
        "balance_low": thresholds,
        "created_at": rfc3339(row.created_at),
    })
}

/// A webhook just made, with its secret this once.
pub fn new_webhook(row: &WebhookRow, secret: &str) -> Value {
    with(webhook(row), json!({"secret": secret}))
}

/// A row of the price list.
pub fn price(price: &Price) -> Value {
    json!({
        "id": price.id.as_str(),
        "model": price.model,
        "input": price.input.to_string(),
        "cached_input": price.cached_input.to_string(),
        "output": price.output.to_string(),
        "per_request": price.per_request.to_string(),
        "effective_from": rfc3339(price.effective_from),
    })
}

/// A session.
pub fn session(row: &SessionRow) -> Value {
    json!({
        "id": row.name,
        "agent_id": row.agent_id,
        "status": row.status,
        "message_count": row.head,
        "created_at": rfc3339(row.created_at),
        "updated_at": rfc3339(row.updated_at),
    })
}

/// The id of a message, which is unique in its session.
pub fn message_id(seq: i64) -> String {
    format!("msg_{seq}")
}

/// The number in a message's id.
pub fn message_seq(id: &str) -> Option<i64> {
    id.strip_prefix("msg_")?.parse().ok().filter(|seq| *seq > 0)
}

/// A message with what its turn came to.
pub fn message(row: &MessageRow, money: bool) -> Value {
    let body: Value = serde_json::from_str(&row.body).unwrap_or_default();
    let mut message = json!({
        "id": message_id(row.seq),
        "role": body["role"],
        "content": body["content"],
        "created_at": rfc3339(row.created_at),
    });
    for name in ["name", "tool_calls", "tool_call_id", "refusal"] {
        if !body[name].is_null() {
            message[name] = body[name].clone();
        }
    }
    if let Some(answer) = &row.answer {
        message["status"] = json!(answer.status);
        if let Some(notes) =
            answer.metadata.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok())
        {
            message["metadata"] = notes;
        }
        if let (Some(prompt), Some(output)) = (answer.prompt, answer.output) {
            message["usage"] = json!({
                "prompt_tokens": prompt,
                "completion_tokens": output,
                "total_tokens": prompt + output,
            });
        }
        if let Some(charged) = answer.charged.filter(|_| money) {
            message["cost"] = json!(Nanos(charged).to_string());
        }
    }
    message
}

/// A session with its messages, in the form of the chats API.
pub fn chat(row: &SessionRow, messages: &[MessageRow]) -> Value {
    let short = |message: &MessageRow| {
        let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
        json!({"role": body["role"], "content": body["content"], "timestamp": rfc3339(message.created_at)})
    };
    with(session(row), json!({"messages": messages.iter().map(short).collect::<Vec<_>>()}))
}

/// A running turn.
pub fn running(turn: &TurnInfo) -> Value {
    json!({
        "id": turn.completion.as_str(),
        "session_id": turn.session.as_str(),
        "account_id": turn.account.as_str(),
        "agent_id": turn.agent.as_str(),
        "key_id": turn.key.as_str(),
        "stream": turn.stream,
        "started_at": rfc3339(turn.started_at),
    })
}
