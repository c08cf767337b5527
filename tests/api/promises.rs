//! Money that is decided in memory: the provider thinks while the hold reaches the disk, and nothing reaches a client
//! before it has.

use std::io::ErrorKind;
use std::thread;

use serde_json::json;

use crate::app::App;
use crate::client::Stream;
use crate::database::{Snapshot, WriteLock, change};
use crate::metrics;
use crate::script::Reply;

/// A server that knows what its account has, since that has paid once.
fn acquainted() -> App {
    let app = App::start();
    app.say("Hello", json!({}));
    app
}

fn disagreements(app: &App) -> Option<f64> {
    metrics::value(&metrics::read(app), "switchboard_ledger_disagreements_total")
}

#[test]
fn a_provider_is_called_while_the_hold_of_its_stream_is_written() {
    let app = acquainted();
    let lock = WriteLock::take(&app);
    let call = app.chat_call(&app.saying("Hello", json!({"stream": true})));
    let client = call.connect().expect("a connection");
    app.upstream.wait_for_requests(2);
    app.upstream.wait_until_over(1);
    assert_eq!(Snapshot::live(&app).holds.len(), 1, "the second hold is not written yet");
    client.set_nonblocking(true).expect("a socket");
    let nothing = client.peek(&mut [0]).expect_err("nothing is sent before the hold is durable");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    client.set_nonblocking(false).expect("a socket");
    drop(lock);
    Stream::read(client).expect("an answer").into_answer().expect("a whole stream").is(200);
    assert_eq!(app.charges().len(), 2);
    assert_eq!(disagreements(&app), Some(0.0));
    app.finish();
}

#[test]
fn a_plain_answer_that_is_there_before_its_hold_is_charged_with_it() {
    let app = acquainted();
    let lock = WriteLock::take(&app);
    thread::scope(|scope| {
        let answer = scope.spawn(|| app.chat(&app.saying("Hello", json!({}))));
        app.upstream.wait_for_requests(2);
        app.upstream.wait_until_over(1);
        assert_eq!(Snapshot::live(&app).holds.len(), 1);
        drop(lock);
        answer.join().expect("an answer").is(200);
    });
    let books = Snapshot::live(&app);
    assert_eq!((books.in_state("settled").count(), books.charges().len(), books.held), (2, 2, 0));
    app.finish();
}

#[test]
fn what_the_database_does_not_grant_ends_its_call_and_costs_the_client_nothing() {
    let app = acquainted();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    let before = app.balance();
    let lock = WriteLock::take(&app);
    thread::scope(|scope| {
        let answer = scope.spawn(|| app.chat(&app.saying("Hello", json!({"stream": true}))));
        app.upstream.wait_for_requests(2);
        lock.change("UPDATE account SET status = 'suspended'");
        answer.join().expect("an answer").refused(403, "permission_error", "account_suspended");
    });
    app.upstream.wait_for_aborts(1);
    assert_eq!((app.balance(), app.charges().len()), (before, 1));
    assert_eq!(disagreements(&app), Some(1.0));
    change(&app, "UPDATE account SET status = 'active'");
    app.say("Hello", json!({}));
    assert_eq!(app.charges().len(), 2);
    app.finish();
}

#[test]
fn a_balance_that_pays_for_one_answer_is_not_promised_to_two() {
    let app = acquainted();
    let (_, key) = app.account("0.000600000");
    let (agent, agent_key) = app.agent_of(&key, json!({"name": "Poor"}));
    let body = json!({"model": agent, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100});
    let call = || app.call("POST", "/v1/chat/completions").key(&agent_key).json(&body);
    call().send().is(200);
    let answers: Vec<u16> = thread::scope(|scope| {
        let lock = WriteLock::take(&app);
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| call().send().status)).collect();
        app.upstream.wait_for_requests(3);
        drop(lock);
        all.into_iter().map(|answer| answer.join().expect("an answer")).collect()
    });
    assert!(answers.iter().all(|status| [200, 402].contains(status)), "{answers:?}");
    assert_eq!(disagreements(&app), Some(0.0));
    app.finish();
}
