//! Sessions, their messages and chats as account keys read and change them.

use serde_json::{Value, json};

use crate::app::{App, eventually, nanos};
use crate::script::Reply;

fn session_path(id: &str) -> String {
    format!("/v2/sessions/{id}")
}

fn stored(app: &App, id: &str, query: &str) -> Value {
    app.get(&app.account_key, &format!("/v2/sessions/{id}/messages{query}")).ok()
}

#[test]
fn a_session_can_be_made_before_it_is_used() {
    let app = App::start();
    let made = app.post(&app.account_key, "/v2/sessions", &json!({"agent_id": app.agent_id}));
    let session = made.is(201).json();
    let id = session["id"].as_str().expect("an id");
    assert!(id.starts_with("sess_") && id.len() == 25, "the id is {id}");
    assert_eq!(session["agent_id"], app.agent_id);
    assert_eq!(session["status"], "active");
    assert_eq!(session["message_count"], 0);
    for time in ["created_at", "updated_at"] {
        let text = session[time].as_str().expect("a time");
        assert!(text.contains('T') && text.ends_with('Z'), "{time} is {text}");
    }
    app.say("Hello", json!({ "session_id": id }));
    assert_eq!(app.get(&app.account_key, &session_path(id)).ok()["message_count"], 2);
    let unknown = app.post(&app.account_key, "/v2/sessions", &json!({"agent_id": "ag_00000000_0000"}));
    assert_eq!(unknown.status, 404);
    let missing = app.post(&app.account_key, "/v2/sessions", &json!({}));
    assert_eq!(missing.refused(400, "invalid_request_error", "missing_field")["param"], "agent_id");
    app.finish();
}

#[test]
fn sessions_are_listed_newest_first_by_pages_and_by_filter() {
    let app = App::start();
    let (other, _) = app.agent(json!({}));
    for name in ["a", "b", "c"] {
        app.say("Hello", json!({ "session_id": name }));
    }
    app.say("Hello", json!({"session_id": "d", "model": other}));
    let ids = |query: &str| -> Vec<String> {
        let list = app.get(&app.account_key, &format!("/v2/sessions{query}")).ok();
        let sessions = list.as_array().expect("an array of sessions");
        sessions.iter().filter_map(|session| session["id"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(ids(""), ["d", "c", "b", "a"]);
    assert_eq!(ids("?limit=2"), ["d", "c"]);
    assert_eq!(ids("?limit=2&offset=2"), ["b", "a"]);
    assert_eq!(ids("?limit=2&after=c"), ["b", "a"]);
    assert_eq!(ids(&format!("?agent_id={other}")), ["d"]);
    app.patch(&app.account_key, &session_path("b"), &json!({"status": "archived"})).is(200);
    assert_eq!(ids("?status=archived"), ["b"]);
    assert_eq!(ids("?status=active"), ["d", "c", "a"]);
    for query in ["?limit=0", "?limit=101", "?limit=x", "?offset=10001", "?status=lost"] {
        let answer = app.get(&app.account_key, &format!("/v2/sessions{query}"));
        assert_eq!(answer.status, 400, "{query} is taken");
    }
    app.finish();
}

#[test]
fn an_archived_session_takes_no_turn_until_it_is_active_again() {
    let app = App::start();
    app.say("one", json!({"session_id": "s"}));
    let archived = app.patch(&app.account_key, &session_path("s"), &json!({"status": "archived"})).ok();
    assert_eq!(archived["status"], "archived");
    let refused = app.chat(&app.saying("two", json!({"session_id": "s"})));
    refused.refused(410, "invalid_request_error", "session_closed");
    let active = app.patch(&app.account_key, &session_path("s"), &json!({"status": "active"})).ok();
    assert_eq!(active["status"], "active");
    app.say("three", json!({"session_id": "s"}));
    let texts: Vec<_> = app.upstream.last().said().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "Hello there", "three"]);
    let wrong = app.patch(&app.account_key, &session_path("s"), &json!({"status": "lost"}));
    assert_eq!(wrong.refused(400, "invalid_request_error", "invalid_value")["param"], "status");
    app.finish();
}

#[test]
fn a_deleted_session_is_gone_and_its_name_starts_anew() {
    let app = App::start();
    app.say("one", json!({"session_id": "s"}));
    app.delete(&app.account_key, &session_path("s")).is(204);
    for answer in [
        app.get(&app.account_key, &session_path("s")),
        app.get(&app.account_key, &format!("{}/messages", session_path("s"))),
        app.delete(&app.account_key, &session_path("s")),
        app.patch(&app.account_key, &session_path("s"), &json!({"status": "archived"})),
    ] {
        answer.refused(404, "invalid_request_error", "session_not_found");
    }
    app.say("two", json!({"session_id": "s"}));
    assert_eq!(app.upstream.last().said().len(), 1, "the deleted conversation comes back");
    assert_eq!(app.charges().len(), 2, "billing records stay");
    app.finish();
}

#[test]
fn messages_are_read_newest_page_first_and_oldest_message_first() {
    let app = App::start();
    for turn in 0..5 {
        app.say(&format!("m{turn}"), json!({"session_id": "s"}));
    }
    let all = stored(&app, "s", "?limit=100");
    assert_eq!(all["has_more"], false);
    let messages = all["messages"].as_array().expect("messages");
    let roles: Vec<_> = messages.iter().map(|message| message["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant"].repeat(5));
    let ids: Vec<_> = messages.iter().map(|message| message["id"].as_str().expect("an id")).collect();
    assert!(messages.iter().all(|message| message["created_at"].is_string()));
    let newest = stored(&app, "s", "?limit=4");
    assert_eq!(newest["has_more"], true);
    assert_eq!(newest["messages"], json!(messages[6..]));
    let older = stored(&app, "s", &format!("?limit=4&before={}", ids[6]));
    assert_eq!(older["has_more"], true);
    assert_eq!(older["messages"], json!(messages[2..6]));
    let oldest = stored(&app, "s", &format!("?limit=4&before={}", ids[2]));
    assert_eq!(oldest["has_more"], false);
    assert_eq!(oldest["messages"], json!(messages[..2]));
    app.finish();
}

#[test]
fn an_answer_is_stored_with_its_usage_and_cost() {
    let app = App::start();
    app.say("Hello", json!({"session_id": "s"}));
    let all = stored(&app, "s", "");
    let answer = &all["messages"][1];
    assert_eq!(answer["content"], "Hello there");
    assert_eq!(answer["usage"]["prompt_tokens"], 9);
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    assert_eq!(nanos(&answer["cost"]), 15_000);
    assert_eq!(all["messages"][0]["content"], "Hello");
    assert_eq!(all["messages"][0].get("cost"), None);
    app.finish();
}

#[test]
fn a_tool_call_is_stored_as_it_was_made() {
    let app = App::answering(Reply::calls("call_1", "lookup", &["{}"]));
    app.stream("Hello", json!({"session_id": "s"})).rest();
    let answer = &stored(&app, "s", "")["messages"][1];
    assert_eq!(answer["tool_calls"][0]["id"], "call_1");
    assert_eq!(answer["tool_calls"][0]["function"], json!({"name": "lookup", "arguments": "{}"}));
    app.finish();
}

#[test]
fn an_answer_that_was_cut_short_is_stored_as_far_as_it_came() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let mut stream = app.stream("Hello", json!({"session_id": "s"}));
    let mut text = String::new();
    while !text.ends_with("w2 ") {
        text.push_str(stream.chunk()["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    drop(stream);
    app.upstream.wait_for_aborts(1);
    let messages = eventually("the turn is stored", || {
        let answer = app.get(&app.account_key, "/v2/sessions/s/messages");
        let messages = (answer.status == 200).then(|| answer.json()["messages"].clone())?;
        (messages.as_array().map(Vec::len) == Some(2)).then_some(messages)
    });
    assert_eq!(messages[1]["content"], "w0 w1 w2 ");
    assert_eq!(messages[1]["status"], "incomplete");
    app.settled();
    app.finish();
}

#[test]
fn chats_are_the_same_sessions_with_their_messages_inside() {
    let app = App::start();
    app.say("one", json!({"session_id": "a"}));
    app.say("two", json!({"session_id": "b"}));
    let list = app.get(&app.account_key, "/v2/chats").ok();
    assert_eq!(list["total"], 2);
    let chats = list["chats"].as_array().expect("chats");
    assert_eq!(chats.len(), 2);
    assert!(chats.iter().all(|chat| chat["messages"].as_array().map(Vec::len) == Some(2)));
    let chat = app.get(&app.account_key, "/v2/chats/a").ok();
    let messages = chat["messages"].as_array().expect("messages");
    for (message, (role, content)) in messages.iter().zip([("user", "one"), ("assistant", "Hello there")]) {
        assert_eq!(message["role"], role);
        assert_eq!(message["content"], content);
        assert!(message["timestamp"].is_string());
    }
    app.delete(&app.account_key, "/v2/chats/a").is(204);
    let gone = app.get(&app.account_key, "/v2/chats/a");
    gone.refused(404, "invalid_request_error", "session_not_found");
    assert_eq!(app.get(&app.account_key, &session_path("a")).status, 404);
    assert_eq!(app.get(&app.account_key, "/v2/chats").ok()["total"], 1);
    app.finish();
}

#[test]
fn a_foreign_session_does_not_exist() {
    let app = App::start();
    app.say("one", json!({"session_id": "s"}));
    let (_, foreign) = app.account("1.00");
    let missing = app.get(&foreign, &session_path("never-made"));
    for path in [session_path("s"), format!("{}/messages", session_path("s")), "/v2/chats/s".to_owned()] {
        let answer = app.get(&foreign, &path);
        answer.refused(404, "invalid_request_error", "session_not_found");
        assert_eq!(answer.json(), missing.json(), "a foreign session looks different from a missing one");
    }
    app.delete(&foreign, &session_path("s")).refused(404, "invalid_request_error", "session_not_found");
    assert_eq!(app.get(&foreign, "/v2/sessions").ok(), json!([]));
    assert_eq!(app.get(&foreign, "/v2/chats").ok()["total"], 0);
    app.get(&app.account_key, &session_path("s")).is(200);
    app.finish();
}

#[test]
fn agent_keys_read_no_history() {
    let app = App::start();
    app.say("one", json!({"session_id": "s"}));
    for path in ["/v2/sessions", "/v2/sessions/s", "/v2/sessions/s/messages", "/v2/chats", "/v2/chats/s"] {
        app.get(&app.agent_key, path).refused(403, "permission_error", "key_scope");
    }
    app.finish();
}
