//! Making, reading, changing and deleting agents.

use serde_json::{Value, json};

use crate::app::{App, MODEL};

fn path(id: &str) -> String {
    format!("/v2/agents/{id}")
}

fn create(app: &App, fields: &Value) -> Value {
    app.post(&app.account_key, "/v2/agents", fields).is(201).json()
}

#[test]
fn a_name_is_all_that_an_agent_needs() {
    let app = App::start();
    let agent = create(&app, &json!({"name": "Ann"}));
    let id = agent["id"].as_str().expect("an id");
    let (date, rest) = id.strip_prefix("ag_").and_then(|id| id.split_once('_')).expect("ag_…_…");
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(date.len() == 8 && rest.len() == 4 && is_hex(date) && is_hex(rest), "the id is {id}");
    assert_eq!(agent["name"], "Ann");
    assert_eq!(app.say("Hello", json!({ "model": id }))["model"], id);
    assert_eq!(app.upstream.last().body["model"], MODEL);
    app.finish();
}

#[test]
fn an_agent_is_read_back_as_it_was_made() {
    let app = App::start();
    let fields = json!({
        "name": "Ann", "model": MODEL, "instructions": "Be brief.", "description": "A helper",
        "temperature": 0.5, "max_tokens": 200, "parameters": {"top_p": 0.9}, "context_tokens": 4000,
        "expires_after": 3600, "locked": ["temperature"], "metadata": {"team": "blue"},
    });
    let made = create(&app, &fields);
    for (name, value) in fields.as_object().expect("fields") {
        assert_eq!(&made[name], value, "{name}");
    }
    let id = made["id"].as_str().expect("an id");
    assert_eq!(app.get(&app.account_key, &path(id)).ok(), made);
    app.finish();
}

#[test]
fn agents_are_listed_by_pages_with_their_total() {
    let app = App::start();
    for name in ["a", "b", "c"] {
        create(&app, &json!({ "name": name }));
    }
    let list = app.get(&app.account_key, "/v2/agents").ok();
    assert_eq!(list["total"], 4);
    let all = list["agents"].as_array().expect("agents").clone();
    assert_eq!(all.len(), 4);
    let pages = ["?limit=3", "?limit=3&offset=3"].map(|query| {
        let page = app.get(&app.account_key, &format!("/v2/agents{query}")).ok();
        assert_eq!(page["total"], 4);
        page["agents"].as_array().expect("agents").clone()
    });
    assert_eq!((pages[0].len(), pages[1].len()), (3, 1));
    assert_eq!(pages.concat(), all);
    app.finish();
}

#[test]
fn a_change_leaves_what_it_does_not_name() {
    let app = App::start();
    let made = create(&app, &json!({"name": "Ann", "instructions": "Be brief.", "temperature": 0.5}));
    let id = made["id"].as_str().expect("an id");
    let changed = app.patch(&app.account_key, &path(id), &json!({"name": "Bea"})).ok();
    assert_eq!(changed["name"], "Bea");
    assert_eq!(changed["instructions"], "Be brief.");
    assert_eq!(changed["temperature"], 0.5);
    assert_eq!(app.get(&app.account_key, &path(id)).ok(), changed);
    let cleared = app.patch(&app.account_key, &path(id), &json!({"temperature": null})).ok();
    assert!(cleared["temperature"].is_null());
    app.finish();
}

#[test]
fn a_deleted_agent_takes_its_keys_and_sessions_along_and_leaves_its_bills() {
    let app = App::start();
    let (id, key) = app.agent(json!({}));
    app.say("Hello", json!({"model": id, "session_id": "s"}));
    app.delete(&app.account_key, &path(&id)).is(204);
    app.get(&app.account_key, &path(&id)).refused(404, "invalid_request_error", "not_found");
    app.delete(&app.account_key, &path(&id)).refused(404, "invalid_request_error", "not_found");
    let with_its_key = app.post(&key, "/v1/chat/completions", &app.saying("Hello", json!({"model": id})));
    with_its_key.refused(401, "invalid_request_error", "invalid_api_key");
    let chat = app.chat(&app.saying("Hello", json!({ "model": id })));
    chat.refused(404, "invalid_request_error", "model_not_found");
    app.get(&app.account_key, "/v2/sessions/s").refused(404, "invalid_request_error", "session_not_found");
    assert_eq!(app.charges().len(), 1);
    assert_eq!(app.charges()[0]["agent_id"], id);
    app.finish();
}

#[test]
fn fields_that_cannot_be_are_refused_by_name() {
    let app = App::start();
    let cases = [
        (json!({}), "missing_field", "name"),
        (json!({"name": ""}), "", "name"),
        (json!({"name": 7}), "invalid_value", "name"),
        (json!({"name": "a", "temperature": 2.1}), "invalid_value", "temperature"),
        (json!({"name": "a", "temperature": "hot"}), "invalid_value", "temperature"),
        (json!({"name": "a", "max_tokens": 0}), "invalid_value", "max_tokens"),
        (json!({"name": "a", "context_tokens": -1}), "invalid_value", "context_tokens"),
        (json!({"name": "a", "instructions": []}), "invalid_value", "instructions"),
        (json!({"name": "a", "locked": "temperature"}), "invalid_value", "locked"),
        (json!({"name": "a", "model": "no-such-model"}), "model_not_priced", "model"),
    ];
    for (fields, code, param) in cases {
        let answer = app.post(&app.account_key, "/v2/agents", &fields);
        assert_eq!(answer.status, 400, "{fields} is taken: {}", answer.text());
        let error = answer.json()["error"].clone();
        assert_eq!(error["param"], param, "{fields}: {error}");
        assert!(code.is_empty() || error["code"] == code, "{fields}: {error}");
    }
    let answer = app.patch(&app.account_key, &path(&app.agent_id), &json!({"temperature": 9}));
    assert_eq!(answer.refused(400, "invalid_request_error", "invalid_value")["param"], "temperature");
    app.finish();
}

#[test]
fn any_bare_model_may_be_used_once_it_has_a_price() {
    let app = App::start();
    let price = json!({"model": "other-model", "input": "3", "output": "4.5"});
    let fields = json!({"name": "a", "model": "other-model"});
    assert_eq!(app.post(&app.account_key, "/v2/agents", &fields).status, 400);
    app.post(&app.operator_token, "/admin/prices", &price).is(201);
    let (agent, _) = app.agent(fields);
    let answer = app.say("Hello", json!({ "model": agent }));
    assert_eq!(app.upstream.last().body["model"], "other-model");
    assert_eq!(crate::app::nanos(&answer["usage"]["cost"]), 9 * 3000 + 3 * 4500);
    app.finish();
}

#[test]
fn a_foreign_agent_and_a_missing_one_look_the_same() {
    let app = App::start();
    let (_, foreign) = app.account("1.00");
    let calls = [("GET", json!(null)), ("PATCH", json!({"name": "mine"})), ("DELETE", json!(null))];
    for (method, body) in calls {
        let ask = |id: &str| {
            let call = app.call(method, &path(id)).key(&foreign);
            let answer = if body.is_null() { call.send() } else { call.json(&body).send() };
            answer.refused(404, "invalid_request_error", "not_found");
            answer.text().replace(id, "…")
        };
        assert_eq!(ask(&app.agent_id), ask("ag_00000000_0000"), "{method} tells them apart");
    }
    let chat = app.post(&foreign, "/v1/chat/completions", &app.saying("Hello", json!({})));
    chat.refused(404, "invalid_request_error", "model_not_found");
    assert_eq!(app.get(&foreign, "/v2/agents").ok()["total"], 0);
    app.get(&app.account_key, &path(&app.agent_id)).is(200);
    app.finish();
}
