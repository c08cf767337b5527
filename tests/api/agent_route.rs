//! `POST /v1/agents/{agent_id}/chat`, for websites and scripts.

use serde_json::{Value, json};

use crate::app::{App, nanos};
use crate::client::Event;
use crate::script::UPSTREAM_MODEL;

fn path(app: &App) -> String {
    format!("/v1/agents/{}/chat", app.agent_id)
}

#[test]
fn a_message_gets_a_response() {
    let app = App::start();
    let answer = app.post(&app.account_key, &path(&app), &json!({"message": "Hello"})).is(200);
    assert!(!answer.text().contains(UPSTREAM_MODEL));
    let body = answer.json();
    assert_eq!(body["response"], "Hello there");
    let usage = &body["usage"];
    assert_eq!([&usage["input_tokens"], &usage["output_tokens"], &usage["total_tokens"]], [9, 3, 12]);
    assert_eq!(nanos(&usage["cost"]), 9 * 1000 + 3 * 2000);
    assert_eq!(answer.headers.required("x-session-id"), body["session_id"]);
    assert!(answer.headers.required("x-completion-id").starts_with("chatcmpl-"));
    app.finish();
}

#[test]
fn a_session_goes_on_where_its_id_is_given() {
    let app = App::start();
    let first = app.post(&app.agent_key, &path(&app), &json!({"message": "My name is Ann."})).ok();
    let more =
        json!({"message": "Who am I?", "session_id": first["session_id"], "metadata": {"page": "home"}});
    let second = app.post(&app.agent_key, &path(&app), &more).ok();
    assert_eq!(second["session_id"], first["session_id"]);
    let sent = app.upstream.last();
    let texts: Vec<_> = sent.said().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["My name is Ann.", "Hello there", "Who am I?"]);
    assert_eq!(sent.body.get("metadata"), None, "the metadata is for us");
    assert_eq!(sent.body.get("message"), None);
    app.finish();
}

#[test]
fn agent_keys_do_not_see_the_cost() {
    let app = App::start();
    let body = app.post(&app.agent_key, &path(&app), &json!({"message": "Hello"})).ok();
    assert_eq!(body["usage"]["total_tokens"], 12);
    assert_eq!(body["usage"].get("cost"), None);
    app.finish();
}

#[test]
fn it_streams_in_the_native_dialect() {
    let app = App::start();
    let body = json!({"message": "Hello", "stream": true});
    let mut stream = app.call("POST", &path(&app)).key(&app.account_key).json(&body).open().ok();
    let events: Vec<Value> = stream.rest().iter().map(Event::json).collect();
    let (done, contents) = events.split_last().expect("events");
    let text: String = contents.iter().filter_map(|event| event["data"].as_str()).collect();
    assert_eq!(text, "Hello there");
    assert_eq!(done["type"], "done");
    assert_eq!(done["session_id"], stream.headers.required("x-session-id"));
    app.finish();
}

#[test]
fn the_message_is_required_and_has_to_be_text() {
    let app = App::start();
    let missing = app.post(&app.agent_key, &path(&app), &json!({}));
    assert_eq!(missing.refused(400, "invalid_request_error", "missing_field")["param"], "message");
    let wrong = app.post(&app.agent_key, &path(&app), &json!({"message": 7}));
    assert_eq!(wrong.refused(400, "invalid_request_error", "invalid_value")["param"], "message");
    app.finish();
}

#[test]
fn an_agent_that_the_key_cannot_see_does_not_exist() {
    let app = App::start();
    let (_, other_key) = app.agent(json!({}));
    let (_, foreign_key) = app.account("1.00");
    for key in [&other_key, &foreign_key] {
        let answer = app.post(key, &path(&app), &json!({"message": "Hello"}));
        answer.refused(404, "invalid_request_error", "model_not_found");
    }
    app.finish();
}
