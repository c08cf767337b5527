//! A stream in the native dialect: one typed object an event.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::json::{ObjectWriter, Raw};
use crate::session::Ended;
use crate::wire::openai::chat::Told;
use crate::wire::openai::error::ErrorObject;
use crate::wire::openai::stream::event;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

/// A chunk of the answer: text, tool calls, both or neither of the first choice.
pub fn delta(chunk: &Bytes, out: &mut BytesMut) {
    let Ok(Chunk { choices }) = serde_json::from_slice(chunk) else { return };
    for choice in choices.iter().filter(|choice| choice.index == 0) {
        let Some(delta) = &choice.delta else { continue };
        if let Some(text) = delta.content.as_ref().filter(|text| !text.is_empty()) {
            let mut writer = ObjectWriter::with_capacity(text.len() + 48);
            writer.value("type", "content");
            writer.value("data", text);
            event(&writer.finish(), out);
        }
        if let Some(calls) = delta.tool_calls.filter(|calls| !matches!(calls.get(), "null" | "[]")) {
            let mut writer = ObjectWriter::with_capacity(calls.get().len() + 48);
            writer.value("type", "tool_calls");
            writer.field("data", calls.get().as_bytes());
            event(&writer.finish(), out);
        }
    }
}

/// The end.
pub fn ended(told: &Told, ended: &Ended, out: &mut BytesMut) {
    for chunk in &ended.tail {
        delta(chunk, out);
    }
    let mut metrics = json!({
        "prompt_tokens": ended.usage.prompt,
        "completion_tokens": ended.usage.output,
        "total_tokens": ended.usage.total(),
        "ttft_ms": ended.ttft_ms,
        "duration_ms": ended.duration_ms,
        "finish_reason": ended.finish_reason,
    });
    if told.money {
        metrics["cost"] = ended.charged.to_string().into();
        metrics["balance"] = ended.balance.to_string().into();
    }
    let done = json!({"type": "done", "session_id": told.session, "metrics": metrics});
    event(Raw::of(&done).bytes(), out);
}

/// The end of a stream that failed.
pub fn failed(error: &ErrorObject, out: &mut BytesMut) {
    event(Raw::of(&json!({"type": "error", "error": error})).bytes(), out);
}
