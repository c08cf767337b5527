//! Whatever a provider answers reaches the client as it came, but for id, model and usage.

use serde_json::{Value, json};

use crate::app::App;
use crate::client::Event;
use crate::script::{Reply, Script};

/// Everything that OpenAI's answers may hold, and what others add.
fn rich() -> Value {
    let score = json!({"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []});
    let cited = json!({"type": "url_citation",
        "url_citation": {"url": "https://example.com", "title": "t", "start_index": 0, "end_index": 2}});
    let function = json!({"name": "f", "arguments": "{\"a\": 1.0, \"broken\": "});
    let calls = json!([
        {"id": "c1", "type": "function", "function": function},
        {"id": "c2", "type": "custom", "custom": {"name": "sql", "input": "select 1"}},
    ]);
    let first = json!({
        "role": "assistant", "content": "Hi", "refusal": null, "annotations": [cited], "tool_calls": calls,
        "reasoning_content": "hm", "reasoning_details": [{"type": "x", "data": "s"}],
        "audio": {"id": "audio_1", "data": "UklGRg==", "expires_at": 1_800_000_000, "transcript": "Hi"},
        "function_call": {"name": "old", "arguments": "{}"}, "x_vendor": {"score": 0.5},
    });
    let second = json!({"role": "assistant", "content": null, "refusal": "No."});
    let scores = json!({"content": [score], "refusal": null});
    json!({
        "id": "upstream-1", "object": "chat.completion", "created": 1_700_000_000, "model": "upstream-model",
        "choices": [
            {"index": 0, "message": first, "logprobs": scores, "finish_reason": "tool_calls", "stop_reason": 7},
            {"index": 1, "message": second, "logprobs": null, "finish_reason": "content_filter"},
        ],
        "service_tier": "default", "system_fingerprint": "fp_1", "metadata": {"a": "b"},
        "moderation": {"input": []}, "provider": "Vendor", "kv_transfer_params": null,
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 1, "accepted_prediction_tokens": 0}},
    })
}

/// A provider's stream of these events, as they are.
fn streamed(events: &[Value]) -> Script {
    let lines: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let headers = vec![("Content-Type".to_owned(), "text/event-stream".to_owned())];
    Script::Raw { status: 200, headers, body: format!("{lines}data: [DONE]\n\n") }
}

fn without(mut value: Value, names: &[&str]) -> Value {
    let fields = value.as_object_mut().expect("an object");
    fields.retain(|name, _| !names.contains(&name.as_str()));
    value
}

fn chunks(app: &App, more: Value) -> Vec<Value> {
    let events = app.stream("Hello", more).rest();
    let (last, chunks) = events.split_last().expect("events");
    assert!(last.is_done(), "the last event is {:?}", last.data);
    chunks.iter().map(Event::json).collect()
}

#[test]
fn a_plain_answer_arrives_as_it_came() {
    let app = App::answering(Script::garbage(&rich().to_string()));
    let mut body = app.say("Hello", json!({"n": 2}));
    let ours = ["id", "model", "usage", "agent_id", "session_id", "content"];
    assert_eq!(without(body.clone(), &ours), without(rich(), &["id", "model", "usage"]));
    let sent = without(body["usage"].take(), &["cost", "balance"]);
    assert_eq!(sent, rich()["usage"], "the counts are the provider's own");
    app.finish();
}

#[test]
fn chunks_arrive_as_they_came_and_in_their_order() {
    let chunk = |choices: Value| {
        json!({"id": "upstream-1", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": "upstream-model", "service_tier": "default", "system_fingerprint": "fp_1",
            "obfuscation": "xyz", "x_vendor": {"a": [1, null]}, "choices": choices})
    };
    let choice = |index: u64, delta: Value| json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": null}]);
    let scores = json!({"content": [{"token": "i", "logprob": -1.5, "bytes": null, "top_logprobs": []}]});
    let ends = |index: u64, reason: &str| json!([{"index": index, "delta": {}, "finish_reason": reason, "stop_reason": null}]);
    let sent = [
        chunk(choice(0, json!({"role": "assistant", "content": "", "refusal": null}))),
        chunk(choice(
            1,
            json!({"role": "assistant", "content": null, "tool_calls": [
            {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
        )),
        chunk(choice(0, json!({"reasoning_content": "hm", "reasoning": "hm"}))),
        chunk(json!([
            {"index": 1, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\""}}]}, "finish_reason": null},
            {"index": 0, "delta": {"content": "H"}, "logprobs": scores, "finish_reason": null},
        ])),
        chunk(choice(
            1,
            json!({"tool_calls": [{"index": 1, "id": "c2", "type": "custom", "custom": {"name": "sql", "input": "select"}}]}),
        )),
        chunk(choice(0, json!({"content": "i", "annotations": [{"type": "url_citation"}]}))),
        chunk(choice(1, json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}))),
        chunk(choice(
            0,
            json!({"audio": {"id": "audio_1", "transcript": "Hi"}, "function_call": {"name": "old"}}),
        )),
        chunk(choice(0, json!({"refusal": "No."}))),
        chunk(ends(1, "tool_calls")),
        chunk(ends(0, "stop")),
    ];
    let app = App::answering(streamed(&sent));
    let came = chunks(&app, json!({"n": 2}));
    let came: Vec<Value> =
        came.into_iter().map(|chunk| without(chunk, &["id", "model", "session_id"])).collect();
    let sent = sent.map(|chunk| without(chunk, &["id", "model"]));
    assert_eq!(came, sent);
    app.finish();
}

#[test]
fn a_chunk_gets_the_keys_that_its_provider_left_out() {
    let app = App::answering(streamed(&[
        json!({"created": 1_700_000_001, "choices": [{"delta": {"content": "Hi"}}]}),
        json!({"created": 1_700_000_002, "choices": [{"index": 0, "finish_reason": "stop"}]}),
        json!({"usage": {"prompt_tokens": 9, "completion_tokens": 1}}),
    ]));
    let came = chunks(&app, json!({"stream_options": {"include_usage": true}}));
    assert_eq!(came[0]["choices"], json!([{"delta": {"content": "Hi"}, "index": 0, "finish_reason": null}]));
    assert_eq!(came[1]["choices"], json!([{"index": 0, "finish_reason": "stop", "delta": {}}]));
    assert_eq!(came[2]["choices"], json!([]));
    assert_eq!(came[2]["usage"]["total_tokens"], 10);
    for chunk in &came {
        assert_eq!(
            (&chunk["object"], &chunk["model"]),
            (&json!("chat.completion.chunk"), &json!(app.agent_id))
        );
        assert_eq!(chunk["created"], 1_700_000_001, "a stream was made at one time");
    }
    app.finish();
}

#[test]
fn a_streamed_tool_call_gets_the_index_that_its_provider_left_out() {
    let calls = |calls: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": null}]});
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let app = App::answering(streamed(&[
        calls(json!([call("c1")])),
        calls(json!([call("c2"), call("c3")])),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
    ]));
    let came = chunks(&app, json!({"session_id": "mine"}));
    let deltas = came.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array());
    let indexes: Vec<&Value> = deltas.flatten().map(|call| &call["index"]).collect();
    assert_eq!(indexes, [0, 1, 2]);
    let stored = app.get(&app.account_key, "/v2/sessions/mine/messages").ok();
    assert_eq!(stored["messages"][1]["tool_calls"], json!([call("c1"), call("c2"), call("c3")]));
    app.finish();
}

#[test]
fn a_plain_answer_gets_the_keys_that_its_provider_left_out() {
    let bare = json!({"created": null, "choices": [{"message": {"content": "Hi"}}, {"message": {}}]});
    let app = App::answering(Script::garbage(&bare.to_string()));
    let body = app.say("Hello", json!({"n": 2}));
    assert_eq!(body["object"], "chat.completion");
    assert!(body["created"].as_i64().is_some_and(|seconds| seconds > 1_700_000_000));
    for (at, content) in [json!("Hi"), Value::Null].into_iter().enumerate() {
        let message = json!({"content": content, "role": "assistant", "refusal": null});
        let choice = json!({"message": message, "index": at, "logprobs": null, "finish_reason": null});
        assert_eq!(body["choices"][at], choice);
    }
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert!(body["usage"][name].is_u64(), "{body}");
    }
    app.finish();
}

#[test]
fn what_the_provider_asks_of_the_operator_is_not_told() {
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "cost": 0.5,
        "cost_details": {"upstream_inference_cost": 0.25}, "cost_in_usd_ticks": 5, "balance": 3});
    let app = App::answering(Reply::says(&["Hi"]).usage_object(usage));
    let options = json!({"stream_options": {"include_usage": true}});
    let body = app.saying("Hello", json!({}));
    let plain = app.post(&app.agent_key, "/v1/chat/completions", &body).ok();
    let streamed = chunks(&app, options).pop().expect("chunks");
    let counts = json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12});
    assert_eq!(plain["usage"], counts);
    assert_eq!(without(streamed["usage"].clone(), &["cost", "balance"]), counts);
    assert!(streamed["usage"]["cost"].is_string(), "the account's key sees what it paid");
    app.finish();
}

#[test]
fn the_pieces_of_each_choice_stay_in_order_when_one_chunk_ends_another_choice() {
    let piece =
        |index: u64, text: &str| json!({"index": index, "delta": {"content": text}, "finish_reason": null});
    let end = |index: u64| json!({"index": index, "delta": {}, "finish_reason": "stop"});
    let app = App::answering(streamed(&[
        json!({"choices": [piece(0, "a"), piece(1, "1")]}),
        json!({"choices": [end(0), piece(1, "2")]}),
        json!({"choices": [piece(1, "3")]}),
        json!({"choices": [end(1)]}),
    ]));
    let came = chunks(&app, json!({"n": 2}));
    let choices = came.iter().flat_map(|chunk| chunk["choices"].as_array().cloned().unwrap_or_default());
    let second = choices.filter(|choice| choice["index"] == 1);
    let text: String =
        second.filter_map(|choice| choice["delta"]["content"].as_str().map(str::to_owned)).collect();
    assert_eq!(text, "123");
    app.finish();
}
