//! Choosing a provider where nobody configured one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::providers::openai_kind;
use crate::provider::{ProviderConfig, ProviderKind, Terms, Timeouts};

/// Where Ollama listens unless it was told otherwise.
const OLLAMA: ([u8; 4], u16) = ([127, 0, 0, 1], 11_434);
/// How long it may take to connect, and to list its models.
const OLLAMA_CONNECT: Duration = Duration::from_millis(30);
const OLLAMA_ANSWER: Duration = Duration::from_millis(500);
/// The longest list of models that is read, in bytes.
const OLLAMA_BYTES: u64 = 1024 * 1024;

/// OpenAI if there is a key, else a local Ollama that answers, else the demonstration; and why.
pub fn provider(model: Option<&str>, terms: Terms) -> (ProviderConfig, String) {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let config = |name: &str, kind: ProviderKind, fallback: String| ProviderConfig {
        name: name.to_owned(),
        kind,
        model: model.map_or(fallback, str::to_owned),
        timeouts: Timeouts::DEFAULT,
        terms: terms.clone(),
    };
    if let Some(key) = variable("OPENAI_API_KEY") {
        let url = variable("OPENAI_BASE_URL").unwrap_or_else(|| "https://api.openai.com/v1".to_owned());
        let kind = openai_kind(&url, Some(&key), None);
        return (config("openai", kind, "gpt-4o-mini".to_owned()), "OPENAI_API_KEY is set".to_owned());
    }
    if let Some(found) = ollama_model() {
        let address = ollama_address();
        let kind = openai_kind(&format!("http://{address}/v1"), None, None);
        return (config("ollama", kind, found), format!("Ollama answers on {address}"));
    }
    let demo = ProviderConfig {
        name: "demo".to_owned(),
        kind: ProviderKind::Demo,
        model: "demo".to_owned(),
        timeouts: Timeouts::DEFAULT,
        terms: terms.clone(),
    };
    (demo, "no provider is configured; it answers without any model".to_owned())
}

/// Where Ollama's own variable `OLLAMA_HOST` says it listens, if it names an address and a port.
fn ollama_address() -> SocketAddr {
    let named = std::env::var("OLLAMA_HOST").ok();
    let named = named.as_deref().map(|host| host.trim_start_matches("http://"));
    named.and_then(|host| host.parse().ok()).unwrap_or(SocketAddr::from(OLLAMA))
}

/// The first model of a local Ollama.
fn ollama_model() -> Option<String> {
    let mut connection = TcpStream::connect_timeout(&ollama_address(), OLLAMA_CONNECT).ok()?;
    connection.set_read_timeout(Some(OLLAMA_ANSWER)).ok()?;
    connection.write_all(b"GET /v1/models HTTP/1.0\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.take(OLLAMA_BYTES).read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let ok = head.split(' ').nth(1) == Some("200");
    let models: serde_json::Value = serde_json::from_str(body).ok().filter(|_| ok)?;
    models["data"][0]["id"].as_str().map(str::to_owned)
}
