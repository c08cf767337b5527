//! What every request gets, a tidy path, and every answer: a request id, the time it took, the rate headers, and errors in one form.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, ResponseError};

use crate::error::{Error, Invalid};
use crate::http::error::ApiError;
use crate::http::{names, paths, peer};
use crate::id::RequestId;
use crate::metrics;
use crate::rate_limit::Status;
use crate::rate_limit::bucket::Level;

/// How often a thread logs one of the requests that it had no room for: to write a line for each would cost more than
/// to refuse it.
const LOUD: Duration = Duration::from_secs(1);

/// Wraps every request.
///
/// # Errors
/// None of its own.
pub async fn trace(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let id = RequestId::random();
    request.extensions_mut().insert(id.clone());
    if request.method() == Method::HEAD {
        // The same answer as to GET; its body is not sent.
        request.head_mut().method = Method::GET;
    }
    paths::tidy(&mut request);
    let mut answer = in_one_form(next.call(request).await?.map_into_boxed_body());
    log(&answer, &id, started);
    count(&answer, started);
    let status = answer.request().extensions().get::<Status>().copied().unwrap_or_default();
    let headers = answer.headers_mut();
    set(headers, names::REQUEST_ID, id.as_str());
    headers.insert(
        names::PROCESSING_MS,
        u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX).into(),
    );
    rate_headers(headers, &status);
    if answer.request().path().starts_with("/v2/") || answer.request().path().starts_with("/admin/") {
        // What was said and keys that are shown once are not for caches.
        set_unless_there(answer.headers_mut(), header::CACHE_CONTROL, "no-store");
    }
    set_unless_there(answer.headers_mut(), header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set_unless_there(answer.headers_mut(), header::X_FRAME_OPTIONS, "DENY");
    Ok(answer)
}

/// Refusals of actix-web itself have no body that a client could read.
fn in_one_form(answer: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let status = answer.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let ours = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !is_error || ours {
        return answer;
    }
    let error = match status {
        StatusCode::NOT_FOUND => Error::NotFound("this path"),
        StatusCode::METHOD_NOT_ALLOWED => Error::MethodNotAllowed,
        status if status.is_client_error() => {
            let message = format!("the request cannot be read ({status})");
            Error::Invalid(Invalid { param: None, code: "invalid_request", message })
        }
        status => Error::Internal(format!("an answer without a body: {status}")),
    };
    let (request, bare) = answer.into_parts();
    let mut plain = ApiError::from(error).error_response();
    for (name, value) in bare.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            plain.headers_mut().insert(name.clone(), value.clone());
        }
    }
    ServiceResponse::new(request, plain)
}

fn log(answer: &ServiceResponse<BoxBody>, id: &RequestId, started: Instant) {
    let request = answer.request();
    let (method, path, status) = (request.method(), request.path(), answer.status().as_u16());
    if status < 500 && !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (client_id, retry) = (header(names::CLIENT_REQUEST_ID), header(names::RETRY_COUNT));
    let ms = started.elapsed().as_millis();
    let from = peer::client(request).map(tracing::field::display);
    let error = answer.response().error().and_then(|error| error.as_error::<ApiError>());
    let cause = error.and_then(ApiError::cause).unwrap_or_default();
    if error.is_some_and(ApiError::is_for_want_of_room) {
        let Some(silent) = loud(started) else { return };
        tracing::error!(request = %id, from, %method, path, status, ms, client_id, retry, silent, "no room");
    } else if status >= 500 {
        tracing::error!(request = %id, from, %method, path, status, ms, client_id, retry, cause, "answered");
    } else {
        tracing::debug!(request = %id, from, %method, path, status, ms, client_id, retry, "answered");
    }
}

/// Whether it is time for a line about a request that there was no room for; of how many there was none before it.
fn loud(now: Instant) -> Option<u64> {
    thread_local! {
        static LAST: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
    }
    let (line, silent) = match LAST.get() {
        Some((last, silent)) if now.saturating_duration_since(last) < LOUD => (None, (last, silent + 1)),
        known => (Some(known.map_or(0, |(_, silent)| silent)), (now, 0)),
    };
    LAST.set(Some(silent));
    line
}

fn count(answer: &ServiceResponse<BoxBody>, started: Instant) {
    let request = answer.request();
    let (method, status) = (request.method().as_str(), answer.status().as_u16());
    metrics::answered(method, request.match_pattern().as_deref(), status, started.elapsed());
    if let Some(error) = answer.response().error().and_then(|error| error.as_error::<ApiError>()) {
        error.count();
    }
}

/// Names an answer that no handler gave.
pub fn name(headers: &mut HeaderMap) {
    set(headers, names::REQUEST_ID, RequestId::random().as_str());
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn set_unless_there(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    if !headers.contains_key(&name) {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn rate_headers(headers: &mut HeaderMap, status: &Status) {
    if let Some(level) = status.requests {
        headers.insert(names::LIMIT_REQUESTS, level.limit.into());
        headers.insert(names::REMAINING_REQUESTS, level.remaining.into());
        set(headers, names::RESET_REQUESTS, &span(&level));
        headers.insert(names::LIMIT, level.limit.into());
        headers.insert(names::REMAINING, level.remaining.into());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        headers.insert(names::RESET, (now + level.reset).as_secs().saturating_add(1).into());
    }
    if let Some(level) = status.tokens {
        headers.insert(names::LIMIT_TOKENS, level.limit.into());
        headers.insert(names::REMAINING_TOKENS, level.remaining.into());
        set(headers, names::RESET_TOKENS, &span(&level));
    }
}

/// A duration as OpenAI writes it: `120ms`, `1s`, `6m0s`.
fn span(level: &Level) -> String {
    let ms = level.reset.as_millis();
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}s", ms.div_ceil(1_000)),
        _ => format!("{}m{}s", ms.div_ceil(1_000) / 60, ms.div_ceil(1_000) % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_span_is_written_as_openai_does() {
        let text = |ms| span(&Level { limit: 1, remaining: 1, reset: Duration::from_millis(ms) });
        assert_eq!(text(0), "0ms");
        assert_eq!(text(120), "120ms");
        assert_eq!(text(1_000), "1s");
        assert_eq!(text(1_001), "2s");
        assert_eq!(text(360_000), "6m0s");
    }

    #[test]
    fn a_line_about_many_refusals_tells_of_how_many_there_was_none() {
        let began = Instant::now();
        assert_eq!(loud(began), Some(0));
        assert_eq!((0..5).filter_map(|_| loud(began + LOUD / 2)).count(), 0);
        assert_eq!(loud(began + LOUD), Some(5));
        assert_eq!(loud(began + LOUD * 2), Some(0));
    }
}
