//! Another way from a certain message on: forks, and what is taken back.

use serde_json::{Value, json};

use crate::app::{App, eventually};
use crate::client::Event;
use crate::database;
use crate::script::Reply;

/// An app whose model answers "re: " and what was said.
fn echoing() -> App {
    let app = App::start();
    app.upstream.choose(|request| Reply::says(&["re: ", &request.last_text()]).usage(9, 2).into());
    app
}

fn said(app: &App, session: &str) -> Vec<String> {
    let path = format!("/v2/sessions/{session}/messages?limit=100");
    let page = app.get(&app.account_key, &path).ok();
    let messages = page["messages"].as_array().expect("messages").clone();
    messages.iter().map(|message| message["content"].as_str().expect("text").to_owned()).collect()
}

fn fork(app: &App, session: &str, body: Value) -> Value {
    app.post(&app.account_key, &format!("/v2/sessions/{session}/fork"), &body).is(201).json()
}

fn truncate(app: &App, session: &str, after: Value) -> Value {
    app.post(&app.account_key, &format!("/v2/sessions/{session}/truncate"), &json!({ "after": after })).ok()
}

fn prompted(app: &App) -> Vec<String> {
    app.upstream.last().said().into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_fork_has_the_beginning_and_goes_its_own_way() {
    let app = echoing();
    for text in ["one", "two", "three"] {
        app.say(text, json!({"session_id": "s"}));
    }
    let made = fork(&app, "s", json!({"message_id": "msg_4", "session_id": "f"}));
    assert_eq!((&made["id"], &made["message_count"]), (&json!("f"), &json!(4)));
    assert_eq!(said(&app, "f"), ["one", "re: one", "two", "re: two"]);
    app.say("other", json!({"session_id": "f"}));
    assert_eq!(prompted(&app), ["one", "re: one", "two", "re: two", "other"]);
    app.say("four", json!({"session_id": "s"}));
    assert_eq!(prompted(&app)[4..], ["three", "re: three", "four"]);
    assert_eq!(said(&app, "f"), ["one", "re: one", "two", "re: two", "other", "re: other"]);
    assert_eq!(said(&app, "s").len(), 8);
    app.delete(&app.account_key, "/v2/sessions/s").is(204);
    assert_eq!(said(&app, "f").len(), 6, "a fork lives on without the session it was made from");
    app.finish();
}

#[test]
fn a_fork_copies_no_message() {
    let app = echoing();
    for turn in 0..5 {
        app.say(&format!("say {turn}"), json!({"session_id": "s"}));
    }
    let stored = || database::number(&app, "SELECT COUNT(*) FROM message");
    assert_eq!(stored(), 10);
    let whole = fork(&app, "s", json!({}));
    assert!(whole["id"].as_str().is_some_and(|id| id.starts_with("sess_")), "{whole}");
    assert_eq!((stored(), &whole["message_count"]), (10, &json!(10)));
    app.say("more", json!({"session_id": whole["id"]}));
    assert_eq!(stored(), 12);
    app.finish();
}

#[test]
fn a_fork_is_refused_where_the_name_is_taken_or_the_message_unknown() {
    let app = echoing();
    app.say("one", json!({"session_id": "s"}));
    let refused = |body: Value| app.post(&app.account_key, "/v2/sessions/s/fork", &body);
    refused(json!({"session_id": "s"})).refused(400, "invalid_request_error", "session_exists");
    refused(json!({"message_id": "msg_3"})).refused(404, "invalid_request_error", "not_found");
    for message in [json!("3"), json!(3), json!("msg_0")] {
        refused(json!({ "message_id": message })).refused(400, "invalid_request_error", "invalid_value");
    }
    app.post(&app.agent_key, "/v2/sessions/s/fork", &json!({})).refused(403, "permission_error", "key_scope");
    let (_, foreign) = app.account("1.00");
    let missing = app.post(&foreign, "/v2/sessions/never/fork", &json!({}));
    let hidden = app.post(&foreign, "/v2/sessions/s/fork", &json!({}));
    assert_eq!((hidden.status, hidden.text()), (missing.status, missing.text()));
    app.finish();
}

#[test]
fn what_was_said_can_be_taken_back_and_said_otherwise() {
    let app = echoing();
    for text in ["one", "two"] {
        app.say(text, json!({"session_id": "s"}));
    }
    assert_eq!(truncate(&app, "s", json!("msg_2"))["message_count"], 2);
    assert_eq!(said(&app, "s"), ["one", "re: one"]);
    app.say("zwei", json!({"session_id": "s"}));
    assert_eq!(prompted(&app), ["one", "re: one", "zwei"]);
    assert_eq!(said(&app, "s"), ["one", "re: one", "zwei", "re: zwei"]);
    assert_eq!(truncate(&app, "s", Value::Null)["message_count"], 0);
    app.say("new", json!({"session_id": "s"}));
    assert_eq!(prompted(&app), ["new"]);
    assert_eq!(database::number(&app, "SELECT COUNT(*) FROM message"), 2, "what was taken back is deleted");
    assert_eq!(app.charges().len(), 4, "what was taken back stays charged");
    app.finish();
}

#[test]
fn a_cut_inside_a_turn_leaves_what_the_client_said() {
    let app = echoing();
    app.say("one", json!({"session_id": "s"}));
    app.say("two", json!({"session_id": "s"}));
    truncate(&app, "s", json!("msg_3"));
    assert_eq!(said(&app, "s"), ["one", "re: one", "two"]);
    app.say("really", json!({"session_id": "s"}));
    assert_eq!(prompted(&app), ["one", "re: one", "two", "really"]);
    app.finish();
}

#[test]
fn what_a_fork_has_is_not_taken_back_with_the_session() {
    let app = echoing();
    for text in ["one", "two"] {
        app.say(text, json!({"session_id": "s"}));
    }
    fork(&app, "s", json!({"session_id": "f"}));
    truncate(&app, "s", json!("msg_2"));
    app.say("zwei", json!({"session_id": "s"}));
    assert_eq!(said(&app, "f"), ["one", "re: one", "two", "re: two"]);
    assert_eq!(said(&app, "s"), ["one", "re: one", "zwei", "re: zwei"]);
    truncate(&app, "f", json!("msg_1"));
    assert_eq!(said(&app, "f"), ["one"]);
    app.say("uno", json!({"session_id": "f"}));
    assert_eq!(said(&app, "f"), ["one", "uno", "re: uno"]);
    assert_eq!(database::number(&app, "SELECT COUNT(*) FROM message WHERE body LIKE '%two%'"), 0);
    app.finish();
}

#[test]
fn nothing_is_taken_back_while_a_turn_runs() {
    let app = echoing();
    app.say("one", json!({"session_id": "s"}));
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(3).pause_after(1, &gate));
    let mut stream = app.stream("two", json!({"session_id": "s"}));
    stream.chunk();
    let answer = app.post(&app.account_key, "/v2/sessions/s/truncate", &json!({"after": "msg_2"}));
    answer.refused(409, "invalid_request_error", "session_busy");
    assert!(answer.headers.find("retry-after").is_some());
    gate.open();
    stream.rest();
    eventually("the turn is over", || {
        let after = json!({"after": "msg_2"});
        let answer = app.post(&app.account_key, "/v2/sessions/s/truncate", &after);
        (answer.status == 200).then_some(())
    });
    assert_eq!(said(&app, "s"), ["one", "re: one"]);
    app.finish();
}

#[test]
fn a_cut_names_a_message_of_the_session() {
    let app = echoing();
    app.say("one", json!({"session_id": "s"}));
    let refused = |body: Value| app.post(&app.account_key, "/v2/sessions/s/truncate", &body);
    refused(json!({})).refused(400, "invalid_request_error", "missing_field");
    refused(json!({"after": "msg_x"})).refused(400, "invalid_request_error", "invalid_value");
    refused(json!({"after": "msg_3"})).refused(404, "invalid_request_error", "not_found");
    assert_eq!(truncate(&app, "s", json!("msg_2"))["message_count"], 2);
    app.finish();
}

#[test]
fn a_session_is_free_as_soon_as_who_had_it_is_told() {
    let app = echoing();
    let cut = |name: &str, after: &str| {
        let path = format!("/v2/sessions/{name}/truncate");
        app.post(&app.account_key, &path, &json!({"after": after}))
    };
    // Each has the session to itself, and is refused where somebody else has it.
    let client = &|name: String| {
        app.say("one", json!({"session_id": name}));
        for _ in 0..100 {
            cut(&name, "msg_3").refused(404, "invalid_request_error", "not_found");
            cut(&name, "msg_2").ok();
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|at| drop(scope.spawn(move || client(format!("s{at}")))));
    });
    app.finish();
}

#[test]
fn a_session_is_free_as_soon_as_its_answer_is_there() {
    let app = echoing();
    let client = &|name: String| {
        let turn = |streams: bool| {
            let body = app.saying("one", json!({"session_id": name, "stream": streams}));
            app.chat_call(&body).header("X-Session-Conflict", "reject")
        };
        for _ in 0..50 {
            turn(false).send().ok();
            let told = turn(true).open().ok().rest();
            assert!(told.last().is_some_and(Event::is_done), "{told:?}");
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|at| drop(scope.spawn(move || client(format!("s{at}")))));
    });
    app.finish();
}

#[test]
fn as_many_clients_as_may_run_and_wait_in_a_session_find_room_one_turn_after_the_other() {
    let app = echoing();
    let client = || (0..30).for_each(|_| drop(app.say("one", json!({"session_id": "s"}))));
    std::thread::scope(|scope| (0..9).for_each(|_| drop(scope.spawn(client))));
    app.finish();
}

#[test]
fn a_deleted_session_ends_what_runs_and_waits_in_it() {
    let app = echoing();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(2, &gate));
    let mut running = app.stream("one", json!({"session_id": "s"}));
    running.chunk();
    let waiting =
        app.chat_call(&app.saying("two", json!({"session_id": "s"}))).connect().expect("a connection");
    // The second one waits in the session once the session says that it is not alone.
    eventually("the second turn waits", || {
        let more = app.chat_call(&app.saying("no", json!({"session_id": "s"})));
        let more = more.header("X-Session-Conflict", "reject").send();
        (more.status == 409).then_some(())
    });
    app.delete(&app.account_key, "/v2/sessions/s").is(204);
    let last = running.rest().last().expect("events").json();
    assert_eq!(last["error"]["code"], "cancelled");
    let waited = crate::client::Stream::read(waiting).expect("an answer").into_answer().expect("whole");
    waited.refused(503, "server_error", "cancelled");
    app.get(&app.account_key, "/v2/sessions/s").refused(404, "invalid_request_error", "session_not_found");
    assert_eq!(app.settled().held, 0);
    assert_eq!(database::number(&app, "SELECT COUNT(*) FROM message"), 0);
    app.finish();
}

#[test]
fn a_deleted_agent_ends_what_runs_and_waits_with_it() {
    let app = echoing();
    let (agent, _) = app.agent(json!({}));
    for session in 0..70 {
        app.post(&app.account_key, "/v2/sessions", &json!({"agent_id": agent, "title": session.to_string()}))
            .is(201);
    }
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(2, &gate));
    let mut running = app.stream("one", json!({"session_id": "s", "model": agent}));
    running.chunk();
    let second = app.saying("two", json!({"session_id": "s", "model": agent}));
    let waiting = app.chat_call(&second).connect().expect("a connection");
    eventually("the second turn waits", || {
        let more = app.chat_call(&second).header("X-Session-Conflict", "reject").send();
        (more.status == 409).then_some(())
    });
    app.delete(&app.account_key, &format!("/v2/agents/{agent}")).is(204);
    assert_eq!(running.rest().last().expect("events").json()["error"]["code"], "cancelled");
    let waited = crate::client::Stream::read(waiting).expect("an answer").into_answer().expect("whole");
    assert!(matches!(waited.status, 404 | 503), "{}", waited.text());
    app.settled();
    let left = app.get(&app.account_key, &format!("/v2/sessions?agent_id={agent}")).ok();
    assert_eq!(left, json!([]), "its sessions are gone, as many as there were");
    app.finish();
}
