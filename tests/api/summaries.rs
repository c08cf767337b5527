//! Agents that sum up what no longer fits into their window.

use serde_json::{Value, json};

use crate::app::{App, eventually, nanos};
use crate::script::{Reply, Script};
use crate::upstream::Recorded;

const NOTES: &str = "The user is called Ada.";

/// Whether a request asks for a summary.
fn is_summary(asked: &Recorded) -> bool {
    asked.raw.contains("<conversation>")
}

/// A server whose provider answers summaries with `notes` and anything else with `Fine.`.
fn summing_up(notes: impl Fn() -> Script + Send + Sync + 'static) -> App {
    let app = App::start();
    app.upstream.choose(move |asked: &Recorded| if is_summary(asked) { notes() } else { fine(asked) });
    app
}

/// An answer, counted as most models count.
fn fine(asked: &Recorded) -> Script {
    let tokens = i64::try_from(asked.raw.len() / 4).expect("a short prompt");
    Reply::says(&["Fine."]).usage(tokens, 2).into()
}

fn notes() -> Script {
    Reply::says(&[NOTES]).usage(300, 6).into()
}

fn agent(app: &App) -> String {
    let fields = json!({"context": "summarize", "context_tokens": 1_024, "instructions": "Be brief.",
        "temperature": 0.5, "parameters": {"response_format": {"type": "json_object"}}});
    app.agent(fields).0
}

fn long(text: &str) -> String {
    format!("{text} {}", "word ".repeat(220))
}

fn say(app: &App, agent: &str, text: &str, more: Value) -> Value {
    let body = json!({"model": agent, "session_id": "s", "max_tokens": 20,
        "messages": [{"role": "user", "content": text}]});
    app.chat(&crate::app::merged(body, more)).ok()
}

fn summaries(app: &App) -> Vec<Recorded> {
    app.upstream.requests().into_iter().filter(is_summary).collect()
}

fn session(app: &App, agent: &str, id: &str) -> Value {
    app.get(&app.account_key, &format!("/v2/sessions/{id}?agent_id={agent}")).ok()
}

#[test]
fn what_no_longer_fits_is_summed_up_once_and_told_to_the_model() {
    let app = summing_up(notes);
    let agent = agent(&app);
    for turn in ["first", "second", "third"] {
        say(&app, &agent, &long(turn), json!({}));
    }
    assert_eq!(summaries(&app).len(), 0, "all of it fits");
    assert_eq!(session(&app, &agent, "s").get("summary"), None);
    let before = app.settled().balance;
    let answer = say(&app, &agent, &long("fourth"), json!({}));
    let asked = summaries(&app);
    assert_eq!(asked.len(), 1);
    let question = asked[0].last_text();
    assert!(question.contains("user: first") && question.contains("assistant: Fine."), "{question}");
    assert!(!question.contains("fourth"), "the new message is not summed up");
    for field in ["response_format", "temperature"] {
        assert_eq!(asked[0].body.get(field), None, "{field} is for answers");
    }
    let sent = app.upstream.last();
    let system = sent.body["messages"][0]["content"].as_str().expect("instructions");
    assert!(system.starts_with("Be brief.") && system.ends_with(NOTES), "{system}");
    assert!(!sent.raw.contains("first word") && sent.raw.contains("fourth word"));
    // What the turn cost is what both calls cost.
    let spent = before - app.settled().balance;
    assert_eq!(nanos(&answer["usage"]["cost"]), spent);
    let charges = app.charges();
    let [last, summary] = [&charges[0], &charges[1]];
    assert_eq!(
        (&last["request_id"], &last["completion_id"]),
        (&summary["request_id"], &summary["completion_id"])
    );
    assert_eq!((&summary["prompt_tokens"], &last["output_tokens"]), (&json!(300), &json!(2)));
    let shown = session(&app, &agent, "s")["summary"].clone();
    assert_eq!(shown["content"], NOTES);
    assert_eq!(shown["usage"]["total_tokens"], 306);
    assert_eq!(nanos(&shown["cost"]), -nanos(&summary["delta"]));
    let page = app.get(&app.account_key, &format!("/v2/sessions/s/messages?agent_id={agent}")).ok();
    assert_eq!(page["summary"], shown);
    let messages = page["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), 8, "nothing leaves the store");
    assert_eq!(nanos(&messages[7]["cost"]), spent);
    // The next turn has room still.
    say(&app, &agent, "fifth", json!({}));
    assert_eq!(summaries(&app).len(), 1);
    assert!(app.upstream.last().raw.contains(NOTES));
    app.finish();
}

#[test]
fn a_summary_outlives_the_server_and_grows_with_the_conversation() {
    let mut app = summing_up(notes);
    let agent = agent(&app);
    for turn in ["first", "second", "third", "fourth"] {
        say(&app, &agent, &long(turn), json!({}));
    }
    app.restart();
    say(&app, &agent, "fifth", json!({}));
    assert!(app.upstream.last().raw.contains(NOTES));
    assert_eq!(summaries(&app).len(), 1, "it is not made again");
    let upto = session(&app, &agent, "s")["summary"]["upto"].clone();
    for turn in ["sixth", "seventh", "eighth"] {
        say(&app, &agent, &long(turn), json!({}));
    }
    let asked = summaries(&app);
    assert!(asked.len() > 1, "one summary for all of it");
    let question = asked[1].last_text();
    assert!(question.contains(NOTES) && !question.contains("user: first"), "{question}");
    assert_ne!(session(&app, &agent, "s")["summary"]["upto"], upto);
    app.finish();
}

#[test]
fn a_turn_goes_on_without_a_summary_that_cannot_be_made() {
    for broken in [Script::refusal(500, "broken"), Reply::says(&[" "]).usage(5, 1).into(), Script::HangUp] {
        let app = summing_up(move || broken.clone());
        let agent = agent(&app);
        for turn in ["first", "second", "third", "fourth"] {
            say(&app, &agent, &long(turn), json!({}));
        }
        assert!(!summaries(&app).is_empty());
        let sent = app.upstream.last();
        assert!(!sent.raw.contains("first word") && sent.raw.contains("fourth word"));
        assert_eq!(session(&app, &agent, "s").get("summary"), None);
        app.finish();
    }
}

#[test]
fn a_summary_goes_with_what_it_stands_for() {
    let app = summing_up(notes);
    let agent = agent(&app);
    for turn in ["first", "second", "third", "fourth"] {
        say(&app, &agent, &long(turn), json!({}));
    }
    let path = |call: &str| format!("/v2/sessions/s/{call}?agent_id={agent}");
    app.post(&app.account_key, &path("fork"), &json!({"session_id": "whole"})).is(201);
    app.post(&app.account_key, &path("fork"), &json!({"session_id": "part", "message_id": "msg_2"})).is(201);
    assert_eq!(session(&app, &agent, "whole")["summary"]["content"], NOTES);
    assert_eq!(session(&app, &agent, "part").get("summary"), None);
    app.post(&app.account_key, &path("truncate"), &json!({"after": "msg_6"})).is(200);
    assert_eq!(session(&app, &agent, "s")["summary"]["content"], NOTES);
    app.post(&app.account_key, &path("truncate"), &json!({"after": "msg_2"})).is(200);
    assert_eq!(session(&app, &agent, "s").get("summary"), None);
    say(&app, &agent, "again", json!({}));
    assert!(!app.upstream.last().raw.contains(NOTES), "it stands for what was taken back");
    app.finish();
}

#[test]
fn a_client_that_leaves_while_a_summary_is_made_pays_nothing() {
    let app = App::start();
    let gate = app.upstream.gate();
    let held = gate.clone();
    app.upstream.choose(move |asked: &Recorded| match is_summary(asked) {
        true => Reply::says(&[NOTES]).pause_after(0, &held).into(),
        false => fine(asked),
    });
    let agent = agent(&app);
    for turn in ["first", "second", "third"] {
        say(&app, &agent, &long(turn), json!({}));
    }
    let before = app.settled().balance;
    let body = json!({"model": agent, "session_id": "s", "max_tokens": 20, "stream": true,
        "messages": [{"role": "user", "content": long("fourth")}]});
    let left = app.chat_call(&body).connect().expect("a connection");
    eventually("the summary is asked for", || (!summaries(&app).is_empty()).then_some(()));
    drop(left);
    assert_eq!(app.settled().balance, before);
    gate.open();
    app.finish();
}

#[test]
fn a_summary_that_a_crash_cuts_off_costs_nothing_and_is_made_again() {
    let mut app = summing_up(|| Script::Silence);
    let agent = agent(&app);
    for turn in ["first", "second", "third"] {
        say(&app, &agent, &long(turn), json!({}));
    }
    let before = app.settled().balance;
    let body = json!({"model": agent, "session_id": "s", "max_tokens": 20,
        "messages": [{"role": "user", "content": long("fourth")}]});
    let cut = app.chat_call(&body).connect().expect("a connection");
    eventually("the summary is asked for", || (!summaries(&app).is_empty()).then_some(()));
    app.kill();
    drop(cut);
    app.start_again();
    assert_eq!(app.settled().balance, before);
    app.upstream.choose(|asked: &Recorded| if is_summary(asked) { notes() } else { fine(asked) });
    app.chat(&body).is(200);
    assert!(app.upstream.last().raw.contains(NOTES));
    app.finish();
}

#[test]
fn an_answer_given_again_costs_what_it_cost() {
    let app = summing_up(notes);
    let agent = agent(&app);
    for turn in ["first", "second", "third"] {
        say(&app, &agent, &long(turn), json!({}));
    }
    let body = json!({"model": agent, "session_id": "s", "max_tokens": 20,
        "messages": [{"role": "user", "content": long("fourth")}]});
    let ask = || app.chat_call(&body).header("Idempotency-Key", "once").send().ok();
    let (first, second) = (ask(), ask());
    assert_eq!(first["usage"], second["usage"]);
    assert_eq!(summaries(&app).len(), 1);
    app.finish();
}

#[test]
fn a_summary_needs_a_window() {
    let app = App::start();
    for fields in [json!({"context": "summarize"}), json!({"context": "summarize", "context_tokens": 1_023})]
    {
        let refused =
            app.post(&app.account_key, "/v2/agents", &crate::app::merged(json!({"name": "a"}), fields));
        let error = refused.refused(400, "invalid_request_error", "invalid_value");
        assert_eq!(error["param"], "context_tokens");
    }
    let wrong = app.post(&app.account_key, "/v2/agents", &json!({"name": "a", "context": "forget"}));
    assert_eq!(wrong.refused(400, "invalid_request_error", "invalid_value")["param"], "context");
    app.finish();
}
