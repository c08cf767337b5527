//! Answers as bytes, made once for all requests.

use serde_json::{Value, json};

use super::{MODEL, PROMPT_TOKENS, Shape, TOKEN};

/// Different pieces of content, since no model says one thing for ever.
const PIECES: u64 = 50;

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
                      Transfer-Encoding: chunked\r\n\r\n";

/// All that is answered in one shape.
pub struct Answers {
    /// What it was made for.
    pub shape: Shape,
    /// A plain answer, head and body.
    pub plain: Vec<u8>,
    /// The head of a stream and its first event.
    opening: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    ending: [Vec<u8>; 2],
    /// Whole streams, without and with the usage.
    streams: [Vec<u8>; 2],
}

impl Answers {
    /// Makes all answers of a shape.
    pub fn of(shape: Shape) -> Self {
        let words: Vec<String> = (0..PIECES).map(|at| format!("{TOKEN}{at:02} ")).collect();
        let opening =
            [EVENTS.as_bytes(), &event(&chunk(&json!({"role": "assistant", "content": ""}), None))].concat();
        let pieces: Vec<Vec<u8>> =
            words.iter().map(|word| event(&chunk(&json!({ "content": word }), None))).collect();
        let ending = [false, true].map(|usage| ending(shape, usage));
        let middle: Vec<u8> =
            (0..shape.chunks).flat_map(|at| &pieces[(at % PIECES) as usize]).copied().collect();
        let streams = [0, 1].map(|usage: usize| [&opening[..], &middle, &ending[usage]].concat());
        Self { shape, plain: plain(shape, &words), opening, pieces, ending, streams }
    }

    /// A whole stream.
    pub fn stream(&self, usage: bool) -> &[u8] {
        &self.streams[usize::from(usage)]
    }

    /// The head of a stream and its first event.
    pub fn opening(&self) -> &[u8] {
        &self.opening
    }

    /// One piece of a stream.
    pub fn piece(&self, at: u64) -> &[u8] {
        &self.pieces[(at % PIECES) as usize]
    }

    /// The end of a stream.
    pub fn ending(&self, usage: bool) -> &[u8] {
        &self.ending[usize::from(usage)]
    }
}

/// A JSON answer, head and body.
pub fn whole(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn usage(shape: Shape) -> Value {
    let total = PROMPT_TOKENS + shape.chunks;
    json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": shape.chunks, "total_tokens": total})
}

fn plain(shape: Shape, words: &[String]) -> Vec<u8> {
    let text: String = words.iter().cycle().take(shape.chunks as usize).map(String::as_str).collect();
    let message = json!({"role": "assistant", "content": text, "refusal": null});
    whole(&json!({
        "id": "chatcmpl-provider",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
        "usage": usage(shape),
    }))
}

fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({
        "id": "chatcmpl-provider",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
    })
}

fn ending(shape: Shape, with_usage: bool) -> Vec<u8> {
    let mut bytes = event(&chunk(&json!({}), Some("stop")));
    if with_usage {
        let mut last = chunk(&json!({}), None);
        last["choices"] = json!([]);
        last["usage"] = usage(shape);
        bytes.extend(event(&last));
    }
    bytes.extend(http_chunk("data: [DONE]\n\n"));
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn event(data: &Value) -> Vec<u8> {
    http_chunk(&format!("data: {data}\n\n"))
}

fn http_chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}
