//! A message of Claude's as a `chat.completion` object.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::json::Raw;
use crate::provider::anthropic::blocks::Text;
use crate::provider::anthropic::failure::ErrorTold;

/// Tokens as Anthropic counts them. In a stream each part comes when it is known, and later ones replace it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct UsageTold {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl UsageTold {
    /// Takes over what is told anew.
    pub fn update(&mut self, newer: &Self) {
        self.input_tokens = newer.input_tokens.or(self.input_tokens);
        self.cache_creation_input_tokens =
            newer.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_read_input_tokens = newer.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.output_tokens = newer.output_tokens.or(self.output_tokens);
    }

    /// What a stream tells at its start: its count of the answer says nothing yet.
    pub fn at_start(self) -> Self {
        Self { output_tokens: None, ..self }
    }

    /// Everything, in OpenAI's words. `None` where something was not counted.
    pub fn whole(&self) -> Option<Value> {
        let (mut usage, output) = (self.prompt()?, self.output_tokens?);
        let prompt = usage["prompt_tokens"].as_u64().unwrap_or(0);
        usage["completion_tokens"] = output.into();
        usage["total_tokens"] = prompt.saturating_add(output).into();
        Some(usage)
    }

    /// The prompt alone, while nobody knows how long the answer will be.
    pub fn prompt(&self) -> Option<Value> {
        let cached = self.cache_read_input_tokens.unwrap_or(0);
        let written = self.cache_creation_input_tokens.unwrap_or(0);
        let prompt = self.input_tokens?.saturating_add(cached).saturating_add(written);
        Some(json!({
            "prompt_tokens": prompt,
            "completion_tokens": null,
            "prompt_tokens_details": {"cached_tokens": cached},
        }))
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Vec<Block<'a>>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
    usage: Option<UsageTold>,
    error: Option<ErrorTold>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// Why an answer ended, in OpenAI's words.
pub fn finish_reason(stop_reason: &str) -> &'static str {
    match stop_reason {
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        // end_turn, stop_sequence, pause_turn, and what is yet to come.
        _ => "stop",
    }
}

/// What a whole body turned out to be.
#[derive(Debug)]
pub enum Whole {
    /// An answer, as a `chat.completion` object.
    Answer(Bytes),
    /// An error in its place.
    Error(ErrorTold),
}

/// Reads a body.
///
/// # Errors
/// When it is no message.
pub fn translate(body: &Bytes) -> serde_json::Result<Whole> {
    let told: Message<'_> = serde_json::from_slice(body)?;
    if let Some(error) = told.error {
        return Ok(Whole::Error(error));
    }
    let (Some(blocks), Some(stop_reason)) = (told.content, told.stop_reason) else {
        return Err(serde::de::Error::custom("a message without content or stop_reason"));
    };
    let mut completion = json!({"object": "chat.completion", "choices": [{
        "index": 0,
        "message": message(blocks),
        "logprobs": null,
        "finish_reason": finish_reason(&stop_reason.0),
    }]});
    if let Some(usage) = told.usage.and_then(|usage| usage.whole()) {
        completion["usage"] = usage;
    }
    Ok(Whole::Answer(Raw::of(&completion).bytes().clone()))
}

fn message(blocks: Vec<Block<'_>>) -> Value {
    let (mut words, mut thoughts, mut calls) = (String::new(), String::new(), Vec::new());
    let text = |text: &Option<Text<'_>>| text.as_ref().map_or(String::new(), |text| text.0.to_string());
    for block in blocks {
        match &*block.kind.0 {
            "text" => words.push_str(&text(&block.text)),
            "thinking" => thoughts.push_str(&text(&block.thinking)),
            "tool_use" => {
                let arguments = block.input.map_or("{}", RawValue::get);
                calls.push(json!({
                    "id": text(&block.id),
                    "type": "function",
                    "function": {"name": text(&block.name), "arguments": arguments},
                }));
            }
            // Sealed thoughts and the like hold nothing for a client.
            _ => {}
        }
    }
    let nothing = words.is_empty() && !calls.is_empty();
    let content = if nothing { Value::Null } else { Value::from(words) };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !thoughts.is_empty() {
        message["reasoning_content"] = thoughts.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &Value) -> Value {
        match translate(Raw::of(body).bytes()) {
            Ok(Whole::Answer(answer)) => serde_json::from_slice(&answer).expect("JSON"),
            other => panic!("{other:?}"),
        }
    }

    fn said(content: Value, stop_reason: &str) -> Value {
        let usage = json!({"input_tokens": 10, "output_tokens": 7});
        answer(&json!({"type": "message", "content": content, "stop_reason": stop_reason, "usage": usage}))
    }

    #[test]
    fn words_thoughts_and_calls_are_told_apart() {
        let content = json!([
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "Hello "},
            {"type": "text", "text": "there"},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"z": 1.5, "a": []}},
        ]);
        let choice = said(content, "tool_use")["choices"][0].clone();
        let calls = json!([{"id": "toolu_1", "type": "function",
            "function": {"name": "f", "arguments": "{\"z\":1.5,\"a\":[]}"}}]);
        let message = json!({"role": "assistant", "content": "Hello there", "refusal": null,
            "reasoning_content": "Hm.", "tool_calls": calls});
        assert_eq!(choice["message"], message);
        assert_eq!(choice["finish_reason"], "tool_calls");
    }

    #[test]
    fn a_call_alone_has_no_words_and_an_empty_answer_empty_ones() {
        let call = json!([{"type": "tool_use", "id": "t", "name": "f", "input": {}}]);
        assert_eq!(said(call, "tool_use")["choices"][0]["message"]["content"], Value::Null);
        assert_eq!(said(json!([]), "end_turn")["choices"][0]["message"]["content"], "");
    }

    #[test]
    fn the_prompt_is_all_that_was_read_whether_cached_or_not() {
        let usage = json!({"input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 100,
            "output_tokens": 7, "service_tier": "standard"});
        let body = json!({"content": [], "stop_reason": "end_turn", "usage": usage});
        let expected = json!({"prompt_tokens": 115, "completion_tokens": 7, "total_tokens": 122,
            "prompt_tokens_details": {"cached_tokens": 100}});
        assert_eq!(answer(&body)["usage"], expected);
        for half in [json!({"output_tokens": 3}), json!({"input_tokens": 3}), json!({})] {
            let uncounted = json!({"content": [], "stop_reason": "end_turn", "usage": half});
            assert_eq!(answer(&uncounted).get("usage"), None);
        }
    }

    #[test]
    fn each_reason_has_its_word() {
        for (stop_reason, expected) in [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("pause_turn", "stop"),
            ("max_tokens", "length"),
            ("model_context_window_exceeded", "length"),
            ("tool_use", "tool_calls"),
            ("refusal", "content_filter"),
            ("something_new", "stop"),
        ] {
            assert_eq!(finish_reason(stop_reason), expected, "{stop_reason}");
        }
    }

    #[test]
    fn an_error_in_the_place_of_an_answer_is_seen() {
        let body = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
        match translate(Raw::of(&body).bytes()) {
            Ok(Whole::Error(error)) => assert_eq!(error.kind, "overloaded_error"),
            other => panic!("{other:?}"),
        }
        for body in ["", "{}", "[]", r#"{"content":[]}"#] {
            assert!(translate(&Bytes::from_static(body.as_bytes())).is_err(), "{body}");
        }
    }
}
