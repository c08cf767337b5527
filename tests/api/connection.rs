//! How the scripted upstream speaks HTTP: reads a request, plays its script, notices who leaves.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::PATIENCE;
use crate::script::{Counts, Fault, Pieces, Reply, Script};
use crate::upstream::{End, Gate, Recorded, Shared, State};

/// One answer being written.
pub struct Connection<'a> {
    shared: &'a Arc<Shared>,
    connection: usize,
    request: usize,
    stream: &'a TcpStream,
    byte_by_byte: bool,
}

impl<'a> Connection<'a> {
    /// Answers request after request until one side closes the connection.
    pub fn serve(shared: &'a Arc<Shared>, connection: usize, stream: &'a TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        shared.lock().live.insert(connection, stream.try_clone()?);
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(recorded) = read_request(&mut reader)? {
            let mut state = shared.lock();
            if state.stopping {
                break;
            }
            let request = state.requests.len();
            let script = state.queue.pop_front();
            let script = script.unwrap_or_else(|| (state.choose)(&recorded));
            state.requests.push(recorded.clone());
            state.running.insert(connection, request);
            state.peak = state.peak.max(state.running.len());
            drop(state);
            shared.changed.notify_all();
            let watched = stream.try_clone()?;
            let watcher = shared.clone();
            thread::spawn(move || {
                if !matches!(watched.peek(&mut [0]), Ok(1)) {
                    watcher.left(connection, request);
                }
            });
            let mut answer = Connection { shared, connection, request, stream, byte_by_byte: false };
            let goes_on = answer.play(&recorded, script);
            if goes_on.is_err() {
                shared.left(connection, request);
            }
            answer.finish();
            if !goes_on? {
                break;
            }
        }
        Ok(())
    }

    /// Does what the script says; tells whether the connection may be used again.
    fn play(&mut self, recorded: &Recorded, script: Script) -> io::Result<bool> {
        match script {
            Script::Silence => {
                self.wait(None)?;
                Ok(false)
            }
            Script::Head => {
                let kind =
                    if recorded.body["stream"] == true { "text/event-stream" } else { "application/json" };
                let head = format!("Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
                self.write(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes())?;
                self.wait(None)?;
                Ok(false)
            }
            Script::HangUp => {
                self.finish();
                Ok(false)
            }
            Script::Raw { status, headers, body } => {
                self.finish();
                self.write_plain(status, &headers, &body)?;
                Ok(true)
            }
            Script::Pieces(pieces) => self.stream_pieces(&pieces),
            Script::Bytes(bytes) => {
                self.finish();
                self.write(&bytes)?;
                Ok(false)
            }
            Script::Led(reply, leash) => self.led_reply(recorded, &reply, leash.id),
            Script::Reply(reply) => {
                self.byte_by_byte = reply.framing.byte_by_byte;
                if recorded.body["stream"] == true {
                    let asked = recorded.body["stream_options"]["include_usage"] == true;
                    self.stream_reply(recorded, &reply, asked)
                } else {
                    self.plain_reply(recorded, &reply)
                }
            }
        }
    }

    fn plain_reply(&mut self, recorded: &Recorded, reply: &Reply) -> io::Result<bool> {
        if let Some((_, gate)) = &reply.pause {
            self.wait(Some(gate))?;
        }
        self.finish();
        let body = reply.plain(recorded.body["n"].as_u64().unwrap_or(1)).to_string();
        match &reply.fault {
            None => {
                let closing = [("Connection".to_owned(), "close".to_owned())];
                self.write_plain(200, if reply.closes { &closing } else { &[] }, &body)?;
                Ok(true)
            }
            Some((_, Fault::Error(error))) => {
                self.write_plain(200, &[], &json!({ "error": error }).to_string())?;
                Ok(true)
            }
            Some((_, Fault::Garbage)) => {
                self.write_plain(200, &[], &body[..body.len() / 2])?;
                Ok(true)
            }
            Some((_, Fault::HangUp | Fault::Reset | Fault::End)) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                self.write(head.as_bytes())?;
                self.write(&body.as_bytes()[..body.len() / 2])?;
                Ok(false)
            }
        }
    }

    /// A reply that goes as far as it may, and waits there.
    fn led_reply(&mut self, recorded: &Recorded, reply: &Reply, leash: usize) -> io::Result<bool> {
        if recorded.body["stream"] != true {
            let end = self.wait_for(|state| state.slack.get(&leash)?.end.clone())?;
            let fault = match end {
                End::Whole => None,
                End::Fault(fault) => Some((0, fault)),
            };
            return self.plain_reply(recorded, &Reply { fault, ..reply.clone() });
        }
        let opening = json!({"role": "assistant", "content": "", "refusal": null});
        let steps: Vec<Value> = std::iter::once(opening).chain(reply.deltas()).collect();
        let mut step = 0;
        loop {
            let end = self.wait_for(|state| {
                let slack = state.slack.get(&leash)?;
                if slack.steps > step { Some(None) } else { slack.end.clone().map(Some) }
            })?;
            if step == 0 {
                self.stream_head()?;
            }
            match end {
                None => {
                    let chunk = counted(reply, true, reply.chunk(0, &steps[step], None), step);
                    self.event(reply, &chunk)?;
                    step += 1;
                }
                Some(End::Whole) => return self.stream_end(recorded, reply, true),
                Some(End::Fault(fault)) => {
                    self.finish();
                    return self.fail(reply, &fault);
                }
            }
        }
    }

    fn stream_reply(&mut self, recorded: &Recorded, reply: &Reply, asked: bool) -> io::Result<bool> {
        self.stream_head()?;
        let choices = recorded.body["n"].as_u64().unwrap_or(1);
        let deltas = reply.deltas();
        if !matches!(&reply.fault, Some((0, _))) {
            for index in 0..choices {
                let opening = json!({"role": "assistant", "content": "", "refusal": null});
                self.event(reply, &counted(reply, asked, reply.chunk(index, &opening, None), 0))?;
            }
        }
        for at in 0..=deltas.len() {
            if let Some((_, gate)) = reply.pause.as_ref().filter(|(pieces, _)| *pieces == at) {
                self.wait(Some(gate))?;
            }
            if let Some((_, fault)) = reply.fault.as_ref().filter(|(pieces, _)| *pieces == at) {
                self.finish();
                return self.fail(reply, fault);
            }
            let Some(delta) = deltas.get(at) else { break };
            // Noted before it is written: what was received is never more than what is noted.
            self.shared.lock().sent.entry(self.request).or_default().push(Instant::now());
            for index in 0..choices {
                let chunk = reply.chunk(index, delta, None);
                self.event(reply, &counted(reply, asked, chunk, at + 1))?;
            }
            if !reply.gap.is_zero() {
                thread::sleep(reply.gap);
            }
        }
        self.stream_end(recorded, reply, asked)
    }

    fn stream_head(&self) -> io::Result<()> {
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
              x-request-id: upstream-request-1\r\nx-ratelimit-limit-requests: 99999\r\n\
              set-cookie: upstream=1\r\n\r\n",
        )
    }

    /// What comes after the last piece of a stream.
    fn stream_end(&self, recorded: &Recorded, reply: &Reply, asked: bool) -> io::Result<bool> {
        self.finish();
        let choices = recorded.body["n"].as_u64().unwrap_or(1);
        if let Some(finish) = reply.finish {
            for index in 0..choices {
                let mut chunk = reply.chunk(index, &json!({}), Some(finish));
                if !matches!(reply.counts, Counts::AtTheEnd | Counts::Nowhere) {
                    chunk["usage"] = reply.usage.clone();
                }
                self.event(reply, &chunk)?;
            }
        }
        if asked && matches!(reply.counts, Counts::AtTheEnd) {
            self.event(reply, &reply.usage_chunk())?;
        }
        if reply.done {
            self.payload(reply, "[DONE]")?;
        }
        if let Some(gate) = &reply.linger {
            self.wait(Some(gate))?;
        }
        self.write(b"0\r\n\r\n")?;
        Ok(true)
    }

    fn stream_pieces(&self, body: &Pieces) -> io::Result<bool> {
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        for (at, piece) in body.pieces.iter().enumerate() {
            if let Some((_, gate)) = body.pause.as_ref().filter(|(before, _)| *before == at) {
                self.wait(Some(gate))?;
            }
            if at + 1 == body.pieces.len() {
                self.finish();
            }
            self.write_chunk(piece)?;
            if !body.gap.is_zero() {
                thread::sleep(body.gap);
            }
        }
        self.finish();
        if !body.cut {
            self.write(b"0\r\n\r\n")?;
        }
        Ok(!body.cut)
    }

    fn fail(&self, reply: &Reply, fault: &Fault) -> io::Result<bool> {
        match fault {
            Fault::HangUp => {
                self.write(b"40\r\ndata: {\"cut")?;
                return Ok(false);
            }
            Fault::Reset => {
                reset_when_closed(self.stream)?;
                return Ok(false);
            }
            Fault::End => {}
            Fault::Error(error) => self.event(reply, &json!({ "error": error }))?,
            Fault::Garbage => self.payload(reply, "{\"choices\": [nonsense")?,
        }
        self.write(b"0\r\n\r\n")?;
        Ok(true)
    }

    /// Blocks until the gate is open; an error when the client has left or the test is over.
    fn wait(&self, gate: Option<&Gate>) -> io::Result<()> {
        self.wait_for(|state| gate.filter(|gate| state.open.contains(&gate.id)).map(|_| ()))
    }

    /// The same for anything that comes about.
    fn wait_for<T>(&self, ready: impl Fn(&State) -> Option<T>) -> io::Result<T> {
        let waited = self.shared.wait(PATIENCE * 4, |state| {
            if state.stopping || state.gone.contains(&self.connection) {
                return Some(None);
            }
            ready(state).map(Some)
        });
        waited.flatten().ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    /// From here on a client that leaves has had its answer.
    fn finish(&self) {
        self.shared.lock().running.remove(&self.connection);
        self.shared.changed.notify_all();
    }

    fn event(&self, reply: &Reply, event: &Value) -> io::Result<()> {
        self.payload(reply, &event.to_string())
    }

    fn payload(&self, reply: &Reply, payload: &str) -> io::Result<()> {
        let framing = &reply.framing;
        let end = framing.line_end;
        let comment = if framing.comments { format!(": a comment{end}{end}") } else { String::new() };
        let text = format!("{comment}{}{payload}{end}{end}", framing.prefix);
        if !self.byte_by_byte {
            return self.write_chunk(text.as_bytes());
        }
        text.as_bytes().chunks(1).try_for_each(|byte| self.write_chunk(byte))
    }

    fn write_chunk(&self, bytes: &[u8]) -> io::Result<()> {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(&chunk)
    }

    fn write_plain(&self, status: u16, headers: &[(String, String)], body: &str) -> io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             x-request-id: upstream-request-1\r\nx-ratelimit-limit-requests: 99999\r\n\
             set-cookie: upstream=1\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.write(format!("{head}\r\n{body}").as_bytes())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        stream.write_all(bytes)
    }
}

/// Puts the growing counts on a chunk where the script wants them on each; else `null`, as OpenAI does.
fn counted(reply: &Reply, asked: bool, mut chunk: Value, pieces: usize) -> Value {
    if matches!(reply.counts, Counts::OnEveryChunk) {
        let prompt = reply.usage["prompt_tokens"].as_u64().unwrap_or_default();
        chunk["usage"] = json!({"prompt_tokens": prompt, "completion_tokens": pieces,
            "total_tokens": prompt + pieces as u64});
    } else if asked {
        chunk["usage"] = Value::Null;
    }
    chunk
}

/// Lets the other side see a reset where it would see an end.
fn reset_when_closed(stream: &TcpStream) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let twin = stream.try_clone()?;
    twin.set_nonblocking(true)?;
    let twin = tokio::net::TcpStream::from_std(twin)?;
    twin.set_zero_linger()
}

/// Reads one request; `None` when the client has closed the connection between two.
fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Recorded>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    let mut header = String::new();
    loop {
        header.clear();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let find = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
    let mut body = Vec::new();
    if let Some(length) = find("content-length") {
        body.resize(length.parse().map_err(io::Error::other)?, 0);
        reader.read_exact(&mut body)?;
    } else if find("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    let raw = String::from_utf8_lossy(&body).into_owned();
    let body = serde_json::from_str(&raw).unwrap_or(Value::Null);
    Ok(Some(Recorded { line: line.trim_end().to_owned(), headers, raw, body }))
}
