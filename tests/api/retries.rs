//! Asking the same provider once more: when, how often, and when not.

use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{App, Setup};
use crate::script::{Reply, Script};

fn with(lines: &str) -> App {
    Setup::default().with_retries().in_file(lines).start()
}

fn asked(app: &App, script: impl Into<Script>, more: Value) -> (u16, usize) {
    let before = app.upstream.asked();
    app.upstream.next(script);
    let status = app.chat(&app.saying("Hello", more)).status;
    app.upstream.forget();
    (status, app.upstream.asked() - before)
}

#[test]
fn what_passes_by_itself_is_asked_once_more() {
    let app = with("");
    // A quiet provider gets three retries for nothing.
    for (status, stream) in [(429, false), (500, true), (503, false)] {
        let script = Script::refusal(status, "not now");
        assert_eq!(asked(&app, script, json!({"stream": stream})), (200, 2), "{status}");
    }
    app.finish();
}

#[test]
fn what_does_not_pass_is_not_asked_again() {
    let app = with("");
    for (status, told) in [(400, 400), (401, 502), (404, 502), (408, 504), (422, 400)] {
        assert_eq!(asked(&app, Script::refusal(status, "no"), json!({})), (told, 1), "{status}");
    }
    assert_eq!(asked(&app, Script::garbage("nonsense"), json!({})), (502, 1));
    app.finish();
}

#[test]
fn a_wait_that_the_provider_asks_for_is_kept_and_a_long_one_is_not_waited_for() {
    let app = with("");
    let script = |wait| Script::refusal_with(429, "slow down", &[("Retry-After", wait)]);
    app.upstream.next(script("1"));
    let begun = std::time::Instant::now();
    app.say("Hello", json!({}));
    assert!(begun.elapsed() >= Duration::from_secs(1), "it did not wait");
    assert_eq!(app.upstream.asked(), 2);
    assert_eq!(asked(&app, script("6"), json!({})), (503, 1));
    app.finish();
}

#[test]
fn a_stream_that_was_not_begun_in_time_is_asked_again_and_a_plain_call_is_not() {
    let app = with("first_byte_timeout_s = 1\ntotal_timeout_s = 3");
    assert_eq!(asked(&app, Script::Silence, json!({"stream": true})), (200, 2));
    // It may be running there yet, and would be paid for twice.
    assert_eq!(asked(&app, Script::Silence, json!({})), (504, 1));
    assert_eq!(asked(&app, Script::refusal(504, "a gateway gave up"), json!({})), (504, 1));
    assert_eq!(asked(&app, Script::refusal(504, "a gateway gave up"), json!({"stream": true})), (200, 2));
    app.finish();
}

#[test]
fn each_provider_has_as_many_retries_as_it_is_given() {
    for (lines, calls) in [("retries = 0", 1), ("retries = 2", 3)] {
        let app = with(lines);
        app.upstream.always(Script::refusal(500, "no"));
        let answer = app.chat(&app.saying("Hello", json!({})));
        answer.refused(502, "server_error", "upstream_refused");
        assert_eq!(app.upstream.asked(), calls, "{lines}");
        assert_eq!(app.balance().held, 0);
        app.finish();
    }
}

#[test]
fn retries_are_a_tenth_of_the_calls_and_a_few() {
    let app = with("breaker = { min_calls = 1000 }");
    app.upstream.always(Script::refusal(500, "no"));
    for _ in 0..20 {
        app.chat(&app.saying("Hello", json!({}))).refused(502, "server_error", "upstream_refused");
    }
    // Three for nothing, two for twenty calls; one more where the test takes ten seconds, another after twenty.
    let retried = app.upstream.asked() - 20;
    assert!((5..=8).contains(&retried), "{retried} retries");
    let listed = app.get(&app.operator_token, "/admin/providers").ok();
    assert_eq!(listed["providers"][0]["retried"], retried);
    app.finish();
}

#[test]
fn a_client_that_leaves_while_the_server_waits_ends_it() {
    let app = with("");
    app.upstream.next(Script::refusal_with(429, "slow down", &[("Retry-After", "5")]));
    let connection = app.chat_call(&app.saying("Hello", json!({"stream": true}))).connect().expect("sent");
    app.upstream.wait_for_requests(1);
    drop(connection);
    assert_eq!(app.settled().balance, 5_000_000_000);
    app.upstream.next(Reply::says(&["well"]));
    assert_eq!(app.say("Hello", json!({}))["content"], "well");
    app.finish();
}
