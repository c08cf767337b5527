//! Eighteen ways in which a provider fails, streamed and plain. The moment that the client learns of it the hold is
//! closed already; nothing received is nothing charged, and what was received is charged to the nano-dollar.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::app::{App, Setup};
use crate::client::Answer;
use crate::crash_load::{START, price};
use crate::database::Snapshot;
use crate::script::{Counts, Fault, Reply, Script};

const BOTH: [bool; 2] = [true, false];

/// Waits of a second or two; the defaults are minutes.
const IMPATIENT: &str =
    "connect_timeout_s = 2\nfirst_byte_timeout_s = 1\nchunk_timeout_s = 1\ntotal_timeout_s = 2";

/// Asks once, and looks at once at what is left of it: nobody waits for the hold to be closed.
fn fails_for_nothing(app: &App, fault: &str, stream: bool) -> Answer {
    let before = Snapshot::live(app);
    let answer = app.chat(&app.saying("Hello", json!({"session_id": fault, "stream": stream})));
    let balance = app.balance();
    assert_eq!((balance.held, balance.balance), (0, START), "{fault}, stream: {stream}");
    let now = Snapshot::live(app);
    assert_eq!(now.entries, before.entries, "{fault} is charged");
    let made: Vec<_> = now.holds.values().filter(|hold| !before.holds.contains_key(&hold.id)).collect();
    assert_eq!(made.len(), 1, "{fault}: {made:?}");
    assert_eq!(made[0].state, "released", "{fault}");
    assert!(made[0].reason.is_some(), "{fault}: nobody can tell why it was released");
    assert!(answer.status >= 400, "{fault}: {}", answer.text());
    // What failed is no part of the conversation.
    let said = app.get(&app.account_key, &format!("/v2/sessions/{fault}/messages"));
    assert!(said.status == 404 || said.json()["messages"] == json!([]), "{}", said.text());
    answer
}

/// The scripted provider fails so, streamed and plain.
fn each_way(app: &App, fault: &str, script: impl Into<Script>, status: u16, code: &str) {
    let script = script.into();
    for stream in BOTH {
        // A call that finds its connection closed may be sent once more.
        (0..2).for_each(|_| app.upstream.next(script.clone()));
        let answer = fails_for_nothing(app, fault, stream);
        app.upstream.forget();
        assert_eq!(answer.status, status, "{fault}, stream: {stream}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], code, "{fault}, stream: {stream}");
    }
}

fn trouble() -> Value {
    json!({"message": "trouble", "type": "server_error", "param": null, "code": null})
}

#[test]
fn a_provider_that_refuses_connections_costs_nothing() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let app = Setup::default().provider_url(&format!("http://{free}/v1")).start();
    for stream in BOTH {
        fails_for_nothing(&app, "refused", stream).refused(503, "server_error", "upstream_unavailable");
    }
    app.finish();
}

#[test]
fn a_provider_that_does_not_speak_tls_costs_nothing() {
    let plain = crate::upstream::Upstream::start();
    let app =
        Setup::default().provider_url(&plain.url().replace("http:", "https:")).in_file(IMPATIENT).start();
    for stream in BOTH {
        let answer = fails_for_nothing(&app, "tls", stream);
        assert!([503, 504].contains(&answer.status), "{}", answer.text());
    }
    assert_eq!(plain.asked(), 0, "the request was sent in the clear");
    app.finish();
}

#[test]
fn a_provider_whose_name_does_not_resolve_costs_nothing() {
    let app = Setup::default().provider_url("http://nobody.invalid/v1").in_file(IMPATIENT).start();
    for stream in BOTH {
        let answer = fails_for_nothing(&app, "dns", stream);
        assert!([503, 504].contains(&answer.status), "{}", answer.text());
        assert!(!answer.text().contains("nobody.invalid"), "the provider's name leaks");
    }
    app.finish();
}

#[test]
fn a_provider_that_refuses_by_status_costs_nothing() {
    let app = App::start();
    let refusals = [
        (400, 400, None),
        (401, 502, Some("upstream_auth")),
        (403, 502, Some("upstream_auth")),
        (404, 502, Some("upstream_refused")),
        (429, 503, Some("upstream_unavailable")),
        (500, 502, Some("upstream_refused")),
        (503, 503, Some("upstream_unavailable")),
    ];
    for (status, told, code) in refusals {
        for stream in BOTH {
            app.upstream.next(Script::refusal(status, "no"));
            let answer = fails_for_nothing(&app, &format!("status-{status}"), stream);
            assert_eq!(answer.status, told, "{status}: {}", answer.text());
            if let Some(code) = code {
                answer.refused(told, "server_error", code);
            }
        }
    }
    assert_eq!(app.upstream.asked(), 2 * refusals.len(), "a refusal is tried again");
    app.finish();
}

#[test]
fn a_provider_that_takes_too_long_to_begin_costs_nothing_and_its_call_ends() {
    let app = Setup::default().in_file(IMPATIENT).start();
    each_way(&app, "silence", Script::Silence, 504, "upstream_timeout");
    each_way(&app, "head-alone", Script::Head, 504, "upstream_timeout");
    app.upstream.wait_for_aborts(4);
    app.finish();
}

#[test]
fn an_answer_that_says_nothing_costs_nothing() {
    let app = App::start();
    each_way(&app, "empty", Script::garbage(""), 502, "upstream_invalid");
    each_way(&app, "not-json", Script::garbage("{\"choices\": ["), 502, "upstream_invalid");
    each_way(&app, "bad-event", Reply::long(3).fault_after(0, Fault::Garbage), 502, "upstream_invalid");
    each_way(&app, "cut", Reply::long(3).fault_after(0, Fault::HangUp), 502, "upstream_invalid");
    each_way(&app, "ended", Reply::long(3).fault_after(0, Fault::End), 502, "upstream_invalid");
    each_way(&app, "error", Reply::long(3).fault_after(0, Fault::Error(trouble())), 502, "upstream_refused");
    app.finish();
}

#[test]
fn a_stream_that_fails_after_its_role_and_before_its_first_word_costs_nothing() {
    let app = App::start();
    for (name, fault) in [
        ("role-cut", Fault::HangUp),
        ("role-ended", Fault::End),
        ("role-garbage", Fault::Garbage),
        ("role-error", Fault::Error(trouble())),
    ] {
        let before = Snapshot::live(&app);
        let mut reply = Reply::long(3);
        reply.pieces.insert(0, String::new());
        app.upstream.next(reply.fault_after(1, fault));
        let events = app.stream("Hello", json!({"session_id": name})).rest();
        // The last event says that it failed; then the hold is closed already.
        assert_eq!(app.balance().held, 0, "{name}");
        assert!(events.last().is_some_and(|event| event.json()["error"].is_object()), "{name}");
        let now = Snapshot::live(&app);
        assert_eq!(now.entries, before.entries, "{name} is charged");
        assert_eq!(now.in_state("released").count(), before.holds.len() + 1);
    }
    app.finish();
}

#[test]
fn a_stream_that_fails_midway_costs_what_had_come_and_no_more() {
    const CAME: usize = 5;
    let app = Setup::default().in_file("chunk_timeout_s = 1").start();
    // What the server takes the prompt for is told by an answer that nobody counted.
    app.upstream.next(Reply::long(3).counts(Counts::Nowhere));
    app.stream("Hello", json!({})).rest();
    let prompt = app.charges()[0]["prompt_tokens"].as_i64().expect("a count");
    let text: String = Reply::long(CAME).text();
    let gate = app.upstream.gate();
    let faults = [
        ("cut", Reply::long(12).fault_after(CAME, Fault::HangUp), "upstream_invalid"),
        ("ended", Reply::long(12).fault_after(CAME, Fault::End), "upstream_invalid"),
        ("garbage", Reply::long(12).fault_after(CAME, Fault::Garbage), "upstream_invalid"),
        ("error", Reply::long(12).fault_after(CAME, Fault::Error(trouble())), "upstream_refused"),
        ("stall", Reply::long(12).pause_after(CAME, &gate), "upstream_timeout"),
    ];
    for (name, reply, code) in faults {
        let before = app.balance().balance;
        app.upstream.next(reply);
        let events = app.stream("Hello", json!({"session_id": name})).rest();
        // The last event says that it failed; then the hold is closed already.
        let balance = app.balance();
        assert_eq!(balance.held, 0, "{name}");
        assert_eq!(before - balance.balance, price(prompt, text.len().div_ceil(4) as i64), "{name}");
        let last = events.last().expect("events").json();
        assert_eq!(last["error"]["code"], code, "{name}: {last}");
        let said = app.get(&app.account_key, &format!("/v2/sessions/{name}/messages")).ok();
        assert_eq!(said["messages"][1]["content"], text, "{name}");
        assert_eq!(said["messages"][1]["status"], "incomplete", "{name}");
    }
    app.upstream.wait_for_aborts(1);
    app.finish();
}

#[test]
fn a_plain_answer_that_fails_midway_costs_nothing() {
    let app = App::start();
    for fault in [Fault::HangUp, Fault::Garbage, Fault::Error(trouble())] {
        app.upstream.next(Reply::long(12).fault_after(5, fault));
        let answer = fails_for_nothing(&app, "midway", false);
        assert_eq!(answer.status, 502, "{}", answer.text());
    }
    app.finish();
}

#[test]
fn a_stream_that_counts_itself_and_fails_costs_its_last_count() {
    let app = App::start();
    let reply = Reply::long(12).usage(30, 12).counts(Counts::OnEveryChunk).fault_after(7, Fault::HangUp);
    app.upstream.next(reply);
    app.stream("Hello", json!({})).rest();
    let balance = app.balance();
    assert_eq!((balance.held, START - balance.balance), (0, price(30, 7)));
    app.finish();
}
