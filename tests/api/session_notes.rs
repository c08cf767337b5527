//! Titles and notes of sessions, making them by name, and finding them by their notes.

use std::sync::Barrier;
use std::thread;

use serde_json::{Value, json};

use crate::app::{App, merged};
use crate::client::Answer;

fn make(app: &App, more: Value) -> Answer {
    app.post(&app.account_key, "/v2/sessions", &merged(json!({"agent_id": app.agent_id}), more))
}

fn listed(app: &App, query: &str) -> Vec<String> {
    let list = app.get(&app.account_key, &format!("/v2/sessions?{query}")).ok();
    let sessions = list.as_array().expect("a list").iter();
    sessions.map(|session| session["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn a_session_is_titled_by_what_was_said_first() {
    let app = App::start();
    app.say("  What is\nthe weather like? ", json!({"session_id": "s"}));
    app.say("And tomorrow?", json!({"session_id": "s"}));
    let shown = app.get(&app.account_key, "/v2/sessions/s").ok();
    assert_eq!(shown["title"], "What is the weather like?");
    let path = "/v2/sessions/s";
    let renamed = app.patch(&app.account_key, path, &json!({"title": "Weather"})).ok();
    assert_eq!((&renamed["title"], &renamed["status"]), (&json!("Weather"), &json!("active")));
    assert_eq!(app.get(&app.account_key, "/v2/sessions").ok()[0]["title"], "Weather");
    assert_eq!(app.patch(&app.account_key, path, &json!({"title": null})).ok()["title"], Value::Null);
    let long = app.patch(&app.account_key, path, &json!({"title": "x".repeat(257)}));
    long.refused(400, "invalid_request_error", "invalid_value");
    let made = make(&app, json!({"title": "Mine", "session_id": "t"})).is(201).json();
    assert_eq!(made["title"], "Mine");
    app.say("Something else", json!({"session_id": "t"}));
    assert_eq!(app.get(&app.account_key, "/v2/sessions/t").ok()["title"], "Mine");
    let fork = app.post(&app.account_key, "/v2/sessions/t/fork", &json!({})).is(201).json();
    assert_eq!(fork["title"], "Mine");
    app.finish();
}

#[test]
fn sessions_are_found_by_their_notes() {
    let app = App::start();
    let (agent, _) = app.agent(json!({}));
    for (name, notes) in [
        ("a", json!({"user": "1", "plan": "free"})),
        ("b", json!({"user": "1", "plan": "paid"})),
        ("c", json!({"user": "2", "plan": "paid"})),
        ("d", json!({})),
    ] {
        let made = make(&app, json!({"session_id": name, "metadata": notes})).is(201).json();
        assert_eq!(made["metadata"], notes);
    }
    make(&app, json!({"session_id": "e", "agent_id": agent, "metadata": {"user": "1"}})).is(201);
    assert_eq!(listed(&app, "metadata[user]=1"), ["e", "b", "a"]);
    assert_eq!(listed(&app, "metadata%5Buser%5D=1&metadata[plan]=paid"), ["b"]);
    assert_eq!(listed(&app, &format!("metadata[user]=1&agent_id={}", app.agent_id)), ["b", "a"]);
    assert_eq!(listed(&app, "metadata[user]=1&limit=1&after=e"), ["b"]);
    assert_eq!(listed(&app, "metadata[user]=3"), Vec::<String>::new());
    app.patch(&app.account_key, "/v2/sessions/a", &json!({"status": "archived"})).is(200);
    assert_eq!(listed(&app, "metadata[user]=1&status=archived"), ["a"]);
    let changed = app.patch(&app.account_key, "/v2/sessions/a", &json!({"metadata": {"user": "3"}})).ok();
    assert_eq!(changed["metadata"], json!({"user": "3"}));
    assert_eq!(listed(&app, "metadata[user]=3"), ["a"]);
    assert_eq!(listed(&app, "metadata[plan]=free"), Vec::<String>::new());
    app.delete(&app.account_key, "/v2/sessions/c").is(204);
    assert_eq!(listed(&app, "metadata[plan]=paid"), ["b"]);
    let (_, foreign) = app.account("1.00");
    assert_eq!(app.get(&foreign, "/v2/sessions?metadata[user]=1").ok(), json!([]));
    app.finish();
}

#[test]
fn notes_are_a_few_short_strings() {
    let app = App::start();
    let many: serde_json::Map<String, Value> =
        (0..17).map(|number| (number.to_string(), json!("x"))).collect();
    for notes in
        [json!([]), json!("x"), json!({"a": 1}), json!({"a": "x".repeat(513)}), json!({"x".repeat(65): ""})]
    {
        make(&app, json!({ "metadata": notes })).refused(400, "invalid_request_error", "invalid_value");
    }
    make(&app, json!({ "metadata": many })).refused(400, "invalid_request_error", "invalid_value");
    let longest = json!({"ä".repeat(64): "ö".repeat(512)});
    assert_eq!(make(&app, json!({ "metadata": longest })).is(201).json()["metadata"], longest);
    app.finish();
}

#[test]
fn clients_that_race_for_a_name_get_one_session() {
    const CLIENTS: usize = 8;
    let app = App::start();
    for round in 0..10 {
        let start = Barrier::new(CLIENTS);
        let answers: Vec<Answer> = thread::scope(|scope| {
            let race = |number: usize| {
                let (app, start) = (&app, &start);
                scope.spawn(move || {
                    let body = json!({"session_id": format!("s{round}"), "title": number.to_string()});
                    start.wait();
                    make(app, body)
                })
            };
            let racing: Vec<_> = (0..CLIENTS).map(race).collect();
            racing.into_iter().map(|one| one.join().expect("an answer")).collect()
        });
        let made: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert_eq!(made.len(), 1, "one of them makes it");
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 201)));
        let first = made[0].json();
        assert!(
            answers.iter().all(|answer| answer.json()["title"] == first["title"]),
            "all get the same one"
        );
    }
    assert_eq!(app.get(&app.account_key, "/v2/chats").ok()["total"], 10);
    app.finish();
}

#[test]
fn turns_that_race_for_a_new_name_are_one_conversation() {
    const CLIENTS: usize = 6;
    let app = App::start();
    for round in 0..5 {
        let start = Barrier::new(CLIENTS);
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    start.wait();
                    app.say("Hello", json!({"session_id": format!("s{round}")}));
                });
            }
        });
        let shown = app.get(&app.account_key, &format!("/v2/sessions/s{round}")).ok();
        assert_eq!(shown["message_count"], json!(CLIENTS * 2));
    }
    assert_eq!(app.get(&app.account_key, "/v2/chats").ok()["total"], 5);
    app.finish();
}

#[test]
fn what_another_has_is_answered_as_what_nobody_has() {
    let app = App::start();
    app.say("Hello", json!({"session_id": "s"}));
    let (_, foreign) = app.account("1.00");
    let (_, other_agent) = app.agent(json!({}));
    app.agent(json!({}));
    let compare = |key: &str, method: &str, tail: &str, body: Value| {
        let ask = |name: &str| {
            let call = app.call(method, &format!("/v2/sessions/{name}{tail}")).key(key);
            let call = if method == "GET" || method == "DELETE" { call } else { call.json(&body) };
            call.send()
        };
        let (hidden, missing) = (ask("s"), ask("x"));
        assert_eq!(hidden.status, 404, "{method} {tail}: {}", hidden.text());
        assert_eq!(hidden.body, missing.body, "{method} {tail} tells a difference");
    };
    for tail in ["", "/messages", "/export"] {
        compare(&foreign, "GET", tail, Value::Null);
    }
    compare(&foreign, "DELETE", "", Value::Null);
    compare(&foreign, "PATCH", "", json!({"title": "mine"}));
    compare(&foreign, "POST", "/fork", json!({}));
    compare(&foreign, "POST", "/truncate", json!({"after": null}));
    // A key of another agent of the same account, that may read sessions.
    let id = app.get(&app.account_key, "/v2/agents").ok()["agents"][0]["id"].clone();
    let reader = app.new_key(
        &app.account_key,
        id.as_str().expect("an id"),
        json!({"scopes": ["chat", "sessions:read"]}),
    );
    let reader = reader["key"].as_str().expect("a key").to_owned();
    for tail in ["", "/messages", "/export"] {
        compare(&reader, "GET", tail, Value::Null);
    }
    assert_eq!(app.get(&reader, "/v2/sessions/export").is(200).text(), "");
    drop(other_agent);
    app.finish();
}
