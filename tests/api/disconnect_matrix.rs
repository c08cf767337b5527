//! Clients that leave at every moment of a turn: each pays for what had been received, to the nano-dollar, nothing
//! stays held, and the provider's call ends.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{App, eventually, nanos};
use crate::client::{PATIENCE, Stream};
use crate::crash_load::{START, price};
use crate::database::{Snapshot, WriteLock};
use crate::script::{Counts, Reply, Script};

/// A reply of twelve deltas of every kind: thoughts, text, and a tool call in pieces.
fn twelve() -> Reply {
    let text = ["A ", "few ", "words ", "as an ", "answer", "."];
    let reply = Reply::says(&text).thinking(&["Let ", "me ", "see."]);
    let reply = reply.and_calls("call_1", "lookup", &["{\"query\":", "\"weather\"}"]);
    assert_eq!(reply.deltas().len(), DELTAS);
    reply
}

const DELTAS: usize = 12;

/// The text of a delta, as far as a model generated it.
fn generated(delta: &Value) -> String {
    let function = &delta["tool_calls"][0]["function"];
    [&delta["content"], &delta["reasoning_content"], &function["name"], &function["arguments"]]
        .into_iter()
        .filter_map(Value::as_str)
        .collect()
}

/// Reads until so many deltas of the reply have come.
fn read_deltas(stream: &mut Stream, count: usize) {
    // The role comes first, in a chunk of its own that is no output.
    for _ in 0..=count {
        stream.chunk();
    }
}

/// The newest charge, in nano-dollars.
fn newest_charge(app: &App) -> i64 {
    app.charges().first().map_or(0, |charge| -nanos(&charge["delta"]))
}

#[test]
fn leaving_at_any_delta_of_a_stream_that_counts_itself_costs_what_it_counted() {
    let app = App::start();
    let gate = app.upstream.gate();
    let mut spent = 0;
    for position in 0..=DELTAS {
        app.upstream.next(twelve().usage(9, 12).counts(Counts::OnEveryChunk).pause_after(position, &gate));
        let mut stream = app.stream("Hello", json!({"max_tokens": 100}));
        read_deltas(&mut stream, position);
        drop(stream);
        app.upstream.wait_for_aborts(position + 1);
        let balance = app.settled();
        let charge = newest_charge(&app);
        assert_eq!(charge, price(9, position as i64), "after {position} deltas");
        spent += charge;
        assert_eq!((app.charges().len(), balance.balance), (position + 1, START - spent));
    }
    app.finish();
}

#[test]
fn leaving_at_any_delta_of_a_stream_that_counts_at_its_end_costs_the_text_that_had_come() {
    let app = App::start();
    // What the server takes the prompt for is told by an answer that nobody counted.
    app.upstream.next(twelve().counts(Counts::Nowhere));
    app.stream("Hello", json!({"max_tokens": 100})).rest();
    let prompt = app.charges()[0]["prompt_tokens"].as_i64().expect("a count");
    assert!((2..=100).contains(&prompt), "{prompt} tokens for one word and the instructions");
    let mut spent = newest_charge(&app);
    let gate = app.upstream.gate();
    for position in 0..=DELTAS {
        app.upstream.next(twelve().usage(9, 12).pause_after(position, &gate));
        let mut stream = app.stream("Hello", json!({"max_tokens": 100}));
        read_deltas(&mut stream, position);
        drop(stream);
        app.upstream.wait_for_aborts(position + 1);
        let balance = app.settled();
        let bytes: usize = twelve().deltas()[..position].iter().map(|delta| generated(delta).len()).sum();
        if position > 0 {
            let charge = newest_charge(&app);
            assert_eq!(charge, price(prompt, bytes.div_ceil(4) as i64), "after {position} deltas");
            spent += charge;
        }
        // Nothing had come before the first one: nothing is charged, and there is no row that says so.
        assert_eq!((app.charges().len(), balance.balance), (1 + position, START - spent));
    }
    app.finish();
}

/// Sends a chat and leaves the connection to the caller.
fn send(app: &App, stream: bool, more: Value) -> TcpStream {
    let body = crate::app::merged(app.saying("Hello", json!({"stream": stream, "max_tokens": 100})), more);
    app.chat_call(&body).connect().expect("a connection")
}

/// Nothing was charged, nothing is held, and each hold that was made says why it is no more.
fn cost_nothing(app: &App, holds: usize) {
    assert_eq!(app.settled().balance, START);
    assert!(app.charges().is_empty());
    let now = Snapshot::live(app);
    assert_eq!((now.holds.len(), now.in_state("released").count()), (holds, holds));
    assert!(now.in_state("released").all(|hold| hold.reason.is_some()));
}

#[test]
fn leaving_before_the_provider_has_said_anything_costs_nothing() {
    for script in [Script::Silence, Script::Head] {
        for stream in [true, false] {
            let app = App::answering(script.clone());
            let client = send(&app, stream, json!({}));
            app.upstream.wait_for_requests(1);
            drop(client);
            app.upstream.wait_for_aborts(1);
            cost_nothing(&app, 1);
            app.finish();
        }
    }
}

/// How many turns run, as the operator sees it.
fn running(app: &App) -> usize {
    let body = app.get(&app.operator_token, "/admin/streams").ok();
    body["streams"].as_array().expect("a list").len()
}

#[test]
fn leaving_while_the_reserve_is_being_written_costs_nothing_and_asks_nobody() {
    for stream in [true, false] {
        let app = App::start();
        assert_eq!(running(&app), 0, "the operator's token is known before the database is locked");
        let lock = WriteLock::take(&app);
        let client = send(&app, stream, json!({}));
        eventually("the turn has begun", || (running(&app) == 1).then_some(()));
        drop(client);
        eventually("the turn has ended", || (running(&app) == 0).then_some(()));
        drop(lock);
        // This write comes after whatever was queued before it.
        app.account("1");
        eventually("the hold is given back, if there is one", || {
            let now = Snapshot::live(&app);
            (now.held == 0 && now.in_state("open").count() == 0).then_some(())
        });
        assert_eq!(app.upstream.asked(), 0, "the provider was asked for a client that had left");
        assert_eq!(app.settled().balance, START);
        app.finish();
    }
}

/// Sends turns of one session until one is refused because too many wait; those that wait.
fn fill_the_queue(app: &App) -> Vec<TcpStream> {
    let mut sent: Vec<TcpStream> = Vec::new();
    loop {
        let more = json!({"session_id": "s"});
        let newest = send(app, sent.len().is_multiple_of(2), more);
        newest.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
        let _ = newest.peek(&mut [0]);
        sent.push(newest);
        assert!(sent.len() < 100, "nobody is refused");
        let (refused, waiting): (Vec<_>, Vec<_>) = sent.into_iter().partition(|client| {
            client.set_nonblocking(true).expect("a mode");
            let answered = matches!(client.peek(&mut [0]), Ok(1));
            client.set_nonblocking(false).expect("a mode");
            answered
        });
        if !refused.is_empty() {
            for client in refused {
                assert_eq!(Stream::read(client).expect("a refusal").status, 429);
            }
            return waiting;
        }
        sent = waiting;
    }
}

#[test]
fn leaving_the_queue_of_a_session_costs_nothing_and_asks_nobody() {
    const PLACES: usize = 8;
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::says(&["Hello"]).usage(9, 3).pause_after(0, &gate));
    let first = send(&app, true, json!({"session_id": "s"}));
    app.upstream.wait_for_requests(1);
    drop(fill_the_queue(&app));
    // That all places can be taken again says that everybody who has left was noticed.
    let waiting = eventually("all places are free", || {
        let waiting = fill_the_queue(&app);
        (waiting.len() == PLACES).then_some(waiting)
    });
    gate.open();
    for client in std::iter::once(first).chain(waiting) {
        client.set_read_timeout(Some(PATIENCE)).expect("a time");
        let answer = Stream::read(client).expect("an answer").ok().into_answer().expect("a whole answer");
        assert!(answer.text().contains("Hello"));
    }
    assert_eq!(app.upstream.asked(), 1 + PLACES, "somebody who had left was answered");
    assert_eq!(app.settled().balance, START - 9 * price(9, 3));
    let now = Snapshot::live(&app);
    assert_eq!((now.holds.len(), now.in_state("settled").count()), (9, 9), "a waiting turn held money");
    app.finish();
}

#[test]
fn leaving_while_the_final_frame_waits_for_its_commit_costs_the_whole_answer() {
    let app = App::start();
    let (pause, linger) = (app.upstream.gate(), app.upstream.gate());
    // Lingering keeps the connection busy: that the server closes it says that it has read the end.
    app.upstream.next(twelve().usage(9, 12).pause_after(DELTAS, &pause).linger(&linger));
    let mut stream = app.stream("Hello", json!({"max_tokens": 100}));
    read_deltas(&mut stream, DELTAS);
    let lock = WriteLock::take(&app);
    pause.open();
    app.upstream.wait_for_closed(1);
    drop(stream);
    assert!(app.charges().is_empty(), "charged while the database is locked");
    drop(lock);
    the_whole_answer_is_charged(&app);
    app.finish();
}

#[test]
fn leaving_while_a_plain_answer_waits_for_its_commit_costs_the_whole_answer() {
    let app = App::start();
    let pause = app.upstream.gate();
    // An answer that ends the connection: that the server closes it says that it has read the end.
    app.upstream.next(twelve().usage(9, 12).pause_after(0, &pause).closing());
    let client = send(&app, false, json!({}));
    app.upstream.wait_for_requests(1);
    let lock = WriteLock::take(&app);
    pause.open();
    app.upstream.wait_for_closed(1);
    drop(client);
    assert!(app.charges().is_empty(), "charged while the database is locked");
    drop(lock);
    the_whole_answer_is_charged(&app);
    app.finish();
}

fn the_whole_answer_is_charged(app: &App) {
    app.settled();
    let hold = Snapshot::live(app).only_hold().clone();
    assert_eq!((hold.state.as_str(), hold.source.as_deref()), ("settled", Some("upstream")), "{hold:?}");
    assert_eq!((app.charges().len(), newest_charge(app)), (1, price(9, 12)));
}
