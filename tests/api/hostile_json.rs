//! JSON that is meant to break its reader.

use serde_json::json;

use crate::app::App;
use crate::client::Answer;
use crate::hostile::check_memory;

const CHAT: &str = "/v1/chat/completions";
const WRONG: &str = "invalid_request_error";

fn raw(app: &App, path: &str, body: impl Into<Vec<u8>>) -> Answer {
    app.call("POST", path).key(&app.account_key).body("application/json", body).send()
}

/// A chat whose content and further fields are these texts.
fn chat(app: &App, content: &str, more: &str) -> Answer {
    let id = &app.agent_id;
    raw(
        app,
        CHAT,
        format!("{{\"model\":\"{id}\",\"messages\":[{{\"role\":\"user\",\"content\":{content}}}]{more}}}"),
    )
}

fn nested(depth: usize) -> [String; 3] {
    [
        format!("{}{}", "[".repeat(depth), "]".repeat(depth)),
        format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)),
        "[{\"a\":".repeat(depth / 2),
    ]
}

#[test]
fn a_million_levels_are_400_wherever_they_stand() {
    let app = App::start();
    for deep in nested(1_000_000) {
        for answer in [
            chat(&app, &deep, ""),
            chat(&app, "\"a\"", &format!(",\"unknown\":{deep}")),
            chat(&app, "\"a\"", &format!(",\"tools\":{deep}")),
            chat(&app, "\"a\"", &format!(",\"metadata\":{{\"a\":{deep}}}")),
            raw(&app, &format!("/v1/agents/{}/chat", app.agent_id), format!("{{\"message\":{deep}}}")),
            raw(&app, CHAT, deep.clone()),
        ] {
            answer.refused(400, WRONG, "invalid_json");
        }
    }
    for deep in nested(100_000) {
        for field in ["metadata", "parameters", "name", "unknown"] {
            let body = format!("{{\"name\":\"a\",\"{field}\":{deep}}}");
            raw(&app, "/v2/agents", body).refused(400, WRONG, "invalid_json");
        }
    }
    assert!(app.upstream.requests().is_empty());
    check_memory(&app);
    app.finish();
}

#[test]
fn what_is_deep_within_reason_reaches_the_provider_as_it_came() {
    let app = App::start();
    let deep = &nested(99)[0];
    chat(&app, "\"a\"", &format!(",\"unknown\":{deep}")).is(200);
    assert!(app.upstream.requests()[0].raw.contains(deep));
    let brackets = "[".repeat(200);
    chat(&app, &format!("\"{brackets}\""), "").is(200);
    app.finish();
}

#[test]
fn numbers_that_no_machine_holds_are_refused_or_passed_on_as_text() {
    let app = App::start();
    let digits = "9".repeat(400);
    for number in ["1e999999", "-1e999999", &digits] {
        for field in ["temperature", "max_tokens", "n", "top_p"] {
            chat(&app, "\"a\"", &format!(",\"{field}\":{number}")).refused(400, WRONG, "invalid_value");
        }
        chat(&app, "\"a\"", &format!(",\"unknown\":{number}")).is(200);
        let passed = app.upstream.requests();
        assert!(passed[passed.len() - 1].raw.contains(&format!("\"unknown\":{number}")));
        let agent = raw(&app, "/v2/agents", format!("{{\"name\":\"a\",\"temperature\":{number}}}"));
        assert_eq!(agent.status, 400, "{}", agent.text());
    }
    app.finish();
}

#[test]
fn the_last_of_two_equal_names_counts() {
    let app = App::start();
    let more = ",\"messages\":[{\"role\":\"user\",\"content\":\"second\"}]";
    chat(&app, "\"first\"", more).is(200);
    assert_eq!(app.upstream.last().last_text(), "second");
    chat(&app, "\"a\"", ",\"model\":\"ag_00000000_0000\"").refused(404, WRONG, "model_not_found");
    app.finish();
}

#[test]
fn odd_letters_are_stored_and_read_again_and_broken_ones_are_400() {
    let app = App::start();
    for (at, content) in ["\"\\u0000\"", "\"\\uffff\"", "\"\\ud83d\\ude00\""].iter().enumerate() {
        let session = format!("odd-{at}");
        for _ in 0..2 {
            chat(&app, content, &format!(",\"session_id\":\"{session}\"")).is(200);
        }
        for path in [format!("/v2/sessions/{session}/messages"), format!("/v2/chats/{session}")] {
            app.get(&app.account_key, &path).is(200);
        }
    }
    // Half of a letter, which many readers of JSON refuse.
    for half in ["\"\\ud800\"", "\"\\udc00\\ud800\"", "\"\\uD83D\""] {
        let error = chat(&app, half, "").refused(400, WRONG, "invalid_value");
        assert_eq!(error["param"], "messages[0]");
        let body = format!("{{\"message\":\"a\",\"metadata\":{{\"a\":{half}}}}}");
        raw(&app, &format!("/v1/agents/{}/chat", app.agent_id), body).refused(400, WRONG, "invalid_value");
    }
    app.get(&app.account_key, "/v2/chats").is(200);
    for body in [
        &b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}"[..],
        b"{\"messages\":[{\"role\":\"user\",\"content\":\"\0\"}]}",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"",
        b"\"",
        b"{\"a\":\"\\",
    ] {
        raw(&app, CHAT, body).refused(400, WRONG, "invalid_json");
    }
    raw(&app, "/v2/agents", "{\"name\":\"\\ud800\"}").refused(400, WRONG, "invalid_json");
    app.say("Hello", json!({}));
    app.finish();
}
