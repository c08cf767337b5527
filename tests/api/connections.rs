//! One connection that carries several requests, and requests that try to be taken for two.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::app::App;
use crate::client::PATIENCE;

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
