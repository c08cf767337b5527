//! Agent keys and account keys: shown once, listed by their ends, gone at once.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::app::{App, eventually};
use crate::script::Reply;

fn keys_path(app: &App) -> String {
    format!("/v2/agents/{}/api-keys", app.agent_id)
}

fn secret(key: &Value) -> &str {
    key["key"].as_str().expect("a new key is shown")
}

fn list(app: &App, path: &str) -> Vec<Value> {
    let body = app.get(&app.account_key, path).ok();
    let inside = body.as_object().and_then(|body| body.values().find_map(Value::as_array));
    body.as_array().or(inside).cloned().unwrap_or_else(|| panic!("no list in {body}"))
}

fn chats_with(app: &App, key: &str) -> u16 {
    app.post(key, "/v1/chat/completions", &app.saying("Hello", json!({}))).status
}

#[test]
fn an_agent_key_is_shown_once_and_listed_by_its_ends() {
    let app = App::start();
    let made = app.new_key(&app.account_key, &app.agent_id, json!({"name": "Website"}));
    let key = secret(&made);
    assert!(key.starts_with("ak_") && key.len() == 43, "the key is {key}");
    assert_eq!(made["name"], "Website");
    let preview = made["preview"].as_str().expect("a preview");
    assert!(preview.starts_with("ak_") && preview.ends_with(&key[39..]) && preview.len() < 20, "{preview}");
    let answer = app.get(&app.account_key, &keys_path(&app)).is(200);
    assert!(!answer.text().contains(&key[3..39]), "the secret is shown again");
    let listed = list(&app, &keys_path(&app));
    assert_eq!(listed.len(), 2);
    let found = listed.iter().find(|listed| listed["id"] == made["id"]).expect("the key is listed");
    assert_eq!((&found["preview"], found.get("key")), (&made["preview"], None));
    assert_eq!(chats_with(&app, key), 200);
    app.finish();
}

#[test]
fn a_revoked_key_is_refused_at_once() {
    let app = App::start();
    for _ in 0..5 {
        let made = app.new_key(&app.account_key, &app.agent_id, json!({}));
        assert_eq!(chats_with(&app, secret(&made)), 200);
        let path = format!("{}/{}", keys_path(&app), made["id"].as_str().expect("an id"));
        app.delete(&app.account_key, &path).is(204);
        assert_eq!(chats_with(&app, secret(&made)), 401);
        assert_eq!(app.delete(&app.account_key, &path).status, 404);
    }
    app.finish();
}

#[test]
fn a_key_is_refused_from_its_expiry_on() {
    let app = App::start();
    let far = app.new_key(&app.account_key, &app.agent_id, json!({"expires_at": "2099-01-01T00:00:00Z"}));
    assert!(far["expires_at"].as_str().is_some_and(|time| time.starts_with("2099-01-01T00:00:00")), "{far}");
    assert_eq!(chats_with(&app, secret(&far)), 200);
    let path = format!("{}/{}", keys_path(&app), far["id"].as_str().expect("an id"));
    app.patch(&app.account_key, &path, &json!({"expires_at": "2020-01-01T00:00:00Z"}));
    let past = json!({"name": "Past", "expires_at": "2020-01-01T00:00:00Z"});
    let answer = app.post(&app.account_key, &keys_path(&app), &past);
    if answer.status == 201 {
        assert_eq!(chats_with(&app, secret(&answer.json())), 401);
        assert_eq!(chats_with(&app, secret(&far)), 401);
    } else {
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    let wrong = json!({"name": "Wrong", "expires_at": "tomorrow"});
    let answer = app.post(&app.account_key, &keys_path(&app), &wrong);
    assert_eq!(answer.refused(400, "invalid_request_error", "invalid_value")["param"], "expires_at");
    app.finish();
}

#[test]
fn a_key_that_expires_while_the_server_runs_is_refused() {
    let app = App::start();
    let soon = OffsetDateTime::now_utc() + Duration::from_secs(2);
    let soon = soon.format(&Rfc3339).expect("a time");
    let made = app.new_key(&app.account_key, &app.agent_id, json!({"expires_at": soon}));
    eventually("the key expires", || (chats_with(&app, secret(&made)) == 401).then_some(()));
    app.finish();
}

#[test]
fn what_runs_ends_with_its_key() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    let soon = OffsetDateTime::now_utc() + Duration::from_secs(3);
    let expiring = json!({"expires_at": soon.format(&Rfc3339).expect("a time")});
    let [expiring, other] =
        [expiring, json!({})].map(|fields| app.new_key(&app.account_key, &app.agent_id, fields));
    let body = app.saying("Hello", json!({"stream": true}));
    let start = |key: &Value| {
        let mut stream = app.call("POST", "/v1/chat/completions").key(secret(key)).json(&body).open().ok();
        while stream.chunk()["choices"][0]["delta"]["content"] != "Hel" {}
        stream
    };
    let (first, second) = (start(&expiring), start(&other));
    let path = format!("{}/{}", keys_path(&app), other["id"].as_str().expect("an id"));
    app.patch(&app.account_key, &path, &json!({"expires_at": expiring["expires_at"]})).is(200);
    for mut stream in [second, first] {
        let last = stream.rest().pop().expect("an end").json();
        assert_eq!(last["error"]["code"], "cancelled", "{last}");
    }
    app.upstream.wait_for_aborts(2);
    app.finish();
}

#[test]
fn who_reads_along_is_told_when_his_key_ends_and_the_turn_goes_on() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    let mut stream = app.stream("Hello", json!({}));
    let id = stream.headers.required("x-completion-id").to_owned();
    let other = app.post(&app.account_key, "/v2/account/api-keys", &json!({"name": "reads"})).is(201).json();
    let mut along =
        app.call("GET", &format!("/v1/chat/completions/{id}/stream")).key(secret(&other)).open().ok();
    while along.chunk()["choices"][0]["delta"]["content"] != "Hel" {}
    let path = format!("/v2/account/api-keys/{}", other["id"].as_str().expect("an id"));
    assert_eq!(app.delete(&app.account_key, &path).status, 204);
    let last = along.rest().pop().expect("an end").json();
    assert_eq!(last["error"]["code"], "invalid_api_key", "{last}");
    gate.open();
    assert!(stream.rest().iter().any(|event| event.is_done()));
    app.finish();
}

#[test]
fn a_change_of_a_key_holds_at_once() {
    let app = App::start();
    let made = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let path = format!("{}/{}", keys_path(&app), made["id"].as_str().expect("an id"));
    let change = json!({"name": "Slow", "limits": {"requests_per_minute": 6}});
    let changed = app.patch(&app.account_key, &path, &change).ok();
    assert_eq!(changed["name"], "Slow");
    assert_eq!(changed["limits"]["requests_per_minute"], 6);
    assert_eq!(changed.get("key"), None);
    assert_eq!([chats_with(&app, secret(&made)), chats_with(&app, secret(&made))], [200, 429]);
    app.finish();
}

#[test]
fn a_key_with_more_scopes_sees_what_they_name() {
    let app = App::start();
    app.say("Hello", json!({"session_id": "s"}));
    let scopes = json!({"scopes": ["chat", "sessions:read", "usage:read"]});
    let made = app.new_key(&app.account_key, &app.agent_id, scopes.clone());
    assert_eq!(made["scopes"], scopes["scopes"]);
    let answer = app.post(secret(&made), "/v1/chat/completions", &app.saying("Hello", json!({}))).ok();
    assert!(answer["usage"]["cost"].is_string(), "usage:read sees the cost: {answer}");
    app.get(secret(&made), "/v2/sessions/s/messages").is(200);
    let chat_only = app.new_key(&app.account_key, &app.agent_id, json!({}));
    assert_eq!(chat_only["scopes"], json!(["chat"]));
    app.get(secret(&chat_only), "/v2/sessions/s/messages").refused(403, "permission_error", "key_scope");
    let wrong = json!({"name": "Wrong", "scopes": ["everything"]});
    assert_eq!(app.post(&app.account_key, &keys_path(&app), &wrong).status, 400);
    app.finish();
}

#[test]
fn a_budget_that_is_used_up_refuses_the_key_and_nobody_else() {
    let app = App::start();
    let budget = json!({"budget": {"amount": "0.000020", "period": "total"}});
    let made = app.new_key(&app.account_key, &app.agent_id, budget);
    let body = app.saying("Hello", json!({"max_tokens": 10_000}));
    let refused = app.post(secret(&made), "/v1/chat/completions", &body);
    refused.refused(402, "insufficient_quota", "budget_exceeded");
    assert_eq!(refused.headers.required("x-should-retry"), "false");
    assert_eq!(app.balance().held, 0);
    assert_eq!(chats_with(&app, &app.agent_key), 200);
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

#[test]
fn the_keys_of_one_agent_are_not_for_another() {
    let app = App::start();
    let (other, other_key) = app.agent(json!({}));
    assert_eq!(chats_with(&app, &other_key), 404);
    let made = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let id = made["id"].as_str().expect("an id");
    assert_eq!(app.delete(&app.account_key, &format!("/v2/agents/{other}/api-keys/{id}")).status, 404);
    let (_, foreign) = app.account("1.00");
    assert_eq!(app.delete(&foreign, &format!("{}/{id}", keys_path(&app))).status, 404);
    assert_eq!(app.get(&foreign, &keys_path(&app)).status, 404);
    let answer = app.post(&foreign, &keys_path(&app), &json!({"name": "mine"}));
    answer.refused(404, "invalid_request_error", "not_found");
    assert_eq!(chats_with(&app, secret(&made)), 200);
    app.finish();
}

#[test]
fn an_account_can_change_its_own_keys_but_not_lose_the_last() {
    let app = App::start();
    let path = "/v2/account/api-keys";
    let first = list(&app, path);
    assert_eq!(first.len(), 1);
    let first_path = format!("{path}/{}", first[0]["id"].as_str().expect("an id"));
    app.delete(&app.account_key, &first_path).refused(400, "invalid_request_error", "last_key");
    let made = app.post(&app.account_key, path, &json!({"name": "Second"})).is(201).json();
    let key = secret(&made);
    assert!(key.starts_with("sk_") && key.len() == 43, "the key is {key}");
    assert_eq!(list(&app, path).len(), 2);
    app.delete(key, &first_path).is(204);
    app.get(&app.account_key, path).refused(401, "invalid_request_error", "invalid_api_key");
    let own_path = format!("{path}/{}", made["id"].as_str().expect("an id"));
    app.delete(key, &own_path).refused(400, "invalid_request_error", "last_key");
    assert_eq!(chats_with(&app, key), 200);
    app.finish();
}

#[test]
fn a_key_works_after_a_restart_and_a_revoked_one_does_not() {
    let mut app = App::start();
    let kept = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let revoked = app.new_key(&app.account_key, &app.agent_id, json!({}));
    app.delete(&app.account_key, &format!("{}/{}", keys_path(&app), revoked["id"].as_str().expect("an id")))
        .is(204);
    app.restart();
    assert_eq!([chats_with(&app, secret(&kept)), chats_with(&app, secret(&revoked))], [200, 401]);
    app.finish();
}

#[test]
fn no_secret_is_in_the_database_and_the_files_of_the_first_ones_are_for_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let app = App::start();
    let made = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let secrets = [secret(&made), &app.agent_key, &app.account_key, &app.operator_token];
    for file in std::fs::read_dir(app.data()).expect("the data directory").flatten() {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        let holds = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        if secrets.iter().any(|secret| holds(secret)) {
            let name = file.file_name().to_string_lossy().into_owned();
            assert!(["operator.token", "account.key", "agent.key"].contains(&name.as_str()), "in {name}");
            let mode = file.metadata().expect("its mode").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name} can be read by others");
        }
    }
    app.finish();
}
