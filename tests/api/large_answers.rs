//! Answers that are large or slow, and clients that read them late.

use std::thread;

use serde_json::json;

use crate::app::App;
use crate::client::Event;
use crate::script::Reply;

const MEGABYTE: usize = 1 << 20;

fn big_pieces(count: usize) -> Vec<String> {
    (0..count).map(|piece| format!("{piece:08} ").repeat(MEGABYTE / 9)).collect()
}

fn credit(app: &App) {
    let path = format!("/admin/accounts/{}/credit", app.account_id);
    app.post(&app.operator_token, &path, &json!({"amount": "1000.00", "external_ref": "large"})).is(201);
}

#[test]
fn a_plain_answer_of_many_megabytes_comes_whole() {
    let pieces = big_pieces(6);
    let app = App::answering(Reply { pieces: pieces.clone(), ..Reply::says(&[]) });
    let body = app.say("Hello", json!({"session_id": "s"}));
    assert_eq!(body["content"].as_str().map(str::len), Some(pieces.concat().len()));
    app.finish();
}

#[test]
fn a_stream_of_many_megabytes_comes_whole_to_a_client_that_reads_late() {
    let pieces = big_pieces(24);
    let app = App::answering(Reply { pieces: pieces.clone(), ..Reply::says(&[]) }.usage(9, 1_000_000));
    credit(&app);
    let mut late = app.stream("Hello", json!({"max_tokens": 10_000_000}));
    // Another client is served from its beginning to its end while the first one reads nothing.
    let length = |events: Vec<Event>| -> usize {
        assert!(events.last().is_some_and(Event::is_done));
        let (_, chunks) = events.split_last().expect("events");
        let contents = chunks.iter().map(Event::json);
        contents.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::len)).sum()
    };
    let other = length(app.stream("Hello", json!({"max_tokens": 10_000_000})).rest());
    assert_eq!(other, pieces.concat().len());
    assert_eq!(length(late.rest()), pieces.concat().len());
    app.settled();
    assert_eq!(app.charges().len(), 2);
    app.finish();
}

#[test]
fn a_plain_answer_may_take_longer_than_a_stream_may_be_silent() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    thread::scope(|scope| {
        let plain = scope.spawn(|| app.say("Hello", json!({})));
        app.upstream.wait_for_requests(1);
        // The comments of a silent stream tell the time.
        let mut clock = app.stream("Hello", json!({}));
        assert!(clock.wait_for_comment() && clock.wait_for_comment());
        gate.open();
        assert_eq!(plain.join().expect("an answer")["content"], "Hello");
        clock.rest();
    });
    app.finish();
}

#[test]
fn a_stream_of_ten_thousand_pieces_keeps_their_order() {
    let app = App::answering(Reply::long(10_000).usage(9, 10_000));
    credit(&app);
    let events = app.stream("Hello", json!({"max_tokens": 100_000, "session_id": "s"})).rest();
    let (last, chunks) = events.split_last().expect("events");
    assert!(last.is_done());
    let text: String = chunks
        .iter()
        .map(Event::json)
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, Reply::long(10_000).text());
    let stored = app.get(&app.account_key, "/v2/sessions/s/messages").ok();
    assert_eq!(stored["messages"][1]["content"], text);
    app.finish();
}
