//! Rate limits, and the headers that tell of them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::app::{App, Setup, eventually};
use crate::client::{Answer, Event, Headers};
use crate::script::Reply;

const CHAT: &str = "/v1/chat/completions";

fn limited_key(app: &App, limits: Value) -> String {
    let made = app.new_key(&app.account_key, &app.agent_id, json!({ "limits": limits }));
    made["key"].as_str().expect("a key").to_owned()
}

fn chat(app: &App, key: &str, more: Value) -> Answer {
    app.post(key, CHAT, &app.saying("Hello", more))
}

/// The seconds of a duration as OpenAI writes it: `1s`, `6m0s`, `120ms`.
fn seconds(text: &str) -> f64 {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(unit_at);
        let end = tail.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(tail.len());
        let number: f64 = number.parse().unwrap_or_else(|_| panic!("{text:?} is not a duration"));
        total += number
            * match &tail[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                unit => panic!("{text:?} has the unit {unit:?}"),
            };
        rest = &tail[end..];
    }
    total
}

fn tells_of_requests(headers: &Headers, limit: u64) {
    assert_eq!(headers.number("x-ratelimit-limit-requests"), limit);
    let remaining = headers.number("x-ratelimit-remaining-requests");
    assert!(remaining <= limit.div_ceil(6).max(1), "remaining is what may be sent at once, not {remaining}");
    assert!(seconds(headers.required("x-ratelimit-reset-requests")) <= 61.0);
    assert_eq!(headers.number("x-ratelimit-limit"), limit);
    assert_eq!(headers.number("x-ratelimit-remaining"), remaining);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
    let reset = headers.number("x-ratelimit-reset");
    assert!(reset + 60 >= now && reset <= now + 120, "reset is {reset}, now is {now}");
}

#[test]
fn sixty_a_minute_by_default_lets_ten_through_at_once() {
    let app = Setup::default().with_default_limits().start();
    let since = Instant::now();
    let mut passed = 0;
    let refused = loop {
        let answer = chat(&app, &app.agent_key, json!({}));
        tells_of_requests(&answer.headers, 60);
        if answer.status != 200 {
            break answer;
        }
        passed += 1;
        assert!(passed < 200, "there is no limit");
    };
    // One more may pass with each second that the burst itself took.
    let refilled = since.elapsed().as_secs() + 1;
    assert!((10..=10 + refilled).contains(&passed), "{passed} passed at once, {refilled} s");
    refused.refused(429, "requests", "rate_limit_exceeded");
    assert_eq!(refused.headers.number("retry-after"), 1);
    assert_eq!(refused.headers.number("x-ratelimit-remaining-requests"), 0);
    app.finish();
}

#[test]
fn waiting_as_long_as_told_passes() {
    let app = App::start();
    let key = limited_key(&app, json!({"requests_per_minute": 30}));
    let refused = loop {
        let answer = chat(&app, &key, json!({}));
        if answer.status == 429 {
            break answer;
        }
    };
    let told = Duration::from_secs(refused.headers.number("retry-after"));
    let since = Instant::now();
    let passed = eventually("the limit lets one through again", || {
        // Nothing is asked before the time: a refusal costs nothing, but the promise is about waiting.
        (since.elapsed() >= told).then(|| chat(&app, &key, json!({})))
    });
    passed.is(200);
    app.finish();
}

#[test]
fn refusals_do_not_put_off_the_next_request() {
    let app = App::start();
    let key = limited_key(&app, json!({"requests_per_minute": 30}));
    while chat(&app, &key, json!({})).status != 429 {}
    let since = Instant::now();
    eventually("the limit lets one through in spite of all refusals", || {
        (chat(&app, &key, json!({})).status == 200).then_some(())
    });
    assert!(since.elapsed() < Duration::from_secs(20));
    app.finish();
}

#[test]
fn a_key_has_limits_of_its_own() {
    let app = App::start();
    let slow = limited_key(&app, json!({"requests_per_minute": 6}));
    let other = limited_key(&app, json!({"requests_per_minute": 6}));
    let first = chat(&app, &slow, json!({})).is(200);
    tells_of_requests(&first.headers, 6);
    assert_eq!(first.headers.number("x-ratelimit-remaining-requests"), 0);
    let second = chat(&app, &slow, json!({}));
    second.refused(429, "requests", "rate_limit_exceeded");
    assert!((1..=10).contains(&second.headers.number("retry-after")));
    chat(&app, &other, json!({})).is(200);
    chat(&app, &app.agent_key, json!({})).is(200);
    app.finish();
}

#[test]
fn the_limit_of_the_account_holds_for_all_its_keys_together() {
    let app = App::start();
    let path = format!("/admin/accounts/{}", app.account_id);
    let limits = json!({"limits": {"requests_per_minute": 12}});
    app.patch(&app.operator_token, &path, &limits).is(200);
    let keys = [0, 1, 2].map(|_| limited_key(&app, json!({"requests_per_minute": 6000})));
    let statuses = keys.map(|key| chat(&app, &key, json!({})).status);
    assert_eq!(statuses, [200, 200, 429]);
    app.finish();
}

#[test]
fn one_account_does_not_slow_another() {
    let app = App::start();
    let slow = limited_key(&app, json!({"requests_per_minute": 6}));
    while chat(&app, &slow, json!({})).status != 429 {}
    let (_, foreign) = app.account("1.00");
    let (agent, foreign_key) = app.agent_of(&foreign, json!({}));
    chat(&app, &foreign_key, json!({ "model": agent })).is(200);
    app.finish();
}

#[test]
fn so_many_turns_at_once_and_no_more() {
    let app = App::start();
    let key = limited_key(&app, json!({"concurrency": 2}));
    let gate = app.upstream.gate();
    app.upstream.always(Reply::long(3).pause_after(1, &gate));
    let body = app.saying("Hello", json!({"stream": true}));
    let open = || app.call("POST", CHAT).key(&key).json(&body).open();
    let (mut one, two) = (open().ok(), open().ok());
    let refused = open().into_answer().expect("a refusal");
    refused.refused(429, "concurrency", "rate_limit_exceeded");
    assert!((1..=60).contains(&refused.headers.number("retry-after")));
    // A client that leaves gives its place back, as one that reads to the end does.
    drop(two);
    let mut third = eventually("a place is free", || Some(open()).filter(|stream| stream.status == 200));
    gate.open();
    assert!(one.rest().last().expect("events").is_done());
    assert!(third.rest().last().expect("events").is_done());
    eventually("both places are free", || (open().status == 200).then_some(()));
    app.settled();
    app.finish();
}

#[test]
fn a_place_is_free_as_soon_as_the_answer_is_there() {
    let app = App::start();
    let client = &|name: String| {
        let key = limited_key(&app, json!({"concurrency": 1}));
        let turn = |more: Value| app.call("POST", CHAT).key(&key).json(&app.saying("Hello", more));
        for _ in 0..50 {
            turn(json!({"session_id": name})).send().ok();
            turn(json!({"session_id": name, "max_tokens": 0})).send().is(400);
            let told = turn(json!({"session_id": name, "stream": true})).open().ok().rest();
            assert!(told.last().is_some_and(Event::is_done), "{told:?}");
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|at| drop(scope.spawn(move || client(format!("s{at}")))));
    });
    app.finish();
}

#[test]
fn tokens_are_limited_by_what_a_request_may_use_and_the_unused_is_given_back() {
    let app = App::start();
    let key = limited_key(&app, json!({"tokens_per_minute": 1500}));
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(3).usage(9, 3).pause_after(1, &gate));
    let body = app.saying("Hello", json!({"stream": true, "max_tokens": 1000}));
    let mut stream = app.call("POST", CHAT).key(&key).json(&body).open().ok();
    assert_eq!(stream.headers.number("x-ratelimit-limit-tokens"), 1500);
    assert!(stream.headers.number("x-ratelimit-remaining-tokens") <= 500);
    assert!(seconds(stream.headers.required("x-ratelimit-reset-tokens")) <= 61.0);
    let refused = chat(&app, &key, json!({"max_tokens": 1000}));
    refused.refused(429, "tokens", "rate_limit_exceeded");
    assert!((1..=60).contains(&refused.headers.number("retry-after")));
    gate.open();
    assert!(stream.rest().last().expect("events").is_done());
    chat(&app, &key, json!({"max_tokens": 1000})).is(200);
    app.settled();
    app.finish();
}

#[test]
fn tokens_of_a_turn_that_its_client_left_are_not_given_back() {
    let app = App::start();
    let key = limited_key(&app, json!({"tokens_per_minute": 1500}));
    app.upstream.next(crate::script::Script::Silence);
    let body = app.saying("Hello", json!({"stream": true, "max_tokens": 1000}));
    let connection = app.call("POST", CHAT).key(&key).json(&body).connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    drop(connection);
    app.upstream.wait_for_aborts(1);
    app.settled();
    let refused = chat(&app, &key, json!({"max_tokens": 1000}));
    refused.refused(429, "tokens", "rate_limit_exceeded");
    app.finish();
}

#[test]
fn a_request_that_no_bucket_can_ever_hold_is_refused_for_good() {
    let app = App::start();
    let key = limited_key(&app, json!({"tokens_per_minute": 500}));
    let answer = chat(&app, &key, json!({"max_tokens": 1000}));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    assert_eq!(app.balance().held, 0);
    app.finish();
}

#[test]
fn management_has_a_limit_of_its_own() {
    let app = Setup::default().with_default_limits().start();
    let since = Instant::now();
    let mut passed = 0;
    let refused = loop {
        let answer = app.get(&app.account_key, "/v2/billing/balance");
        assert_eq!(answer.headers.number("x-ratelimit-limit-requests"), 120);
        if answer.status != 200 {
            break answer;
        }
        passed += 1;
        assert!(passed < 500, "there is no limit");
    };
    let refilled = since.elapsed().as_secs() * 2 + 2;
    assert!((20..=20 + refilled).contains(&passed), "{passed} passed at once");
    refused.refused(429, "requests", "rate_limit_exceeded");
    chat(&app, &app.account_key, json!({})).is(200);
    app.get(&app.operator_token, "/admin/accounts").is(200);
    app.finish();
}

#[test]
fn without_limits_there_are_no_limits_and_no_headers_of_them() {
    let app = App::start();
    for _ in 0..30 {
        let answer = chat(&app, &app.agent_key, json!({})).is(200);
        for name in
            ["x-ratelimit-limit-requests", "x-ratelimit-limit-tokens", "x-ratelimit-limit", "retry-after"]
        {
            assert_eq!(answer.headers.find(name), None, "{name} without a limit");
        }
    }
    app.finish();
}

#[test]
fn streams_tell_of_their_limits_too() {
    let app = App::start();
    let key = limited_key(&app, json!({"requests_per_minute": 60}));
    let body = app.saying("Hello", json!({"stream": true}));
    let mut stream = app.call("POST", CHAT).key(&key).json(&body).open().ok();
    tells_of_requests(&stream.headers, 60);
    stream.rest();
    app.finish();
}

#[test]
fn limits_that_cannot_be_are_refused_by_name() {
    let app = App::start();
    let path = format!("/v2/agents/{}/api-keys", app.agent_id);
    for (name, value) in
        [("requests_per_minute", json!(-1)), ("concurrency", json!("two")), ("colour", json!(1))]
    {
        let body = json!({"name": "A key", "limits": {name: value}});
        let answer = app.post(&app.account_key, &path, &body);
        let error = answer.refused(400, "invalid_request_error", "invalid_value");
        assert_eq!(error["param"], format!("limits.{name}"));
    }
    app.finish();
}
