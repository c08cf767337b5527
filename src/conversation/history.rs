//! The stored turns of a session, as its actor holds them, and what of them a turn's prompt takes.

use crate::conversation::message::{Fingerprint, Message, Role};
use crate::conversation::tokens::{PER_MESSAGE, Ratio};

/// Tokens that an image or the like costs.
const TOKENS_PER_MEDIUM: u64 = 1_000;

/// Messages in the order in which they were stored, in the form in which they go back to the provider.
#[derive(Clone, Debug, Default)]
pub struct History {
    messages: Vec<Message>,
    /// Where each turn begins.
    starts: Vec<usize>,
}

impl History {
    /// Adds a turn: what the client sent, then the answer. One that brings earlier answers along counts as several.
    pub fn push_turn(&mut self, messages: impl IntoIterator<Item = Message>) {
        let mut begins = true;
        for message in messages {
            let answers = matches!(message.role, Role::Assistant | Role::Tool | Role::Function);
            let follows_answer = self.messages.last().is_some_and(|last| last.role == Role::Assistant);
            if begins || (follows_answer && !answers) {
                self.starts.push(self.messages.len());
            }
            begins = false;
            self.messages.push(message.for_prompt());
        }
    }

    /// Whether nothing was said yet.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many of the `sent` messages (instructions set aside) repeat the end of the history.
    ///
    /// The longest stored suffix that ends in an answer and with which `sent` begins. Linear in both lengths
    /// (the prefix function of Knuth, Morris and Pratt).
    pub fn matched(&self, sent: &[&Message]) -> usize {
        let ends_in_answer = self.messages.last().is_some_and(|last| last.role == Role::Assistant);
        if !ends_in_answer || !sent.iter().any(|message| message.role == Role::Assistant) {
            return 0;
        }
        let pattern: Vec<Fingerprint> = sent.iter().map(|message| message.fingerprint()).collect();
        let tail = &self.messages[self.messages.len().saturating_sub(pattern.len())..];
        let mut fallback = vec![0; pattern.len()];
        for at in 1..pattern.len() {
            fallback[at] = extend(&pattern, &fallback, fallback[at - 1], &pattern[at]);
        }
        let mut matched = 0;
        for message in tail {
            if matched == pattern.len() {
                matched = fallback[matched - 1];
            }
            matched = extend(&pattern, &fallback, matched, &message.fingerprint());
        }
        matched
    }

    /// The turns that fit into `window` tokens together with `new`, the newest ones, and how many were left out.
    ///
    /// Turns that begin with the result of a tool stay with the turn that called it.
    pub fn window(&self, window: Option<u64>, new: &[&Message], ratio: Ratio) -> (&[Message], usize) {
        let Some(window) = window else { return (&self.messages, 0) };
        let tokens = |message: &Message| tokens(message, ratio);
        let mut used: u64 = new.iter().map(|message| tokens(message)).sum();
        let (mut kept, mut kept_turns) = (self.messages.len(), 0);
        for (count, start) in self.starts.iter().rev().enumerate() {
            let end = self.starts.get(self.starts.len() - count).copied().unwrap_or(self.messages.len());
            used += self.messages[*start..end].iter().map(tokens).sum::<u64>();
            if used > window {
                break;
            }
            let first = self.messages.get(*start).map(|message| message.role);
            if !first.is_some_and(Role::is_result) {
                (kept, kept_turns) = (*start, count + 1);
            }
        }
        (&self.messages[kept..], self.starts.len() - kept_turns)
    }
}

fn extend(pattern: &[Fingerprint], fallback: &[usize], mut matched: usize, next: &Fingerprint) -> usize {
    while matched > 0 && pattern[matched] != *next {
        matched = fallback[matched - 1];
    }
    matched + usize::from(pattern[matched] == *next)
}

fn tokens(message: &Message, ratio: Ratio) -> u64 {
    ratio.tokens(message.text_bytes as u64) + PER_MESSAGE + message.media as u64 * TOKENS_PER_MEDIUM
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Raw;

    fn say(text: &str) -> Message {
        let (role, content) = text.split_once(' ').expect("role and content");
        let role = match role {
            "u" => "user",
            "a" => "assistant",
            _ => "tool",
        };
        let object = serde_json::json!({"role": role, "content": content, "tool_call_id": "c"});
        Message::parse(Raw::of(&object), 0).expect("a message")
    }

    fn history(turns: &[&[&str]]) -> History {
        let mut history = History::default();
        for turn in turns {
            history.push_turn(turn.iter().map(|text| say(text)));
        }
        history
    }

    fn matched(history: &History, sent: &[&str]) -> usize {
        let sent: Vec<Message> = sent.iter().map(|text| say(text)).collect();
        history.matched(&sent.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_conversation_sent_again_is_recognised_whole_or_cut() {
        let stored = history(&[&["u 1", "a 2"], &["u 3", "a 4"]]);
        assert_eq!(matched(&stored, &["u 1", "a 2", "u 3", "a 4", "u 5"]), 4);
        assert_eq!(matched(&stored, &["u 3", "a 4", "u 5"]), 2);
        assert_eq!(matched(&stored, &["a 4", "u 5"]), 1);
        assert_eq!(matched(&stored, &["u 5"]), 0);
        assert_eq!(matched(&stored, &["u 1", "a 2", "u 5"]), 0);
    }

    #[test]
    fn the_longest_overlap_counts() {
        let stored = history(&[&["u x", "a y"], &["u x", "a y"]]);
        assert_eq!(matched(&stored, &["u x", "a y", "u x", "a y", "u z"]), 4);
        assert_eq!(matched(&stored, &["u x", "a y", "u z"]), 2);
        assert_eq!(matched(&stored, &["u x", "a y", "u x", "a y", "u x", "a y", "u z"]), 4);
    }

    #[test]
    fn a_conversation_that_is_brought_along_is_left_out_turn_by_turn() {
        let brought = history(&[&["u 1", "a 2", "u 3", "a call", "t result", "a 4", "u 5", "a 6"]]);
        let new = say("u 7");
        let kept = |window| brought.window(Some(window), &[&new], Ratio::default());
        assert_eq!((kept(10_000).0.len(), kept(10_000).1), (8, 0));
        assert_eq!((kept(16).0.len(), kept(16).1), (2, 2));
        assert_eq!((kept(39).0.len(), kept(39).1), (6, 1));
    }

    #[test]
    fn the_oldest_turns_are_left_out_first() {
        let long = format!("u {}", "x".repeat(400));
        let stored = history(&[&[&long, "a 1"], &["u 2", "a 3"], &["u 4", "a 5"]]);
        let new = say("u 6");
        assert_eq!(stored.window(None, &[&new], Ratio::default()).1, 0);
        let (kept, dropped) = stored.window(Some(60), &[&new], Ratio::default());
        assert_eq!((kept.len(), dropped), (4, 1));
        assert_eq!(stored.window(Some(1), &[&new], Ratio::default()).1, 3);
    }

    #[test]
    fn a_tool_result_is_not_parted_from_its_call() {
        let stored = history(&[&["u 1", "a call"], &["t result", "a 2"]]);
        let new = say("u 6");
        let (kept, dropped) = stored.window(Some(16), &[&new], Ratio::default());
        assert_eq!((kept.len(), dropped), (0, 2));
    }
}
