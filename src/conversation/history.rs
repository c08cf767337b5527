//! The stored turns of a session, as its actor holds them, and what of them a turn's prompt takes.

use std::ops::AddAssign;
use std::sync::Arc;

use crate::conversation::message::{Fingerprint, Message, Role};
use crate::conversation::summary;
use crate::conversation::tokens::{PER_MESSAGE, Ratio};
use crate::conversation::transcript::join;
use crate::json::Raw;

/// Memory that a message takes up beside its text, in bytes.
const BESIDE_TEXT: usize = 128;
/// How many messages are joined at a time, for prompts.
const RUN: usize = 32;
/// The most bytes that are: to copy more takes longer than to join it each time.
const RUN_BYTES: usize = 65_536;
/// Tokens that an image or the like costs.
const TOKENS_PER_MEDIUM: u64 = 1_000;

/// Messages in the order in which they were stored, in the form in which they go back to the provider.
#[derive(Clone, Debug, Default)]
pub struct History {
    messages: Vec<Message>,
    /// Where each turn begins.
    starts: Vec<usize>,
    /// Each [`RUN`] of them, joined; `None` where a prompt has to look at each.
    runs: Vec<Option<Run>>,
    /// Bytes of all their texts.
    bytes: usize,
    summary: Option<Box<Summary>>,
}

/// Messages in a row that go to a provider just as they are.
#[derive(Clone, Debug)]
pub struct Run {
    /// They, with a comma between each.
    pub joined: Raw,
    /// How many.
    pub messages: usize,
    /// What they are together.
    pub weight: Weight,
}

/// What messages are to a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of text that it will read.
    pub text_bytes: u64,
    /// Images and audio.
    pub media: u64,
    /// Whether some of them may be by roles that only newer models know.
    pub newer_names: bool,
}

impl Weight {
    /// Of one message.
    pub fn of(message: &Message) -> Self {
        let (text_bytes, media) = (message.text_bytes as u64, message.media as u64);
        Self { text_bytes, media, newer_names: message.newer_name }
    }
}

impl AddAssign for Weight {
    fn add_assign(&mut self, other: Self) {
        self.text_bytes += other.text_bytes;
        self.media += other.media;
        self.newer_names |= other.newer_names;
    }
}

/// What stands for the beginning of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The number of messages that it stands for.
    pub upto: usize,
    /// Its text.
    pub text: Arc<str>,
}

/// What of a history a prompt takes.
#[derive(Clone, Debug)]
pub struct Window<'a> {
    /// What stands for turns that are left out.
    pub summary: Option<&'a Arc<str>>,
    /// The newest messages.
    pub kept: &'a [Message],
    /// How many turns are left out.
    pub dropped: usize,
    /// The number of messages before them, and what of all messages is joined.
    runs: (usize, &'a [Option<Run>]),
}

impl<'a> Window<'a> {
    /// In how many pieces they go into a prompt, about.
    pub fn pieces(&self) -> usize {
        self.kept.len() / RUN + self.kept.len().min(2 * RUN)
    }

    /// What is joined from this one of the newest messages on.
    pub fn run(&self, at: usize) -> Option<&'a Run> {
        let (before, runs) = self.runs;
        let at = before + at;
        if at.is_multiple_of(RUN) { runs.get(at / RUN)?.as_ref() } else { None }
    }
}

/// What a new summary has to stand for.
#[derive(Clone, Debug)]
pub struct Due<'a> {
    /// The one that it takes the place of.
    pub before: Option<&'a Arc<str>>,
    /// What was said since.
    pub said: &'a [Message],
    /// The number of messages that it will stand for.
    pub upto: usize,
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
            let message = message.for_prompt();
            self.bytes += message.raw.bytes().len();
            self.messages.push(message);
        }
        while let Some(next) = self.messages.get_mut(self.runs.len() * RUN..(self.runs.len() + 1) * RUN) {
            self.runs.push(joined(next));
        }
    }

    /// About how much memory it takes up, in bytes.
    pub fn size(&self) -> usize {
        let summary = self.summary.as_ref().map_or(0, |own| own.text.len());
        summary + self.bytes + self.messages.len() * BESIDE_TEXT
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

    /// The turns that fit into `window` tokens together with `new`, the newest ones.
    pub fn window(&self, window: Option<u64>, new: &[&Message], ratio: Ratio) -> Window<'_> {
        let room = window.map_or(u64::MAX, |window| window.saturating_sub(weight(new, ratio)));
        self.newest(0, room, None, ratio)
    }

    /// The same with a summary in the place of the turns that it stands for, if there is one and it fits.
    pub fn summed_up(&self, window: u64, new: &[&Message], ratio: Ratio) -> Window<'_> {
        let room = window.saturating_sub(weight(new, ratio));
        let own = self.summary.as_ref().map(|own| (own, ratio.tokens(own.text.len() as u64)));
        match own.filter(|(_, tokens)| *tokens <= room) {
            Some((own, tokens)) => self.newest(own.upto, room - tokens, Some(&own.text), ratio),
            None => self.newest(0, room, None, ratio),
        }
    }

    /// What has to be summed up before the next turn, so that the turns that do not fit with `new` into `window` tokens
    /// are not lost to it. More than that, so that the turns after it fit as well.
    pub fn due(&self, window: u64, new: &[&Message], ratio: Ratio) -> Option<Due<'_>> {
        let covered = self.summary.as_ref().map_or(0, |own| own.upto);
        let own = self.summary.as_ref().map_or(0, |own| ratio.tokens(own.text.len() as u64));
        let room = window.saturating_sub(weight(new, ratio));
        if room < summary::most_tokens(window)
            || self.start(covered, room.saturating_sub(own), ratio).0 <= covered
        {
            return None;
        }
        let upto = self.start(covered, (room - summary::most_tokens(window)) / 2, ratio).0;
        let before = self.summary.as_ref().map(|own| &own.text);
        Some(Due { before, said: &self.messages[covered..upto], upto })
    }

    /// Takes a summary for the one before.
    pub fn sum_up(&mut self, summary: Summary) {
        self.summary = (summary.upto <= self.messages.len()).then(|| summary.into());
    }

    fn newest<'a>(
        &'a self,
        covered: usize,
        room: u64,
        summary: Option<&'a Arc<str>>,
        ratio: Ratio,
    ) -> Window<'a> {
        let (start, turns) = self.start(covered, room, ratio);
        let (kept, dropped) = (&self.messages[start..], self.starts.len() - turns);
        Window { summary, kept, dropped, runs: (start, &self.runs) }
    }

    /// Where the newest turns begin that have room together, and how many they are; none that begins before `covered`.
    ///
    /// Turns that begin with the result of a tool stay with the turn that called it.
    fn start(&self, covered: usize, room: u64, ratio: Ratio) -> (usize, usize) {
        let begins_with_result =
            |start: usize| self.messages.get(start).is_some_and(|first| first.role.is_result());
        if room == u64::MAX {
            // Whatever they weigh.
            let first = self.starts.iter().position(|start| *start >= covered && !begins_with_result(*start));
            return first.map_or((self.messages.len(), 0), |at| (self.starts[at], self.starts.len() - at));
        }
        let (mut kept, mut kept_turns, mut used) = (self.messages.len(), 0, 0_u64);
        for (count, start) in self.starts.iter().rev().enumerate().take_while(|(_, start)| **start >= covered)
        {
            let end = self.starts.get(self.starts.len() - count).copied().unwrap_or(self.messages.len());
            used += self.messages[*start..end].iter().map(|message| tokens(message, ratio)).sum::<u64>();
            if used > room {
                break;
            }
            if !begins_with_result(*start) {
                (kept, kept_turns) = (*start, count + 1);
            }
        }
        (kept, kept_turns)
    }
}

/// Joins messages, which are slices of what is joined then, if a prompt takes them as they are.
fn joined(messages: &mut [Message]) -> Option<Run> {
    let bytes: usize = messages.iter().map(|message| message.raw.bytes().len()).sum();
    if bytes > RUN_BYTES || messages.iter().any(|message| message.empty || message.calls) {
        return None;
    }
    let mut weight = Weight::default();
    let (joined, parts) = join(messages.iter().map(|message| &message.raw));
    for (message, part) in messages.iter_mut().zip(parts) {
        message.raw = part;
        weight += Weight::of(message);
    }
    Some(Run { joined, messages: messages.len(), weight })
}

fn weight(messages: &[&Message], ratio: Ratio) -> u64 {
    messages.iter().map(|message| tokens(message, ratio)).sum()
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
        let kept = |window| (kept(window).kept.len(), kept(window).dropped);
        assert_eq!([10_000, 16, 39].map(kept), [(8, 0), (2, 2), (6, 1)]);
    }

    #[test]
    fn the_oldest_turns_are_left_out_first() {
        let long = format!("u {}", "x".repeat(400));
        let stored = history(&[&[&long, "a 1"], &["u 2", "a 3"], &["u 4", "a 5"]]);
        let new = say("u 6");
        let kept = |window| {
            let kept = stored.window(window, &[&new], Ratio::default());
            (kept.kept.len(), kept.dropped)
        };
        assert_eq!([None, Some(60), Some(1)].map(kept), [(6, 0), (4, 1), (0, 3)]);
    }

    #[test]
    fn a_tool_result_is_not_parted_from_its_call() {
        let stored = history(&[&["u 1", "a call"], &["t result", "a 2"]]);
        let new = say("u 6");
        let kept = stored.window(Some(16), &[&new], Ratio::default());
        assert_eq!((kept.kept.len(), kept.dropped), (0, 2));
    }

    #[test]
    fn without_a_window_it_is_as_with_one_that_is_wide_enough() {
        let stored = [
            history(&[]),
            history(&[&["u 1", "a 2"], &["u 3", "a 4"]]),
            history(&[&["t result", "a 2"], &["u 3", "a call"], &["t result", "a 4"]]),
            history(&[&["t result", "a 2"]]),
        ];
        for stored in stored {
            let kept = |window| {
                let found = stored.window(window, &[], Ratio::default());
                (found.kept.len(), found.dropped)
            };
            assert_eq!(kept(None), kept(Some(1_000_000)));
        }
    }

    /// Ten turns of 108 tokens each.
    fn long() -> History {
        let (asks, answers) = (format!("u {}", "x".repeat(200)), format!("a {}", "y".repeat(200)));
        history(&[[asks.as_str(), answers.as_str()].as_slice(); 10])
    }

    fn summed_up(history: &mut History, upto: usize, tokens: usize) {
        history.sum_up(Summary { upto, text: "s".repeat(4 * tokens).into() });
    }

    #[test]
    fn a_summary_is_due_when_turns_do_not_fit_and_makes_room_for_some_to_come() {
        let (mut long, new) = (long(), say("u 6"));
        let due = |long: &History, window| {
            long.due(window, &[&new], Ratio::default()).map(|due| (due.said.len(), due.upto))
        };
        assert_eq!(due(&long, 1_200), None, "all of it fits");
        assert_eq!(due(&long, 1_000), Some((14, 14)), "three turns are left, a third of the window");
        summed_up(&mut long, 14, 50);
        assert_eq!(due(&long, 1_000), None);
        assert_eq!(due(&long, 300), Some((4, 18)), "only what came after it");
        summed_up(&mut long, 20, 50);
        assert_eq!(due(&long, 300), None, "nothing is left");
    }

    #[test]
    fn a_summary_stands_for_what_it_covers_and_for_nothing_else() {
        let (mut long, new) = (long(), say("u 6"));
        let window = |long: &History, window| {
            let found = long.summed_up(window, &[&new], Ratio::default());
            (found.summary.is_some(), found.kept.len(), found.dropped)
        };
        assert_eq!(window(&long, 500), (false, 8, 6));
        summed_up(&mut long, 14, 50);
        assert_eq!(window(&long, 1_000), (true, 6, 7), "not what it stands for, though it has room");
        assert_eq!(window(&long, 300), (true, 4, 8));
        assert_eq!(window(&long, 40), (false, 0, 10), "one that does not fit is left out as well");
        summed_up(&mut long, 21, 1);
        assert_eq!(window(&long, 500), (false, 8, 6), "it has not so many messages");
    }
}
