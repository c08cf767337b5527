//! The events of a stream of Messages as `chat.completion.chunk` objects, in the order in which OpenAI sends them.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::json::{Raw, where_it_went_wrong};
use crate::provider::Event;
use crate::provider::anthropic::answer::{UsageTold, finish_reason};
use crate::provider::anthropic::blocks::Text;
use crate::provider::anthropic::failure::ErrorTold;

/// Puts one stream into OpenAI's words.
#[derive(Default)]
pub struct Translator {
    started: bool,
    usage: UsageTold,
    calls: Vec<ToolCall>,
}

/// A call of a tool; its place in the list is its index to the client.
struct ToolCall {
    /// Its place among all blocks.
    block: u64,
    /// What stands in for arguments that never came in pieces.
    input: Raw,
    /// Whether any did.
    said: bool,
}

/// Why a stream cannot go on.
#[derive(Debug)]
pub enum Fault {
    /// It is none.
    Malformed(String),
    /// The provider says so.
    Reported(ErrorTold),
}

impl From<serde_json::Error> for Fault {
    fn from(cause: serde_json::Error) -> Self {
        Self::Malformed(where_it_went_wrong(&cause))
    }
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(default)]
    index: u64,
    message: Option<Started>,
    #[serde(borrow)]
    content_block: Option<Opened<'a>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    usage: Option<UsageTold>,
    error: Option<ErrorTold>,
}

#[derive(Deserialize)]
struct Started {
    usage: Option<UsageTold>,
}

#[derive(Deserialize)]
struct Opened<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    partial_json: Option<Text<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
}

impl Translator {
    /// Takes the data of an event; adds what it comes to.
    ///
    /// # Errors
    /// When the stream cannot go on.
    pub fn take(&mut self, data: &[u8], out: &mut VecDeque<Event>) -> Result<(), Fault> {
        let told: Told<'_> = serde_json::from_slice(data)?;
        match &*told.kind.0 {
            "error" => return Err(Fault::Reported(told.error.unwrap_or_default())),
            "message_start" => self.start(told.message, out),
            "ping" if self.started => out.push_back(Event::Alive),
            "content_block_start"
            | "content_block_delta"
            | "content_block_stop"
            | "message_delta"
            | "message_stop"
                if !self.started =>
            {
                return Err(Fault::Malformed("an event before message_start".to_owned()));
            }
            "content_block_start" => self.open(told.index, told.content_block, out),
            "content_block_delta" => self.go_on(told.index, told.delta, out),
            "content_block_stop" => self.close(told.index, out),
            "message_delta" => self.end(&told, out),
            "message_stop" => out.push_back(Event::Done),
            // Kinds of events may be added at any time.
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, message: Option<Started>, out: &mut VecDeque<Event>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.usage = message.and_then(|message| message.usage).unwrap_or_default().at_start();
        let mut chunk = chunk(&json!({"role": "assistant", "content": "", "refusal": null}), None);
        // A stream that is cut is charged for the prompt as it was counted.
        if let Some(prompt) = self.usage.prompt() {
            chunk["usage"] = prompt;
        }
        out.push_back(event(&chunk));
    }

    fn open(&mut self, block: u64, opened: Option<Opened<'_>>, out: &mut VecDeque<Event>) {
        let Some(opened) = opened else { return };
        if opened.kind.0 == "tool_use" {
            let input = opened.input.map_or("{}", RawValue::get);
            self.calls.push(ToolCall { block, input: Raw::trusted(input.to_owned()), said: false });
            let function = json!({"name": opened.name, "arguments": ""});
            let call = json!({"index": self.calls.len() - 1, "id": opened.id, "type": "function", "function": function});
            out.push_back(event(&chunk(&json!({ "tool_calls": [call] }), None)));
        }
        say("content", opened.text, out);
        say("reasoning_content", opened.thinking, out);
    }

    fn go_on(&mut self, block: u64, delta: Option<Delta<'_>>, out: &mut VecDeque<Event>) {
        let Some(delta) = delta else { return };
        say("content", delta.text, out);
        say("reasoning_content", delta.thinking, out);
        let piece = delta.partial_json.filter(|piece| !piece.0.is_empty());
        if let Some(piece) = piece
            && let Some(index) = self.call_of(block)
        {
            self.calls[index].said = true;
            out.push_back(event(&arguments(index, &json!(piece))));
        }
    }

    /// A call without arguments has an empty object of them: clients parse what they get.
    fn close(&mut self, block: u64, out: &mut VecDeque<Event>) {
        if let Some(index) = self.call_of(block).filter(|index| !self.calls[*index].said) {
            self.calls[index].said = true;
            out.push_back(event(&arguments(index, &json!(self.calls[index].input.text()))));
        }
    }

    fn call_of(&self, block: u64) -> Option<usize> {
        self.calls.iter().position(|call| call.block == block)
    }

    fn end(&mut self, told: &Told<'_>, out: &mut VecDeque<Event>) {
        if let Some(reason) = told.delta.as_ref().and_then(|delta| delta.stop_reason.as_ref()) {
            out.push_back(event(&chunk(&json!({}), Some(finish_reason(&reason.0)))));
        }
        if let Some(usage) = &told.usage {
            self.usage.update(usage);
            if let Some(whole) = self.usage.whole() {
                out.push_back(event(&json!({"choices": [], "usage": whole})));
            }
        }
    }
}

fn say(field: &str, text: Option<Text<'_>>, out: &mut VecDeque<Event>) {
    if let Some(text) = text.filter(|text| !text.0.is_empty()) {
        out.push_back(event(&chunk(&json!({ field: text }), None)));
    }
}

fn arguments(index: usize, piece: &Value) -> Value {
    chunk(&json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}), None)
}

fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]})
}

fn event(chunk: &Value) -> Event {
    Event::Chunk(Bytes::from(chunk.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::reply::Reply;
    use crate::provider::sse::EventReader;

    const TEXT: &str = concat!(
        "event: message_start\n",
        r#"data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"claude","stop_reason":null,"usage":{"input_tokens":25,"cache_read_input_tokens":75,"output_tokens":1}}}"#,
        "\n\nevent: content_block_start\n",
        r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
        "\n\n",
        r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}}"#,
        "\n\n",
        r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}"#,
        "\n\n",
        r#"data: {"type":"content_block_stop","index":0}"#,
        "\n\n",
        r#"data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}"#,
        "\n\nevent: ping\n",
        r#"data: {"type":"ping"}"#,
        "\n\n",
        r#"data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Gr\u00fc\u00dfe "}}"#,
        "\n\n",
        r#"data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"🦀"}}"#,
        "\n\n",
        r#"data: {"type":"content_block_stop","index":1}"#,
        "\n\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}"#,
        "\n\n",
        r#"data: {"type":"message_stop"}"#,
        "\n\n",
    );

    fn read(pieces: &[&[u8]]) -> Vec<Event> {
        let (mut reader, mut translator) = (EventReader::default(), Translator::default());
        let mut out = VecDeque::new();
        for piece in pieces {
            reader.push(piece).expect("small");
            while let Some(data) = reader.next_event() {
                translator.take(&data, &mut out).expect("an event");
            }
        }
        out.into()
    }

    fn chunks(events: &[Event]) -> Vec<Value> {
        let json = |event: &Event| match event {
            Event::Chunk(bytes) => serde_json::from_slice(bytes).ok(),
            Event::Alive | Event::Done => None,
        };
        events.iter().filter_map(json).collect()
    }

    fn translated(events: &[Value]) -> Result<Vec<Event>, Fault> {
        let (mut translator, mut out) = (Translator::default(), VecDeque::new());
        for event in events {
            translator.take(event.to_string().as_bytes(), &mut out)?;
        }
        Ok(out.into())
    }

    #[test]
    fn chunks_come_in_openai_s_order() {
        let events = read(&[TEXT.as_bytes()]);
        assert_eq!(events.last(), Some(&Event::Done));
        assert_eq!(events.iter().filter(|event| **event == Event::Alive).count(), 1);
        let chunks = chunks(&events);
        let delta = |at: usize| chunks[at]["choices"][0]["delta"].clone();
        assert_eq!(delta(0), json!({"role": "assistant", "content": "", "refusal": null}));
        let prompt = json!({"prompt_tokens": 100, "completion_tokens": null, "prompt_tokens_details": {"cached_tokens": 75}});
        assert_eq!(chunks[0]["usage"], prompt);
        assert_eq!(delta(1), json!({"reasoning_content": "Hm."}));
        assert_eq!(delta(2), json!({"content": "Grüße "}));
        assert_eq!(delta(3), json!({"content": "🦀"}));
        assert_eq!(
            chunks[4]["choices"][0],
            json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"})
        );
        let usage = json!({"prompt_tokens": 100, "completion_tokens": 15, "prompt_tokens_details": {"cached_tokens": 75}, "total_tokens": 115});
        assert_eq!(chunks[5], json!({"choices": [], "usage": usage}));
        assert_eq!(chunks.len(), 6);
    }

    #[test]
    fn a_stream_survives_any_cut_between_two_packets() {
        let whole = read(&[TEXT.as_bytes()]);
        for cut in 0..TEXT.len() {
            let (front, back) = TEXT.as_bytes().split_at(cut);
            assert_eq!(read(&[front, back]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = TEXT.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes), whole);
    }

    #[test]
    fn parallel_calls_are_numbered_and_a_call_without_arguments_has_an_empty_object() {
        let start = json!({"type": "message_start", "message": {}});
        let open = |index: u64, id: &str| {
            let block = json!({"type": "tool_use", "id": id, "name": "f", "input": {}});
            json!({"type": "content_block_start", "index": index, "content_block": block})
        };
        let piece = |index: u64, json: &str| {
            let delta = json!({"type": "input_json_delta", "partial_json": json});
            json!({"type": "content_block_delta", "index": index, "delta": delta})
        };
        let stop = |index: u64| json!({"type": "content_block_stop", "index": index});
        let events = [
            start,
            open(1, "a"),
            piece(1, ""),
            piece(1, "{\"x\":"),
            piece(1, "1}"),
            stop(1),
            open(2, "b"),
            piece(2, ""),
            stop(2),
        ];
        let chunks = chunks(&translated(&events).expect("a stream"));
        let opening = |index: u64, id: &str| json!({"index": index, "id": id, "type": "function", "function": {"name": "f", "arguments": ""}});
        let further = |index: u64, piece: &str| json!({"index": index, "function": {"arguments": piece}});
        let calls: Vec<_> =
            chunks[1..].iter().map(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0].clone()).collect();
        assert_eq!(
            calls,
            [opening(0, "a"), further(0, "{\"x\":"), further(0, "1}"), opening(1, "b"), further(1, "{}")]
        );
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_what_is_wrong_is_not() {
        let start = || json!({"type": "message_start", "message": {"usage": {}}});
        let odd = [
            json!({"type": "ping"}),
            start(),
            start(),
            json!({"type": "something_new", "x": 1}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "server_tool_use", "id": "s", "name": "n", "input": {}}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}}),
            json!({"type": "content_block_stop", "index": 0}),
        ];
        assert_eq!(translated(&odd).expect("a stream").len(), 1, "the role alone");
        let early = [json!({"type": "content_block_stop", "index": 0})];
        assert!(matches!(translated(&early), Err(Fault::Malformed(_))));
        let error = [
            start(),
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        ];
        assert!(matches!(translated(&error), Err(Fault::Reported(told)) if told.kind == "overloaded_error"));
        assert!(matches!(
            Translator::default().take(b"{\"type\":", &mut VecDeque::new()),
            Err(Fault::Malformed(_))
        ));
    }

    #[test]
    fn a_cut_stream_knows_its_prompt_and_a_whole_one_everything() {
        let mut reply = Reply::default();
        for event in read(&[TEXT.as_bytes()]) {
            let Event::Chunk(chunk) = event else { continue };
            reply.absorb(&chunk).expect("a chunk");
            if !reply.finished() {
                assert_eq!(reply.usage(), None);
                assert_eq!(reply.prompt_told().map(|usage| (usage.prompt, usage.cached)), Some((100, 75)));
            }
        }
        assert_eq!(
            reply.usage().map(|usage| (usage.prompt, usage.cached, usage.output)),
            Some((100, 75, 15))
        );
    }
}
