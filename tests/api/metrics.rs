//! `/metrics`: what an operator's Prometheus reads.

use serde_json::json;

use crate::app::{App, MODEL, Setup, eventually};
use crate::script::Reply;

/// What is read now.
pub fn read(app: &App) -> String {
    app.get(&app.operator_token, "/metrics").is(200).text()
}

/// The value of one line, whose labels stand as they are written.
pub fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}

#[test]
fn the_metrics_are_the_operators_unless_they_are_made_public() {
    let app = App::start();
    app.call("GET", "/metrics").send().is(401);
    app.get(&app.account_key, "/metrics").is(403);
    let answer = app.get(&app.operator_token, "/metrics").is(200);
    assert_eq!(answer.headers.required("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    app.finish();
    let app = Setup::default().arg("--metrics-public").start();
    app.call("GET", "/metrics").send().is(200);
    app.finish();
}

#[test]
fn a_turn_is_counted_with_its_tokens_and_its_charge() {
    let app = App::start();
    app.say("Hello", json!({}));
    app.stream("Hello", json!({})).into_answer().expect("a whole stream");
    let text = read(&app);
    let labels = |kind: &str| format!("{{gen_ai_request_model=\"{MODEL}\",gen_ai_token_type=\"{kind}\"}}");
    assert_eq!(value(&text, &format!("switchboard_tokens_total{}", labels("input"))), Some(18.0));
    assert_eq!(value(&text, &format!("switchboard_tokens_total{}", labels("output"))), Some(6.0));
    assert_eq!(value(&text, "switchboard_charged_nanousd_total"), Some(30_000.0));
    assert_eq!(value(&text, "switchboard_written_off_nanousd_total"), Some(0.0));
    let call = "gen_ai_client_operation_duration_seconds_count";
    let call = format!(
        "{call}{{gen_ai_provider_name=\"provider\",gen_ai_request_model=\"{MODEL}\",outcome=\"ok\"}}"
    );
    assert_eq!(value(&text, &call), Some(2.0));
    assert_eq!(value(&text, "gen_ai_server_request_duration_seconds_count"), Some(2.0));
    assert_eq!(value(&text, "gen_ai_server_time_to_first_token_seconds_count"), Some(1.0));
    let request = "http_server_request_duration_seconds_count{http_request_method=\"POST\",\
        http_route=\"/v1/chat/completions\",status_class=\"2xx\"}";
    assert_eq!(value(&text, request), Some(2.0));
    assert_eq!(value(&text, "switchboard_sessions_resident"), Some(2.0));
    assert_eq!(value(&text, "switchboard_holds_open"), Some(0.0));
    assert!(value(&text, "switchboard_writer_batches_total").is_some_and(|batches| batches > 0.0));
    assert!(value(&text, "process_resident_memory_bytes").is_some_and(|bytes| bytes > 1e6));
    app.finish();
}

#[test]
fn a_running_stream_is_seen_with_its_hold() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(20).pause_after(10, &gate));
    let stream = app.stream("Hello", json!({}));
    let text = read(&app);
    assert_eq!(value(&text, "switchboard_turns_running{stream=\"true\"}"), Some(1.0));
    assert_eq!(value(&text, "switchboard_turns_running{stream=\"false\"}"), Some(0.0));
    assert_eq!(value(&text, "switchboard_holds_open"), Some(1.0));
    drop(stream);
    eventually("the stream is over", || {
        let text = read(&app);
        let gone = "gen_ai_client_operation_duration_seconds_count{gen_ai_provider_name=\"provider\",\
            gen_ai_request_model=\"test-model\",outcome=\"client_gone\"}";
        (value(&text, gone) == Some(1.0) && value(&text, "switchboard_holds_open") == Some(0.0)).then_some(())
    });
    app.finish();
}

#[test]
fn a_refusal_is_counted_by_its_code_and_labels_name_no_tenant() {
    let app = App::start();
    app.call("GET", "/v1/models").key("sk_no").send().is(401);
    app.call("GET", "/no/such/path").send().is(404);
    app.call("BREW", "/livez").send();
    app.say("Hello", json!({"session_id": "a-name-of-mine"}));
    let text = read(&app);
    let refused = "switchboard_errors_total{code=\"invalid_api_key\",type=\"invalid_request_error\"}";
    assert_eq!(value(&text, refused), Some(1.0));
    assert!(text.contains("http_route=\"unmatched\""), "{text}");
    assert!(text.contains("http_request_method=\"_OTHER\""), "{text}");
    for secret in
        ["no/such", "BREW", "a-name-of-mine", &app.account_id, &app.agent_id, "acct_", "ak_", "key_"]
    {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    app.finish();
}
