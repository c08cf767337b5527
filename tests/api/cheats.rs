//! Requests that try to pay less than they use, or to see more than they may.

use serde_json::{Value, json};

use crate::app::{App, nanos};
use crate::client::Answer;
use crate::script::Reply;

const CHAT: &str = "/v1/chat/completions";

fn raw(app: &App, fields: &str) -> Answer {
    let body =
        format!(r#"{{"model":"{}","messages":[{{"role":"user","content":"Hi"}}],{fields}}}"#, app.agent_id);
    app.call("POST", CHAT).key(&app.account_key).body("application/json", body).send()
}

/// The one value that the provider sees of a field, however often and in whatever spelling it was sent.
fn seen_once(app: &App, name: &str) -> Value {
    let sent = app.upstream.last();
    let written = sent.raw.matches(&format!("\"{name}\"")).count();
    assert!(written <= 1, "{name} reaches the provider {written} times: {}", sent.raw);
    assert!(!sent.raw.contains("\\u005f"), "another spelling reaches the provider: {}", sent.raw);
    sent.body[name].clone()
}

#[test]
fn a_field_that_is_sent_twice_is_checked_as_the_provider_will_read_it() {
    let app = App::start();
    // The demo account can pay for two and a half million tokens of output.
    for fields in [r#""max_tokens":10,"max_tokens":4000000"#, r#""max_tokens":4000000,"max_tokens":10"#] {
        let answer = raw(&app, fields);
        if answer.status == 200 {
            assert_eq!(seen_once(&app, "max_tokens"), 10, "more is asked for than can be paid");
        } else {
            assert!([400, 402].contains(&answer.status), "{}", answer.text());
        }
    }
    // A hundred answers of fifty thousand tokens are more than it can pay.
    for fields in [
        r#""service_tier":"auto","service_tier":"priority""#,
        r#""max_tokens":50000,"n":1,"n":100"#,
        r#""max_tokens":50000,"n":100,"n":1"#,
    ] {
        let answer = raw(&app, fields);
        if answer.status == 200 {
            assert_ne!(seen_once(&app, "service_tier"), "priority");
            assert_ne!(seen_once(&app, "n"), 100, "a hundred answers for the price of one");
        }
    }
    app.finish();
}

#[test]
fn another_spelling_of_a_field_is_the_same_field() {
    let app = App::start();
    assert_eq!(raw(&app, r#""service\u005ftier":"priority""#).status, 400);
    assert_eq!(raw(&app, r#""max\u005ftokens":4000000"#).status, 402);
    assert!([400, 200].contains(&raw(&app, r#""session\u005fid":"spelled""#).status));
    for sent in app.upstream.requests() {
        assert!(!sent.raw.contains("spelled") && !sent.raw.contains("priority"), "{}", sent.raw);
    }
    app.finish();
}

#[test]
fn numbers_that_no_counter_holds_are_refused() {
    let app = App::start();
    for fields in [
        r#""max_tokens":18446744073709551615"#,
        r#""max_tokens":9223372036854775807"#,
        r#""max_tokens":18446744073709551616"#,
        r#""max_tokens":1e300"#,
        r#""max_tokens":-1"#,
        r#""n":18446744073709551615"#,
        r#""n":18446744073709551615,"max_tokens":18446744073709551615"#,
        r#""n":-1"#,
        r#""n":1.5"#,
    ] {
        let answer = raw(&app, fields);
        assert!([400, 402].contains(&answer.status), "{fields} gives {}: {}", answer.status, answer.text());
    }
    assert!(app.upstream.requests().is_empty());
    assert_eq!(app.balance().held, 0);
    app.finish();
}

#[test]
fn many_choices_are_held_many_times() {
    let app = App::start();
    assert_eq!(raw(&app, r#""n":100,"max_tokens":50000"#).status, 402);
    assert_eq!(raw(&app, r#""n":1,"max_tokens":50000"#).status, 200);
    app.finish();
}

#[test]
fn an_agent_cannot_set_what_a_request_may_not() {
    let app = App::start();
    for parameters in [
        json!({"service_tier": "priority"}),
        json!({"web_search_options": {}}),
        json!({"n": 50}),
        json!({"model": "gpt-5-pro"}),
        json!({"messages": []}),
        json!({"stream": true}),
        json!({"max_completion_tokens": 100_000_000}),
    ] {
        let fields = json!({"name": "a", "parameters": parameters});
        let made = app.post(&app.account_key, "/v2/agents", &fields);
        if made.status == 201 {
            let agent = made.json()["id"].clone();
            let answer = app.chat(&app.saying("Hello", json!({ "model": agent })));
            assert!([400, 402].contains(&answer.status), "{parameters} works: {}", answer.text());
        } else {
            assert_eq!(made.status, 400, "{}", made.text());
        }
    }
    assert!(app.upstream.requests().is_empty());
    app.finish();
}

#[test]
fn an_account_can_spend_what_it_has_and_not_more() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::says(&["Hi"]).usage(9, 3).pause_after(0, &gate));
    let running =
        app.chat_call(&app.saying("Hello", json!({"max_tokens": 300}))).connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    let worst_case = app.balance().held;
    gate.open();
    crate::client::Stream::read(running).and_then(|answer| answer.into_answer()).expect("an answer");
    let decimal = |amount: i64| format!("0.{amount:09}");
    let try_with = |amount: i64| {
        let (_, key) = app.account(&decimal(amount));
        let (agent, _) = app.agent_of(&key, json!({}));
        app.post(&key, CHAT, &app.saying("Hello", json!({"model": agent, "max_tokens": 300}))).status
    };
    // The demo agent may have instructions, which cost something too: look for the edge from the other agent.
    assert_eq!(try_with(worst_case), 200);
    let mut affordable = worst_case;
    while try_with(affordable) == 200 && affordable > 300 * 2000 {
        affordable -= 8 * 1000;
    }
    assert_eq!(try_with(affordable), 402);
    app.finish();
}

#[test]
fn credit_beyond_what_can_be_counted_is_refused() {
    let app = App::start();
    let path = format!("/admin/accounts/{}/credit", app.account_id);
    let credit = |amount: &str, reference: &str| {
        app.post(&app.operator_token, &path, &json!({"amount": amount, "external_ref": reference}))
    };
    credit("9000000000.00", "much").is(201);
    let too_much = credit("9000000000.00", "too much");
    assert!((400..500).contains(&too_much.status), "{} {}", too_much.status, too_much.text());
    assert_eq!(app.balance().balance, 9_000_000_005_000_000_000);
    app.say("Hello", json!({}));
    app.finish();
}

#[test]
fn a_message_id_of_another_account_opens_nothing() {
    let app = App::start();
    app.say("my secret", json!({"session_id": "s"}));
    let stored = app.get(&app.account_key, "/v2/sessions/s/messages").ok();
    let id = stored["messages"][1]["id"].as_str().expect("an id").to_owned();
    let (_, foreign) = app.account("1.00");
    let (agent, _) = app.agent_of(&foreign, json!({}));
    app.post(&foreign, CHAT, &app.saying("mine", json!({"model": agent, "session_id": "s"}))).is(200);
    let answer = app.get(&foreign, &format!("/v2/sessions/s/messages?before={id}"));
    assert!(!answer.text().contains("my secret"), "{}", answer.text());
    app.finish();
}

#[test]
fn a_session_remembers_the_first_of_several_choices() {
    let app = App::answering(Reply::says(&["Hi"]).usage(9, 4));
    for stream in [false, true] {
        let session = format!("s-{stream}");
        let body = app.saying("one", json!({"session_id": session, "n": 2, "stream": stream}));
        app.chat(&body).is(200);
        app.say("two", json!({ "session_id": session }));
        let texts: Vec<_> = app.upstream.last().said().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["one", "Hi", "two"]);
    }
    app.finish();
}

#[test]
fn a_stream_that_says_done_without_a_finish_reason_is_not_taken_for_a_whole_answer() {
    let app = App::start();
    app.upstream.next(Reply { finish: None, ..Reply::long(5) });
    let events = app.stream("Hello", json!({})).rest();
    let last = events.last().expect("events");
    assert!(!last.is_done() && last.json()["error"].is_object(), "the last event is {last:?}");
    app.settled();
    assert_eq!(app.charges().len(), 1);
    assert!(nanos(&app.charges()[0]["delta"]) < 0);
    app.finish();
}
