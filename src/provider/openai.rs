//! Providers that speak OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp and many more.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use buf_list::BufList;
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{self, LocalBoxStream, StreamExt};
use memchr::memmem::Finder;
use secrecy::{ExposeSecret, SecretString};

use crate::conversation::transcript::spliced;
use crate::error::{Invalid, UpstreamFailure, UpstreamKind};
use crate::json::{Fields, ObjectWriter, Raw};
use crate::provider::http::{Body, Endpoint};
use crate::provider::refusal::Secrets;
use crate::provider::{Answer, Call, Event, OutputField, Provider, Timeouts};

/// The name of the field that is searched for.
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));

/// A client of one such provider, for one thread.
pub struct OpenAi(Rc<Inner>);

struct Inner {
    endpoint: Endpoint,
    output_field: OutputField,
}

impl OpenAi {
    /// Makes the client. TLS needs a crypto provider installed before.
    pub fn new(
        (base_url, extra): (&str, Vec<(String, SecretString)>),
        api_key: Option<SecretString>,
        output_field: OutputField,
        timeouts: Timeouts,
    ) -> Self {
        let headers = api_key.as_ref().map(bearer).into_iter().collect();
        let endpoint = Endpoint::new(&url_of(base_url), headers, Secrets::new(api_key), timeouts);
        Self(Rc::new(Inner { endpoint: endpoint.with_headers(extra), output_field }))
    }

    /// A client for the providers that tenants name themselves: each call says where it goes.
    pub fn for_tenants(allow_private: bool) -> Self {
        let endpoint = Endpoint::for_tenants(allow_private, Secrets::new(None), Timeouts::DEFAULT);
        Self(Rc::new(Inner { endpoint, output_field: OutputField::MaxTokens }))
    }
}

impl Provider for OpenAi {
    fn call(&self, call: Call) -> LocalBoxFuture<'static, Result<Answer, UpstreamFailure>> {
        let inner = self.0.clone();
        Box::pin(async move { inner.call(call).await })
    }

    fn timeouts(&self) -> Timeouts {
        self.0.endpoint.timeouts()
    }
}

impl Inner {
    async fn call(&self, call: Call) -> Result<Answer, UpstreamFailure> {
        let (stream, model) = (call.stream, call.model.clone());
        let lent = call.own.as_ref().map(|own| {
            let url = own.base_url.as_deref().map(url_of);
            let headers = own.api_key.as_ref().map(bearer).into_iter().collect();
            self.endpoint.lent(url.as_deref(), headers, Secrets::new(own.api_key.clone()))
        });
        let endpoint = lent.as_ref().unwrap_or(&self.endpoint);
        let named = call.own.as_ref().and_then(|own| own.base_url.as_deref());
        let output_field = named.map_or(self.output_field, OutputField::fitting);
        let answer = endpoint.post(|| request_body(&call, output_field), stream, &model).await?;
        drop(call);
        if stream {
            return Ok(Answer::Stream(events(answer, endpoint.secrets().clone(), model)));
        }
        let whole = endpoint.whole(answer).await?;
        match in_place_of_answer(&whole) {
            Some(error) => Err(reported(endpoint.secrets(), &error, &model)),
            None => Ok(Answer::Whole(whole)),
        }
    }
}

fn url_of(base_url: &str) -> String {
    format!("{}/chat/completions", base_url.trim_end_matches('/'))
}

fn bearer(key: &SecretString) -> (&'static str, SecretString) {
    ("authorization", format!("Bearer {}", key.expose_secret()).into())
}

/// An error that came with status 200.
fn reported(secrets: &Secrets, error: &Raw, model: &str) -> UpstreamFailure {
    let said = secrets.hidden(&error.text(), model);
    UpstreamFailure::new(UpstreamKind::Refused, "an error instead of an answer").saying(said)
}

/// `{"error": …}` with status 200 in the place of an answer, looked for where the word is.
pub fn in_place_of_answer(body: &Bytes) -> Option<Raw> {
    static ESCAPED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\\u"));
    // Without such an escape nobody can write it otherwise.
    if ERROR.find(body).is_none() && ESCAPED.find(body).is_none() {
        return None;
    }
    error_in(body)
}

fn error_in(body: &Bytes) -> Option<Raw> {
    let fields = Fields::parse(body).ok()?;
    let error = fields.given("error")?;
    fields.given("choices").is_none().then(|| error.clone())
}

/// The request as the provider gets it: the client's fields in their order, ours in their place.
///
/// What is long, such as most of a long conversation, is not copied.
pub fn request_body(call: &Call, output_field: OutputField) -> BufList {
    let mut body = ObjectWriter::with_capacity(call.messages.size_of_small() + 1_024);
    body.string("model", &call.model);
    let translated = call.newer_names && output_field == OutputField::MaxTokens;
    let list = body.name("messages").out();
    list.push(b'[');
    let large = match translated {
        false => call.messages.write(list),
        true => {
            call.messages.write_each(list, with_known_role);
            Vec::new()
        }
    };
    list.push(b']');
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
    spliced(body.finish(), large)
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

/// The events of a stream, until its own end, its early end or an error.
fn events(
    body: Body,
    secrets: Secrets,
    model: Arc<str>,
) -> LocalBoxStream<'static, Result<Event, UpstreamFailure>> {
    let start = Some((body, secrets, model));
    stream::unfold(start, |reading| async move {
        let (mut body, secrets, model) = reading?;
        match body.next_event().await? {
            Ok(data) if data[..].trim_ascii() == b"[DONE]" => {
                body.leave();
                Some((Ok(Event::Done), None))
            }
            Ok(data) => match error_event(&data) {
                Some(error) => Some((Err(reported(&secrets, &error, &model)), None)),
                None => Some((Ok(Event::Chunk(data)), Some((body, secrets, model)))),
            },
            Err(failure) => Some((Err(failure), None)),
        }
    })
    .boxed_local()
}

/// The error in the place of a chunk, looked for where the word is.
pub fn error_event(data: &Bytes) -> Option<Raw> {
    ERROR.find(data).and_then(|_| error_in(data))
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
            model: "real".into(),
            messages: Rc::new([Raw::trusted("{\"role\":\"user\",\"content\":\"hi\"}")].into_iter().collect()),
            fields: fields(r#"{"top_k":1.50,"max_tokens":7,"stream_options":{"include_obfuscation":false}}"#),
            newer_names: false,
            max_output: 7,
            stream: true,
            own: None,
        };
        let body: Vec<u8> =
            request_body(&call, OutputField::MaxCompletionTokens).into_iter().flatten().collect();
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
    fn an_error_is_found_however_its_name_is_written() {
        let found = |text: &'static str| in_place_of_answer(&Bytes::from_static(text.as_bytes()));
        for text in [r#"{"error":"no"}"#, r#"{"\u0065rror":"no"}"#, r#"{"choices":null,"error":"no"}"#] {
            assert_eq!(found(text), Some(Raw::of("no")), "{text}");
        }
        for text in
            [r#"{"error":null}"#, r#"{"choices":[],"error":"no"}"#, r#"{"a":"\u0065"}"#, "{}", "error"]
        {
            assert_eq!(found(text), None, "{text}");
        }
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
