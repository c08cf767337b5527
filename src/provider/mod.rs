//! Calling the models: one trait, an implementation per protocol.
//!
//! Whatever a provider speaks, chunks leave this room as OpenAI's `chat.completion.chunk` objects and whole
//! answers as `chat.completion` objects, in the bytes they came in where nothing had to be translated.

pub mod anthropic;
pub mod breaker;
pub mod choice;
pub mod client;
mod demo;
pub mod health;
mod http;
pub mod openai;
pub mod own;
mod refusal;
pub mod retry;
mod routes;
pub mod sse;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::LocalBoxStream;
use secrecy::SecretString;

use crate::billing::money::Nanos;
use crate::conversation::transcript::Transcript;
use crate::error::UpstreamFailure;
use crate::json::Fields;
use own::Own;
pub use routes::{OWN, Policy, Route, Routes};

/// A provider as configured.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// What agents put in front of a model's name.
    pub name: String,
    /// Where and how it is called.
    pub kind: ProviderKind,
    /// The model of agents that name none.
    pub model: String,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// On which terms it is called.
    pub terms: Terms,
}

impl ProviderConfig {
    /// Whether a bare name of a model is one of this provider's; one that lists models has its own one too.
    pub fn lists(&self, model: &str) -> bool {
        let listed = &self.terms.models;
        listed.iter().any(|own| own == model) || (!listed.is_empty() && self.model == model)
    }

    /// Whether a tenant's key can stand in the place of the operator's. Where there is none, any would do, and the
    /// tenant would have the operator's model at the price of its own.
    pub fn takes_own_key(&self) -> bool {
        match &self.kind {
            ProviderKind::OpenAi { api_key, .. } | ProviderKind::Anthropic { api_key, .. } => {
                api_key.is_some()
            }
            ProviderKind::Demo => false,
        }
    }
}

/// Retries of one candidate where nobody says otherwise.
pub const DEFAULT_RETRIES: u32 = 1;

/// On which terms a provider is called.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The models that go to it by their bare names.
    pub models: Vec<String>,
    /// Calls at once across all threads.
    pub max_concurrency: Option<usize>,
    /// Further headers of each request; some of them are secrets.
    pub headers: Vec<(String, SecretString)>,
    /// What its models cost to begin with.
    pub prices: Vec<StartingPrice>,
    /// Its share among the providers of one model.
    pub weight: u32,
    /// What happens to a call whose client has left.
    pub on_disconnect: OnDisconnect,
    /// How often it is asked again.
    pub retries: u32,
    /// When it is left alone.
    pub breaker: breaker::Settings,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            max_concurrency: None,
            headers: Vec::new(),
            prices: Vec::new(),
            weight: 1,
            on_disconnect: OnDisconnect::Cancel,
            retries: DEFAULT_RETRIES,
            breaker: breaker::Settings::DEFAULT,
        }
    }
}

/// What happens to a call whose client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It ends.
    Cancel,
    /// It is read on to its usage: the provider bills all of it anyway.
    Drain,
}

impl OnDisconnect {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Drain => "drain",
        }
    }
}

/// What a model costs where the price list does not say, in dollars per million tokens and per request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartingPrice {
    /// The provider's name of the model.
    pub model: String,
    /// Prompt tokens.
    pub input: Nanos,
    /// Prompt tokens that the provider had in its cache.
    pub cached_input: Nanos,
    /// Tokens of the answer.
    pub output: Nanos,
    /// Each request.
    pub per_request: Nanos,
}

/// Protocols.
#[derive(Clone, Debug)]
pub enum ProviderKind {
    /// OpenAI's chat completions, by whoever speaks them.
    OpenAi {
        /// Up to and with the version, such as `https://api.openai.com/v1`.
        base_url: String,
        /// The operator's key.
        api_key: Option<SecretString>,
        /// How it wants the bound of an answer to be named.
        output_field: OutputField,
    },
    /// Anthropic's Messages.
    Anthropic {
        /// Up to and with the version, such as `https://api.anthropic.com/v1`.
        base_url: String,
        /// The operator's key.
        api_key: Option<SecretString>,
    },
    /// The built-in one, which answers without any model.
    Demo,
}

/// Names of the bound of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputField {
    /// What most know.
    MaxTokens,
    /// What OpenAI's newer models demand.
    MaxCompletionTokens,
}

impl OutputField {
    /// OpenAI itself wants the newer name; everybody else knows the older one.
    pub fn fitting(base_url: &str) -> Self {
        let own = base_url.contains("://api.openai.com/") || base_url.ends_with("://api.openai.com");
        if own { Self::MaxCompletionTokens } else { Self::MaxTokens }
    }

    /// The field's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// How long a provider may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect.
    pub connect: Duration,
    /// From the request to the first event of a stream.
    pub first_byte: Duration,
    /// Between two events of a stream.
    pub between: Duration,
    /// In all.
    pub total: Duration,
}

impl Timeouts {
    /// 5 s to connect, 120 s to the first byte, 60 s between chunks, 600 s in all.
    pub const DEFAULT: Self = Self {
        connect: Duration::from_secs(5),
        first_byte: Duration::from_secs(120),
        between: Duration::from_secs(60),
        total: Duration::from_secs(600),
    };
}

/// One call.
pub struct Call {
    /// The provider's name of the model.
    pub model: Arc<str>,
    /// The whole prompt.
    pub messages: Rc<Transcript>,
    /// Whether some of it may be by roles that only newer models know.
    pub newer_names: bool,
    /// Everything else that the request said.
    pub fields: Fields,
    /// The bound of each answer.
    pub max_output: u64,
    /// Whether to stream.
    pub stream: bool,
    /// The tenant's own key, instead of the operator's.
    pub own: Option<Arc<Own>>,
}

/// What a provider answers.
pub enum Answer {
    /// A `chat.completion` object.
    Whole(Bytes),
    /// `chat.completion.chunk` objects.
    Stream(LocalBoxStream<'static, Result<Event, UpstreamFailure>>),
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A chunk.
    Chunk(Bytes),
    /// Nothing new, but the provider is at work. Never the first event.
    Alive,
    /// The protocol's own end. A stream that ends without it was cut.
    Done,
}

/// A way to call models. Lives on one thread.
pub trait Provider {
    /// Calls the model. Dropping the future or the stream ends the call.
    fn call(&self, call: Call) -> LocalBoxFuture<'static, Result<Answer, UpstreamFailure>>;

    /// How long calls may take.
    fn timeouts(&self) -> Timeouts;
}

/// The providers of one thread.
#[derive(Clone)]
pub struct Providers(Rc<Local>);

struct Local {
    operators: Vec<Rc<dyn Provider>>,
    /// Calls the providers that tenants name themselves.
    tenants: Rc<dyn Provider>,
}

impl Providers {
    /// Makes a client of each provider for this thread.
    pub fn connect(routes: &Routes) -> Self {
        let one = |config: &ProviderConfig| -> Rc<dyn Provider> {
            match &config.kind {
                ProviderKind::OpenAi { base_url, api_key, output_field } => {
                    let headers = config.terms.headers.clone();
                    let key = api_key.clone();
                    Rc::new(openai::OpenAi::new((base_url, headers), key, *output_field, config.timeouts))
                }
                ProviderKind::Anthropic { base_url, api_key } => {
                    let headers = config.terms.headers.clone();
                    let key = api_key.clone();
                    Rc::new(anthropic::Anthropic::new((base_url, headers), key, config.timeouts))
                }
                ProviderKind::Demo => Rc::new(demo::Demo),
            }
        };
        let tenants = Rc::new(openai::OpenAi::for_tenants(routes.policy().allow_private));
        Self(Rc::new(Local { operators: routes.providers().iter().map(one).collect(), tenants }))
    }

    /// The provider of a route.
    pub fn of(&self, route: &Route) -> Option<Rc<dyn Provider>> {
        match route.provider() {
            Some(at) => self.0.operators.get(at).cloned(),
            None => Some(self.0.tenants.clone()),
        }
    }
}
