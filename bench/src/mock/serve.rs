//! The provider's own process.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answers::{Answers, whole};
use super::{HOLD_LIMIT, PROMPT_TOKENS, Shape};
use crate::framing::{Chunks, Framing};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 8_192;

/// The longest request.
const REQUEST_BYTES: usize = 32 << 20;

struct State {
    answers: Mutex<Arc<Answers>>,
    released: watch::Sender<bool>,
    asked: AtomicU64,
    whole: AtomicU64,
    output_tokens: AtomicU64,
}

/// Serves until standard input ends, which is when whoever started this process has ended.
pub async fn run() -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(BACKLOG)?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let state = Arc::new(State {
        answers: Mutex::new(Arc::new(Answers::of(Shape::of(1)))),
        released: watch::Sender::new(false),
        asked: AtomicU64::new(0),
        whole: AtomicU64::new(0),
        output_tokens: AtomicU64::new(0),
    });
    let serving = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let state = state.clone();
                    // A client that leaves ends its connection, which is no fault of anybody's.
                    tokio::spawn(async move { serve(stream, &state).await.ok() });
                }
                Err(_) => sleep(Duration::from_millis(10)).await, // no file left; some connection will end
            }
        }
    };
    let (ended, farewell) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = ended.send(());
    });
    tokio::select! {
        () = serving => Ok(()),
        _ = farewell => Ok(()),
    }
}

struct Request {
    line: String,
    body: Vec<u8>,
}

async fn serve(mut stream: TcpStream, state: &State) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::new();
    while let Some(request) = read(&mut stream, &mut input).await? {
        if request.line.starts_with("POST ") {
            state.asked.fetch_add(1, Relaxed);
            let answers = state.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            answer(&mut stream, state, &answers, &request.body).await?;
            state.whole.fetch_add(1, Relaxed);
            state.output_tokens.fetch_add(answers.shape.chunks, Relaxed);
        } else {
            let told = control(state, &request)?;
            stream.write_all(&told).await?;
        }
    }
    Ok(())
}

/// What is asked by the benchmark itself, not by those who are measured.
fn control(state: &State, request: &Request) -> Result<Vec<u8>> {
    match request.line.as_str() {
        "PUT /bench/shape" => {
            let shape = Shape::of_json(&serde_json::from_slice(&request.body)?);
            state.released.send_replace(false);
            *state.answers.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Answers::of(shape));
            Ok(whole(&json!({})))
        }
        "PUT /bench/release" => {
            state.released.send_replace(true);
            Ok(whole(&json!({})))
        }
        "GET /bench/calls" => Ok(whole(&json!({
            "asked": state.asked.load(Relaxed),
            "whole": state.whole.load(Relaxed),
            "output_tokens": state.output_tokens.load(Relaxed),
            "prompt_tokens": PROMPT_TOKENS * state.whole.load(Relaxed),
        }))),
        _ => Ok(whole(&json!({"object": "list", "data": []}))),
    }
}

async fn answer(stream: &mut TcpStream, state: &State, answers: &Answers, body: &[u8]) -> Result<()> {
    let shape = answers.shape;
    if !shape.think.is_zero() {
        sleep(shape.think).await;
    }
    if !is_true(body, b"\"stream\"") {
        return Ok(stream.write_all(&answers.plain).await?);
    }
    let usage = is_true(body, b"\"include_usage\"");
    if shape.gap.is_zero() && shape.hold_after.is_none() {
        return Ok(stream.write_all(answers.stream(usage)).await?);
    }
    stream.write_all(answers.opening()).await?;
    let mut due = Instant::now();
    for at in 0..shape.chunks {
        if shape.hold_after == Some(at) {
            let mut released = state.released.subscribe();
            let _ = timeout(HOLD_LIMIT, released.wait_for(|released| *released)).await;
            due = Instant::now();
        }
        sleep_until(due).await;
        stream.write_all(answers.piece(at)).await?;
        due += shape.gap;
    }
    Ok(stream.write_all(answers.ending(usage)).await?)
}

/// Whether a field of this name, wherever it stands, is `true`.
fn is_true(body: &[u8], name: &[u8]) -> bool {
    memmem::find_iter(body, name).any(|at| {
        let value = body[at + name.len()..].trim_ascii_start();
        value.strip_prefix(b":").is_some_and(|value| value.trim_ascii_start().starts_with(b"true"))
    })
}

/// The next request; `None` when the client has closed.
async fn read(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<Option<Request>> {
    let (line, mut framing) = loop {
        if let Some(end) = memmem::find(input, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&input[..end]).into_owned();
            input.drain(..end + 4);
            break read_head(&head)?;
        }
        if input.len() > REQUEST_BYTES {
            bail!("a head without an end");
        }
        if stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = Vec::new();
    while !framing.take(input, &mut body)? {
        if body.len() > REQUEST_BYTES || stream.read_buf(input).await? == 0 {
            bail!("a request that is cut or too long");
        }
    }
    Ok(Some(Request { line, body }))
}

fn read_head(head: &str) -> Result<(String, Framing)> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let line = format!("{} {}", words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut framing = Framing::Length(0);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(value.trim().parse().context("content-length")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::Chunks(Chunks::default());
        }
    }
    Ok((line, framing))
}

#[cfg(test)]
mod tests {
    use super::is_true;

    #[test]
    fn a_flag_is_found_however_it_is_written() {
        assert!(is_true(br#"{"stream":true}"#, b"\"stream\""));
        assert!(is_true(br#"{"stream" : true}"#, b"\"stream\""));
        assert!(!is_true(br#"{"stream":false}"#, b"\"stream\""));
        assert!(!is_true(br#"{"stream_options":{}}"#, b"\"stream\""));
        assert!(!is_true(br#"{"a":"\"stream\""}"#, b"\"stream\""));
    }
}
