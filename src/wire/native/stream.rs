//! A stream in the native dialect: one typed object an event.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::json::{ObjectWriter, Raw};
use crate::session::Ended;
use crate::wire::openai::chat::Told;
use crate::wire::openai::error::ErrorObject;
use crate::wire::sse::Events;

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

#[derive(Clone, Copy, Deserialize)]
struct Delta<'a> {
    /// Text was read as such when it came.
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

/// A chunk of the answer: text, tool calls, both or neither of the first choice.
pub fn delta(chunk: &Bytes, out: &mut Events) {
    let Ok(Chunk { choices }) = serde_json::from_slice(chunk) else { return };
    for choice in choices.iter().filter(|choice| choice.index == 0) {
        let Some(Delta { content, tool_calls }) = choice.delta else { continue };
        let mut part = |kind: &str, data: Option<&RawValue>| {
            let said = data.filter(|data| !matches!(data.get(), "null" | "\"\"" | "[]"));
            if let Some(data) = said
                && let Some(out) = out.event()
            {
                let mut writer = ObjectWriter::into(out);
                writer.value("type", kind);
                writer.slice("data", data, chunk);
                writer.close();
            }
        };
        part("content", content);
        part("tool_calls", tool_calls);
    }
}

/// The end.
pub fn ended(told: &Told, ended: &Ended, tail: &[Bytes], out: &mut Events) {
    for chunk in tail {
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
    out.last(Raw::of(&done).bytes());
}

/// The end of a stream that failed.
pub fn failed(error: &ErrorObject) -> Raw {
    Raw::of(&json!({"type": "error", "error": error}))
}
