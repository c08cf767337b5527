//! Calling the models: one trait, an implementation per protocol.
//!
//! Whatever a provider speaks, chunks leave this room as OpenAI's `chat.completion.chunk` objects and whole
//! answers as `chat.completion` objects, in the bytes they came in where nothing had to be translated.

pub mod anthropic;
mod demo;
mod http;
pub mod openai;
mod refusal;
mod sse;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::LocalBoxStream;
use secrecy::SecretString;

use crate::conversation::message::Message;
use crate::error::{Invalid, UpstreamFailure};
use crate::json::{Fields, Raw};

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
    pub model: String,
    /// The whole prompt.
    pub messages: Vec<Raw>,
    /// Everything else that the request said.
    pub fields: Fields,
    /// The bound of each answer.
    pub max_output: u64,
    /// Whether to stream.
    pub stream: bool,
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

/// Which provider serves a model.
#[derive(Clone, Debug)]
pub struct Route {
    provider: usize,
    /// The provider's name of the model.
    pub model: String,
    /// The names under which its price may stand, the most exact first.
    pub priced_as: Vec<String>,
}

/// Which models go where. Shared by all threads.
#[derive(Clone, Debug)]
pub struct Routes(Arc<Vec<ProviderConfig>>);

impl Routes {
    /// Routes over the configured providers, of which there is at least one.
    pub fn new(providers: Vec<ProviderConfig>) -> Self {
        Self(Arc::new(providers))
    }

    /// The providers.
    pub fn providers(&self) -> &[ProviderConfig] {
        &self.0
    }

    /// The name of a route's provider.
    pub fn name_of(&self, route: &Route) -> &str {
        self.0.get(route.provider).map_or("", |provider| &provider.name)
    }

    /// The model of agents that name none: the first provider's.
    pub fn default_model(&self) -> &str {
        self.0.first().map_or("", |provider| &provider.model)
    }

    /// Where `model` goes: `provider/model` to that provider, a bare name to the first one, no name to the first
    /// one's own model.
    pub fn find(&self, model: &str) -> Option<Route> {
        let model = if model.is_empty() { self.default_model() } else { model };
        let named = model.split_once('/').and_then(|(name, rest)| {
            let provider = self.0.iter().position(|own| own.name == name)?;
            Some((provider, rest))
        });
        let (provider, bare) = named.unwrap_or((0, model));
        let name = &self.0.get(provider)?.name;
        let priced_as = vec![format!("{name}/{bare}"), bare.to_owned()];
        (!bare.is_empty()).then(|| Route { provider, model: bare.to_owned(), priced_as })
    }
}

impl Routes {
    /// Refuses fields that change the price beyond what the price list covers, and those that the provider's protocol
    /// has no words for.
    ///
    /// # Errors
    /// Names the field.
    pub fn check_price(&self, route: &Route, fields: &Fields) -> Result<(), Invalid> {
        match self.0.get(route.provider).map(|provider| &provider.kind) {
            Some(ProviderKind::OpenAi { .. }) => openai::check_price(fields),
            Some(ProviderKind::Anthropic { .. }) => anthropic::check_fields(fields),
            Some(ProviderKind::Demo) | None => Ok(()),
        }
    }

    /// Refuses messages that the provider's protocol has no words for.
    ///
    /// # Errors
    /// Names the part of the message.
    pub fn check_messages(&self, route: &Route, messages: &[Message]) -> Result<(), Invalid> {
        match self.0.get(route.provider).map(|provider| &provider.kind) {
            Some(ProviderKind::Anthropic { .. }) => {
                anthropic::check_messages(messages.iter().map(|message| &message.raw))
            }
            Some(ProviderKind::OpenAi { .. } | ProviderKind::Demo) | None => Ok(()),
        }
    }
}

/// The providers of one thread.
#[derive(Clone)]
pub struct Providers(Rc<Vec<Rc<dyn Provider>>>);

impl Providers {
    /// Makes a client of each provider for this thread.
    pub fn connect(routes: &Routes) -> Self {
        let one = |config: &ProviderConfig| -> Rc<dyn Provider> {
            match &config.kind {
                ProviderKind::OpenAi { base_url, api_key, output_field } => {
                    Rc::new(openai::OpenAi::new(base_url, api_key.clone(), *output_field, config.timeouts))
                }
                ProviderKind::Anthropic { base_url, api_key } => {
                    Rc::new(anthropic::Anthropic::new(base_url, api_key.clone(), config.timeouts))
                }
                ProviderKind::Demo => Rc::new(demo::Demo),
            }
        };
        Self(Rc::new(routes.providers().iter().map(one).collect()))
    }

    /// The provider of a route.
    pub fn of(&self, route: &Route) -> Option<Rc<dyn Provider>> {
        self.0.get(route.provider).cloned()
    }
}
