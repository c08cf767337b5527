//! The error table of the contract, row by row: providers that fail.

use serde_json::json;

use crate::app::{App, PROVIDER_KEY, Setup};
use crate::client::{Answer, Event};
use crate::script::{Fault, Reply, Script};

const FAILED: &str = "server_error";

/// The same failure, plain and streamed; nothing may be charged or held after it.
fn both(app: &App, script: impl Into<Script>) -> [Answer; 2] {
    let script = script.into();
    let answers = [false, true].map(|stream| {
        // A call that finds its connection closed may be sent once more.
        (0..2).for_each(|_| app.upstream.next(script.clone()));
        let answer = app.chat(&app.saying("Hello", json!({ "stream": stream })));
        app.upstream.forget();
        answer
    });
    assert_eq!(app.settled().balance, 5_000_000_000, "a refusal is charged");
    assert!(app.charges().is_empty());
    answers
}

fn no_leak(answer: &Answer) {
    let text = answer.text();
    assert!(!text.contains(PROVIDER_KEY), "the provider's key leaks: {text}");
    assert!(!text.contains("org-operator"), "the operator's name at the provider leaks: {text}");
}

#[test]
fn a_request_that_the_provider_finds_wrong_is_400_with_its_message() {
    let app = App::start();
    let message = "This model's maximum context length is 8192 tokens";
    let error = json!({"message": message, "type": "invalid_request_error", "param": "messages",
        "code": "context_length_exceeded"});
    let script =
        Script::Raw { status: 400, headers: Vec::new(), body: json!({ "error": error }).to_string() };
    for answer in both(&app, script) {
        assert_eq!(answer.status, 400);
        let error = &answer.json()["error"];
        assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], "messages");
        assert_eq!(error["code"], "context_length_exceeded");
    }
    app.finish();
}

#[test]
fn an_integer_code_of_the_provider_is_not_handed_on() {
    let app = App::start();
    let body = json!({"error": {"message": "bad", "type": "BadRequestError", "param": null, "code": 400}});
    let script = Script::Raw { status: 400, headers: Vec::new(), body: body.to_string() };
    for answer in both(&app, script) {
        assert_eq!(answer.status, 400);
        assert!(!answer.json()["error"]["code"].is_number(), "{}", answer.text());
    }
    app.finish();
}

#[test]
fn credentials_that_the_provider_does_not_take_are_502_upstream_auth() {
    let app = App::start();
    for status in [401, 403] {
        let message = format!("Incorrect API key provided: {PROVIDER_KEY} of org-operator");
        for answer in both(&app, Script::refusal(status, &message)) {
            answer.refused(502, FAILED, "upstream_auth");
            no_leak(&answer);
        }
    }
    app.finish();
}

#[test]
fn a_model_that_the_provider_does_not_have_is_502_upstream_refused() {
    let app = App::start();
    for answer in both(&app, Script::refusal(404, "model test-model not found for org-operator")) {
        answer.refused(502, FAILED, "upstream_refused");
        no_leak(&answer);
    }
    app.finish();
}

#[test]
fn a_provider_that_is_too_busy_is_503_with_its_own_wait() {
    let app = App::start();
    let script = Script::refusal_with(429, "slow down, org-operator", &[("Retry-After", "7")]);
    for answer in both(&app, script) {
        answer.refused(503, FAILED, "upstream_unavailable");
        assert_eq!(answer.headers.number("retry-after"), 7);
        no_leak(&answer);
    }
    app.finish();
}

#[test]
fn a_wait_of_the_provider_is_never_handed_on_above_a_minute() {
    let app = App::start();
    for answer in both(&app, Script::refusal_with(429, "slow down", &[("Retry-After", "3600")])) {
        answer.refused(503, FAILED, "upstream_unavailable");
        assert!((1..=60).contains(&answer.headers.number("retry-after")));
    }
    app.finish();
}

#[test]
fn a_provider_that_fails_is_502_or_503() {
    let app = App::start();
    for status in [500, 503] {
        for answer in both(&app, Script::refusal(status, "trouble at org-operator")) {
            let code = answer.json()["error"]["code"].clone();
            let code = code.as_str().unwrap_or_default();
            match answer.status {
                502 => assert_eq!(code, "upstream_refused"),
                503 => {
                    assert_eq!(code, "upstream_unavailable");
                    assert!((1..=60).contains(&answer.headers.number("retry-after")));
                }
                status => panic!("the status is {status}"),
            }
            answer.refused(answer.status, FAILED, code);
            no_leak(&answer);
        }
    }
    app.finish();
}

#[test]
fn an_answer_that_cannot_be_understood_is_502_upstream_invalid() {
    let app = App::start();
    for body in ["", "nonsense", "{\"choices\": [", "{}", "[]", "{\"choices\": []}"] {
        for answer in both(&app, Script::garbage(body)) {
            answer.refused(502, FAILED, "upstream_invalid");
        }
    }
    for answer in both(&app, Reply::long(3).fault_after(0, Fault::Garbage)) {
        answer.refused(502, FAILED, "upstream_invalid");
    }
    app.finish();
}

#[test]
fn an_answer_that_is_cut_before_anything_came_is_a_proper_status() {
    let app = App::start();
    let scripts = [
        Script::HangUp,
        Reply::long(3).fault_after(0, Fault::HangUp).into(),
        Reply::long(3).fault_after(0, Fault::End).into(),
    ];
    for script in scripts {
        for answer in both(&app, script) {
            assert!([502, 503].contains(&answer.status), "{}", answer.text());
            let code = answer.json()["error"]["code"].clone();
            assert!(
                ["upstream_invalid", "upstream_unavailable", "upstream_refused"]
                    .iter()
                    .any(|known| code == *known)
            );
        }
    }
    app.finish();
}

#[test]
fn an_error_object_instead_of_an_answer_is_never_a_200() {
    let app = App::start();
    let error =
        json!({"message": "trouble at org-operator", "type": "server_error", "param": null, "code": null});
    for answer in both(&app, Reply::long(3).fault_after(0, Fault::Error(error))) {
        assert!([502, 503].contains(&answer.status), "{}", answer.text());
        assert_eq!(answer.json()["error"]["type"], FAILED);
        no_leak(&answer);
    }
    app.finish();
}

#[test]
fn a_provider_that_cannot_be_reached_is_503_upstream_unavailable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let app = Setup::default().provider_url(&format!("http://{free}/v1")).start();
    for stream in [false, true] {
        let answer = app.chat(&app.saying("Hello", json!({ "stream": stream })));
        answer.refused(503, FAILED, "upstream_unavailable");
        assert!((1..=60).contains(&answer.headers.number("retry-after")));
        assert!(!answer.text().contains(&free.to_string()), "the provider's address leaks");
    }
    assert_eq!(app.settled().balance, 5_000_000_000);
    app.finish();
}

#[test]
fn a_stream_that_fails_midway_ends_with_an_error_event_and_nothing_that_looks_like_success() {
    let app = App::start();
    let error = json!({"message": "trouble at org-operator", "type": "t", "param": null, "code": 7});
    for fault in [Fault::HangUp, Fault::End, Fault::Garbage, Fault::Error(error)] {
        app.upstream.next(Reply::long(6).fault_after(3, fault));
        let events = app.stream("Hello", json!({"stream_options": {"include_usage": true}})).rest();
        let last = events.last().map(Event::json).expect("events");
        let fields = last["error"].as_object().unwrap_or_else(|| panic!("the last event is {last}"));
        assert!(["message", "type", "param", "code"].iter().all(|name| fields.contains_key(*name)), "{last}");
        assert_eq!(fields["type"], FAILED);
        let code = fields["code"].as_str().unwrap_or_default();
        assert!(["upstream_invalid", "upstream_refused", "upstream_unavailable"].contains(&code), "{last}");
        assert!(!last.to_string().contains("org-operator"), "{last}");
        for event in &events {
            assert!(!event.is_done(), "a failed stream says that it is done");
            if !event.data.contains("\"error\"") {
                assert!(event.json()["choices"][0]["finish_reason"].is_null(), "a finish reason is made up");
            }
        }
    }
    app.settled();
    assert_eq!(app.charges().len(), 4, "what was received is charged");
    app.finish();
}

#[test]
fn a_failure_of_the_provider_does_not_break_the_next_turn() {
    let app = App::start();
    for script in [Script::refusal(500, "no"), Script::HangUp, Script::garbage("x")] {
        (0..2).for_each(|_| app.upstream.next(script.clone()));
        assert!(app.chat(&app.saying("Hello", json!({"session_id": "s"}))).status >= 500);
        app.upstream.forget();
        app.say("Hello", json!({"session_id": "s"}));
    }
    app.finish();
}
