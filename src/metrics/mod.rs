//! What is counted and timed while the server runs, in the names of OpenTelemetry's conventions where there are any.
//!
//! One place for the whole process, as the log is. Labels have few values each: routes, models that have a price,
//! codes of ours; never a key, an account or a session. A turn is counted when it ends; a token costs nothing here.

mod process;
mod sampled;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::conversation::usage::Usage;
use crate::error::{Stop, UpstreamKind};
use crate::store::hold::Closed;
pub use sampled::Sampled;

/// How many files the process may have open at once, where the kernel tells.
pub fn max_open_files() -> Option<u64> {
    process::Process::read()?.max_fds
}

/// Bounds of calls that a model answers, in seconds, as the conventions for generative AI have them.
const OPERATION_BOUNDS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// Bounds of the time to the first token, in seconds, likewise.
const FIRST_TOKEN_BOUNDS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Bounds of HTTP requests, in seconds, as the conventions for HTTP have them.
const REQUEST_BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Methods that stand for themselves; others are counted together.
const METHODS: [&str; 7] = ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];

struct Metrics {
    registry: Registry,
    requests: HistogramVec,
    errors: IntCounterVec,
    calls: HistogramVec,
    first_token: Histogram,
    turns: Histogram,
    tokens: IntCounterVec,
    charged: IntCounter,
    written_off: IntCounter,
    disagreements: IntCounter,
    sessions: IntGauge,
    waiting: IntGauge,
}

static METRICS: LazyLock<Metrics> =
    LazyLock::new(|| Metrics::new().expect("the names of the metrics are valid and differ"));

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let timed =
            |name: &str, help: &str, bounds: &[f64]| HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let metrics = Self {
            requests: HistogramVec::new(
                timed(
                    "http_server_request_duration_seconds",
                    "From a request's head to the answer's head, by route.",
                    &REQUEST_BOUNDS,
                ),
                &["http_request_method", "http_route", "status_class"],
            )?,
            errors: IntCounterVec::new(
                Opts::new("switchboard_errors_total", "Errors told to clients, by their type and code."),
                &["type", "code"],
            )?,
            calls: HistogramVec::new(
                timed(
                    "gen_ai_client_operation_duration_seconds",
                    "Calls of providers, from the request to their end, by how they ended.",
                    &OPERATION_BOUNDS,
                ),
                &["gen_ai_provider_name", "gen_ai_request_model", "outcome"],
            )?,
            first_token: Histogram::with_opts(timed(
                "gen_ai_server_time_to_first_token_seconds",
                "From the beginning of a streamed turn to the provider's first event.",
                &FIRST_TOKEN_BOUNDS,
            ))?,
            turns: Histogram::with_opts(timed(
                "gen_ai_server_request_duration_seconds",
                "Turns that a provider began to answer, from their beginning to their end, the charge included.",
                &OPERATION_BOUNDS,
            ))?,
            tokens: IntCounterVec::new(
                Opts::new(
                    "switchboard_tokens_total",
                    "Tokens that were charged for; cached_input is part of input.",
                ),
                &["gen_ai_request_model", "gen_ai_token_type"],
            )?,
            charged: IntCounter::new("switchboard_charged_nanousd_total", "What was charged, in 10^-9 USD.")?,
            disagreements: IntCounter::new(
                "switchboard_ledger_disagreements_total",
                "Reservations that were promised from memory and not granted by the database.",
            )?,
            written_off: IntCounter::new(
                "switchboard_written_off_nanousd_total",
                "What was used and could not be charged, in 10^-9 USD.",
            )?,
            sessions: IntGauge::new("switchboard_sessions_resident", "Sessions in memory.")?,
            waiting: IntGauge::new(
                "switchboard_turns_waiting",
                "Turns that wait for their place in a session.",
            )?,
            registry,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> prometheus::Result<()> {
        self.registry.register(Box::new(self.requests.clone()))?;
        self.registry.register(Box::new(self.errors.clone()))?;
        self.registry.register(Box::new(self.calls.clone()))?;
        self.registry.register(Box::new(self.first_token.clone()))?;
        self.registry.register(Box::new(self.turns.clone()))?;
        self.registry.register(Box::new(self.tokens.clone()))?;
        self.registry.register(Box::new(self.charged.clone()))?;
        self.registry.register(Box::new(self.written_off.clone()))?;
        self.registry.register(Box::new(self.disagreements.clone()))?;
        self.registry.register(Box::new(self.sessions.clone()))?;
        self.registry.register(Box::new(self.waiting.clone()))
    }
}

/// Everything in Prometheus's text format, with what is only known when it is asked for.
///
/// # Errors
/// When a sample cannot be written, which is a defect.
pub fn text(sampled: &Sampled) -> prometheus::Result<String> {
    let mut families = METRICS.registry.gather();
    families.extend(sampled.gather()?);
    TextEncoder::new().encode_to_string(&families)
}

/// A request was answered; `route` is the pattern that matched it.
pub fn answered(method: &str, route: Option<&str>, status: u16, took: Duration) {
    let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("_OTHER");
    let class = match status {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    let labels = [method, route.unwrap_or("unmatched"), class];
    METRICS.requests.with_label_values(&labels).observe(took.as_secs_f64());
}

/// A client was told of an error, at once or in a stream.
pub fn failed(kind: &str, code: &str) {
    METRICS.errors.with_label_values(&[kind, code]).inc();
}

/// A charge was committed.
pub fn charged(closed: &Closed) {
    let Usage { prompt, cached, output } = closed.usage;
    // What tenants name themselves is counted together.
    let model = if closed.model.starts_with("own/") { "own" } else { closed.model.as_str() };
    for (kind, tokens) in [("input", prompt), ("cached_input", cached), ("output", output)] {
        METRICS.tokens.with_label_values(&[model, kind]).inc_by(tokens);
    }
    METRICS.charged.inc_by(u64::try_from(closed.charged.0).unwrap_or(0));
    METRICS.written_off.inc_by(u64::try_from(closed.written_off.0).unwrap_or(0));
}

/// A reservation was promised and not granted.
pub fn disagreed() {
    METRICS.disagreements.inc();
}

/// A turn is over that a provider began to answer.
pub fn turn_ended(first_token: Option<Duration>, took: Duration) {
    if let Some(first_token) = first_token {
        METRICS.first_token.observe(first_token.as_secs_f64());
    }
    METRICS.turns.observe(took.as_secs_f64());
}

/// A session that is in memory as long as this is.
pub struct Resident(());

impl Resident {
    /// One more.
    pub fn enter() -> Self {
        METRICS.sessions.inc();
        Self(())
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        METRICS.sessions.dec();
    }
}

/// A turn that waits for its place in a session as long as this is.
pub struct Waiting(());

impl Waiting {
    /// One more.
    pub fn enter() -> Self {
        METRICS.waiting.inc();
        Self(())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        METRICS.waiting.dec();
    }
}

/// A call of a provider, timed from here on. One that is dropped was given up.
pub struct Call {
    provider: String,
    model: String,
    began: Instant,
    outcome: &'static str,
}

impl Call {
    /// The call begins.
    pub fn begin(provider: &str, model: &str) -> Self {
        let (provider, model) = (provider.to_owned(), model.to_owned());
        Self { provider, model, began: Instant::now(), outcome: "client_gone" }
    }

    /// It gave a whole answer.
    pub fn answered(&mut self) {
        self.outcome = "ok";
    }

    /// It was ended from outside.
    pub fn stopped(&mut self, why: Stop) {
        self.outcome = why.code();
    }

    /// The provider failed.
    pub fn failed(&mut self, kind: &UpstreamKind) {
        self.outcome = kind.word();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let labels = [self.provider.as_str(), self.model.as_str(), self.outcome];
        METRICS.calls.with_label_values(&labels).observe(self.began.elapsed().as_secs_f64());
    }
}
