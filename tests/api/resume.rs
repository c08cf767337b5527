//! Streams that are taken up again where a client stands: nothing is missing, nothing comes twice.

use std::thread;

use serde_json::{Value, json};

use crate::app::App;
use crate::client::{Answer, Call, Event, Stream};
use crate::script::{Counts, Reply};

/// The stream of a completion, after the event of that id.
pub fn watching(app: &App, key: &str, completion: &str, after: Option<&str>) -> Call {
    let call = app.call("GET", &format!("/v1/chat/completions/{completion}/stream")).key(key);
    match after {
        Some(id) => call.header("Last-Event-ID", id),
        None => call,
    }
}

/// The id of the completion that a stream belongs to.
pub fn completion_of(stream: &Stream) -> String {
    stream.headers.required("x-completion-id").to_owned()
}

/// The events of a body as they were sent, each with its empty line.
fn pieces(answer: &Answer) -> Vec<String> {
    let text = answer.text();
    assert!(text.ends_with("\n\n"), "the body ends inside of an event: {text}");
    text.split_inclusive("\n\n").filter(|piece| !piece.starts_with(':')).map(str::to_owned).collect()
}

fn id_of(piece: &str) -> &str {
    let id = piece.lines().find_map(|line| line.strip_prefix("id: "));
    id.unwrap_or_else(|| panic!("no id in {piece:?}"))
}

/// Thoughts, text, and two tool calls in pieces, one of them beside text.
fn of_all_kinds() -> Reply {
    let reply = Reply::says(&["A ", "few ", "words."]).thinking(&["Let ", "me see."]);
    reply.and_calls("call_1", "lookup", &["{\"q\":", "1}"]).and_calls("call_2", "other", &["{}"]).usage(9, 12)
}

/// Each way to ask for a stream.
fn ways() -> [Value; 4] {
    [
        json!({}),
        json!({"stream_options": {"include_usage": true}, "n": 2}),
        json!({"stream_format": "native"}),
        json!({"stream_format": "native", "n": 2}),
    ]
}

#[test]
fn after_the_end_a_stream_goes_on_from_any_event_byte_by_byte() {
    let app = App::start();
    for way in ways() {
        for counts in [Counts::AtTheEnd, Counts::OnTheLastChunk] {
            app.upstream.next(of_all_kinds().counts(counts));
            let stream = app.stream("Hello", way.clone());
            let completion = completion_of(&stream);
            let undisturbed = pieces(&stream.into_answer().expect("a whole body"));
            assert!(undisturbed.len() > 8);
            let again = watching(&app, &app.account_key, &completion, None).send().is(200);
            assert_eq!(pieces(&again), undisturbed);
            for (at, piece) in undisturbed.iter().enumerate() {
                let rest = watching(&app, &app.account_key, &completion, Some(id_of(piece))).send().is(200);
                assert_eq!(rest.text(), undisturbed[at + 1..].concat(), "after {:?} of {way}", id_of(piece));
            }
        }
    }
    assert_eq!((app.upstream.asked(), app.charges().len()), (8, 8), "reading again is charged");
    app.finish();
}

#[test]
fn while_the_provider_is_sending_a_stream_goes_on_from_any_event() {
    let app = App::start();
    for way in ways() {
        let gate = app.upstream.gate();
        app.upstream.next(of_all_kinds().pause_after(7, &gate));
        let mut first = app.stream("Hello", way.clone());
        let completion = completion_of(&first);
        // What has come before the pause, in either dialect.
        let mut seen: Vec<Event> = (0..4).map(|_| first.event().expect("an event")).collect();
        let watch = |after: Option<&str>| watching(&app, &app.account_key, &completion, after).open().ok();
        let mut others: Vec<Stream> = seen.iter().map(|event| watch(Some(event.id()))).collect();
        let mut whole = watch(None);
        // One of them has read everything there is; the others begin when there is more.
        let mut early = others.remove(0);
        let early_seen: Vec<Event> = (0..3).map(|_| early.event().expect("an event")).collect();
        assert_eq!(early_seen, seen[1..]);
        gate.open();
        let rest = first.rest();
        assert_eq!(early.rest(), rest);
        for (at, mut other) in others.into_iter().enumerate() {
            assert_eq!(other.rest(), [&seen[at + 2..], &rest[..]].concat());
        }
        seen.extend(rest);
        assert_eq!(whole.rest(), seen);
    }
    app.settled();
    assert_eq!(app.charges().len(), 4);
    app.finish();
}

#[test]
fn many_readers_of_one_stream_all_get_all_of_it() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(300).pause_after(10, &gate));
    let mut first = app.stream("Hello", json!({"max_tokens": 1000}));
    let completion = completion_of(&first);
    let readers: Vec<Stream> =
        (0..20).map(|_| watching(&app, &app.agent_key, &completion, None).open().ok()).collect();
    let running = app.get(&app.operator_token, "/admin/streams").ok();
    assert_eq!(running["streams"][0]["readers"], 21);
    assert!(running["streams"][0]["kept_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000));
    gate.open();
    let events = first.rest();
    assert_eq!(events.len(), 303);
    thread::scope(|scope| {
        for mut reader in readers {
            let events = &events;
            scope.spawn(move || assert_eq!(reader.rest(), *events));
        }
    });
    app.finish();
}

#[test]
fn a_stream_goes_on_after_its_only_reader_was_cut_off_and_came_back() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(of_all_kinds().pause_after(3, &gate));
    let body = app.saying("Hello", json!({"stream": true}));
    let call = app.chat_call(&body).header("X-On-Disconnect", "continue");
    let mut stream = call.open().ok();
    let completion = completion_of(&stream);
    let mut seen: Vec<Event> = (0..3).map(|_| stream.event().expect("an event")).collect();
    drop(stream);
    let mut again = watching(&app, &app.account_key, &completion, Some(seen[2].id())).open().ok();
    gate.open();
    seen.extend(again.rest());
    let whole = watching(&app, &app.account_key, &completion, None).open().ok().rest();
    assert_eq!(seen, whole);
    assert!(seen.last().is_some_and(Event::is_done));
    app.settled();
    assert_eq!(app.charges()[0]["output_tokens"], 12);
    app.finish();
}

#[test]
fn the_dialect_is_that_of_the_request_unless_the_query_says_another() {
    let app = App::start();
    app.upstream.always(of_all_kinds());
    let openai = app.stream("Hello", json!({}));
    let native = app.stream("Hello", json!({"stream_format": "native"}));
    let ids = [completion_of(&openai), completion_of(&native)];
    let bodies = [openai, native].map(|stream| pieces(&stream.into_answer().expect("a whole body")));
    let as_told = |id: &str, dialect: &str| {
        let path = format!("/v1/chat/completions/{id}/stream?stream_format={dialect}");
        pieces(&app.get(&app.account_key, &path).is(200))
    };
    assert_eq!(as_told(&ids[0], "openai"), bodies[0]);
    assert_eq!(as_told(&ids[1], "native"), bodies[1]);
    let kinds = |pieces: &[String]| -> Vec<String> {
        let kind = |piece: &String| {
            let event: Value = serde_json::from_str(piece.strip_prefix("data: ")?.lines().next()?).ok()?;
            event["type"].as_str().map(str::to_owned)
        };
        pieces.iter().filter_map(kind).collect()
    };
    assert_eq!(kinds(&as_told(&ids[0], "native")), kinds(&bodies[1]));
    assert_eq!(as_told(&ids[1], "openai").len(), bodies[0].len());
    let path = format!("/v1/chat/completions/{}/stream?stream_format=xml", ids[0]);
    let refused = app.get(&app.account_key, &path).refused(400, "invalid_request_error", "invalid_value");
    assert_eq!(refused["param"], "stream_format");
    app.finish();
}

#[test]
fn the_native_route_s_stream_can_be_taken_up_too() {
    let app = App::start();
    let path = format!("/v1/agents/{}/chat", app.agent_id);
    let body = json!({"message": "Hello", "stream": true});
    let mut stream = app.call("POST", &path).key(&app.agent_key).json(&body).open().ok();
    let completion = completion_of(&stream);
    let events = stream.rest();
    let mut rest = watching(&app, &app.agent_key, &completion, Some(events[0].id())).open().ok();
    assert_eq!(rest.rest(), events[1..]);
    app.finish();
}

#[test]
fn a_resumed_stream_has_the_headers_of_the_first() {
    let app = App::start();
    let mut first = app.stream("Hello", json!({"session_id": "s"}));
    first.rest();
    let again = watching(&app, &app.account_key, &completion_of(&first), None).open().ok();
    for name in ["x-completion-id", "x-session-id", "content-type", "cache-control", "x-accel-buffering"] {
        assert_eq!(again.headers.required(name), first.headers.required(name));
    }
    app.finish();
}

#[test]
fn costs_are_told_to_those_alone_who_may_see_them() {
    let app = App::start();
    let native = json!({"stream_format": "native"});
    let mut stream = app.stream("Hello", native);
    let done = stream.rest().pop().expect("events").json();
    assert!(done["metrics"]["cost"].is_string());
    let mut again = watching(&app, &app.agent_key, &completion_of(&stream), None).open().ok();
    let told = again.rest().pop().expect("events").json();
    assert_eq!(told["metrics"]["completion_tokens"], done["metrics"]["completion_tokens"]);
    assert!(told["metrics"].get("cost").is_none() && told["metrics"].get("balance").is_none(), "{told}");
    app.finish();
}

#[test]
fn an_answer_that_is_given_again_has_ids_of_its_own_and_can_be_taken_up() {
    let app = App::start();
    app.upstream.next(of_all_kinds());
    let body = app.saying("Hello", json!({"stream": true}));
    let call = app.chat_call(&body).header("Idempotency-Key", "once");
    let mut first = call.open().ok();
    let completion = completion_of(&first);
    let events = first.rest();
    let check = |app: &App| {
        let mut again = app.chat_call(&body).header("Idempotency-Key", "once").open().ok();
        assert_eq!(again.headers.required("idempotent-replayed"), "true");
        let replayed = again.rest();
        assert!(replayed.last().is_some_and(Event::is_done));
        for (at, event) in replayed.iter().enumerate() {
            assert!(events.iter().all(|first| first.id != event.id), "one id for two things");
            let mut rest = watching(app, &app.account_key, &completion, Some(event.id())).open().ok();
            assert_eq!(rest.rest(), replayed[at + 1..]);
        }
    };
    check(&app);
    // The first stream is still itself.
    let mut rest = watching(&app, &app.account_key, &completion, Some(events[2].id())).open().ok();
    assert_eq!(rest.rest(), events[3..]);
    // Another process has the answer, not the stream.
    let mut app = app;
    app.restart();
    check(&app);
    let gone = watching(&app, &app.account_key, &completion, Some(events[2].id())).send();
    gone.refused(410, "invalid_request_error", "stream_gone");
    app.finish();
}
