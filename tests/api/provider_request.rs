//! What the provider is asked, and what it must never see.

use serde_json::{Value, json};

use crate::app::{App, MODEL, PROVIDER_KEY, merged};

/// The fields of the upstream's request that the server sets by itself.
const OURS: [&str; 5] = ["model", "messages", "max_tokens", "max_completion_tokens", "stream_options"];

fn without_ours(body: &Value) -> Value {
    let mut fields = body.as_object().cloned().unwrap_or_default();
    fields.retain(|name, _| !OURS.contains(&name.as_str()));
    fields.into()
}

#[test]
fn fields_known_or_not_reach_the_provider_as_they_came() {
    let app = App::start();
    let fields = json!({
        "temperature": 0.7, "top_p": 0.30000000000000004, "seed": 9_007_199_254_740_993_u64,
        "presence_penalty": -0.5, "frequency_penalty": 1, "stop": ["a", "b"], "logit_bias": {"50256": -100},
        "logprobs": true, "top_logprobs": 5, "tool_choice": "auto", "parallel_tool_calls": false,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": true}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": true}},
        "reasoning_effort": "ultra", "verbosity": "low", "user": "ann", "top_k": 40, "min_p": 0.05,
        "chat_template_kwargs": {"enable_thinking": false}, "x_vendor_extra": [1, null, {"deep": [true]}],
    });
    app.say("Hello", fields.clone());
    let mut sent = without_ours(&app.upstream.last().body);
    if let Some(body) = sent.as_object_mut() {
        body.remove("stream");
    }
    assert_eq!(sent, fields);
    app.finish();
}

#[test]
fn the_order_of_keys_and_the_spelling_of_numbers_are_kept() {
    let app = App::start();
    let extra = r#""tools":[{"type":"function","function":{"name":"f","parameters":{"zeta":{"b":1.50,"a":1E2},"alpha":18446744073709551616}}}]"#;
    let body =
        format!(r#"{{"model":"{}","messages":[{{"role":"user","content":"Hello"}}],{extra}}}"#, app.agent_id);
    let call = app.call("POST", "/v1/chat/completions").key(&app.account_key);
    call.body("application/json", body).send().is(200);
    let raw = app.upstream.last().raw;
    assert!(raw.contains(extra), "the tools were changed: {raw}");
    app.finish();
}

#[test]
fn our_own_fields_do_not_reach_the_provider() {
    let app = App::start();
    let fields = json!({"agent_id": app.agent_id, "session_id": "mine", "stream_format": "openai"});
    app.say("Hello", fields);
    let body = app.upstream.last().body;
    for name in ["agent_id", "session_id", "stream_format"] {
        assert_eq!(body.get(name), None, "{name} reaches the provider");
    }
    app.finish();
}

#[test]
fn the_provider_sees_its_own_key_and_model_and_nothing_of_the_client() {
    let app = App::start();
    let body = app.saying("Hello", json!({"session_id": "mine"}));
    let call = app
        .chat_call(&body)
        .header("OpenAI-Organization", "org-client")
        .header("OpenAI-Project", "proj-client")
        .header("X-Stainless-Lang", "python")
        .header("X-Client-Request-Id", "client-request-7")
        .header("Cookie", "client=1")
        .header("Referer", "https://client.example")
        .header("X-Title", "client title")
        .header("User-Agent", "ClientAgent/1.0");
    call.send().is(200);
    let sent = app.upstream.last();
    assert_eq!(sent.line, "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(sent.header("authorization"), Some(format!("Bearer {PROVIDER_KEY}").as_str()));
    assert_eq!(sent.header("content-type").and_then(|kind| kind.split(';').next()), Some("application/json"));
    assert_eq!(sent.body["model"], MODEL);
    let everything = format!("{:?}{}", sent.headers, sent.raw);
    for private in [app.account_key.as_str(), app.agent_id.as_str(), app.account_id.as_str(), "lient"] {
        assert!(!everything.contains(private), "{private} reaches the provider: {everything}");
    }
    for name in ["x-session-id", "x-stainless-lang", "cookie", "openai-project", "x-title", "referer"] {
        assert_eq!(sent.header(name), None, "{name} reaches the provider");
    }
    app.finish();
}

#[test]
fn the_instructions_of_the_agent_come_first_and_those_of_the_client_after_them() {
    let app = App::start();
    let (agent, key) = app.agent(json!({"instructions": "You are a pirate."}));
    let messages = json!([
        {"role": "system", "content": "Speak like a lawyer."},
        {"role": "user", "content": "Hello"},
    ]);
    app.post(&key, "/v1/chat/completions", &json!({"model": agent, "messages": messages})).is(200);
    let sent = app.upstream.last().body["messages"].clone();
    let expected = json!([
        {"role": "system", "content": "You are a pirate."},
        {"role": "system", "content": "Speak like a lawyer."},
        {"role": "user", "content": "Hello"},
    ]);
    assert_eq!(sent, expected);
    app.finish();
}

#[test]
fn an_agent_without_instructions_adds_no_message() {
    let app = App::start();
    let (agent, key) = app.agent(json!({}));
    let messages = json!([{"role": "user", "content": "Hello"}]);
    app.post(&key, "/v1/chat/completions", &json!({"model": agent, "messages": messages})).is(200);
    assert_eq!(app.upstream.last().body["messages"], messages);
    app.finish();
}

#[test]
fn usage_is_always_asked_for_in_streams_and_other_stream_options_are_kept() {
    let app = App::start();
    let options = [
        json!({}),
        json!({"stream_options": {"include_usage": false, "include_obfuscation": false}}),
        json!({"stream_options": null}),
    ];
    for more in options {
        app.stream("Hello", more.clone()).rest();
        let sent = app.upstream.last().body;
        assert_eq!(sent["stream"], true);
        let mut expected = more["stream_options"].clone();
        if expected.is_null() {
            expected = json!({});
        }
        assert_eq!(sent["stream_options"], merged(expected, json!({"include_usage": true})));
    }
    app.say("Hello", json!({}));
    let plain = app.upstream.last().body;
    assert_ne!(plain["stream"], true);
    assert_eq!(plain.get("stream_options"), None, "only streams have stream options");
    app.finish();
}

#[test]
fn a_bound_on_the_output_is_always_sent() {
    let app = App::start();
    for name in ["max_tokens", "max_completion_tokens"] {
        app.say("Hello", json!({ name: 77 }));
        assert_eq!(app.upstream.last().max_output(), 77);
    }
    app.say("Hello", json!({}));
    assert!(app.upstream.last().max_output() >= 256);
    app.stream("Hello", json!({})).rest();
    assert!(app.upstream.last().max_output() >= 256);
    app.finish();
}

#[test]
fn fields_that_change_the_price_are_refused_by_name() {
    let app = App::start();
    let cases = [
        ("service_tier", json!("priority")),
        ("web_search_options", json!({})),
        ("modalities", json!(["text", "audio"])),
    ];
    for (name, value) in cases {
        let answer = app.chat(&app.saying("Hello", json!({ name: value })));
        assert_eq!(answer.status, 400, "{name} is let through: {}", answer.text());
        let error = answer.json()["error"].clone();
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], name);
        assert!(error["message"].as_str().is_some_and(|message| message.contains(name)));
    }
    assert!(app.upstream.requests().is_empty(), "the provider was asked all the same");
    for (name, value) in [("service_tier", json!("default")), ("modalities", json!(["text"]))] {
        app.say("Hello", json!({ name: value }));
    }
    app.finish();
}
