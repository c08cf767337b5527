//! An agent's fallbacks: who is asked next, when, and what it costs whoever serves.

use serde_json::{Value, json};

use crate::app::{App, MODEL, Setup, eventually, merged, nanos};
use crate::claude::Claude;
use crate::client::Answer;
use crate::script::{Fault, Reply, Script};
use crate::upstream::Upstream;

/// The fallback is ten times as dear in, and twenty times out.
const DEAR: (i64, i64) = (10_000, 40_000);
const CHEAP: (i64, i64) = (1_000, 2_000);

fn price((input, output): (i64, i64), (prompt, answer): (i64, i64)) -> i64 {
    prompt * input + answer * output
}

/// A server with a second provider, `spare`, whose model `other` is dear, and an agent that falls back to it.
struct Pair {
    app: App,
    spare: Upstream,
    agent: String,
    agent_key: String,
}

impl Pair {
    fn start() -> Self {
        Self::with("", |setup| setup)
    }

    fn with(lines: &str, change: impl FnOnce(Setup) -> Setup) -> Self {
        let spare = Upstream::start();
        spare.always(Reply::says(&["from ", "the spare"]).usage(20, 4));
        let file = format!(
            "[[providers]]\nname = \"spare\"\nbase_url = \"{}\"\nmodel = \"other\"\n\
             prices = {{ other = {{ input = \"10\", output = \"40.00\" }} }}\n{lines}\n",
            spare.url()
        );
        let app = change(Setup::default().after(&file)).start();
        let (agent, agent_key) = app.agent(json!({"fallbacks": ["spare/other"]}));
        Self { app, spare, agent, agent_key }
    }

    fn ask(&self, more: Value) -> Answer {
        self.app.chat(&merged(self.app.saying("Hello", json!({"model": self.agent})), more))
    }

    /// What the last call says of itself to the operator.
    fn explained(&self, answer: &Answer) -> Value {
        let path = format!("/admin/ledger/explain/{}", answer.headers.required("x-completion-id"));
        self.app.get(&self.app.operator_token, &path).ok()["charges"][0].clone()
    }
}

#[test]
fn a_failure_before_the_first_byte_goes_on_to_the_fallback_on_the_same_hold() {
    let pair = Pair::start();
    for stream in [false, true] {
        pair.app.upstream.next(Script::refusal(500, "no"));
        let before = pair.app.settled().balance;
        let answer = pair.ask(json!({"stream": stream}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains("the spare"), "{}", answer.text());
        assert_eq!(answer.headers.required("x-served-model"), "spare/other");
        assert_eq!(before - pair.app.settled().balance, price(DEAR, (20, 4)));
        assert_eq!(pair.spare.last().body["model"], "other");
        let told = pair.explained(&answer);
        assert_eq!((&told["model"], &told["served_by"]), (&json!("other"), &json!("spare/other")));
        assert_eq!(told["price"]["model"], "spare/other");
        let story = told["story"].to_string();
        assert!(story.contains("spare/other served it"), "{story}");
    }
    assert_eq!(pair.app.charges()[0]["model"], "other");
    let usage = pair.app.get(&pair.app.account_key, "/v2/usage?group_by=model").ok();
    assert_eq!(usage["usage"][0]["group"], "other");
    assert_eq!(pair.app.upstream.asked(), 2, "one call each");
    pair.app.finish();
}

#[test]
fn the_hold_is_the_dearest_of_all_that_may_serve_and_the_charge_is_whose_answer_it_is() {
    let pair = Pair::start();
    let gate = pair.app.upstream.gate();
    pair.app.upstream.next(Reply::says(&["a", "b"]).usage(9, 2).pause_after(1, &gate));
    let body = merged(pair.app.saying("Hello", json!({"max_tokens": 1_000})), json!({"model": pair.agent}));
    let mut stream = pair.app.chat_call(&merged(body, json!({"stream": true}))).open().ok();
    assert_eq!(stream.headers.required("x-served-model"), format!("provider/{MODEL}"));
    let held = pair.app.balance().held;
    assert!(held >= price(DEAR, (0, 1_000)), "only {held} are held");
    gate.open();
    stream.rest();
    assert_eq!(5_000_000_000 - pair.app.settled().balance, price(CHEAP, (9, 2)));
    assert_eq!(pair.spare.asked(), 0);
    pair.app.finish();
}

#[test]
fn who_cannot_pay_the_dearest_candidate_is_refused_before_anybody_is_asked() {
    let pair = Pair::start();
    let (_, key) = pair.app.account("0.01");
    let (agent, agent_key) = pair.app.agent_of(&key, json!({"fallbacks": ["spare/other"]}));
    let body = json!({"model": agent, "max_tokens": 1_000, "messages": [{"role": "user", "content": "Hi"}]});
    let answer = pair.app.post(&agent_key, "/v1/chat/completions", &body);
    answer.refused(402, "insufficient_quota", "insufficient_balance");
    assert_eq!(pair.app.upstream.asked(), 0);
    pair.app.finish();
}

#[test]
fn a_price_that_changes_while_the_fallback_answers_does_not_change_its_cost() {
    let pair = Pair::start();
    let gate = pair.spare.gate();
    pair.app.upstream.next(Script::refusal(503, "no"));
    pair.spare.next(Reply::says(&["a", "b"]).usage(9, 2).pause_after(1, &gate));
    let body = merged(pair.app.saying("Hello", json!({"stream": true})), json!({"model": pair.agent}));
    let mut stream = pair.app.chat_call(&body).open().ok();
    let dearer = json!({"model": "spare/other", "input": "100", "output": "400"});
    pair.app.post(&pair.app.operator_token, "/admin/prices", &dearer).is(201);
    gate.open();
    stream.rest();
    assert_eq!(5_000_000_000 - pair.app.settled().balance, price(DEAR, (9, 2)));
    pair.app.finish();
}

#[test]
fn every_failure_of_a_provider_goes_on_and_what_is_wrong_with_the_request_does_not() {
    let error = json!({"message": "trouble", "type": "server_error", "param": null, "code": null});
    let pair = Pair::start();
    let mut failing: Vec<Script> =
        [401, 403, 404, 408, 429, 500, 502, 503, 504].map(|status| Script::refusal(status, "no")).to_vec();
    failing.push(Script::garbage("nonsense"));
    failing.push(Reply::long(3).fault_after(0, Fault::Error(error)).into());
    failing.push(Reply::long(3).fault_after(0, Fault::HangUp).into());
    for (at, script) in failing.into_iter().enumerate() {
        let stream = at % 2 == 0;
        pair.app.upstream.next(script);
        let answer = pair.ask(json!({"stream": stream}));
        assert_eq!(answer.status, 200, "failure {at}: {}", answer.text());
        assert_eq!(answer.headers.required("x-served-model"), "spare/other", "failure {at}");
    }
    let asked = pair.spare.asked();
    for status in [400, 413, 422] {
        pair.app.upstream.next(Script::refusal(status, "too long"));
        assert_eq!(pair.ask(json!({})).status, 400);
    }
    assert_eq!(pair.spare.asked(), asked, "a wrong request is asked again");
    pair.app.finish();
}

#[test]
fn a_provider_that_cannot_be_reached_or_is_silent_is_passed_over() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let pair = Pair::with("", |setup| setup.provider_url(&format!("http://{free}/v1")));
    assert_eq!(pair.ask(json!({})).ok()["content"], "from the spare");
    pair.app.finish();
}

#[test]
fn nothing_is_tried_after_the_first_byte() {
    let pair = Pair::start();
    pair.app.upstream.next(Reply::long(6).fault_after(3, Fault::HangUp));
    let answer = pair.ask(json!({"stream": true}));
    assert!(answer.text().contains("upstream_invalid"), "{}", answer.text());
    assert_eq!(pair.spare.asked(), 0);
    pair.app.finish();
}

#[test]
fn after_the_last_candidate_everything_is_given_back_and_its_failure_is_told() {
    let pair = Pair::start();
    pair.app.upstream.next(Script::refusal(500, "no"));
    pair.spare.next(Script::refusal(401, "no"));
    pair.ask(json!({})).refused(502, "server_error", "upstream_auth");
    assert_eq!(pair.app.balance().balance, 5_000_000_000);
    assert_eq!(pair.app.balance().held, 0);
    pair.app.finish();
}

#[test]
fn only_account_keys_are_told_who_served_and_so_are_those_who_ask_again() {
    let pair = Pair::start();
    let body = merged(pair.app.saying("Hello", json!({"stream": true})), json!({"model": pair.agent}));
    let call = |key: &str| pair.app.call("POST", "/v1/chat/completions").key(key).json(&body);
    assert_eq!(call(&pair.agent_key).send().headers.find("x-served-model"), None);
    pair.app.upstream.next(Script::refusal(500, "no"));
    for again in [None, Some("true")] {
        let answer = call(&pair.app.account_key).header("Idempotency-Key", "once").send();
        assert_eq!(answer.headers.find("idempotent-replayed"), again);
        assert_eq!(answer.headers.required("x-served-model"), "spare/other");
    }
    let route = pair.app.call("POST", &format!("/v1/agents/{}/chat", pair.agent)).key(&pair.app.account_key);
    let answer = route.json(&json!({"message": "Hello"})).send();
    assert_eq!(answer.headers.required("x-served-model"), format!("provider/{MODEL}"));
    pair.app.finish();
}

#[test]
fn a_fallback_without_a_price_or_a_name_is_refused_when_the_agent_is_made() {
    let pair = Pair::start();
    for (fallbacks, param, code) in [
        (json!(["spare/other", "spare/nothing"]), "fallbacks[1]", "model_not_priced"),
        (json!([""]), "fallbacks[0]", "invalid_value"),
        (json!(["a", "a", "a", "a", "a", "a", "a", "a", "a"]), "fallbacks", "invalid_value"),
    ] {
        let body = json!({"name": "a", "model": MODEL, "fallbacks": fallbacks});
        let answer = pair.app.post(&pair.app.account_key, "/v2/agents", &body);
        let error = &answer.is(400).json()["error"];
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)));
    }
    pair.app.finish();
}

#[test]
fn a_crash_charges_at_the_price_of_whoever_was_answering() {
    // The first choice is the dear one here, and the cheap fallback answers.
    let mut pair = Pair::start();
    let (agent, _) = pair.app.agent(json!({"model": "spare/other", "fallbacks": [MODEL]}));
    let gate = pair.app.upstream.gate();
    pair.spare.next(Script::refusal(500, "no"));
    pair.app.upstream.next(Reply::long(400).pause_after(300, &gate));
    let body = merged(pair.app.saying("Hello", json!({"stream": true})), json!({"model": agent}));
    let stream = pair.app.chat_call(&body).open().ok();
    let completion = stream.headers.required("x-completion-id").to_owned();
    let path = format!("/admin/ledger/explain/{completion}");
    let marks = || {
        let told = pair.app.get(&pair.app.operator_token, &path).ok();
        told["charges"][0]["hold"]["marks"]["output_tokens"].as_i64().filter(|output| *output > 0)
    };
    eventually("a checkpoint is written", marks);
    pair.app.kill();
    gate.open();
    pair.app.start_again();
    let charge = pair.app.get(&pair.app.operator_token, &path).ok()["charges"][0].clone();
    let usage = &charge["usage"];
    let tokens = |name: &str| usage[name].as_i64().expect("a count");
    assert_eq!(usage["source"], "recovered");
    assert_eq!(charge["served_by"], format!("provider/{MODEL}"));
    assert_eq!(nanos(&usage["charged"]), price(CHEAP, (tokens("prompt_tokens"), tokens("output_tokens"))));
    pair.app.finish();
}

#[test]
fn a_fallback_of_another_protocol_serves_where_it_has_words_for_the_request() {
    let claude = Upstream::start();
    claude.choose(|asked| Claude::says(&["Hello from Claude"]).answer(asked));
    let file = format!(
        "[[providers]]\nname = \"claude\"\nkind = \"anthropic\"\nbase_url = \"{}\"\nmodel = \"other\"\n",
        claude.url()
    );
    let app = Setup::default().after(&file).start();
    let (agent, _) = app.agent(json!({"fallbacks": ["claude/other"]}));
    let ask = |more: Value| {
        app.upstream.next(Script::refusal(500, "no"));
        app.chat(&merged(app.saying("Hello", merged(json!({"model": agent}), more)), json!({})))
    };
    for stream in [false, true] {
        let answer = ask(json!({"stream": stream}));
        assert_eq!(answer.headers.required("x-served-model"), "claude/other");
        assert!(answer.text().contains("Hello from Claude"), "{}", answer.text());
    }
    // It would be refused there; the first choice could have served it.
    ask(json!({"logprobs": true})).refused(502, "server_error", "upstream_refused");
    assert_eq!(claude.asked(), 2);
    app.finish();
}
