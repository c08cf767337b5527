//! Sessions that are larger than an answer may be are read in pieces.

use serde_json::{Value, json};

use crate::app::{App, Setup};
use crate::database::change;
use crate::metrics;

/// Makes every message 12 MiB large: the third one is too much.
const LARGER: &str =
    "UPDATE message SET body = json_object('role', 'user', 'content', hex(zeroblob(6 * 1024 * 1024)))";

fn sizes(messages: &Value) -> Vec<usize> {
    let one = |message: &Value| message["content"].as_str().map_or(0, str::len);
    messages.as_array().expect("a list").iter().map(one).collect()
}

#[test]
fn an_answer_with_messages_has_a_bound_in_bytes() {
    const SIZE: usize = 12 * 1024 * 1024;
    let app = App::start();
    for session in ["old", "new", "new"] {
        app.say("Hello", json!({"session_id": session}));
    }
    change(&app, LARGER);
    let page = |query: &str| app.get(&app.account_key, &format!("/v2/sessions/new/messages{query}")).ok();
    let newest = page("");
    assert_eq!((sizes(&newest["messages"]), &newest["has_more"]), (vec![SIZE; 2], &json!(true)));
    assert_eq!(newest["messages"][0]["id"], "msg_3");
    let older = page("?before=msg_3");
    assert_eq!((sizes(&older["messages"]), &older["has_more"]), (vec![SIZE; 2], &json!(false)));
    let chat = app.get(&app.account_key, "/v2/chats/new").ok();
    assert_eq!((sizes(&chat["messages"]), &chat["truncated"]), (vec![SIZE; 2], &json!(true)));
    let whole = app.get(&app.account_key, "/v2/chats/old").ok();
    assert_eq!((sizes(&whole["messages"]), whole.get("truncated")), (vec![SIZE; 2], None));
    let list = app.get(&app.account_key, "/v2/chats").ok();
    let told: Vec<_> = list["chats"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|chat| (sizes(&chat["messages"]), chat["truncated"] == true))
        .collect();
    assert_eq!(told, [(vec![SIZE; 2], true), (vec![], true)]);
    app.finish();
}

#[test]
fn a_message_that_is_larger_than_the_bound_is_a_page_of_its_own() {
    let app = App::start();
    app.say("Hello", json!({"session_id": "s"}));
    change(&app, &LARGER.replace('6', "18"));
    let page = app.get(&app.account_key, "/v2/sessions/s/messages").ok();
    assert_eq!((sizes(&page["messages"]).len(), &page["has_more"]), (1, &json!(true)));
    app.finish();
}

#[test]
fn a_conversation_that_is_held_stays_in_memory_and_others_leave_it_where_there_is_no_room() {
    const SESSIONS: usize = 10;
    let mut app = Setup::default().arg("--session-memory-bytes").arg("67108864").start();
    let (agent, _) = app.agent(json!({"context_tokens": 400}));
    let say = |app: &App, session: usize, text: &str| {
        let messages = json!([{"role": "user", "content": text}]);
        app.chat(&json!({"model": agent, "session_id": format!("s{session}"), "messages": messages})).is(200);
        app.upstream.last().raw
    };
    for session in 0..SESSIONS {
        say(&app, session, "Hello");
    }
    // 8 MiB a session, so that seven of them have room.
    change(&app, &LARGER.replace("6 *", "2 *"));
    app.restart();
    for session in 0..SESSIONS {
        say(&app, session, "Remember this");
    }
    change(
        &app,
        "UPDATE message SET body = replace(body, 'Remember this', 'Read again') WHERE length(body) < 100",
    );
    let resident = metrics::value(&metrics::read(&app), "switchboard_sessions_resident");
    assert!(resident.is_some_and(|resident| (5.0..=7.0).contains(&resident)), "{resident:?} in memory");
    assert!(say(&app, SESSIONS - 1, "And?").contains("Remember this"), "the last one was read again");
    let read_again = (0..SESSIONS - 1).filter(|session| say(&app, *session, "And?").contains("Read again"));
    assert!(read_again.count() >= 3, "what has left is read again");
    app.finish();
}
