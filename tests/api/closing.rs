//! Accounts that their operator closes.

use serde_json::{Value, json};

use crate::app::App;
use crate::script::Reply;

fn account(app: &App, id: &str) -> Value {
    app.get(&app.operator_token, &format!("/admin/accounts/{id}")).ok()
}

#[test]
fn a_closed_account_loses_everything_but_its_books() {
    let app = App::start();
    let (id, key) = app.account("5.00");
    let (agent, agent_key) = app.agent_of(&key, json!({}));
    app.post(&key, "/v2/webhooks", &json!({"url": "https://example.com/hook"})).is(201);
    let say = |key: &str, session: &str| {
        let messages = json!([{"role": "user", "content": "Hello"}]);
        app.post(
            key,
            "/v1/chat/completions",
            &json!({"model": agent, "session_id": session, "messages": messages}),
        )
    };
    say(&agent_key, "one").is(200);
    say(&agent_key, "two").is(200);
    let before = account(&app, &id);
    assert_eq!((&before["status"], &before["session_count"]), (&json!("active"), &json!(2)));
    let path = format!("/admin/accounts/{id}");
    assert_eq!(app.delete(&app.operator_token, &path).status, 204);
    for key in [&key, &agent_key] {
        say(key, "one").refused(401, "invalid_request_error", "invalid_api_key");
    }
    let after = account(&app, &id);
    assert_eq!(after["status"], "closed");
    assert_eq!((&after["agent_count"], &after["session_count"]), (&json!(0), &json!(0)));
    assert_eq!(after["balance"], before["balance"], "its books stay");
    let change = app.patch(&app.operator_token, &path, &json!({"status": "active"}));
    change.refused(400, "invalid_request_error", "account_closed");
    let credit = json!({"amount": "1.00", "external_ref": "late"});
    let credit = app.post(&app.operator_token, &format!("{path}/credit"), &credit);
    credit.refused(400, "invalid_request_error", "account_closed");
    let paid_out = json!({"amount": "-1.00", "note": "paid out"});
    app.post(&app.operator_token, &format!("{path}/adjust"), &paid_out).is(201);
    assert_eq!(app.delete(&app.operator_token, &path).status, 204, "closing again changes nothing");
    assert_eq!(app.delete(&app.operator_token, "/admin/accounts/acct_0").status, 404);
    app.say("Others go on", json!({}));
    app.finish();
}

#[test]
fn what_runs_in_a_closed_account_ends_in_order_and_what_waits_is_refused() {
    let app = App::start();
    let (id, key) = app.account("5.00");
    let (agent, agent_key) = app.agent_of(&key, json!({}));
    let gate = app.upstream.gate();
    app.upstream.next(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    let body = |stream: bool| {
        let messages = json!([{"role": "user", "content": "Hello"}]);
        json!({"model": agent, "session_id": "s", "messages": messages, "stream": stream})
    };
    let call = |stream| app.call("POST", "/v1/chat/completions").key(&agent_key).json(&body(stream));
    let mut running = call(true).open().ok();
    while running.chunk()["choices"][0]["delta"]["content"] != "Hel" {}
    let waiting = call(false).connect().expect("a connection");
    assert_eq!(app.delete(&app.operator_token, &format!("/admin/accounts/{id}")).status, 204);
    let rest = running.rest();
    let last = rest.last().expect("an end").json();
    assert_eq!(last["error"]["code"], "cancelled", "{last}");
    let refused = crate::client::Stream::read(waiting).and_then(crate::client::Stream::into_answer);
    let refused = refused.expect("an answer");
    assert!([401, 403, 404, 503].contains(&refused.status), "{}", refused.status);
    let shown = account(&app, &id);
    assert_eq!((&shown["held"], &shown["session_count"]), (&json!("0.000000000"), &json!(0)));
    assert_eq!(app.upstream.asked(), 1, "what waited was not asked");
    app.finish();
}
