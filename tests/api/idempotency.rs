//! Asking again with the same `Idempotency-Key`: one answer, one charge.

use serde_json::{Value, json};

use crate::app::{App, eventually};
use crate::client::{Answer, Call};
use crate::script::{Fault, Reply, Script};

const WRONG: &str = "invalid_request_error";

fn call(app: &App, body: &Value, name: &str) -> Call {
    app.chat_call(body).header("Idempotency-Key", name)
}

fn replayed(answer: &Answer) -> bool {
    answer.headers.find("idempotent-replayed") == Some("true")
}

/// The text of a streamed answer, whatever its chunks.
fn streamed(call: &Call) -> (String, Option<Value>, bool) {
    let mut stream = call.open().ok();
    let again = stream.headers.find("idempotent-replayed") == Some("true");
    let events = stream.rest();
    assert!(events.last().is_some_and(|last| last.is_done()), "a stream without [DONE]");
    let (mut text, mut usage) = (String::new(), None);
    for chunk in events.iter().filter(|event| !event.is_done()).map(|event| event.json()) {
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        if chunk["usage"].is_object() {
            usage = Some(chunk["usage"].clone());
        }
    }
    (text, usage, again)
}

#[test]
fn a_plain_answer_is_given_again_to_the_letter_and_charged_once() {
    let app = App::start();
    let body = app.saying("Hello", json!({}));
    let first = call(&app, &body, "once").send().is(200);
    let second = call(&app, &body, "once").send().is(200);
    assert!(!replayed(&first) && replayed(&second));
    assert_eq!(first.json(), second.json());
    for name in ["x-completion-id", "x-session-id"] {
        assert_eq!(first.headers.required(name), second.headers.required(name));
    }
    assert_eq!((app.upstream.requests().len(), app.charges().len()), (1, 1));
    app.finish();
}

#[test]
fn a_streamed_answer_is_given_again_with_its_usage() {
    let app = App::start();
    app.upstream.always(Reply::says(&["Hel", "lo ", "you"]));
    let body = app.saying("Hello", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let (text, usage, again) = streamed(&call(&app, &body, "once"));
    assert_eq!((text.as_str(), again), ("Hello you", false));
    assert_eq!(streamed(&call(&app, &body, "once")), (text, usage, true));
    assert_eq!((app.upstream.requests().len(), app.charges().len()), (1, 1));
    app.finish();
}

#[test]
fn tool_calls_are_given_again_with_their_places() {
    let app = App::start();
    app.upstream.always(Reply::calls("call_1", "lookup", &["{\"q\":", "1}"]).and_calls(
        "call_2",
        "other",
        &["{}"],
    ));
    let body = app.saying("Hello", json!({"stream": true}));
    call(&app, &body, "once").open().ok().rest();
    let events = call(&app, &body, "once").open().ok().rest();
    let calls = events[0].json()["choices"][0]["delta"]["tool_calls"].clone();
    assert_eq!(calls[0]["index"], 0);
    assert_eq!(calls[0]["function"]["arguments"], "{\"q\":1}");
    assert_eq!(calls[1]["index"], 1);
    assert_eq!(events[1].json()["choices"][0]["finish_reason"], "tool_calls");
    app.finish();
}

#[test]
fn the_native_routes_give_their_answers_again() {
    let app = App::start();
    let path = format!("/v1/agents/{}/chat", app.agent_id);
    let ask = || {
        let call = app.call("POST", &path).key(&app.account_key).json(&json!({"message": "Hello"}));
        call.header("Idempotency-Key", "once").send().is(200)
    };
    let (first, second) = (ask(), ask());
    assert!(replayed(&second));
    assert_eq!(first.json(), second.json());
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

#[test]
fn the_same_key_with_another_request_is_422() {
    let app = App::start();
    call(&app, &app.saying("Hello", json!({})), "once").send().is(200);
    let other = call(&app, &app.saying("Goodbye", json!({})), "once").send();
    other.refused(422, WRONG, "idempotency_mismatch");
    let elsewhere =
        call(&app, &app.saying("Hello", json!({})), "once").header("X-Session-Id", "elsewhere").send();
    elsewhere.refused(422, WRONG, "idempotency_mismatch");
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

#[test]
fn the_same_key_of_another_api_key_is_another_request() {
    let app = App::start();
    let body = app.saying("Hello", json!({}));
    call(&app, &body, "once").send().is(200);
    let other = app.call("POST", "/v1/chat/completions").key(&app.agent_key).json(&body);
    let other = other.header("Idempotency-Key", "once").send().is(200);
    assert!(!replayed(&other));
    assert_eq!(app.charges().len(), 2);
    app.finish();
}

#[test]
fn while_the_first_one_runs_the_second_is_409() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(3).pause_after(1, &gate));
    let body = app.saying("Hello", json!({"stream": true}));
    let mut running = call(&app, &body, "once").open().ok();
    let refused = call(&app, &body, "once").send();
    refused.refused(409, WRONG, "idempotency_in_progress");
    assert!(refused.headers.number("retry-after") >= 1);
    gate.open();
    assert!(running.rest().last().is_some_and(|last| last.is_done()));
    assert!(streamed(&call(&app, &body, "once")).2);
    app.finish();
}

#[test]
fn many_at_once_are_one_call_and_one_charge() {
    let app = App::start();
    let body = app.saying("Hello", json!({}));
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                // A client tries again as long as it is told that the first one runs.
                eventually("an answer", || {
                    let answer = call(&app, &body, "once").send();
                    if answer.status == 409 { None } else { Some(answer.is(200)) }
                })
            });
        }
    });
    assert_eq!((app.upstream.requests().len(), app.charges().len()), (1, 1));
    app.finish();
}

#[test]
fn after_a_refusal_a_failure_or_a_cut_answer_the_key_is_free() {
    let app = App::start();
    let body = app.saying("Hello", json!({"stream": true}));
    call(&app, &app.saying("Hello", json!({"temperature": 9})), "once").send().is(400);
    app.upstream.next(Script::refusal(500, "no"));
    call(&app, &body, "once").send().is(502);
    let mut cut = Reply::says(&["Hel", "lo"]);
    cut.fault = Some((1, Fault::HangUp));
    app.upstream.next(cut);
    let events = call(&app, &body, "once").open().ok().rest();
    assert!(!events.iter().any(|event| event.is_done()));
    let (_, _, again) = streamed(&call(&app, &body, "once"));
    assert!(!again, "a cut answer was given again");
    assert_eq!(app.charges().len(), 2, "the cut answer and the whole one");
    app.finish();
}

#[test]
fn a_plain_call_goes_on_without_its_client_and_the_next_try_gets_the_answer() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(3).pause_after(0, &gate));
    let body = app.saying("Hello", json!({}));
    let left = call(&app, &body, "once").connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    drop(left);
    gate.open();
    let answer = eventually("the answer", || {
        let answer = call(&app, &body, "once").send();
        if answer.status == 409 { None } else { Some(answer.is(200)) }
    });
    assert!(replayed(&answer));
    assert_eq!((app.upstream.requests().len(), app.charges().len()), (1, 1));
    app.finish();
}

#[test]
fn a_crash_frees_the_keys_that_ran_and_keeps_the_answers_that_were_whole() {
    let mut app = App::start();
    let done = app.saying("Hello", json!({}));
    call(&app, &done, "done").send().is(200);
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(3).pause_after(1, &gate));
    let running = app.saying("Go on", json!({"stream": true}));
    let mut stream = call(&app, &running, "running").open().ok();
    stream.chunk();
    app.kill();
    gate.open();
    app.start_again();
    assert!(replayed(&call(&app, &done, "done").send().is(200)));
    assert!(!streamed(&call(&app, &running, "running")).2);
    app.finish();
}

#[test]
fn a_key_that_is_no_key_is_named() {
    let app = App::start();
    let answer = call(&app, &app.saying("Hello", json!({})), &"k".repeat(256)).send();
    assert_eq!(answer.refused(400, WRONG, "invalid_value")["param"], "Idempotency-Key");
    app.finish();
}
