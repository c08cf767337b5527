//! One call of the management API: what is asked, and what comes back.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use awc::ClientResponse;
use awc::error::PayloadError;
use awc::http::Method;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use super::parse::Body;
use super::server::{Server, Token, Who};

/// How long the server may take to answer, and again to send its body.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a command waits in all when the server says that it is too fast.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const BODY_LIMIT: usize = 32 << 20;

/// What the bodies of answers are made of.
trait Pieces: Stream<Item = Result<Bytes, PayloadError>> + Unpin {}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Pieces for S {}

/// One request of the management API.
pub(super) struct Call {
    pub who: Who,
    pub method: Method,
    /// Path and query, encoded.
    pub target: String,
    pub body: Option<Value>,
}

impl Call {
    fn new(who: Who, method: Method, path: &[&str], body: Option<Value>) -> Self {
        let target = path.iter().flat_map(|part| ["/".to_owned(), encoded(part)]).collect();
        Self { who, method, target, body }
    }

    pub fn get(who: Who, path: &[&str]) -> Self {
        Self::new(who, Method::GET, path, None)
    }

    pub fn post(who: Who, path: &[&str], body: Body) -> Self {
        Self::new(who, Method::POST, path, Some(body.into()))
    }

    pub fn put(who: Who, path: &[&str], body: Body) -> Self {
        Self::new(who, Method::PUT, path, Some(body.into()))
    }

    pub fn patch(who: Who, path: &[&str], body: Body) -> Self {
        Self::new(who, Method::PATCH, path, Some(body.into()))
    }

    pub fn delete(who: Who, path: &[&str]) -> Self {
        Self::new(who, Method::DELETE, path, None)
    }

    /// Adds to the query what was given.
    pub fn query(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.target.push(if self.target.contains('?') { '&' } else { '?' });
            self.target.push_str(&format!("{name}={}", encoded(&value.to_string())));
        }
        self
    }
}

/// What the server answered to a call it accepted.
pub(super) struct Reply {
    pub status: u16,
    pub value: Value,
    raw: String,
}

impl Reply {
    /// The server's JSON as it came; an answer without a body is an empty object.
    pub fn raw(&self) -> String {
        if self.raw.trim().is_empty() { "{}".to_owned() } else { self.raw.clone() }
    }

    #[cfg(test)]
    pub fn of(status: u16, value: Value) -> Self {
        Self { status, raw: value.to_string(), value }
    }
}

/// The server said no.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({status}{}){hint}", code.as_deref().map(|code| format!(" {code}")).unwrap_or_default())]
pub(super) struct Refusal {
    status: u16,
    code: Option<String>,
    message: String,
    /// What may help, on lines of its own.
    hint: String,
    retry_after: Option<Duration>,
    /// The server's JSON, where it sent any.
    pub body: Option<String>,
}

impl Server {
    /// Makes one call and reads the whole answer.
    pub(super) fn call(&self, call: &Call) -> anyhow::Result<Reply> {
        let token = self.token(call.who)?;
        // Another provider being installed already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        actix_rt::System::new().block_on(self.send_in_time(call, &token))
    }

    /// Sends, and waits when it was too fast: a script need not know its rate limit. Nothing was done by then.
    async fn send_in_time(&self, call: &Call, token: &Token) -> anyhow::Result<Reply> {
        let mut patience = PATIENCE;
        loop {
            let answer = self.send(call, token).await;
            let refusal = answer.as_ref().err().and_then(|error| error.downcast_ref::<Refusal>());
            let Some(wait) = refusal.and_then(Refusal::too_fast).filter(|wait| *wait <= patience) else {
                return answer;
            };
            patience -= wait;
            actix_rt::time::sleep(wait).await;
        }
    }

    /// Makes one call and writes the answer to `out` as it comes. A reader that has seen enough is no error.
    pub(super) fn copy(&self, call: &Call, out: &mut dyn Write) -> anyhow::Result<()> {
        let token = self.token(call.who)?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        actix_rt::System::new().block_on(async {
            let mut response = self.ask(call, &token).await?;
            if !response.status().is_success() {
                return self.read(call, &token, response).await.map(drop);
            }
            while let Some(piece) = response.next().await {
                match out.write_all(&piece.context("the answer broke off")?) {
                    Err(fault) if fault.kind() == ErrorKind::BrokenPipe => return Ok(()),
                    written => written.context("cannot write the answer")?,
                }
            }
            Ok(out.flush()?)
        })
    }

    async fn send(&self, call: &Call, token: &Token) -> anyhow::Result<Reply> {
        let response = self.ask(call, token).await?;
        self.read(call, token, response).await
    }

    async fn ask(&self, call: &Call, token: &Token) -> anyhow::Result<ClientResponse<impl Pieces>> {
        let client = awc::Client::builder().disable_redirects().timeout(TIMEOUT);
        let client = match &self.ca_cert {
            Some(file) => client.connector(awc::Connector::new().rustls_0_23(trusting(file)?)).finish(),
            None => client.finish(),
        };
        let url = format!("{}{}", self.url(), call.target);
        let request = client
            .request(call.method.clone(), &url)
            .insert_header(("accept", "application/json"))
            .insert_header(("authorization", format!("Bearer {}", token.secret)));
        let sent = match &call.body {
            Some(body) => request.send_json(body).await,
            None => request.send().await,
        };
        sent.map_err(|fault| {
            anyhow!(
                "cannot reach the server at {}: {fault}\nis it running? `switchboard serve` starts it; --url or \
                 SWITCHBOARD_URL says where it is",
                self.url()
            )
        })
    }

    /// Reads a whole answer.
    async fn read(
        &self,
        call: &Call,
        token: &Token,
        response: ClientResponse<impl Pieces>,
    ) -> anyhow::Result<Reply> {
        let url = format!("{}{}", self.url(), call.target);
        let mut response = response.timeout(TIMEOUT);
        let status = response.status();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let request_id = header("x-request-id");
        let retry_after = header("retry-after").and_then(|seconds| seconds.parse().ok());
        let body = response.body().limit(BODY_LIMIT).await;
        let body = body.with_context(|| format!("cannot read the answer of {url}"))?;
        let raw = String::from_utf8(body.to_vec()).context("the server's answer is not UTF-8")?;
        let value = serde_json::from_str(&raw);
        if status.is_success() {
            let value = match value {
                Ok(value) => value,
                Err(_) if raw.trim().is_empty() => Value::Null,
                Err(fault) => {
                    bail!("the answer of {url} is not JSON ({fault}): is this a Switchboard server?")
                }
            };
            return Ok(Reply { status: status.as_u16(), value, raw });
        }
        let mut refusal = Refusal::read(status.as_u16(), value.ok(), raw);
        refusal.retry_after = retry_after.map(Duration::from_secs);
        if let (401 | 403, origin) = (refusal.status, &token.origin) {
            refusal.hint = format!("\nthe {} was taken from {origin}", call.who.secret());
        } else if let (500, Some(id)) = (refusal.status, request_id) {
            refusal.hint = format!("\nthe server's log has the cause under {id}");
        }
        Err(refusal.into())
    }
}

/// Trusts what is in the file and nothing else.
fn trusting(file: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let read = || format!("--ca-cert: {}", file.display());
    for certificate in CertificateDer::pem_file_iter(file).with_context(read)? {
        roots.add(certificate.with_context(read)?).with_context(read)?;
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

impl Refusal {
    /// How long to wait, where that is all that is wrong.
    fn too_fast(&self) -> Option<Duration> {
        self.retry_after.filter(|_| self.status == 429).map(|wait| wait.max(Duration::from_secs(1)))
    }

    fn read(status: u16, value: Option<Value>, raw: String) -> Self {
        let error = value.as_ref().map(|value| &value["error"]);
        let text = |field: &str| Some(error?.get(field)?.as_str()?.to_owned());
        Self {
            status,
            code: text("code"),
            message: text("message").unwrap_or_else(|| "the server refused without a reason".to_owned()),
            hint: String::new(),
            retry_after: None,
            body: value.is_some().then_some(raw),
        }
    }
}

/// Percent-encodes one part of a path or of a query.
pub(super) fn encoded(part: &str) -> String {
    if part == "." || part == ".." {
        // Sessions may be called so; bare, they would be read as steps in the path.
        return part.replace('.', "%2E");
    }
    let mut text = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                text.push(byte.into())
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_and_queries_are_encoded() {
        let call = Call::get(Who::Account, &["v2", "sessions", "a/b?c"])
            .query("agent_id", Some("ä b"))
            .query("x", None::<u8>);
        assert_eq!(call.target, "/v2/sessions/a%2Fb%3Fc?agent_id=%C3%A4%20b");
        assert_eq!(Call::get(Who::Account, &["v2", "sessions", ".."]).target, "/v2/sessions/%2E%2E");
    }

    #[test]
    fn a_refusal_reads_as_its_message_and_status() {
        let body = json!({ "error": { "message": "no such agent", "code": "not_found" } });
        let refusal = Refusal::read(404, Some(body), String::new());
        assert_eq!(refusal.to_string(), "no such agent (404 not_found)");
        assert_eq!(refusal.too_fast(), None);
        assert_eq!(
            Refusal::read(502, None, "<html>".into()).to_string(),
            "the server refused without a reason (502)"
        );
    }
}
