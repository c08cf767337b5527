//! Reading bodies, with a bound, after everything that can be refused without them.

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde_json::{Map, Value};

use crate::billing::money::Nanos;
use crate::clock::{self, EpochMs};
use crate::error::{Error, Invalid};
use crate::http::HttpSettings;

/// The largest body of a management call, in bytes.
const MAX_MANAGEMENT: usize = 1024 * 1024;

/// Reads the JSON text of a chat request.
///
/// # Errors
/// When the content type is another, or the body is too large or broken off.
pub async fn read(
    request: &HttpRequest,
    payload: web::Payload,
    settings: &HttpSettings,
) -> Result<Bytes, Error> {
    read_up_to(request, payload, settings.max_body).await
}

/// Reads the JSON object of a management call. No body is an empty object.
///
/// # Errors
/// As [`read`], and when it is not an object.
pub async fn read_object(request: &HttpRequest, payload: web::Payload) -> Result<Given, Error> {
    let body = read_up_to(request, payload, MAX_MANAGEMENT).await?;
    if body.is_empty() {
        return Ok(Given(Map::new()));
    }
    let fields = serde_json::from_slice(&body)
        .map_err(|cause| Invalid::json(format!("the body is not a JSON object: {cause}")))?;
    Ok(Given(fields))
}

async fn read_up_to(request: &HttpRequest, mut payload: web::Payload, limit: usize) -> Result<Bytes, Error> {
    let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?"));
    let plain = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if plain.is_some_and(|kind| kind != "application/json" && !kind.ends_with("+json")) {
        return Err(Error::UnsupportedMediaType);
    }
    let told =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|length| length > limit) {
        return Err(Error::TooLarge(limit));
    }
    let mut body = BytesMut::with_capacity(told.unwrap_or(0));
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|cause| Invalid::json(format!("the body broke off: {cause}")))?;
        if body.len() + piece.len() > limit {
            return Err(Error::TooLarge(limit));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
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
