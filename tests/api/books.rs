//! The books against the traffic: calls of the provider, answers and charges are the same number, to the last one,
//! however many run at once; and a balance buys exactly what it buys.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::app::{App, MODEL, eventually, nanos};
use crate::client::{Call, Stream};
use crate::crash_load::{START, price};
use crate::database::Snapshot;
use crate::script::Reply;
use crate::upstream::{Gate, Recorded};

const ANSWERS: usize = 3_000;
/// How many of those that run at once end together.
const GROUP: usize = 50;
/// Requests at once for a balance that is enough for [`PAYABLE`] of them.
const BUYERS: usize = 1_000;
const PAYABLE: usize = 137;
const PRICE: &str = "0.001";
const BALANCE: &str = "0.137";

/// Each request in flight has four descriptors in the tests' process, and two in the server's.
fn allow_descriptors(in_flight: usize) {
    let needed = in_flight * 8 + 1_000;
    let allowed = || {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
        line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
    };
    if allowed() < needed {
        let own = std::process::id().to_string();
        let _ = Command::new("prlimit").args(["--pid", &own, &format!("--nofile={needed}:")]).status();
    }
    assert!(allowed() >= needed, "{} descriptors: run `ulimit -n {needed}` before this test", allowed());
}

/// What the provider says that the answer with this number took; each is a little different.
fn usage(number: usize) -> (i64, i64) {
    (1 + number as i64 % 97, 1 + number as i64 % 13)
}

fn number(request: &Recorded) -> usize {
    request.last_text().parse().expect("a number")
}

/// Reads an answer to its end; its id, or the status of a refusal and what is said of it.
fn answer(mut stream: Stream) -> Result<String, (u16, String)> {
    if stream.status != 200 {
        return Err((stream.status, stream.into_answer().map(|answer| answer.text()).unwrap_or_default()));
    }
    let id = stream.headers.required("x-completion-id").to_owned();
    if stream.headers.required("content-type") != "text/event-stream" {
        assert!(stream.into_answer().expect("a whole answer").text().contains("Hello you"));
        return Ok(id);
    }
    let events = stream.rest();
    assert!(events.last().is_some_and(|event| event.is_done()), "a stream without its end: {events:?}");
    Ok(id)
}

/// Asks for [`ANSWERS`] answers, always so many at once, with two keys, streamed and plain.
fn every_answer_is_one_call_and_one_charge(in_flight: usize) {
    allow_descriptors(in_flight);
    let app = App::start();
    // They run all at once and end in groups: a charge that has to wait for a thousand others may come too late
    // for its answer on a slow machine.
    let gates: Vec<Gate> = (0..in_flight.div_ceil(GROUP)).map(|_| app.upstream.gate()).collect();
    let held = gates.clone();
    app.upstream.choose(move |request| {
        let number = number(request);
        let (prompt, output) = usage(number);
        let gate = &held[number % held.len()];
        Reply::says(&["Hel", "lo ", "you"]).usage(prompt, output).pause_after(1, gate).into()
    });
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    let client = || {
        let mut answered = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= ANSWERS {
                return answered;
            }
            let key = if number.is_multiple_of(2) { &app.agent_key } else { &app.account_key };
            let body = app
                .saying(&number.to_string(), json!({"max_tokens": 50, "stream": !number.is_multiple_of(3)}));
            let call = app.call("POST", "/v1/chat/completions").key(key).json(&body);
            let id = answer(call.open()).unwrap_or_else(|refusal| panic!("answer {number} is {refusal:?}"));
            done.fetch_add(1, Ordering::SeqCst);
            answered.push((id, number));
        }
    };
    let answered: HashMap<String, usize> = thread::scope(|scope| {
        let clients: Vec<_> = (0..in_flight).map(|_| scope.spawn(client)).collect();
        app.upstream.wait_for_requests(in_flight);
        let each = in_flight / gates.len();
        for (opened, gate) in gates.iter().enumerate() {
            gate.open();
            let least = each * (opened + 1);
            eventually("a group is answered", || (done.load(Ordering::SeqCst) >= least).then_some(()));
        }
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    println!("{ANSWERS} answers at {in_flight} in flight took {:?}", began.elapsed());
    assert_eq!(app.upstream.peak(), in_flight, "they did not run at once");
    assert_eq!(app.upstream.asked(), ANSWERS, "calls of the provider");
    assert_eq!(answered.len(), ANSWERS, "answers");
    let charges = app.charges();
    assert_eq!(charges.len(), ANSWERS, "charges");
    let mut spent = 0;
    for charge in &charges {
        let id = charge["completion_id"].as_str().expect("a charge names its answer");
        let (prompt, output) = usage(*answered.get(id).expect("a charge is for an answer"));
        assert_eq!(-nanos(&charge["delta"]), price(prompt, output));
        spent += price(prompt, output);
    }
    let balance = app.balance();
    assert_eq!((balance.held, balance.balance), (0, START - spent));
    app.finish();
}

#[test]
fn sixteen_at_once_are_each_one_call_and_one_charge() {
    every_answer_is_one_call_and_one_charge(16);
}

#[test]
fn two_hundred_at_once_are_each_one_call_and_one_charge() {
    every_answer_is_one_call_and_one_charge(200);
}

#[test]
fn a_thousand_at_once_are_each_one_call_and_one_charge() {
    every_answer_is_one_call_and_one_charge(1_000);
}

/// [`BUYERS`] requests at the same moment, with so many keys of one account that can pay [`PAYABLE`].
fn exactly_what_the_balance_buys(stream: bool, keys: usize) {
    allow_descriptors(BUYERS);
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::says(&["Hel", "lo ", "you"]).pause_after(1, &gate));
    let set = json!({"model": MODEL, "input": "0", "output": "0", "per_request": PRICE});
    app.post(&app.operator_token, "/admin/prices", &set).is(201);
    let (account, owner) = app.account(BALANCE);
    let (agent, first) = app.agent_of(&owner, json!({}));
    let more = (1..keys).map(|_| app.new_key(&owner, &agent, json!({}))["key"].clone());
    let keys: Vec<String> = std::iter::once(first)
        .chain(more.map(|key| key.as_str().expect("a key is shown once").to_owned()))
        .collect();
    let body = app.saying("Hello", json!({"model": agent, "stream": stream, "max_tokens": 50}));
    let call = |key: &str| -> Call { app.call("POST", "/v1/chat/completions").key(key).json(&body) };
    let (start, refused) = (Barrier::new(BUYERS), AtomicUsize::new(0));
    let outcomes: Vec<Result<String, (u16, String)>> = thread::scope(|scope| {
        let buyers: Vec<_> = (0..BUYERS)
            .map(|buyer| {
                let (call, start, refused) = (call(&keys[buyer % keys.len()]), &start, &refused);
                scope.spawn(move || {
                    start.wait();
                    let stream = call.open();
                    if stream.status == 402 {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    answer(stream)
                })
            })
            .collect();
        eventually("everybody is refused or asks the provider", || {
            (app.upstream.asked() + refused.load(Ordering::SeqCst) >= BUYERS).then_some(())
        });
        gate.open();
        buyers.into_iter().map(|buyer| buyer.join().expect("a buyer")).collect()
    });
    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err((402, _)))).count();
    assert_eq!((answered, refused), (PAYABLE, BUYERS - PAYABLE));
    assert_eq!(app.upstream.asked(), PAYABLE);
    let balance = app.balance_of(&owner);
    assert_eq!((balance.available, balance.held), (0, 0));
    let now = Snapshot::live(&app);
    let charges: Vec<i64> =
        now.charges().iter().filter(|entry| entry.account == account).map(|entry| entry.delta).collect();
    assert_eq!(charges, [-1_000_000; PAYABLE]);
    app.finish();
}

#[test]
fn a_balance_for_137_streams_buys_137_of_a_thousand_with_one_key() {
    exactly_what_the_balance_buys(true, 1);
}

#[test]
fn a_balance_for_137_streams_buys_137_of_a_thousand_with_twenty_keys() {
    exactly_what_the_balance_buys(true, 20);
}

#[test]
fn a_balance_for_137_plain_answers_buys_137_of_a_thousand_with_one_key() {
    exactly_what_the_balance_buys(false, 1);
}

#[test]
fn a_balance_for_137_plain_answers_buys_137_of_a_thousand_with_twenty_keys() {
    exactly_what_the_balance_buys(false, 20);
}
