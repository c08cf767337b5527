//! What the operator does: accounts, credit, prices, and looking after the ledger.

use serde_json::{Value, json};

use crate::app::{App, nanos};
use crate::script::Reply;

fn credit(app: &App, account: &str, amount: &str, reference: &str) -> crate::client::Answer {
    let body = json!({"amount": amount, "external_ref": reference});
    app.post(&app.operator_token, &format!("/admin/accounts/{account}/credit"), &body)
}

#[test]
fn an_account_starts_with_a_balance_and_a_key() {
    let app = App::start();
    let body = json!({"name": "Acme", "balance": "12.34"});
    let account = app.post(&app.operator_token, "/admin/accounts", &body).is(201).json();
    let id = account["id"].as_str().expect("an id");
    assert!(id.starts_with("acct_") && id.len() == 21, "the id is {id}");
    let key = account["key"].as_str().expect("a key");
    assert!(key.starts_with("sk_") && key.len() == 43, "the key is {key}");
    assert_eq!(app.balance_of(key).balance, 12_340_000_000);
    let read = app.get(&app.operator_token, &format!("/admin/accounts/{id}")).ok();
    assert_eq!((&read["name"], &read["status"]), (&json!("Acme"), &json!("active")));
    assert_eq!(read.get("key"), None, "the key is shown once");
    let list = app.get(&app.operator_token, "/admin/accounts").is(200).text();
    assert!(list.contains(id) && list.contains(&app.account_id) && !list.contains(key));
    app.finish();
}

#[test]
fn an_account_without_a_balance_starts_with_nothing_and_cannot_chat() {
    let app = App::start();
    let account = app.post(&app.operator_token, "/admin/accounts", &json!({"name": "Poor"})).is(201).json();
    let key = account["key"].as_str().expect("a key");
    assert_eq!(app.balance_of(key).balance, 0);
    let (agent, agent_key) = app.agent_of(key, json!({}));
    let answer = app.post(&agent_key, "/v1/chat/completions", &app.saying("Hello", json!({"model": agent})));
    answer.refused(402, "insufficient_quota", "insufficient_balance");
    app.finish();
}

#[test]
fn the_same_payment_is_credited_once() {
    let app = App::start();
    let id = app.account_id.clone();
    credit(&app, &id, "5.00", "payment-1").is(201);
    credit(&app, &id, "5.00", "payment-1").is(200);
    credit(&app, &id, "5.0", "payment-1").is(200);
    assert_eq!(app.balance().balance, 10_000_000_000);
    credit(&app, &id, "6.00", "payment-1").refused(422, "invalid_request_error", "idempotency_mismatch");
    let (other, other_key) = app.account("1.00");
    credit(&app, &other, "5.00", "payment-1").refused(422, "invalid_request_error", "idempotency_mismatch");
    credit(&app, &id, "5.00", "payment-2").is(201);
    assert_eq!(app.balance().balance, 15_000_000_000);
    assert_eq!(app.balance_of(&other_key).balance, 1_000_000_000);
    app.finish();
}

#[test]
fn the_same_payment_from_many_sides_at_once_is_credited_once() {
    let app = App::start();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..8).map(|_| scope.spawn(|| credit(&app, &app.account_id, "1.00", "twice").status)).collect();
        calls.into_iter().map(|call| call.join().expect("a credit")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 201].contains(status)), "{statuses:?}");
    assert_eq!(app.balance().balance, 6_000_000_000);
    app.finish();
}

#[test]
fn an_amount_that_cannot_be_is_refused() {
    let app = App::start();
    let amounts = ["0", "-1.00", "abc", "", "1.0000000001", "1e3", "99999999999999999999", "NaN"];
    for amount in amounts {
        let answer = credit(&app, &app.account_id, amount, "bad");
        let error = answer.refused(400, "invalid_request_error", "invalid_value");
        assert_eq!(error["param"], "amount", "{amount}");
    }
    let missing = json!({"amount": "1.00"});
    let path = format!("/admin/accounts/{}/credit", app.account_id);
    let answer = app.post(&app.operator_token, &path, &missing);
    assert_eq!(answer.refused(400, "invalid_request_error", "missing_field")["param"], "external_ref");
    assert_eq!(app.balance().balance, 5_000_000_000);
    credit(&app, "acct_0000000000000000", "1.00", "nobody").is(404);
    app.finish();
}

#[test]
fn a_correction_is_signed_and_says_why_and_never_takes_more_than_there_is() {
    let app = App::start();
    let path = format!("/admin/accounts/{}/adjust", app.account_id);
    let adjust =
        |amount: &str| app.post(&app.operator_token, &path, &json!({"amount": amount, "note": "a mistake"}));
    let status = adjust("-1.00").status;
    assert!([200, 201].contains(&status), "the status is {status}");
    adjust("0.25");
    assert_eq!(app.balance().balance, 4_250_000_000);
    let rows = app.transactions();
    assert_eq!((&rows[1]["kind"], &rows[1]["note"]), (&json!("adjust"), &json!("a mistake")));
    assert_eq!(nanos(&rows[1]["delta"]), -1_000_000_000);
    let too_much = adjust("-4.26");
    assert!((400..500).contains(&too_much.status), "a balance became negative: {}", too_much.text());
    let without_note = app.post(&app.operator_token, &path, &json!({"amount": "1.00"}));
    assert_eq!(without_note.refused(400, "invalid_request_error", "missing_field")["param"], "note");
    assert_eq!(app.balance().balance, 4_250_000_000);
    app.finish();
}

#[test]
fn a_suspended_account_does_nothing_until_it_is_active_again() {
    let app = App::start();
    let path = format!("/admin/accounts/{}", app.account_id);
    let set = |status: &str| app.patch(&app.operator_token, &path, &json!({ "status": status }));
    assert_eq!(set("suspended").ok()["status"], "suspended");
    for key in [&app.agent_key, &app.account_key] {
        let answer = app.post(key, "/v1/chat/completions", &app.saying("Hello", json!({})));
        answer.refused(403, "permission_error", "account_suspended");
    }
    assert!(app.upstream.requests().is_empty());
    assert_eq!(set("active").ok()["status"], "active");
    app.say("Hello", json!({}));
    set("closed").refused(400, "invalid_request_error", "invalid_value");
    app.finish();
}

#[test]
fn suspending_an_account_lets_its_running_streams_end() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(4).pause_after(2, &gate));
    let mut stream = app.stream("Hello", json!({}));
    stream.chunk();
    let path = format!("/admin/accounts/{}", app.account_id);
    app.patch(&app.operator_token, &path, &json!({"status": "suspended"})).is(200);
    gate.open();
    assert!(stream.rest().last().expect("events").is_done());
    app.patch(&app.operator_token, &path, &json!({"status": "active"})).is(200);
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

#[test]
fn a_new_price_holds_from_its_time_on() {
    let app = App::start();
    let set = |price: Value| app.post(&app.operator_token, "/admin/prices", &price);
    app.say("Hello", json!({}));
    set(json!({"model": "test-model", "input": "10", "cached_input": "1", "output": "20.5", "per_request": "0.01"}))
        .is(201);
    app.upstream.next(Reply::says(&["Hi"]).usage_object(json!({
        "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110,
        "prompt_tokens_details": {"cached_tokens": 40},
    })));
    let answer = app.say("Hello", json!({}));
    let expected = 60 * 10_000 + 40 * 1_000 + 10 * 20_500 + 10_000_000;
    assert_eq!(nanos(&answer["usage"]["cost"]), expected);
    assert_eq!(nanos(&app.charges()[0]["delta"]), -expected);
    assert_eq!(app.charges()[0]["cached_tokens"], 40);
    set(json!({"model": "test-model", "input": "90", "output": "90", "effective_from": "2099-01-01T00:00:00Z"}))
        .is(201);
    assert_eq!(nanos(&app.say("Hello", json!({}))["usage"]["cost"]), 9 * 10_000 + 3 * 20_500 + 10_000_000);
    let list = app.get(&app.operator_token, "/admin/prices").is(200).text();
    assert!(list.contains("20.5") && list.contains("2099-01-01"), "in {list}");
    for (price, param) in [
        (json!({"input": "1", "output": "1"}), "model"),
        (json!({"model": "m", "output": "1"}), "input"),
        (json!({"model": "m", "input": "-1", "output": "1"}), "input"),
        (json!({"model": "m", "input": "1", "output": "x"}), "output"),
    ] {
        let answer = set(price);
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(answer.json()["error"]["param"], param);
    }
    app.finish();
}

#[test]
fn a_price_that_changes_in_mid_request_changes_nothing_for_it() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(4).usage(9, 4).pause_after(2, &gate));
    let mut stream = app.stream("Hello", json!({}));
    stream.chunk();
    let price = json!({"model": "test-model", "input": "100", "output": "200"});
    app.post(&app.operator_token, "/admin/prices", &price).is(201);
    gate.open();
    assert!(stream.rest().last().expect("events").is_done());
    assert_eq!(nanos(&app.charges()[0]["delta"]), -(9 * 1000 + 4 * 2000));
    app.finish();
}

#[test]
fn the_operator_sees_providers_running_streams_and_every_invariant() {
    let app = App::start();
    let providers = app.get(&app.operator_token, "/admin/providers").is(200);
    assert!(!providers.text().contains(crate::app::PROVIDER_KEY), "the provider's key is shown");
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(4).pause_after(2, &gate));
    let mut stream = app.stream("Hello", json!({"session_id": "watched"}));
    stream.chunk();
    let streams = app.get(&app.operator_token, "/admin/streams").is(200).text();
    assert!(streams.contains(&app.agent_id), "the running stream is missing in {streams}");
    gate.open();
    stream.rest();
    let verdict = app.get(&app.operator_token, "/admin/ledger/verify").ok();
    assert_eq!(verdict["ok"], true);
    assert!(verdict.as_object().is_some_and(|verdict| verdict.len() > 1), "no invariants in {verdict}");
    app.finish();
}
