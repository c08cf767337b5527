//! What time does to a session. Here the passing of time is the subject, so these tests let it pass.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::app::{App, Setup, eventually};

/// Lets so much time pass; nobody is waited for.
fn let_pass(time: Duration) {
    let since = Instant::now();
    eventually("time passes", || (since.elapsed() >= time).then_some(()));
}

fn texts(app: &App) -> Vec<String> {
    app.upstream.last().said().into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_session_that_has_left_memory_comes_back_with_no_difference() {
    let app = Setup::default().arg("--session-idle").arg("1").start();
    app.say("one", json!({"session_id": "s"}));
    let_pass(Duration::from_secs(3));
    app.say("two", json!({"session_id": "s"}));
    let_pass(Duration::from_secs(3));
    let answer = app.chat(&app.saying("three", json!({"session_id": "s"}))).is(200);
    assert_eq!(answer.headers.find("x-history-matched").unwrap_or("0"), "0");
    assert_eq!(texts(&app), ["one", "Hello there", "two", "Hello there", "three"]);
    app.finish();
}

#[test]
fn a_session_past_the_idle_time_of_its_agent_is_closed() {
    let app = App::start();
    let (agent, _) = app.agent(json!({"expires_after": 1}));
    app.say("one", json!({"session_id": "s", "model": agent}));
    let_pass(Duration::from_millis(2500));
    let closed = app.chat(&app.saying("two", json!({"session_id": "s", "model": agent})));
    closed.refused(410, "invalid_request_error", "session_closed");
    app.say("three", json!({"session_id": "another", "model": agent}));
    app.finish();
}

#[test]
fn a_session_in_use_is_not_taken_from_memory() {
    let app = Setup::default().arg("--session-idle").arg("1").start();
    let gate = app.upstream.gate();
    app.upstream.next(crate::script::Reply::long(4).pause_after(2, &gate));
    let mut stream = app.stream("one", json!({"session_id": "s"}));
    stream.chunk();
    let_pass(Duration::from_secs(3));
    gate.open();
    assert!(stream.rest().last().expect("events").is_done());
    app.say("two", json!({"session_id": "s"}));
    assert_eq!(texts(&app), ["one", "w0 w1 w2 w3 ", "two"]);
    app.finish();
}
