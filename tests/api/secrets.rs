//! Secrets that are planted everywhere, and everything that the server writes, looked through for them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::app::{App, MODEL, PROVIDER_KEY, Setup, binary};
use crate::own_providers::SECRETS_KEY;
use crate::script::{Fault, Reply, Script};

const HEADER: &str = "planted-header-of-the-operator-41";
const TENANT_KEY: &str = "planted-key-of-the-tenant-42";
const HOOK_PATH: &str = "planted-path-of-the-hook-43";
const PROMPT: &str = "planted-prompt-44";
const INSTRUCTIONS: &str = "planted-instructions-45";
const ANSWER: &str = "planted-answer-46";

/// A name, and what must not stand where it is looked for.
type Planted = Vec<(&'static str, String)>;

fn setup() -> Setup {
    Setup::default()
        .environment("SWITCHBOARD_SECRETS_KEY", SECRETS_KEY)
        .in_file(&format!("headers = {{ x-gateway-key = \"{HEADER}\" }}"))
        .arg("--allow-private-providers")
        .arg("--allow-private-webhooks")
}

/// Fails the test where one of them stands in `text`.
fn clean(place: &str, text: &[u8], planted: &Planted) {
    for (name, secret) in planted {
        if let Some(at) = memchr::memmem::find(text, secret.as_bytes()) {
            let around = &text[at.saturating_sub(300)..(at + 100).min(text.len())];
            panic!("{name} stands in {place}: …{}…", String::from_utf8_lossy(around));
        }
    }
}

/// What a provider says that repeats the credentials and the conversation that it was sent, in each of the ways in which it can say it.
fn echoes(told: &str) -> Vec<Script> {
    let words = format!("{told}, you said {PROMPT} to {INSTRUCTIONS}");
    let error = json!({"message": words, "type": words, "code": "echo", "param": "messages"});
    let mut all: Vec<Script> = [400, 401, 403, 404, 413, 422, 429, 500, 503]
        .into_iter()
        .map(|status| Script::Raw { status, headers: Vec::new(), body: json!({"error": error}).to_string() })
        .collect();
    all.push(Script::Raw { status: 500, headers: Vec::new(), body: words.clone() });
    all.push(Script::Raw { status: 200, headers: Vec::new(), body: json!({"error": error}).to_string() });
    all.push(Script::Raw { status: 200, headers: Vec::new(), body: json!({"choices": words}).to_string() });
    all.push(Script::from(Reply::long(9).fault_after(0, Fault::Error(error.clone()))));
    all.push(Script::from(Reply::long(9).fault_after(3, Fault::Error(error))));
    all
}

/// Everything that is secret, and things done with all of it.
fn plant(app: &App) -> Planted {
    let hook = json!({"url": format!("http://127.0.0.1:1/{HOOK_PATH}"), "balance_low": ["4.999999999"]});
    let hook = app.post(&app.account_key, "/v2/webhooks", &hook).is(201).json();
    let text = |value: &Value| value.as_str().expect("a secret").to_owned();
    let own = json!({"api_key": TENANT_KEY, "base_url": app.upstream.url()});
    app.call("PUT", "/v2/account/providers/mine").key(&app.account_key).json(&own).send().is(201);
    let price = json!({"model": "own/*", "input": "1", "output": "1"});
    app.post(&app.operator_token, "/admin/prices", &price).is(201);
    let second = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let (other, other_key) = app.account("1.00");
    app.patch(&app.operator_token, &format!("/admin/accounts/{other}"), &json!({"status": "suspended"}))
        .is(200);
    vec![
        ("the agent key", app.agent_key.clone()),
        ("the account key", app.account_key.clone()),
        ("the operator's token", app.operator_token.clone()),
        ("a second agent key", text(&second["key"])),
        ("another account's key", other_key),
        ("the provider's key", PROVIDER_KEY.to_owned()),
        ("a header of the operator's", HEADER.to_owned()),
        ("the tenant's key of its provider", TENANT_KEY.to_owned()),
        ("what seals the tenants' keys", SECRETS_KEY.to_owned()),
        ("the secret of a webhook", text(&hook["secret"])),
    ]
}

/// Chats that go well and badly, with the operator's provider and with the tenant's own.
fn chat(app: &App, planted: &Planted) {
    let own = app.post(
        &app.account_key,
        "/v2/agents",
        &json!({"name": "own", "model": format!("mine/{MODEL}"), "instructions": INSTRUCTIONS}),
    );
    assert_eq!(own.status, 201, "{}", own.text());
    let ours = json!({"name": "ours", "model": MODEL, "instructions": INSTRUCTIONS});
    let ours = app.post(&app.account_key, "/v2/agents", &ours).is(201).json();
    let to_own = format!("Authorization: Bearer {TENANT_KEY}");
    let to_ours = format!("Authorization: Bearer {PROVIDER_KEY}, x-gateway-key: {HEADER}");
    for (agent, told) in [(&own.json()["id"], to_own), (&ours["id"], to_ours)] {
        for stream in [false, true] {
            let body =
                json!({"model": agent, "stream": stream, "messages": [{"role": "user", "content": PROMPT}]});
            app.upstream.next(Reply::says(&[ANSWER]));
            app.chat(&body).is(200);
            for script in echoes(&told) {
                // A call that finds its connection closed may be sent once more.
                (0..2).for_each(|_| app.upstream.next(script.clone()));
                let answer = app.chat(&body);
                app.upstream.forget();
                clean("an answer", &answer.body, planted);
            }
        }
    }
    app.settled();
    // Wrong keys, also as good as right.
    for wrong in [format!("{}x", app.account_key), app.account_key[..app.account_key.len() - 1].to_owned()] {
        let answer = app.get(&wrong, "/v2/agents").is(401);
        clean("a refusal", &answer.body, planted);
    }
    let query = format!("/v2/agents?limit={}", app.account_key);
    app.get(&app.account_key, &query).is(400);
}

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).unwrap_or_else(|cause| panic!("{}: {cause}", file.display()))
}

#[test]
fn secrets_and_prompts_stand_in_nothing_that_the_server_writes() {
    let app = setup().arg("--log=trace").start();
    let planted = plant(&app);
    chat(&app, &planted);
    for path in ["/metrics", "/admin/providers", "/admin/accounts", "/admin/audit-log", "/admin/streams"] {
        clean(path, &app.get(&app.operator_token, path).is(200).body, &planted);
    }
    let keys = format!("/v2/agents/{}/api-keys", app.agent_id);
    for path in
        ["/v2/account/providers", "/v2/account/api-keys", "/v2/account/audit-log", "/v2/webhooks", &keys]
    {
        clean(path, &app.get(&app.account_key, path).is(200).body, &planted);
    }
    for path in ["/openapi.json", "/docs", "/api/health"] {
        clean(path, &app.call("GET", path).send().is(200).body, &planted);
    }
    let root = app.data().parent().expect("a directory").to_owned();
    let shown = binary()
        .current_dir(&root)
        .arg("config")
        .env("SWITCHBOARD_SECRETS_KEY", SECRETS_KEY)
        .output()
        .expect("the configuration is shown");
    let masked = String::from_utf8_lossy(&shown.stdout).matches("\"***\"").count();
    assert!(shown.status.success() && masked == 3, "{shown:?}");
    clean("`switchboard config`", &[shown.stdout, shown.stderr].concat(), &planted);

    let first = read(&root.join("stdout.txt"));
    let shown_once = [&app.agent_key, &app.account_key, &app.operator_token];
    let others: Planted = planted.iter().filter(|(_, one)| !shown_once.contains(&one)).cloned().collect();
    clean("the first start's standard output", &first, &others);
    let app = app.restart_with(|app| database(app, &planted));
    clean("the second start's standard output", &read(&root.join("stdout.txt"))[first.len()..], &planted);
    let mut logged = planted.clone();
    for (name, words) in [("a prompt", PROMPT), ("instructions", INSTRUCTIONS), ("an answer", ANSWER)] {
        logged.push((name, words.to_owned()));
    }
    logged.push(("the path of a webhook", HOOK_PATH.to_owned()));
    let log = app.log();
    assert!(log.contains("the provider failed") && log.contains(" TRACE "), "the log is another one");
    clean("the log", log.as_bytes(), &logged);
    app.finish();
}

#[test]
fn where_it_is_asked_for_the_words_of_providers_are_logged_without_any_key() {
    let app = setup().arg("--log=info").arg("--log-content").start();
    let planted = plant(&app);
    chat(&app, &planted);
    let log = app.log();
    assert!(log.contains(PROMPT) && log.contains("Bearer ***"), "the words are not logged:\n{log}");
    clean("the log", log.as_bytes(), &planted);
    app.finish();
}

/// The files that are no secrets themselves.
fn database(app: &App, planted: &Planted) {
    let mut seen = 0;
    for entry in fs::read_dir(app.data()).expect("the data directory") {
        let file = entry.expect("a file").path();
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        if ["operator.token", "account.key", "webhook.key"].contains(&name.as_str()) {
            continue;
        }
        let bytes = read(&file);
        clean(&name, &bytes, planted);
        if name == "switchboard.db" {
            let prompt = memchr::memmem::find(&bytes, PROMPT.as_bytes());
            assert!(prompt.is_some(), "conversations are in the database, so this is another one");
        }
        seen += 1;
    }
    assert!(seen >= 2, "{seen}");
}
