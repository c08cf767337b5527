//! What a provider's refusal means for the client, told so that nothing of the operator's leaks.

use std::time::Duration;

use awc::http::StatusCode;
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{UpstreamFailure, UpstreamKind};

/// An answer whose status is no success.
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// What it says.
    pub body: Bytes,
}

/// What no client may read: the operator's credentials and the model's real name.
#[derive(Clone)]
pub struct Secrets(Vec<SecretString>);

/// Shorter values of further headers are no secrets, and words of messages.
const LEAST_SECRET: usize = 8;

#[derive(Default, Deserialize)]
struct Told {
    #[serde(default, deserialize_with = "lenient_object")]
    error: Option<Map<String, Value>>,
    message: Option<Value>,
    detail: Option<Value>,
}

impl Refusal {
    /// What it means for the client.
    pub fn failure(&self, secrets: &Secrets, model: &str) -> UpstreamFailure {
        let told: Option<Told> = serde_json::from_slice(&self.body).ok();
        let told = told.unwrap_or_default();
        let error = told.error.unwrap_or_default();
        let body = String::from_utf8_lossy(&self.body);
        let cause = format!("status {}", self.status);
        let kind = match self.status.as_u16() {
            400 | 413 | 415 | 422 => {
                UpstreamKind::BadRequest { code: text(error.get("code")), param: text(error.get("param")) }
            }
            401 | 403 => UpstreamKind::Auth,
            408 | 504 => UpstreamKind::Timeout,
            429 | 503 | 529 => UpstreamKind::Unavailable { retry_after: self.retry_after },
            _ => UpstreamKind::Refused,
        };
        let mut failure = UpstreamFailure::new(kind, cause).saying(secrets.hidden(&body, ""));
        failure.passes = self.status == StatusCode::TOO_MANY_REQUESTS || self.status.is_server_error();
        if matches!(failure.kind, UpstreamKind::BadRequest { .. }) {
            let message =
                text(error.get("message")).or(text(told.message.as_ref())).or(text(told.detail.as_ref()));
            if let Some(message) = message {
                failure.message = secrets.hidden(&message, model);
            }
        }
        failure
    }
}

impl Secrets {
    /// The operator's key, if there is one.
    pub fn new(api_key: Option<SecretString>) -> Self {
        Self(api_key.into_iter().collect())
    }

    /// Further headers that the operator has sent too, which may be credentials.
    pub fn and_headers(mut self, headers: &[(String, SecretString)]) -> Self {
        let values = headers.iter().map(|(_, value)| value);
        self.0.extend(values.filter(|value| value.expose_secret().len() >= LEAST_SECRET).cloned());
        self
    }

    /// The provider's words without the operator's key and without the model's real name.
    pub fn hidden(&self, text: &str, model: &str) -> String {
        let mut clean = text.to_owned();
        for secret in self.0.iter().map(ExposeSecret::expose_secret).filter(|secret| !secret.is_empty()) {
            clean = clean.replace(secret, "***");
        }
        if model.is_empty() { clean } else { clean.replace(model, "the model") }
    }
}

/// `{"error": {...}}` as OpenAI writes it, or `{"error": "text"}` as others do.
fn lenient_object<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Map<String, Value>>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Object(fields) => Some(fields),
        Value::String(message) => Some([("message".to_owned(), message.into())].into_iter().collect()),
        _ => None,
    })
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
