//! How an Anthropic provider refuses, and what its clients learn of it.

use serde_json::{Value, json};

use crate::app::{App, MODEL, PROVIDER_KEY};
use crate::claude::{Claude, event, pieces, setup};
use crate::client::Answer;
use crate::crash_load::START;
use crate::script::Script;

/// The same failure, plain and streamed; nothing is charged or held after it.
fn both(app: &App, script: impl Into<Script>) -> [Answer; 2] {
    let script = script.into();
    [false, true].map(|stream| {
        // A call that finds its connection closed may be sent once more.
        (0..2).for_each(|_| app.upstream.next(script.clone()));
        let answer = app.chat(&app.saying("Hello", json!({ "stream": stream })));
        app.upstream.forget();
        let balance = app.balance();
        assert_eq!((balance.held, balance.balance), (0, START));
        let text = answer.text();
        for secret in [PROVIDER_KEY, MODEL] {
            assert!(!text.contains(secret), "{secret} leaks: {text}");
        }
        answer
    })
}

fn error(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_upstream"})
}

fn refusal(status: u16, kind: &str, message: &str) -> Script {
    let headers = vec![("Retry-After".to_owned(), "7".to_owned())];
    Script::Raw { status, headers, body: error(kind, message).to_string() }
}

#[test]
fn each_status_means_something_to_the_client() {
    let app = setup().start();
    let secret = format!("{MODEL} with {PROVIDER_KEY}");
    for (status, kind, told, code) in [
        (401, "authentication_error", 502, "upstream_auth"),
        (403, "permission_error", 502, "upstream_auth"),
        (402, "billing_error", 502, "upstream_refused"),
        (404, "not_found_error", 502, "upstream_refused"),
        (429, "rate_limit_error", 503, "upstream_unavailable"),
        (529, "overloaded_error", 503, "upstream_unavailable"),
        (500, "api_error", 502, "upstream_refused"),
        (504, "timeout_error", 504, "upstream_timeout"),
    ] {
        for answer in both(&app, refusal(status, kind, &secret)) {
            answer.refused(told, "server_error", code);
            if told == 503 {
                assert_eq!(answer.headers.number("retry-after"), 7, "{status}");
            }
        }
    }
    app.finish();
}

#[test]
fn a_request_that_claude_finds_wrong_is_400_with_its_message() {
    let app = setup().start();
    for (status, kind) in [(400, "invalid_request_error"), (413, "request_too_large")] {
        let message = format!("prompt is too long for {MODEL}: 250000 tokens > 200000 maximum");
        for answer in both(&app, refusal(status, kind, &message)) {
            let error = answer.refused(400, "invalid_request_error", "invalid_value");
            assert_eq!(error["message"], "prompt is too long for the model: 250000 tokens > 200000 maximum");
        }
    }
    app.finish();
}

#[test]
fn the_operator_s_empty_account_is_not_the_client_s_fault() {
    let app = setup().start();
    let message = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.";
    for answer in both(&app, refusal(400, "invalid_request_error", message)) {
        answer.refused(502, "server_error", "upstream_auth");
        assert!(!answer.text().contains("credit"), "{}", answer.text());
    }
    app.finish();
}

#[test]
fn an_error_that_comes_first_is_a_proper_status() {
    let app = setup().start();
    for (kind, status, code) in [
        ("overloaded_error", 503, "upstream_unavailable"),
        ("rate_limit_error", 503, "upstream_unavailable"),
        ("authentication_error", 502, "upstream_auth"),
        ("api_error", 502, "upstream_refused"),
        ("not_found_error", 502, "upstream_refused"),
        ("timeout_error", 504, "upstream_timeout"),
    ] {
        let told = error(kind, &format!("{PROVIDER_KEY} {MODEL}"));
        for answer in both(&app, pieces(vec![event(&json!({"type": "ping"})), event(&told)])) {
            // A plain call finds a stream where a message should be.
            if answer.json()["error"]["code"] != "upstream_invalid" {
                answer.refused(status, "server_error", code);
            }
        }
        let [plain, _] = both(&app, Script::garbage(&told.to_string()));
        plain.refused(status, "server_error", code);
    }
    app.finish();
}

#[test]
fn what_is_no_message_is_no_answer() {
    let app = setup().start();
    let openai = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]});
    for body in ["", "{", "[]", "{}", "<html></html>", &openai.to_string()] {
        for answer in both(&app, Script::garbage(body)) {
            answer.refused(502, "server_error", "upstream_invalid");
        }
    }
    for first in
        ["data: nonsense\n\n", "data: {\"type\":\"content_block_stop\",\"index\":0}\n\n", "data: [DONE]\n\n"]
    {
        for answer in both(&app, pieces(vec![first.to_owned()])) {
            answer.refused(502, "server_error", "upstream_invalid");
        }
    }
    app.finish();
}

#[test]
fn a_connection_that_breaks_before_the_first_word_costs_nothing() {
    let app = setup().start();
    for answer in both(&app, Script::HangUp) {
        assert!(answer.status >= 500, "{}", answer.text());
    }
    for word in ["message_start", "content_block_start", "Hello"] {
        app.upstream.next(Claude::says(&["Hello"]).cut_before(word));
        let body = app.saying("Hi", json!({"stream": true}));
        let mut stream = app.chat_call(&body).open();
        if stream.status == 200 {
            let events = stream.rest();
            assert_eq!(events.last().expect("events").json()["error"]["code"], "upstream_invalid", "{word}");
        }
        let balance = app.balance();
        assert_eq!((balance.held, balance.balance), (0, START), "{word}");
    }
    app.finish();
}
