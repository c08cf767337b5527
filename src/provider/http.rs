//! The HTTP side of a provider, whatever protocol it speaks: one client a thread, one POST a call.

use std::cell::OnceCell;
use std::time::Duration;

use buf_list::BufList;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use crate::error::{UpstreamFailure, UpstreamKind};
use crate::outbound::Reach;
use crate::provider::Timeouts;
use crate::provider::client::{Answer, Broken, Client, Post, Target, Unanswered};
use crate::provider::refusal::{Refusal, Secrets};
use crate::provider::sse::EventReader;

/// Headers of every request.
const OURS: [(&str, &str); 2] = [
    ("content-type", "application/json"),
    ("user-agent", concat!("switchboard/", env!("CARGO_PKG_VERSION"))),
];
/// The largest whole answer that is read, in bytes.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// How much of an error's body is read, in bytes.
const MAX_ERROR: usize = 64 * 1024;
/// How long an error's body may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a provider's calls go, for one thread.
pub struct Endpoint {
    client: Client,
    /// `None` where each call says where it goes.
    target: Option<Target>,
    headers: Vec<(&'static str, SecretString)>,
    /// What the operator adds.
    extra: Vec<(String, SecretString)>,
    secrets: Secrets,
    timeouts: Timeouts,
    /// How its requests begin, once there was one.
    begun: OnceCell<Post>,
}

impl Endpoint {
    /// Makes the client; each request has these `headers`. TLS needs a crypto provider installed before.
    pub fn new(
        url: &str,
        headers: Vec<(&'static str, SecretString)>,
        secrets: Secrets,
        timeouts: Timeouts,
    ) -> Self {
        let (client, target) = (Client::new(Reach::Anywhere, timeouts.connect), Target::parse(url));
        Self { client, target, headers, extra: Vec::new(), secrets, timeouts, begun: OnceCell::new() }
    }

    /// Makes a client for places that tenants name: not in the operator's own network, unless that is allowed.
    pub fn for_tenants(allow_private: bool, secrets: Secrets, timeouts: Timeouts) -> Self {
        let reach = if allow_private { Reach::Anywhere } else { Reach::Public };
        let client = Client::new(reach, timeouts.connect);
        let (headers, extra, begun) = (Vec::new(), Vec::new(), OnceCell::new());
        Self { client, target: None, headers, extra, secrets, timeouts, begun }
    }

    /// Adds what the operator wants to be sent too.
    pub fn with_headers(self, extra: Vec<(String, SecretString)>) -> Self {
        Self { secrets: self.secrets.clone().and_headers(&extra), extra, begun: OnceCell::new(), ..self }
    }

    /// The same for a call with a tenant's key: with its `headers` in the place of all of the operator's, which may
    /// be credentials, and at another place if it names one.
    pub fn lent(
        &self,
        url: Option<&str>,
        headers: Vec<(&'static str, SecretString)>,
        secrets: Secrets,
    ) -> Self {
        let target = url.map_or_else(|| self.target.clone(), Target::parse);
        let (client, timeouts) = (self.client.clone(), self.timeouts);
        Self { client, target, headers, extra: Vec::new(), secrets, timeouts, begun: OnceCell::new() }
    }

    /// What no client may read.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// How long calls may take.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sends a request that asks `model`, with the body that `make` makes; answers the body of a success.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn post(
        &self,
        make: impl Fn() -> BufList,
        stream: bool,
        model: &str,
    ) -> Result<Body, UpstreamFailure> {
        let wait = if stream { self.timeouts.first_byte } else { self.timeouts.total };
        let mut answer = match timeout(wait, self.send(make)).await {
            Ok(answered) => answered.map_err(unanswered)?,
            Err(_) => {
                let late = UpstreamFailure::new(UpstreamKind::Timeout, "no answer in time");
                return Err(late.passing());
            }
        };
        let (status, retry_after) = (answer.status, answer.retry_after);
        if status.is_success() {
            return Ok(Body { answer, reader: EventReader::default(), ended: false });
        }
        let mut said = BytesMut::new();
        // A part of what it says is better than nothing.
        let _ = timeout(ERROR_TIMEOUT, read_all(&mut answer, MAX_ERROR, &mut said)).await;
        let retry_after = retry_after.map(Duration::from_secs);
        let refusal = Refusal { status, retry_after, body: said.freeze() };
        Err(refusal.failure(&self.secrets, model))
    }

    async fn send(&self, make: impl Fn() -> BufList) -> Result<Answer, Unanswered> {
        let target = self.target.as_ref().ok_or(Unanswered::Unsendable("its URL is none"))?;
        let begun = match self.begun.get() {
            Some(begun) => begun,
            None => {
                let own = self.headers.iter().map(|(name, value)| (*name, value.expose_secret()));
                let extra = self.extra.iter().map(|(name, value)| (name.as_str(), value.expose_secret()));
                let begun = target.post(OURS.into_iter().chain(own).chain(extra))?;
                self.begun.get_or_init(|| begun)
            }
        };
        self.client.send(target, || begun.with(make())).await
    }

    /// The whole body of an answer that is not streamed.
    ///
    /// # Errors
    /// When it breaks, is too large or takes too long.
    pub async fn whole(&self, mut body: Body) -> Result<Bytes, UpstreamFailure> {
        let mut whole = BytesMut::new();
        let read = timeout(self.timeouts.total, read_all(&mut body.answer, MAX_ANSWER, &mut whole)).await;
        read.map_err(|_| UpstreamFailure::new(UpstreamKind::Timeout, "no whole answer in time"))??;
        Ok(whole.freeze())
    }
}

/// The body of a success: read whole, or event by event.
pub struct Body {
    answer: Answer,
    reader: EventReader,
    ended: bool,
}

impl Body {
    /// The data of the next event that has any; `None` at the end of the body, which proves nothing.
    pub async fn next_event(&mut self) -> Option<Result<Bytes, UpstreamFailure>> {
        loop {
            let data = match self.reader.next_event() {
                Some(data) => Some(data),
                None if self.ended => self.reader.finish(),
                None => None,
            };
            match data {
                Some(data) if data.is_empty() => continue,
                Some(data) => return Some(Ok(data)),
                None if self.ended => return None,
                None => {}
            }
            let mut too_large = false;
            let reader = &mut self.reader;
            match self.answer.more(|piece| too_large |= reader.push(piece).is_err()).await {
                Ok(_) if too_large => {
                    return Some(Err(UpstreamFailure::new(UpstreamKind::Invalid, "an event without end")));
                }
                Ok(more) => self.ended = !more,
                // What came is read to its end all the same: that end proves nothing either.
                Err(Broken::Cut) => self.ended = true,
                Err(cause) => {
                    let cause = format!("the stream broke: {cause}");
                    return Some(Err(UpstreamFailure::new(UpstreamKind::Invalid, cause)));
                }
            }
        }
    }

    /// Leaves the body after the protocol's own end. What is left is the end of the body, often read already; then
    /// the connection can be kept.
    pub fn leave(mut self) {
        let _ = self.answer.more(|_| {}).now_or_never();
    }
}

fn unanswered(cause: Unanswered) -> UpstreamFailure {
    let unavailable = UpstreamKind::Unavailable { retry_after: None };
    match cause {
        Unanswered::Unreached(_) => UpstreamFailure::new(unavailable, cause.to_string()).passing(),
        // Who left without a word was reached, and may have begun.
        Unanswered::Left(_) | Unanswered::Unsendable(_) => {
            UpstreamFailure::new(unavailable, cause.to_string())
        }
        Unanswered::Malformed(_) => UpstreamFailure::new(UpstreamKind::Invalid, cause.to_string()),
    }
}

/// Reads a body to its end.
async fn read_all(answer: &mut Answer, limit: usize, into: &mut BytesMut) -> Result<(), UpstreamFailure> {
    let invalid = |cause: String| UpstreamFailure::new(UpstreamKind::Invalid, cause);
    let mut goes_on = true;
    while goes_on {
        let more = answer.more(|piece| into.extend_from_slice(piece)).await;
        goes_on = more.map_err(|cause| invalid(cause.to_string()))?;
        if into.len() > limit {
            return Err(invalid(format!("an answer of over {limit} bytes")));
        }
    }
    Ok(())
}
