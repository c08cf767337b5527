//! Bodies that are too large, too many, too slow or compressed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::json;

use crate::app::{App, Setup, eventually};
use crate::client::PATIENCE;
use crate::hostile::{chat_head, check_memory, connect, exchange, memory, read_to_close, statuses};
use crate::metrics::{read, value};

const WRONG: &str = "invalid_request_error";

/// Sends the same piece again and again until the server closes; answers what it said.
fn pour(app: &App, head: &str, piece: &[u8]) -> String {
    let mut stream = connect(app);
    stream.write_all(head.as_bytes()).expect("the head is taken");
    let mut reader = stream.try_clone().expect("another handle");
    let answer = std::thread::spawn(move || {
        let mut answer = Vec::new();
        let _ = reader.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    });
    let began = Instant::now();
    while stream.write_all(piece).is_ok() {
        assert!(began.elapsed() < PATIENCE, "the server reads for ever");
    }
    answer.join().expect("the answer is read")
}

/// A body of `size` bytes that has come up to its last byte.
fn unfinished(app: &App, size: usize) -> TcpStream {
    let mut stream = connect(app);
    let head = chat_head(app, &app.account_key, &format!("Content-Length: {size}\r\n\r\n"));
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&vec![b' '; size - 1]);
    stream
}

#[test]
fn a_body_without_an_end_is_refused_and_not_read_for_ever() {
    let app = App::start();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let endless = "Transfer-Encoding: chunked\r\n\r\n";
    let said = pour(&app, &chat_head(&app, &app.account_key, endless), chunk.as_bytes());
    assert!(said.is_empty() || statuses(&said) == [413], "{said}");
    let said = pour(&app, &chat_head(&app, "ak_nobody", endless), chunk.as_bytes());
    assert!(said.is_empty() || statuses(&said) == [401], "{said}");
    let nowhere = chat_head(&app, &app.account_key, endless).replace("/v1/chat/completions", "/nowhere");
    let said = pour(&app, &nowhere, chunk.as_bytes());
    assert!(said.is_empty() || statuses(&said) == [404], "{said}");
    let gigabyte = chat_head(&app, &app.account_key, "Content-Length: 1000000000\r\n\r\n");
    let said = pour(&app, &gigabyte, &[b' '; 0x10000]);
    assert!(said.is_empty() || statuses(&said) == [413], "{said}");
    check_memory(&app);
    app.say("Hello", json!({}));
    app.finish();
}

#[test]
fn what_is_announced_and_not_sent_takes_up_nothing() {
    let app = App::start();
    let before = memory(&app);
    let head = chat_head(&app, &app.account_key, "Content-Length: 20000000\r\n\r\n{");
    let open = |_| {
        let mut stream = connect(&app);
        stream.write_all(head.as_bytes()).expect("the head is taken");
        stream
    };
    let streams: Vec<TcpStream> = (0..200).map(open).collect();
    app.say("Hello", json!({}));
    let more = memory(&app).saturating_sub(before);
    assert!(more < 64 * 1024 * 1024, "200 announcements take up {more} bytes");
    drop(streams);
    app.finish();
}

/// What the server itself counts.
fn body_memory(app: &App) -> f64 {
    value(&read(app), "switchboard_body_memory_bytes").expect("it is told")
}

#[test]
fn bodies_over_what_all_may_come_to_are_503_until_others_are_gone() {
    let app = Setup::default().arg("--body-memory-bytes=4000000").arg("--max-body-bytes=1000000").start();
    let mut first: Vec<TcpStream> = (0..2).map(|_| unfinished(&app, 1_000_000)).collect();
    eventually("both bodies are there", || (body_memory(&app) > 3_900_000.0).then_some(()));
    let large = app.saying(&"a".repeat(100_000), json!({}));
    let refused = app.chat(&large);
    refused.refused(503, "server_error", "overloaded");
    assert!(refused.headers.number("retry-after") >= 1);
    app.get(&app.account_key, "/v2/billing/balance").is(200);
    drop(first.pop());
    eventually("there is room again", || Some(app.chat(&large)).filter(|answer| answer.status == 200));
    app.finish();
}

#[test]
fn the_body_of_a_running_turn_counts_until_its_end() {
    let app = Setup::default().arg("--body-memory-bytes=2000000").arg("--max-body-bytes=1000000").start();
    let gate = app.upstream.gate();
    app.upstream.next(crate::script::Reply::long(20).pause_after(10, &gate));
    let mut running = app.stream(&"a".repeat(900_000), json!({}));
    let large = app.saying(&"b".repeat(600_000), json!({}));
    app.chat(&large).refused(503, "server_error", "overloaded");
    gate.open();
    running.rest();
    eventually("there is room again", || Some(app.chat(&large)).filter(|answer| answer.status == 200));
    app.finish();
}

#[test]
fn many_large_bodies_stay_within_the_memory_that_is_promised() {
    let app = App::start();
    let text = "a".repeat(15_000_000);
    let body = app.saying(&text, json!({"max_tokens": 1}));
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let status = app.chat(&body).status;
                assert!([200, 402, 503].contains(&status), "a large chat is answered {status}");
            });
        }
        for _ in 0..50 {
            check_memory(&app);
            app.get(&app.account_key, "/v2/billing/balance").is(200);
        }
    });
    check_memory(&app);
    app.finish();
}

#[test]
fn a_body_that_trickles_in_is_408_and_ends_the_connection() {
    let app = Setup::default().arg("--body-timeout=1").start();
    for lines in ["Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"] {
        let said = exchange(&app, chat_head(&app, &app.account_key, lines).as_bytes());
        assert_eq!(statuses(&said), [408], "{said}");
        assert!(said.contains("request_timeout"), "{said}");
    }
    app.say("Hello", json!({}));
    app.finish();
}

#[test]
fn a_compressed_body_is_415_and_never_inflated() {
    let app = App::start();
    for encoding in ["gzip", "deflate", "br", "zstd", "gzip, gzip", "nonsense"] {
        for path in ["/v1/chat/completions", "/v2/agents"] {
            let call = app.call("POST", path).key(&app.account_key).header("Content-Encoding", encoding);
            let answer = call.body("application/json", [0x1f, 0x8b, 8, 0]).send();
            answer.refused(415, WRONG, "unsupported_encoding");
        }
    }
    app.chat_call(&app.saying("Hello", json!({}))).header("Content-Encoding", "identity").send().is(200);
    app.finish();
}

#[test]
fn who_asks_before_sending_is_refused_before_sending() {
    let app = App::start();
    let cases = [
        ("ak_nobody", "Content-Length: 10\r\n", 401),
        (&app.account_key, "Content-Length: 999999999\r\n", 413),
        (&app.account_key, "Content-Length: 10\r\nContent-Encoding: gzip\r\n", 415),
    ];
    for (key, lines, status) in cases {
        let mut stream = connect(&app);
        let head = chat_head(&app, key, &format!("{lines}Expect: 100-continue\r\n\r\n"));
        stream.write_all(head.as_bytes()).expect("the head is taken");
        let said = read_to_close(&mut stream);
        assert_eq!(statuses(&said), [status], "{said}");
        assert!(said.contains("x-request-id: req_"), "{said}");
    }
    app.finish();
}
