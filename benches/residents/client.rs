//! A client of the server: one connection that stays open, HTTP/1.1.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection, and what was read of it beyond the last answer.
pub struct Connection {
    socket: TcpStream,
    read: BytesMut,
}

/// The first lines of an answer.
struct Head {
    status: u16,
    /// Bytes of the body; `None` where it comes in chunks.
    length: Option<usize>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(to).await.with_context(|| format!("connecting to {to}"))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, read: BytesMut::new() })
    }

    /// Sends a request and reads the whole answer, which has to be a success.
    pub async fn call(&mut self, method: &str, path: &str, key: &str, body: &str) -> anyhow::Result<String> {
        self.begin(method, path, key, body).await?.rest().await
    }

    /// The same for an answer in JSON.
    pub async fn json(&mut self, method: &str, path: &str, key: &str, body: &str) -> anyhow::Result<Value> {
        let text = self.call(method, path, key, body).await?;
        serde_json::from_str(&text).with_context(|| format!("{method} {path} answers no JSON: {text}"))
    }

    /// Sends a request and waits for the head of the answer.
    pub async fn begin(
        &mut self,
        method: &str,
        path: &str,
        key: &str,
        body: &str,
    ) -> anyhow::Result<Answer<'_>> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.socket.write_all(request.as_bytes()).await?;
        let Head { status, length } = self.head().await?;
        let answer = Answer { connection: self, length };
        if !(200..300).contains(&status) {
            bail!("{method} {path} answers {status}: {}", answer.rest().await?);
        }
        Ok(answer)
    }

    async fn head(&mut self) -> anyhow::Result<Head> {
        let end = self.find(b"\r\n\r\n").await?;
        let head = self.read.split_to(end + 4);
        let head = std::str::from_utf8(&head)?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.map(|length| length.trim().parse()).transpose()?;
        ensure!(length.is_some() || head.contains("chunked"), "a body without an end: {head}");
        Ok(Head { status: status.context("a status")?, length })
    }

    /// Reads on until `what` is there; answers where.
    async fn find(&mut self, what: &[u8]) -> anyhow::Result<usize> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.read, what) {
                return Ok(at);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        ensure!(self.socket.read_buf(&mut self.read).await? > 0, "the connection was closed");
        Ok(())
    }

    /// Takes so many bytes.
    async fn exactly(&mut self, length: usize) -> anyhow::Result<BytesMut> {
        while self.read.len() < length {
            self.more().await?;
        }
        Ok(self.read.split_to(length))
    }
}

/// An answer whose body is still to be read.
pub struct Answer<'a> {
    connection: &'a mut Connection,
    length: Option<usize>,
}

impl Answer<'_> {
    /// The rest of the body, to its end.
    pub async fn rest(self) -> anyhow::Result<String> {
        let Some(length) = self.length else { return self.chunks().await };
        Ok(String::from_utf8(self.connection.exactly(length).await?.to_vec())?)
    }

    async fn chunks(self) -> anyhow::Result<String> {
        let mut whole = Vec::new();
        loop {
            let end = self.connection.find(b"\r\n").await?;
            let line = self.connection.exactly(end + 2).await?;
            let length = usize::from_str_radix(std::str::from_utf8(&line)?.trim(), 16)?;
            let mut chunk = self.connection.exactly(length + 2).await?;
            if length == 0 {
                return Ok(String::from_utf8(whole)?);
            }
            chunk.truncate(length);
            whole.extend_from_slice(chunk.chunk());
        }
    }
}
