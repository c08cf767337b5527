//! One turn: what a client asks of an agent in a session.

use std::sync::Arc;

use crate::auth::caller::Caller;
use crate::conversation::agent::Agent;
use crate::conversation::message::{Message, Role};
use crate::conversation::summary;
use crate::id::{CompletionId, RequestId, SessionName};
use crate::json::{Fields, Raw};
use crate::store::request_key::Idempotency;

/// A request that was read and checked, on its way to its session.
#[derive(Debug)]
pub struct Turn {
    /// Who asks.
    pub caller: Arc<Caller>,
    /// Whom.
    pub agent: Arc<Agent>,
    /// Where.
    pub session: SessionName,
    /// Who chose the session's name.
    pub named_by: NamedBy,
    /// The answer's id.
    pub completion: CompletionId,
    /// The HTTP request's id.
    pub request: RequestId,
    /// The new messages, instructions of the client included.
    pub messages: Vec<Message>,
    /// The client's own notes on the turn, a JSON object.
    pub metadata: Option<Raw>,
    /// Everything else for the provider.
    pub fields: Fields,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// In which form a stream of it goes out.
    pub form: Form,
    /// How many answers.
    pub n: u64,
    /// The client's or the agent's bound of one answer, in tokens.
    pub max_output: Option<u64>,
    /// The request's own name, if the client gave one.
    pub idempotency: Option<Idempotency>,
    /// What to do when another turn runs.
    pub conflict: Conflict,
    /// What to do when nobody reads the answer any more.
    pub on_disconnect: OnDisconnect,
}

impl Turn {
    /// The agent's instructions, if it has any, with a summary of what is left out of the prompt.
    pub fn instructions(&self, summary: Option<&str>) -> Option<String> {
        summary::instructions(self.agent.definition.instructions.as_deref(), summary)
    }

    /// The client's messages without its instructions.
    pub fn spoken(&self) -> Vec<&Message> {
        self.messages.iter().filter(|message| !message.role.is_instruction()).collect()
    }
}

/// In which form a stream goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whose objects.
    pub dialect: Dialect,
    /// Whether it tells its usage in OpenAI's dialect.
    pub include_usage: bool,
    /// When the answer was asked for, in Unix seconds.
    pub created: i64,
}

/// The two dialects of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `chat.completion.chunk` objects and `[DONE]`.
    OpenAi,
    /// One typed object an event.
    Native,
}

impl Dialect {
    /// The dialect of that name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "openai" => Some(Self::OpenAi),
            "native" => Some(Self::Native),
            _ => None,
        }
    }
}

/// What a request wants when its last reader has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// End the turn.
    #[default]
    Cancel,
    /// Go on to the end.
    Continue,
}

/// Who chose a session's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// We did, just now: nothing of it is stored yet.
    Nobody,
    /// It came with the request.
    Client,
}

/// What a request wants when another turn of its session runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// Wait for its place.
    #[default]
    Queue,
    /// Be refused.
    Reject,
    /// End the running turn.
    Interrupt,
}

/// Whether an answer came whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// As the provider meant it.
    Complete,
    /// Cut short.
    Incomplete,
}

impl Completeness {
    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
        }
    }
}

/// Tells where the new messages begin: instructions that stand before, then what follows `matched` spoken ones.
pub fn split_new(messages: &[Message], matched: usize) -> (Vec<&Message>, Vec<&Message>) {
    let spoken = |message: &Message| !matches!(message.role, Role::System | Role::Developer);
    let mut seen = 0;
    let (mut leading, mut new) = (Vec::new(), Vec::new());
    for message in messages {
        if spoken(message) {
            seen += 1;
            if seen > matched {
                new.push(message);
            }
        } else if seen > matched {
            new.push(message);
        } else {
            leading.push(message);
        }
    }
    (leading, new)
}
