//! Providers, as the operator sees them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::ceil_secs;
use crate::provider::health::{Circuit as Seen, Standing};
use crate::provider::{ProviderConfig, ProviderKind};
use crate::store::account_provider::OwnRow;
use crate::wire::native::values::Time;

/// The configured providers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProviderList {
    /// How calls are spread over the providers of one model: `weighted` or `least_busy`.
    pub balance: &'static str,
    /// The first one answers for models that none lists.
    pub providers: Vec<Provider>,
}

/// A provider: how it is called, without its secrets, and how it does.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Provider {
    /// What agents put in front of a model's name.
    name: String,
    /// `openai`, `anthropic` or `demo`.
    kind: &'static str,
    /// Where it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
    /// The model of agents that name none.
    model: String,
    /// The models that it lists.
    models: Vec<String>,
    weight: u32,
    /// Calls that it takes at once, at most.
    max_concurrency: Option<usize>,
    /// `cancel` or `drain`.
    on_disconnect: &'static str,
    /// Calls that run now.
    running: usize,
    /// Calls that were made once more, since the start.
    retried: u64,
    /// A circuit breaker a model that was asked.
    circuits: Vec<Circuit>,
}

/// How a model does at a provider.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Circuit {
    model: String,
    /// `closed`, `open` or `half_open`.
    state: &'static str,
    /// Seconds until it is tried again.
    open_for_s: Option<u64>,
    /// Calls since the start.
    calls: u64,
    /// Those of them that failed by the provider's fault.
    failures: u64,
    /// The kind of the last failure.
    last_error: Option<&'static str>,
    last_error_at: Option<Time>,
}

/// What an account brought.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OwnProviderList {
    /// By name.
    pub providers: Vec<OwnProvider>,
}

/// A key for one of the operator's providers, or a provider of the account's own.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OwnProvider {
    name: String,
    /// Where the account's own provider is called; null where the key is for one of the operator's.
    base_url: Option<String>,
    /// The end of the key; empty if the key is short.
    last4: String,
    created_at: Time,
}

impl From<&OwnRow> for OwnProvider {
    fn from(row: &OwnRow) -> Self {
        Self {
            name: row.name.clone(),
            base_url: row.base_url.clone(),
            last4: row.last_four.clone(),
            created_at: row.created_at.into(),
        }
    }
}

impl Provider {
    /// As it was configured, and how it does.
    pub fn of(config: &ProviderConfig, standing: &Standing) -> Self {
        let (kind, base_url) = match &config.kind {
            ProviderKind::OpenAi { base_url, .. } => ("openai", Some(base_url.clone())),
            ProviderKind::Anthropic { base_url, .. } => ("anthropic", Some(base_url.clone())),
            ProviderKind::Demo => ("demo", None),
        };
        let terms = &config.terms;
        let circuits = standing.circuits.all();
        Self {
            name: config.name.clone(),
            kind,
            base_url,
            model: config.model.clone(),
            models: terms.models.clone(),
            weight: terms.weight,
            max_concurrency: terms.max_concurrency,
            on_disconnect: terms.on_disconnect.as_str(),
            running: standing.gauge.running(),
            retried: standing.retried(),
            circuits: circuits.iter().map(|(model, own)| Circuit::of(model, own)).collect(),
        }
    }
}

impl Circuit {
    fn of(model: &str, circuit: &Seen) -> Self {
        let seen = circuit.snapshot();
        Self {
            model: model.to_owned(),
            state: seen.state.as_str(),
            open_for_s: seen.open_for.map(ceil_secs),
            calls: seen.calls,
            failures: seen.failures,
            last_error: seen.last_error.map(|(kind, _)| kind),
            last_error_at: seen.last_error.map(|(_, at)| at.into()),
        }
    }
}
