//! Giving an answer again: what is kept of it, and how it becomes a turn's events once more.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::auth::api_key::KeyKind;
use crate::billing::money::Nanos;
use crate::clock;
use crate::conversation::chunk;
use crate::conversation::turn::Turn;
use crate::conversation::usage::Usage;
use crate::error::Error;
use crate::json::{Fields, Raw};
use crate::rate_limit::Status;
use crate::session::turns::Turns;
use crate::session::{Ended, Running, TurnEvent};
use crate::store::Store;
use crate::store::request_key::{self, Answered, Known};

/// A whole answer, as it is kept.
#[derive(Serialize, Deserialize)]
pub struct Kept {
    pub completion: String,
    pub session: String,
    pub matched: usize,
    pub dropped: usize,
    /// The provider and its model. Answers that were kept before this was noted have none.
    #[serde(default)]
    pub served: Option<String>,
    /// A `chat.completion` object: the provider's own, or put together from its chunks.
    pub body: Box<RawValue>,
    pub usage: Option<Box<RawValue>>,
    pub finish_reason: Option<String>,
    pub content: Option<String>,
    pub ttft_ms: u64,
    pub duration_ms: u64,
    /// When a stream said it was made, in epoch seconds, and a whole answer that does not say it itself. Answers that were
    /// kept before this was noted have none.
    #[serde(default)]
    pub created: Option<i64>,
}

impl Kept {
    /// The answer as it was given: with the time that it said.
    fn whole(&self) -> serde_json::Result<Bytes> {
        let whole = Bytes::from(self.body.get().to_owned());
        let Some(created) = self.created else { return Ok(whole) };
        let mut fields = Fields::parse(&whole)?;
        if fields.get("created").and_then(chunk::created).is_none() {
            fields.set("created", Raw::of(&created));
        }
        Ok(fields.to_raw().bytes().clone())
    }
}

/// Whether a turn was answered before under its own idempotency key; then that answer, as if it ran.
///
/// # Errors
/// [`Error::IdempotencyInProgress`] while it runs, [`Error::Mismatch`] if the key was used for another request.
pub async fn look_up(store: &Store, turns: &Turns, turn: &Turn) -> Result<Option<Running>, Error> {
    let Some(own) = turn.idempotency.clone() else { return Ok(None) };
    let (account, key) = (turn.caller.account.clone(), turn.caller.key.clone());
    let known = store
        .read(move |conn| request_key::find(conn, (account.as_str(), key.as_str()), &own, clock::now_ms()))
        .await?;
    match known {
        Known::Unknown => Ok(None),
        Known::Running => Err(Error::IdempotencyInProgress),
        Known::Mismatch => {
            Err(Error::Mismatch("this Idempotency-Key was used before, for another request".to_owned()))
        }
        Known::Answered(answered) => again(&answered, turns, turn).map(Some),
    }
}

fn again(answered: &Answered, turns: &Turns, turn: &Turn) -> Result<Running, Error> {
    let account_key = turn.caller.kind == KeyKind::Account;
    let damaged = |cause: serde_json::Error| Error::Internal(format!("an answer that was kept: {cause}"));
    let kept: Kept = serde_json::from_str(&answered.answer).map_err(damaged)?;
    let whole = kept.whole().map_err(damaged)?;
    let (delta, tail) = match turn.stream {
        true => as_chunks(&whole).map(|(said, end)| (Some(said), end)).map_err(damaged)?,
        false => (None, whole),
    };
    let tokens = |count: i64| u64::try_from(count).unwrap_or(0);
    let [prompt, cached, output] = answered.tokens.map(tokens);
    let ended = Ended {
        tail: vec![tail],
        outline: None,
        plain: !turn.stream,
        usage_chunk: None,
        usage: Usage { prompt, cached, output },
        usage_raw: kept.usage.map(|raw| Raw::trusted(raw.get().to_owned())),
        charged: Nanos(answered.charged),
        balance: Nanos(answered.balance),
        finish_reason: kept.finish_reason,
        content: kept.content,
        ttft_ms: kept.ttft_ms,
        duration_ms: kept.duration_ms,
    };
    let events = delta.map(TurnEvent::Delta).into_iter().chain([TurnEvent::Ended(Arc::new(ended))]);
    let (completion, session) = (kept.completion.into(), kept.session.into());
    let events = turns.give_again(turn, (&completion, &session), events);
    Ok(Running {
        completion,
        session,
        matched: kept.matched,
        dropped: kept.dropped,
        max_output: None,
        served: kept.served.filter(|_| account_key).map(Into::into),
        replayed: true,
        tokens: Status::default(),
        events: events.ok_or_else(|| Error::Internal("a new log has no start".to_owned()))?,
    })
}

/// A whole answer as two chunks: everything that was said, and why it ended.
///
/// # Errors
/// When it is no answer.
pub fn as_chunks(whole: &[u8]) -> serde_json::Result<(Bytes, Bytes)> {
    let mut answer: Value = serde_json::from_slice(whole)?;
    answer["object"] = json!("chat.completion.chunk");
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("usage");
    }
    let mut end = answer.clone();
    for choice in answer["choices"].as_array_mut().into_iter().flatten() {
        let mut delta = choice["message"].take();
        if let Some(calls) = delta["tool_calls"].as_array_mut() {
            for (index, call) in calls.iter_mut().enumerate() {
                call["index"] = json!(index);
            }
        }
        *choice = json!({"index": choice["index"], "delta": delta, "logprobs": choice["logprobs"],
            "finish_reason": null});
    }
    for choice in end["choices"].as_array_mut().into_iter().flatten() {
        let (index, reason) = (choice["index"].take(), choice["finish_reason"].take());
        *choice = json!({"index": index, "delta": {}, "logprobs": null, "finish_reason": reason});
    }
    Ok((Raw::of(&answer).bytes().clone(), Raw::of(&end).bytes().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_answer_becomes_chunks_again() {
        let whole = br#"{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",
            "content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},
            "finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1}}"#;
        let (said, end) = as_chunks(whole).expect("JSON");
        let said: Value = serde_json::from_slice(&said).expect("JSON");
        let end: Value = serde_json::from_slice(&end).expect("JSON");
        assert_eq!(said["choices"][0]["delta"]["tool_calls"][0]["index"], 0);
        assert_eq!(said["choices"][0]["finish_reason"], Value::Null);
        assert!(said.get("usage").is_none());
        assert_eq!(end["choices"][0]["finish_reason"], "tool_calls");
        assert_eq!(end["choices"][0]["delta"], json!({}));
    }
}
