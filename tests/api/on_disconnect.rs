//! Turns that go on without their client, and those that end with the last one who reads them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::app::{App, eventually};
use crate::client::{Call, Event};
use crate::resume::{completion_of, watching};
use crate::script::{Reply, Script};
use crate::upstream::End;

/// By contract within a second; the rest is for slow machines, and below the five seconds of a keep-alive comment.
const AT_ONCE: Duration = Duration::from_secs(4);

fn continued(app: &App, more: Value) -> Call {
    app.chat_call(&app.saying("Hello", more)).header("X-On-Disconnect", "continue")
}

/// The messages of a session, once its turn has ended.
fn stored(app: &App, session: &str) -> Value {
    eventually("the turn is stored", || {
        let answer = app.get(&app.account_key, &format!("/v2/sessions/{session}/messages"));
        (answer.status == 200 && app.balance().held == 0)
            .then(|| answer.json()["messages"].clone())
            .filter(|messages| messages.as_array().is_some_and(|messages| messages.len() > 1))
    })
}

#[test]
fn a_stream_goes_on_without_its_reader_and_can_be_read_again() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(30).usage(9, 30).pause_after(3, &gate));
    let mut stream = continued(&app, json!({"stream": true, "session_id": "s"})).open().ok();
    let completion = completion_of(&stream);
    let seen: Vec<Event> = (0..4).map(|_| stream.event().expect("an event")).collect();
    drop(stream);
    eventually("the reader's leaving is seen", || {
        let running = app.get(&app.operator_token, "/admin/streams").ok();
        (running["streams"][0]["readers"] == 0).then_some(())
    });
    gate.open();
    let messages = stored(&app, "s");
    assert_eq!(
        (&messages[1]["status"], &messages[1]["content"]),
        (&json!("complete"), &json!(Reply::long(30).text()))
    );
    assert_eq!(app.charges()[0]["output_tokens"], 30);
    let rest = watching(&app, &app.account_key, &completion, Some(seen[3].id())).open().ok().rest();
    assert!(rest.last().is_some_and(Event::is_done));
    assert_eq!(watching(&app, &app.account_key, &completion, None).open().ok().rest(), [seen, rest].concat());
    app.finish();
}

#[test]
fn a_long_stream_without_a_reader_waits_for_nobody() {
    let pieces: Vec<String> = (0..24).map(|piece| format!("{piece:08} ").repeat(100_000)).collect();
    let app = App::start();
    let gate = app.upstream.gate();
    let reply = Reply { pieces: pieces.clone(), ..Reply::says(&[]) }.usage(9, 50).pause_after(1, &gate);
    app.upstream.next(reply);
    let mut stream = continued(&app, json!({"stream": true, "session_id": "s"})).open().ok();
    stream.chunk();
    drop(stream);
    gate.open();
    let messages = stored(&app, "s");
    assert_eq!(messages[1]["content"].as_str().map(str::len), Some(pieces.concat().len()));
    assert_eq!(messages[1]["status"], "complete");
    app.finish();
}

#[test]
fn a_client_that_leaves_before_the_first_byte_has_its_answer_stored() {
    let app = App::start();
    for stream in [false, true] {
        let gate = app.upstream.gate();
        // The role alone is the first event of a stream; nothing at all has come of a plain answer.
        app.upstream.next(Reply::long(9).usage(9, 9).pause_after(0, &gate));
        let session = format!("s{stream}");
        let call = continued(&app, json!({"stream": stream, "session_id": session}));
        let asked = app.upstream.asked();
        let connection = call.connect().expect("a connection");
        app.upstream.wait_for_requests(asked + 1);
        drop(connection);
        // The server has noticed when it has answered others meanwhile; going on is no matter of luck then.
        app.say("Meanwhile", json!({}));
        gate.open();
        assert_eq!(stored(&app, &session)[1]["content"], Reply::long(9).text());
    }
    assert_eq!(app.charges().len(), 4);
    app.finish();
}

#[test]
fn a_turn_that_waits_for_its_session_keeps_its_place() {
    const PLACES: usize = 8;
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(3).pause_after(1, &gate));
    let mut first = app.stream("one", json!({"session_id": "s"}));
    first.chunk();
    let call = continued(&app, json!({"session_id": "s"}));
    let leaving: Vec<_> = (0..=PLACES).map(|_| call.connect().expect("a connection")).collect();
    leaving.iter().for_each(|one| one.set_nonblocking(true).expect("it can be asked without waiting"));
    // That one too many is refused says that all others wait.
    eventually("one is too many", || {
        leaving.iter().any(|one| matches!(one.peek(&mut [0]), Ok(1))).then_some(())
    });
    drop(leaving);
    gate.open();
    first.rest();
    let turns = eventually("all are stored", || {
        let messages = app.get(&app.account_key, "/v2/sessions/s/messages").ok()["messages"].clone();
        let count = messages.as_array().map_or(0, Vec::len) / 2;
        (count == 1 + PLACES && app.balance().held == 0).then_some(count)
    });
    assert_eq!((app.upstream.asked(), app.charges().len()), (turns, turns));
    app.finish();
}

#[test]
fn a_plain_call_that_went_on_can_be_read_as_a_stream() {
    let app = App::start();
    app.upstream.next(Reply::calls("call_1", "lookup", &["{\"q\":", "1}"]).usage(9, 4));
    let answer = continued(&app, json!({"session_id": "s"})).send();
    let completion = answer.headers.required("x-completion-id").to_owned();
    let answer = answer.ok();
    let events = watching(&app, &app.account_key, &completion, None).open().ok().rest();
    assert_eq!(events.len(), 3);
    let said = events[0].json();
    assert_eq!((&said["id"], &said["object"]), (&answer["id"], &json!("chat.completion.chunk")));
    assert_eq!(said["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"], "{\"q\":1}");
    assert_eq!(events[1].json()["choices"][0]["finish_reason"], "tool_calls");
    for at in 0..events.len() {
        let mut rest = watching(&app, &app.account_key, &completion, Some(events[at].id())).open().ok();
        assert_eq!(rest.rest(), events[at + 1..]);
    }
    // Nobody could ask for the stream of any other plain call in time, so it is not kept.
    let plain = app.chat(&app.saying("Hello", json!({})));
    let gone = watching(&app, &app.account_key, plain.headers.required("x-completion-id"), None).send();
    gone.refused(410, "invalid_request_error", "stream_gone");
    app.finish();
}

#[test]
fn a_turn_ends_when_the_last_of_its_readers_has_left() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let mut first = app.stream("Hello", json!({}));
    let completion = completion_of(&first);
    (0..4).for_each(|_| drop(first.chunk()));
    let second = watching(&app, &app.account_key, &completion, None).open().ok();
    let third = watching(&app, &app.account_key, &completion, None).open().ok();
    let readers = |count: usize| {
        eventually("somebody's leaving is seen", || {
            let running = app.get(&app.operator_token, "/admin/streams").ok();
            (running["streams"][0]["readers"] == count).then_some(())
        });
    };
    readers(3);
    drop(first);
    readers(2);
    drop(second);
    readers(1);
    assert!(app.charges().is_empty());
    let left = Instant::now();
    drop(third);
    let ended = app.upstream.wait_for_aborts(1).remove(0);
    assert!(ended.saturating_duration_since(left) < AT_ONCE);
    app.settled();
    assert_eq!(app.charges().len(), 1);
    // Whoever comes back later finds what came, and that it was cancelled.
    let events = watching(&app, &app.account_key, &completion, None).open().ok().rest();
    assert_eq!(events.len(), 5);
    assert_eq!(events[4].json()["error"]["code"], "cancelled");
    app.finish();
}

#[test]
fn who_reads_along_before_the_first_byte_keeps_a_turn_going_that_its_client_leaves() {
    let app = App::start();
    for stream in [true, false] {
        let leash = app.upstream.leash();
        let reply = Reply::long(3).usage(9, 3);
        app.upstream.next(Script::Led(Box::new(reply.clone()), leash.clone()));
        let session = format!("s{stream}");
        let asked = app.upstream.asked();
        let body = app.saying("Hello", json!({"stream": stream, "session_id": session}));
        let client = app.chat_call(&body).connect().expect("a connection");
        app.upstream.wait_for_requests(asked + 1);
        let running = app.get(&app.operator_token, "/admin/streams").ok();
        let completion = running["streams"][0]["id"].as_str().expect("an id").to_owned();
        let mut reader = watching(&app, &app.account_key, &completion, None).open().ok();
        drop(client);
        // The server has noticed when it has answered others meanwhile.
        app.say("Meanwhile", json!({}));
        leash.let_out(4);
        leash.end(End::Whole);
        assert!(reader.rest().last().is_some_and(Event::is_done));
        assert_eq!(stored(&app, &session)[1]["content"], reply.text());
    }
    assert_eq!(app.charges().len(), 4);
    app.finish();
}

#[test]
fn who_reads_nothing_for_half_a_minute_has_left() {
    let pieces: Vec<String> = (0..100).map(|piece| format!("{piece:08} ").repeat(20_000)).collect();
    let app = App::answering(Reply { pieces, ..Reply::says(&[]) }.usage(9, 50));
    let path = format!("/admin/accounts/{}/credit", app.account_id);
    app.post(&app.operator_token, &path, &json!({"amount": "1000.00", "external_ref": "large"})).is(201);
    let began = Instant::now();
    let idle = app.stream("Hello", json!({"session_id": "left", "max_tokens": 10_000_000}));
    let body = json!({"stream": true, "session_id": "goes-on", "max_tokens": 10_000_000});
    let idle_too = continued(&app, body).open().ok();
    let streams = || {
        let running = app.get(&app.operator_token, "/admin/streams").ok();
        running["streams"].as_array().map_or(0, Vec::len)
    };
    eventually("the provider is stopped, or twenty seconds are over", || {
        (streams() == 0 || began.elapsed() > Duration::from_secs(20)).then_some(())
    });
    assert_eq!(streams(), 2, "a client that pauses for less is cut off");
    eventually("both have ended", || (streams() == 0).then_some(()));
    app.upstream.wait_for_aborts(1);
    let status = |session: &str| stored(&app, session)[1]["status"].clone();
    assert_eq!((status("left"), status("goes-on")), (json!("incomplete"), json!("complete")));
    drop((idle, idle_too));
    app.finish();
}

#[test]
fn an_interrupting_turn_ends_one_that_would_go_on() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let mut stream = continued(&app, json!({"stream": true, "session_id": "s"})).open().ok();
    let completion = completion_of(&stream);
    (0..4).for_each(|_| drop(stream.chunk()));
    drop(stream);
    let body = app.saying("two", json!({"session_id": "s"}));
    app.chat_call(&body).header("X-Session-Conflict", "interrupt").send().is(200);
    let events = watching(&app, &app.account_key, &completion, None).open().ok().rest();
    let last = events.last().map(Event::json).expect("events");
    assert_eq!(last["error"]["code"], "interrupted");
    assert!(!events.iter().any(Event::is_done));
    let path = format!("/v1/chat/completions/{completion}/cancel");
    assert_eq!(app.post(&app.account_key, &path, &json!({})).ok()["status"], "interrupted");
    app.settled();
    app.finish();
}

#[test]
fn another_word_than_these_is_400_and_names_the_header() {
    let app = App::start();
    let body = app.saying("Hello", json!({}));
    for word in ["", "drain", "Continue", "true", "continue, cancel"] {
        let answer = app.chat_call(&body).header("X-On-Disconnect", word).send();
        let refused = answer.refused(400, "invalid_request_error", "invalid_value");
        assert_eq!(refused["param"], "X-On-Disconnect");
    }
    let path = format!("/v1/agents/{}/chat", app.agent_id);
    let native = app.call("POST", &path).key(&app.agent_key).json(&json!({"message": "Hello"}));
    native.header("X-On-Disconnect", "later").send().is(400);
    assert_eq!(app.upstream.asked(), 0);
    app.chat_call(&body).header("X-On-Disconnect", "cancel").send().is(200);
    app.finish();
}

#[test]
fn a_provider_s_refusal_of_a_turn_that_goes_on_is_told_to_who_reads_it_later() {
    let app = App::start();
    app.upstream.next(Script::refusal(500, "broken"));
    let body = json!({"stream": true});
    continued(&app, body).send().refused(502, "server_error", "upstream_refused");
    assert_eq!(app.settled().balance, 5_000_000_000);
    app.finish();
}
