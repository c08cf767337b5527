//! A small blocking HTTP/1.1 client that hides nothing: one connection per request, every header kept,
//! a body that is cut told from one that ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// How long a test waits for anything before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A request about to be sent.
#[derive(Clone)]
pub struct Call {
    addr: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Call {
    /// A request without headers or body.
    pub fn new(addr: &str, method: &str, path: &str) -> Self {
        Self {
            addr: addr.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `Authorization: Bearer …`.
    pub fn key(self, key: &str) -> Self {
        self.header("Authorization", &format!("Bearer {key}"))
    }

    /// Sets a JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string().into_bytes())
    }

    /// Sets a body of any type.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self.header("Content-Type", content_type)
    }

    /// The bytes of the head, with the length of the body.
    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.path, self.addr);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length_is_told = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if let (Some(body), false) = (&self.body, length_is_told) {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head
    }

    /// Sends the request and leaves the connection to the caller, who may drop it unread.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.addr)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut bytes = self.head().into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        // A server may refuse by the head alone and close: what it said is still there to be read.
        let _ = stream.write_all(&bytes);
        Ok(stream)
    }

    /// Sends the request and reads the head of the answer; the body is read as it comes.
    pub fn try_open(&self) -> io::Result<Stream> {
        Stream::read(self.connect()?)
    }

    /// As [`Self::try_open`]; fails the test when there is no answer.
    pub fn open(&self) -> Stream {
        self.try_open().unwrap_or_else(|error| panic!("{} {} has no answer: {error}", self.method, self.path))
    }

    /// Sends the request and reads the whole answer.
    pub fn try_send(&self) -> io::Result<Answer> {
        self.try_open()?.into_answer()
    }

    /// As [`Self::try_send`]; fails the test when the answer is not whole.
    pub fn send(&self) -> Answer {
        self.try_send()
            .unwrap_or_else(|error| panic!("{} {} has no whole answer: {error}", self.method, self.path))
    }
}

/// The headers of an answer, names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a header.
    pub fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a header that has to be there.
    pub fn required(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("header {name} is missing in {:?}", self.0))
    }

    /// All of them, as they came.
    pub fn all(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.iter()
    }

    /// A header that holds a whole number.
    pub fn number(&self, name: &str) -> u64 {
        let value = self.required(name);
        value.parse().unwrap_or_else(|_| panic!("header {name} is {value:?}, not a whole number"))
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
    /// The body, decoded from its chunks.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the body of a {}: {}", self.status, self.text()))
    }

    /// Fails the test unless the status is this one.
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "the body was: {}", self.text());
        self
    }

    /// The JSON of an answer that has to be a 200.
    pub fn ok(self) -> Value {
        self.is(200).json()
    }

    /// Checks that this is an error of the one shape that all errors have, and hands out its `error` object.
    pub fn refused(&self, status: u16, kind: &str, code: &str) -> Value {
        let text = self.text();
        assert_eq!(self.status, status, "the body was: {text}");
        let kind_of_body = self.headers.required("content-type");
        assert!(kind_of_body.starts_with("application/json"), "content type is {kind_of_body}");
        assert!(self.headers.find("x-request-id").is_some(), "an error without x-request-id: {text}");
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no error object in {text}"));
        let message = error["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "an error without a message: {text}");
        assert_eq!(error["type"], kind, "in {text}");
        assert_eq!(error["code"], code, "in {text}");
        assert!(error.contains_key("param"), "an error without the key param: {text}");
        assert_eq!(body["detail"], message, "in {text}");
        assert_eq!(body["status"], status, "in {text}");
        body["error"].clone()
    }
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The text after `data:`.
    pub data: String,
    /// The text after `id:`.
    pub id: Option<String>,
}

impl Event {
    /// The id, which every event of a turn has.
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_else(|| panic!("no id with {:?}", self.data))
    }

    /// Whether this is OpenAI's last event.
    pub fn is_done(&self) -> bool {
        self.data == "[DONE]"
    }

    /// The data as JSON, `null` where it is none.
    pub fn json_or_null(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_default()
    }

    /// The data as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data)
            .unwrap_or_else(|error| panic!("{error} in the event {:?}", self.data))
    }
}

/// An answer whose body is still coming.
pub struct Stream {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
    /// How many comment lines have been read.
    pub comments: usize,
    body: BufReader<Body>,
}

impl Stream {
    /// Reads the head of an answer.
    pub fn read(stream: TcpStream) -> io::Result<Self> {
        let mut inner = BufReader::new(stream);
        let mut line = String::new();
        inner.read_line(&mut line)?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| io::Error::other(format!("not a status line: {line:?}")))?;
        let mut headers = Headers::default();
        loop {
            line.clear();
            if inner.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.0.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let framing = match (headers.find("transfer-encoding"), headers.find("content-length")) {
            _ if matches!(status, 204 | 304) => Framing::Ended,
            (Some(_), _) => Framing::Chunked { left: 0 },
            (None, Some(length)) => Framing::Length(length.parse().map_err(io::Error::other)?),
            (None, None) => Framing::UntilClose,
        };
        let body = BufReader::new(Body { inner, framing });
        Ok(Self { status, headers, comments: 0, body })
    }

    /// Reads the rest of the body as a whole answer.
    pub fn into_answer(mut self) -> io::Result<Answer> {
        let mut body = Vec::new();
        self.body.read_to_end(&mut body)?;
        Ok(Answer { status: self.status, headers: self.headers, body })
    }

    /// Fails the test unless this is a 200.
    pub fn ok(self) -> Self {
        if self.status == 200 {
            return self;
        }
        let answer = self.into_answer().expect("a refusal has a body");
        panic!("a stream was refused with {}: {}", answer.status, answer.text());
    }

    /// The next event, `None` at the proper end of the body, an error where the body is cut.
    pub fn try_event(&mut self) -> io::Result<Option<Event>> {
        let mut data: Option<String> = None;
        let mut id: Option<String> = None;
        let mut line = String::new();
        loop {
            line.clear();
            if self.body.read_line(&mut line)? == 0 {
                return match data {
                    Some(data) => Err(io::Error::other(format!("the body ends inside of {data:?}"))),
                    None => Ok(None),
                };
            }
            let field = line.trim_end_matches(['\n', '\r']);
            if let Some(value) = field.strip_prefix("data: ") {
                assert!(data.is_none(), "an event of two data lines: {value}");
                data = Some(value.to_owned());
            } else if field.starts_with(':') {
                self.comments += 1;
            } else if field.is_empty() {
                if let Some(data) = data {
                    return Ok(Some(Event { data, id }));
                }
            } else if let Some(value) = field.strip_prefix("id: ") {
                assert!(id.is_none(), "an event of two ids: {value}");
                id = Some(value.to_owned());
            } else {
                panic!("an unexpected line in a stream: {field:?}");
            }
        }
    }

    /// The next event; fails the test where the body is cut.
    pub fn event(&mut self) -> Option<Event> {
        self.try_event().unwrap_or_else(|error| panic!("the stream is cut: {error}"))
    }

    /// The next event, which has to be JSON.
    pub fn chunk(&mut self) -> Value {
        self.event().expect("the stream goes on").json()
    }

    /// All events up to the proper end of the body.
    pub fn rest(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.event()).collect()
    }

    /// Reads up to the end of the next line, comments included; tells whether it was a comment.
    pub fn wait_for_comment(&mut self) -> bool {
        let mut line = String::new();
        while self.body.read_line(&mut line).expect("a line comes in time") > 0 {
            if line.starts_with(':') {
                return true;
            }
            line.clear();
        }
        false
    }
}

enum Framing {
    Length(u64),
    Chunked { left: u64 },
    UntilClose,
    Ended,
}

struct Body {
    inner: BufReader<TcpStream>,
    framing: Framing,
}

impl Body {
    /// Reads the size line of the next chunk.
    fn next_chunk(&mut self) -> io::Result<Framing> {
        let mut line = String::new();
        if self.inner.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = u64::from_str_radix(line.trim(), 16)
            .map_err(|_| io::Error::other(format!("not a chunk size: {line:?}")))?;
        if left > 0 {
            return Ok(Framing::Chunked { left });
        }
        self.inner.read_line(&mut line)?;
        Ok(Framing::Ended)
    }

    fn read_at_most(&mut self, buf: &mut [u8], left: u64) -> io::Result<usize> {
        let most = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match self.inner.read(&mut buf[..most])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.framing {
                Framing::Ended | Framing::Length(0) => return Ok(0),
                Framing::UntilClose => return self.inner.read(buf),
                Framing::Length(left) => {
                    let read = self.read_at_most(buf, left)?;
                    self.framing = Framing::Length(left - read as u64);
                    return Ok(read);
                }
                Framing::Chunked { left: 0 } => self.framing = self.next_chunk()?,
                Framing::Chunked { left } => {
                    let read = self.read_at_most(buf, left)?;
                    let left = left - read as u64;
                    if left == 0 {
                        let mut line = String::new();
                        self.inner.read_line(&mut line)?;
                    }
                    self.framing = Framing::Chunked { left };
                    return Ok(read);
                }
            }
        }
    }
}
