//! The native dialect, and which request gets which dialect.

use serde_json::{Value, json};

use crate::app::{App, merged, nanos};
use crate::client::{Event, Stream};
use crate::script::{Fault, Reply};

const ROUTES: [&str; 2] = ["/v1/chat/completions", "/v2/chats/openai"];

fn hello(more: Value) -> Value {
    merged(json!({"messages": [{"role": "user", "content": "Hello"}], "stream": true}), more)
}

fn open(app: &App, key: &str, body: &Value) -> Stream {
    app.call("POST", ROUTES[0]).key(key).json(body).open().ok()
}

fn events(app: &App, key: &str, more: Value) -> Vec<Value> {
    open(app, key, &hello(more)).rest().iter().map(Event::json).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn a_native_stream_is_contents_and_one_done_without_the_marker_of_openai() {
    let app = App::start();
    for route in ROUTES {
        let body = hello(json!({"agent_id": app.agent_id}));
        let mut stream = app.call("POST", route).key(&app.account_key).json(&body).open().ok();
        let events: Vec<Value> = stream.rest().iter().map(Event::json).collect();
        let (done, contents) = events.split_last().expect("events");
        for event in contents {
            assert_eq!(event["type"], "content");
            assert_eq!(keys(event), ["data", "type"]);
        }
        let pieces: Vec<_> = contents.iter().filter_map(|event| event["data"].as_str()).collect();
        assert_eq!(pieces.concat(), "Hello there");
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "an empty content event");
        assert_eq!(keys(done), ["metrics", "session_id", "type"]);
        assert_eq!(done["type"], "done");
        assert_eq!(done["session_id"], stream.headers.required("x-session-id"));
        assert!(stream.headers.required("x-completion-id").starts_with("chatcmpl-"));
        assert!(stream.headers.required("content-type").starts_with("text/event-stream"));
    }
    app.finish();
}

#[test]
fn done_tells_the_counts_the_cost_and_the_times() {
    let app = App::start();
    let events = events(&app, &app.account_key, json!({"agent_id": app.agent_id}));
    let metrics = &events.last().expect("events")["metrics"];
    let counts = ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| metrics[name].clone());
    assert_eq!(counts, [9, 3, 12]);
    assert_eq!(metrics["cost"], "0.000015000");
    assert_eq!(nanos(&metrics["balance"]), app.balance().balance);
    assert_eq!(metrics["finish_reason"], "stop");
    let (first, whole) = (metrics["ttft_ms"].as_u64(), metrics["duration_ms"].as_u64());
    assert!(first.is_some() && first <= whole, "the times are {first:?} and {whole:?}");
    app.finish();
}

#[test]
fn done_tells_agent_keys_nothing_of_money() {
    let app = App::start();
    let events = events(&app, &app.agent_key, json!({"agent_id": app.agent_id}));
    let metrics = &events.last().expect("events")["metrics"];
    assert_eq!(metrics["total_tokens"], 12);
    assert_eq!((metrics.get("cost"), metrics.get("balance")), (None, None));
    app.finish();
}

#[test]
fn tool_calls_come_as_the_pieces_that_the_model_made() {
    let app = App::answering(Reply::calls("call_1", "lookup", &["{\"q\":", "1}"]));
    let events = events(&app, &app.account_key, json!({"agent_id": app.agent_id}));
    let (done, calls) = events.split_last().expect("events");
    assert!(calls.iter().all(|event| event["type"] == "tool_calls"), "in {calls:?}");
    let first = &calls[0]["data"][0];
    let function = json!({"name": "lookup", "arguments": ""});
    assert_eq!(first, &json!({"index": 0, "id": "call_1", "type": "function", "function": function}));
    let pieces = calls.iter().filter_map(|event| event["data"][0]["function"]["arguments"].as_str());
    assert_eq!(pieces.collect::<String>(), "{\"q\":1}");
    assert!(calls.iter().all(|event| event["data"][0]["index"] == 0));
    assert_eq!(done["metrics"]["finish_reason"], "tool_calls");
    app.finish();
}

#[test]
fn a_failure_in_mid_stream_is_an_error_event_instead_of_done() {
    let app = App::start();
    for fault in
        [Fault::HangUp, Fault::End, Fault::Error(json!({"message": "broken", "type": "t"})), Fault::Garbage]
    {
        app.upstream.next(Reply::long(5).fault_after(2, fault));
        let events = events(&app, &app.account_key, json!({"agent_id": app.agent_id}));
        let last = events.last().expect("events");
        assert_eq!(keys(last), ["error", "type"], "the last event is {last}");
        assert_eq!(last["type"], "error");
        assert_eq!(keys(&last["error"]), ["code", "message", "param", "type"]);
        assert_eq!(last["error"]["type"], "server_error");
        assert!(last["error"]["code"].is_string());
        assert!(!events.iter().any(|event| event["type"] == "done"));
    }
    app.settled();
    app.finish();
}

#[test]
fn the_name_that_a_request_uses_for_its_agent_chooses_the_dialect() {
    let app = App::start();
    let is_native = |more: Value| {
        let events = open(&app, &app.agent_key, &hello(more)).rest();
        !events.last().expect("events").is_done()
    };
    let id = &app.agent_id;
    assert!(!is_native(json!({"model": id})));
    assert!(is_native(json!({"agent_id": id})));
    assert!(is_native(json!({})), "an agent key needs to name nothing");
    assert!(!is_native(json!({"model": id, "agent_id": id})));
    assert!(is_native(json!({"model": id, "stream_format": "native"})));
    assert!(!is_native(json!({"agent_id": id, "stream_format": "openai"})));
    assert!(!is_native(json!({"stream_format": "openai"})));
    app.finish();
}

#[test]
fn an_unknown_dialect_is_refused() {
    let app = App::start();
    let body = hello(json!({"agent_id": app.agent_id, "stream_format": "xml"}));
    let answer = app.post(&app.agent_key, ROUTES[0], &body);
    assert_eq!(answer.refused(400, "invalid_request_error", "invalid_value")["param"], "stream_format");
    app.finish();
}

#[test]
fn a_model_and_an_agent_that_differ_are_refused() {
    let app = App::start();
    let (other, _) = app.agent(json!({}));
    let body = hello(json!({"model": app.agent_id, "agent_id": other}));
    let answer = app.post(&app.account_key, ROUTES[0], &body);
    answer.refused(400, "invalid_request_error", "invalid_value");
    app.finish();
}

#[test]
fn an_account_key_has_to_name_the_agent() {
    let app = App::start();
    let answer = app.post(&app.account_key, ROUTES[0], &hello(json!({})));
    assert_eq!(answer.refused(400, "invalid_request_error", "missing_field")["param"], "model");
    app.finish();
}

#[test]
fn an_agent_key_without_a_name_chats_with_its_own_agent() {
    let app = App::start();
    let (other, key) = app.agent(json!({}));
    let body = hello(json!({"stream": false}));
    assert_eq!(app.post(&key, ROUTES[0], &body).ok()["agent_id"], other);
    app.finish();
}
