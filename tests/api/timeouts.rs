//! Providers that take too long, and servers with several providers; both come from the configuration file.

use serde_json::json;

use crate::app::{App, MODEL, Setup};
use crate::client::Event;
use crate::script::{Reply, Script};

const START: i64 = 5_000_000_000;

fn with(lines: &str) -> App {
    Setup::default().in_file(lines).start()
}

#[test]
fn a_stream_that_never_begins_is_504_upstream_timeout() {
    let app = with("first_byte_timeout_s = 1");
    app.upstream.next(Script::Silence);
    let answer = app.chat(&app.saying("Hello", json!({"stream": true})));
    answer.refused(504, "server_error", "upstream_timeout");
    assert!((1..=60).contains(&answer.headers.number("retry-after")));
    app.upstream.wait_for_aborts(1);
    assert_eq!(app.settled().balance, START);
    assert!(app.charges().is_empty());
    app.finish();
}

#[test]
fn a_plain_answer_that_takes_too_long_is_504_upstream_timeout() {
    let app = with("total_timeout_s = 1");
    app.upstream.next(Script::Silence);
    let answer = app.chat(&app.saying("Hello", json!({})));
    answer.refused(504, "server_error", "upstream_timeout");
    app.upstream.wait_for_aborts(1);
    assert_eq!(app.settled().balance, START);
    app.finish();
}

#[test]
fn a_stream_that_stalls_ends_with_an_error_event_and_costs_what_came() {
    let app = with("chunk_timeout_s = 1");
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let events = app.stream("Hello", json!({})).rest();
    let last = events.last().map(Event::json).expect("events");
    assert_eq!(last["error"]["code"], "upstream_timeout");
    assert_eq!(last["error"]["type"], "server_error");
    app.upstream.wait_for_aborts(1);
    app.settled();
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

#[test]
fn what_the_server_notes_meanwhile_gives_a_stalled_provider_no_more_time() {
    let app = with("chunk_timeout_s = 3\ntotal_timeout_s = 12");
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let mut stream = app.stream("Hello", json!({}));
    let events = stream.rest();
    assert_eq!(events.last().map(Event::json).expect("events")["error"]["code"], "upstream_timeout");
    assert_eq!(stream.comments, 0, "a comment comes only after five seconds of silence");
    app.upstream.wait_for_aborts(1);
    app.settled();
    app.finish();
}

#[test]
fn a_stream_that_takes_too_long_in_all_is_ended() {
    let app = with("total_timeout_s = 1");
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let events = app.stream("Hello", json!({})).rest();
    assert_eq!(events.last().map(Event::json).expect("events")["error"]["code"], "upstream_timeout");
    app.upstream.wait_for_aborts(1);
    app.settled();
    app.finish();
}

#[test]
fn with_several_providers_a_model_names_its_own() {
    let app = Setup::default().in_file("").in_file("output_field = \"max_completion_tokens\"").start();
    let (agent, _) = app.agent(json!({"model": format!("provider1/{MODEL}")}));
    app.say("Hello", json!({"model": agent, "max_tokens": 77}));
    let sent = app.upstream.last().body;
    assert_eq!(sent["model"], MODEL, "the provider's name is ours");
    assert_eq!(sent["max_completion_tokens"], 77);
    assert_eq!(sent.get("max_tokens"), None);
    let unknown = json!({"name": "a", "model": format!("nobody/{MODEL}")});
    let answer = app.post(&app.account_key, "/v2/agents", &unknown);
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["error"]["param"], "model");
    app.finish();
}
