//! Everything that was said, as lines of JSON.

use serde_json::{Value, json};

use crate::app::App;
use crate::database;
use crate::script::Reply;

fn lines(app: &App, path: &str) -> Vec<Value> {
    let answer = app.get(&app.account_key, path).is(200);
    assert_eq!(answer.headers.required("content-type"), "application/x-ndjson");
    answer.text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[test]
fn a_session_is_exported_with_everything_there_is_of_it() {
    let app = App::start();
    let message = json!({"role": "user", "content": "Hello", "name": "bob", "extra": {"a": 1}});
    let body = json!({"model": app.agent_id, "session_id": "s", "messages": [message]});
    let completion = app.chat(&body).is(200).json();
    let exported = lines(&app, "/v2/sessions/s/export");
    assert_eq!(exported.len(), 2);
    for (field, value) in [
        ("session_id", json!("s")),
        ("id", json!("msg_1")),
        ("role", json!("user")),
        ("extra", json!({"a": 1})),
    ] {
        assert_eq!(exported[0][field], value, "{}", exported[0]);
    }
    assert_eq!(exported[1]["completion_id"], completion["id"]);
    assert_eq!(
        (&exported[1]["status"], &exported[1]["usage"]["prompt_tokens"]),
        (&json!("complete"), &json!(9))
    );
    assert!(exported[1]["cost"].is_string() && exported[1]["created_at"].is_string());
    app.finish();
}

#[test]
fn all_sessions_of_an_account_or_an_agent_are_exported() {
    let app = App::start();
    let (agent, _) = app.agent(json!({}));
    app.post(&app.account_key, "/v2/sessions", &json!({"agent_id": agent})).is(201);
    for name in ["a", "b", "c"] {
        app.say(name, json!({"session_id": name}));
        app.say(name, json!({"session_id": name, "model": agent}));
    }
    let order = |path: &str| -> Vec<String> {
        let name = |line: &Value| line["session_id"].as_str().expect("a name").to_owned();
        lines(&app, path).iter().map(name).collect()
    };
    assert_eq!(order("/v2/sessions/export").len(), 12);
    assert_eq!(order(&format!("/v2/sessions/export?agent_id={agent}")), ["a", "a", "b", "b", "c", "c"]);
    let (_, foreign) = app.account("1.00");
    assert_eq!(app.get(&foreign, "/v2/sessions/export").is(200).text(), "");
    app.get(&app.agent_key, "/v2/sessions/export").refused(403, "permission_error", "key_scope");
    app.finish();
}

#[test]
fn a_long_session_comes_whole_and_in_order() {
    let app = App::start();
    app.upstream.always(Reply::says(&["yes"]).usage(9, 1));
    let messages: Vec<Value> = (0..701)
        .map(|number| json!({"role": "user", "content": format!("{number} {}", "x".repeat(2_000))}))
        .collect();
    app.chat(&json!({"model": app.agent_id, "session_id": "s", "messages": messages})).is(200);
    let exported = lines(&app, "/v2/sessions/s/export");
    assert_eq!(exported.len(), 702);
    for (number, line) in exported[..701].iter().enumerate() {
        assert_eq!(line["content"], messages[number]["content"]);
        assert_eq!(line["id"], format!("msg_{}", number + 1));
    }
    app.finish();
}

#[test]
fn a_damaged_session_fails_alone() {
    let app = App::start();
    for name in ["a", "b", "c", "d"] {
        app.say("Hello", json!({"session_id": name}));
    }
    let app = app.restart_with(|app| {
        let damage = "UPDATE message SET body = '{\"role\":' WHERE seq = 1 AND id = \
            (SELECT m.previous_id FROM session s JOIN message m ON m.id = s.message_id WHERE s.name = 'b')";
        database::change(app, damage);
        let loss = "DELETE FROM message WHERE id = \
            (SELECT m.previous_id FROM session s JOIN message m ON m.id = s.message_id WHERE s.name = 'd')";
        database::change(app, loss);
    });
    for name in ["b", "d"] {
        for path in ["sessions/_/messages", "chats/_", "sessions/_/export"] {
            let path = format!("/v2/{}", path.replace('_', name));
            let error = app.get(&app.account_key, &path).refused(500, "server_error", "internal");
            assert!(error["message"].as_str().is_some_and(|text| text.contains("request id")), "{error}");
        }
        let body = app.saying("Hello", json!({"session_id": name}));
        app.chat(&body).refused(500, "server_error", "internal");
    }
    let fork = json!({"message_id": "msg_1"});
    app.post(&app.account_key, "/v2/sessions/d/fork", &fork).refused(500, "server_error", "internal");
    let log = app.log();
    assert!(log.contains("session 2 is damaged") && log.contains("session 2 message 1"), "{log}");
    assert!(log.contains("session 4 is damaged: message 1 is missing"), "{log}");
    for name in ["a", "c"] {
        app.say("And on", json!({"session_id": name}));
        assert_eq!(lines(&app, &format!("/v2/sessions/{name}/export")).len(), 4);
    }
    let exported = lines(&app, "/v2/sessions/export");
    let damaged: Vec<&Value> = exported.iter().filter(|line| line["damaged"] == true).collect();
    assert_eq!((exported.len(), damaged.len()), (11, 2));
    assert_eq!((&damaged[0]["session_id"], &damaged[1]["session_id"]), (&json!("b"), &json!("d")));
    let chats = app.get(&app.account_key, "/v2/chats").ok();
    let shown: Vec<(&Value, usize)> = chats["chats"]
        .as_array()
        .expect("chats")
        .iter()
        .map(|chat| (&chat["id"], chat["messages"].as_array().expect("messages").len()))
        .collect();
    assert_eq!(shown, [(&json!("d"), 0), (&json!("c"), 4), (&json!("b"), 0), (&json!("a"), 4)]);
    assert_eq!(app.balance().held, 0);
    // It can still be mended by its owner, or deleted.
    let after = json!({"after": null});
    for name in ["b", "d"] {
        app.post(&app.account_key, &format!("/v2/sessions/{name}/truncate"), &after).is(200);
        app.say("Hello", json!({"session_id": name}));
    }
    app.finish();
}
