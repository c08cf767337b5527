//! A provider that fails too often is left alone for a while; one that is full is passed over.

use serde_json::{Value, json};

use crate::app::{App, MODEL, Setup, eventually, merged};
use crate::script::{Reply, Script};
use crate::upstream::Upstream;

fn with(lines: &str) -> App {
    Setup::default().in_file(lines).start()
}

fn circuit(app: &App) -> Value {
    app.get(&app.operator_token, "/admin/providers").ok()["providers"][0]["circuits"][0].clone()
}

fn fail(app: &App, times: usize) {
    for _ in 0..times {
        app.upstream.next(Script::refusal(500, "no"));
        app.chat(&app.saying("Hello", json!({}))).refused(502, "server_error", "upstream_refused");
    }
}

#[test]
fn a_provider_that_fails_too_often_is_left_alone_and_the_client_told_for_how_long() {
    let app = with("breaker = { min_calls = 3, open_s = 3600 }");
    fail(&app, 3);
    let answer = app.chat(&app.saying("Hello", json!({})));
    answer.refused(503, "server_error", "upstream_unavailable");
    assert_eq!(answer.headers.number("retry-after"), 60);
    assert_eq!(app.upstream.asked(), 3, "it is asked all the same");
    assert_eq!(app.balance().held, 0);
    let seen = circuit(&app);
    assert_eq!((&seen["model"], &seen["state"], &seen["calls"]), (&json!(MODEL), &json!("open"), &json!(3)));
    assert_eq!((&seen["failures"], &seen["last_error"]), (&json!(3), &json!("refused")));
    assert!(seen["open_for_s"].as_u64().is_some_and(|left| left > 3_000), "{seen}");
    assert!(app.log().contains("a provider is left alone"), "{}", app.log());
    app.finish();
}

#[test]
fn it_is_tried_again_after_its_rest_and_taken_back() {
    let app = with("breaker = { min_calls = 2, open_s = 1, probes = 1 }");
    fail(&app, 2);
    assert_eq!(circuit(&app)["state"], "open");
    eventually("it is taken back", || {
        Some(app.chat(&app.saying("Hello", json!({})))).filter(|answer| answer.status == 200)
    });
    assert_eq!(circuit(&app)["state"], "closed");
    app.finish();
}

#[test]
fn wrong_requests_and_clients_that_leave_count_neither_way() {
    let app = with("breaker = { min_calls = 2, open_s = 3600 }");
    for _ in 0..3 {
        app.upstream.next(Script::refusal(400, "too long"));
        app.chat(&app.saying("Hello", json!({}))).is(400);
    }
    for left in 1..=3 {
        app.upstream.next(Script::Silence);
        let call = app.chat_call(&app.saying("Hello", json!({"stream": true})));
        let connection = call.connect().expect("sent");
        app.upstream.wait_for_requests(3 + left);
        drop(connection);
        app.upstream.wait_for_aborts(left);
    }
    assert_eq!(circuit(&app)["calls"], 0);
    app.say("Hello", json!({}));
    app.finish();
}

#[test]
fn while_the_first_choice_is_left_alone_the_fallback_serves_at_once() {
    let spare = Upstream::start();
    let app = Setup::default()
        .in_file("breaker = { min_calls = 2, open_s = 3600 }")
        .after(&format!(
            "[[providers]]\nname = \"spare\"\nbase_url = \"{}\"\nmodel = \"other\"\n",
            spare.url()
        ))
        .start();
    let (agent, _) = app.agent(json!({"model": MODEL, "fallbacks": ["spare/other"]}));
    fail(&app, 2);
    let answer = app.chat(&merged(app.saying("Hello", json!({})), json!({"model": agent})));
    assert_eq!(answer.headers.required("x-served-model"), "spare/other");
    assert_eq!(app.upstream.asked(), 2);
    app.finish();
}

#[test]
fn a_full_provider_is_passed_over_and_when_all_are_full_the_client_is_told_to_wait() {
    let spare = Upstream::start();
    let app = Setup::default()
        .in_file("max_concurrency = 1")
        .after(&format!(
            "[[providers]]\nname = \"spare\"\nbase_url = \"{}\"\nmodel = \"other\"\nmax_concurrency = 1\n",
            spare.url()
        ))
        .start();
    let (agent, _) = app.agent(json!({"model": MODEL, "fallbacks": ["spare/other"]}));
    let (first, second) = (app.upstream.gate(), spare.gate());
    app.upstream.next(Reply::says(&["a", "b"]).pause_after(1, &first));
    spare.next(Reply::says(&["a", "b"]).pause_after(1, &second));
    let body = merged(app.saying("Hello", json!({"stream": true})), json!({"model": agent}));
    let mut one = app.chat_call(&body).open().ok();
    let mut other = app.chat_call(&body).open().ok();
    assert_eq!(one.headers.required("x-served-model"), format!("provider0/{MODEL}"));
    assert_eq!(other.headers.required("x-served-model"), "spare/other");
    let held = app.balance().held;
    let answer = app.chat(&body);
    answer.refused(503, "server_error", "overloaded");
    assert!((1..=60).contains(&answer.headers.number("retry-after")));
    assert_eq!(app.balance().held, held, "what was held for it is given back");
    let listed = app.get(&app.operator_token, "/admin/providers").ok();
    assert_eq!(listed["providers"][0]["running"], 1);
    first.open();
    second.open();
    one.rest();
    other.rest();
    eventually("the places are free again", || Some(app.chat(&body)).filter(|answer| answer.status == 200));
    app.finish();
}

#[test]
fn calls_are_shared_by_weight_among_the_providers_of_a_model() {
    let other = Upstream::start();
    let app = Setup::default()
        .in_file("models = [\"shared\"]\nweight = 3\nprices = { shared = { input = \"1\", output = \"2\" } }")
        .after(&format!(
            "[[providers]]\nname = \"other\"\nbase_url = \"{}\"\nmodels = [\"shared\"]\n\
             prices = {{ shared = {{ input = \"3\", output = \"4\" }} }}\n",
            other.url()
        ))
        .start();
    let (agent, _) = app.agent(json!({"model": "shared"}));
    let body = merged(app.saying("Hello", json!({})), json!({"model": agent}));
    for _ in 0..40 {
        app.chat(&body).ok();
    }
    assert!((29..=31).contains(&app.upstream.asked()), "{} of 40", app.upstream.asked());
    assert_eq!(other.asked(), 40 - app.upstream.asked());
    // Where one of them fails, the other one serves.
    app.upstream.always(Script::refusal(500, "no"));
    (0..4).for_each(|_| drop(app.chat(&body).ok()));
    app.finish();
}

#[test]
fn the_least_busy_provider_is_asked_first() {
    let other = Upstream::start();
    let app = Setup::default()
        .in_root("balance = \"least_busy\"")
        .in_file("models = [\"shared\"]\nprices = { shared = { input = \"1\", output = \"2\" } }")
        .after(&format!(
            "[[providers]]\nname = \"other\"\nbase_url = \"{}\"\nmodels = [\"shared\"]\n\
             prices = {{ shared = {{ input = \"3\", output = \"4\" }} }}\n",
            other.url()
        ))
        .start();
    let (agent, _) = app.agent(json!({"model": "shared"}));
    let gate = app.upstream.gate();
    app.upstream.next(Reply::says(&["a", "b"]).pause_after(1, &gate));
    let body = merged(app.saying("Hello", json!({})), json!({"model": agent}));
    let mut running = app.chat_call(&merged(body.clone(), json!({"stream": true}))).open().ok();
    for _ in 0..5 {
        assert_eq!(app.chat(&body).headers.required("x-served-model"), "other/shared");
    }
    gate.open();
    running.rest();
    app.finish();
}

#[test]
fn further_headers_are_sent_and_never_shown() {
    let app = with("headers = { \"X-Team\" = \"blue\", \"api-key\" = \"hidden-operator-secret\" }");
    app.say("Hello", json!({}));
    let request = app.upstream.last();
    assert_eq!(request.header("x-team"), Some("blue"));
    assert_eq!(request.header("api-key"), Some("hidden-operator-secret"));
    let listed = app.get(&app.operator_token, "/admin/providers").text();
    assert!(!listed.contains("hidden-operator-secret"));
    app.finish();
}
