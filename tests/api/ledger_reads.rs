//! Reading the books: the life of one charge, and lists for spreadsheets.

use serde_json::json;

use crate::app::App;
use crate::script::{Reply, Script};

#[test]
fn the_life_of_a_charge_is_told_by_request_completion_and_hold() {
    let app = App::answering(Reply::says(&["Hello"]).usage(100, 7));
    let answer = app.chat(&app.saying("Hello", json!({"max_tokens": 50}))).is(200);
    let request = answer.headers.required("x-request-id").to_owned();
    let told = app.get(&app.operator_token, &format!("/admin/ledger/explain/{request}")).ok();
    let charge = &told["charges"][0];
    assert_eq!(charge["usage"]["source"], "upstream");
    assert_eq!(charge["usage"]["cost"], "0.000114000");
    assert_eq!(charge["entry"]["delta"], "-0.000114000");
    assert_eq!(charge["price"]["input"], "1.000000000");
    let story = charge["story"].to_string();
    for words in
        ["100 prompt tokens", "7 output tokens", "0.000114000 USD were charged", "without a remainder"]
    {
        assert!(story.contains(words), "{words} is missing in {story}");
    }
    let completion = answer.headers.required("x-completion-id");
    for id in [completion, charge["hold"]["id"].as_str().unwrap_or_default()] {
        assert_eq!(app.get(&app.operator_token, &format!("/admin/ledger/explain/{id}")).ok(), told);
    }
    app.finish();
}

#[test]
fn a_call_that_cost_nothing_is_told_too() {
    let app = App::answering(Script::refusal(500, "no"));
    let answer = app.chat(&app.saying("Hello", json!({})));
    let request = answer.headers.required("x-request-id");
    let told = app.get(&app.operator_token, &format!("/admin/ledger/explain/{request}")).ok();
    assert_eq!(told["charges"][0]["hold"]["state"], "released");
    assert!(told["charges"][0]["story"].to_string().contains("nothing was charged"));
    let missing = app.get(&app.operator_token, "/admin/ledger/explain/req_nobody");
    missing.refused(404, "invalid_request_error", "not_found");
    app.get(&app.account_key, &format!("/admin/ledger/explain/{request}")).is(403);
    app.finish();
}

#[test]
fn transactions_and_usage_come_as_csv_too() {
    let app = App::answering(Reply::says(&["Hello"]).usage(100, 7));
    app.chat(&app.saying("Hello", json!({}))).is(200);
    let table = app.get(&app.account_key, "/v2/billing/transactions?format=csv").is(200);
    assert_eq!(table.headers.required("content-type"), "text/csv; charset=utf-8");
    let text = table.text();
    let lines: Vec<&str> = text.trim_end().split("\r\n").collect();
    assert!(lines[0].starts_with("seq,created_at,kind,delta,balance_after,request_id"));
    assert!(lines[1].starts_with("2,") && lines[1].contains(",charge,-0.000114000,4.999886000,req_"));
    assert_eq!(lines.len(), 3);
    let usage = app.get(&app.account_key, "/v2/usage?group_by=model&format=csv").is(200).text();
    assert_eq!(
        usage,
        "group,requests,prompt_tokens,cached_tokens,output_tokens,cost\r\ntest-model,1,100,0,7,0.000114000\r\n"
    );
    app.get(&app.account_key, "/v2/usage?format=xml").refused(400, "invalid_request_error", "invalid_value");
    app.finish();
}

#[test]
fn many_prices_are_set_at_once_or_none_is() {
    let app = App::start();
    let price = |model: &str, input: &str| json!({"model": model, "input": input, "output": "1"});
    let wrong = json!({"prices": [price("one", "1"), price("two", "cheap")]});
    let refused = app.post(&app.operator_token, "/admin/prices", &wrong);
    assert_eq!(refused.refused(400, "invalid_request_error", "invalid_value")["param"], "prices[1].input");
    let twice = json!({"prices": [price("one", "1"), price("one", "2")]});
    app.post(&app.operator_token, "/admin/prices", &twice).is(400);
    let listed = || app.get(&app.operator_token, "/admin/prices").ok()["prices"].to_string();
    assert!(!listed().contains("\"one\""), "a part of a refused list was set");
    let right = json!({"prices": [price("one", "1"), price("two", "2")]});
    assert_eq!(
        app.post(&app.operator_token, "/admin/prices", &right).is(201).json()["prices"][1]["model"],
        "two"
    );
    assert!(listed().contains("\"one\"") && listed().contains("\"two\""));
    app.finish();
}
