//! The built-in provider: answers without any model, and says so.
//!
//! Its tokens are words and signs, counted the same way in prompt and answer, so that a new user sees streaming,
//! memory and a falling balance before having an account anywhere.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};

use crate::clock;
use crate::error::UpstreamFailure;
use crate::json::Raw;
use crate::provider::{Answer, Call, Event, Provider, Timeouts};

/// The most of the user's words that are said back, in characters.
const MAX_ECHO: usize = 200;

/// Between two tokens, so that the stream is seen to be one.
const PACE: Duration = Duration::from_millis(10);

/// The provider that needs nothing.
pub struct Demo;

impl Provider for Demo {
    fn call(&self, call: Call) -> LocalBoxFuture<'static, Result<Answer, UpstreamFailure>> {
        Box::pin(async move { Ok(answer(&call)) })
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts::DEFAULT
    }
}

fn answer(call: &Call) -> Answer {
    let said = call.messages.messages();
    let messages: Vec<Value> = said.iter().filter_map(|raw| raw.read().ok()).collect();
    let prompt: usize = said.iter().map(Raw::text).map(|text| tokens(&text).count()).sum();
    let text = say(&messages);
    let bound = usize::try_from(call.max_output).unwrap_or(usize::MAX);
    let all: Vec<&str> = tokens(&text).collect();
    let said = &all[..all.len().min(bound)];
    let finish = if said.len() < all.len() { "length" } else { "stop" };
    let usage = json!({
        "prompt_tokens": prompt,
        "completion_tokens": said.len(),
        "total_tokens": prompt + said.len(),
    });
    let created = clock::now_ms() / 1_000;
    if !call.stream {
        let message = json!({"role": "assistant", "content": said.concat(), "refusal": null});
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish});
        let whole = json!({"id": "demo", "object": "chat.completion", "created": created, "model": "demo",
            "choices": [choice], "usage": usage});
        return Answer::Whole(Raw::of(&whole).bytes().clone());
    }
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({"id": "demo", "object": "chat.completion.chunk", "created": created, "model": "demo",
            "choices": choices, "usage": usage});
        Event::Chunk(Raw::of(&chunk).bytes().clone())
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}), Value::Null)];
    events.extend(said.iter().map(|piece| delta(json!({"content": piece}), Value::Null)));
    events.push(delta(json!({}), json!(finish)));
    events.push(chunk(json!([]), usage));
    events.push(Event::Done);
    let paced = stream::iter(events).then(|event| async move {
        tokio::time::sleep(PACE).await;
        Ok(event)
    });
    Answer::Stream(paced.boxed_local())
}

fn say(messages: &[Value]) -> String {
    let by = |role: &str| {
        messages.iter().filter(|message| message["role"] == role).map(text_of).collect::<Vec<_>>()
    };
    let asked = by("user");
    let last = asked.last().cloned().unwrap_or_default();
    let echo: String = last.chars().take(MAX_ECHO).collect();
    let memory = match asked.len() {
        0 | 1 => "This is the first message of our conversation.".to_owned(),
        count => {
            let before: String = asked[count - 2].chars().take(MAX_ECHO).collect();
            format!("I remember {} earlier of your messages; the last one was: \"{before}\".", count - 1)
        }
    };
    format!(
        "This is a demonstration: no language model is connected, so nothing here was thought. You said: \
         \"{echo}\". {memory} Everything else is real: the stream, the session and the charge for these words."
    )
}

fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

/// Words with the blanks before them; every other sign on its own.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let blanks = rest.len() - rest.trim_start().len();
        let word: usize =
            rest[blanks..].chars().take_while(|c| c.is_alphanumeric()).map(char::len_utf8).sum();
        let end = match (word, rest[blanks..].chars().next()) {
            (0, Some(sign)) => blanks + sign.len_utf8(),
            (word, _) => blanks + word,
        };
        let (token, after) = rest.split_at(end);
        rest = after;
        (!token.is_empty()).then_some(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_whole_text() {
        let text = "It's  a \"tèst\",\n1.5 of  it. ";
        let all: Vec<&str> = tokens(text).collect();
        assert_eq!(all.concat(), text);
        assert_eq!(&all[..4], ["It", "'", "s", "  a"]);
    }
}
