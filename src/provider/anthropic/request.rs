//! A request in OpenAI's words as a request of Messages.

use bytes::Bytes;
use serde_json::json;

use crate::error::Invalid;
use crate::json::{Fields, ObjectWriter, Raw};
use crate::provider::Call;
use crate::provider::anthropic::messages::Conversation;
use crate::provider::anthropic::options::{Options, fits_thinking, thinking_budget};
use crate::provider::anthropic::tools::{Choice, Tool};

/// Refuses fields that have no counterpart, or that change the price beyond what the price list covers.
///
/// # Errors
/// Names the field.
pub fn check_fields(fields: &Fields) -> Result<(), Invalid> {
    Options::read(fields).map(drop)
}

/// Refuses messages that have no counterpart.
///
/// # Errors
/// Names the part of the message.
pub fn check_messages<'a>(messages: impl IntoIterator<Item = &'a Raw>) -> Result<(), Invalid> {
    Conversation::read(messages).map(drop)
}

/// The request as the provider gets it.
///
/// # Errors
/// Names what has no counterpart. The client's part of it was checked before; the rest of the conversation may have
/// been held with another model.
pub fn body(call: &Call) -> Result<Bytes, Invalid> {
    let messages = call.messages.messages();
    let conversation = Conversation::read(&messages).and_then(Conversation::complete);
    let conversation = conversation.map_err(|invalid| {
        let message = format!("the conversation cannot be sent to this model: {}", invalid.message);
        Invalid { param: Some("messages".to_owned()), code: invalid.code, message }
    })?;
    let mut options = Options::read(&call.fields)?;
    // Messages take no calls of tools that the request does not name: those that were called earlier are named, and
    // may not be called again.
    if options.tools.is_empty() {
        options.tools = conversation.tools().into_iter().map(Tool::named).collect();
        options.choice = Some(Choice::None);
    }
    let budget = thinking(&options, &conversation, call.max_output);
    let size = call.messages.size() + 64 * messages.len();
    let mut body = ObjectWriter::with_capacity(size + 1_024);
    body.string("model", &call.model);
    body.value("max_tokens", &call.max_output);
    if !conversation.system.is_empty() {
        body.value("system", &conversation.system);
    }
    body.value("messages", &conversation.turns);
    if !options.tools.is_empty() {
        body.value("tools", &options.tools);
        if let Some(choice) = options.choice.or((!options.parallel).then_some(Choice::Auto)) {
            body.value("tool_choice", &choice.to_json(options.parallel));
        }
    }
    if let Some(budget) = budget {
        body.value("thinking", &json!({"type": "enabled", "budget_tokens": budget}));
    }
    for (name, value) in options.passed.iter() {
        if budget.is_none() || fits_thinking(name, value) {
            body.field(name, value.bytes());
        }
    }
    if call.stream {
        body.value("stream", &true);
    }
    Ok(body.finish())
}

/// How long the model may think before it answers. Where that cannot be combined with something that was said more
/// plainly, it does not: a forced call, a begun answer, the results of calls (which would have to come back with the
/// thoughts that led to them), a small bound, or Claude's own word for it.
fn thinking(options: &Options<'_>, conversation: &Conversation<'_>, max_output: u64) -> Option<u64> {
    let forced = options.choice.as_ref().is_some_and(Choice::forces);
    if forced || conversation.goes_on() || options.passed.get("thinking").is_some() {
        return None;
    }
    thinking_budget(options.effort?, max_output)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use serde_json::Value;

    use super::*;

    fn call(messages: Value, fields: Value) -> Call {
        Call {
            model: "real".into(),
            messages: Rc::new(messages.as_array().expect("a list").iter().map(Raw::of).collect()),
            newer_names: false,
            fields: Fields::parse(Raw::of(&fields).bytes()).expect("an object"),
            max_output: 10_000,
            stream: false,
            own: None,
        }
    }

    fn sent(messages: Value, fields: Value) -> Value {
        let body = body(&call(messages, fields)).expect("a request");
        serde_json::from_slice(&body).expect("JSON")
    }

    fn hello() -> Value {
        json!([{"role": "user", "content": "hi"}])
    }

    fn called() -> Value {
        let calls = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        json!([
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ])
    }

    fn tool() -> Value {
        json!([{"type": "function", "function": {"name": "f"}}])
    }

    #[test]
    fn a_small_request_is_a_small_request() {
        let mut call = call(hello(), json!({"x_new": 1}));
        call.stream = true;
        let expected = r#"{"model":"real","max_tokens":10000,"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],"x_new":1,"stream":true}"#;
        assert_eq!(std::str::from_utf8(&body(&call).expect("a request")).expect("text"), expected);
    }

    #[test]
    fn one_call_at_a_time_needs_a_choice_to_stand_in() {
        let choice = |fields: Value| sent(hello(), fields)["tool_choice"].clone();
        assert_eq!(choice(json!({"tools": tool()})), Value::Null);
        let one = json!({"type": "auto", "disable_parallel_tool_use": true});
        assert_eq!(choice(json!({"tools": tool(), "parallel_tool_calls": false})), one);
        assert_eq!(choice(json!({"parallel_tool_calls": false})), Value::Null);
    }

    #[test]
    fn tools_that_were_called_are_named_even_if_they_are_gone() {
        let body = sent(called(), json!({}));
        assert_eq!(body["tools"][0]["name"], "f");
        assert_eq!(body["tool_choice"], json!({"type": "none"}));
    }

    #[test]
    fn thoughts_are_asked_for_where_they_are_allowed() {
        let thinking = |messages: Value, fields: Value| sent(messages, fields)["thinking"].clone();
        let high = json!({"reasoning_effort": "high", "tools": tool()});
        let budget = json!({"type": "enabled", "budget_tokens": 5_000});
        assert_eq!(thinking(hello(), high.clone()), budget);
        assert_eq!(thinking(called(), high), Value::Null);
        let forced = json!({"reasoning_effort": "high", "tools": tool(), "tool_choice": "required"});
        assert_eq!(thinking(hello(), forced), Value::Null);
        let begun = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well"}]);
        assert_eq!(thinking(begun, json!({"reasoning_effort": "high"})), Value::Null);
        let own = json!({"reasoning_effort": "high", "thinking": {"type": "adaptive"}});
        assert_eq!(thinking(hello(), own), json!({"type": "adaptive"}));
    }

    #[test]
    fn thoughts_come_without_what_they_do_not_bear() {
        let fields = json!({"reasoning_effort": "low", "temperature": 0.5, "top_k": 3, "top_p": 0.5});
        let body = sent(hello(), fields);
        for name in ["temperature", "top_k", "top_p"] {
            assert_eq!(body.get(name), None, "{name}");
        }
        assert_eq!(sent(hello(), json!({"reasoning_effort": "low", "top_p": 0.99}))["top_p"], 0.99);
        assert_eq!(sent(hello(), json!({"reasoning_effort": "none", "top_k": 3}))["top_k"], 3);
    }

    #[test]
    fn a_history_that_cannot_be_sent_is_told_as_such() {
        let audio = json!([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]);
        let invalid = body(&call(audio, json!({}))).expect_err("refused");
        assert_eq!(invalid.param.as_deref(), Some("messages"));
        assert!(invalid.message.contains("messages[0].content[0]"), "{}", invalid.message);
    }
}
