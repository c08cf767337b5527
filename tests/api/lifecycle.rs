//! Stopping and starting again.

use std::process::Stdio;
use std::thread;

use serde_json::json;

use crate::app::{App, Setup, eventually, wait_for_exit};
use crate::client::Stream;
use crate::metrics;
use crate::script::{Counts, Reply, Script};

#[test]
fn a_stop_lets_running_streams_end_and_takes_no_new_work() {
    let mut app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::long(6).usage(9, 6).pause_after(2, &gate));
    let mut streams: Vec<_> = (0..5).map(|_| app.stream("Hello", json!({}))).collect();
    streams.iter_mut().for_each(|stream| drop(stream.chunk()));
    assert_eq!(app.call("GET", "/readyz").send().status, 200);
    app.terminate();
    eventually("the server says that it is draining", || {
        (app.call("GET", "/readyz").send().status == 503).then_some(())
    });
    app.call("GET", "/livez").send().is(200);
    for stream in [false, true] {
        let refused = app.chat(&app.saying("Hello", json!({ "stream": stream })));
        refused.refused(503, "server_error", "draining");
        assert!((1..=60).contains(&refused.headers.number("retry-after")));
    }
    gate.open();
    for mut stream in streams {
        assert!(stream.rest().last().expect("events").is_done(), "a stop cuts a stream");
    }
    assert_eq!(app.wait_for_exit().code(), Some(0), "the log says:\n{}", app.log());
    assert_eq!(app.upstream.requests().len(), 5);
    app.start_again();
    let balance = app.balance();
    assert_eq!((balance.held, balance.balance), (0, 5_000_000_000 - 5 * (9 * 1000 + 6 * 2000)));
    app.finish();
}

#[test]
fn a_stop_lets_a_plain_answer_end() {
    let mut app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::says(&["Hi"]).pause_after(0, &gate));
    let call = app.chat_call(&app.saying("Hello", json!({})));
    thread::scope(|scope| {
        let answer = scope.spawn(|| call.send());
        app.upstream.wait_for_requests(1);
        app.terminate();
        eventually("the server says that it is draining", || {
            (app.call("GET", "/readyz").send().status == 503).then_some(())
        });
        gate.open();
        assert_eq!(answer.join().expect("an answer").ok()["content"], "Hi");
    });
    assert_eq!(app.wait_for_exit().code(), Some(0));
    app.start_again();
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

#[test]
fn a_stop_lets_the_running_turn_of_a_session_end_and_refuses_those_that_wait() {
    const WAITING: usize = 3;
    for (name, whole) in [("30", true), ("1", false)] {
        let mut app = Setup::default().arg("--shutdown-timeout").arg(name).start();
        let gate = app.upstream.gate();
        app.upstream.next(Reply::long(6).usage(9, 6).counts(Counts::OnEveryChunk).pause_after(2, &gate));
        let mut stream = app.stream("one", json!({"session_id": "s"}));
        (0..3).for_each(|_| drop(stream.chunk()));
        let body = app.saying("two", json!({"session_id": "s"}));
        // Those whose clients leave are not forgotten either: they would go on without them.
        let calls = [app.chat_call(&body), app.chat_call(&body).header("X-On-Disconnect", "continue")];
        let mut clients: Vec<_> =
            (0..WAITING).map(|number| calls[number % 2].connect().expect("one")).collect();
        eventually("they wait", || {
            let waiting = metrics::value(&metrics::read(&app), "switchboard_turns_waiting");
            waiting.filter(|waiting| *waiting > WAITING as f64 - 0.5)
        });
        drop(clients.remove(1));
        app.terminate();
        eventually("the server says that it is draining", || {
            (app.call("GET", "/readyz").send().status == 503).then_some(())
        });
        // They are told at once, while the running turn goes on.
        for client in clients {
            let answer = Stream::read(client).and_then(Stream::into_answer).expect("a whole answer");
            answer.refused(503, "server_error", "draining");
            assert!((1..=60).contains(&answer.headers.number("retry-after")));
        }
        if whole {
            gate.open();
        }
        let last = stream.rest().pop().expect("events");
        assert_eq!(last.is_done(), whole, "{last:?}");
        assert!(whole || last.json()["error"]["code"] == "draining", "{last:?}");
        assert_eq!(app.wait_for_exit().code(), Some(0), "the log says:\n{}", app.log());
        app.start_again();
        let cost = if whole { 9 * 1000 + 6 * 2000 } else { 9 * 1000 + 2 * 2000 };
        assert_eq!((app.balance().held, app.balance().balance), (0, 5_000_000_000 - cost));
        assert_eq!(app.upstream.asked(), 1, "a turn that waited has run");
        app.say("two", json!({"session_id": "s"}));
        assert_eq!(app.upstream.last().said().len(), 3);
        app.finish();
    }
}

#[test]
fn an_idle_server_stops_at_once() {
    let mut app = App::start();
    app.say("Hello", json!({}));
    app.terminate();
    assert_eq!(app.wait_for_exit().code(), Some(0));
    app.finish_stopped();
}

#[test]
fn another_start_on_the_same_data_tells_the_ids_and_no_secrets() {
    let mut app = App::start();
    let first = app.bootstrap.clone();
    app.restart();
    let second = app.bootstrap.clone();
    for id in ["account_id", "agent_id"] {
        assert_eq!(second[id], first[id]);
    }
    assert!(second["url"].as_str().is_some_and(|url| url.starts_with("http://127.0.0.1:")));
    for secret in ["agent_key", "account_key", "operator_token"] {
        assert_eq!(second.get(secret), None, "{secret} is told again");
        let secret = first[secret].as_str().expect("a secret");
        assert!(!second.to_string().contains(secret));
    }
    app.say("the old keys still work", json!({}));
    assert_eq!(app.transactions().len(), 2, "the demo account is not made twice");
    app.finish();
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let app = App::start();
    let mut second = app.second_process();
    let mut child = second.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be started");
    let status = wait_for_exit(&mut child, || "though another one owns its data".to_owned());
    assert!(!status.success(), "two processes run on the same data");
    let mut told = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        std::io::Read::read_to_string(&mut stderr, &mut told).expect("text");
    }
    assert!(told.contains("data"), "it does not say why: {told}");
    app.say("the first one is unharmed", json!({}));
    app.finish();
}

#[test]
fn everything_that_was_made_is_there_after_a_restart() {
    let mut app = App::start();
    let (agent, key) = app.agent(json!({"name": "Ann", "instructions": "Be brief."}));
    let (_, foreign) = app.account("2.00");
    app.say("one", json!({"model": agent, "session_id": "s"}));
    let ledger = app.transactions();
    let sessions = app.get(&app.account_key, "/v2/sessions").ok();
    let read = app.get(&app.account_key, &format!("/v2/agents/{agent}")).ok();
    app.restart();
    assert_eq!(app.transactions(), ledger);
    assert_eq!(app.get(&app.account_key, "/v2/sessions").ok(), sessions);
    assert_eq!(app.get(&app.account_key, &format!("/v2/agents/{agent}")).ok(), read);
    assert_eq!(app.balance_of(&foreign).balance, 2_000_000_000);
    let body = app.saying("two", json!({"model": agent, "session_id": "s"}));
    app.post(&key, "/v1/chat/completions", &body).is(200);
    let texts: Vec<_> = app.upstream.last().said().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "Hello there", "two"]);
    app.finish();
}

#[test]
fn a_deleted_agent_ends_its_running_streams() {
    let app = App::start();
    let (agent, _) = app.agent(json!({}));
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(6).pause_after(2, &gate));
    let mut stream = app.stream("Hello", json!({ "model": agent }));
    stream.chunk();
    app.delete(&app.account_key, &format!("/v2/agents/{agent}")).is(204);
    app.upstream.wait_for_aborts(1);
    let events = stream.rest();
    assert!(!events.last().expect("events").is_done(), "it says that it is done");
    app.settled();
    app.finish();
}

#[test]
fn a_revoked_key_ends_its_running_streams() {
    let app = App::start();
    let made = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(6).pause_after(2, &gate));
    let body = app.saying("Hello", json!({"stream": true}));
    let call = app.call("POST", "/v1/chat/completions").key(made["key"].as_str().expect("a key"));
    let mut stream = call.json(&body).open().ok();
    stream.chunk();
    let path = format!("/v2/agents/{}/api-keys/{}", app.agent_id, made["id"].as_str().expect("an id"));
    app.delete(&app.account_key, &path).is(204);
    app.upstream.wait_for_aborts(1);
    let last = stream.rest().pop().expect("events").json();
    assert_eq!(last["error"]["code"], "cancelled");
    app.settled();
    app.finish();
}

#[test]
fn a_stop_does_not_wait_for_ever_for_a_provider_that_is_silent() {
    let mut app = Setup::default().arg("--shutdown-timeout").arg("1").start();
    app.upstream.next(Script::Silence);
    let connection =
        app.chat_call(&app.saying("Hello", json!({"stream": true}))).connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    app.terminate();
    assert_eq!(app.wait_for_exit().code(), Some(0));
    drop(connection);
    app.start_again();
    assert_eq!((app.balance().held, app.balance().balance), (0, 5_000_000_000));
    app.finish();
}

#[test]
fn a_new_operator_token_ends_the_one_before() {
    let mut app = Setup::default().arg("--new-operator-token").start();
    let first = app.operator_token.clone();
    app.get(&first, "/admin/accounts").is(200);
    app.restart();
    let kept = std::fs::read_to_string(app.data().join("operator.token")).expect("the token's file");
    assert_ne!(kept.trim(), first);
    assert!(!app.log().contains(kept.trim()), "the token is in the log");
    app.get(&first, "/admin/accounts").refused(401, "invalid_request_error", "invalid_api_key");
    app.operator_token = kept.trim().to_owned();
    app.get(&app.operator_token, "/admin/accounts").is(200);
    app.finish();
}
