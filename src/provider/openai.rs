//! Providers that speak OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp and many more.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_service::{Service, fn_service};
use actix_tls::connect::{ConnectInfo, ConnectorService};
use awc::error::{ConnectError, SendRequestError};
use awc::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use awc::http::{StatusCode, Uri, Version};
use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{self, LocalBoxStream, Stream, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::error::{Invalid, UpstreamFailure, UpstreamKind};
use crate::json::{Fields, ObjectWriter, Raw};
use crate::provider::sse::EventReader;
use crate::provider::{Answer, Call, Event, OutputField, Provider, Timeouts};

/// Connections to providers that one thread may have.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a connection is used at most.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);
/// A kept connection that turns out to be closed fails within this time; a later failure is not tried again.
const STALE_WITHIN: Duration = Duration::from_millis(500);
/// The largest whole answer that is read, in bytes.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// How much of an error's body is read, in bytes.
const MAX_ERROR: usize = 64 * 1024;
/// How long an error's body may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one such provider, for one thread.
pub struct OpenAi(Rc<Inner>);

struct Inner {
    client: awc::Client,
    url: String,
    api_key: Option<SecretString>,
    output_field: OutputField,
    timeouts: Timeouts,
}

impl OpenAi {
    /// Makes the client. TLS needs a crypto provider installed before.
    pub fn new(
        base_url: &str,
        api_key: Option<SecretString>,
        output_field: OutputField,
        timeouts: Timeouts,
    ) -> Self {
        // Without TCP_NODELAY a small write may wait 40 ms for an acknowledgement.
        let nodelay = fn_service(|to: ConnectInfo<Uri>| async {
            let connection = ConnectorService::default().call(to).await?;
            if let Err(cause) = connection.io_ref().set_nodelay(true) {
                tracing::debug!(%cause, "TCP_NODELAY could not be set");
            }
            Ok(connection)
        });
        let connector = awc::Connector::new()
            .connector(nodelay)
            .max_http_version(Version::HTTP_11)
            .limit(MAX_CONNECTIONS)
            .timeout(timeouts.connect)
            .handshake_timeout(timeouts.connect)
            .conn_lifetime(CONNECTION_LIFE);
        let client = awc::Client::builder()
            .connector(connector)
            .disable_redirects()
            .timeout(timeouts.total)
            .no_default_headers()
            .finish();
        let url = format!("{}/chat/completions", base_url.trim_end_matches('/'));
        Self(Rc::new(Inner { client, url, api_key, output_field, timeouts }))
    }
}

impl Provider for OpenAi {
    fn call(&self, call: Call) -> LocalBoxFuture<'static, Result<Answer, UpstreamFailure>> {
        let inner = self.0.clone();
        Box::pin(async move { inner.call(call).await })
    }

    fn timeouts(&self) -> Timeouts {
        self.0.timeouts
    }
}

impl Inner {
    async fn call(&self, call: Call) -> Result<Answer, UpstreamFailure> {
        let (stream, model) = (call.stream, call.model.clone());
        let body = request_body(call, self.output_field);
        let mut answer = self.send(&body, stream).await?;
        let status = answer.status();
        if !status.is_success() {
            let retry_after =
                answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let read = timeout(ERROR_TIMEOUT, read_all(&mut answer, MAX_ERROR)).await;
            let body = read.ok().and_then(Result::ok).unwrap_or_default();
            return Err(self.refusal(status, retry_after.map(Duration::from_secs), &body, &model));
        }
        if stream {
            return Ok(Answer::Stream(events(answer)));
        }
        let body = timeout(self.timeouts.total, read_all(&mut answer, MAX_ANSWER)).await;
        let body =
            body.map_err(|_| UpstreamFailure::new(UpstreamKind::Timeout, "no whole answer in time"))??;
        match in_place_of_answer(&body) {
            Some(error) => Err(self.reported(&error, &model)),
            None => Ok(Answer::Whole(body)),
        }
    }

    /// Sends the request; once more when a kept connection turns out to be closed.
    async fn send(
        &self,
        body: &Bytes,
        stream: bool,
    ) -> Result<
        awc::ClientResponse<impl Stream<Item = Result<Bytes, awc::error::PayloadError>> + Unpin + use<>>,
        UpstreamFailure,
    > {
        let wait = if stream { self.timeouts.first_byte } else { self.timeouts.total };
        let begun = Instant::now();
        let mut again = true;
        loop {
            let mut request = self
                .client
                .post(&self.url)
                .timeout(wait)
                .insert_header((CONTENT_TYPE, "application/json"))
                .insert_header(("user-agent", concat!("switchboard/", env!("CARGO_PKG_VERSION"))));
            if let Some(key) = &self.api_key {
                request = request.insert_header((AUTHORIZATION, format!("Bearer {}", key.expose_secret())));
            }
            match request.send_body(body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(SendRequestError::Send(_) | SendRequestError::Connect(ConnectError::Disconnected))
                    if again && begun.elapsed() < STALE_WITHIN =>
                {
                    again = false;
                }
                Err(cause) => return Err(unreached(&cause)),
            }
        }
    }

    /// What a status other than success means for the client.
    fn refusal(
        &self,
        status: StatusCode,
        retry_after: Option<Duration>,
        body: &[u8],
        model: &str,
    ) -> UpstreamFailure {
        let told: Option<Told> = serde_json::from_slice(body).ok();
        let told = told.unwrap_or_default();
        let error = told.error.unwrap_or_default();
        let cause = format!("status {status}: {}", self.without_secrets(&String::from_utf8_lossy(body), ""));
        let kind = match status.as_u16() {
            400 | 413 | 415 | 422 => {
                UpstreamKind::BadRequest { code: text(error.get("code")), param: text(error.get("param")) }
            }
            401 | 403 => UpstreamKind::Auth,
            408 | 504 => UpstreamKind::Timeout,
            429 | 503 | 529 => UpstreamKind::Unavailable { retry_after },
            _ => UpstreamKind::Refused,
        };
        let mut failure = UpstreamFailure::new(kind, cause);
        if matches!(failure.kind, UpstreamKind::BadRequest { .. }) {
            let message =
                text(error.get("message")).or(text(told.message.as_ref())).or(text(told.detail.as_ref()));
            if let Some(message) = message {
                failure.message = self.without_secrets(&message, model);
            }
        }
        failure
    }

    /// An error that came with status 200.
    fn reported(&self, error: &Raw, model: &str) -> UpstreamFailure {
        UpstreamFailure::new(
            UpstreamKind::Refused,
            format!("an error instead of an answer: {}", self.without_secrets(&error.text(), model)),
        )
    }

    /// The provider's words without the operator's key and without the model's real name.
    fn without_secrets(&self, text: &str, model: &str) -> String {
        let mut clean = text.to_owned();
        if let Some(key) = self.api_key.as_ref().map(ExposeSecret::expose_secret)
            && !key.is_empty()
        {
            clean = clean.replace(key, "***");
        }
        if model.is_empty() { clean } else { clean.replace(model, "the model") }
    }
}

#[derive(Default, Deserialize)]
struct Told {
    #[serde(default, deserialize_with = "lenient_object")]
    error: Option<serde_json::Map<String, Value>>,
    message: Option<Value>,
    detail: Option<Value>,
}

/// `{"error": {...}}` as OpenAI writes it, or `{"error": "text"}` as others do.
fn lenient_object<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<serde_json::Map<String, Value>>, D::Error> {
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

fn unreached(cause: &SendRequestError) -> UpstreamFailure {
    let kind = match cause {
        SendRequestError::Timeout => UpstreamKind::Timeout,
        SendRequestError::Response(_) => UpstreamKind::Invalid,
        _ => UpstreamKind::Unavailable { retry_after: None },
    };
    UpstreamFailure::new(kind, cause.to_string())
}

/// `{"error": …}` with status 200 in the place of an answer.
fn in_place_of_answer(body: &Bytes) -> Option<Raw> {
    let fields = Fields::parse(body).ok()?;
    let error = fields.given("error")?;
    fields.given("choices").is_none().then(|| error.clone())
}

/// The request as the provider gets it: the client's fields in their order, ours in their place.
fn request_body(call: Call, output_field: OutputField) -> Bytes {
    let size: usize = call.messages.iter().map(|message| message.bytes().len() + 1).sum();
    let mut body = ObjectWriter::with_capacity(size + 1_024);
    body.value("model", &call.model);
    let mut list = Vec::with_capacity(size + 2);
    list.push(b'[');
    for (at, message) in call.messages.iter().enumerate() {
        if at > 0 {
            list.push(b',');
        }
        match output_field {
            OutputField::MaxCompletionTokens => list.extend_from_slice(message.bytes()),
            OutputField::MaxTokens => list.extend_from_slice(with_known_role(message).bytes()),
        }
    }
    list.push(b']');
    body.field("messages", &list);
    for (name, value) in call.fields.iter() {
        if !matches!(
            name,
            "model" | "messages" | "stream" | "stream_options" | "max_tokens" | "max_completion_tokens"
        ) {
            body.field(name, value.bytes());
        }
    }
    body.value(output_field.as_str(), &call.max_output);
    if call.stream {
        body.value("stream", &true);
        body.field("stream_options", stream_options(&call.fields).bytes());
    }
    body.finish()
}

/// `developer` is OpenAI's newer name of `system`, which most others refuse.
fn with_known_role(message: &Raw) -> Cow<'_, Raw> {
    if memchr::memmem::find(message.bytes(), b"developer").is_some()
        && let Ok(mut fields) = Fields::parse(message.bytes())
        && fields.get("role").is_some_and(|role| &role.bytes()[..] == b"\"developer\"")
    {
        fields.set("role", Raw::of("system"));
        return Cow::Owned(fields.to_raw());
    }
    Cow::Borrowed(message)
}

/// The client's own options, with usage always asked for.
fn stream_options(fields: &Fields) -> Raw {
    let own = fields.given("stream_options").and_then(|options| Fields::parse(options.bytes()).ok());
    let mut options = own.unwrap_or_default();
    options.set("include_usage", Raw::of(&true));
    options.to_raw()
}

/// Refuses fields whose price is not in the price list.
pub fn check_price(fields: &Fields) -> Result<(), Invalid> {
    const REASON: &str = "this changes the price, and this server has no price for it";
    if let Some(tier) = fields.given("service_tier") {
        let tier: String = tier.read().unwrap_or_default();
        if !matches!(tier.as_str(), "auto" | "default" | "flex") {
            return Err(Invalid::value("service_tier", REASON));
        }
    }
    for name in ["web_search_options", "audio"] {
        if fields.given(name).is_some() {
            return Err(Invalid::value(name, REASON));
        }
    }
    if let Some(modalities) = fields.given("modalities") {
        let kinds: Vec<String> = modalities.read().unwrap_or_default();
        if kinds.iter().any(|kind| kind != "text") {
            return Err(Invalid::value("modalities", REASON));
        }
    }
    Ok(())
}

async fn read_all<S>(answer: &mut awc::ClientResponse<S>, limit: usize) -> Result<Bytes, UpstreamFailure>
where
    S: Stream<Item = Result<Bytes, awc::error::PayloadError>> + Unpin,
{
    let mut whole = BytesMut::new();
    while let Some(piece) = answer.next().await {
        let piece = piece.map_err(|cause| UpstreamFailure::new(UpstreamKind::Invalid, cause.to_string()))?;
        if whole.len() + piece.len() > limit {
            return Err(UpstreamFailure::new(
                UpstreamKind::Invalid,
                format!("an answer of over {limit} bytes"),
            ));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// The events of a stream, until its own end, its early end or an error.
fn events<S>(body: awc::ClientResponse<S>) -> LocalBoxStream<'static, Result<Event, UpstreamFailure>>
where
    S: Stream<Item = Result<Bytes, awc::error::PayloadError>> + Unpin + 'static,
{
    struct Reading<S> {
        body: awc::ClientResponse<S>,
        reader: EventReader,
        ended: bool,
    }
    let start = Reading { body, reader: EventReader::default(), ended: false };
    let next = |mut reading: Reading<S>| async move {
        loop {
            let data = match reading.reader.next() {
                Some(data) => Some(data),
                None if reading.ended => reading.reader.finish(),
                None => None,
            };
            match data {
                Some(data) if data[..].trim_ascii() == b"[DONE]" => {
                    // What is left is the end of the body, often read already; then the connection can be kept.
                    let _ = futures_util::FutureExt::now_or_never(reading.body.next());
                    return Some((Ok(Event::Done), None));
                }
                Some(data) if data.is_empty() => continue,
                Some(data) => return Some((Ok(Event::Chunk(data)), Some(reading))),
                None if reading.ended => return None,
                None => {}
            }
            match reading.body.next().await {
                Some(Ok(bytes)) => {
                    if reading.reader.push(&bytes).is_err() {
                        let failure = UpstreamFailure::new(UpstreamKind::Invalid, "an event without end");
                        return Some((Err(failure), None));
                    }
                }
                Some(Err(cause)) => {
                    let failure =
                        UpstreamFailure::new(UpstreamKind::Invalid, format!("the stream broke: {cause}"));
                    return Some((Err(failure), None));
                }
                None => reading.ended = true,
            }
        }
    };
    stream::unfold(Some(start), move |reading| async move { next(reading?).await }).boxed_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(&Bytes::from(text.to_owned())).expect("an object")
    }

    #[test]
    fn the_client_s_fields_pass_through_and_ours_are_set() {
        let call = Call {
            model: "real".to_owned(),
            messages: vec![Raw::trusted("{\"role\":\"user\",\"content\":\"hi\"}")],
            fields: fields(r#"{"top_k":1.50,"max_tokens":7,"stream_options":{"include_obfuscation":false}}"#),
            max_output: 7,
            stream: true,
        };
        let body = request_body(call, OutputField::MaxCompletionTokens);
        let expected = r#"{"model":"real","messages":[{"role":"user","content":"hi"}],"top_k":1.50,"max_completion_tokens":7,"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true}}"#;
        assert_eq!(std::str::from_utf8(&body).expect("text"), expected);
    }

    #[test]
    fn the_newer_role_is_translated_for_those_who_do_not_know_it() {
        let newer = Raw::trusted("{\"role\":\"developer\",\"content\":\"a developer\"}");
        assert_eq!(with_known_role(&newer).text(), "{\"role\":\"system\",\"content\":\"a developer\"}");
        let user = Raw::trusted("{\"role\":\"user\",\"content\":\"developer\"}");
        assert_eq!(with_known_role(&user).text(), user.text());
    }

    #[test]
    fn what_changes_the_price_is_named() {
        let param = |text| check_price(&fields(text)).expect_err("refused").param;
        assert_eq!(param(r#"{"service_tier":"priority"}"#).as_deref(), Some("service_tier"));
        assert_eq!(param(r#"{"web_search_options":{}}"#).as_deref(), Some("web_search_options"));
        assert_eq!(param(r#"{"modalities":["text","audio"]}"#).as_deref(), Some("modalities"));
        assert!(
            check_price(&fields(r#"{"service_tier":"default","modalities":["text"],"audio":null}"#)).is_ok()
        );
    }
}
