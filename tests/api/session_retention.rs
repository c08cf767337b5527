//! Sessions that nobody uses any more go after the days that their account keeps them.

use serde_json::json;

use crate::app::{App, eventually, merged};
use crate::database;
use crate::script::Reply;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Makes sessions of a stopped server look as if they were made and used so many days ago.
fn age(app: &App, days: i64, which: &str) {
    let by = days * DAY_MS;
    let change = format!(
        "UPDATE session SET created_at = created_at - {by}, updated_at = updated_at - {by} WHERE {which}"
    );
    database::change(app, &change);
}

fn sessions(app: &App) -> i64 {
    database::number(app, "SELECT COUNT(*) FROM session")
}

#[test]
fn idle_sessions_are_deleted_at_a_start_and_those_in_use_stay() {
    let app = App::start();
    app.upstream.choose(|request| Reply::says(&["re: ", &request.last_text()]).usage(9, 2).into());
    let mut conversation = vec![];
    for text in ["one", "two", "three"] {
        conversation.push(json!({"role": "user", "content": text}));
        let answer = app.chat(&json!({"model": app.agent_id, "messages": conversation})).ok();
        conversation.push(answer["choices"][0]["message"].clone());
    }
    for number in 0..150 {
        let body = json!({"agent_id": app.agent_id, "session_id": format!("s{number}")});
        app.post(&app.account_key, "/v2/sessions", &body).is(201);
    }
    app.say("kept", json!({"session_id": "s7"}));
    let (_, other) = app.account("1.00");
    let (agent, _) = app.agent_of(&other, json!({}));
    app.post(&other, "/v2/sessions", &json!({"agent_id": agent})).is(201);
    let set = app.patch(&app.account_key, "/v2/account", &json!({"retention_days": 30})).ok();
    assert_eq!(set["retention_days"], 30);
    // Of the three that share a conversation, the last one is still in use.
    let app = app.restart_with(|app| {
        age(app, 29, "name = 's8'");
        age(app, 31, "name NOT IN ('s7', 's8') AND head < 6");
        age(app, 400, "name = 's9'");
    });
    eventually("idle sessions are gone", || (sessions(&app) == 4).then_some(()));
    let own = app.get(&app.account_key, "/v2/account").ok();
    assert_eq!(own["session_count"], 3);
    for name in ["s7", "s8"] {
        app.get(&app.account_key, &format!("/v2/sessions/{name}")).is(200);
    }
    assert_eq!(
        app.get(&other, "/v2/sessions").ok().as_array().map(Vec::len),
        Some(1),
        "who set nothing keeps all"
    );
    let messages = database::number(&app, "SELECT COUNT(*) FROM message");
    assert_eq!(messages, 8, "what a session in use shares with those that are gone stays");
    assert_eq!(app.charges().len(), 4, "billing records stay");
    app.finish();
}

#[test]
fn a_session_with_very_many_messages_goes_too() {
    let app = App::start();
    let messages: Vec<_> =
        (0..2_500).map(|number| json!({"role": "user", "content": number.to_string()})).collect();
    app.chat(&json!({"model": app.agent_id, "session_id": "s", "messages": messages})).is(200);
    app.say("Hello", json!({"session_id": "t"}));
    app.patch(&app.account_key, "/v2/account", &json!({"retention_days": 1})).is(200);
    let app = app.restart_with(|app| age(app, 2, "1"));
    eventually("they are gone", || (sessions(&app) == 0).then_some(()));
    assert_eq!(database::number(&app, "SELECT COUNT(*) FROM message"), 0);
    // Their names are free again.
    app.say("Hello", json!({"session_id": "s"}));
    app.finish();
}

#[test]
fn both_the_tenant_and_the_operator_set_how_long_sessions_are_kept() {
    let app = App::start();
    let account = format!("/admin/accounts/{}", app.account_id);
    assert_eq!(app.get(&app.account_key, "/v2/account").ok()["retention_days"], json!(null));
    let set = app.patch(&app.operator_token, &account, &json!({"retention_days": 90})).ok();
    assert_eq!(set["retention_days"], 90);
    assert_eq!(app.get(&app.account_key, "/v2/account").ok()["retention_days"], 90);
    let cleared = app.patch(&app.account_key, "/v2/account", &json!({"retention_days": null})).ok();
    assert_eq!(cleared["retention_days"], json!(null));
    for days in [json!(0), json!(-1), json!(1.5), json!("7"), json!(36_501)] {
        let body = json!({ "retention_days": days });
        for (key, path) in [(&app.operator_token, account.as_str()), (&app.account_key, "/v2/account")] {
            let error = app.patch(key, path, &body).refused(400, "invalid_request_error", "invalid_value");
            assert_eq!(error["param"], "retention_days");
        }
    }
    app.patch(&app.account_key, "/v2/account", &json!({"name": "x"})).refused(
        400,
        "invalid_request_error",
        "unknown_field",
    );
    app.get(&app.agent_key, "/v2/account").refused(403, "permission_error", "key_scope");
    app.finish();
}

#[test]
fn what_a_stop_left_of_a_deleted_agent_goes_at_the_next_start() {
    let app = App::start();
    let (agent, _) = app.agent(json!({}));
    for number in 0..70 {
        let body = json!({"agent_id": agent, "session_id": format!("s{number}")});
        app.post(&app.account_key, "/v2/sessions", &merged(body, json!({"metadata": {"a": "b"}}))).is(201);
    }
    app.say("Hello", json!({"session_id": "mine"}));
    let app = app.restart_with(|app| {
        database::change(
            app,
            &format!(
                "DELETE FROM agent WHERE agent_id = '{agent}';
                 UPDATE account SET agent_count = agent_count - 1 WHERE account_id = '{}'",
                app.account_id
            ),
        );
    });
    eventually("they are gone", || (sessions(&app) == 1).then_some(()));
    assert_eq!(database::number(&app, "SELECT COUNT(*) FROM session_metadata"), 0);
    app.finish();
}
