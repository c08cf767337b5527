//! Whose address is taken from headers, and what pages of other origins may do.

use serde_json::json;

use crate::app::{App, Setup};

/// The address that the audit log has for a call with these headers.
fn seen(app: &App, headers: &[(&str, &str)]) -> String {
    let call = app.call("POST", "/v2/account/api-keys").key(&app.account_key);
    let call = headers.iter().fold(call, |call, (name, value)| call.header(name, value));
    let answer = call.json(&json!({"name": "a key"})).send().is(201);
    let log = app.get(&app.account_key, "/v2/account/audit-log?limit=1").ok();
    assert_eq!(log["records"][0]["request_id"], answer.headers.required("x-request-id"));
    log["records"][0]["remote_address"].as_str().expect("an address").to_owned()
}

#[test]
fn without_a_trusted_proxy_no_header_says_where_a_request_comes_from() {
    let app = App::start();
    assert_eq!(seen(&app, &[("X-Forwarded-For", "198.51.100.1")]), "127.0.0.1");
    assert_eq!(seen(&app, &[("Forwarded", "for=198.51.100.1")]), "127.0.0.1");
    assert_eq!(seen(&app, &[("X-Real-IP", "198.51.100.1")]), "127.0.0.1");
    app.finish();
    let app = Setup::default().arg("--trusted-proxy").arg("10.0.0.0/8").start();
    assert_eq!(seen(&app, &[("X-Forwarded-For", "198.51.100.1")]), "127.0.0.1", "the peer is another");
    app.finish();
}

#[test]
fn behind_trusted_proxies_the_right_most_stranger_is_the_client() {
    let setup = Setup::default().in_root("trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]");
    let app = setup.start();
    assert_eq!(seen(&app, &[]), "127.0.0.1");
    assert_eq!(seen(&app, &[("X-Forwarded-For", "198.51.100.1")]), "198.51.100.1");
    let forged = ("X-Forwarded-For", "1.1.1.1, 198.51.100.2, 10.3.3.3");
    assert_eq!(seen(&app, &[forged]), "198.51.100.2");
    let lines = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "198.51.100.3")];
    assert_eq!(seen(&app, &lines), "198.51.100.3", "a second line goes on where the first ends");
    assert_eq!(
        seen(&app, &[("Forwarded", "for=198.51.100.4")]),
        "127.0.0.1",
        "the other header is a client's"
    );
    app.finish();
    let app = Setup::default()
        .arg("--trusted-proxy=127.0.0.0/8,::1")
        .arg("--proxy-header=forwarded")
        .arg("--log=switchboard=debug")
        .start();
    let both = [("X-Forwarded-For", "1.1.1.1"), ("Forwarded", "for=\"[2a00::7]:99\";proto=https")];
    assert_eq!(seen(&app, &both), "2a00::7");
    assert!(app.log().contains("2a00::7"), "the log has another address");
    app.finish();
}

#[test]
fn pages_of_other_origins_learn_nothing() {
    let app = Setup::default().arg("--cors-origin").arg("https://page.example").start();
    let allowed = |origin: &str| {
        let answer = app.call("GET", "/v2/agents").key(&app.account_key).header("Origin", origin).send();
        answer.headers.find("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(allowed("https://page.example").as_deref(), Some("https://page.example"));
    for origin in ["https://evil.example", "http://page.example", "https://page.example.evil.example", "null"]
    {
        assert_eq!(allowed(origin), None, "{origin}");
        let preflight = app
            .call("OPTIONS", "/v1/chat/completions")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .send();
        assert_eq!(preflight.headers.find("access-control-allow-origin"), None, "{origin}");
        assert!(preflight.status >= 400, "{origin}: {}", preflight.status);
    }
    let preflight = app
        .call("OPTIONS", "/v1/chat/completions")
        .header("Origin", "https://page.example")
        .header("Access-Control-Request-Method", "POST")
        .send();
    // Keys are sent by the page itself: what a browser would add of its own accord is not wanted.
    assert_eq!(preflight.headers.find("access-control-allow-credentials"), None);
    app.finish();
    let app = App::start();
    let answer = app.call("GET", "/livez").header("Origin", "https://page.example").send().is(200);
    assert_eq!(answer.headers.find("access-control-allow-origin"), None, "none is configured");
    app.finish();
}

#[test]
fn no_answer_can_be_framed_taken_for_another_type_or_kept_where_it_has_secrets() {
    let app = App::start();
    let page = app.call("GET", "/docs").send().is(200);
    let policy = page.headers.required("content-security-policy");
    for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers.required("referrer-policy"), "no-referrer");
    let answers = [
        page,
        app.call("GET", "/openapi.json").send().is(200),
        app.call("GET", "/nowhere").send().is(404),
        app.call("GET", "/v2/agents").send().is(401),
        app.post(&app.account_key, "/v2/account/api-keys", &json!({"name": "a key"})).is(201),
        app.chat(&app.saying("Hello", json!({}))),
    ];
    for answer in answers {
        let status = answer.status;
        assert_eq!(answer.headers.required("x-content-type-options"), "nosniff", "{status}");
        assert_eq!(answer.headers.required("x-frame-options"), "DENY", "{status}");
        if matches!(status, 201 | 401) {
            assert_eq!(answer.headers.required("cache-control"), "no-store", "{status}");
        }
    }
    let stream = app.stream("Hello", json!({}));
    assert_eq!(stream.headers.required("x-content-type-options"), "nosniff");
    drop(stream);
    app.settled();
    app.finish();
}
