//! Streamed answers in OpenAI's dialect.

use std::time::Instant;

use serde_json::{Value, json};

use crate::app::{App, nanos};
use crate::client::{Event, PATIENCE};
use crate::script::{Counts, Framing, Pieces, Reply, Script, UPSTREAM_MODEL};

const USAGE_TOO: &str = r#"{"stream_options": {"include_usage": true}}"#;

fn usage_too() -> Value {
    serde_json::from_str(USAGE_TOO).expect("JSON")
}

/// The chunks of a stream that has to end with `[DONE]`.
fn chunks(events: &[Event]) -> Vec<Value> {
    let (last, chunks) = events.split_last().expect("a stream has events");
    assert!(last.is_done(), "the last event is {:?}", last.data);
    chunks.iter().map(Event::json).collect()
}

fn text_of(chunks: &[Value], index: u64) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().cloned().unwrap_or_default());
    let of_index = choices.filter(|choice| choice["index"] == index);
    of_index.filter_map(|choice| choice["delta"]["content"].as_str().map(str::to_owned)).collect()
}

fn has_usage(chunk: &Value) -> bool {
    !chunk["usage"].is_null()
}

#[test]
fn a_stream_is_openai_chunks_of_one_completion_and_ends_with_done() {
    let app = App::start();
    for route in ["/v1/chat/completions", "/v2/chats/openai"] {
        let body = app.saying("Hello", json!({"stream": true}));
        let mut stream = app.call("POST", route).key(&app.agent_key).json(&body).open().ok();
        let events = stream.rest();
        let chunks = chunks(&events);
        for chunk in &chunks {
            for same in ["id", "created", "model", "object"] {
                assert_eq!(chunk[same], chunks[0][same], "{same} changes");
            }
        }
        assert!(chunks[0]["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")));
        assert_eq!(chunks[0]["object"], "chat.completion.chunk");
        assert_eq!(chunks[0]["model"], app.agent_id);
        assert!(chunks[0]["created"].is_u64());
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(text_of(&chunks, 0), "Hello there");
        let reasons: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
        let (last, earlier) = reasons.split_last().expect("chunks");
        assert_eq!(**last, "stop");
        assert!(earlier.iter().all(|reason| reason.is_null()), "the finish reason comes early");
        assert!(events.iter().all(|event| !event.data.contains(UPSTREAM_MODEL)), "the model leaks");
    }
    app.finish();
}

#[test]
fn a_stream_names_its_session_first_and_in_the_headers() {
    let app = App::start();
    let mut stream = app.stream("Hello", json!({}));
    let chunks = chunks(&stream.rest());
    assert_eq!(stream.headers.required("x-session-id"), chunks[0]["session_id"]);
    assert_eq!(stream.headers.required("x-completion-id"), chunks[0]["id"]);
    app.finish();
}

#[test]
fn the_headers_of_a_stream_keep_proxies_from_holding_it_back() {
    let app = App::start();
    let body = app.saying("Hello", json!({"stream": true}));
    let mut stream = app.chat_call(&body).header("Accept-Encoding", "gzip, deflate, br, zstd").open().ok();
    let headers = &stream.headers;
    assert!(headers.required("content-type").starts_with("text/event-stream"));
    assert_eq!(headers.required("cache-control"), "no-cache");
    assert_eq!(headers.required("x-accel-buffering"), "no");
    assert_eq!(headers.find("content-encoding"), None);
    assert_eq!(headers.find("content-length"), None);
    assert!(headers.required("x-request-id").starts_with("req_"));
    headers.number("openai-processing-ms");
    stream.rest();
    app.finish();
}

#[test]
fn usage_is_not_sent_to_who_did_not_ask_for_it() {
    let app = App::start();
    let not_asked =
        [json!({}), json!({"stream_options": {"include_usage": false}}), json!({"stream_options": null})];
    for counts in [Counts::AtTheEnd, Counts::OnTheLastChunk, Counts::OnEveryChunk] {
        app.upstream.always(Reply::says(&["Hi"]).counts(counts));
        for more in &not_asked {
            let chunks = chunks(&app.stream("Hello", more.clone()).rest());
            assert!(!chunks.iter().any(has_usage), "usage comes unasked: {chunks:?}");
            assert!(chunks.iter().all(|chunk| chunk["choices"][0].is_object()), "a chunk without choice");
        }
    }
    app.finish();
}

#[test]
fn usage_comes_once_in_a_last_chunk_without_choices_to_who_asked() {
    let app = App::start();
    for counts in [Counts::AtTheEnd, Counts::OnTheLastChunk, Counts::OnEveryChunk] {
        app.upstream.always(Reply::says(&["H", "i", "!"]).usage(9, 3).counts(counts));
        let chunks = chunks(&app.stream("Hello", usage_too()).rest());
        let (last, earlier) = chunks.split_last().expect("chunks");
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["prompt_tokens"], 9);
        assert_eq!(last["usage"]["completion_tokens"], 3);
        assert_eq!(last["usage"]["total_tokens"], 12);
        assert_eq!(last["id"], chunks[0]["id"]);
        assert_eq!(last["model"], app.agent_id);
        assert!(!earlier.iter().any(has_usage), "usage on an earlier chunk: {chunks:?}");
    }
    app.finish();
}

#[test]
fn the_usage_chunk_tells_the_cost_only_to_keys_that_may_see_money() {
    let app = App::start();
    let body = app.saying("Hello", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let call = app.call("POST", "/v1/chat/completions").json(&body);
    let seen = chunks(&call.clone().key(&app.account_key).open().ok().rest());
    let usage = &seen.last().expect("chunks")["usage"];
    assert_eq!(nanos(&usage["cost"]), 9 * 1000 + 3 * 2000);
    assert_eq!(nanos(&usage["balance"]), app.balance().balance);
    let hidden = chunks(&call.key(&app.agent_key).open().ok().rest());
    let usage = &hidden.last().expect("chunks")["usage"];
    assert_eq!(usage["total_tokens"], 12);
    assert_eq!((usage.get("cost"), usage.get("balance")), (None, None));
    app.finish();
}

#[test]
fn what_providers_do_differently_makes_no_difference_to_clients() {
    let app = App::start();
    let pieces = ["Gr\u{fc}\u{df}e, ", "\u{1f600}", " \"line\"\r\nnext\u{2028}"];
    let reply = || Reply::says(&pieces).usage(9, 3);
    let framed = |change: fn(&mut Framing)| reply().framed(change);
    let variants: [(&str, Reply); 9] = [
        ("plain", reply()),
        ("CRLF", framed(|framing| framing.line_end = "\r\n")),
        ("no space", framed(|framing| framing.prefix = "data:")),
        ("comments", framed(|framing| framing.comments = true)),
        ("byte by byte", framed(|framing| framing.byte_by_byte = true)),
        ("CRLF byte by byte", framed(|framing| (framing.line_end, framing.byte_by_byte) = ("\r\n", true))),
        ("no [DONE]", reply().without_done()),
        ("usage on the last chunk", reply().counts(Counts::OnTheLastChunk)),
        ("usage on every chunk", reply().counts(Counts::OnEveryChunk)),
    ];
    for (name, script) in variants {
        app.upstream.next(script);
        let chunks = chunks(&app.stream("Hello", usage_too()).rest());
        assert_eq!(text_of(&chunks, 0), pieces.concat(), "{name}");
        let (last, earlier) = chunks.split_last().expect("chunks");
        assert_eq!(last["usage"]["completion_tokens"], 3, "{name}");
        assert_eq!(earlier.last().expect("chunks")["choices"][0]["finish_reason"], "stop", "{name}");
    }
    app.finish();
}

#[test]
fn a_stream_whose_last_line_has_no_end_is_whole() {
    let app = App::start();
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        format!("data: {}\n\n", json!({ "choices": [choice] }))
    };
    let text =
        chunk(json!({"content": "Hi"}), Value::Null) + &chunk(json!({}), json!("stop")) + "data: [DONE]";
    app.upstream.always(Pieces::of(vec![text.into_bytes()]));
    for _ in 0..2 {
        assert_eq!(text_of(&chunks(&app.stream("Hello", json!({})).rest()), 0), "Hi");
    }
    app.finish();
}

#[test]
fn streamed_tool_calls_keep_their_index_and_add_up() {
    let app = App::answering(Reply::calls("call_1", "lookup", &["{\"q\":", " 1}"]).and_calls(
        "call_2",
        "store",
        &["{", "}"],
    ));
    let tools = json!([{"type": "function", "function": {"name": "lookup"}}]);
    let chunks = chunks(&app.stream("Hello", json!({ "tools": tools })).rest());
    let deltas: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array())
        .flatten()
        .collect();
    let mut arguments = [String::new(), String::new()];
    for delta in &deltas {
        let index = delta["index"].as_u64().expect("each call has an index");
        let piece = delta["function"]["arguments"].as_str().unwrap_or_default();
        arguments[usize::from(index == 1)].push_str(piece);
    }
    assert_eq!(arguments, ["{\"q\": 1}", "{}"]);
    let ids: Vec<_> = deltas.iter().filter_map(|delta| delta["id"].as_str()).collect();
    assert_eq!(ids, ["call_1", "call_2"]);
    assert_eq!(deltas[0]["type"], "function");
    assert_eq!(deltas[0]["function"]["name"], "lookup");
    assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "tool_calls");
    app.finish();
}

#[test]
fn two_choices_are_streamed_side_by_side() {
    let app = App::answering(Reply::says(&["Hel", "lo"]));
    let chunks = chunks(&app.stream("Hello", json!({"n": 2})).rest());
    assert_eq!((text_of(&chunks, 0), text_of(&chunks, 1)), ("Hello".to_owned(), "Hello".to_owned()));
    let finished = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"] == "stop");
    let indexes: Vec<_> = finished.map(|chunk| chunk["choices"][0]["index"].clone()).collect();
    assert_eq!(indexes, [0, 1]);
    app.finish();
}

#[test]
fn the_thoughts_of_a_model_are_handed_on_apart_from_its_words() {
    let app = App::answering(Reply::says(&["Hello"]).thinking(&["Let me ", "see."]));
    let chunks = chunks(&app.stream("Hello", json!({})).rest());
    let thoughts =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["reasoning_content"].as_str());
    assert_eq!(thoughts.collect::<String>(), "Let me see.");
    assert_eq!(text_of(&chunks, 0), "Hello");
    let plain = app.say("Hello", json!({}));
    assert_eq!(plain["choices"][0]["message"]["reasoning_content"], "Let me see.");
    assert_eq!(plain["content"], "Hello");
    app.finish();
}

#[test]
fn unknown_fields_of_chunks_reach_the_client() {
    let app = App::start();
    let chunks = chunks(&app.stream("Hello", json!({})).rest());
    for chunk in &chunks {
        assert_eq!(chunk["system_fingerprint"], "fp_upstream");
        assert_eq!(chunk["x_vendor"], json!({"kept": [1, 2, 3]}));
    }
    app.finish();
}

#[test]
fn each_piece_is_handed_on_as_soon_as_it_comes() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::long(6).pause_after(4, &gate));
    let mut stream = app.stream("Hello", json!({}));
    let mut text = String::new();
    while text != "w0 w1 w2 w3 " {
        text.push_str(stream.chunk()["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    gate.open();
    assert!(stream.rest().last().expect("more events").is_done());
    app.finish();
}

#[test]
fn the_body_ends_right_after_done_even_if_the_provider_keeps_its_own_open() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::says(&["Hi"]).linger(&gate));
    assert!(app.stream("Hello", json!({})).rest().last().expect("events").is_done());
    gate.open();
    app.finish();
}

#[test]
fn a_silent_stream_is_kept_alive_with_comments() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    let mut stream = app.stream("Hello", json!({}));
    let since = Instant::now();
    assert!(stream.wait_for_comment(), "the stream ends instead of waiting");
    assert!(since.elapsed() < PATIENCE);
    gate.open();
    assert!(stream.rest().last().expect("events").is_done());
    app.finish();
}

#[test]
fn no_status_is_sent_before_the_provider_has_begun() {
    let app = App::start();
    app.upstream.always(Script::refusal(400, "the prompt is too long for this model"));
    let body = app.saying("Hello", json!({"stream": true}));
    let error = app.chat(&body);
    assert_eq!(error.status, 400);
    assert!(error.text().contains("the prompt is too long for this model"));
    assert!(error.headers.required("content-type").starts_with("application/json"));
    app.finish();
}

#[test]
fn a_stream_may_go_to_the_chat_of_another_language() {
    let app = App::answering(Reply::says(&["\u{4f60}\u{597d}"]));
    let chunks = chunks(&app.stream("\u{4f60}\u{597d}", json!({})).rest());
    assert_eq!(text_of(&chunks, 0), "\u{4f60}\u{597d}");
    assert_eq!(app.upstream.last().last_text(), "\u{4f60}\u{597d}");
    app.finish();
}
