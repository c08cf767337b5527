//! A stream in the native dialect: one typed object an event.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::json::{ObjectWriter, Raw};
use crate::session::Ended;
use crate::wire::openai::chat::Told;
use crate::wire::openai::error::ErrorObject;
use crate::wire::sse::{Events, Slices};
use crate::wire::template::Template;

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

/// Writes the chunks of one stream.
#[derive(Default)]
pub struct DeltaWriter(Template);

impl DeltaWriter {
    /// A chunk of the answer: text, tool calls, both or neither of the first choice.
    pub fn delta(&mut self, chunk: &Bytes, out: &mut Events) {
        if self.0.write(chunk, out) {
            return;
        }
        for (kind, data) in said(chunk) {
            if let Some(out) = out.event() {
                write(kind, data, chunk, out);
            }
        }
        self.0.learn(chunk, |chunk| {
            let mut text = Vec::new();
            match said(chunk)[..] {
                [(kind, data)] => write(kind, data, chunk, &mut text),
                _ => return None,
            }
            Some(text)
        });
    }
}

/// What a chunk says, in the order in which it is written.
fn said(chunk: &[u8]) -> Vec<(&'static str, &RawValue)> {
    let Ok(Chunk { choices }) = serde_json::from_slice(chunk) else { return Vec::new() };
    let deltas = choices.iter().filter(|choice| choice.index == 0).filter_map(|choice| choice.delta);
    let parts = deltas.flat_map(|Delta { content, tool_calls }| {
        [("content", content), ("tool_calls", tool_calls)].map(|(kind, data)| Some((kind, data?)))
    });
    let said = |(_, data): &(_, &RawValue)| !matches!(data.get(), "null" | "\"\"" | "[]");
    parts.flatten().filter(said).collect()
}

fn write(kind: &str, data: &RawValue, chunk: &Bytes, out: &mut impl Slices) {
    let mut writer = ObjectWriter::into(out);
    writer.value("type", kind);
    writer.slice("data", data, chunk);
    writer.close();
}

/// The end.
pub fn ended(told: &Told, ended: &Ended, tail: &[Bytes], deltas: &mut DeltaWriter, out: &mut Events) {
    for chunk in tail {
        deltas.delta(chunk, out);
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
    let done = json!({"type": "done", "session_id": told.session.as_str(), "metrics": metrics});
    out.last(Raw::of(&done).bytes());
}

/// The end of a stream that failed.
pub fn failed(error: &ErrorObject) -> Raw {
    Raw::of(&json!({"type": "error", "error": error}))
}
