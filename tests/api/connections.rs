//! One connection that carries several requests, and requests that try to be taken for two.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::app::App;
use crate::client::{PATIENCE, Stream};
use crate::hostile;

const LAST: &str = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Sends `first` and one last request on one connection; answers the status lines that come back.
fn statuses(app: &App, first: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(&app.addr).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let _ = stream.write_all(format!("{first}{LAST}").as_bytes());
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers);
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let lines =
        answers.match_indices("HTTP/1.1 ").filter_map(|(at, found)| answers[at + found.len()..].get(..3));
    lines.map(str::to_owned).collect()
}

fn chat_request(app: &App, key: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        app.addr,
        body.len()
    )
}

#[test]
fn a_connection_is_used_again_after_plain_and_streamed_answers() {
    let app = App::start();
    for stream in [false, true] {
        let body = app.saying("Hello", json!({ "stream": stream })).to_string();
        assert_eq!(statuses(&app, &chat_request(&app, &app.agent_key, &body)), ["200", "200"]);
    }
    app.finish();
}

#[test]
fn slashes_too_many_in_a_path_change_neither_the_call_nor_its_body() {
    let app = App::start();
    let body = app.saying("Hello", json!({})).to_string();
    for path in ["/v1/chat/completions/", "//v1///chat/completions", "/v1/chat/completions//?a=//b/"] {
        let request = chat_request(&app, &app.agent_key, &body).replace("/v1/chat/completions", path);
        assert_eq!(statuses(&app, &request), ["200", "200"], "{path}");
    }
    assert_eq!(app.charges().len(), 3);
    app.finish();
}

#[test]
fn the_body_of_a_refused_request_is_never_taken_for_the_next_request() {
    let app = App::start();
    let smuggled = "GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n";
    let refused = [
        ("401", chat_request(&app, "ak_nobody", smuggled)),
        ("403", chat_request(&app, &app.operator_token, smuggled)),
        ("400", chat_request(&app, &app.agent_key, smuggled)),
        ("404", chat_request(&app, &app.agent_key, smuggled).replace("/v1/chat/completions", "/nowhere")),
        ("415", chat_request(&app, &app.agent_key, smuggled).replace("application/json", "text/plain")),
    ];
    for (status, request) in refused {
        let statuses = statuses(&app, &request);
        assert_eq!(statuses[0], status);
        assert!(statuses.len() <= 2, "the body was taken for a request: {statuses:?}");
    }
    app.finish();
}

/// Refused without a look at their bodies, for each reason that there is.
fn refused(app: &App, body: &str) -> [(u16, String); 4] {
    let ours = chat_request(app, &app.agent_key, body);
    [
        (401, chat_request(app, "ak_nobody", body)),
        (403, chat_request(app, &app.operator_token, body)),
        (404, ours.replace("/v1/chat/completions", "/nowhere")),
        (415, ours.replace("application/json", "text/plain")),
    ]
}

#[test]
fn a_refusal_keeps_the_connection_when_the_body_is_small_and_there() {
    let app = App::start();
    let chunks = |request: String| {
        let (head, body) = request.split_once("\r\n\r\n").expect("a head");
        let (head, _) = head.rsplit_once("\r\n").expect("its length is the last line");
        format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    };
    for body in ["{}".to_owned(), "x".repeat(16 * 1024)] {
        for (status, request) in refused(&app, &body) {
            for request in [request.clone(), chunks(request)] {
                let mut stream = hostile::connect(&app);
                for _ in 0..3 {
                    stream.write_all(request.as_bytes()).expect("the connection is open");
                    let answer = Stream::read(stream.try_clone().expect("another handle"));
                    let answer = answer.and_then(Stream::into_answer).expect("a whole answer");
                    assert_eq!(answer.status, status, "{}", answer.text());
                    assert_eq!(answer.headers.find("connection"), None, "{status}");
                }
                stream.write_all(LAST.as_bytes()).expect("the connection is open");
                assert_eq!(hostile::statuses(&hostile::read_to_close(&mut stream)), [200]);
            }
        }
    }
    app.finish();
}

#[test]
fn a_refusal_closes_the_connection_when_the_body_is_large_or_does_not_come() {
    let app = App::start();
    let large = "x".repeat(16 * 1024 + 1);
    let chunk = format!("{:x}\r\n{large}\r\n", large.len());
    for (status, request) in refused(&app, &large) {
        let (head, _) = request.split_once("\r\n\r\n").expect("a head");
        let (other, _) = head.rsplit_once("\r\n").expect("its length is the last line");
        let slow = format!("{other}\r\nContent-Length: 10\r\n\r\n12345");
        let endless = format!("{other}\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
        let broken = format!("{other}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
        for request in [request, slow, endless, broken] {
            let said = hostile::exchange(&app, request.as_bytes());
            assert_eq!(hostile::statuses(&said)[0], status, "{said}");
            assert!(said.to_ascii_lowercase().contains("connection: close"), "{said}");
        }
    }
    app.finish();
}

#[test]
fn an_expectation_to_go_on_is_met() {
    let app = App::start();
    let body = app.saying("Hello", json!({})).to_string();
    let request =
        chat_request(&app, &app.agent_key, &body).replacen("Host:", "Expect: 100-continue\r\nHost:", 1);
    let statuses = statuses(&app, &request);
    assert!(statuses.ends_with(&["200".to_owned(), "200".to_owned()]), "{statuses:?}");
    app.finish();
}

#[test]
fn a_body_in_chunks_is_taken_like_one_with_a_length() {
    let app = App::start();
    let body = app.saying("Hello", json!({})).to_string();
    let (start, end) = body.split_at(body.len() / 2);
    let chunks = format!("{:x}\r\n{start}\r\n{:x}\r\n{end}\r\n0\r\n\r\n", start.len(), end.len());
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}",
        app.addr, app.agent_key
    );
    assert_eq!(statuses(&app, &request), ["200", "200"]);
    app.finish();
}
