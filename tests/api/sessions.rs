//! Conversations that the server remembers.

use serde_json::{Value, json};

use crate::app::{App, merged};
use crate::client::Answer;
use crate::script::{Reply, Script};

/// An app whose model answers "re: " and what was said.
fn echoing() -> App {
    let app = App::start();
    app.upstream.choose(|request| {
        let text = request.last_text();
        Reply::says(&["re: ", &text]).usage(9, 2).into()
    });
    app
}

fn texts(app: &App) -> Vec<String> {
    app.upstream.last().said().into_iter().map(|(role, text)| format!("{role}: {text}")).collect()
}

fn say_in(app: &App, session: &str, messages: Value) -> Answer {
    let body = json!({"model": app.agent_id, "session_id": session, "messages": messages});
    app.chat(&body).is(200)
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

#[test]
fn a_second_turn_knows_the_first() {
    let app = echoing();
    let first = app.say("one", json!({}));
    let second = app.say("two", json!({"session_id": first["session_id"]}));
    assert_eq!(second["session_id"], first["session_id"]);
    assert_eq!(texts(&app), ["user: one", "assistant: re: one", "user: two"]);
    app.finish();
}

#[test]
fn a_long_conversation_reaches_the_provider_whole_and_in_order() {
    let app = echoing();
    let mut said = Vec::new();
    for number in 0..40 {
        say_in(&app, "long", json!([user(&format!("turn {number}"))]));
        said.push(format!("user: turn {number}"));
        assert_eq!(texts(&app), said);
        said.push(format!("assistant: re: turn {number}"));
    }
    app.finish();
}

#[test]
fn a_streamed_turn_is_remembered_like_a_plain_one() {
    let app = echoing();
    let mut stream = app.stream("one", json!({"session_id": "mine"}));
    assert!(stream.rest().last().expect("events").is_done());
    let mut stream = app.stream("two", json!({"session_id": "mine"}));
    stream.rest();
    assert_eq!(texts(&app), ["user: one", "assistant: re: one", "user: two"]);
    app.finish();
}

#[test]
fn the_session_may_be_named_in_a_header() {
    let app = echoing();
    for text in ["one", "two"] {
        let call = app.chat_call(&app.saying(text, json!({}))).header("X-Session-Id", "from-header");
        let answer = call.send().is(200);
        assert_eq!(answer.headers.required("x-session-id"), "from-header");
        assert_eq!(answer.json()["session_id"], "from-header");
    }
    assert_eq!(texts(&app), ["user: one", "assistant: re: one", "user: two"]);
    app.finish();
}

#[test]
fn requests_without_a_session_know_nothing_of_each_other() {
    let app = echoing();
    let one = app.say("one", json!({}));
    let two = app.say("two", json!({}));
    assert_ne!(one["session_id"], two["session_id"]);
    assert_eq!(texts(&app), ["user: two"]);
    app.finish();
}

#[test]
fn a_name_of_the_clients_own_is_taken_and_a_bad_one_refused() {
    let app = echoing();
    let longest = "a".repeat(128);
    for name in ["A-z_0.9:x", longest.as_str()] {
        assert_eq!(app.say("one", json!({ "session_id": name }))["session_id"], name);
    }
    let too_long = "a".repeat(129);
    for name in ["", "with space", "sla/sh", "\u{e9}", too_long.as_str()] {
        let answer = app.chat(&app.saying("one", json!({ "session_id": name })));
        assert_eq!(answer.status, 400, "{name:?} is taken: {}", answer.text());
        assert_eq!(answer.json()["error"]["param"], "session_id");
    }
    app.finish();
}

#[test]
fn a_conversation_that_is_sent_again_is_recognised() {
    let app = echoing();
    let one = [user("one")];
    let two = [user("one"), assistant("re: one"), user("two")];
    let three = [user("one"), assistant("re: one"), user("two"), assistant("re: two"), user("three")];
    assert_eq!(say_in(&app, "s", json!(one)).headers.find("x-history-matched").unwrap_or("0"), "0");
    assert_eq!(say_in(&app, "s", json!(two)).headers.number("x-history-matched"), 2);
    assert_eq!(say_in(&app, "s", json!(three)).headers.number("x-history-matched"), 4);
    let expected = ["user: one", "assistant: re: one", "user: two", "assistant: re: two", "user: three"];
    assert_eq!(texts(&app), expected);
    app.finish();
}

#[test]
fn a_conversation_that_is_sent_again_cut_to_a_window_is_recognised() {
    let app = echoing();
    for text in ["one", "two", "three"] {
        say_in(&app, "s", json!([user(text)]));
    }
    let system = json!({"role": "system", "content": "Be brief."});
    let window = [system, assistant("re: two"), user("three"), assistant("re: three"), user("four")];
    let answer = say_in(&app, "s", json!(window));
    assert_eq!(answer.headers.number("x-history-matched"), 3);
    let expected = [
        "user: one",
        "assistant: re: one",
        "user: two",
        "assistant: re: two",
        "user: three",
        "assistant: re: three",
        "user: four",
    ];
    assert_eq!(texts(&app), expected);
    app.finish();
}

#[test]
fn messages_that_do_not_go_on_from_the_history_are_all_new() {
    let app = echoing();
    say_in(&app, "s", json!([user("one")]));
    let other = [user("one"), assistant("something else"), user("two")];
    let answer = say_in(&app, "s", json!(other));
    assert_eq!(answer.headers.find("x-history-matched").unwrap_or("0"), "0");
    let expected = ["user: one", "assistant: re: one", "user: one", "assistant: something else", "user: two"];
    assert_eq!(texts(&app), expected);
    app.finish();
}

#[test]
fn a_tool_is_called_and_its_result_understood_within_a_session() {
    let app = App::start();
    app.upstream.next(Reply::calls("call_1", "lookup", &["{\"q\":", "1}"]));
    app.upstream.next(Reply::says(&["It is 42."]));
    let mut stream = app.stream("Look it up", json!({"session_id": "s"}));
    assert!(stream.rest().last().expect("events").is_done());
    let result = json!({"role": "tool", "tool_call_id": "call_1", "content": "42"});
    say_in(&app, "s", json!([result]));
    let sent = app.upstream.last().conversation();
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[1]["role"], "assistant");
    let function = json!({"name": "lookup", "arguments": "{\"q\":1}"});
    let call = json!({"id": "call_1", "type": "function", "function": function});
    assert_eq!(sent[1]["tool_calls"], json!([call]));
    assert!(sent[1].get("content").is_none_or(|content| content.is_null() || content == ""));
    assert_eq!(sent[2], result);
    app.finish();
}

#[test]
fn a_tool_conversation_that_is_sent_again_is_recognised_too() {
    let app = App::start();
    app.upstream.next(Reply::calls("call_1", "lookup", &["{}"]));
    let first = say_in(&app, "s", json!([user("Look it up")])).json();
    let said = first["choices"][0]["message"].clone();
    let result = json!({"role": "tool", "tool_call_id": "call_1", "content": "42"});
    let answer = say_in(&app, "s", json!([user("Look it up"), said, result]));
    assert_eq!(answer.headers.number("x-history-matched"), 2);
    assert_eq!(app.upstream.last().conversation().len(), 3);
    app.finish();
}

#[test]
fn system_messages_of_one_request_do_not_pile_up_in_the_next() {
    let app = echoing();
    let system = json!({"role": "system", "content": "Be brief."});
    say_in(&app, "s", json!([system, user("one")]));
    say_in(&app, "s", json!([system, user("one"), assistant("re: one"), user("two")]));
    let sent = app.upstream.last().body;
    let systems = sent["messages"].as_array().expect("messages").iter();
    let brief = systems.filter(|message| message["content"] == "Be brief.").count();
    assert_eq!(brief, 1, "in {sent}");
    app.finish();
}

#[test]
fn a_session_survives_a_restart() {
    let mut app = echoing();
    app.say("one", json!({"session_id": "s"}));
    app.restart();
    app.say("two", json!({"session_id": "s"}));
    assert_eq!(texts(&app), ["user: one", "assistant: re: one", "user: two"]);
    app.finish();
}

#[test]
fn a_turn_that_the_provider_refused_is_not_remembered() {
    let app = echoing();
    app.say("one", json!({"session_id": "s"}));
    app.upstream.next(Script::refusal(400, "no"));
    assert_eq!(app.chat(&app.saying("bad", json!({"session_id": "s"}))).status, 400);
    app.say("two", json!({"session_id": "s"}));
    assert_eq!(texts(&app), ["user: one", "assistant: re: one", "user: two"]);
    app.finish();
}

#[test]
fn two_agents_may_have_sessions_of_the_same_name() {
    let app = echoing();
    let (other, _) = app.agent(json!({}));
    app.say("one", json!({"session_id": "s"}));
    app.say("two", json!({"session_id": "s", "model": other}));
    assert_eq!(texts(&app), ["user: two"]);
    let answer = app.get(&app.account_key, "/v2/sessions/s");
    answer.refused(400, "invalid_request_error", "ambiguous_session");
    for agent in [&app.agent_id, &other] {
        let found = app.get(&app.account_key, &format!("/v2/sessions/s?agent_id={agent}")).ok();
        assert_eq!(found["agent_id"], **agent);
    }
    app.finish();
}

#[test]
fn two_accounts_may_have_sessions_of_the_same_name() {
    let app = echoing();
    let (_, foreign) = app.account("1.00");
    let (foreign_agent, _) = app.agent_of(&foreign, json!({}));
    app.say("one", json!({"session_id": "s"}));
    let body = merged(app.saying("two", json!({"session_id": "s"})), json!({"model": foreign_agent}));
    app.post(&foreign, "/v1/chat/completions", &body).is(200);
    assert_eq!(texts(&app), ["user: two"]);
    app.finish();
}

#[test]
fn a_public_key_does_not_enter_a_session_by_guessing_its_name() {
    let app = echoing();
    app.say("my secret", json!({"session_id": "guessable"}));
    let public = app.new_key(&app.account_key, &app.agent_id, json!({"public": true}));
    let key = public["key"].as_str().expect("the key");
    let body = app.saying("tell me", json!({"session_id": "guessable"}));
    app.post(key, "/v1/chat/completions", &body);
    let last = app.upstream.last();
    assert!(last.last_text() != "tell me" || !last.raw.contains("my secret"), "a guess opens the session");
    let own = app.post(key, "/v1/chat/completions", &app.saying("one", json!({}))).ok();
    let more = app.saying("two", json!({"session_id": own["session_id"]}));
    app.post(key, "/v1/chat/completions", &more).is(200);
    assert_eq!(texts(&app), ["user: one", "assistant: re: one", "user: two"]);
    app.finish();
}
