//! What can go wrong, by what the caller can do about it.
//!
//! The status, type and code of each stand in `http::error`, in one place.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::billing::money::Nanos;

/// A failure that reaches a client.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong; the message names the field and what was expected.
    #[error("{}", .0.message)]
    Invalid(Invalid),
    /// No key, or one that is malformed, unknown, expired or revoked. Holds the key as it may be shown.
    #[error("Incorrect API key provided: {0}. Keys are sent as `Authorization: Bearer <key>`.")]
    Unauthenticated(String),
    /// The worst case is not affordable.
    #[error(
        "the balance does not cover the most this request may cost ({needed} USD needed, {available} USD available)"
    )]
    InsufficientBalance {
        /// The worst case.
        needed: Nanos,
        /// What the account can spend now.
        available: Nanos,
    },
    /// The key's own budget does not cover the worst case.
    #[error("the budget of this key does not cover the most this request may cost")]
    BudgetExceeded,
    /// The operator has suspended the account.
    #[error("this account is suspended; ask the operator of this server")]
    AccountSuspended,
    /// The key is good, but not for this kind of call.
    #[error("this key may not make this call: {0}")]
    KeyScope(&'static str),
    /// No such agent, or none that the key may see.
    #[error("the model `{0}` does not exist or you do not have access to it")]
    ModelNotFound(String),
    /// No such session, or none that the key may see.
    #[error("the session does not exist or you do not have access to it")]
    SessionNotFound,
    /// Nothing else of that name.
    #[error("{0} does not exist or you do not have access to it")]
    NotFound(&'static str),
    /// The route exists, the method on it does not.
    #[error("this path does not take that method")]
    MethodNotAllowed,
    /// Another turn runs and the caller does not want to wait.
    #[error("another request of this session is running")]
    SessionBusy,
    /// A request with the same idempotency key runs.
    #[error("a request with the same Idempotency-Key is running")]
    IdempotencyInProgress,
    /// Archived, or idle for longer than its agent allows.
    #[error("this session is closed; start another one")]
    SessionClosed,
    /// What comes next in a stream is not kept any more.
    #[error("what comes next in this stream is not kept any more")]
    StreamGone,
    /// The body is over the limit, in bytes.
    #[error("the request body is over the limit of {0} bytes")]
    TooLarge(usize),
    /// The body is not JSON by its content type.
    #[error("the content type must be application/json")]
    UnsupportedMediaType,
    /// The body is compressed.
    #[error("the body must not be compressed: no Content-Encoding but identity is taken")]
    UnsupportedEncoding,
    /// The body took too long to come.
    #[error("the request body came too slowly")]
    BodyTooSlow,
    /// The same reference names something else already.
    #[error("{0}")]
    Mismatch(String),
    /// Too fast.
    #[error("rate limit reached for {}: try again in {} s", .0.what.as_str(), crate::clock::ceil_secs(.0.retry_after))]
    RateLimited(Refusal),
    /// Too many requests wait for this session.
    #[error("too many requests wait for this session")]
    SessionQueueFull,
    /// The provider failed.
    #[error("{}", .0.message)]
    Upstream(UpstreamFailure),
    /// A bound was reached; it passes.
    #[error("the server is busy; try again shortly")]
    Overloaded,
    /// The server is stopping.
    #[error("the server is restarting; try again shortly")]
    Draining,
    /// The database cannot be written or read now.
    #[error("the database is not available; try again shortly")]
    StoreUnavailable(String),
    /// The turn was ended from outside.
    #[error("{}", .0.message())]
    Stopped(Stop),
    /// A defect of ours. The text is for the log alone.
    #[error("internal error; the request id helps to find its cause")]
    Internal(String),
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The path of the field, such as `messages[1].role`.
    pub param: Option<String>,
    /// A stable word for programs.
    pub code: &'static str,
    /// What was expected.
    pub message: String,
}

impl Invalid {
    /// A field whose value cannot be taken.
    pub fn value(param: impl Into<String>, expected: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("invalid value for `{param}`: {expected}");
        Self { param: Some(param), code: "invalid_value", message }
    }

    /// A field that has to be there.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("`{param}` is required");
        Self { param: Some(param), code: "missing_field", message }
    }

    /// A body that is not the JSON it should be.
    pub fn json(message: impl Into<String>) -> Self {
        Self { param: None, code: "invalid_json", message: message.into() }
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Which one.
    pub what: Limited,
    /// Waiting this long passes, if nobody else uses the bucket.
    pub retry_after: Duration,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
    /// Turns at the same time.
    Concurrency,
}

impl Limited {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Concurrency => "concurrency",
        }
    }
}

/// How a provider failed, told so that nothing of the operator's leaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFailure {
    /// What kind of failure.
    pub kind: UpstreamKind,
    /// For the client.
    pub message: String,
    /// For the log: nothing of anybody's conversation.
    pub cause: String,
    /// The provider's own words, or those about them, which may quote the conversation. Logged only where that is
    /// asked for.
    pub said: Option<Box<str>>,
    /// Whether it may pass by itself, so that the same provider may be asked once more.
    pub passes: bool,
}

/// Kinds of failure of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamKind {
    /// It finds the request itself wrong: the client can mend that.
    BadRequest {
        /// The provider's code, if it gave one.
        code: Option<String>,
        /// The provider's name of the field, if it gave one.
        param: Option<String>,
    },
    /// It refused or reported an error of its own.
    Refused,
    /// It answered something that cannot be understood, or ended too early.
    Invalid,
    /// It does not take the operator's credentials.
    Auth,
    /// It cannot be reached, or is too busy.
    Unavailable {
        /// What it asked to wait.
        retry_after: Option<Duration>,
    },
    /// It took too long.
    Timeout,
}

impl UpstreamKind {
    /// In a word, without what the provider said.
    pub fn word(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => "bad_request",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Auth => "auth",
            Self::Unavailable { .. } => "unavailable",
            Self::Timeout => "timeout",
        }
    }
}

/// How much of a provider's words is kept for the log, in bytes.
const MAX_SAID: usize = 2_048;
/// Whether words that may quote a conversation are logged. Set once, at the start.
static LOG_CONTENT: AtomicBool = AtomicBool::new(false);

/// Has what providers say logged as they said it, be it parts of conversations.
pub fn log_content(asked: bool) {
    LOG_CONTENT.store(asked, Relaxed);
}

impl UpstreamFailure {
    /// A failure with the message that fits its kind.
    pub fn new(kind: UpstreamKind, cause: impl Into<String>) -> Self {
        let message = match &kind {
            UpstreamKind::BadRequest { .. } => "the provider refused the request as invalid",
            UpstreamKind::Refused => "the provider failed to answer",
            UpstreamKind::Invalid => "the provider's answer could not be understood",
            UpstreamKind::Auth => "the provider does not accept this server's credentials",
            UpstreamKind::Unavailable { .. } => "the provider is not available now; try again shortly",
            UpstreamKind::Timeout => "the provider took too long to answer",
        };
        Self { kind, message: message.to_owned(), cause: cause.into(), said: None, passes: false }
    }

    /// The same, with the provider's own words.
    pub fn saying(self, words: impl Into<String>) -> Self {
        let mut words = words.into();
        words.truncate(words.floor_char_boundary(MAX_SAID));
        Self { said: Some(words.into()), ..self }
    }

    /// What of the provider's words goes into the log.
    pub fn told(&self) -> &str {
        match &self.said {
            Some(said) if LOG_CONTENT.load(Relaxed) => said,
            Some(_) => "(not logged without log_content)",
            None => "",
        }
    }

    /// The same, of a kind that may pass by itself.
    pub fn passing(self) -> Self {
        Self { passes: true, ..self }
    }
}

impl From<UpstreamFailure> for Error {
    fn from(failure: UpstreamFailure) -> Self {
        Self::Upstream(failure)
    }
}

/// Why a running turn was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Somebody asked for it, or its session, agent or key went away.
    Cancelled,
    /// A newer request took its place.
    Interrupted,
    /// The server is stopping and the time for running turns is over.
    Draining,
}

impl Stop {
    /// The code on the wire.
    pub fn code(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Draining => "draining",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Cancelled => "the turn was cancelled",
            Self::Interrupted => "a newer request of this session took the place of this one",
            Self::Draining => "the server is restarting; the turn ended early",
        }
    }
}
