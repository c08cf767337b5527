//! What the taking up of streams is bounded by: who may, from where, for how long, and at what size.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::app::{App, Setup, eventually};
use crate::client::{Event, Stream};
use crate::resume::{completion_of, watching};
use crate::script::{Reply, Script};

const WRONG: &str = "invalid_request_error";
const MEGABYTE: usize = 1 << 20;

fn big(pieces: usize, size: usize) -> Reply {
    let pieces = (0..pieces).map(|piece| format!("{piece:08} ").repeat(size / 9)).collect();
    Reply { pieces, ..Reply::says(&[]) }.usage(9, 1_000)
}

fn credit(app: &App) {
    let path = format!("/admin/accounts/{}/credit", app.account_id);
    app.post(&app.operator_token, &path, &json!({"amount": "1000.00", "external_ref": "large"})).is(201);
}

#[test]
fn what_is_no_event_of_the_stream_is_400_and_names_the_header() {
    let app = App::start();
    let mut stream = app.stream("Hello", json!({}));
    let completion = completion_of(&stream);
    let events = stream.rest();
    let hostile = [
        "-1",
        "+1",
        "01",
        "1.",
        ".1",
        "1.0",
        "1.01",
        "1.1.1",
        "1,1",
        "1e3",
        "0x1",
        "abc",
        "null",
        "1 2",
        "r",
        "rr1",
        "99999999999999999999",
        "18446744073709551615",
        "1.4294967296",
        "\u{661}",
        "\u{ff11}",
        "999",
        "5.1",
        "6",
        "%31",
        "1;2",
        "\"1\"",
        "id: 1",
        "../1",
        "1\u{0}",
    ];
    for id in hostile {
        let answer = watching(&app, &app.account_key, &completion, Some(id)).send();
        // A header with a NUL is no HTTP.
        if id.contains('\u{0}') {
            assert_eq!(answer.status, 400);
            continue;
        }
        assert!(events.iter().all(|event| event.id() != id), "{id} is an id");
        let refused = answer.refused(400, WRONG, "invalid_value");
        assert_eq!(refused["param"], "Last-Event-ID", "{id:?}");
    }
    let twice = watching(&app, &app.account_key, &completion, Some("1")).header("Last-Event-ID", "2").send();
    assert_eq!(twice.refused(400, WRONG, "invalid_value")["param"], "Last-Event-ID");
    let long = "1".repeat(5_000);
    watching(&app, &app.account_key, &completion, Some(&long)).send().refused(400, WRONG, "invalid_value");
    let path = |id: &str| format!("/v1/chat/completions/{completion}/stream?last_event_id={id}");
    let refused = app.get(&app.account_key, &path("x")).refused(400, WRONG, "invalid_value");
    assert_eq!(refused["param"], "last_event_id");
    // The query does as well; a browser's header is newer; an empty one says that nothing was seen.
    let rest = |call: crate::client::Call| call.key(&app.account_key).open().ok().rest();
    assert_eq!(rest(app.call("GET", &path(events[1].id()))), events[2..]);
    assert_eq!(rest(app.call("GET", &path("1")).header("Last-Event-ID", events[2].id())), events[3..]);
    assert_eq!(rest(app.call("GET", &path("")).header("Last-Event-ID", "")), events);
    assert_eq!(rest(app.call("GET", &path("")).header("Last-Event-ID", "0")), events);
    app.finish();
}

#[test]
fn what_a_key_may_not_see_does_not_exist() {
    let app = App::start();
    let (_, foreign_key) = app.account("5.00");
    let (_, other_agent) = app.agent(json!({}));
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(3, &gate));
    let running = app.stream("Hello", json!({"session_id": "guessable"}));
    let mut ended = app.stream("Hello", json!({}));
    ended.rest();
    let ids = [completion_of(&running), completion_of(&ended)];
    let unknown = ["chatcmpl-000000000000000000000000", "chatcmpl-", "x", "%00", "..%2F..", "a%20b"];
    let told = |answer: crate::client::Answer| {
        let mut body = answer.refused(404, WRONG, "not_found");
        body.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        body
    };
    let expected = told(watching(&app, &app.account_key, unknown[0], None).send());
    let cancel =
        |key: &str, id: &str| app.post(key, &format!("/v1/chat/completions/{id}/cancel"), &json!({}));
    for key in [&foreign_key, &other_agent] {
        for id in &ids {
            assert_eq!(told(watching(&app, key, id, None).send()), expected);
            assert_eq!(told(watching(&app, key, id, Some("1")).send()), expected);
            assert_eq!(told(cancel(key, id)), expected);
        }
    }
    for id in unknown {
        assert_eq!(told(watching(&app, &app.account_key, id, None).send()), expected, "{id}");
        assert_eq!(told(cancel(&app.account_key, id)), expected, "{id}");
    }
    for id in &ids {
        watching(&app, &app.operator_token, id, None).send().refused(403, "permission_error", "key_scope");
        cancel(&app.operator_token, id).refused(403, "permission_error", "key_scope");
        watching(&app, "ak_wrong", id, None).send().refused(401, WRONG, "invalid_api_key");
    }
    let narrow = json!({"name": "a", "scopes": ["usage:read"]});
    let narrow = app.post(&app.account_key, "/v2/account/api-keys", &narrow).is(201).json();
    let narrow = narrow["key"].as_str().expect("a key");
    watching(&app, narrow, &ids[1], None).send().refused(403, "permission_error", "key_scope");
    gate.open();
    drop(running);
    app.settled();
    app.finish();
}

#[test]
fn a_public_key_takes_up_only_what_the_server_named() {
    let app = App::start();
    let public = app.new_key(&app.account_key, &app.agent_id, json!({"public": true}));
    let public = public["key"].as_str().expect("a key").to_owned();
    let mut guessable = app.stream("Hello", json!({"session_id": "guessable"}));
    guessable.rest();
    let refused = watching(&app, &public, &completion_of(&guessable), None).send();
    refused.refused(404, WRONG, "not_found");
    let body = app.saying("Hello", json!({"stream": true}));
    let mut own = app.call("POST", "/v1/chat/completions").key(&public).json(&body).open().ok();
    let events = own.rest();
    assert_eq!(watching(&app, &public, &completion_of(&own), None).open().ok().rest(), events);
    // The second turn of a session names it, and the name is still the server's.
    let session = own.headers.required("x-session-id").to_owned();
    let body = app.saying("Hello", json!({"stream": true, "session_id": session}));
    let mut next = app.call("POST", "/v1/chat/completions").key(&public).json(&body).open().ok();
    let events = next.rest();
    assert_eq!(watching(&app, &public, &completion_of(&next), None).open().ok().rest(), events);
    app.finish();
}

#[test]
fn what_was_deleted_is_not_to_be_read_again() {
    let app = App::start();
    let (agent, key) = app.agent(json!({}));
    let stream = |more: serde_json::Value| {
        let mut stream = app.stream("Hello", more);
        stream.rest();
        completion_of(&stream)
    };
    let of_agent = stream(json!({"model": agent}));
    let of_session = stream(json!({"session_id": "s"}));
    let other = stream(json!({"session_id": "t"}));
    watching(&app, &key, &of_agent, None).send().is(200);
    app.delete(&app.account_key, "/v2/sessions/s").is(204);
    app.delete(&app.account_key, &format!("/v2/agents/{agent}")).is(204);
    for gone in [&of_agent, &of_session] {
        watching(&app, &app.account_key, gone, None).send().refused(404, WRONG, "not_found");
    }
    watching(&app, &app.account_key, &other, None).send().is(200);
    app.finish();
}

#[test]
fn beyond_the_room_for_all_streams_the_oldest_is_gone_first() {
    let app = Setup::default().arg("--replay-buffer-bytes").arg("60000").start();
    app.upstream.always(big(10, 1_000));
    let streams: Vec<(String, Vec<Event>)> = (0..12)
        .map(|_| {
            let mut stream = app.stream("Hello", json!({"max_tokens": 10_000}));
            (completion_of(&stream), stream.rest())
        })
        .collect();
    let mut kept = 0;
    for (completion, events) in &streams {
        let answer = watching(&app, &app.account_key, completion, None).open();
        if answer.status == 200 {
            kept += 1;
            assert_eq!(answer.ok().rest(), *events);
        } else {
            assert_eq!(kept, 0, "a newer one is gone and an older one is there");
            answer.into_answer().expect("a refusal").refused(410, WRONG, "stream_gone");
        }
    }
    assert!((2..=5).contains(&kept), "{kept} streams of over 10,000 bytes are kept in 60,000");
    // That it is gone is no state of the turn.
    let path = format!("/v1/chat/completions/{}/cancel", streams[0].0);
    assert_eq!(app.post(&app.account_key, &path, &json!({})).ok()["status"], "completed");
    app.finish();
}

#[test]
fn without_any_room_running_streams_still_come_whole() {
    let app = Setup::default().arg("--replay-buffer-bytes").arg("0").start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(50).pause_after(40, &gate));
    let mut stream = app.stream("Hello", json!({"max_tokens": 1_000}));
    let completion = completion_of(&stream);
    let seen: Vec<Event> = (0..41).map(|_| stream.event().expect("an event")).collect();
    watching(&app, &app.account_key, &completion, None).send().refused(410, WRONG, "stream_gone");
    // Who has seen all there is needs nothing that is gone.
    let mut second = watching(&app, &app.account_key, &completion, Some(seen[40].id())).open().ok();
    gate.open();
    let rest = stream.rest();
    assert!(rest.last().is_some_and(Event::is_done));
    assert_eq!(second.rest(), rest);
    app.finish();
}

#[test]
fn of_a_long_stream_only_the_last_part_is_kept() {
    let app = App::answering(big(40, 100_000));
    credit(&app);
    let mut stream = app.stream("Hello", json!({"max_tokens": 10_000_000}));
    let completion = completion_of(&stream);
    let events = stream.rest();
    let watch = |at: usize| watching(&app, &app.account_key, &completion, Some(events[at].id()));
    watching(&app, &app.account_key, &completion, None).send().refused(410, WRONG, "stream_gone");
    watch(20).send().refused(410, WRONG, "stream_gone");
    let kept = (0..events.len()).filter(|at| watch(*at).send().status == 200).collect::<Vec<_>>();
    assert_eq!(kept, (kept[0]..events.len()).collect::<Vec<_>>());
    assert!((30..35).contains(&kept[0]), "a megabyte is kept, so {} of 40 events are gone", kept[0]);
    assert_eq!(watch(kept[0]).open().ok().rest(), events[kept[0] + 1..]);
    app.finish();
}

/// Waits until the provider can get rid of nothing more.
fn until_stuck(app: &App, request: usize) {
    let mut last = 0;
    eventually("the turn waits for its readers", || {
        thread::sleep(Duration::from_millis(400));
        let sent = app.upstream.sent(request).len();
        (sent > 1 && sent == std::mem::replace(&mut last, sent)).then_some(())
    });
}

/// Joins where the kept part of a stream begins.
fn join_at_the_start(app: &App, completion: &str) -> (u64, Stream) {
    let joined = (0..1_000).find_map(|id: u64| {
        let stream = watching(app, &app.account_key, completion, Some(&id.to_string())).open();
        (stream.status == 200).then_some((id, stream))
    });
    joined.expect("some of it is kept")
}

#[test]
fn who_is_too_slow_gets_an_error_and_the_fast_one_everything() {
    let app = App::answering(big(250, 100_000));
    credit(&app);
    for (request, form) in ["openai", "native"].into_iter().enumerate() {
        let more = json!({"max_tokens": 10_000_000, "stream_format": form, "session_id": form});
        let mut slow = app.stream("Hello", more);
        until_stuck(&app, request);
        let (id, mut fast) = join_at_the_start(&app, &completion_of(&slow));
        assert!(id > 0, "all is kept though nobody read it");
        // It reads to the end though another one reads nothing.
        let whole = fast.rest();
        let last = whole.last().expect("events").json_or_null();
        assert!(last.get("error").is_none(), "{last}");
        let stored = app.get(&app.account_key, &format!("/v2/sessions/{form}/messages")).ok();
        assert_eq!(stored["messages"][1]["status"], "complete");
        let mut part = slow.rest();
        let last = part.pop().expect("events");
        assert_eq!(last.json()["error"]["code"], "stream_gone");
        assert_eq!(last.id, None, "this is no event of the turn");
        let both = part.iter().skip_while(|event| event.id != whole[0].id).zip(&whole);
        assert!(
            both.fold(0, |count, (slow, fast)| {
                assert_eq!(slow, fast);
                count + 1
            }) > 0
        );
    }
    app.settled();
    assert_eq!(app.charges().len(), 2);
    app.finish();
}

#[test]
fn a_stop_lets_all_readers_of_a_stream_end() {
    let mut app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::long(9).pause_after(3, &gate));
    let mut first = app.stream("Hello", json!({}));
    let mut readers: Vec<Stream> =
        (0..3).map(|_| watching(&app, &app.account_key, &completion_of(&first), None).open().ok()).collect();
    app.terminate();
    eventually("the server says that it is draining", || {
        (app.call("GET", "/readyz").send().status == 503).then_some(())
    });
    let late = watching(&app, &app.account_key, &completion_of(&first), None).send();
    late.refused(503, "server_error", "draining");
    gate.open();
    let whole = first.rest();
    assert!(whole.last().is_some_and(Event::is_done));
    readers.iter_mut().for_each(|reader| assert_eq!(reader.rest(), whole));
    assert_eq!(app.wait_for_exit().code(), Some(0), "the log says:\n{}", app.log());
    app.finish_stopped();
}

#[test]
fn a_stop_that_cannot_wait_tells_all_readers() {
    let mut app = Setup::default().arg("--shutdown-timeout").arg("1").start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::long(9).pause_after(3, &gate));
    let mut first = app.stream("Hello", json!({}));
    let mut second = watching(&app, &app.account_key, &completion_of(&first), None).open().ok();
    app.terminate();
    let whole = first.rest();
    assert_eq!(whole.last().map(Event::json).expect("events")["error"]["code"], "draining");
    assert_eq!(second.rest(), whole);
    assert_eq!(app.wait_for_exit().code(), Some(0), "the log says:\n{}", app.log());
    app.start_again();
    assert_eq!(app.charges().len(), 1);
    app.finish();
}

/// What the server holds in memory, in bytes.
fn resident(app: &App) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", app.pid())).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes * 1024
}

#[test]
fn a_client_that_reads_nothing_holds_one_chunk_and_little_more() {
    const CHUNK: usize = 10 * MEGABYTE;
    const CLIENTS: usize = 3;
    let app = App::start();
    credit(&app);
    let gate = app.upstream.gate();
    // Warm: buffers and threads are there, and what they hold.
    app.upstream.next(big(1, CHUNK));
    app.stream("Hello", json!({"max_tokens": 10_000_000})).rest();
    let before = resident(&app);
    app.upstream.always(big(4, CHUNK).linger(&gate));
    let mut idle = Vec::new();
    for client in 1..=CLIENTS {
        idle.push(app.stream("Hello", json!({"max_tokens": 10_000_000})));
        until_stuck(&app, client);
        let sent = app.upstream.sent(client).len();
        assert_eq!(sent, 2, "the second chunk is taken from the provider for nobody");
    }
    // The chunk as it came, and its text in the answer that is stored in the end.
    let each = resident(&app).saturating_sub(before) / CLIENTS;
    assert!(each <= 2 * CHUNK + MEGABYTE, "{each} bytes for each client that reads nothing");
    gate.open();
    drop(idle);
    app.settled();
    app.finish();
}

#[test]
fn an_event_that_is_too_large_is_refused_and_not_kept() {
    let app = App::start();
    app.upstream.always(big(1, 17 * MEGABYTE));
    let refused = |times: usize| {
        for _ in 0..times {
            // The role came before it, so that the stream has begun.
            let events = app.stream("Hello", json!({"max_tokens": 100})).rest();
            let last = events.last().map(Event::json).expect("events");
            assert_eq!(last["error"]["code"], "upstream_invalid", "{last}");
        }
        resident(&app)
    };
    // The first ones show how much the allocator keeps for the next one.
    let before = refused(2);
    let after = refused(4);
    assert!(after.saturating_sub(before) < 17 * MEGABYTE, "{before} bytes, then {after}");
    app.settled();
    assert!(app.charges().is_empty(), "nothing was received");
    app.upstream.always(Script::hello());
    app.say("Hello", json!({}));
    app.finish();
}
