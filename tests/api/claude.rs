//! The scripted upstream as one that speaks Anthropic's Messages.

use serde_json::{Value, json};

use crate::app::{App, Setup};
use crate::client::Event;
use crate::script::{Pieces, Script};
use crate::upstream::{Gate, Recorded};

/// The model that the upstream says it is, so that a leak of it is seen.
const UPSTREAM_MODEL: &str = "claude-upstream-name-v1";

/// A block of an answer, in the pieces in which it is streamed.
#[derive(Clone)]
enum Block {
    Text(Vec<String>),
    Thinking(Vec<String>),
    Tool { id: String, name: String, input: Vec<String> },
}

/// An answer of Claude.
#[derive(Clone)]
pub struct Claude {
    blocks: Vec<Block>,
    stop: &'static str,
    /// Tokens of the prompt: new, read from the cache, written to it.
    prompt: [u64; 3],
    output: u64,
}

fn owned(pieces: &[&str]) -> Vec<String> {
    pieces.iter().map(|piece| (*piece).to_owned()).collect()
}

impl Claude {
    /// An answer that says this.
    pub fn says(pieces: &[&str]) -> Self {
        let empty = Self { blocks: Vec::new(), stop: "end_turn", prompt: [25, 0, 0], output: 15 };
        empty.block(Block::Text(owned(pieces)))
    }

    /// An answer that calls this tool.
    pub fn calls(id: &str, name: &str, input: &[&str]) -> Self {
        let empty = Self { blocks: Vec::new(), stop: "tool_use", prompt: [25, 0, 0], output: 15 };
        empty.and_calls(id, name, input)
    }

    /// Adds a call of a tool.
    pub fn and_calls(mut self, id: &str, name: &str, input: &[&str]) -> Self {
        self.stop = "tool_use";
        self.block(Block::Tool { id: id.to_owned(), name: name.to_owned(), input: owned(input) })
    }

    /// Puts thoughts before all else.
    pub fn thinking(mut self, pieces: &[&str]) -> Self {
        self.blocks.insert(0, Block::Thinking(owned(pieces)));
        self
    }

    fn block(mut self, block: Block) -> Self {
        self.blocks.push(block);
        self
    }

    /// Sets why it ends.
    pub fn stops(mut self, reason: &'static str) -> Self {
        self.stop = reason;
        self
    }

    /// Sets the tokens: new, read from the cache and written to it, and those of the answer.
    pub fn usage(mut self, prompt: [u64; 3], output: u64) -> Self {
        (self.prompt, self.output) = (prompt, output);
        self
    }

    fn counts(&self, output: u64) -> Value {
        let [input, read, written] = self.prompt;
        json!({"input_tokens": input, "cache_read_input_tokens": read, "cache_creation_input_tokens": written,
            "output_tokens": output, "service_tier": "standard"})
    }

    /// The body of an answer that is not streamed.
    pub fn plain(&self) -> Value {
        let whole = |block: &Block| match block {
            Block::Text(pieces) => json!({"type": "text", "text": pieces.concat()}),
            Block::Thinking(pieces) => {
                json!({"type": "thinking", "thinking": pieces.concat(), "signature": "c2lnbmVk"})
            }
            Block::Tool { id, name, input } => {
                let input: Value = serde_json::from_str(&input.concat()).unwrap_or_else(|_| json!({}));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        };
        let content: Vec<Value> = self.blocks.iter().map(whole).collect();
        json!({"id": "msg_upstream_1", "type": "message", "role": "assistant", "model": UPSTREAM_MODEL,
            "content": content, "stop_reason": self.stop, "stop_sequence": null, "usage": self.counts(self.output)})
    }

    /// The events of a streamed answer, each with its name and its empty line.
    pub fn events(&self) -> Vec<String> {
        let message = json!({"id": "msg_upstream_1", "type": "message", "role": "assistant", "model": UPSTREAM_MODEL,
            "content": [], "stop_reason": null, "stop_sequence": null, "usage": self.counts(1)});
        let mut events = vec![event(&json!({"type": "message_start", "message": message}))];
        for (index, block) in self.blocks.iter().enumerate() {
            let (start, pieces, kind, field) = match block {
                Block::Text(pieces) => (json!({"type": "text", "text": ""}), pieces, "text_delta", "text"),
                Block::Thinking(pieces) => {
                    let start = json!({"type": "thinking", "thinking": "", "signature": ""});
                    (start, pieces, "thinking_delta", "thinking")
                }
                Block::Tool { id, name, input } => {
                    let start = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                    (start, input, "input_json_delta", "partial_json")
                }
            };
            events
                .push(event(&json!({"type": "content_block_start", "index": index, "content_block": start})));
            events.push(event(&json!({"type": "ping"})));
            for piece in pieces {
                let delta = json!({"type": kind, field: piece});
                events.push(event(&json!({"type": "content_block_delta", "index": index, "delta": delta})));
            }
            if matches!(block, Block::Thinking(_)) {
                let delta = json!({"type": "signature_delta", "signature": "c2lnbmVk"});
                events.push(event(&json!({"type": "content_block_delta", "index": index, "delta": delta})));
            }
            events.push(event(&json!({"type": "content_block_stop", "index": index})));
        }
        let delta = json!({"stop_reason": self.stop, "stop_sequence": null});
        let usage = json!({"output_tokens": self.output});
        events.push(event(&json!({"type": "message_delta", "delta": delta, "usage": usage})));
        events.push(event(&json!({"type": "message_stop"})));
        events
    }

    /// The events as a body that is streamed.
    pub fn streamed(&self) -> Pieces {
        pieces(self.events())
    }

    /// The events, blocking before the first one that holds `word` until the gate is open.
    pub fn pause_before(&self, word: &str, gate: &Gate) -> Pieces {
        let at = self.events().iter().position(|event| event.contains(word));
        Pieces { pause: Some((at.expect("an event with that word"), gate.clone())), ..self.streamed() }
    }

    /// The events before the first one that holds `word`; then the connection is closed.
    pub fn cut_before(&self, word: &str) -> Pieces {
        let mut streamed = self.streamed();
        let at = self.events().iter().position(|event| event.contains(word));
        streamed.pieces.truncate(at.expect("an event with that word"));
        Pieces { cut: true, ..streamed }
    }

    /// What a request gets, streamed where it asks for that.
    pub fn answer(&self, asked: &Recorded) -> Script {
        if asked.body["stream"] == true {
            return self.streamed().into();
        }
        Script::garbage(&self.plain().to_string())
    }
}

/// One event as Anthropic writes it.
pub fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

/// Events as a body that is streamed.
pub fn pieces(events: Vec<String>) -> Pieces {
    Pieces::of(events.into_iter().map(String::into_bytes).collect())
}

/// A server whose provider speaks Anthropic's protocol.
pub fn setup() -> Setup {
    Setup::default().in_file("kind = \"anthropic\"")
}

/// As [`setup`], with one that answers everything so.
pub fn answering(claude: Claude) -> App {
    let app = setup().start();
    app.upstream.choose(move |asked| claude.answer(asked));
    app
}

/// The chunks of a stream that has to end with `[DONE]`.
pub fn chunks(events: &[Event]) -> Vec<Value> {
    let (last, chunks) = events.split_last().expect("a stream has events");
    assert!(last.is_done(), "the last event is {:?}", last.data);
    chunks.iter().map(Event::json).collect()
}

/// The text of a stream's events, whatever its end.
pub fn text_of(events: &[Event]) -> String {
    let json = events.iter().filter(|event| !event.is_done()).map(Event::json);
    let texts = json.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned));
    texts.collect()
}
