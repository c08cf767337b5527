//! The error table of the contract, row by row: requests that are wrong by themselves.

use serde_json::json;

use crate::app::{App, merged};
use crate::client::Answer;

const CHAT: &str = "/v1/chat/completions";
const WRONG: &str = "invalid_request_error";

fn raw(app: &App, content_type: &str, body: &str) -> Answer {
    app.call("POST", CHAT).key(&app.account_key).body(content_type, body).send()
}

#[test]
fn a_body_that_is_not_json_is_400_invalid_json() {
    let app = App::start();
    for body in ["", "{", "nonsense", "{\"model\": }", "\u{0}", "{\"messages\": [1,]}"] {
        raw(&app, "application/json", body).refused(400, WRONG, "invalid_json");
    }
    for body in ["[]", "7", "null", "\"text\""] {
        assert_eq!(raw(&app, "application/json", body).status, 400, "{body} is taken");
    }
    let unreadable = app.call("POST", CHAT).key(&app.account_key).body("application/json", [0xff, 0xfe]);
    unreadable.send().refused(400, WRONG, "invalid_json");
    let deep = format!("{{\"messages\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(raw(&app, "application/json", &deep).status, 400);
    app.post(&app.account_key, "/v2/agents", &json!([])).refused(400, WRONG, "invalid_json");
    app.finish();
}

#[test]
fn a_field_that_is_missing_is_400_missing_field_and_named() {
    let app = App::start();
    let cases = [
        (json!({"model": app.agent_id}), "messages"),
        (json!({"model": app.agent_id, "messages": null}), "messages"),
        (json!({"model": app.agent_id, "messages": [{"content": "Hello"}]}), "messages[0].role"),
        (json!({"model": app.agent_id, "messages": [{"role": "user"}]}), "messages[0].content"),
        (
            json!({"model": app.agent_id, "messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}),
            "messages[1].tool_call_id",
        ),
    ];
    for (body, param) in cases {
        let error = app.chat(&body).refused(400, WRONG, "missing_field");
        assert_eq!(error["param"], param, "for {body}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(param)), "{error}");
    }
    app.finish();
}

#[test]
fn a_value_that_cannot_be_is_400_invalid_value_and_named() {
    let app = App::start();
    let cases = [
        (json!({"messages": []}), "messages"),
        (json!({"messages": "Hello"}), "messages"),
        (json!({"messages": ["Hello"]}), "messages[0]"),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]}),
            "messages[1].role",
        ),
        (json!({"messages": [{"role": "user", "content": 7}]}), "messages[0].content"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"model": 7}), "model"),
        (json!({"session_id": 7}), "session_id"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_completion_tokens": "many"}), "max_completion_tokens"),
        (json!({"n": 0}), "n"),
    ];
    for (fields, param) in cases {
        let body = merged(app.saying("Hello", json!({})), fields);
        let error = app.chat(&body).refused(400, WRONG, "invalid_value");
        assert_eq!(error["param"], param, "for {body}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(param)), "{error}");
    }
    assert!(app.upstream.requests().is_empty());
    app.finish();
}

#[test]
fn a_key_that_is_no_key_is_401_invalid_api_key() {
    let app = App::start();
    let mut typo = app.agent_key.clone();
    let last = if typo.ends_with('a') { 'b' } else { 'a' };
    typo.pop();
    typo.push(last);
    let unknown = [
        "Bearer sk-proj-1234567890abcdefghijklmnopqrstuvwxyz".to_owned(),
        format!("Bearer {typo}"),
        format!("Basic {}", app.agent_key),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        app.agent_key.clone(),
    ];
    let routes = [
        ("POST", CHAT),
        ("POST", "/v2/chats/openai"),
        ("GET", "/v1/models"),
        ("GET", "/v2/agents"),
        ("GET", "/v2/sessions"),
        ("GET", "/v2/billing/balance"),
        ("GET", "/admin/accounts"),
    ];
    for (method, path) in routes {
        let call = app.call(method, path);
        let call = if method == "POST" { call.json(&app.saying("Hello", json!({}))) } else { call };
        let mut answers = vec![call.clone().send()];
        answers.extend(unknown.iter().map(|value| call.clone().header("Authorization", value).send()));
        for answer in answers {
            let error = answer.refused(401, WRONG, "invalid_api_key");
            let message = error["message"].as_str().unwrap_or_default();
            assert!(message.starts_with("Incorrect API key provided"), "{message}");
            assert!(!message.contains(&typo[3..20]), "the key is repeated: {message}");
            assert!(answer.headers.required("www-authenticate").starts_with("Bearer"));
        }
    }
    assert!(app.upstream.requests().is_empty());
    app.finish();
}

#[test]
fn who_has_no_key_is_told_so_before_the_body_is_looked_at() {
    let app = App::start();
    let answer = app.call("POST", CHAT).body("text/plain", "nonsense").send();
    answer.refused(401, WRONG, "invalid_api_key");
    app.finish();
}

#[test]
fn a_turn_that_is_not_affordable_is_402_and_is_not_tried_again() {
    let app = App::start();
    let body = app.saying("Hello", json!({"max_tokens": 3_000_000}));
    let answer = app.chat(&body);
    let error = answer.refused(402, "insufficient_quota", "insufficient_balance");
    assert_eq!(answer.headers.required("x-should-retry"), "false");
    assert!(crate::app::nanos(&error["needed"]) > 6_000_000_000);
    assert_eq!(error["available"], "5.000000000");
    let hidden = app.post(&app.agent_key, CHAT, &body);
    let error = hidden.refused(402, "insufficient_quota", "insufficient_balance");
    assert_eq!((error.get("needed"), error.get("available")), (None, None));
    assert!(!hidden.text().contains("5.000"), "the balance shows in {}", hidden.text());
    assert!(app.upstream.requests().is_empty());
    assert_eq!(app.balance().held, 0);
    app.finish();
}

#[test]
fn a_key_of_the_wrong_kind_is_403_key_scope() {
    let app = App::start();
    let agent_only = [
        "/v2/agents",
        "/v2/sessions",
        "/v2/billing/balance",
        "/v2/billing/transactions",
        "/v2/usage",
        "/v2/account/api-keys",
        "/v2/chats",
        "/admin/accounts",
        "/admin/ledger/verify",
    ];
    for path in agent_only {
        app.get(&app.agent_key, path).refused(403, "permission_error", "key_scope");
    }
    for path in
        ["/admin/accounts", "/admin/prices", "/admin/providers", "/admin/ledger/verify", "/admin/streams"]
    {
        app.get(&app.account_key, path).refused(403, "permission_error", "key_scope");
    }
    for path in ["/v1/models", "/v2/agents", "/v2/billing/balance"] {
        app.get(&app.operator_token, path).refused(403, "permission_error", "key_scope");
    }
    let chat = app.post(&app.operator_token, CHAT, &app.saying("Hello", json!({})));
    chat.refused(403, "permission_error", "key_scope");
    app.finish();
}

#[test]
fn an_agent_that_is_not_there_is_404_model_not_found() {
    let app = App::start();
    for model in ["ag_00000000_0000", "gpt-4o", "", "test-model"] {
        let answer = app.chat(&app.saying("Hello", json!({ "model": model })));
        if model.is_empty() && answer.status == 400 {
            continue;
        }
        assert_eq!(answer.refused(404, WRONG, "model_not_found")["param"], "model");
    }
    app.finish();
}

#[test]
fn a_path_that_is_not_there_is_404_not_found() {
    let app = App::start();
    for (method, path) in [
        ("GET", "/nowhere"),
        ("GET", "/v1/nowhere"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v2/"),
        ("GET", "/admin/nowhere"),
        ("DELETE", "/v1/nowhere/at/all"),
    ] {
        app.call(method, path).key(&app.account_key).send().refused(404, WRONG, "not_found");
    }
    let accounts = app.get(&app.operator_token, "/admin/accounts/acct_0000000000000000");
    accounts.refused(404, WRONG, "not_found");
    app.finish();
}

#[test]
fn a_method_that_a_path_does_not_take_is_405() {
    let app = App::start();
    for (method, path) in
        [("PUT", CHAT), ("DELETE", "/v1/models"), ("PUT", "/v2/agents"), ("POST", "/api/health")]
    {
        let answer = app.call(method, path).key(&app.account_key).send();
        answer.refused(405, WRONG, "method_not_allowed");
    }
    app.finish();
}

#[test]
fn a_body_of_another_type_is_415() {
    let app = App::start();
    let body = app.saying("Hello", json!({})).to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
    {
        raw(&app, content_type, &body).refused(415, WRONG, "unsupported_media_type");
    }
    raw(&app, "application/json; charset=utf-8", &body).is(200);
    raw(&app, "Application/JSON", &body).is(200);
    app.finish();
}

#[test]
fn a_body_over_twenty_megabytes_is_413() {
    let app = App::start();
    let told = app
        .call("POST", CHAT)
        .key(&app.account_key)
        .header("Content-Length", "20971521")
        .body("application/json", "{");
    told.send().refused(413, WRONG, "request_too_large");
    let megabyte = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let untold = app.call("POST", CHAT).key(&app.account_key).header("Transfer-Encoding", "chunked");
    let mut stream = untold.header("Content-Type", "application/json").connect().expect("a connection");
    for _ in 0..22 {
        // The server may refuse and close before everything is sent.
        if std::io::Write::write_all(&mut stream, megabyte.as_bytes()).is_err() {
            break;
        }
    }
    let answer = crate::client::Stream::read(stream).and_then(crate::client::Stream::into_answer);
    answer.expect("a refusal").refused(413, WRONG, "request_too_large");
    app.finish();
}

#[test]
fn the_largest_body_can_be_configured() {
    let app = crate::app::Setup::default().arg("--max-body-bytes").arg("2000").start();
    let large = app.chat(&app.saying(&"a".repeat(2000), json!({})));
    large.refused(413, WRONG, "request_too_large");
    app.say(&"a".repeat(1000), json!({}));
    app.finish();
}

#[test]
fn every_error_has_the_headers_of_every_answer() {
    let app = App::start();
    let answers = [
        app.call("GET", "/nowhere").send(),
        app.call("POST", CHAT).send(),
        raw(&app, "application/json", "{"),
        app.chat(&app.saying("Hello", json!({"model": "ag_00000000_0000"}))),
        app.get(&app.agent_key, "/v2/agents"),
    ];
    for answer in answers {
        assert!(answer.headers.required("x-request-id").starts_with("req_"));
        answer.headers.number("openai-processing-ms");
    }
    app.finish();
}

#[test]
fn a_request_line_or_header_that_is_nonsense_is_refused_and_harms_nobody() {
    use std::io::{Read, Write};
    let app = App::start();
    for nonsense in [
        "NONSENSE\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /v1/models HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut stream = std::net::TcpStream::connect(&app.addr).expect("a connection");
        stream.set_read_timeout(Some(crate::client::PATIENCE)).expect("a timeout");
        let _ = stream.write_all(nonsense.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{nonsense:?} is answered {answer}");
    }
    app.say("Hello", json!({}));
    app.finish();
}

#[test]
fn pages_of_configured_origins_may_read_errors_too_and_others_nothing() {
    let app = crate::app::Setup::default().arg("--cors-origin").arg("https://page.example").start();
    let preflight = app
        .call("OPTIONS", CHAT)
        .header("Origin", "https://page.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization,content-type,x-stainless-lang")
        .send();
    assert!([200, 204].contains(&preflight.status), "the preflight is answered {}", preflight.status);
    assert_eq!(preflight.headers.required("access-control-allow-origin"), "https://page.example");
    let allowed = preflight.headers.required("access-control-allow-headers").to_lowercase();
    assert!(["authorization", "content-type", "x-stainless-lang"].iter().all(|name| allowed.contains(name)));
    assert!(preflight.headers.required("access-control-allow-methods").contains("POST"));
    let without_key = app.call("POST", CHAT).header("Origin", "https://page.example").send();
    without_key.refused(401, WRONG, "invalid_api_key");
    assert_eq!(without_key.headers.required("access-control-allow-origin"), "https://page.example");
    let exposed = without_key.headers.required("access-control-expose-headers").to_lowercase();
    assert!(exposed.contains("x-request-id") && exposed.contains("retry-after"), "exposed: {exposed}");
    let foreign = app.call("POST", CHAT).header("Origin", "https://other.example").send();
    assert_ne!(foreign.headers.find("access-control-allow-origin"), Some("https://other.example"));
    assert_ne!(foreign.headers.find("access-control-allow-origin"), Some("*"));
    app.finish();
}

#[test]
fn a_client_may_give_its_request_an_id_of_its_own() {
    let app = crate::app::Setup::default().arg("--log").arg("switchboard=debug").start();
    let call = app.chat_call(&app.saying("Hello", json!({})));
    let answer = call.header("X-Client-Request-Id", "client-7").send().is(200);
    assert!(answer.headers.required("x-request-id").starts_with("req_"));
    assert!(app.log().contains("client-7"), "the client's id is not in the log");
    app.finish();
}

#[test]
fn management_answers_are_never_html_or_plain_text() {
    let app = App::start();
    for path in ["/v2/agents/%00", "/v2/sessions?limit=%ff", "/v2/billing/transactions?after=x"] {
        let answer = app.get(&app.account_key, path);
        assert!((400..500).contains(&answer.status), "{path} answers {}", answer.status);
        assert!(answer.json()["error"]["message"].is_string());
    }
    app.finish();
}
