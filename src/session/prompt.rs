//! What the provider gets to read: instructions, history, the new messages.

use std::rc::Rc;
use std::sync::Arc;

use crate::billing::catalogue::{self, TOKENS_PER_MEDIUM};
use crate::conversation::agent::Context;
use crate::conversation::history::{History, Weight, Window};
use crate::conversation::message::Message;
use crate::conversation::opening::Opening;
use crate::conversation::reply::BYTES_PER_TOKEN;
use crate::conversation::tokens::Scale;
use crate::conversation::transcript::Transcript;
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
    pub messages: Rc<Transcript>,
    /// Those that are new, without instructions: what the turn stores.
    pub new: Vec<Message>,
    /// How many of the sent messages were known already.
    pub matched: usize,
    /// How many turns were left out.
    pub dropped: usize,
    /// Whether nothing was said before.
    opens: bool,
    weight: Weight,
    tools: bool,
    scale: Scale,
}

/// Messages on their way into a prompt.
struct Draft {
    messages: Transcript,
    weight: Weight,
}

impl Draft {
    fn with_capacity(messages: usize) -> Self {
        Self { messages: Transcript::with_capacity(messages), weight: Weight::default() }
    }

    fn push(&mut self, message: &Message) {
        self.messages.push(message.raw.clone());
        self.weight += Weight::of(message);
    }

    /// Adds what was said before.
    fn recall(&mut self, window: &Window<'_>, new: &[&Message]) {
        let mut at = 0;
        while let Some(message) = window.kept.get(at) {
            if let Some(run) = window.run(at) {
                self.messages.push_joined(run.joined.clone(), run.messages);
                self.weight += run.weight;
                at += run.messages;
                continue;
            }
            at += 1;
            // An answer that was cut before its first token says nothing and would only be refused.
            if message.empty {
                continue;
            }
            // So would a call that was cut short or given up: nobody will answer it any more.
            let mut after =
                window.kept[at..].iter().filter(|message| !message.empty).chain(new.iter().copied());
            match message.calls && !after.next().is_some_and(|next| next.role.is_result()) {
                true => message.without_calls().iter().for_each(|rest| self.push(rest)),
                false => self.push(message),
            }
        }
    }
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
        let instructions = turn.instructions(window.summary.map(Arc::as_ref));
        let mut draft = Draft::with_capacity(1 + leading.len() + window.pieces() + new.len());
        if let Some(text) = &instructions {
            draft.messages.push(system(text));
            draft.weight.text_bytes += text.len() as u64;
        }
        leading.into_iter().for_each(|message| draft.push(message));
        draft.recall(&window, &new);
        new.iter().for_each(|message| draft.push(message));
        for name in READ_BY_MODEL {
            draft.weight.text_bytes += turn.fields.given(name).map_or(0, |value| value.bytes().len() as u64);
        }
        Self {
            messages: Rc::new(draft.messages),
            new: new.into_iter().filter(|message| !message.role.is_instruction()).cloned().collect(),
            matched,
            dropped: window.dropped,
            opens: history.is_empty(),
            weight: draft.weight,
            tools: turn.fields.given("tools").is_some(),
            scale,
        }
    }

    /// A prompt of our own, beside what is said in the conversation.
    pub fn of(messages: &[Message], scale: Scale) -> Self {
        let mut draft = Draft::with_capacity(messages.len());
        messages.iter().for_each(|message| draft.push(message));
        Self {
            messages: Rc::new(draft.messages),
            new: Vec::new(),
            matched: 0,
            dropped: 0,
            opens: false,
            weight: draft.weight,
            tools: false,
            scale,
        }
    }

    /// Whether some of it may be by roles that only newer models know.
    pub fn newer_names(&self) -> bool {
        self.weight.newer_names
    }

    /// The most tokens that it can be: a token of a byte-level vocabulary covers at least one byte.
    pub fn most_tokens(&self, model: &str) -> u64 {
        let messages = self.messages.count() as u64 * TOKENS_PER_MESSAGE;
        let tools = if self.tools { TOKENS_PER_TOOLS } else { 0 };
        let most = self.weight.text_bytes
            + messages
            + tools
            + TOKENS_PER_PROMPT
            + self.weight.media * TOKENS_PER_MEDIUM;
        catalogue::find(model).map_or(most, |known| most.min(known.context))
    }

    /// What a provider's request comes to with it, about, in bytes.
    pub fn size(&self, turn: &Turn) -> usize {
        self.messages.size()
            + turn.fields.iter().map(|(name, value)| name.len() + value.bytes().len()).sum::<usize>()
    }

    /// What the turn brings along, if it is the first of its session.
    pub fn opening(&self, turn: &Turn, reply: &Raw) -> Option<Opening> {
        let owner = (turn.agent.account.as_str(), turn.agent.id.as_str());
        let unnamed = turn.named_by == NamedBy::Nobody;
        self.opens.then(|| Opening::of(owner, unnamed, &self.new, reply))
    }

    /// Learns from what the provider counted. What images cost is not known.
    pub fn counted(&self, tokens: u64) {
        if self.weight.media == 0 {
            self.scale.observe(self.messages.count() as u64, self.weight.text_bytes, tokens);
        }
    }

    /// The new messages as a JSON array.
    pub fn said(&self) -> String {
        let texts: Vec<_> = self.new.iter().map(|message| message.raw.text()).collect();
        format!("[{}]", texts.join(","))
    }

    /// What it is likely to be, where the provider does not tell.
    pub fn likely_tokens(&self) -> u64 {
        self.weight.text_bytes.div_ceil(BYTES_PER_TOKEN)
            + self.messages.count() as u64
            + self.weight.media * TOKENS_PER_MEDIUM / 4
    }

    /// A number of tokens that it has at least.
    pub fn floor_tokens(&self) -> u64 {
        (self.weight.text_bytes / FLOOR_BYTES_PER_TOKEN).max(1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::conversation::tokens::Ratio;

    /// Turn number `at` of a conversation in which something odd happens now and then, but not to the first ones.
    fn turn(at: usize) -> Vec<Message> {
        let call = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        let called = json!({"role": "assistant", "content": null, "tool_calls": call});
        let result = json!({"role": "tool", "tool_call_id": "c", "content": "done"});
        let asked = json!({"role": "user", "content": format!("question {at}")});
        let said = json!({"role": "assistant", "content": format!("answer {at}")});
        let all = match at {
            50 => vec![asked, called],
            60 => vec![asked, called, result, said],
            70 => vec![asked, json!({"role": "assistant", "content": ""})],
            _ => vec![asked, said],
        };
        all.iter().map(|message| Message::stored(Raw::of(message))).collect()
    }

    #[test]
    fn a_long_history_is_told_as_if_each_message_were_joined_anew() {
        let (mut history, new) = (History::default(), turn(1_000));
        let new = [&new[0]];
        (0..100).for_each(|at| history.push_turn(turn(at)));
        let mut pieces = Vec::new();
        for tokens in (100..4_000).step_by(37).map(Some).chain([None]) {
            let window = history.window(tokens, &new, Ratio::default());
            let mut draft = Draft::with_capacity(0);
            draft.recall(&window, &new);
            let told: Vec<&Message> = window.kept.iter().filter(|message| !message.empty).collect();
            let mut expected = Draft::with_capacity(0);
            for (at, message) in told.iter().enumerate() {
                let answered = told.get(at + 1).is_some_and(|next| next.role.is_result());
                if answered || !message.calls {
                    expected.push(message);
                }
            }
            assert_eq!(draft.messages.text(), expected.messages.text());
            assert_eq!(draft.messages.messages(), expected.messages.messages());
            assert_eq!(draft.weight, expected.weight);
            pieces.push((draft.messages.pieces(), expected.messages.pieces()));
        }
        assert_eq!(pieces.last(), Some(&(76, 200)), "what does not change is joined already");
    }
}
