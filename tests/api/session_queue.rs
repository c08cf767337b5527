//! One turn at a time in each session, and what a second request finds.

use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use crate::app::{App, eventually};
use crate::client::{Answer, Call};
use crate::metrics;
use crate::script::Reply;
use crate::upstream::Gate;

/// What is said in the one session of these tests.
fn turn(app: &App, text: &str) -> Call {
    app.chat_call(&app.saying(text, json!({"session_id": "s"})))
}

/// An app in which every reply to a text beginning with "slow" waits at the gate.
fn with_slow_turns() -> (App, Gate) {
    let app = App::start();
    let gate = app.upstream.gate();
    let held = gate.clone();
    app.upstream.choose(move |request| {
        let text = request.last_text();
        let reply = Reply::says(&["re: ", &text]).usage(9, 2);
        if text.starts_with("slow") { reply.pause_after(0, &held).into() } else { reply.into() }
    });
    (app, gate)
}

#[test]
fn a_second_request_waits_until_the_first_has_ended() {
    let (app, gate) = with_slow_turns();
    thread::scope(|scope| {
        let first = scope.spawn(|| turn(&app, "slow one").send().ok());
        app.upstream.wait_for_requests(1);
        let second = scope.spawn(|| turn(&app, "two").send().ok());
        // A request of another session is answered while this one is busy.
        app.say("elsewhere", json!({}));
        gate.open();
        assert_eq!(first.join().expect("the first turn")["content"], "re: slow one");
        assert_eq!(second.join().expect("the second turn")["content"], "re: two");
    });
    let texts: Vec<_> = app.upstream.last().said().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["slow one", "re: slow one", "two"]);
    app.finish();
}

#[test]
fn who_asks_to_be_rejected_finds_the_session_busy() {
    let (app, gate) = with_slow_turns();
    let mut first = app.chat_call(&app.saying("slow one", json!({"session_id": "s", "stream": true})));
    first = first.header("X-Session-Conflict", "reject");
    let mut stream = first.open().ok();
    let busy = turn(&app, "two").header("X-Session-Conflict", "reject").send();
    busy.refused(409, "invalid_request_error", "session_busy");
    assert!((1..=60).contains(&busy.headers.number("retry-after")));
    gate.open();
    assert!(stream.rest().last().expect("events").is_done());
    eventually("the session is free", || {
        let answer = turn(&app, "three").header("X-Session-Conflict", "reject").send();
        (answer.status == 200).then_some(())
    });
    app.finish();
}

#[test]
fn who_asks_to_interrupt_ends_the_running_turn_and_goes_on_from_what_it_said() {
    let (app, _) = with_slow_turns();
    let never = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(2, &never));
    let mut stream = app.stream("one", json!({"session_id": "s"}));
    let mut text = String::new();
    while text != "w0 w1 " {
        text.push_str(stream.chunk()["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    let answer = turn(&app, "two").header("X-Session-Conflict", "interrupt").send().ok();
    assert_eq!(answer["content"], "re: two");
    app.upstream.wait_for_aborts(1);
    let events = stream.rest();
    let last = events.last().expect("events").json();
    assert_eq!(last["error"]["code"], "interrupted");
    let all: String = events.iter().map(|event| event.data.as_str()).collect();
    assert!(!all.contains("\"stop\"") && !all.contains("[DONE]"), "it looks like success: {all}");
    let texts: Vec<_> = app.upstream.last().said().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "w0 w1 ", "two"]);
    app.settled();
    assert_eq!(app.charges().len(), 2);
    app.finish();
}

#[test]
fn a_plain_turn_that_is_interrupted_is_told_so() {
    let (app, _) = with_slow_turns();
    thread::scope(|scope| {
        let first = scope.spawn(|| turn(&app, "slow one").send());
        app.upstream.wait_for_requests(1);
        turn(&app, "two").header("X-Session-Conflict", "interrupt").send().is(200);
        let first = first.join().expect("an answer");
        assert!(first.status >= 400, "an interrupted turn looks like success: {}", first.text());
        assert_eq!(first.json()["error"]["code"], "interrupted");
    });
    app.settled();
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

#[test]
fn a_waiting_request_runs_when_the_one_before_it_is_left() {
    let (app, _) = with_slow_turns();
    thread::scope(|scope| {
        let left = turn(&app, "slow one").connect().expect("a connection");
        app.upstream.wait_for_requests(1);
        let second = scope.spawn(|| turn(&app, "two").send().ok());
        drop(left);
        app.upstream.wait_for_aborts(1);
        assert_eq!(second.join().expect("the second turn")["content"], "re: two");
    });
    app.settled();
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

#[test]
fn a_session_that_is_deleted_while_a_turn_runs_takes_the_turn_along() {
    let (app, _) = with_slow_turns();
    let never = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(2, &never));
    let mut stream = app.stream("one", json!({"session_id": "s"}));
    stream.chunk();
    app.delete(&app.account_key, "/v2/sessions/s").is(204);
    app.upstream.wait_for_aborts(1);
    let last = stream.rest().pop().expect("events").json();
    assert_eq!(last["error"]["code"], "cancelled");
    app.settled();
    assert_eq!(app.get(&app.account_key, "/v2/sessions/s").status, 404, "the session comes back");
    turn(&app, "anew").send().ok();
    assert_eq!(app.upstream.last().said().len(), 1);
    app.finish();
}

#[test]
fn an_unknown_conflict_mode_is_refused() {
    let (app, _) = with_slow_turns();
    let answer = turn(&app, "one").header("X-Session-Conflict", "fight").send();
    answer.refused(400, "invalid_request_error", "invalid_value");
    app.finish();
}

#[test]
fn eight_requests_may_wait_and_the_ninth_may_not() {
    let (app, gate) = with_slow_turns();
    thread::scope(|scope| {
        let first = scope.spawn(|| turn(&app, "slow one").send().ok());
        app.upstream.wait_for_requests(1);
        let held = app.balance().held;
        let (answers, answered) = mpsc::channel::<Answer>();
        for waiting in 0..9 {
            let (answers, call) = (answers.clone(), turn(&app, &format!("waiting {waiting}")));
            scope.spawn(move || answers.send(call.send()));
        }
        // The only answer that can come while the first turn is held is the refusal.
        let refused = answered.recv().expect("one of nine is refused");
        assert_eq!(refused.status, 429, "{}", refused.text());
        let error = refused.json()["error"].clone();
        assert_eq!(error["code"], "session_queue_full");
        let kind = error["type"].as_str().unwrap_or_default();
        assert!(["requests", "tokens", "concurrency"].contains(&kind), "the type is {kind}");
        assert!((1..=60).contains(&refused.headers.number("retry-after")));
        assert_eq!(app.balance().held, held, "a waiting turn holds money");
        gate.open();
        first.join().expect("the first turn");
        for _ in 0..8 {
            answered.recv().expect("eight answers").is(200);
        }
    });
    assert_eq!(app.upstream.peak(), 1, "two turns of one session ran at once");
    let said = app.upstream.last().said();
    assert_eq!(said.len(), 17, "the last turn knows the eight before it");
    app.finish();
}

#[test]
fn who_came_later_waits_longer() {
    let (app, gate) = with_slow_turns();
    let second_gate = app.upstream.gate();
    let (held, second_held) = (gate.clone(), second_gate.clone());
    app.upstream.choose(move |request| {
        let text = request.last_text();
        let gate = if text == "first" { &held } else { &second_held };
        Reply::says(&["re: ", &text]).usage(9, 2).pause_after(0, gate).into()
    });
    thread::scope(|scope| {
        scope.spawn(|| turn(&app, "first").send().ok());
        app.upstream.wait_for_requests(1);
        let (answers, answered) = mpsc::channel::<(String, Answer)>();
        let send = |text: String| {
            let (answers, call) = (answers.clone(), turn(&app, &text));
            scope.spawn(move || answers.send((text, call.send())));
        };
        // Eight wait for sure once the ninth is refused; when one of them runs there is one free place.
        (0..9).for_each(|early| send(format!("early {early}")));
        assert_eq!(answered.recv().expect("one of nine is refused").1.status, 429);
        gate.open();
        app.upstream.wait_for_requests(2);
        // "first" has been answered, and of two late ones one is refused, so the other waits for sure.
        assert!(app.upstream.last().last_text().starts_with("early"));
        (0..2).for_each(|late| send(format!("late {late}")));
        assert_eq!(answered.recv().expect("one of two is refused").1.status, 429);
        second_gate.open();
        let order: Vec<String> =
            (0..9).map(|_| answered.recv().expect("nine answers").1.is(200).text()).collect();
        assert_eq!(order.len(), 9);
    });
    assert!(app.upstream.last().last_text().starts_with("late"), "the late one was served too early");
    app.finish();
}

#[test]
fn a_waiting_request_whose_client_leaves_holds_nobody_up() {
    let (app, gate) = with_slow_turns();
    thread::scope(|scope| {
        let first = scope.spawn(|| turn(&app, "slow one").send().ok());
        app.upstream.wait_for_requests(1);
        let (answers, answered) = mpsc::channel::<Answer>();
        let gone = turn(&app, "gone").connect().expect("a connection");
        for waiting in 0..8 {
            let (answers, call) = (answers.clone(), turn(&app, &format!("waiting {waiting}")));
            scope.spawn(move || answers.send(call.send()));
        }
        // Either "gone" waits and one of the others is refused, or it is refused itself: then its answer is there.
        drop(gone);
        gate.open();
        first.join().expect("the first turn");
        let statuses: Vec<u16> = (0..8).map(|_| answered.recv().expect("eight answers").status).collect();
        assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    });
    app.upstream.wait_until_idle();
    let last = turn(&app, "last").send().ok();
    assert_eq!(last["content"], "re: last");
    assert_eq!(app.settled().held, 0);
    app.finish();
}

#[test]
fn a_waiting_request_whose_client_leaves_frees_what_it_held_at_once() {
    let (app, gate) = with_slow_turns();
    let made = app.new_key(&app.account_key, &app.agent_id, json!({"limits": {"concurrency": 2}}));
    let key = made["key"].as_str().expect("a key is shown once");
    let call = |text: &str, session: &str| {
        let body = app.saying(text, json!({"session_id": session}));
        app.call("POST", "/v1/chat/completions").key(key).json(&body)
    };
    let waiting = |count: f64| {
        eventually("the number of those who wait is told", || {
            let told = metrics::value(&metrics::read(&app), "switchboard_turns_waiting");
            (told == Some(count)).then_some(())
        });
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| call("slow one", "s").send().ok());
        app.upstream.wait_for_requests(1);
        let second = call("two", "s").connect().expect("a connection");
        waiting(1.0);
        assert_eq!(call("elsewhere", "t").send().status, 429);
        drop(second);
        waiting(0.0);
        call("elsewhere", "t").send().ok();
        gate.open();
        first.join().expect("the first turn");
    });
    assert_eq!(app.upstream.asked(), 2);
    app.finish();
}

#[test]
fn a_public_key_neither_ends_nor_holds_up_a_session_that_it_may_not_enter() {
    let (app, gate) = with_slow_turns();
    let public = app.new_key(&app.account_key, &app.agent_id, json!({"public": true}));
    let public = public["key"].as_str().expect("a key is shown once");
    let mut stream =
        app.chat_call(&app.saying("slow one", json!({"session_id": "s", "stream": true}))).open().ok();
    for mode in ["interrupt", "queue", "reject"] {
        let intruder = app.call("POST", "/v1/chat/completions").key(public);
        let body = app.saying("let me in", json!({"session_id": "s"}));
        let refused = intruder.header("X-Session-Conflict", mode).json(&body).send();
        refused.refused(404, "invalid_request_error", "session_not_found");
    }
    gate.open();
    assert!(stream.rest().last().expect("events").is_done());
    assert_eq!(app.upstream.asked(), 1);
    app.finish();
}

#[test]
fn turns_that_wait_when_their_key_is_revoked_are_refused() {
    let (app, gate) = with_slow_turns();
    let other = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let key = other["key"].as_str().expect("a key is shown once");
    thread::scope(|scope| {
        let first = scope.spawn(|| turn(&app, "slow one").send().ok());
        app.upstream.wait_for_requests(1);
        let (answers, answered) = mpsc::channel::<Answer>();
        for _ in 0..9 {
            let body = app.saying("me too", json!({"session_id": "s"}));
            let call = app.call("POST", "/v1/chat/completions").key(key).json(&body);
            let answers = answers.clone();
            scope.spawn(move || answers.send(call.send()));
        }
        // That one is refused says that the other eight wait.
        assert_eq!(answered.recv().expect("one of nine is refused").status, 429);
        let id = other["id"].as_str().expect("an id");
        app.delete(&app.account_key, &format!("/v2/agents/{}/api-keys/{id}", app.agent_id)).is(204);
        gate.open();
        first.join().expect("the first turn");
        for _ in 0..8 {
            let answer = answered.recv().expect("eight answers");
            answer.refused(401, "invalid_request_error", "invalid_api_key");
        }
    });
    assert_eq!(app.upstream.asked(), 1);
    app.finish();
}

#[test]
fn many_sessions_run_at_once() {
    let (app, gate) = with_slow_turns();
    thread::scope(|scope| {
        let turns: Vec<_> = (0..20)
            .map(|session| {
                let body = app.saying("slow", json!({"session_id": format!("s{session}"), "max_tokens": 50}));
                let call = app.chat_call(&body);
                scope.spawn(move || call.send().ok())
            })
            .collect();
        app.upstream.wait_for_requests(20);
        gate.open();
        let answers: Vec<Value> = turns.into_iter().map(|turn| turn.join().expect("a turn")).collect();
        assert!(answers.iter().all(|answer| answer["content"] == "re: slow"));
    });
    assert_eq!(app.charges().len(), 20);
    app.finish();
}
