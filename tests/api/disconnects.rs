//! Clients that leave: the provider is stopped at once and nobody pays for what was not generated.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::app::{App, nanos};
use crate::client::Stream;
use crate::script::{Reply, Script};

const START: i64 = 5_000_000_000;

/// The provider's call ends within a second by contract; the rest is for slow machines, and below the
/// five seconds after which a keep-alive comment would show the absence anyhow.
const AT_ONCE: Duration = Duration::from_secs(4);

fn read_until(stream: &mut Stream, wanted: &str) {
    let mut text = String::new();
    while !text.ends_with(wanted) {
        text.push_str(stream.chunk()["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
}

fn ends_at_once(app: &App, left: Instant) {
    let ended = app.upstream.wait_for_aborts(1).remove(0);
    let after = ended.saturating_duration_since(left);
    assert!(after < AT_ONCE, "the provider's call ended only {after:?} after the client had left");
}

#[test]
fn who_leaves_in_mid_stream_pays_for_what_came() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(400).pause_after(30, &gate));
    let mut stream = app.stream("Hello", json!({"max_tokens": 1000}));
    read_until(&mut stream, "w29 ");
    let left = Instant::now();
    drop(stream);
    ends_at_once(&app, left);
    let balance = app.settled();
    let charges = app.charges();
    assert_eq!(charges.len(), 1);
    let counted = |name: &str| charges[0][name].as_i64().unwrap_or_default();
    let (prompt, output) = (counted("prompt_tokens"), counted("output_tokens"));
    assert!((15..=200).contains(&output), "30 words are counted as {output} tokens");
    assert!((1..=500).contains(&prompt), "one word is counted as {prompt} tokens");
    assert_eq!(nanos(&charges[0]["delta"]), -(prompt * 1000 + output * 2000));
    assert_eq!(balance.balance, START + nanos(&charges[0]["delta"]));
    app.finish();
}

#[test]
fn who_leaves_after_nothing_but_thoughts_pays_for_the_thoughts() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).thinking(&["Let me ", "see."]).pause_after(2, &gate));
    let mut stream = app.stream("Hello", json!({}));
    let mut thoughts = String::new();
    while !thoughts.ends_with("see.") {
        let chunk = stream.chunk();
        thoughts.push_str(chunk["choices"][0]["delta"]["reasoning_content"].as_str().unwrap_or_default());
    }
    drop(stream);
    app.upstream.wait_for_aborts(1);
    app.settled();
    let charges = app.charges();
    assert_eq!(charges.len(), 1, "thoughts are output");
    assert!(charges[0]["output_tokens"].as_i64().is_some_and(|output| output >= 1));
    app.finish();
}

#[test]
fn leaving_before_any_output_again_and_again_is_limited() {
    let app = App::start();
    app.upstream.always(Script::Silence);
    let body = app.saying("Hello", json!({"stream": true}));
    let call = app.call("POST", "/v1/chat/completions").key(&app.agent_key).json(&body);
    let mut left = 0;
    let refused = loop {
        let connection = call.connect().expect("a connection");
        let come = app.upstream.requests().len();
        let asked = app.upstream.wait_for_requests_or(left + 1, &connection);
        if !asked {
            break Stream::read(connection).expect("an answer").into_answer().expect("a refusal");
        }
        assert!(come < 200, "prompts are filled in for free, again and again");
        drop(connection);
        left += 1;
        app.upstream.wait_for_aborts(left);
    };
    assert!((30..=60).contains(&left), "{left} could leave before the first was refused");
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!((1..=60).contains(&refused.headers.number("retry-after")));
    assert_eq!(app.settled().balance, START);
    app.finish();
}

#[test]
fn who_leaves_while_the_provider_is_silent_is_noticed() {
    let app = App::start();
    app.upstream.next(Script::Silence);
    let connection =
        app.chat_call(&app.saying("Hello", json!({"stream": true}))).connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    let left = Instant::now();
    drop(connection);
    ends_at_once(&app, left);
    assert_eq!(app.settled().balance, START);
    assert!(app.charges().is_empty(), "nothing came, nothing is charged");
    app.finish();
}

#[test]
fn who_leaves_before_any_output_pays_nothing() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(0, &gate));
    // The role has come, which is no output.
    let connection =
        app.chat_call(&app.saying("Hello", json!({"stream": true}))).connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    let left = Instant::now();
    drop(connection);
    ends_at_once(&app, left);
    assert_eq!(app.settled().balance, START);
    assert!(app.charges().is_empty());
    app.finish();
}

#[test]
fn who_leaves_a_plain_answer_pays_nothing() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(0, &gate));
    let connection = app.chat_call(&app.saying("Hello", json!({}))).connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    let left = Instant::now();
    drop(connection);
    ends_at_once(&app, left);
    assert_eq!(app.settled().balance, START);
    assert!(app.charges().is_empty());
    app.finish();
}

#[test]
fn a_session_goes_on_after_its_client_has_left() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(2, &gate));
    let mut stream = app.stream("one", json!({"session_id": "s"}));
    read_until(&mut stream, "w1 ");
    drop(stream);
    app.upstream.wait_for_aborts(1);
    app.say("two", json!({"session_id": "s"}));
    let texts: Vec<_> = app.upstream.last().said().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "w0 w1 ", "two"]);
    app.settled();
    app.finish();
}

#[test]
fn a_client_that_only_closes_its_sending_side_has_left() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(9).pause_after(0, &gate));
    let connection = app.chat_call(&app.saying("Hello", json!({}))).connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    let left = Instant::now();
    connection.shutdown(std::net::Shutdown::Write).expect("half of it can be closed");
    ends_at_once(&app, left);
    app.settled();
    app.finish();
}

#[test]
fn many_clients_that_leave_at_once_leave_nothing_held() {
    let app = App::start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::long(50).pause_after(3, &gate));
    let mut streams: Vec<Stream> = Vec::new();
    for client in 0..30 {
        streams.push(app.stream(&format!("I am {client}"), json!({"max_tokens": 100})));
    }
    streams.iter_mut().for_each(|stream| read_until(stream, "w2 "));
    drop(streams);
    app.upstream.wait_for_aborts(30);
    let balance = app.settled();
    let charges = app.charges();
    assert_eq!(charges.len(), 30);
    let spent: i64 = charges.iter().map(|charge| nanos(&charge["delta"])).sum();
    assert_eq!(balance.balance, START + spent);
    app.finish();
}

#[test]
fn a_client_that_leaves_while_sending_its_request_harms_nobody() {
    use std::io::Write;
    let app = App::start();
    for part in [
        "POST /v1/chat",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{\"mod",
    ] {
        let mut connection = std::net::TcpStream::connect(&app.addr).expect("a connection");
        connection.write_all(part.as_bytes()).expect("a part can be sent");
    }
    app.say("Hello", json!({}));
    assert_eq!(app.balance().held, 0);
    app.finish();
}
