//! What the scripted upstream does with one request: a reply with its faults, a refusal, or nothing at all.

use std::time::Duration;

use serde_json::{Value, json};

use crate::upstream::{Gate, Leash};

/// The model that the upstream says it is, so that a leak of it is seen.
pub const UPSTREAM_MODEL: &str = "upstream-model-name-v1";

/// What the upstream does with one request.
#[derive(Clone)]
pub enum Script {
    /// An answer of a model, streamed where the request asks for it.
    Reply(Box<Reply>),
    /// Any status, headers and body.
    Raw { status: u16, headers: Vec<(String, String)>, body: String },
    /// The same, step by step as the test says.
    Led(Box<Reply>, Leash),
    /// A 200 whose body is streamed in these bytes, of whatever protocol.
    Pieces(Pieces),
    /// These bytes, whatever they are; then the connection ends.
    Bytes(Vec<u8>),
    /// Reads the request and never answers.
    Silence,
    /// Sends the head of an answer and nothing of its body, until the client has left.
    Head,
    /// Closes the connection instead of answering.
    HangUp,
}

impl Script {
    /// A plain short answer, used where nothing else is scripted.
    pub fn hello() -> Self {
        Reply::says(&["Hel", "lo ", "there"]).usage(9, 3).into()
    }

    /// An error in OpenAI's shape.
    pub fn refusal(status: u16, message: &str) -> Self {
        Self::refusal_with(status, message, &[])
    }

    /// An error in OpenAI's shape, with headers.
    pub fn refusal_with(status: u16, message: &str, headers: &[(&str, &str)]) -> Self {
        let error = json!({"message": message, "type": "upstream_type", "param": null, "code": null});
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::Raw { status, headers, body: json!({ "error": error }).to_string() }
    }

    /// A 200 with this body, whatever it is.
    pub fn garbage(body: &str) -> Self {
        Self::Raw { status: 200, headers: Vec::new(), body: body.to_owned() }
    }
}

impl From<Reply> for Script {
    fn from(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

impl From<Pieces> for Script {
    fn from(pieces: Pieces) -> Self {
        Self::Pieces(pieces)
    }
}

/// A streamed body, byte for byte.
#[derive(Clone)]
pub struct Pieces {
    /// Each a write and an HTTP chunk of its own.
    pub pieces: Vec<Vec<u8>>,
    /// Blocks before the piece of this number until the gate is open.
    pub pause: Option<(usize, Gate)>,
    /// The time between two pieces.
    pub gap: Duration,
    /// Whether the connection is closed without the end of the body.
    pub cut: bool,
}

impl Pieces {
    /// These pieces, one right after the other, and the end of the body.
    pub fn of(pieces: Vec<Vec<u8>>) -> Self {
        Self { pieces, pause: None, gap: Duration::ZERO, cut: false }
    }
}

/// Where the token counts stand in a stream.
#[derive(Clone)]
pub enum Counts {
    /// In a chunk of their own after the finish reason, if the request asked for it.
    AtTheEnd,
    /// On the chunk with the finish reason.
    OnTheLastChunk,
    /// On every chunk, growing.
    OnEveryChunk,
    /// Nowhere.
    Nowhere,
}

/// What goes wrong in the middle of a reply.
#[derive(Clone)]
pub enum Fault {
    /// The connection is closed inside the chunked body.
    HangUp,
    /// The same, by a reset.
    Reset,
    /// The body ends properly, without finish reason and `[DONE]`.
    End,
    /// An event with an error object, then the end of the body.
    Error(Value),
    /// An event that is not JSON, then the end of the body.
    Garbage,
}

/// How the events of a stream are written.
#[derive(Clone)]
pub struct Framing {
    /// The end of each line.
    pub line_end: &'static str,
    /// What stands before each payload.
    pub prefix: &'static str,
    /// Whether comment lines stand between the events.
    pub comments: bool,
    /// Whether each byte is a write and an HTTP chunk of its own.
    pub byte_by_byte: bool,
}

/// A tool call of the model.
#[derive(Clone)]
pub struct ToolCall {
    /// The id of the call.
    pub id: String,
    /// The name of the function.
    pub name: String,
    /// The pieces in which the arguments are streamed.
    pub arguments: Vec<String>,
}

/// An answer of the model.
#[derive(Clone)]
pub struct Reply {
    /// The pieces of the model's thinking, before the content.
    pub thoughts: Vec<String>,
    /// The pieces in which the content is streamed.
    pub pieces: Vec<String>,
    /// The tool calls, after the content.
    pub tools: Vec<ToolCall>,
    /// The usage object.
    pub usage: Value,
    /// Where the usage stands.
    pub counts: Counts,
    /// The finish reason.
    pub finish: Option<&'static str>,
    /// Whether a stream ends with `[DONE]`.
    pub done: bool,
    /// The time between two pieces.
    pub gap: Duration,
    /// Blocks after so many pieces until the gate is open; a plain answer blocks before its head.
    pub pause: Option<(usize, Gate)>,
    /// Goes wrong after so many pieces.
    pub fault: Option<(usize, Fault)>,
    /// How events are written.
    pub framing: Framing,
    /// Keeps the body open after the last event until the gate is open.
    pub linger: Option<Gate>,
    /// Leaves out the keys that may be null in a plain answer.
    pub terse: bool,
    /// Says of a plain answer that it is the last one of its connection.
    pub closes: bool,
}

impl Reply {
    /// An answer of text in these pieces.
    pub fn says(pieces: &[&str]) -> Self {
        Self {
            thoughts: Vec::new(),
            pieces: pieces.iter().map(|piece| (*piece).to_owned()).collect(),
            tools: Vec::new(),
            usage: json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}),
            counts: Counts::AtTheEnd,
            finish: Some("stop"),
            done: true,
            gap: Duration::ZERO,
            pause: None,
            fault: None,
            framing: Framing { line_end: "\n", prefix: "data: ", comments: false, byte_by_byte: false },
            linger: None,
            terse: false,
            closes: false,
        }
    }

    /// An answer of so many pieces of text.
    pub fn long(pieces: usize) -> Self {
        let words: Vec<String> = (0..pieces).map(|piece| format!("w{piece} ")).collect();
        Self { pieces: words, ..Self::says(&[]) }
    }

    /// Adds thoughts before the content.
    pub fn thinking(mut self, thoughts: &[&str]) -> Self {
        self.thoughts = thoughts.iter().map(|thought| (*thought).to_owned()).collect();
        self
    }

    /// A call of one function, its arguments in these pieces.
    pub fn calls(id: &str, name: &str, arguments: &[&str]) -> Self {
        Self::says(&[]).and_calls(id, name, arguments)
    }

    /// Adds a call of a function.
    pub fn and_calls(mut self, id: &str, name: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|piece| (*piece).to_owned()).collect();
        self.tools.push(ToolCall { id: id.to_owned(), name: name.to_owned(), arguments });
        self.finish = Some("tool_calls");
        self
    }

    /// Sets the token counts.
    pub fn usage(self, prompt: i64, output: i64) -> Self {
        self.usage_object(json!({
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt.saturating_add(output),
        }))
    }

    /// Sets the whole usage object.
    pub fn usage_object(mut self, usage: Value) -> Self {
        self.usage = usage;
        self
    }

    /// Sets where the token counts stand.
    pub fn counts(mut self, counts: Counts) -> Self {
        self.counts = counts;
        self
    }

    /// Leaves a time between two pieces.
    pub fn gap(mut self, gap: Duration) -> Self {
        self.gap = gap;
        self
    }

    /// Blocks after so many pieces until the gate is open or the client has left.
    pub fn pause_after(mut self, pieces: usize, gate: &Gate) -> Self {
        self.pause = Some((pieces, gate.clone()));
        self
    }

    /// Goes wrong after so many pieces.
    pub fn fault_after(mut self, pieces: usize, fault: Fault) -> Self {
        self.fault = Some((pieces, fault));
        self
    }

    /// Ends a stream without `[DONE]`.
    pub fn without_done(mut self) -> Self {
        self.done = false;
        self
    }

    /// Keeps the body open after the last event until the gate is open.
    pub fn linger(mut self, gate: &Gate) -> Self {
        self.linger = Some(gate.clone());
        self
    }

    /// Leaves out the keys that may be null in a plain answer.
    pub fn terse(mut self) -> Self {
        self.terse = true;
        self
    }

    /// Says of a plain answer that it is the last one of its connection.
    pub fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// Changes how events are written.
    pub fn framed(mut self, change: impl FnOnce(&mut Framing)) -> Self {
        change(&mut self.framing);
        self
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.pieces.concat()
    }

    /// The body of a plain answer.
    pub fn plain(&self, choices: u64) -> Value {
        let choices: Vec<Value> = (0..choices).map(|index| self.choice(index)).collect();
        let mut body = self.envelope("chat.completion");
        body["choices"] = choices.into();
        if !matches!(self.counts, Counts::Nowhere) {
            body["usage"] = self.usage.clone();
        }
        body
    }

    fn choice(&self, index: u64) -> Value {
        let content = if self.pieces.is_empty() { Value::Null } else { self.text().into() };
        let mut message = json!({"role": "assistant", "content": content});
        let mut choice = json!({"index": index, "finish_reason": self.finish});
        if !self.terse {
            message["refusal"] = Value::Null;
            message["x_vendor_note"] = json!("kept");
            choice["logprobs"] = Value::Null;
        }
        if !self.thoughts.is_empty() {
            message["reasoning_content"] = self.thoughts.concat().into();
        }
        if !self.tools.is_empty() {
            message["tool_calls"] = self.tools.iter().map(ToolCall::whole).collect();
        }
        choice["message"] = message;
        choice
    }

    /// The pieces of a stream as deltas, the role apart.
    pub fn deltas(&self) -> Vec<Value> {
        let thoughts = self.thoughts.iter().map(|thought| json!({ "reasoning_content": thought }));
        let content = self.pieces.iter().map(|piece| json!({ "content": piece }));
        let content = thoughts.chain(content);
        let calls = self.tools.iter().enumerate().flat_map(|(index, tool)| tool.deltas(index));
        content.chain(calls).collect()
    }

    /// A chunk with one choice.
    pub fn chunk(&self, index: u64, delta: &Value, finish: Option<&str>) -> Value {
        let mut chunk = self.envelope("chat.completion.chunk");
        chunk["choices"] =
            json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        chunk
    }

    /// The chunk that holds the usage alone.
    pub fn usage_chunk(&self) -> Value {
        let mut chunk = self.envelope("chat.completion.chunk");
        chunk["choices"] = json!([]);
        chunk["usage"] = self.usage.clone();
        chunk
    }

    fn envelope(&self, object: &str) -> Value {
        json!({
            "id": "upstream-completion-1",
            "object": object,
            "created": 1_700_000_000,
            "model": UPSTREAM_MODEL,
            "system_fingerprint": "fp_upstream",
            "x_vendor": {"kept": [1, 2, 3]},
        })
    }
}

impl ToolCall {
    fn whole(&self) -> Value {
        let function = json!({"name": self.name, "arguments": self.arguments.concat()});
        json!({"id": self.id, "type": "function", "function": function})
    }

    fn deltas(&self, index: usize) -> Vec<Value> {
        let opening = json!({"index": index, "id": self.id, "type": "function",
            "function": {"name": self.name, "arguments": ""}});
        let pieces = self
            .arguments
            .iter()
            .map(|piece| json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}));
        std::iter::once(json!({ "tool_calls": [opening] })).chain(pieces).collect()
    }
}
