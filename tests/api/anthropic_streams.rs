//! Streams of a Claude model: whole, cut anywhere, and left by their clients.

use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{App, MODEL, PROVIDER_KEY, Setup, nanos};
use crate::claude::{Claude, answering, chunks, event, pieces, setup, text_of};
use crate::client::Event;
use crate::crash_load::{START, price};
use crate::database::Snapshot;
use crate::script::Pieces;

/// What so many bytes of an answer are taken to be, where nobody counted them.
fn estimated(text: &str) -> i64 {
    i64::try_from(text.len().div_ceil(4)).unwrap_or(i64::MAX)
}

fn usage_too() -> Value {
    json!({"stream_options": {"include_usage": true}})
}

#[test]
fn a_stream_is_openai_s_from_the_role_to_done() {
    let app = answering(Claude::says(&["Hel", "lo"]).usage([20, 5, 0], 7));
    let all = app.stream("Hi", usage_too()).rest();
    let chunks = chunks(&all);
    let choice = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let expected = [
        choice(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null),
        choice(json!({"content": "Hel"}), Value::Null),
        choice(json!({"content": "lo"}), Value::Null),
        choice(json!({}), json!("stop")),
        json!([]),
    ];
    let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"]).collect();
    assert_eq!(choices, expected.iter().collect::<Vec<_>>());
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["model"], app.agent_id);
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
    }
    assert!(chunks[..4].iter().all(|chunk| chunk["usage"].is_null()));
    let usage = &chunks[4]["usage"];
    let told = ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| usage[name].clone());
    assert_eq!(told, [25, 7, 32]);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 5);
    assert_eq!(nanos(&usage["balance"]), app.balance().balance);
    assert!(all.iter().all(|event| !event.data.contains("upstream")), "the provider's names leak");
    assert_eq!(app.upstream.last().body["stream"], true);
    assert_eq!(app.upstream.last().body.get("stream_options"), None);
    // Whoever did not ask for usage gets none.
    let bare = crate::claude::chunks(&app.stream("Hi", json!({})).rest());
    assert!(bare.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"] != json!([])));
    app.finish();
}

#[test]
fn the_native_dialect_has_the_same_end() {
    let app = answering(Claude::says(&["Hel", "lo"]));
    let body =
        json!({"agent_id": app.agent_id, "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let events: Vec<Value> = app.chat_call(&body).open().ok().rest().iter().map(Event::json).collect();
    let said: String = events.iter().filter_map(|event| event["data"].as_str()).collect();
    assert_eq!(said, "Hello");
    let done = events.last().expect("events");
    assert_eq!(done["type"], "done");
    assert_eq!(
        (&done["metrics"]["prompt_tokens"], &done["metrics"]["completion_tokens"]),
        (&json!(25), &json!(15))
    );
    assert_eq!(done["metrics"]["finish_reason"], "stop");
    app.finish();
}

#[test]
fn however_the_bytes_come_the_text_is_the_same() {
    let app = setup().start();
    let words = ["Gr\u{fc}\u{df}e ", "\u{1f980}\u{1f980} ", "\"line\"\r\nnext\u{2028}"];
    let claude = Claude::says(&words).thinking(&["\u{4f60}", "\u{597d}"]);
    let text: String = claude.events().concat();
    let cut_into = |size: usize| Pieces::of(text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect());
    let crlf = pieces(vec![text.replace("\n\n", "\r\n\r\n").replace("}\n", "}\r\n")]);
    let bare = pieces(
        claude.events().iter().map(|event| event.split_once('\n').expect("a name").1.to_owned()).collect(),
    );
    let commented = pieces(claude.events().iter().map(|event| format!(": note\n\n{event}")).collect());
    let ways = [1, 2, 3, 7, 64, 100_000].map(cut_into).into_iter().chain([crlf, bare, commented]);
    for (number, way) in ways.enumerate() {
        app.upstream.next(way);
        let events = app.stream("Hi", json!({})).rest();
        assert_eq!(text_of(&events), words.concat(), "way {number}");
        let thoughts: String = chunks(&events)
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["reasoning_content"].as_str())
            .collect();
        assert_eq!(thoughts, "\u{4f60}\u{597d}", "way {number}");
        assert_eq!(START - app.balance().balance, (number as i64 + 1) * price(25, 15));
    }
    app.finish();
}

/// Where the JSON of each event ends within the whole stream: from there on it has been received.
fn ends(claude: &Claude) -> Vec<usize> {
    let mut at = 0;
    let mut ends = Vec::new();
    for event in claude.events() {
        ends.push(at + event.trim_end().len());
        at += event.len();
    }
    ends
}

#[test]
fn a_stream_that_is_cut_at_any_byte_is_charged_for_what_had_come_and_fails() {
    let app = setup().start();
    let words = ["h\u{e9} ", "\u{1f980}"];
    let claude = Claude::says(&words).usage([25, 0, 0], 15);
    let (bytes, ends) = (claude.events().concat().into_bytes(), ends(&claude));
    // message_start, content_block_start, ping, two words, content_block_stop, message_delta, message_stop.
    assert_eq!(ends.len(), 8);
    let mut balance = START;
    for cut in 0..bytes.len() {
        app.upstream.next(Pieces { cut: cut % 2 == 0, ..Pieces::of(vec![bytes[..cut].to_vec()]) });
        let body = app.saying("Hi", json!({"stream": true}));
        let mut stream = app.chat_call(&body).open();
        let come = |event: usize| cut >= ends[event];
        let said: String =
            words.iter().enumerate().filter(|(at, _)| come(3 + at)).map(|(_, word)| *word).collect();
        if come(0) {
            let events = stream.rest();
            assert_eq!(text_of(&events), said, "cut at {cut}");
            if come(7) {
                assert!(events.last().expect("events").is_done(), "cut at {cut}");
            } else {
                let last = events.last().expect("events").json();
                assert_eq!(last["error"]["code"], "upstream_invalid", "cut at {cut}: {last}");
                assert!(events.iter().all(|event| !event.data.contains("\"stop\"")), "cut at {cut}");
            }
        } else {
            let answer = stream.into_answer().expect("an answer");
            answer.refused(502, "server_error", "upstream_invalid");
        }
        let cost = match (come(6), said.is_empty()) {
            (true, _) => price(25, 15),
            (false, true) => 0,
            (false, false) => price(25, estimated(&said)),
        };
        let now = app.balance();
        assert_eq!((now.held, balance - now.balance), (0, cost), "cut at {cut}");
        balance = now.balance;
    }
    app.finish();
}

#[test]
fn an_answer_that_says_why_it_ended_and_not_that_it_did_is_incomplete() {
    let app = setup().start();
    app.upstream.next(Claude::says(&["Hel", "lo"]).cut_before("message_stop"));
    let events = app.stream("Hi", json!({"session_id": "s"})).rest();
    assert_eq!(events.last().expect("events").json()["error"]["code"], "upstream_invalid");
    let said = app.get(&app.account_key, "/v2/sessions/s/messages").ok();
    assert_eq!(
        (&said["messages"][1]["content"], &said["messages"][1]["status"]),
        (&json!("Hello"), &json!("incomplete"))
    );
    assert_eq!(START - app.balance().balance, price(25, 15));
    app.finish();
}

/// Reads until `word` has come, and leaves.
fn leave_after(app: &App, word: &str) {
    let mut stream = app.stream("Hi", json!({"session_id": "s"}));
    let mut text = String::new();
    while !text.ends_with(word) {
        text.push_str(stream.chunk()["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    drop(stream);
    app.upstream.wait_for_aborts(1);
}

#[test]
fn who_leaves_in_mid_stream_pays_for_the_prompt_as_it_was_counted_and_for_what_came() {
    let app = setup().start();
    let row = json!({"model": MODEL, "input": "3.00", "cached_input": "0.30", "output": "15.00"});
    app.post(&app.operator_token, "/admin/prices", &row).is(201);
    let gate = app.upstream.gate();
    let words = ["One two ", "three ", "four"];
    let claude = Claude::says(&words).usage([20, 80, 0], 15);
    app.upstream.next(claude.pause_before("four", &gate));
    leave_after(&app, "three ");
    let spent = START - app.settled().balance;
    assert_eq!(spent, 20 * 3_000 + 80 * 300 + estimated("One two three ") * 15_000);
    let snapshot = Snapshot::live(&app);
    let hold = snapshot.only_hold();
    assert_eq!((hold.state.as_str(), hold.source.as_deref()), ("settled", Some("local")));
    app.finish();
}

#[test]
fn who_leaves_before_the_first_word_pays_nothing() {
    let app = setup().start();
    let gate = app.upstream.gate();
    app.upstream.next(Claude::says(&["One"]).pause_before("One", &gate));
    let mut stream = app.stream("Hi", json!({}));
    assert_eq!(stream.chunk()["choices"][0]["delta"]["role"], "assistant");
    drop(stream);
    app.upstream.wait_for_aborts(1);
    assert_eq!(app.settled().balance, START);
    assert_eq!(Snapshot::live(&app).only_hold().state, "released");
    app.finish();
}

#[test]
fn an_error_in_mid_stream_is_the_last_event_and_what_had_come_is_charged() {
    let app = setup().start();
    for (kind, code) in [
        ("overloaded_error", "upstream_unavailable"),
        ("api_error", "upstream_refused"),
        ("invalid_request_error", "invalid_value"),
    ] {
        let before = app.balance().balance;
        let mut events = Claude::says(&["Hel", "lo"]).events();
        let at = events.iter().position(|event| event.contains("\"lo\"")).expect("the second word");
        events.truncate(at);
        let message = format!("{} of {} broke", PROVIDER_KEY, MODEL);
        events.push(event(&json!({"type": "error", "error": {"type": kind, "message": message}})));
        app.upstream.next(pieces(events));
        let seen = app.stream("Hi", json!({"session_id": kind})).rest();
        assert_eq!(text_of(&seen), "Hel");
        let last = seen.last().expect("events");
        assert_eq!(last.json()["error"]["code"], code, "{kind}");
        for secret in [PROVIDER_KEY, MODEL] {
            assert!(!last.data.contains(secret), "{secret} leaks: {}", last.data);
        }
        assert_eq!(before - app.balance().balance, price(25, estimated("Hel")), "{kind}");
    }
    app.finish();
}

#[test]
fn a_provider_that_says_it_is_at_work_is_not_taken_for_a_stalled_one() {
    // Pings alone for more than twice the time that a silent provider has.
    let app = Setup::default().in_file("kind = \"anthropic\"\nchunk_timeout_s = 2").start();
    let mut events = Claude::says(&["Hi"]).events();
    let pings = std::iter::repeat_n(event(&json!({"type": "ping"})), 30);
    events.splice(2..2, pings);
    app.upstream.next(Pieces { gap: Duration::from_millis(150), ..pieces(events) });
    assert_eq!(text_of(&app.stream("Hi", json!({})).rest()), "Hi");
    assert_eq!(START - app.balance().balance, price(25, 15));
    app.finish();
}

#[test]
fn an_answer_beyond_its_bound_is_cut_there() {
    let app = setup().start();
    let words: Vec<String> = (0..40).map(|number| format!("word{number} ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    app.upstream.next(Claude::says(&words).streamed());
    let chunks = chunks(&app.stream("Hi", json!({"max_tokens": 10})).rest());
    assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "length");
    assert_eq!(START - app.balance().balance, price(25, 10));
    app.finish();
}
