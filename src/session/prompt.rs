//! What the provider gets to read: instructions, history, the new messages.

use std::sync::Arc;

use crate::billing::catalogue::{self, TOKENS_PER_MEDIUM};
use crate::conversation::agent::Context;
use crate::conversation::history::{History, Window};
use crate::conversation::message::Message;
use crate::conversation::opening::Opening;
use crate::conversation::reply::BYTES_PER_TOKEN;
use crate::conversation::tokens::Scale;
use crate::conversation::turn::{NamedBy, Turn, split_new};
use crate::json::{ObjectWriter, Raw};

/// Tokens that a message may cost beside its text.
const TOKENS_PER_MESSAGE: u64 = 8;
/// Tokens that a prompt may cost beside its messages.
const TOKENS_PER_PROMPT: u64 = 64;
/// Tokens that a provider may write around tools to explain them to the model.
const TOKENS_PER_TOOLS: u64 = 640;
/// Bytes that every token of a prompt has at least on average, for a floor that a crash may charge.
const FLOOR_BYTES_PER_TOKEN: u64 = 8;
/// Fields beside the messages that the model reads.
const READ_BY_MODEL: [&str; 4] = ["tools", "functions", "response_format", "prediction"];

/// A message of our own instructions.
fn system(text: &str) -> Raw {
    let mut message = ObjectWriter::with_capacity(text.len() + 64);
    message.string("role", "system");
    message.string("content", text);
    Raw::trusted(message.finish())
}

/// A prompt with its weight.
pub struct Prompt {
    /// All messages, in order.
    pub messages: Vec<Raw>,
    /// Whether some of them may be by roles that only newer models know.
    pub newer_names: bool,
    /// Those that are new, without instructions: what the turn stores.
    pub new: Vec<Message>,
    /// How many of the sent messages were known already.
    pub matched: usize,
    /// How many turns were left out.
    pub dropped: usize,
    /// Whether nothing was said before.
    opens: bool,
    bytes: u64,
    media: u64,
    tools: bool,
    scale: Scale,
}

impl Prompt {
    /// Puts the prompt of a turn together.
    pub fn assemble(turn: &Turn, history: &History, scale: Scale) -> Self {
        let matched = history.matched(&turn.spoken());
        let (leading, new) = split_new(&turn.messages, matched);
        let definition = &turn.agent.definition;
        let window = match (definition.context, definition.context_tokens) {
            (Context::Summarize, Some(tokens)) => history.summed_up(tokens, &new, scale.ratio),
            (_, tokens) => history.window(tokens, &new, scale.ratio),
        };
        let Window { summary, kept, dropped } = window;
        let instructions = turn.instructions(summary.map(Arc::as_ref));
        let mut prompt = Self {
            messages: Vec::with_capacity(1 + leading.len() + kept.len() + new.len()),
            newer_names: false,
            new: Vec::new(),
            matched,
            dropped,
            opens: history.is_empty(),
            bytes: instructions.as_ref().map_or(0, |text| text.len() as u64),
            media: 0,
            tools: turn.fields.given("tools").is_some(),
            scale,
        };
        prompt.messages.extend(instructions.as_deref().map(system));
        for message in leading {
            prompt.push(message);
        }
        // An answer that was cut before its first token says nothing and would only be refused.
        let kept = kept.iter().filter(|message| !message.empty).map(|message| (message, true));
        let mut told = kept.chain(new.iter().map(|message| (*message, false))).peekable();
        while let Some((message, is_old)) = told.next() {
            // So would a call that was cut short or given up: nobody will answer it any more.
            let given_up =
                is_old && message.calls && !told.peek().is_none_or(|(next, _)| next.role.is_result());
            match given_up.then(|| message.without_calls()) {
                Some(rest) => rest.iter().for_each(|rest| prompt.push(rest)),
                None => prompt.push(message),
            }
        }
        for name in READ_BY_MODEL {
            prompt.bytes += turn.fields.given(name).map_or(0, |value| value.bytes().len() as u64);
        }
        prompt.new = new.into_iter().filter(|message| !message.role.is_instruction()).cloned().collect();
        prompt
    }

    /// A prompt of our own, beside what is said in the conversation.
    pub fn of(messages: &[Message], scale: Scale) -> Self {
        let mut prompt = Self {
            messages: Vec::with_capacity(messages.len()),
            newer_names: false,
            new: Vec::new(),
            matched: 0,
            dropped: 0,
            opens: false,
            bytes: 0,
            media: 0,
            tools: false,
            scale,
        };
        messages.iter().for_each(|message| prompt.push(message));
        prompt
    }

    fn push(&mut self, message: &Message) {
        self.messages.push(message.raw.clone());
        self.newer_names |= message.newer_name;
        self.bytes += message.text_bytes as u64;
        self.media += message.media as u64;
    }

    /// The most tokens that it can be: a token of a byte-level vocabulary covers at least one byte.
    pub fn most_tokens(&self, model: &str) -> u64 {
        let messages = self.messages.len() as u64 * TOKENS_PER_MESSAGE;
        let tools = if self.tools { TOKENS_PER_TOOLS } else { 0 };
        let most = self.bytes + messages + tools + TOKENS_PER_PROMPT + self.media * TOKENS_PER_MEDIUM;
        catalogue::find(model).map_or(most, |known| most.min(known.context))
    }

    /// What a provider's request comes to with it, about, in bytes.
    pub fn size(&self, turn: &Turn) -> usize {
        let messages: usize = self.messages.iter().map(|message| message.bytes().len()).sum();
        messages + turn.fields.iter().map(|(name, value)| name.len() + value.bytes().len()).sum::<usize>()
    }

    /// What the turn brings along, if it is the first of its session.
    pub fn opening(&self, turn: &Turn, reply: &Raw) -> Option<Opening> {
        let owner = (turn.agent.account.as_str(), turn.agent.id.as_str());
        let unnamed = turn.named_by == NamedBy::Nobody;
        self.opens.then(|| Opening::of(owner, unnamed, &self.new, reply))
    }

    /// Learns from what the provider counted. What images cost is not known.
    pub fn counted(&self, tokens: u64) {
        if self.media == 0 {
            self.scale.observe(self.messages.len() as u64, self.bytes, tokens);
        }
    }

    /// The new messages as a JSON array.
    pub fn said(&self) -> String {
        let texts: Vec<_> = self.new.iter().map(|message| message.raw.text()).collect();
        format!("[{}]", texts.join(","))
    }

    /// What it is likely to be, where the provider does not tell.
    pub fn likely_tokens(&self) -> u64 {
        self.bytes.div_ceil(BYTES_PER_TOKEN) + self.messages.len() as u64 + self.media * TOKENS_PER_MEDIUM / 4
    }

    /// A number of tokens that it has at least.
    pub fn floor_tokens(&self) -> u64 {
        (self.bytes / FLOOR_BYTES_PER_TOKEN).max(1)
    }
}
