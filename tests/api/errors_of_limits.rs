//! The error table of the contract, row by row: what is refused because of state that passes or not.

use serde_json::json;

use crate::app::App;
use crate::script::Reply;

const CHAT: &str = "/v1/chat/completions";
const WRONG: &str = "invalid_request_error";

#[test]
fn a_suspended_account_is_403_account_suspended() {
    let app = App::start();
    let (id, key) = app.account("1.00");
    let path = format!("/admin/accounts/{id}");
    app.patch(&app.operator_token, &path, &json!({"status": "suspended"})).is(200);
    let answer = app.post(&key, CHAT, &app.saying("Hello", json!({})));
    answer.refused(403, "permission_error", "account_suspended");
    app.finish();
}

#[test]
fn a_revoked_key_is_401_invalid_api_key() {
    let app = App::start();
    let made = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let path = format!("/v2/agents/{}/api-keys/{}", app.agent_id, made["id"].as_str().expect("an id"));
    app.delete(&app.account_key, &path).is(204);
    let answer = app.post(made["key"].as_str().expect("a key"), CHAT, &app.saying("Hello", json!({})));
    answer.refused(401, WRONG, "invalid_api_key");
    assert!(answer.headers.required("www-authenticate").starts_with("Bearer"));
    app.finish();
}

#[test]
fn a_session_that_is_not_there_is_404_session_not_found() {
    let app = App::start();
    for path in ["/v2/sessions/nowhere", "/v2/sessions/nowhere/messages", "/v2/chats/nowhere"] {
        app.get(&app.account_key, path).refused(404, WRONG, "session_not_found");
    }
    app.finish();
}

#[test]
fn a_busy_session_is_409_session_busy_with_a_wait() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(3).pause_after(1, &gate));
    let mut stream = app.stream("Hello", json!({"session_id": "s"}));
    let second = app.chat_call(&app.saying("Hello", json!({"session_id": "s"})));
    let busy = second.header("X-Session-Conflict", "reject").send();
    busy.refused(409, WRONG, "session_busy");
    assert!((1..=60).contains(&busy.headers.number("retry-after")));
    gate.open();
    stream.rest();
    app.finish();
}

#[test]
fn a_closed_session_is_410_session_closed() {
    let app = App::start();
    app.say("Hello", json!({"session_id": "s"}));
    app.patch(&app.account_key, "/v2/sessions/s", &json!({"status": "archived"})).is(200);
    for stream in [false, true] {
        let answer = app.chat(&app.saying("Hello", json!({"session_id": "s", "stream": stream})));
        answer.refused(410, WRONG, "session_closed");
    }
    assert_eq!(app.upstream.requests().len(), 1);
    app.finish();
}

#[test]
fn a_payment_that_means_something_else_is_422_idempotency_mismatch() {
    let app = App::start();
    let path = format!("/admin/accounts/{}/credit", app.account_id);
    app.post(&app.operator_token, &path, &json!({"amount": "1.00", "external_ref": "p"})).is(201);
    let answer = app.post(&app.operator_token, &path, &json!({"amount": "2.00", "external_ref": "p"}));
    answer.refused(422, WRONG, "idempotency_mismatch");
    app.finish();
}

#[test]
fn checks_come_in_the_order_that_is_told() {
    let app = App::start();
    let slow = json!({"limits": {"requests_per_minute": 6}});
    let made = app.new_key(&app.account_key, &app.agent_id, slow);
    let key = made["key"].as_str().expect("a key");
    app.post(key, CHAT, &app.saying("Hello", json!({}))).is(200);
    // The limit is reached now: it goes before the body, the key goes before the limit.
    let nonsense = app.call("POST", CHAT).key(key).body("application/json", "{").send();
    nonsense.refused(429, "requests", "rate_limit_exceeded");
    let scope = app.get(key, "/v2/agents");
    scope.refused(403, "permission_error", "key_scope");
    // The body goes before the agent, the agent before the session, the session before the money.
    let no_agent = app.chat(&json!({"model": "ag_00000000_0000", "messages": []}));
    no_agent.refused(400, WRONG, "invalid_value");
    app.say("Hello", json!({"session_id": "s"}));
    app.patch(&app.account_key, "/v2/sessions/s", &json!({"status": "archived"})).is(200);
    let closed = app.chat(&app.saying("Hello", json!({"session_id": "s", "max_tokens": 3_000_000})));
    closed.refused(410, WRONG, "session_closed");
    app.finish();
}
