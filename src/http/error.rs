//! Errors as answers. The only place where an error becomes a status.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};

use crate::clock::ceil_secs;
use crate::error::{Error, Stop, UpstreamKind};
use crate::metrics;
use crate::wire::openai::error as wire;

/// The longest wait that a client is told, in seconds: some clients really sleep for it.
const MAX_RETRY_AFTER: u64 = 60;

/// An error on its way to a client.
#[derive(Debug)]
pub struct ApiError {
    error: Error,
    money: bool,
}

impl ApiError {
    /// An error for a caller who may (or may not) be told about money.
    pub fn told(error: Error, money: bool) -> Self {
        Self { error, money }
    }

    /// The inner object of the body.
    pub fn object(&self) -> wire::ErrorObject {
        let (kind, code) = words(&self.error);
        let param = match &self.error {
            Error::Invalid(invalid) => invalid.param.as_deref(),
            Error::Upstream(failure) => match &failure.kind {
                UpstreamKind::BadRequest { param, .. } => param.as_deref(),
                _ => None,
            },
            Error::ModelNotFound(_) => Some("model"),
            _ => None,
        };
        let message = match &self.error {
            // Sums are for those who may see money.
            Error::InsufficientBalance { .. } if !self.money => {
                "the balance does not cover this request".to_owned()
            }
            error => error.to_string(),
        };
        let sums = match &self.error {
            Error::InsufficientBalance { needed, available } if self.money => Some((*needed, *available)),
            _ => None,
        };
        wire::ErrorObject {
            message,
            kind: kind.to_owned(),
            param: param.map(str::to_owned),
            code: code.to_owned(),
            needed: sums.map(|(needed, _)| needed.into()),
            available: sums.map(|(_, available)| available.into()),
        }
    }

    /// Counts it. A provider's own codes are counted together.
    pub fn count(&self) {
        let (kind, code) = words(&self.error);
        let own = matches!(&self.error, Error::Upstream(failure)
            if matches!(failure.kind, UpstreamKind::BadRequest { .. }));
        metrics::failed(kind, if own { "upstream_bad_request" } else { code });
    }

    /// Whether the server had no room for the request, as it has none for many at the same time.
    pub fn is_for_want_of_room(&self) -> bool {
        matches!(self.error, Error::Overloaded)
    }

    /// What the log needs to know, for errors that are not the client's.
    pub fn cause(&self) -> Option<&str> {
        match &self.error {
            Error::Internal(cause) | Error::StoreUnavailable(cause) => Some(cause),
            _ => None,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self { error, money: false }
    }
}

impl From<crate::error::Invalid> for ApiError {
    fn from(invalid: crate::error::Invalid) -> Self {
        Error::from(invalid).into()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(out)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        status(&self.error)
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let mut answer = HttpResponse::build(status);
        answer.insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(wait) = retry_after(&self.error) {
            answer.insert_header((header::RETRY_AFTER, ceil_secs(wait).min(MAX_RETRY_AFTER)));
        }
        match &self.error {
            Error::Unauthenticated(_) => {
                answer.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
            }
            // SDKs retry 429 and 5xx by themselves; here a retry cannot help.
            Error::InsufficientBalance { .. }
            | Error::BudgetExceeded
            | Error::Stopped(Stop::Cancelled | Stop::Interrupted) => {
                const NO: HeaderValue = HeaderValue::from_static("false");
                answer.insert_header((HeaderName::from_static("x-should-retry"), NO));
            }
            _ => {}
        }
        answer.json(wire::ErrorBody::new(self.object(), status.as_u16()))
    }
}

/// No `_` arm: a new variant has to choose.
fn status(error: &Error) -> StatusCode {
    match error {
        Error::Invalid(_) => StatusCode::BAD_REQUEST,
        Error::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
        Error::InsufficientBalance { .. } | Error::BudgetExceeded => StatusCode::PAYMENT_REQUIRED,
        Error::AccountSuspended | Error::KeyScope(_) => StatusCode::FORBIDDEN,
        Error::ModelNotFound(_) | Error::SessionNotFound | Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Error::SessionBusy | Error::IdempotencyInProgress => StatusCode::CONFLICT,
        Error::SessionClosed | Error::StreamGone => StatusCode::GONE,
        Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Error::UnsupportedMediaType | Error::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Error::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
        Error::Mismatch(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Error::RateLimited(_) | Error::SessionQueueFull => StatusCode::TOO_MANY_REQUESTS,
        Error::Upstream(failure) => match failure.kind {
            UpstreamKind::BadRequest { .. } => StatusCode::BAD_REQUEST,
            UpstreamKind::Refused | UpstreamKind::Invalid | UpstreamKind::Auth => StatusCode::BAD_GATEWAY,
            UpstreamKind::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            UpstreamKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        },
        Error::Overloaded | Error::Draining | Error::StoreUnavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        Error::Stopped(_) => StatusCode::SERVICE_UNAVAILABLE,
        Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Type and code on the wire.
fn words(error: &Error) -> (&'static str, &str) {
    const REQUEST: &str = "invalid_request_error";
    const SERVER: &str = "server_error";
    match error {
        Error::Invalid(invalid) => (REQUEST, invalid.code),
        Error::Unauthenticated(_) => (REQUEST, "invalid_api_key"),
        Error::InsufficientBalance { .. } => ("insufficient_quota", "insufficient_balance"),
        Error::BudgetExceeded => ("insufficient_quota", "budget_exceeded"),
        Error::AccountSuspended => ("permission_error", "account_suspended"),
        Error::KeyScope(_) => ("permission_error", "key_scope"),
        Error::ModelNotFound(_) => (REQUEST, "model_not_found"),
        Error::SessionNotFound => (REQUEST, "session_not_found"),
        Error::NotFound(_) => (REQUEST, "not_found"),
        Error::MethodNotAllowed => (REQUEST, "method_not_allowed"),
        Error::SessionBusy => (REQUEST, "session_busy"),
        Error::IdempotencyInProgress => (REQUEST, "idempotency_in_progress"),
        Error::SessionClosed => (REQUEST, "session_closed"),
        Error::StreamGone => (REQUEST, "stream_gone"),
        Error::TooLarge(_) => (REQUEST, "request_too_large"),
        Error::UnsupportedMediaType => (REQUEST, "unsupported_media_type"),
        Error::UnsupportedEncoding => (REQUEST, "unsupported_encoding"),
        Error::BodyTooSlow => (REQUEST, "request_timeout"),
        Error::Mismatch(_) => (REQUEST, "idempotency_mismatch"),
        Error::RateLimited(refusal) => (refusal.what.as_str(), "rate_limit_exceeded"),
        Error::SessionQueueFull => ("requests", "session_queue_full"),
        Error::Upstream(failure) => match &failure.kind {
            UpstreamKind::BadRequest { code, .. } => (REQUEST, code.as_deref().unwrap_or("invalid_value")),
            UpstreamKind::Refused => (SERVER, "upstream_refused"),
            UpstreamKind::Invalid => (SERVER, "upstream_invalid"),
            UpstreamKind::Auth => (SERVER, "upstream_auth"),
            UpstreamKind::Unavailable { .. } => (SERVER, "upstream_unavailable"),
            UpstreamKind::Timeout => (SERVER, "upstream_timeout"),
        },
        Error::Overloaded | Error::StoreUnavailable(_) => (SERVER, "overloaded"),
        Error::Draining => (SERVER, "draining"),
        Error::Stopped(why) => (SERVER, why.code()),
        Error::Internal(_) => (SERVER, "internal"),
    }
}

fn retry_after(error: &Error) -> Option<Duration> {
    const SOON: Duration = Duration::from_secs(1);
    match error {
        Error::RateLimited(refusal) => Some(refusal.retry_after),
        Error::SessionBusy
        | Error::IdempotencyInProgress
        | Error::SessionQueueFull
        | Error::Overloaded
        | Error::Stopped(Stop::Draining) => Some(SOON),
        Error::Draining | Error::StoreUnavailable(_) => Some(SOON * 2),
        Error::Upstream(failure) => match failure.kind {
            UpstreamKind::Unavailable { retry_after } => Some(retry_after.unwrap_or(SOON)),
            UpstreamKind::Timeout => Some(SOON),
            _ => None,
        },
        _ => None,
    }
}
