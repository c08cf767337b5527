//! What a network and a careless provider do to an answer: cuts at every byte, all line ends, resets, connections that
//! go dead, bytes that trickle, chunks of ten megabytes. Each time the status, the charge and the log are right.

use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{App, PROVIDER_KEY, Setup, merged, nanos};
use crate::client::Stream;
use crate::crash_load::{START, price};
use crate::script::{Fault, Pieces, Reply, Script};

/// Text whose characters take one to four bytes each, and an escape.
const WORDS: [&str; 3] = ["na\u{ef}ve \u{2014} ", "\u{1f980}\u{65e5}\u{672c}", " \"ok\"\n"];
/// A limit that no test reaches by itself.
const IMPATIENT: &str = "first_byte_timeout_s = 2\nchunk_timeout_s = 2\ntotal_timeout_s = 30";

/// A whole answer with these line ends, comments and an unknown field; with or without the protocol's end.
fn body(line_end: &str, done: bool) -> Vec<u8> {
    let chunk = |delta: Value, finish: Value| {
        json!({"id": "chatcmpl-p", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    };
    let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    events.extend(WORDS.iter().map(|word| chunk(json!({"content": word}), Value::Null)));
    events.push(chunk(json!({}), json!("stop")));
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14});
    events.push(json!({"id": "chatcmpl-p", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [], "usage": usage}));
    let mut text = format!(": begins{line_end}");
    for event in events {
        text.push_str(&format!("data: {event}{line_end}{line_end}: goes on{line_end}"));
    }
    if done {
        text.push_str(&format!("data: [DONE]{line_end}{line_end}"));
    }
    text.into_bytes()
}

/// The text of a stream that ends well.
fn text_of(mut stream: Stream) -> String {
    let events = stream.rest();
    assert!(events.last().is_some_and(|event| event.is_done()), "an answer without its end: {events:?}");
    let chunks = events.iter().filter(|event| !event.is_done()).map(|event| event.json());
    chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

/// Cuts an answer in two at each byte, in a session each.
fn cut_at_every_byte(line_end: &str) {
    let app = App::start();
    let whole = body(line_end, true);
    for at in 1..whole.len() {
        let (head, tail) = whole.split_at(at);
        app.upstream.next(Script::from(Pieces::of(vec![head.to_vec(), tail.to_vec()])));
        let text = text_of(app.stream("Hello", json!({"max_tokens": 100})));
        assert_eq!(text, WORDS.concat(), "cut before byte {at}");
    }
    let asked = i64::try_from(whole.len()).expect("a few bytes") - 1;
    assert_eq!(app.settled().balance, START - asked * price(9, 5));
    app.finish();
}

#[test]
fn an_answer_cut_anywhere_is_whole_with_lf() {
    cut_at_every_byte("\n");
}

#[test]
fn an_answer_cut_anywhere_is_whole_with_crlf() {
    cut_at_every_byte("\r\n");
}

#[test]
fn an_answer_cut_anywhere_is_whole_with_cr() {
    cut_at_every_byte("\r");
}

#[test]
fn an_answer_without_the_protocols_end_is_whole_if_it_says_why_it_ended() {
    let app = App::start();
    for line_end in ["\n", "\r\n", "\r"] {
        app.upstream.next(Script::from(Pieces::of(vec![body(line_end, false)])));
        assert_eq!(text_of(app.stream("Hello", json!({"max_tokens": 100}))), WORDS.concat());
    }
    assert_eq!(app.settled().balance, START - 3 * price(9, 5));
    app.finish();
}

/// The last event of a stream tells this failure, and nothing looks like success.
fn ends_with_error(mut stream: Stream, code: &str) {
    let events = stream.rest();
    let last = events.last().expect("an event").json();
    assert_eq!(last["error"]["code"], code, "{last}");
    assert!(events.iter().all(|event| !event.is_done()));
    let finishes = events.iter().map(|event| event.json()["choices"][0]["finish_reason"].clone());
    assert!(finishes.into_iter().all(|reason| reason.is_null()));
}

#[test]
fn a_reset_before_anything_is_a_status_and_one_in_mid_stream_an_error_event() {
    let app = App::start();
    // A call that finds its connection closed may be sent once more.
    (0..4).for_each(|_| app.upstream.next(Reply::long(9).fault_after(0, Fault::Reset)));
    for stream in [true, false] {
        let answer = app.chat(&app.saying("Hello", json!({"stream": stream})));
        assert!([502, 503].contains(&answer.status), "{}", answer.text());
        assert_eq!(app.settled().balance, START);
    }
    app.upstream.forget();
    app.upstream.next(Reply::long(9).fault_after(4, Fault::Reset));
    ends_with_error(app.stream("Hello", json!({})), "upstream_invalid");
    let charges = app.charges();
    assert_eq!(charges.len(), 1);
    assert!(nanos(&charges[0]["delta"]) < 0);
    assert!(app.log().contains("the provider failed in mid-stream"), "{}", app.log());
    app.finish();
}

#[test]
fn a_connection_that_goes_dead_is_given_up_and_charged_for_what_came() {
    let app = Setup::default().in_file(IMPATIENT).start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    ends_with_error(app.stream("Hello", json!({"session_id": "dead"})), "upstream_timeout");
    app.upstream.wait_for_aborts(1);
    let said = app.get(&app.account_key, "/v2/sessions/dead/messages").ok();
    assert_eq!(said["messages"][1]["content"], Reply::long(3).text());
    assert_eq!(app.charges().len(), 1);
    assert!(app.log().contains("a stalled stream"), "{}", app.log());
    app.finish();
}

#[test]
fn bytes_that_trickle_are_an_answer_and_latency_is_no_failure() {
    let app = Setup::default().in_file(IMPATIENT).start();
    let pieces = body("\r\n", true).chunks(40).map(<[u8]>::to_vec).collect();
    // Slower in all than a provider may be silent, and never silent.
    let slow = Pieces { gap: Duration::from_millis(60), ..Pieces::of(pieces) };
    app.upstream.next(Script::from(slow));
    assert_eq!(text_of(app.stream("Hello", json!({"max_tokens": 100}))), WORDS.concat());
    assert_eq!(app.settled().balance, START - price(9, 5));
    app.finish();
}

#[test]
fn an_error_event_that_tells_the_operators_key_is_not_logged_with_it() {
    let app = Setup::default().arg("--log-content").start();
    let error = json!({"message": format!("invalid key {PROVIDER_KEY}"), "type": "server_error"});
    for came in [0, 3] {
        app.upstream.next(Reply::long(9).fault_after(came, Fault::Error(error.clone())));
        let answer = app.chat(&app.saying("Hello", json!({"stream": true})));
        assert!(!answer.text().contains(PROVIDER_KEY), "{}", answer.text());
    }
    assert!(app.log().contains("invalid key ***"), "{}", app.log());
    // That the log is free of the key itself is checked here.
    app.finish();
}

/// An answer as it is written: a head of these lines, and a body.
fn written(head: &str, body: &[u8]) -> Script {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{head}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    Script::Bytes(bytes)
}

#[test]
fn an_answer_that_ends_with_its_connection_is_an_answer() {
    let app = App::start();
    app.upstream.next(written("Content-Type: text/event-stream\r\n", &body("\n", true)));
    assert_eq!(text_of(app.stream("Hello", json!({"max_tokens": 100}))), WORDS.concat());
    assert_eq!(app.settled().balance, START - price(9, 5));
    let plain = Reply::says(&["Hello"]).usage(9, 5).plain(1).to_string();
    app.upstream.next(written("", plain.as_bytes()));
    assert_eq!(app.say("Hello", json!({}))["content"], "Hello");
    assert_eq!(app.settled().balance, START - 2 * price(9, 5));
    app.finish();
}

#[test]
fn an_answer_whose_end_can_be_read_in_two_ways_is_none() {
    let app = App::start();
    let plain = Reply::says(&["Hello"]).usage(9, 5).plain(1).to_string();
    let length = plain.len();
    for head in [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Content-Length: {length}\r\nContent-Length: {}\r\n", length - 1),
        "Content-Length: 18446744073709551616\r\n".to_owned(),
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n".to_owned(),
        format!("Content-Length: {}\r\n", length + 1),
    ] {
        app.upstream.next(written(&head, plain.as_bytes()));
        app.chat(&app.saying("Hello", json!({}))).refused(502, "server_error", "upstream_invalid");
        assert_eq!(app.settled().balance, START, "{head}");
    }
    assert_eq!(app.upstream.asked(), 6, "what has answered is asked again");
    app.finish();
}

/// A stream whose one delta has so many bytes.
fn giant(bytes: usize) -> Script {
    Reply { pieces: vec!["x".repeat(bytes)], ..Reply::says(&[]) }.usage(9, 5).into()
}

#[test]
fn a_chunk_of_ten_megabytes_comes_through_and_one_beyond_all_measure_is_refused() {
    let app = App::start();
    let credit = json!({"amount": "1000", "external_ref": "giant"});
    app.post(&app.operator_token, &format!("/admin/accounts/{}/credit", app.account_id), &credit).is(201);
    let before = app.balance().balance;
    app.upstream.next(giant(10_000_000));
    let more = json!({"max_tokens": 10_000_000});
    assert_eq!(text_of(app.stream("Hello", more.clone())).len(), 10_000_000);
    assert_eq!(before - app.settled().balance, price(9, 5));
    app.upstream.next(giant(17 << 20));
    let answer = app.chat(&app.saying("Hello", merged(more, json!({"stream": true}))));
    // The role came first, so that the status is a 200 whose last event tells the failure.
    assert!(answer.text().contains("upstream_invalid"), "{} bytes", answer.text().len());
    assert_eq!(before - app.settled().balance, price(9, 5), "nothing that was handed on is charged for");
    app.finish();
}
