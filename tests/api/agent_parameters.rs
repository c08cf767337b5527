//! What an agent sets for every request, and what a request may change of it.

use serde_json::{Value, json};

use crate::app::App;

fn ask(app: &App, agent: &str, key: &str, more: Value) -> u16 {
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let body = crate::app::merged(json!({"model": agent, "messages": messages}), more);
    app.post(key, "/v1/chat/completions", &body).status
}

#[test]
fn the_parameters_of_an_agent_are_defaults() {
    let app = App::start();
    let (agent, key) = app.agent(json!({
        "temperature": 0.25, "max_tokens": 321, "parameters": {"top_p": 0.5, "x_vendor": {"a": [1]}},
    }));
    assert_eq!(ask(&app, &agent, &key, json!({})), 200);
    let sent = app.upstream.last();
    assert_eq!(sent.body["temperature"], 0.25);
    assert_eq!(sent.body["top_p"], 0.5);
    assert_eq!(sent.body["x_vendor"], json!({"a": [1]}));
    assert_eq!(sent.max_output(), 321);
    app.finish();
}

#[test]
fn what_a_request_says_wins_over_the_parameters_of_the_agent() {
    let app = App::start();
    let (agent, key) = app.agent(json!({
        "temperature": 0.25, "max_tokens": 321, "parameters": {"top_p": 0.5},
    }));
    let more = json!({"temperature": 1.5, "max_completion_tokens": 99, "top_p": 0.75});
    assert_eq!(ask(&app, &agent, &key, more), 200);
    let sent = app.upstream.last();
    assert_eq!(sent.body["temperature"], 1.5);
    assert_eq!(sent.body["top_p"], 0.75);
    assert_eq!(sent.max_output(), 99);
    app.finish();
}

#[test]
fn what_an_agent_locks_no_request_changes() {
    let app = App::start();
    let (agent, key) = app.agent(json!({
        "temperature": 0.25, "max_tokens": 321, "parameters": {"top_p": 0.5},
        "locked": ["temperature", "top_p", "max_tokens", "tools"],
    }));
    assert_eq!(ask(&app, &agent, &key, json!({})), 200, "a lock does not hinder who keeps to it");
    let overrides = [
        ("temperature", json!(1.5)),
        ("top_p", json!(0.75)),
        ("max_tokens", json!(99)),
        ("max_completion_tokens", json!(99)),
        ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
    ];
    for (name, value) in overrides {
        let before = app.upstream.requests().len();
        let status = ask(&app, &agent, &key, json!({ name: value }));
        assert!([200, 400].contains(&status), "{name}: {status}");
        for sent in &app.upstream.requests()[before..] {
            assert_eq!(sent.body["temperature"], 0.25, "{name} was sent");
            assert_eq!(sent.body["top_p"], 0.5, "{name} was sent");
            assert_eq!(sent.max_output(), 321, "{name} was sent");
            assert_eq!(sent.body.get("tools"), None, "{name} was sent");
        }
    }
    app.finish();
}

#[test]
fn a_change_of_the_agent_holds_from_the_next_request_on() {
    let app = App::start();
    let (agent, key) = app.agent(json!({"instructions": "Be brief.", "temperature": 0.25}));
    assert_eq!(ask(&app, &agent, &key, json!({})), 200);
    let change = json!({"instructions": "Be long.", "temperature": 0.75});
    app.patch(&app.account_key, &format!("/v2/agents/{agent}"), &change).is(200);
    assert_eq!(ask(&app, &agent, &key, json!({})), 200);
    let sent = app.upstream.last().body;
    assert_eq!(sent["messages"][0]["content"], "Be long.");
    assert_eq!(sent["temperature"], 0.75);
    app.finish();
}

#[test]
fn a_long_conversation_leaves_its_oldest_turns_out_of_the_prompt() {
    let app = App::start();
    let (agent, _) = app.agent(json!({"context_tokens": 400, "instructions": "Be brief."}));
    let long = "word ".repeat(100);
    let say = |text: &str| {
        let messages = json!([{"role": "user", "content": text}]);
        let body = json!({"model": agent, "session_id": "long", "messages": messages, "max_tokens": 20});
        app.chat(&body).is(200)
    };
    assert_eq!(say(&format!("first {long}")).headers.find("x-context-dropped").unwrap_or("0"), "0");
    say(&format!("second {long}"));
    say(&format!("third {long}"));
    let answer = say("fourth");
    assert!(answer.headers.number("x-context-dropped") >= 1);
    let sent = app.upstream.last();
    assert_eq!(sent.body["messages"][0]["content"], "Be brief.");
    assert_eq!(sent.last_text(), "fourth");
    assert!(!sent.raw.contains("first word"), "the oldest turn is still in the prompt");
    assert_eq!(sent.conversation()[0]["role"], "user", "the prompt begins with a whole turn");
    let path = format!("/v2/sessions/long/messages?agent_id={agent}&limit=100");
    let stored = app.get(&app.account_key, &path).ok();
    assert_eq!(stored["messages"].as_array().map(Vec::len), Some(8), "nothing leaves the store");
    app.finish();
}
