//! Providers that speak Anthropic's Messages.
//!
//! Requests and answers are translated by plain functions: [`request`] there, [`answer`] and [`stream`] back.

mod answer;
mod blocks;
mod failure;
mod messages;
mod options;
mod request;
mod stream;
mod tools;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{LocalBoxStream, StreamExt, unfold};
use secrecy::SecretString;

use crate::error::{Invalid, UpstreamFailure, UpstreamKind};
use crate::json::where_it_went_wrong;
use crate::provider::http::{Body, Endpoint};
use crate::provider::refusal::Secrets;
use crate::provider::{Answer, Call, Event, Provider, Timeouts};
use answer::Whole;
pub use request::{check_fields, check_messages};
use stream::{Fault, Translator};

/// Where Anthropic itself is.
pub const BASE_URL: &str = "https://api.anthropic.com/v1";
/// The version of the protocol.
const VERSION: &str = "2023-06-01";

/// A client of one such provider, for one thread.
pub struct Anthropic(Rc<Endpoint>);

impl Anthropic {
    /// Makes the client. TLS needs a crypto provider installed before.
    pub fn new(
        (base_url, extra): (&str, Vec<(String, SecretString)>),
        api_key: Option<SecretString>,
        timeouts: Timeouts,
    ) -> Self {
        let url = format!("{}/messages", base_url.trim_end_matches('/'));
        let endpoint = Endpoint::new(&url, headers(api_key.clone()), Secrets::new(api_key), timeouts);
        Self(Rc::new(endpoint.with_headers(extra)))
    }
}

impl Provider for Anthropic {
    fn call(&self, call: Call) -> LocalBoxFuture<'static, Result<Answer, UpstreamFailure>> {
        let lent = call.own.as_ref().map(|own| {
            let key = own.api_key.clone();
            Rc::new(self.0.lent(None, headers(key.clone()), Secrets::new(key)))
        });
        let endpoint = lent.unwrap_or_else(|| self.0.clone());
        Box::pin(async move { ask(endpoint, call).await })
    }

    fn timeouts(&self) -> Timeouts {
        self.0.timeouts()
    }
}

/// What every request has, with the operator's key or a tenant's own.
fn headers(api_key: Option<SecretString>) -> Vec<(&'static str, SecretString)> {
    let version = ("anthropic-version", VERSION.to_owned().into());
    std::iter::once(version).chain(api_key.map(|key| ("x-api-key", key))).collect()
}

async fn ask(endpoint: Rc<Endpoint>, call: Call) -> Result<Answer, UpstreamFailure> {
    let made = Cell::new(Some(request::body(&call).map_err(untranslatable)?));
    // What could be translated can be once more.
    let make = || made.take().or_else(|| request::body(&call).ok()).unwrap_or_default().into();
    let answer = endpoint.post(make, call.stream, &call.model).await.map_err(failure::of_the_operator)?;
    if call.stream {
        return Ok(Answer::Stream(events(endpoint, answer, call.model)));
    }
    let whole = endpoint.whole(answer).await?;
    match answer::translate(&whole) {
        Ok(Whole::Answer(answer)) => Ok(Answer::Whole(answer)),
        Ok(Whole::Error(error)) => Err(error.failure(endpoint.secrets(), &call.model)),
        Err(cause) => Err(malformed(&where_it_went_wrong(&cause))),
    }
}

/// The client can mend its request, or begin another conversation.
fn untranslatable(invalid: Invalid) -> UpstreamFailure {
    let kind = UpstreamKind::BadRequest { code: Some(invalid.code.to_owned()), param: invalid.param };
    let mut failure = UpstreamFailure::new(kind, &*invalid.message);
    failure.message = invalid.message;
    failure
}

fn malformed(cause: &str) -> UpstreamFailure {
    UpstreamFailure::new(UpstreamKind::Invalid, format!("not an answer of Messages: {cause}"))
}

struct Reading {
    endpoint: Rc<Endpoint>,
    body: Body,
    model: Arc<str>,
    translator: Translator,
    ready: VecDeque<Event>,
}

/// The events of a stream, until its own end, its early end or an error.
fn events(
    endpoint: Rc<Endpoint>,
    body: Body,
    model: Arc<str>,
) -> LocalBoxStream<'static, Result<Event, UpstreamFailure>> {
    let start = Reading { endpoint, body, model, translator: Translator::default(), ready: VecDeque::new() };
    unfold(Some(start), |reading| async move {
        let mut reading = reading?;
        match reading.next().await {
            Ok(Event::Done) => {
                reading.body.leave();
                Some((Ok(Event::Done), None))
            }
            Ok(event) => Some((Ok(event), Some(reading))),
            Err(failure) => Some((Err(failure), None)),
        }
    })
    .boxed_local()
}

impl Reading {
    async fn next(&mut self) -> Result<Event, UpstreamFailure> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            // An answer that says why it ended, and ends without `message_stop`, was cut all the same.
            let Some(data) = self.body.next_event().await else {
                return Err(malformed("the stream ended before message_stop"));
            };
            match self.translator.take(&data?, &mut self.ready) {
                Ok(()) => {}
                Err(Fault::Malformed(cause)) => return Err(malformed(&cause)),
                Err(Fault::Reported(error)) => {
                    return Err(error.failure(self.endpoint.secrets(), &self.model));
                }
            }
        }
    }
}
