//! What attacks on the server's input have in common: raw bytes on a socket, and what the server takes up meanwhile.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::app::App;
use crate::client::PATIENCE;

/// What the server may take up under attack, in bytes.
pub const MOST_MEMORY: u64 = 512 * 1024 * 1024;

/// A connection on which anything can be sent.
pub fn connect(app: &App) -> TcpStream {
    let stream = TcpStream::connect(&app.addr).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Everything that comes until the server closes; fails the test when it does not.
pub fn read_to_close(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            panic!("the connection stays open after {:?}", String::from_utf8_lossy(&answer));
        }
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

/// Sends bytes and reads until the server closes.
pub fn exchange(app: &App, bytes: &[u8]) -> String {
    let mut stream = connect(app);
    // The server may refuse and close before everything is sent.
    let _ = stream.write_all(bytes);
    read_to_close(&mut stream)
}

/// The status codes of the answers in `text`, in order.
pub fn statuses(text: &str) -> Vec<u16> {
    let found =
        text.match_indices("HTTP/1.1 ").filter_map(|(at, found)| text.get(at + found.len()..)?.get(..3));
    found.filter_map(|status| status.parse().ok()).collect()
}

/// The head of a chat with these header lines, without the empty line that ends it.
pub fn chat_head(app: &App, key: &str, lines: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\n{lines}",
        app.addr
    )
}

/// What the server takes up now, in bytes.
pub fn memory(app: &App) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", app.pid())).expect("the kernel tells");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("a line about it");
    let kilobytes: u64 =
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number");
    kilobytes * 1024
}

/// Fails the test when the server takes up too much.
pub fn check_memory(app: &App) {
    let memory = memory(app);
    assert!(memory < MOST_MEMORY, "the server takes up {memory} bytes");
}
