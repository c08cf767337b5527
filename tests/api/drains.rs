//! Providers that bill the whole answer though the client has left: it is read on to its usage.

use std::time::Duration;

use serde_json::json;

use crate::app::{App, Setup, eventually};
use crate::script::Reply;

const START: i64 = 5_000_000_000;

fn with(lines: &str) -> App {
    Setup::default().in_file(lines).start()
}

/// A client that leaves after the first words.
fn leave(app: &App, reply: Reply) {
    app.upstream.next(reply);
    let mut stream = app.stream("Hello", json!({"session_id": "left"}));
    while !stream.event().expect("an event").data.contains("w0") {}
    drop(stream);
}

#[test]
fn a_call_whose_client_has_left_is_read_on_to_its_usage_and_charged_whole() {
    let app = with("on_disconnect = \"drain\"");
    // Long enough for the server to see that the client has left, many times over.
    let reply = Reply::long(60).usage(40, 60).gap(Duration::from_millis(25));
    leave(&app, reply.clone());
    assert_eq!(START - app.settled().balance, 40 * 1_000 + 60 * 2_000);
    let said = app.get(&app.account_key, "/v2/sessions/left/messages").ok();
    assert_eq!(said["messages"][1]["content"], reply.text());
    assert_eq!(said["messages"][1]["status"], "complete");
    app.finish();
}

#[test]
fn a_drain_ends_with_the_call_s_own_time_and_costs_what_had_come() {
    let app = with("on_disconnect = \"drain\"\ntotal_timeout_s = 2");
    let gate = app.upstream.gate();
    leave(&app, Reply::long(9).usage(40, 9).pause_after(3, &gate));
    app.upstream.wait_for_aborts(1);
    let charged = START - app.settled().balance;
    assert!(charged > 0 && charged < 40 * 1_000 + 9 * 2_000, "{charged}");
    let said = app.get(&app.account_key, "/v2/sessions/left/messages").ok();
    assert_eq!(said["messages"][1]["status"], "incomplete");
    app.finish();
}

#[test]
fn a_drain_can_be_interrupted() {
    let app = with("on_disconnect = \"drain\"");
    let gate = app.upstream.gate();
    leave(&app, Reply::long(9).pause_after(3, &gate));
    let body = app.saying("And now?", json!({"session_id": "left"}));
    let next = || Some(app.chat_call(&body).header("X-Session-Conflict", "interrupt").send());
    let answer = eventually("the next one runs", next);
    assert_eq!(answer.ok()["content"], "Hello there");
    app.upstream.wait_for_aborts(1);
    app.finish();
}
