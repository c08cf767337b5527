//! Reading bodies, with a bound, after everything that can be refused without them.

use std::time::Duration;

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::{HttpRequest, web};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::billing::money::Nanos;
use crate::clock::{self, EpochMs};
use crate::error::{Error, Invalid};
use crate::http::HttpSettings;
use crate::json;

/// The largest body of a management call, in bytes.
const MAX_MANAGEMENT: usize = 1024 * 1024;
/// What is set aside for a body at a time, in bytes: what a client announces is not what it sends.
const ROOM: usize = 256 * 1024;
/// How fast a body has to come at least, beside the time that every body has: bytes in a second.
const LEAST_RATE: u64 = 16 * 1024;

/// Reads the JSON text of a chat request.
///
/// # Errors
/// When the content type is another, or the body is too large, too slow, too deep or broken off.
pub async fn read(
    request: &HttpRequest,
    payload: web::Payload,
    settings: &HttpSettings,
) -> Result<Bytes, Error> {
    read_up_to(request, payload, settings, settings.max_body).await
}

/// Reads the JSON object of a management call. No body is an empty object.
///
/// # Errors
/// As [`read`], and when it is not an object.
pub async fn read_object(request: &HttpRequest, payload: web::Payload) -> Result<Given, Error> {
    let Some(settings) = request.app_data::<web::Data<HttpSettings>>() else {
        return Err(Error::Internal("no settings".to_owned()));
    };
    let body = read_up_to(request, payload, settings, MAX_MANAGEMENT).await?;
    if body.is_empty() {
        return Ok(Given(Map::new()));
    }
    let fields = serde_json::from_slice(&body)
        .map_err(|cause| Invalid::json(format!("the body is not a JSON object: {cause}")))?;
    Ok(Given(fields))
}

/// The bytes keep their share of the budget for as long as any slice of them lives.
async fn read_up_to(
    request: &HttpRequest,
    mut payload: web::Payload,
    settings: &HttpSettings,
    limit: usize,
) -> Result<Bytes, Error> {
    check_head(request.headers(), limit)?;
    let began = Instant::now();
    let mut share = settings.bodies.share();
    let mut pieces = Pieces::default();
    loop {
        let deadline = began + settings.body_timeout + time_of(pieces.bytes);
        let Ok(piece) = timeout_at(deadline, payload.next()).await else { return Err(Error::BodyTooSlow) };
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|cause| Invalid::json(format!("the body broke off: {cause}")))?;
        if pieces.bytes + piece.len() > limit {
            return Err(Error::TooLarge(limit));
        }
        // Once more for the copy that joins the pieces.
        if !share.grow(2 * piece.len()) {
            return Err(Error::Overloaded);
        }
        pieces.push(&piece);
    }
    let body = pieces.join();
    share.shrink(body.len());
    let too_deep = || Invalid::json(format!("the body is nested more than {} levels deep", json::MAX_DEPTH));
    if !json::is_shallow(&body) {
        return Err(too_deep().into());
    }
    Ok(share.of(body))
}

/// A body as it comes. It takes up what has come, and no more than that when it is joined.
#[derive(Default)]
struct Pieces {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
    bytes: usize,
}

impl Pieces {
    fn push(&mut self, mut piece: &[u8]) {
        self.bytes += piece.len();
        while !piece.is_empty() {
            if self.last.len() == ROOM {
                self.full.push(std::mem::take(&mut self.last));
            }
            let (now, later) = piece.split_at(piece.len().min(ROOM - self.last.len()));
            self.last.extend_from_slice(now);
            piece = later;
        }
    }

    fn join(self) -> Vec<u8> {
        if self.full.is_empty() {
            return self.last;
        }
        let mut whole = Vec::with_capacity(self.bytes);
        for piece in self.full {
            whole.extend_from_slice(&piece);
        }
        whole.extend_from_slice(&self.last);
        whole
    }
}

/// What a request's head says about its body. Nothing of the body is read when that is enough to refuse it.
///
/// # Errors
/// When its type, its encoding or its length is one that is not taken.
pub fn check_head(headers: &HeaderMap, limit: usize) -> Result<(), Error> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?").trim());
    let is_json = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let suffix = kind.len().checked_sub(5).and_then(|at| kind.get(at..)).unwrap_or_default();
        kind.eq_ignore_ascii_case("application/json") || suffix.eq_ignore_ascii_case("+json")
    };
    if text(CONTENT_TYPE).is_some_and(|kind| !is_json(kind)) {
        return Err(Error::UnsupportedMediaType);
    }
    let plain = |encoding: &str| encoding.is_empty() || encoding.eq_ignore_ascii_case("identity");
    if text(CONTENT_ENCODING).is_some_and(|encoding| !plain(encoding)) {
        return Err(Error::UnsupportedEncoding);
    }
    if told_length(headers).is_some_and(|length| length > limit) {
        return Err(Error::TooLarge(limit));
    }
    Ok(())
}

/// The length of a body, where the head tells one.
pub fn told_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// How long so many bytes may take.
fn time_of(bytes: usize) -> Duration {
    Duration::from_millis(bytes as u64 * 1_000 / LEAST_RATE)
}

/// The fields of a management call, taken out one by one; what is left at the end was not expected.
pub struct Given(Map<String, Value>);

impl Given {
    /// A field's value, if it is there and not `null`.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A field's value, if it is there, be it `null`.
    pub fn take_even_null(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// Text of at most `most` bytes.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&mut self, name: &str, most: usize) -> Result<Option<String>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= most => Ok(Some(text)),
            Some(_) => Err(Invalid::value(name, format_args!("expected a string of at most {most} bytes"))),
        }
    }

    /// Text that has to be there.
    ///
    /// # Errors
    /// When it is absent, blank or something else.
    pub fn required(&mut self, name: &str, most: usize) -> Result<String, Invalid> {
        self.text(name, most)?.filter(|text| !text.trim().is_empty()).ok_or_else(|| Invalid::missing(name))
    }

    /// An amount of money.
    ///
    /// # Errors
    /// When it is no decimal string.
    pub fn money(&mut self, name: &str) -> Result<Option<Nanos>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => {
                Nanos::parse(&text).map(Some).map_err(|cause| Invalid::value(name, cause))
            }
            Some(_) => Err(Invalid::value(name, "expected a decimal string such as \"5.00\"")),
        }
    }

    /// A moment.
    ///
    /// # Errors
    /// When it is not in RFC 3339.
    pub fn time(&mut self, name: &str) -> Result<Option<EpochMs>, Invalid> {
        let Some(text) = self.text(name, 64)? else { return Ok(None) };
        let expected = "expected a time such as \"2030-01-31T12:00:00Z\"";
        clock::parse_rfc3339(&text).map(Some).ok_or_else(|| Invalid::value(name, expected))
    }

    /// Everything that is left.
    pub fn rest(self) -> Map<String, Value> {
        self.0
    }

    /// # Errors
    /// Names the first field that nobody took.
    pub fn finish(self) -> Result<(), Invalid> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(unknown_field(name)),
        }
    }
}

/// A field that a management call does not know.
pub fn unknown_field(name: &str) -> Invalid {
    let message = format!("`{name}` is not a field of this call");
    Invalid { param: Some(name.to_owned()), code: "unknown_field", message }
}

impl From<Value> for Given {
    fn from(value: Value) -> Self {
        Self(value.as_object().cloned().unwrap_or_default())
    }
}
