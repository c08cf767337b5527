//! The HTTP side of a provider, whatever protocol it speaks: one client a thread, one POST a call.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use actix_http::body::SizedStream;
use actix_service::fn_service;
use actix_tls::connect::ConnectInfo;
use awc::ClientResponse;
use awc::error::{ConnectError, PayloadError, SendRequestError};
use awc::http::header::{CONTENT_TYPE, RETRY_AFTER};
use awc::http::{Uri, Version};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::stream::{self, Stream, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use crate::error::{UpstreamFailure, UpstreamKind};
use crate::outbound::{self, Reach};
use crate::provider::Timeouts;
use crate::provider::refusal::{Refusal, Secrets};
use crate::provider::sse::EventReader;

/// How much of a request is handed to the client at a time: it copies each piece before it is written.
const PIECE: usize = 64 * 1024;
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

/// Where a provider's calls go, for one thread.
pub struct Endpoint {
    client: awc::Client,
    url: String,
    headers: Vec<(&'static str, SecretString)>,
    /// What the operator adds.
    extra: Vec<(String, SecretString)>,
    secrets: Secrets,
    timeouts: Timeouts,
}

impl Endpoint {
    /// Makes the client; each request has these `headers`. TLS needs a crypto provider installed before.
    pub fn new(
        url: String,
        headers: Vec<(&'static str, SecretString)>,
        secrets: Secrets,
        timeouts: Timeouts,
    ) -> Self {
        let client = client(timeouts, Reach::Anywhere);
        Self { client, url, headers, extra: Vec::new(), secrets, timeouts }
    }

    /// Makes a client for places that tenants name: not in the operator's own network, unless that is allowed.
    pub fn for_tenants(allow_private: bool, secrets: Secrets, timeouts: Timeouts) -> Self {
        let client = client(timeouts, if allow_private { Reach::Anywhere } else { Reach::Public });
        let (headers, extra) = (Vec::new(), Vec::new());
        Self { client, url: String::new(), headers, extra, secrets, timeouts }
    }

    /// Adds what the operator wants to be sent too.
    pub fn with_headers(self, extra: Vec<(String, SecretString)>) -> Self {
        Self { secrets: self.secrets.clone().and_headers(&extra), extra, ..self }
    }

    /// The same for a call with a tenant's key: with its `headers` in the place of all of the operator's, which may
    /// be credentials, and at another place if it names one.
    pub fn lent(
        &self,
        url: Option<String>,
        headers: Vec<(&'static str, SecretString)>,
        secrets: Secrets,
    ) -> Self {
        let url = url.unwrap_or_else(|| self.url.clone());
        let (client, timeouts) = (self.client.clone(), self.timeouts);
        Self { client, url, headers, extra: Vec::new(), secrets, timeouts }
    }

    /// What no client may read.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// How long calls may take.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sends a request that asks `model`; answers the body of a success.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn post(
        &self,
        body: &Bytes,
        stream: bool,
        model: &str,
    ) -> Result<Body<impl Stream<Item = Piece> + Unpin + use<>>, UpstreamFailure> {
        let mut answer = self.send(body, stream).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Body { answer, reader: EventReader::default(), ended: false });
        }
        let retry_after =
            answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let read = timeout(ERROR_TIMEOUT, read_all(&mut answer, MAX_ERROR)).await;
        let body = read.ok().and_then(Result::ok).unwrap_or_default();
        let refusal = Refusal { status, retry_after: retry_after.map(Duration::from_secs), body };
        Err(refusal.failure(&self.secrets, model))
    }

    /// Sends the request; once more when a kept connection turns out to be closed.
    async fn send(
        &self,
        body: &Bytes,
        stream: bool,
    ) -> Result<ClientResponse<impl Stream<Item = Piece> + Unpin + use<>>, UpstreamFailure> {
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
            for (name, value) in &self.headers {
                request = request.insert_header((*name, value.expose_secret()));
            }
            for (name, value) in &self.extra {
                request = request.insert_header((name.as_str(), value.expose_secret()));
            }
            match request.send_body(in_pieces(body)).await {
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

    /// The whole body of an answer that is not streamed.
    ///
    /// # Errors
    /// When it breaks, is too large or takes too long.
    pub async fn whole<S>(&self, mut body: Body<S>) -> Result<Bytes, UpstreamFailure>
    where
        S: Stream<Item = Piece> + Unpin,
    {
        let read = timeout(self.timeouts.total, read_all(&mut body.answer, MAX_ANSWER)).await;
        read.map_err(|_| UpstreamFailure::new(UpstreamKind::Timeout, "no whole answer in time"))?
    }
}

fn client(timeouts: Timeouts, reach: Reach) -> awc::Client {
    // Without TCP_NODELAY a small write may wait 40 ms for an acknowledgement.
    let nodelay = fn_service(move |to: ConnectInfo<Uri>| async move {
        let connection = outbound::connect(to, reach).await?;
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
    awc::Client::builder()
        .connector(connector)
        .disable_redirects()
        .timeout(timeouts.total)
        .no_default_headers()
        .finish()
}

/// What the network hands over at once.
pub type Piece = Result<Bytes, PayloadError>;

/// The body of a success: read whole, or event by event.
pub struct Body<S> {
    answer: ClientResponse<S>,
    reader: EventReader,
    ended: bool,
}

impl<S: Stream<Item = Piece> + Unpin> Body<S> {
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
            match self.answer.next().await {
                Some(Ok(bytes)) => {
                    if self.reader.push(&bytes).is_err() {
                        let failure = UpstreamFailure::new(UpstreamKind::Invalid, "an event without end");
                        return Some(Err(failure));
                    }
                }
                Some(Err(cause)) => {
                    let failure =
                        UpstreamFailure::new(UpstreamKind::Invalid, format!("the stream broke: {cause}"));
                    return Some(Err(failure));
                }
                None => self.ended = true,
            }
        }
    }

    /// Leaves the body after the protocol's own end. What is left is the end of the body, often read already; then
    /// the connection can be kept.
    pub fn leave(mut self) {
        // A body that has ended must not be asked again: awc panics.
        if !self.ended {
            let _ = self.answer.next().now_or_never();
        }
    }
}

fn unreached(cause: &SendRequestError) -> UpstreamFailure {
    let kind = match cause {
        SendRequestError::Timeout => UpstreamKind::Timeout,
        SendRequestError::Response(_) => UpstreamKind::Invalid,
        _ => UpstreamKind::Unavailable { retry_after: None },
    };
    let failure = UpstreamFailure::new(kind, cause.to_string());
    match cause {
        // It was reached, and left without a word: it may have begun.
        SendRequestError::Connect(ConnectError::Disconnected) => failure,
        SendRequestError::Connect(_) | SendRequestError::Timeout => failure.passing(),
        _ => failure,
    }
}

/// A request's body, none of which is copied before there is room for it on its way.
fn in_pieces(body: &Bytes) -> SizedStream<impl Stream<Item = Result<Bytes, Infallible>> + Unpin + use<>> {
    let (whole, count) = (body.clone(), body.len().div_ceil(PIECE));
    let piece = move |at: usize| Ok(whole.slice(at * PIECE..whole.len().min((at + 1) * PIECE)));
    SizedStream::new(body.len() as u64, stream::iter((0..count).map(piece)))
}

async fn read_all<S>(answer: &mut ClientResponse<S>, limit: usize) -> Result<Bytes, UpstreamFailure>
where
    S: Stream<Item = Piece> + Unpin,
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
