//! A client's connection: one request after the other, and what came back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use memchr::memmem;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::framing::{Chunks, Framing};
use crate::mock::TOKEN;

/// How long an answer may take before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The most headers of an answer.
const HEADERS: usize = 64;

/// The longest head of an answer.
const HEAD_BYTES: usize = 64 << 10;

/// What came back for one request.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The id of the completion, where the server tells one.
    pub completion: Option<String>,
    /// When the first piece of content was there.
    pub first: Option<Instant>,
    /// Pieces of content.
    pub chunks: u64,
    /// Whether a stream ended with `[DONE]`.
    pub done: bool,
    /// The body, of an answer that is no stream.
    pub body: Vec<u8>,
}

impl Answer {
    /// What is wrong with an answer that should have held so many pieces of content.
    pub fn fault(&self, chunks: u64, streamed: bool) -> Option<String> {
        if self.status != 200 {
            let body = String::from_utf8_lossy(&self.body);
            return Some(format!("status {}: {}", self.status, body.chars().take(300).collect::<String>()));
        }
        if streamed && !self.done {
            return Some(format!("a stream without [DONE], after {} of {chunks} chunks", self.chunks));
        }
        (self.chunks != chunks).then(|| format!("{} chunks instead of {chunks}", self.chunks))
    }
}

/// A connection that is kept alive, opened where there is none.
pub struct Wire {
    addr: SocketAddr,
    stream: Option<TcpStream>,
    input: Vec<u8>,
    keep: bool,
}

impl Wire {
    /// A client of this server, not yet connected.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None, input: Vec::new(), keep: true }
    }

    /// Sends a request and reads the answer; `begun` is told when the first content has come.
    pub async fn call(&mut self, request: &[u8], begun: impl FnMut()) -> Result<Answer> {
        let answer = match timeout(PATIENCE, self.exchange(request, begun)).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow::anyhow!("no whole answer within {} s", PATIENCE.as_secs())),
        };
        if answer.is_err() || !self.keep {
            self.stream = None;
        }
        answer
    }

    async fn exchange(&mut self, request: &[u8], mut begun: impl FnMut()) -> Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.addr).await.context("no connection")?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        self.input.clear();
        stream.write_all(request).await.context("the request cannot be sent")?;
        let head = self.head(&mut stream).await?;
        let mut answer = Answer {
            status: head.status,
            completion: head.completion,
            first: None,
            chunks: 0,
            done: false,
            body: Vec::new(),
        };
        let mut framing = head.framing;
        let mut pending = Vec::new();
        loop {
            let body = if head.events { &mut pending } else { &mut answer.body };
            let whole = framing.take(&mut self.input, body)?;
            if head.events && events(&mut pending, &mut answer) {
                begun();
            }
            if whole {
                break;
            }
            if stream.read_buf(&mut self.input).await.context("the answer broke off")? == 0 {
                if head.events {
                    return Ok(answer); // without [DONE], which is its fault
                }
                bail!("the answer broke off");
            }
        }
        if !head.events {
            answer.chunks = u64::from(memmem::find(&answer.body, TOKEN.as_bytes()).is_some());
            answer.first = Some(Instant::now());
        }
        self.keep = head.keep;
        self.stream = Some(stream);
        Ok(answer)
    }

    async fn head(&mut self, stream: &mut TcpStream) -> Result<Head> {
        loop {
            if let Some((head, length)) = Head::parse(&self.input)? {
                self.input.drain(..length);
                return Ok(head);
            }
            if self.input.len() > HEAD_BYTES {
                bail!("the head of an answer has more than {HEAD_BYTES} bytes");
            }
            if stream.read_buf(&mut self.input).await.context("there is no answer")? == 0 {
                bail!("the connection was closed instead of an answer");
            }
        }
    }

    /// A request with a JSON answer, for all that is not measured.
    pub async fn json(&mut self, method: &str, path: &str, key: &str, body: Option<&Value>) -> Result<Value> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.addr);
        if !key.is_empty() {
            request += &format!("Authorization: Bearer {key}\r\n");
        }
        if body.is_some() {
            request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", text.len());
        }
        request += "\r\n";
        request += &text;
        let answer =
            self.call(request.as_bytes(), || {}).await.with_context(|| format!("{method} {path}"))?;
        if !(200..300).contains(&answer.status) {
            bail!(
                "{method} {path} is answered with {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("the answer of {method} {path} is no JSON"))
    }
}

struct Head {
    status: u16,
    completion: Option<String>,
    framing: Framing,
    events: bool,
    keep: bool,
}

impl Head {
    fn parse(input: &[u8]) -> Result<Option<(Self, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(input).context("the head of an answer")?
        else {
            return Ok(None);
        };
        let mut head = Self {
            status: response.code.unwrap_or_default(),
            completion: None,
            framing: Framing::Length(0),
            events: false,
            keep: true,
        };
        for header in response.headers.iter() {
            let value = String::from_utf8_lossy(header.value);
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    head.framing = Framing::Length(value.trim().parse().context("content-length")?)
                }
                "transfer-encoding" => head.framing = Framing::Chunks(Chunks::default()),
                "content-type" => head.events = value.starts_with("text/event-stream"),
                "connection" => head.keep = !value.eq_ignore_ascii_case("close"),
                "x-completion-id" => head.completion = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(Some((head, length)))
    }
}

/// Counts what the whole lines of a stream hold; `true` if the first content was among them.
fn events(pending: &mut Vec<u8>, answer: &mut Answer) -> bool {
    let Some(end) = memchr::memrchr(b'\n', pending) else { return false };
    let before = answer.chunks;
    for line in pending[..end].split(|byte| *byte == b'\n') {
        if memmem::find(line, TOKEN.as_bytes()).is_some() {
            answer.chunks += 1;
        } else if line.starts_with(b"data: [DONE]") {
            answer.done = true;
        }
    }
    pending.drain(..=end);
    let begun = before == 0 && answer.chunks > 0;
    if begun {
        answer.first = Some(Instant::now());
    }
    begun
}
