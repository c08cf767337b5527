//! A provider that answers at once, or in a stream at a steady pace. It runs in a process of its own, so that its memory
//! and its descriptors are not confused with anybody else's.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::text;

/// Bytes of text in a whole answer.
pub const ANSWER: usize = super::residents::MESSAGE;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;

/// Answers until the process is ended; tells its port on the first line of its output.
pub async fn serve(chunks: usize, pause: Duration) -> anyhow::Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener: TcpListener = socket.listen(BACKLOG)?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    loop {
        let (socket, _) = listener.accept().await?;
        actix_rt::spawn(async move {
            // The server closes what it does not need any more.
            let _ = connection(socket, chunks, pause).await;
        });
    }
}

async fn connection(mut socket: TcpStream, chunks: usize, pause: Duration) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let mut read = BytesMut::new();
    loop {
        let body = request(&mut socket, &mut read).await?;
        let streamed = memchr::memmem::find(&body, b"\"stream\":true").is_some();
        drop(body);
        if streamed {
            stream(&mut socket, chunks, pause).await?;
        } else {
            socket.write_all(whole().as_bytes()).await?;
        }
    }
}

/// The body of the next request.
async fn request(socket: &mut TcpStream, read: &mut BytesMut) -> anyhow::Result<BytesMut> {
    let head = loop {
        if let Some(end) = memchr::memmem::find(read, b"\r\n\r\n") {
            break read.split_to(end + 4);
        }
        anyhow::ensure!(socket.read_buf(read).await? > 0, "closed");
    };
    let head = std::str::from_utf8(&head)?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("a length")?.trim().parse()?;
    while read.remaining() < length {
        anyhow::ensure!(socket.read_buf(read).await? > 0, "closed");
    }
    let body = read.split_to(length);
    if read.is_empty() {
        *read = BytesMut::new();
    }
    Ok(body)
}

/// The message of a whole answer.
pub fn message() -> String {
    format!(r#"{{"role":"assistant","content":"{}"}}"#, text("answer", ANSWER))
}

fn whole() -> String {
    let body = format!(
        r#"{{"id":"c","object":"chat.completion","created":1700000000,"model":"bench","choices":[{{"index":0,"message":{},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":150,"completion_tokens":50,"total_tokens":200}}}}"#,
        message()
    );
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// What chunk number `at` says; whoever has all of them in order has the whole stream.
pub fn said(at: usize) -> String {
    format!("word {at} of a stream ")
}

async fn stream(socket: &mut TcpStream, chunks: usize, pause: Duration) -> anyhow::Result<()> {
    socket
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await?;
    for at in 0..chunks {
        event(socket, &chunk(&format!(r#"{{"content":"{}"}}"#, said(at)), "null")).await?;
        sleep(pause).await;
    }
    event(socket, &chunk("{}", "\"stop\"")).await?;
    event(
        socket,
        r#"{"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"bench","choices":[],"usage":{"prompt_tokens":150,"completion_tokens":200,"total_tokens":350}}"#,
    )
    .await?;
    event(socket, "[DONE]").await?;
    Ok(socket.write_all(b"0\r\n\r\n").await?)
}

fn chunk(delta: &str, finish: &str) -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"bench","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]}}"#
    )
}

async fn event(socket: &mut TcpStream, data: &str) -> anyhow::Result<()> {
    let event = format!("data: {data}\n\n");
    Ok(socket.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?)
}
