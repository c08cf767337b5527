//! Turns that are cancelled by their completion's id.

use std::thread;

use serde_json::{Value, json};

use crate::app::{App, eventually, nanos};
use crate::client::{Answer, Event, Stream};
use crate::resume::{completion_of, watching};
use crate::script::{Reply, Script};

const START: i64 = 5_000_000_000;

fn cancel(app: &App, key: &str, completion: &str) -> Answer {
    app.post(key, &format!("/v1/chat/completions/{completion}/cancel"), &json!({}))
}

/// The id of the only turn that runs.
fn running(app: &App) -> String {
    eventually("a turn runs", || {
        let streams = app.get(&app.operator_token, "/admin/streams").ok();
        streams["streams"][0]["id"].as_str().map(str::to_owned)
    })
}

fn is_cancelled(events: &[Event]) {
    let last = events.last().map(Event::json).expect("events");
    let error = last.get("error").expect("an error event");
    assert_eq!((&error["code"], &error["type"]), (&json!("cancelled"), &json!("server_error")));
    let finished = |event: &Event| !event.json_or_null()["choices"][0]["finish_reason"].is_null();
    assert!(!events.iter().any(|event| event.is_done() || finished(event)), "a cut answer looks whole");
}

#[test]
fn in_mid_stream_all_readers_are_told_and_what_came_is_charged_and_stored() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let mut first = app.stream("one", json!({"session_id": "s"}));
    let completion = completion_of(&first);
    let mut second = watching(&app, &app.agent_key, &completion, None).open().ok();
    let mut native = app
        .call("GET", &format!("/v1/chat/completions/{completion}/stream?stream_format=native"))
        .key(&app.account_key)
        .open()
        .ok();
    let mut seen = vec![first.event().expect("the role")];
    seen.extend((0..3).map(|_| first.event().expect("a word")));
    let told = cancel(&app, &app.account_key, &completion).ok();
    let expected = json!({"id": completion, "object": "chat.completion", "status": "cancelled",
        "agent_id": app.agent_id, "session_id": "s"});
    assert_eq!(told, expected);
    // It has ended, and is charged, when that is answered.
    let charges = app.charges();
    assert_eq!((charges.len(), app.balance().held), (1, 0));
    assert_eq!(app.balance().balance, START + nanos(&charges[0]["delta"]));
    app.upstream.wait_for_aborts(1);
    seen.extend(first.rest());
    is_cancelled(&seen);
    assert_eq!(second.rest(), seen);
    let native = native.rest();
    assert_eq!(native.last().map(Event::json).expect("events")["type"], "error");
    assert_eq!(native.last().map(Event::json).expect("events")["error"]["code"], "cancelled");
    let stored = app.get(&app.account_key, "/v2/sessions/s/messages").ok();
    assert_eq!(stored["messages"][1]["content"], "w0 w1 w2 ");
    assert_eq!(stored["messages"][1]["status"], "incomplete");
    // Whoever comes later sees the same; asking again changes nothing.
    assert_eq!(watching(&app, &app.account_key, &completion, None).open().ok().rest(), seen);
    assert_eq!(cancel(&app, &app.agent_key, &completion).ok(), expected);
    app.say("two", json!({"session_id": "s"}));
    let texts: Vec<_> = app.upstream.last().said().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "w0 w1 w2 ", "two"]);
    app.settled();
    app.finish();
}

#[test]
fn before_the_first_byte_nothing_is_charged() {
    for stream in [false, true] {
        let app = App::start();
        app.upstream.next(Script::Silence);
        let body = app.saying("Hello", json!({"stream": stream}));
        thread::scope(|scope| {
            let answer = scope.spawn(|| app.chat(&body));
            app.upstream.wait_for_requests(1);
            let completion = running(&app);
            assert_eq!(cancel(&app, &app.account_key, &completion).ok()["status"], "cancelled");
            let answer = answer.join().expect("an answer");
            answer.refused(503, "server_error", "cancelled");
            assert_eq!(answer.headers.required("x-should-retry"), "false");
            assert_eq!(cancel(&app, &app.account_key, &completion).ok()["status"], "cancelled");
        });
        app.upstream.wait_for_aborts(1);
        assert_eq!(app.settled().balance, START);
        assert!(app.charges().is_empty());
        app.finish();
    }
}

#[test]
fn who_reads_along_before_the_first_byte_is_told_too() {
    let app = App::start();
    app.upstream.next(Script::Silence);
    let connection =
        app.chat_call(&app.saying("Hello", json!({"stream": true}))).connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    let completion = running(&app);
    let mut reader = watching(&app, &app.account_key, &completion, None).open().ok();
    cancel(&app, &app.account_key, &completion).ok();
    is_cancelled(&reader.rest());
    drop(connection);
    app.finish();
}

#[test]
fn after_the_end_it_is_told_how_the_turn_ended() {
    let app = App::start();
    let mut whole = app.stream("Hello", json!({}));
    let events = whole.rest();
    let plain = app.chat(&app.saying("Hello", json!({})));
    app.upstream.next(Script::refusal(500, "broken"));
    app.chat(&app.saying("Hello", json!({}))).is(502);
    app.upstream.next(Reply::long(9).fault_after(2, crate::script::Fault::HangUp));
    let mut broken = app.stream("Hello", json!({}));
    broken.rest();
    let status = |completion: &str| cancel(&app, &app.account_key, completion).ok()["status"].clone();
    assert_eq!(status(&completion_of(&whole)), "completed");
    assert_eq!(status(plain.headers.required("x-completion-id")), "completed");
    assert_eq!(status(&completion_of(&broken)), "failed");
    let again = watching(&app, &app.account_key, &completion_of(&whole), None).open().ok().rest();
    assert_eq!(again, events, "cancelling an answer that is whole changes it");
    let charges: Vec<Value> = app.charges();
    assert_eq!(charges.len(), 3);
    app.finish();
}

#[test]
fn a_turn_that_goes_on_by_itself_is_cancelled_too() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let body = app.saying("Hello", json!({"stream": true, "session_id": "s"}));
    let mut stream = app.chat_call(&body).header("X-On-Disconnect", "continue").open().ok();
    (0..4).for_each(|_| drop(stream.chunk()));
    let completion = completion_of(&stream);
    drop(stream);
    assert_eq!(cancel(&app, &app.account_key, &completion).ok()["status"], "cancelled");
    app.upstream.wait_for_aborts(1);
    is_cancelled(&watching(&app, &app.account_key, &completion, None).open().ok().rest());
    app.settled();
    app.finish();
}

#[test]
fn many_at_once_cancel_one_turn_once() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let mut stream = app.stream("Hello", json!({}));
    (0..4).for_each(|_| drop(stream.chunk()));
    let completion = completion_of(&stream);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(cancel(&app, &app.account_key, &completion).ok()["status"], "cancelled");
            });
        }
    });
    stream.rest();
    app.settled();
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

#[test]
fn a_revoked_key_s_stream_ends_for_all_its_readers() {
    let app = App::start();
    let key = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let body = app.saying("Hello", json!({"stream": true}));
    let secret = key["key"].as_str().expect("a key");
    let mut own = app.call("POST", "/v1/chat/completions").key(secret).json(&body).open().ok();
    let mut other: Stream = watching(&app, &app.account_key, &completion_of(&own), None).open().ok();
    (0..4).for_each(|_| drop(own.chunk()));
    let id = key["id"].as_str().expect("an id");
    app.delete(&app.account_key, &format!("/v2/agents/{}/api-keys/{id}", app.agent_id)).is(204);
    is_cancelled(&own.rest());
    is_cancelled(&other.rest());
    app.settled();
    app.finish();
}
