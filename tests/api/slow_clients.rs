//! Clients that take their time, and more of them than there is room for.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::app::{App, Setup, eventually};
use crate::hostile::{chat_head, check_memory, connect, read_to_close, statuses};
use crate::script::Reply;

const LIVE: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// Sends a whole request and reads its answer, whose connection stays.
fn served(app: &App) -> TcpStream {
    let mut stream = connect(app);
    stream.write_all(LIVE.as_bytes()).expect("the request is taken");
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer).expect("an answer");
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    stream
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_408() {
    let app = Setup::default().arg("--head-timeout=1").start();
    let mut silent = connect(&app);
    let mut first = connect(&app);
    first.write_all(b"GET /livez HT").expect("it is taken");
    let mut second = served(&app);
    second.write_all(b"GET /livez HTTP/1.1\r\nX: ").expect("it is taken");
    for stream in [&mut silent, &mut first, &mut second] {
        let said = read_to_close(stream);
        assert_eq!(statuses(&said), [408], "{said}");
    }
    app.finish();
}

#[test]
fn a_head_that_comes_byte_by_byte_does_not_prolong_its_time() {
    let app = Setup::default().arg("--head-timeout=1").start();
    let mut stream = served(&app);
    let mut writer = stream.try_clone().expect("another handle");
    let sender = std::thread::spawn(move || {
        let head = "GET /livez HTTP/1.1\r\nX: ".chars().chain(std::iter::repeat('a'));
        for letter in head {
            if writer.write_all(letter.to_string().as_bytes()).is_err() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50)); // the client's own slowness
        }
    });
    let said = read_to_close(&mut stream);
    assert_eq!(statuses(&said), [408], "{said}");
    drop(stream);
    sender.join().expect("the server closes");
    app.finish();
}

#[test]
fn a_connection_without_a_request_is_closed_without_a_word() {
    let app = Setup::default().arg("--keep-alive=1").start();
    let mut idle = served(&app);
    assert_eq!(read_to_close(&mut idle), "");
    // Half a head that came together with a whole one ends no later.
    let mut half = connect(&app);
    half.write_all(format!("{LIVE}GET /li").as_bytes()).expect("it is taken");
    assert_eq!(statuses(&read_to_close(&mut half)), [200]);
    app.finish();
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    let app = Setup::default().arg("--stall-timeout=1").start();
    app.upstream.always(Reply::long(200_000));
    let body = app.saying("Hello", json!({"stream": true, "max_tokens": 300_000})).to_string();
    let head = chat_head(&app, &app.account_key, &format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut stream = connect(&app);
    stream.write_all(format!("{head}{body}").as_bytes()).expect("the request is taken");
    eventually("the turn is over", || {
        let streams = app.get(&app.operator_token, "/admin/streams").ok();
        streams["streams"].as_array().filter(|list| list.is_empty()).map(|_| ())
    });
    app.finish();
}

#[test]
fn one_connection_too_many_is_told_so_and_room_that_is_given_back_is_used() {
    let app = Setup::default().arg("--max-connections=20").start();
    let mut held: Vec<TcpStream> = (0..20).map(|_| served(&app)).collect();
    let mut late = connect(&app);
    let said = read_to_close(&mut late);
    assert_eq!(statuses(&said), [503], "{said}");
    assert!(said.contains("retry-after: 1") && said.contains("\"overloaded\""), "{said}");
    held.truncate(5);
    eventually("there is room again", || {
        let answer = app.call("GET", "/livez").try_send().ok()?;
        (answer.status == 200).then_some(())
    });
    drop(held);
    app.finish();
}

#[test]
fn hundreds_of_idle_and_half_open_connections_leave_room_for_honest_clients() {
    let app = App::start();
    let halves = (0..400).map(|_| {
        let mut stream = connect(&app);
        let _ = stream.write_all(format!("GET /livez HTTP/1.1\r\nX: {}", "a".repeat(15_000)).as_bytes());
        stream
    });
    let held: Vec<TcpStream> = halves.chain((0..400).map(|_| connect(&app))).collect();
    app.say("Hello", json!({}));
    check_memory(&app);
    drop(held);
    app.finish();
}
