//! Money, usage and health as tenants and supervisors see them.

use serde_json::{Value, json};

use crate::app::{App, nanos};

#[test]
fn a_new_demo_account_has_five_dollars() {
    let app = App::start();
    let body = app.get(&app.account_key, "/v2/billing/balance").ok();
    let expected = json!({"currency": "USD", "available": "5.000000000", "held": "0.000000000",
        "balance": "5.000000000"});
    assert_eq!(body, expected);
    app.finish();
}

#[test]
fn the_ledger_tells_what_each_turn_was() {
    let app = App::start();
    let answer = app.chat(&app.saying("Hello", json!({"session_id": "s"}))).is(200);
    let rows = app.transactions();
    assert_eq!(rows.len(), 2);
    let charge = &rows[0];
    assert_eq!(charge["kind"], "charge");
    assert_eq!(nanos(&charge["delta"]), -15_000);
    assert_eq!(nanos(&charge["balance_after"]), app.balance().balance);
    assert_eq!(charge["completion_id"], answer.json()["id"]);
    assert_eq!(charge["request_id"], answer.headers.required("x-request-id"));
    assert_eq!(charge["session_id"], "s");
    assert_eq!(charge["agent_id"], app.agent_id);
    assert!(charge["key_id"].is_string());
    assert!(charge["model"].as_str().is_some_and(|model| model.contains("test-model")));
    assert_eq!([&charge["prompt_tokens"], &charge["cached_tokens"], &charge["output_tokens"]], [9, 0, 3]);
    assert!(charge["created_at"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!(nanos(&rows[1]["delta"]), 5_000_000_000);
    assert!(rows[0]["seq"].as_u64() > rows[1]["seq"].as_u64());
    app.finish();
}

#[test]
fn the_ledger_is_read_newest_first_by_pages() {
    let app = App::start();
    for _ in 0..5 {
        app.say("Hello", json!({}));
    }
    let page = |query: &str| app.get(&app.account_key, &format!("/v2/billing/transactions{query}")).ok();
    let seqs = |page: &Value| -> Vec<u64> {
        let rows = page["transactions"].as_array().expect("rows");
        rows.iter().filter_map(|row| row["seq"].as_u64()).collect()
    };
    let all = page("");
    assert_eq!((seqs(&all), &all["has_more"]), (vec![6, 5, 4, 3, 2, 1], &json!(false)));
    let newest = page("?limit=4");
    assert_eq!((seqs(&newest), &newest["has_more"]), (vec![6, 5, 4, 3], &json!(true)));
    let oldest = page("?limit=4&after=3");
    assert_eq!((seqs(&oldest), &oldest["has_more"]), (vec![2, 1], &json!(false)));
    let bad = app.get(&app.account_key, "/v2/billing/transactions?limit=0");
    assert_eq!(bad.status, 400, "{}", bad.text());
    app.finish();
}

#[test]
fn usage_is_added_up_by_agent_key_model_and_day() {
    let app = App::start();
    let (other, _) = app.agent(json!({}));
    app.say("Hello", json!({}));
    app.say("Hello", json!({}));
    app.say("Hello", json!({"model": other}));
    app.post(&app.agent_key, "/v1/chat/completions", &app.saying("Hello", json!({}))).is(200);
    let usage = |by: &str| -> Vec<Value> {
        let body = app.get(&app.account_key, &format!("/v2/usage?group_by={by}")).ok();
        assert!(body["from"].is_string() && body["to"].is_string(), "in {body}");
        body["usage"].as_array().expect("groups").clone()
    };
    let by_agent = usage("agent");
    let find = |id: &str| by_agent.iter().find(|group| group["group"] == id).expect("a group").clone();
    let of_demo = find(&app.agent_id);
    assert_eq!(of_demo["requests"], 3);
    assert_eq!([&of_demo["prompt_tokens"], &of_demo["cached_tokens"], &of_demo["output_tokens"]], [27, 0, 9]);
    assert_eq!(nanos(&of_demo["cost"]), 45_000);
    assert_eq!(find(&other)["requests"], 1);
    assert_eq!(usage("key").len(), 2);
    for by in ["model", "day"] {
        let groups = usage(by);
        let total: u64 = groups.iter().filter_map(|group| group["requests"].as_u64()).sum();
        assert_eq!(total, 4, "by {by}");
    }
    let path = "/v2/usage?group_by=agent&from=2020-01-01T00:00:00Z&to=2020-02-01T00:00:00Z";
    assert_eq!(app.get(&app.account_key, path).ok()["usage"], json!([]));
    assert_eq!(app.get(&app.account_key, "/v2/usage?group_by=colour").status, 400);
    app.finish();
}

#[test]
fn one_account_sees_nothing_of_anothers_money() {
    let app = App::start();
    app.say("Hello", json!({}));
    let (_, foreign) = app.account("2.50");
    assert_eq!(app.balance_of(&foreign).balance, 2_500_000_000);
    let rows = app.get(&foreign, "/v2/billing/transactions").ok();
    assert_eq!(rows["transactions"].as_array().map(Vec::len), Some(1));
    assert_eq!(app.get(&foreign, "/v2/usage?group_by=agent").ok()["usage"], json!([]));
    app.finish();
}

#[test]
fn the_server_tells_that_it_is_well() {
    let app = App::start();
    let health = app.call("GET", "/api/health").send().ok();
    assert_eq!(health["status"], "healthy");
    for name in ["version", "database", "uptime"] {
        assert!(!health[name].is_null(), "{name} is missing in {health}");
    }
    for path in ["/livez", "/readyz"] {
        let answer = app.call("GET", path).send().is(200);
        assert!(answer.headers.find("x-request-id").is_some(), "{path} has no request id");
    }
    app.finish();
}
