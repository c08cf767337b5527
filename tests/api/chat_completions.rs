//! `POST /v1/chat/completions` and its twin `POST /v2/chats/openai`, answered in one piece.

use serde_json::{Value, json};

use crate::app::{App, nanos};
use crate::script::{Reply, Script, UPSTREAM_MODEL};

const ROUTES: [&str; 2] = ["/v1/chat/completions", "/v2/chats/openai"];

#[test]
fn a_plain_answer_is_a_whole_openai_completion_on_both_routes() {
    let app = App::start();
    for route in ROUTES {
        let answer = app.post(&app.account_key, route, &app.saying("Hello", json!({}))).is(200);
        assert!(!answer.text().contains(UPSTREAM_MODEL), "the provider's model leaks: {}", answer.text());
        let body = answer.json();
        let id = body["id"].as_str().expect("an id");
        assert!(id.starts_with("chatcmpl-"), "the id is {id}");
        assert_eq!(body["object"], "chat.completion");
        assert_eq!(body["model"], app.agent_id);
        assert!(body["created"].as_u64().is_some_and(|seconds| seconds > 1_600_000_000));
        let choice = &body["choices"][0];
        assert_eq!(choice["index"], 0);
        assert_eq!(choice["finish_reason"], "stop");
        assert!(choice.as_object().is_some_and(|choice| choice.contains_key("logprobs")));
        assert_eq!(choice["message"]["role"], "assistant");
        assert_eq!(choice["message"]["content"], "Hello there");
        assert!(choice["message"].as_object().is_some_and(|message| message.contains_key("refusal")));
        let usage = &body["usage"];
        let counts = [&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"]];
        assert_eq!(counts, [9, 3, 12]);
    }
    app.finish();
}

#[test]
fn a_plain_answer_serves_native_clients_too() {
    let app = App::start();
    let answer = app.chat(&app.saying("Hello", json!({}))).is(200);
    let body = answer.json();
    assert_eq!(body["agent_id"], app.agent_id);
    assert_eq!(body["content"], "Hello there");
    let session = body["session_id"].as_str().expect("a session");
    assert!(session.starts_with("sess_") && session.len() == 25, "the session is {session}");
    app.finish();
}

#[test]
fn unknown_fields_of_the_provider_reach_the_client() {
    let app = App::start();
    let body = app.say("Hello", json!({}));
    assert_eq!(body["system_fingerprint"], "fp_upstream");
    assert_eq!(body["x_vendor"], json!({"kept": [1, 2, 3]}));
    assert_eq!(body["choices"][0]["message"]["x_vendor_note"], "kept");
    app.finish();
}

#[test]
fn keys_that_openai_requires_are_there_even_when_the_provider_leaves_them_out() {
    let app = App::answering(Reply::says(&["Hi"]).terse());
    let body = app.say("Hello", json!({}));
    let choice = body["choices"][0].as_object().expect("a choice");
    assert!(choice.contains_key("logprobs"), "logprobs is required, null or not: {body}");
    let message = choice["message"].as_object().expect("a message");
    assert!(message.contains_key("refusal"), "refusal is required, null or not: {body}");
    app.finish();
}

#[test]
fn every_chat_answer_names_its_completion_session_and_request_in_headers() {
    let app = App::start();
    for route in ROUTES {
        let answer = app.post(&app.account_key, route, &app.saying("Hello", json!({}))).is(200);
        let body = answer.json();
        let headers = &answer.headers;
        assert_eq!(headers.required("content-type").split(';').next(), Some("application/json"));
        assert_eq!(headers.required("x-completion-id"), body["id"]);
        assert_eq!(headers.required("x-session-id"), body["session_id"]);
        assert!(headers.required("x-request-id").starts_with("req_"));
        headers.number("openai-processing-ms");
    }
    app.finish();
}

#[test]
fn headers_of_the_provider_do_not_reach_the_client() {
    let app = App::start();
    let answer = app.chat(&app.saying("Hello", json!({}))).is(200);
    let stream = app.stream("Hello", json!({}));
    for headers in [&answer.headers, &stream.headers] {
        assert_eq!(headers.find("set-cookie"), None);
        assert_ne!(headers.find("x-ratelimit-limit-requests"), Some("99999"));
        assert_ne!(headers.find("x-request-id"), Some("upstream-request-1"));
    }
    app.finish();
}

#[test]
fn each_request_has_an_id_of_its_own_and_each_completion_too() {
    let app = App::start();
    let one = app.chat(&app.saying("Hello", json!({}))).is(200);
    let two = app.chat(&app.saying("Hello", json!({}))).is(200);
    for header in ["x-request-id", "x-completion-id", "x-session-id"] {
        assert_ne!(one.headers.required(header), two.headers.required(header), "{header}");
    }
    app.finish();
}

#[test]
fn only_keys_that_may_see_money_see_cost_and_balance() {
    let app = App::start();
    let with_account_key = app.say("Hello", json!({}));
    let usage = &with_account_key["usage"];
    assert_eq!(nanos(&usage["cost"]), 9 * 1000 + 3 * 2000);
    assert_eq!(nanos(&usage["balance"]), app.balance().balance);
    let body = app.saying("Hello", json!({}));
    let with_agent_key = app.post(&app.agent_key, ROUTES[0], &body).ok();
    assert_eq!(with_agent_key["usage"]["prompt_tokens"], 9);
    assert_eq!(with_agent_key["usage"].get("cost"), None);
    assert_eq!(with_agent_key["usage"].get("balance"), None);
    app.finish();
}

#[test]
fn a_tool_call_is_handed_on_as_the_model_made_it() {
    let arguments = "{\"q\": \"caf\u{e9}\", \"broken\": ";
    let app = App::answering(Reply::calls("call_1", "lookup", &["{\"q\": \"caf\u{e9}\", ", "\"broken\": "]));
    let tools = json!([{"type": "function", "function": {"name": "lookup", "parameters": {}}}]);
    let body = app.say("Hello", json!({ "tools": tools }));
    assert_eq!(body["content"], Value::Null);
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let function = json!({"name": "lookup", "arguments": arguments});
    let call = json!({"id": "call_1", "type": "function", "function": function});
    assert_eq!(choice["message"]["tool_calls"], json!([call]));
    app.finish();
}

#[test]
fn two_choices_are_two_answers() {
    let app = App::answering(Reply::says(&["Hi"]).usage(10, 8));
    let body = app.say("Hello", json!({"n": 2}));
    let choices = body["choices"].as_array().expect("choices");
    let indexes: Vec<_> = choices.iter().map(|choice| choice["index"].clone()).collect();
    assert_eq!(indexes, [0, 1]);
    assert_eq!(nanos(&body["usage"]["cost"]), 10 * 1000 + 8 * 2000);
    app.finish();
}

#[test]
fn a_null_field_is_an_absent_field() {
    let app = App::start();
    let nulls = json!({
        "agent_id": null, "session_id": null, "stream": null, "stream_options": null, "max_tokens": null,
        "max_completion_tokens": null, "temperature": null, "n": null, "tools": null, "stop": null,
        "service_tier": null, "modalities": null, "web_search_options": null, "stream_format": null,
    });
    assert_eq!(app.say("Hello", nulls)["content"], "Hello there");
    app.finish();
}

#[test]
fn every_role_and_kind_of_text_is_taken_and_handed_on() {
    let app = App::start();
    let calls = json!([{"id": "call_1", "type": "function",
        "function": {"name": "lookup", "arguments": "{}"}}]);
    let messages = json!([
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "", "tool_calls": calls, "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "found"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It is found."}], "annotations": []},
        {"role": "user", "content": "And now?"},
    ]);
    let body = json!({"model": app.agent_id, "messages": messages});
    app.chat(&body).ok();
    let sent = app.upstream.last().conversation();
    assert_eq!(sent, messages.as_array().expect("messages")[1..]);
    app.finish();
}

#[test]
fn an_image_reaches_the_provider_as_it_came() {
    let app = App::start();
    let url = "data:image/png;base64,iVBORw0KGgo=";
    let content = json!([
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]);
    let messages = json!([{"role": "user", "content": content}]);
    app.chat(&json!({"model": app.agent_id, "messages": messages})).ok();
    assert_eq!(app.upstream.last().conversation()[0]["content"], content);
    app.finish();
}

#[test]
fn the_scheme_of_the_authorization_header_may_be_in_any_case() {
    let app = App::start();
    let call = app.call("POST", ROUTES[0]).json(&app.saying("Hello", json!({})));
    for scheme in ["bearer", "BEARER"] {
        call.clone().header("authorization", &format!("{scheme} {}", app.agent_key)).send().is(200);
    }
    app.finish();
}

#[test]
fn clients_find_the_agents_of_their_key_among_the_models() {
    let app = App::start();
    let (other, other_key) = app.agent(json!({}));
    let list = app.get(&app.account_key, "/v1/models").ok();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().expect("a list of models");
    let mut ids: Vec<_> = models.iter().filter_map(|model| model["id"].as_str()).collect();
    ids.sort_unstable();
    let mut expected = [app.agent_id.as_str(), other.as_str()];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    for model in models {
        assert_eq!(model["object"], "model");
        assert_eq!(model["owned_by"], app.account_id);
        assert!(model["created"].is_u64());
    }
    let of_agent_key = app.get(&other_key, "/v1/models").ok();
    assert_eq!(of_agent_key["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(of_agent_key["data"][0]["id"], other);
    assert_eq!(app.get(&other_key, &format!("/v1/models/{other}")).ok()["id"], other);
    for unseen in [app.agent_id.as_str(), "ag_00000000_0000", "gpt-4o"] {
        let answer = app.get(&other_key, &format!("/v1/models/{unseen}"));
        answer.refused(404, "invalid_request_error", "model_not_found");
    }
    app.finish();
}

#[test]
fn a_large_body_below_the_limit_is_taken() {
    let app = App::answering(Script::hello());
    // The worst case of 6 MB of text at 1 USD a million is more than the demo account has.
    let credit = json!({"amount": "100.00", "external_ref": "large"});
    app.post(&app.operator_token, &format!("/admin/accounts/{}/credit", app.account_id), &credit).is(201);
    let text = "word ".repeat(1_200_000);
    app.say(&text, json!({"max_tokens": 10}));
    assert_eq!(app.upstream.last().last_text().len(), text.len());
    app.finish();
}
