//! What a turn costs: every answer exactly once, to the nano-dollar, and nothing that was not generated.

use std::thread;

use serde_json::{Value, json};

use crate::app::{App, nanos};
use crate::client::Event;
use crate::script::{Counts, Fault, Reply};

const START: i64 = 5_000_000_000;

fn price(prompt: i64, output: i64) -> i64 {
    prompt * 1000 + output * 2000
}

/// The one charge of the account; its row has to agree with itself and with the balance.
fn only_charge(app: &App) -> Value {
    let balance = app.settled();
    let mut charges = app.charges();
    assert_eq!(charges.len(), 1, "in {charges:?}");
    let charge = charges.remove(0);
    let counted = |name: &str| charge[name].as_i64().unwrap_or_else(|| panic!("{name} in {charge}"));
    assert_eq!(-nanos(&charge["delta"]), price(counted("prompt_tokens"), counted("output_tokens")));
    assert_eq!(balance.balance, START + nanos(&charge["delta"]));
    charge
}

#[test]
fn a_turn_costs_its_usage_times_the_price() {
    let app = App::start();
    let mut spent = 0;
    for (prompt, output) in [(1, 0), (9, 3), (77, 199), (0, 1)] {
        for stream in [false, true] {
            app.upstream.next(Reply::says(&["Hi"]).usage(prompt, output));
            if stream {
                app.stream("Hello", json!({})).rest();
            } else {
                app.say("Hello", json!({}));
            }
            spent += price(prompt, output);
            assert_eq!(nanos(&app.charges()[0]["delta"]), -price(prompt, output));
            assert_eq!(app.balance().balance, START - spent);
            assert_eq!(app.balance().held, 0);
        }
    }
    app.finish();
}

#[test]
fn cached_tokens_are_counted_and_a_cost_is_rounded_up_once() {
    let app = App::start();
    let set = json!({"model": "test-model", "input": "0.0015", "cached_input": "0.0001", "output": "0.0025"});
    app.post(&app.operator_token, "/admin/prices", &set).is(201);
    app.upstream.next(Reply::says(&["Hi"]).usage_object(json!({
        "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    })));
    let answer = app.say("Hello", json!({}));
    // 5 * 1.5 + 2 * 0.1 + 3 * 2.5 = 15.2 nano-dollars
    assert_eq!(answer["usage"]["cost"], "0.000000016");
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    app.finish();
}

#[test]
fn the_end_of_a_stream_is_only_seen_once_it_is_charged() {
    let app = App::start();
    for _ in 0..20 {
        let before = app.charges().len();
        let mut stream = app.stream("Hello", json!({}));
        while stream.event().is_some_and(|event| !event.is_done()) {}
        assert_eq!(app.charges().len(), before + 1, "the client saw the end before the charge");
        assert_eq!(app.balance().held, 0);
    }
    app.finish();
}

#[test]
fn the_worst_case_is_held_while_a_turn_runs_and_given_back_after_it() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(4).usage(9, 4).pause_after(2, &gate));
    let mut stream = app.stream("Hello", json!({"max_tokens": 1000}));
    stream.chunk();
    let running = app.balance();
    assert!(running.held >= price(9, 1000), "only {} is held", running.held);
    assert!(running.held < price(2000, 1000), "{} is held", running.held);
    assert_eq!(running.balance, START);
    gate.open();
    assert!(stream.rest().last().expect("events").is_done());
    assert_eq!(app.balance().available, START - price(9, 4));
    app.finish();
}

#[test]
fn missing_usage_is_counted_by_the_server() {
    let app = App::start();
    for stream in [false, true] {
        let before = app.charges().len();
        app.upstream.next(Reply::long(40).counts(Counts::Nowhere));
        if stream {
            app.stream("Hello", json!({"max_tokens": 500})).rest();
        } else {
            app.say("Hello", json!({"max_tokens": 500}));
        }
        let charges = app.charges();
        assert_eq!(charges.len(), before + 1);
        let output = charges[0]["output_tokens"].as_i64().unwrap_or_default();
        assert!((20..=500).contains(&output), "40 words are counted as {output} tokens");
        assert!(charges[0]["prompt_tokens"].as_i64().is_some_and(|prompt| prompt >= 1));
    }
    app.finish();
}

#[test]
fn counted_usage_is_told_to_who_asked_for_it() {
    let app = App::answering(Reply::long(40).counts(Counts::Nowhere));
    let body = app.say("Hello", json!({}));
    assert!(body["usage"]["completion_tokens"].as_i64().is_some_and(|output| output >= 20), "{body}");
    let events = app.stream("Hello", json!({"stream_options": {"include_usage": true}})).rest();
    let usage = events[events.len() - 2].json()["usage"].clone();
    assert!(usage["completion_tokens"].as_i64().is_some_and(|output| output >= 20), "{usage}");
    app.finish();
}

#[test]
fn an_explicit_zero_is_zero() {
    let app = App::answering(Reply::long(40).usage(0, 0));
    app.stream("Hello", json!({})).rest();
    app.say("Hello", json!({}));
    assert_eq!(app.settled().balance, START);
    let charges = app.charges();
    assert_eq!(charges.len(), 2);
    assert!(charges.iter().all(|charge| nanos(&charge["delta"]) == 0));
    app.finish();
}

#[test]
fn absurd_usage_is_not_believed() {
    let app = App::start();
    for (prompt, output) in [(-9, 3), (9, -3), (9, 1_000_000_000), (i64::MAX, i64::MAX)] {
        let before = app.balance().balance;
        app.upstream.next(Reply::long(10).usage(prompt, output));
        app.stream("Hello", json!({"max_tokens": 100})).rest();
        let charge = app.charges().remove(0);
        let counted = charge["output_tokens"].as_i64().unwrap_or_default();
        assert!((1..=100).contains(&counted), "{output} is counted as {counted}");
        let cost = before - app.settled().balance;
        assert!((1..price(2000, 100)).contains(&cost), "it costs {cost}");
    }
    app.finish();
}

#[test]
fn usage_objects_that_are_broken_are_counted_by_the_server() {
    let app = App::start();
    for usage in [json!({}), json!({"prompt_tokens": "nine"}), json!("many"), json!({"total_tokens": 12})] {
        app.upstream.next(Reply::long(10).usage_object(usage.clone()));
        app.stream("Hello", json!({"max_tokens": 100})).rest();
        let charge = app.charges().remove(0);
        assert!(charge["output_tokens"].as_i64().is_some_and(|output| output >= 1), "{usage}: {charge}");
    }
    app.finish();
}

#[test]
fn a_provider_that_ignores_the_bound_is_cut_there() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(4000).pause_after(4000, &gate));
    let mut stream = app.stream("Hello", json!({"max_tokens": 5}));
    let events = stream.rest();
    assert!(events.last().expect("events").is_done());
    let reason = events[events.len() - 2].json()["choices"][0]["finish_reason"].clone();
    assert_eq!(reason, "length");
    app.upstream.wait_until_idle();
    let charge = only_charge(&app);
    assert!(charge["output_tokens"].as_i64().is_some_and(|output| output <= 5), "{charge}");
    gate.open();
    app.finish();
}

#[test]
fn a_stream_that_fails_midway_costs_what_was_received() {
    let app = App::start();
    app.upstream.next(Reply::long(60).fault_after(30, Fault::HangUp));
    let events = app.stream("Hello", json!({"max_tokens": 500})).rest();
    assert!(events.last().is_some_and(|event| event.data.contains("\"error\"")));
    let charge = only_charge(&app);
    let output = charge["output_tokens"].as_i64().unwrap_or_default();
    assert!((15..=200).contains(&output), "30 words are counted as {output} tokens");
    assert!(charge["prompt_tokens"].as_i64().is_some_and(|prompt| prompt >= 1));
    app.finish();
}

#[test]
fn a_bound_that_was_left_out_is_lowered_to_what_the_balance_affords() {
    let app = App::start();
    let (_, key) = app.account("0.003");
    let (agent, _) = app.agent_of(&key, json!({}));
    let body = app.saying("Hello", json!({ "model": agent }));
    let answer = app.post(&key, "/v1/chat/completions", &body).is(200);
    let told = answer.headers.number("x-max-completion-tokens");
    assert!((256..1500).contains(&told), "the bound is lowered to {told}");
    assert_eq!(app.upstream.last().max_output(), told);
    let given = app.saying("Hello", json!({"model": agent, "max_tokens": 1500}));
    let refused = app.post(&key, "/v1/chat/completions", &given);
    refused.refused(402, "insufficient_quota", "insufficient_balance");
    assert_eq!(app.balance_of(&key).held, 0);
    app.finish();
}

#[test]
fn a_bound_is_never_lowered_under_256() {
    let app = App::start();
    let (_, key) = app.account("0.0005");
    let (agent, _) = app.agent_of(&key, json!({}));
    let body = app.saying("Hello", json!({ "model": agent }));
    let refused = app.post(&key, "/v1/chat/completions", &body);
    refused.refused(402, "insufficient_quota", "insufficient_balance");
    assert!(app.upstream.requests().is_empty());
    assert_eq!(app.balance_of(&key).available, 500_000);
    app.finish();
}

#[test]
fn two_turns_at_once_cannot_spend_the_same_money() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::long(3).usage(9, 3).pause_after(1, &gate));
    let (_, key) = app.account("0.010");
    let (agent, _) = app.agent_of(&key, json!({}));
    // One such turn may cost about 6 of the 10 thousandths.
    let body = app.saying("Hello", json!({"model": agent, "max_tokens": 3000, "stream": true}));
    let call = app.call("POST", "/v1/chat/completions").key(&key).json(&body);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let streams: Vec<_> = (0..8).map(|_| scope.spawn(|| call.open())).collect();
        let streams: Vec<_> = streams.into_iter().map(|stream| stream.join().expect("a stream")).collect();
        gate.open();
        let statuses = streams.iter().map(|stream| stream.status).collect();
        streams.into_iter().for_each(|mut stream| {
            if stream.status == 200 {
                stream.rest();
            }
        });
        statuses
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 402).count(), 7, "{statuses:?}");
    assert_eq!(app.balance_of(&key).balance, 10_000_000 - price(9, 3));
    app.finish();
}

#[test]
fn two_hundred_streams_at_once_end_whole_and_are_each_charged_once() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::long(200).usage(11, 200).pause_after(1, &gate));
    let whole = Reply::long(200).text();
    let ids: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..200)
            .map(|client| {
                let (app, whole) = (&app, &whole);
                scope.spawn(move || {
                    let mut stream = app.stream(&format!("I am {client}"), json!({"max_tokens": 400}));
                    let events = stream.rest();
                    let (last, chunks) = events.split_last().expect("events");
                    assert!(last.is_done(), "the last event is {:?}", last.data);
                    let chunks: Vec<Value> = chunks.iter().map(Event::json).collect();
                    let pieces =
                        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
                    assert_eq!(&pieces.collect::<String>(), whole);
                    chunks[0]["id"].as_str().expect("an id").to_owned()
                })
            })
            .collect();
        app.upstream.wait_for_requests(200);
        gate.open();
        clients.into_iter().map(|client| client.join().expect("a whole stream")).collect()
    });
    assert_eq!(app.upstream.peak(), 200, "the streams did not run at once");
    let charges = app.charges();
    assert_eq!(charges.len(), 200);
    for id in &ids {
        assert_eq!(charges.iter().filter(|charge| charge["completion_id"] == **id).count(), 1);
    }
    assert!(charges.iter().all(|charge| nanos(&charge["delta"]) == -price(11, 200)));
    let balance = app.balance();
    assert_eq!((balance.held, balance.balance), (0, START - 200 * price(11, 200)));
    app.finish();
}
