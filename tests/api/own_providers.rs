//! Tenants' own keys of providers: whose key is sent where, what it costs, what is shown, and where none may go.

use std::fs;

use serde_json::{Value, json};

use crate::app::{App, MODEL, PROVIDER_KEY, Setup, merged, nanos};
use crate::claude::Claude;
use crate::client::Answer;
use crate::script::Script;
use crate::upstream::Upstream;

/// What seals the keys of tenants: 32 bytes in base64.
pub const SECRETS_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const NEWER_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const TENANT_KEY: &str = "tenant-key-of-their-own-9417";

/// A server that can keep secrets.
pub fn setup() -> Setup {
    Setup::default().environment("SWITCHBOARD_SECRETS_KEY", SECRETS_KEY)
}

fn private() -> Setup {
    setup().arg("--allow-private-providers")
}

fn put(app: &App, key: &str, name: &str, body: Value) -> Answer {
    app.call("PUT", &format!("/v2/account/providers/{name}")).key(key).json(&body).send()
}

fn set_price(app: &App, model: &str, input: &str, output: &str) {
    let price = json!({"model": model, "input": input, "output": output});
    app.post(&app.operator_token, "/admin/prices", &price).is(201);
}

fn ask(app: &App, agent: &str) -> Answer {
    app.chat(&merged(app.saying("Hello", json!({})), json!({"model": agent})))
}

fn finish(app: App) {
    assert!(!app.log().contains(TENANT_KEY), "a tenant's key is in the log:\n{}", app.log());
    assert!(!app.log().contains(SECRETS_KEY), "the secrets key is in the log");
    app.finish();
}

#[test]
fn a_tenant_s_key_stands_in_the_place_of_the_operator_s_and_has_a_price_of_its_own() {
    let app = private().start();
    let listed = put(&app, &app.account_key, "provider", json!({"api_key": TENANT_KEY})).is(201).json();
    assert_eq!((&listed["name"], &listed["base_url"]), (&json!("provider"), &Value::Null));
    ask(&app, &app.agent_id).refused(400, "invalid_request_error", "model_not_priced");
    assert_eq!(app.upstream.asked(), 0);
    for (model, input, output, cost) in [
        ("own/*", "0.01", "0.02", 9 * 10 + 3 * 20),
        (&format!("own/{MODEL}"), "0.1", "0.2", 9 * 100 + 3 * 200),
        (&format!("own/provider/{MODEL}"), "0", "0", 0),
    ] {
        set_price(&app, model, input, output);
        let before = app.balance().balance;
        assert_eq!(ask(&app, &app.agent_id).headers.required("x-served-model"), format!("provider/{MODEL}"));
        assert_eq!(before - app.settled().balance, cost, "{model}");
        assert_eq!(app.upstream.last().header("authorization"), Some(&*format!("Bearer {TENANT_KEY}")));
    }
    let usage = app.get(&app.account_key, "/v2/usage?group_by=model").ok();
    assert_eq!(usage["usage"][0]["group"], format!("own/provider/{MODEL}"));
    // What tenants name is no label of a metric.
    let metrics = app.call("GET", "/metrics").key(&app.operator_token).send().is(200).text();
    assert!(metrics.contains("gen_ai_request_model=\"own\""), "{metrics}");
    assert!(!metrics.contains("own/"), "{metrics}");
    // Taking it away acts at once.
    app.delete(&app.account_key, "/v2/account/providers/provider").is(204);
    ask(&app, &app.agent_id).ok();
    assert_eq!(app.upstream.last().header("authorization"), Some(&*format!("Bearer {PROVIDER_KEY}")));
    app.delete(&app.account_key, "/v2/account/providers/provider").is(404);
    finish(app);
}

#[test]
fn no_key_stands_for_one_that_the_operator_does_not_need() {
    let keyless = crate::upstream::Upstream::start();
    let file =
        format!("[[providers]]\nname = \"free\"\nbase_url = \"{}\"\nmodel = \"{MODEL}\"", keyless.url());
    let app = private().in_root(&file).start();
    set_price(&app, "own/*", "0", "0");
    let refused = put(&app, &app.account_key, "free", json!({"api_key": TENANT_KEY}));
    let error = refused.refused(400, "invalid_request_error", "invalid_value");
    assert_eq!(error["param"], "base_url", "{error}");
    // Nor is a model priced so because it is named so.
    for model in ["own/*", "free/own/*", "provider/own/*"] {
        let agent = app.post(&app.account_key, "/v2/agents", &json!({"name": "a", "model": model}));
        agent.refused(400, "invalid_request_error", "model_not_priced");
    }
    finish(app);
}

#[test]
fn a_provider_of_the_tenant_s_own_gets_nothing_of_the_operator_s() {
    let mine = Upstream::start();
    let app = private().in_file("headers = { api-key = \"hidden-operator-secret\" }").start();
    set_price(&app, "own/*", "0", "0.5");
    let body = json!({"api_key": TENANT_KEY, "base_url": mine.url()});
    put(&app, &app.account_key, "mine", body.clone()).is(201);
    put(&app, &app.account_key, "provider0", json!({"api_key": TENANT_KEY})).is(201);
    let (agent, _) = app.agent(json!({"model": "mine/some/model"}));
    assert_eq!(ask(&app, &agent).headers.required("x-served-model"), "mine/some/model");
    assert_eq!(mine.last().body["model"], "some/model");
    ask(&app, &app.agent_id).ok();
    for request in [mine.last(), app.upstream.last()] {
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {TENANT_KEY}")));
        assert_eq!(request.header("api-key"), None, "the operator's header goes out with a tenant's key");
    }
    // Another key acts at once.
    put(&app, &app.account_key, "mine", merged(body, json!({"api_key": "another-key-of-theirs"}))).is(200);
    ask(&app, &agent).ok();
    assert_eq!(mine.last().header("authorization"), Some("Bearer another-key-of-theirs"));
    finish(app);
}

#[test]
fn what_one_tenant_brought_does_not_exist_for_another() {
    let mine = Upstream::start();
    let app = private().start();
    set_price(&app, "own/*", "1", "1");
    put(&app, &app.account_key, "mine", json!({"api_key": TENANT_KEY, "base_url": mine.url()})).is(201);
    let (_, other) = app.account("1.00");
    assert_eq!(app.get(&other, "/v2/account/providers").ok()["providers"], json!([]));
    app.delete(&other, "/v2/account/providers/mine").is(404);
    let body = json!({"name": "a", "model": "mine/model"});
    let answer = app.post(&other, "/v2/agents", &body);
    answer.refused(400, "invalid_request_error", "model_not_priced");
    app.get(&app.agent_key, "/v2/account/providers").is(403);
    app.get(&app.operator_token, "/v2/account/providers").is(403);
    finish(app);
}

#[test]
fn a_key_is_shown_by_its_last_four_alone_and_lies_sealed() {
    let app = private().start();
    put(
        &app,
        &app.account_key,
        "mine",
        json!({"api_key": TENANT_KEY, "base_url": "https://example.com/v1/"}),
    )
    .is(201);
    put(&app, &app.account_key, "provider", json!({"api_key": "short"})).is(201);
    let listed = app.get(&app.account_key, "/v2/account/providers").is(200);
    assert!(!listed.text().contains("tenant-key"), "{}", listed.text());
    let rows = listed.json()["providers"].clone();
    assert_eq!((&rows[0]["name"], &rows[0]["last4"]), (&json!("mine"), &json!("9417")));
    assert_eq!(rows[0]["base_url"], "https://example.com/v1");
    assert!(rows[0]["created_at"].is_string());
    assert_eq!(rows[1]["last4"], "", "four of five letters are no secret any more");
    for entry in fs::read_dir(app.data()).expect("the data directory") {
        let bytes = fs::read(entry.expect("a file").path()).unwrap_or_default();
        assert!(!bytes.windows(TENANT_KEY.len()).any(|part| part == TENANT_KEY.as_bytes()));
    }
    finish(app);
}

#[test]
fn without_a_secrets_key_no_key_is_taken() {
    let app = App::start();
    let answer = put(&app, &app.account_key, "provider", json!({"api_key": TENANT_KEY}));
    answer.refused(400, "invalid_request_error", "secrets_key_missing");
    assert!(answer.text().contains("secrets_key"), "{}", answer.text());
    assert_eq!(app.get(&app.account_key, "/v2/account/providers").ok()["providers"], json!([]));
    finish(app);
}

#[test]
fn what_is_wrong_with_a_provider_is_named() {
    let app = setup().start();
    for (name, body, param) in [
        ("provider", json!({}), "api_key"),
        ("provider", json!({"api_key": "two words"}), "api_key"),
        ("provider", json!({"api_key": "k", "base_url": "https://example.com"}), "base_url"),
        ("nobody", json!({"api_key": "k"}), "base_url"),
        ("own", json!({"api_key": "k", "base_url": "https://example.com"}), "name"),
        ("a%20b", json!({"api_key": "k", "base_url": "https://example.com"}), "name"),
        ("mine", json!({"api_key": "k", "base_url": "ftp://example.com"}), "base_url"),
        ("mine", json!({"api_key": "k", "base_url": "https://a:b@example.com"}), "base_url"),
        ("mine", json!({"api_key": "k", "base_url": "https://example.com/v1?x=1"}), "base_url"),
        ("mine", json!({"api_key": "k", "other": 1}), "other"),
    ] {
        let answer = put(&app, &app.account_key, name, body);
        assert_eq!(answer.is(400).json()["error"]["param"], param, "{name}");
    }
    finish(app);
}

#[test]
fn a_key_that_the_provider_does_not_take_is_the_tenant_s_and_the_fallback_the_operator_s() {
    let mine = Upstream::start();
    mine.always(Script::refusal(401, &format!("Incorrect API key provided: {TENANT_KEY}")));
    let app = private().start();
    set_price(&app, "own/*", "1", "1");
    put(&app, &app.account_key, "mine", json!({"api_key": TENANT_KEY, "base_url": mine.url()})).is(201);
    let (alone, _) = app.agent(json!({"model": "mine/model"}));
    let answer = ask(&app, &alone);
    answer.refused(502, "server_error", "upstream_auth");
    assert!(answer.text().contains("your own key for `mine`"), "{}", answer.text());
    assert!(!answer.text().contains(TENANT_KEY));
    let (agent, _) = app.agent(json!({"model": "mine/model", "fallbacks": [MODEL]}));
    assert_eq!(ask(&app, &agent).headers.required("x-served-model"), format!("provider/{MODEL}"));
    assert_eq!(nanos(&json!("5.000000000")) - app.settled().balance, 9 * 1_000 + 3 * 2_000);
    finish(app);
}

#[test]
fn a_fallback_whose_provider_was_taken_away_is_left_out() {
    let mine = Upstream::start();
    let app = private().start();
    set_price(&app, "own/*", "1", "1");
    put(&app, &app.account_key, "mine", json!({"api_key": TENANT_KEY, "base_url": mine.url()})).is(201);
    let (agent, _) = app.agent(json!({"fallbacks": ["mine/model"]}));
    app.delete(&app.account_key, "/v2/account/providers/mine").is(204);
    ask(&app, &agent).ok();
    assert!(app.log().contains("a fallback has no price and is left out"), "{}", app.log());
    app.upstream.next(Script::refusal(500, "no"));
    ask(&app, &agent).refused(502, "server_error", "upstream_refused");
    assert_eq!(mine.asked(), 0);
    finish(app);
}

#[test]
fn the_secrets_key_can_be_replaced() {
    let mut app = private().start();
    set_price(&app, "own/*", "1", "1");
    put(&app, &app.account_key, "provider", json!({"api_key": TENANT_KEY})).is(201);
    let works = |app: &App| {
        ask(app, &app.agent_id).ok();
        assert_eq!(app.upstream.last().header("authorization"), Some(&*format!("Bearer {TENANT_KEY}")));
    };
    works(&app);
    app.set_environment(&[
        ("SWITCHBOARD_SECRETS_KEY", NEWER_KEY),
        ("SWITCHBOARD_SECRETS_KEYS_OLD", SECRETS_KEY),
    ]);
    app.restart();
    works(&app);
    // One start with both is enough.
    app.set_environment(&[("SWITCHBOARD_SECRETS_KEY", NEWER_KEY)]);
    app.restart();
    works(&app);
    for environment in [&[("SWITCHBOARD_SECRETS_KEY", SECRETS_KEY)][..], &[]] {
        app.set_environment(environment);
        app.restart();
        let asked = app.upstream.asked();
        ask(&app, &app.agent_id).refused(502, "server_error", "upstream_auth");
        assert_eq!(
            app.upstream.asked(),
            asked,
            "the operator's key is used for what the tenant pays by itself"
        );
    }
    finish(app);
}

#[test]
fn a_tenant_s_provider_may_not_lie_in_the_operator_s_network() {
    let app = setup().start();
    set_price(&app, "own/*", "1", "1");
    for inside in [
        "http://127.0.0.1:9/v1",
        "http://10.1.2.3/v1",
        "http://169.254.169.254/latest",
        "http://100.64.0.1/v1",
        "http://0.0.0.0/v1",
        "http://[::1]/v1",
        "http://[::ffff:127.0.0.1]/v1",
        "http://[64:ff9b::a00:1]/v1",
        "http://[fd00::1]/v1",
        "http://224.0.0.1/v1",
    ] {
        let answer = put(&app, &app.account_key, "mine", json!({"api_key": "k", "base_url": inside}));
        assert_eq!(answer.is(400).json()["error"]["param"], "base_url", "{inside}");
    }
    // A name is judged by the address that it stands for at the moment of the connection.
    let inside = app.upstream.url().replace("127.0.0.1", "localhost");
    put(&app, &app.account_key, "mine", json!({"api_key": TENANT_KEY, "base_url": inside})).is(201);
    let (agent, _) = app.agent(json!({"model": "mine/model"}));
    ask(&app, &agent).refused(503, "server_error", "upstream_unavailable");
    assert_eq!(app.upstream.asked(), 0, "the operator's network is reached");
    // What other spellings of an address stand for is seen there, too.
    for spelling in ["http://2130706433", "http://0x7f.1", "http://127.1", "http://localhost."] {
        let port = app.upstream.url().rsplit_once(':').map(|(_, rest)| rest.to_owned()).expect("a port");
        let body = json!({"api_key": TENANT_KEY, "base_url": format!("{spelling}:{port}")});
        if put(&app, &app.account_key, "mine", body).status == 200 {
            assert!([502, 503].contains(&ask(&app, &agent).status), "{spelling}");
        }
    }
    assert_eq!(app.upstream.asked(), 0, "the operator's network is reached");
    finish(app);
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Upstream::start();
    let app = private().start();
    for status in [301, 302, 307, 308] {
        let location = format!("{}/chat/completions", elsewhere.url());
        app.upstream.next(Script::refusal_with(status, "moved", &[("Location", &location)]));
        ask(&app, &app.agent_id).refused(502, "server_error", "upstream_refused");
    }
    assert_eq!(elsewhere.asked(), 0);
    finish(app);
}

#[test]
fn the_command_line_sets_lists_and_removes() {
    let app = private().start();
    let run = |words: &[&str]| {
        let mut command = crate::app::binary();
        command.args(["account", "provider"]).args(words);
        command.args(["--url", &format!("http://{}", app.addr), "--token", &app.account_key]);
        let output =
            command.env("SWITCHBOARD_OWN_PROVIDER_KEY", TENANT_KEY).output().expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
        assert!(!told.contains(TENANT_KEY));
        told
    };
    assert!(run(&["set", "mine", "--base-url", "https://example.com/v1"]).contains("9417"));
    assert!(run(&["list"]).contains("https://example.com/v1"));
    run(&["remove", "mine"]);
    assert_eq!(app.get(&app.account_key, "/v2/account/providers").ok()["providers"], json!([]));
    finish(app);
}

#[test]
fn a_tenant_s_key_stands_for_the_operator_s_in_claude_s_words_too() {
    let app = crate::claude::setup().environment("SWITCHBOARD_SECRETS_KEY", SECRETS_KEY).start();
    app.upstream.choose(|asked| Claude::says(&["Hi"]).answer(asked));
    set_price(&app, "own/*", "1", "1");
    put(&app, &app.account_key, "provider0", json!({"api_key": TENANT_KEY})).is(201);
    ask(&app, &app.agent_id).ok();
    let sent = app.upstream.last();
    assert_eq!((sent.header("x-api-key"), sent.header("authorization")), (Some(TENANT_KEY), None));
    assert_eq!(sent.header("anthropic-version"), Some("2023-06-01"));
    finish(app);
}
