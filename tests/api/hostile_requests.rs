//! Requests that are no requests, or that try to be taken for two.

use serde_json::json;

use crate::app::App;
use crate::hostile::{chat_head, check_memory, exchange, statuses};

const LIVE: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
const LAST: &str = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn a_body_whose_length_can_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let app = App::start();
    let body = app.saying("Hello", json!({})).to_string();
    let length = body.len();
    let chunks = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let cases = [
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n"), &chunks),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n"), &chunks),
        (format!("Content-Length: {length}\r\nContent-Length: {length}\r\n\r\n"), &body),
        (format!("Content-Length: {length}\r\nContent-Length: 0\r\n\r\n"), &body),
        (format!("Content-Length: {length}, {length}\r\n\r\n"), &body),
        (format!("Content-Length: +{length}\r\n\r\n"), &body),
        (format!("Content-Length : {length}\r\n\r\n"), &body),
        ("Content-Length: -1\r\n\r\n".to_owned(), &body),
        ("Content-Length: 0x10\r\n\r\n".to_owned(), &body),
        ("Content-Length: 99999999999999999999999\r\n\r\n".to_owned(), &body),
        ("Content-Length: \r\n\r\n".to_owned(), &body),
        ("Transfer-Encoding: xchunked\r\n\r\n".to_owned(), &chunks),
        ("Transfer-Encoding: chunked, identity\r\n\r\n".to_owned(), &chunks),
        ("Transfer-Encoding: gzip, chunked\r\n\r\n".to_owned(), &chunks),
        ("Transfer-Encoding: identity\r\n\r\n".to_owned(), &body),
        ("Transfer-Encoding: \u{b}chunked\r\n\r\n".to_owned(), &chunks),
        ("Transfer-Encoding : chunked\r\n\r\n".to_owned(), &chunks),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), &chunks),
        (format!("Content-Length: {length}\r\nX: a\r\n b\r\n\r\n"), &body),
        (format!("Content-Length: {length}\r\nX : a\r\n\r\n"), &body),
        (format!("Content-Length: {length}\r\nX: a\0b\r\n\r\n"), &body),
        (format!("Content-Length: {length}\r\nX: a\rb\r\n\r\n"), &body),
        (format!("Content-Length: {length}\r\nHost: other\r\n\r\n"), &body),
    ];
    for (lines, body) in cases {
        let said =
            exchange(&app, format!("{}{body}{LAST}", chat_head(&app, &app.agent_key, &lines)).as_bytes());
        assert_eq!(statuses(&said), [400], "{lines:?} is answered {said}");
    }
    assert!(app.upstream.requests().is_empty(), "one of them was taken for a chat");
    app.finish();
}

#[test]
fn chunks_that_are_none_end_the_connection() {
    let app = App::start();
    for chunks in [
        "fffffffffffffffff\r\na",
        "-1\r\na",
        "0x10\r\na",
        "\r\n\r\n",
        "5\na\n0\n\n",
        "1;\na\r\n",
        "1\r\nab\r\n",
        "g\r\n",
    ] {
        let lines = "Transfer-Encoding: chunked\r\n\r\n";
        let said =
            exchange(&app, format!("{}{chunks}{LAST}", chat_head(&app, &app.agent_key, lines)).as_bytes());
        let statuses = statuses(&said);
        assert!(matches!(&statuses[..], [] | [400]), "{chunks:?} is answered {said}");
    }
    assert!(app.upstream.requests().is_empty());
    app.finish();
}

#[test]
fn what_is_no_http_is_refused_and_harms_nobody() {
    let app = App::start();
    let hello: &[u8] = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let everything: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    for nonsense in [
        hello,
        &everything,
        b"GET /\r\n\r\n",
        b"GET /livez\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n Host: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        let said = exchange(&app, nonsense);
        assert!(matches!(&statuses(&said)[..], [] | [400]), "{nonsense:?} is answered {said}");
    }
    app.say("Hello", json!({}));
    app.finish();
}

#[test]
fn a_head_that_is_too_large_is_431() {
    let app = App::start();
    let large = [
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(100_000)),
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(2_000_000)),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000)),
        format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: a\r\n".repeat(200)),
        format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: a\r\n".repeat(100_000)),
        // And as the second of a connection.
        format!("{LIVE}GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(100_000)),
    ];
    for head in &large {
        let said = exchange(&app, head.as_bytes());
        assert!(
            matches!(&statuses(&said)[..], [] | [431] | [200] | [200, 431]),
            "{} is answered {said}",
            &head[..60]
        );
        assert_eq!(head.starts_with(LIVE), said.starts_with("HTTP/1.1 200"), "{said}");
    }
    let fits =
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\nConnection: close\r\n\r\n", "a".repeat(12_000));
    assert_eq!(statuses(&exchange(&app, fits.as_bytes())), [200]);
    check_memory(&app);
    app.finish();
}

#[test]
fn requests_in_one_write_are_answered_in_their_order() {
    let app = App::start();
    let nowhere = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut expected = Vec::new();
    let mut all = String::new();
    for number in 0..2_000 {
        all.push_str(if number % 3 == 0 { nowhere } else { LIVE });
        expected.push(if number % 3 == 0 { 404 } else { 200 });
    }
    all.push_str(LAST);
    expected.push(200);
    // Sent and read at the same time: what is not read in time would stop both sides.
    let mut stream = crate::hostile::connect(&app);
    let mut writer = stream.try_clone().expect("another handle");
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut writer, all.as_bytes()));
    let said = crate::hostile::read_to_close(&mut stream);
    sender.join().expect("the sender ends").expect("everything is taken");
    assert_eq!(statuses(&said), expected);
    let body = app.saying("Hello", json!({})).to_string();
    let head = chat_head(&app, &app.agent_key, &format!("Content-Length: {}\r\n\r\n", body.len()));
    let mixed = format!("{head}{body}{nowhere}{LIVE}{head}{body}{LAST}");
    assert_eq!(statuses(&exchange(&app, mixed.as_bytes())), [200, 404, 200, 200, 200]);
    app.finish();
}
