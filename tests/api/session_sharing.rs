//! Clients that never name a session and send their whole conversation each time: they cost the room of what is
//! new, and nothing tells them of each other.

use serde_json::{Value, json};

use crate::app::{App, merged};
use crate::client::Answer;
use crate::database;
use crate::script::Reply;

/// An app whose model answers "re: " and what was said.
fn echoing() -> App {
    let app = App::start();
    app.upstream.choose(|request| Reply::says(&["re: ", &request.last_text()]).usage(9, 2).into());
    app
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn stored(app: &App) -> i64 {
    database::number(app, "SELECT COUNT(*) FROM message")
}

fn send(app: &App, messages: &[Value]) -> Answer {
    app.chat(&json!({"model": app.agent_id, "messages": messages})).is(200)
}

/// Sends a conversation and adds what is answered; answers the session's id.
fn turn(app: &App, conversation: &mut Vec<Value>, text: &str) -> String {
    conversation.push(user(text));
    let answer = send(app, conversation).json();
    conversation.push(answer["choices"][0]["message"].clone());
    answer["session_id"].as_str().expect("a session").to_owned()
}

fn history(app: &App, session: &str) -> Value {
    app.get(&app.account_key, &format!("/v2/sessions/{session}/messages?limit=100")).ok()
}

fn texts(history: &Value) -> Vec<&str> {
    let messages = history["messages"].as_array().expect("messages");
    messages.iter().map(|message| message["content"].as_str().expect("text")).collect()
}

#[test]
fn a_conversation_sent_again_and_again_is_stored_once() {
    let app = echoing();
    let mut conversation = Vec::new();
    let mut sessions = Vec::new();
    for number in 0..12 {
        sessions.push(turn(&app, &mut conversation, &format!("say {number}")));
    }
    assert_eq!(stored(&app), 24, "each turn costs its two messages");
    for (number, session) in sessions.iter().enumerate() {
        let own = history(&app, session);
        assert_eq!(texts(&own).len(), (number + 1) * 2, "a session is as it was when its turn ended");
        assert_eq!(texts(&own)[number * 2], format!("say {number}"));
    }
    app.finish();
}

#[test]
fn an_answer_is_recognised_without_what_clients_leave_out() {
    let app = echoing();
    let mut conversation = vec![user("one")];
    send(&app, &conversation);
    conversation.push(json!({"role": "assistant", "content": [{"type": "text", "text": "re: one"}]}));
    conversation.push(user("two"));
    send(&app, &conversation);
    assert_eq!(stored(&app), 4);
    app.finish();
}

#[test]
fn conversations_part_where_they_differ() {
    let app = echoing();
    let mut one = Vec::new();
    for text in ["a", "b"] {
        turn(&app, &mut one, text);
    }
    let mut other = one[..2].to_vec();
    turn(&app, &mut one, "c");
    let session = turn(&app, &mut other, "B");
    assert_eq!(texts(&history(&app, &session)), ["a", "re: a", "B", "re: B"]);
    assert_eq!(stored(&app), 8);
    let session = turn(&app, &mut other, "C");
    assert_eq!(texts(&history(&app, &session)), ["a", "re: a", "B", "re: B", "C", "re: C"]);
    assert_eq!(stored(&app), 10);
    app.finish();
}

#[test]
fn a_session_that_shares_goes_on_alone() {
    let mut app = echoing();
    let mut conversation = Vec::new();
    let first = turn(&app, &mut conversation, "one");
    let second = turn(&app, &mut conversation, "two");
    app.say("by id", json!({"session_id": first}));
    app.say("by id too", json!({"session_id": second}));
    assert_eq!(texts(&history(&app, &first)), ["one", "re: one", "by id", "re: by id"]);
    let said: Vec<String> = app.upstream.last().said().into_iter().map(|(_, text)| text).collect();
    assert_eq!(said, ["one", "re: one", "two", "re: two", "by id too"]);
    app.restart();
    let said = history(&app, &second);
    assert_eq!(texts(&said)[2..], ["two", "re: two", "by id too", "re: by id too"]);
    app.finish();
}

#[test]
fn deleting_one_session_takes_nothing_from_another_and_leaves_nothing_behind() {
    let app = echoing();
    let mut conversation = Vec::new();
    let sessions: Vec<String> =
        (0..6).map(|number| turn(&app, &mut conversation, &format!("say {number}"))).collect();
    let delete = |session: &str| {
        app.delete(&app.account_key, &format!("/v2/sessions/{session}")).is(204);
        app.verify_ledger();
    };
    delete(&sessions[5]);
    assert_eq!(stored(&app), 10, "what the last one alone had is gone");
    delete(&sessions[0]);
    assert_eq!(stored(&app), 10);
    assert_eq!(texts(&history(&app, &sessions[4])).len(), 10);
    for session in &sessions[1..5] {
        delete(session);
    }
    assert_eq!(stored(&app), 0);
    app.finish();
}

/// Everything that a client can see of its session, without what differs from request to request anyway.
fn seen(app: &App, key: &str, messages: &[Value], agent: &str) -> Value {
    let answer =
        app.post(key, "/v1/chat/completions", &json!({"model": agent, "messages": messages})).is(200);
    let session = answer.json()["session_id"].as_str().expect("a session").to_owned();
    let path = format!("/v2/sessions/{session}");
    let mut all = json!({
        "matched": answer.headers.find("x-history-matched"),
        "answer": answer.json(),
        "session": app.get(key, &path).ok(),
        "messages": app.get(key, &format!("{path}/messages")).ok(),
        "chat": app.get(key, &format!("/v2/chats/{session}")).ok(),
        "export": app.get(key, &format!("{path}/export")).is(200).text().lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>(),
    });
    blank(&mut all);
    all
}

/// Takes ids and times away, but keeps which times are the same.
fn blank(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(blank),
        Value::Object(fields) => {
            for name in ["id", "session_id", "agent_id", "completion_id", "model", "created", "balance"] {
                if !fields.get(name).and_then(Value::as_str).is_some_and(|id| id.starts_with("msg_")) {
                    fields.remove(name);
                }
            }
            for name in ["created_at", "updated_at", "timestamp"] {
                fields.remove(name);
            }
            fields.values_mut().for_each(blank);
        }
        _ => {}
    }
}

#[test]
fn nothing_that_a_client_sees_tells_that_something_was_shared() {
    let app = echoing();
    // What is sent differs from what was stored in everything that is recognised all the same.
    let sent = [
        json!({"content": "hello",   "role": "user"}),
        json!({"role": "assistant", "content": "re: hello", "annotations": [], "refusal": null, "tool_calls": []}),
        json!({"name": null, "content": "look", "role": "user"}),
        json!({"role": "assistant", "content": [{"type": "text", "text": "re: look"}]}),
        user("and on"),
    ];
    let (fresh, _) = app.agent(json!({}));
    let alone = seen(&app, &app.account_key, &sent, &fresh);
    // The same conversation with an agent that somebody else had it with, turn by turn.
    let mut earlier = Vec::new();
    turn(&app, &mut earlier, "hello");
    turn(&app, &mut earlier, "look");
    let before = stored(&app);
    let shared = seen(&app, &app.account_key, &sent, &app.agent_id);
    assert_eq!(stored(&app) - before, 2, "it was shared");
    assert_eq!(shared, alone);
    let times = |session: &Value| -> Vec<Value> {
        let all = session["messages"].as_array().expect("messages").iter();
        all.map(|message| message["created_at"].clone()).collect()
    };
    let sessions = app.get(&app.account_key, "/v2/sessions?limit=1").ok();
    let own = history(&app, sessions[0]["id"].as_str().expect("an id"));
    assert!(times(&own).windows(2).all(|pair| pair[0] == pair[1]), "all came with one request: {own}");
    app.finish();
}

#[test]
fn what_can_be_told_apart_is_not_shared() {
    let app = echoing();
    let mut one = Vec::new();
    turn(&app, &mut one, "hello");
    let named = merged(user("hello"), json!({"name": "bob"}));
    let answer = send(&app, &[named, one[1].clone(), user("who am I")]).json();
    let own = history(&app, answer["session_id"].as_str().expect("a session"));
    assert_eq!(own["messages"][0]["name"], "bob");
    assert_eq!(stored(&app), 6);
    app.finish();
}

#[test]
fn agents_and_accounts_share_nothing() {
    let app = echoing();
    let mut conversation = Vec::new();
    turn(&app, &mut conversation, "one");
    conversation.push(user("two"));
    let (other, _) = app.agent(json!({}));
    app.chat(&json!({"model": other, "messages": conversation})).is(200);
    assert_eq!(stored(&app), 6);
    let (_, foreign) = app.account("1.00");
    let (agent, _) = app.agent_of(&foreign, json!({}));
    app.post(&foreign, "/v1/chat/completions", &json!({"model": agent, "messages": conversation})).is(200);
    assert_eq!(stored(&app), 10);
    app.finish();
}

#[test]
fn what_was_tampered_with_is_found() {
    let app = echoing();
    let mut conversation = Vec::new();
    for text in ["one", "two", "three"] {
        turn(&app, &mut conversation, text);
    }
    let verdict = |change: &str, back: &str, invariant: &str| {
        database::change(&app, change);
        let report = app.get(&app.operator_token, "/admin/ledger/verify").ok();
        let broken: Vec<String> = report["invariants"]
            .as_object()
            .expect("invariants")
            .iter()
            .filter(|(_, found)| found["violations"] != 0)
            .map(|(name, _)| name.clone())
            .collect();
        assert!(broken.iter().any(|name| name.starts_with(invariant)), "{change} broke {broken:?}");
        database::change(&app, back);
        app.verify_ledger();
    };
    verdict(
        "UPDATE message SET body = replace(body, 're: one', 're: won') WHERE seq = 2",
        "UPDATE message SET body = replace(body, 're: won', 're: one') WHERE seq = 2",
        "H2",
    );
    verdict(
        "CREATE TABLE kept AS SELECT * FROM message WHERE seq = 3; DELETE FROM message WHERE seq = 3",
        "INSERT INTO message SELECT * FROM kept; DROP TABLE kept",
        "S1",
    );
    verdict(
        "UPDATE session SET head = head + 1 WHERE head = 6",
        "UPDATE session SET head = head - 1 WHERE head = 7",
        "S3",
    );
    verdict(
        "UPDATE message SET reference_count = 2 WHERE seq = 6",
        "UPDATE message SET reference_count = 1 WHERE seq = 6",
        "S4",
    );
    verdict(
        "UPDATE session SET agent_id = 'ag_other' WHERE head = 2",
        "UPDATE session SET agent_id = (SELECT MAX(agent_id) FROM session WHERE head > 2) WHERE head = 2",
        "S5",
    );
    app.finish();
}
