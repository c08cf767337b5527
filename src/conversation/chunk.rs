//! Chunks of any provider, with what OpenAI requires of each where a provider leaves it out or does it differently.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::conversation::shape::{Known, Said};
use crate::json::{Fields, ObjectWriter, Raw};

/// The keys that are looked for, with their quotation marks. To make ready for a search takes longer than to search.
struct Keys {
    created: Finder<'static>,
    choices: Finder<'static>,
    index: Finder<'static>,
    delta: Finder<'static>,
    finish_reason: Finder<'static>,
    tool_calls: Finder<'static>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    created: Finder::new("\"created\""),
    choices: Finder::new("\"choices\""),
    index: Finder::new("\"index\""),
    delta: Finder::new("\"delta\""),
    finish_reason: Finder::new("\"finish_reason\""),
    tool_calls: Finder::new("\"tool_calls\""),
});
/// The same without them.
const NAMES: [&str; 6] = ["created", "choices", "index", "delta", "finish_reason", "tool_calls"];

/// When an answer or a chunk was made, in epoch seconds, if that is what its `created` says.
pub fn created(told: &Raw) -> Option<i64> {
    told.read().ok().filter(|seconds| *seconds > 0)
}

/// Completes the chunks of one stream. Nearly all are complete, so each is only searched before it is read; and one
/// that differs from a complete one in its text alone is not even searched.
#[derive(Debug, Default)]
pub struct Completer {
    complete: Known<()>,
    /// When the stream was made, as its first chunk tells it; some providers tell the time of each chunk.
    created: Created,
    /// How many tool calls each choice has so far.
    calls: Vec<(u64, u64)>,
}

#[derive(Debug, Default)]
enum Created {
    #[default]
    Unknown,
    /// The first chunk tells none.
    Untold,
    Told(Raw),
}

impl Completer {
    /// The chunk as OpenAI would send it. What is no object is left to who reads it.
    pub fn complete(&mut self, chunk: Bytes) -> Bytes {
        if self.complete.said(&chunk).is_some_and(|(said, ())| !is_like_a_key(&said)) {
            return chunk;
        }
        if matches!(self.created, Created::Unknown) {
            let told = Fields::parse(&chunk).ok().and_then(|fields| fields.get("created").cloned());
            let whole = told.filter(|told| created(told).is_some());
            self.created = whole.map_or(Created::Untold, Created::Told);
        }
        if self.tells_the_time(&chunk) && is_complete(&chunk) {
            self.complete.learn(&chunk, |_, said| (!is_like_a_key(&said)).then_some(()));
            return chunk;
        }
        self.completed(&chunk).map_or(chunk, |complete| complete.bytes().clone())
    }

    /// When the stream was made, in epoch seconds, if it told.
    pub fn created(&self) -> Option<i64> {
        match &self.created {
            Created::Told(told) => created(told),
            Created::Untold | Created::Unknown => None,
        }
    }

    /// A chunk of ours with these choices.
    pub fn chunk_of(&self, choices: &[u8]) -> Bytes {
        let mut chunk = ObjectWriter::with_capacity(choices.len() + 40);
        if let Created::Told(created) = &self.created {
            chunk.field("created", created.bytes());
        }
        chunk.field("choices", choices);
        chunk.finish()
    }

    fn tells_the_time(&self, chunk: &[u8]) -> bool {
        let Some(rest) = behind(&KEYS.created, chunk) else {
            return matches!(self.created, Created::Untold);
        };
        let Created::Told(created) = &self.created else { return false };
        let told = after_colon(rest);
        let rest = told.strip_prefix(&created.bytes()[..]).map(<[u8]>::trim_ascii_start);
        rest.is_some_and(|rest| rest.starts_with(b",") || rest.starts_with(b"}"))
    }

    fn completed(&mut self, chunk: &Bytes) -> Option<Raw> {
        let mut fields = Fields::parse(chunk).ok()?;
        match &self.created {
            Created::Told(created) => fields.set("created", created.clone()),
            Created::Untold | Created::Unknown => drop(fields.remove("created")),
        }
        let list: Vec<&RawValue> = match fields.given("choices") {
            Some(choices) => choices.peek().ok()?,
            None => Vec::new(),
        };
        let choices: Vec<Fields> = list
            .into_iter()
            .enumerate()
            .map(|(at, choice)| self.choice(at, choice))
            .collect::<Option<_>>()?;
        let choices: Vec<String> = choices.iter().map(|choice| choice.to_raw().text().into_owned()).collect();
        fields.set("choices", Raw::trusted(format!("[{}]", choices.join(","))));
        Some(fields.to_raw())
    }

    fn choice(&mut self, at: usize, text: &RawValue) -> Option<Fields> {
        let mut choice = Fields::parse(&Bytes::copy_from_slice(text.get().as_bytes())).ok()?;
        choice.set_if_absent("index", || Raw::of(&at));
        if choice.given("delta").is_none() {
            choice.set("delta", Raw::trusted(&b"{}"[..]));
        }
        choice.set_if_absent("finish_reason", || Raw::of(&Value::Null));
        let index = choice.get("index").and_then(|index| index.read().ok()).unwrap_or(0);
        if let Some(delta) = choice.get("delta").and_then(|delta| self.with_numbered_calls(index, delta)) {
            choice.set("delta", delta);
        }
        Some(choice)
    }

    /// The delta with an index on each of its tool calls: one with an id is a further call, others go on with the last.
    fn with_numbered_calls(&mut self, choice: u64, delta: &Raw) -> Option<Raw> {
        let mut delta = Fields::parse(delta.bytes()).ok()?;
        let list: Vec<&RawValue> = delta.given("tool_calls")?.peek().ok()?;
        let count = match self.calls.iter().position(|(own, _)| *own == choice) {
            Some(at) => &mut self.calls[at].1,
            None => &mut self.calls.push_mut((choice, 0)).1,
        };
        let mut numbered = Vec::with_capacity(list.len());
        for text in list {
            let mut call = Fields::parse(&Bytes::copy_from_slice(text.get().as_bytes())).ok()?;
            let told = call.get("index").and_then(|index| index.read::<u64>().ok());
            let begins = call.given("id").is_some_and(|id| &id.bytes()[..] != b"\"\"");
            let index = told.unwrap_or(if begins { *count } else { count.saturating_sub(1) });
            *count = (*count).max(index.saturating_add(1));
            call.set("index", Raw::of(&index));
            numbered.push(call.to_raw().text().into_owned());
        }
        delta.set("tool_calls", Raw::trusted(format!("[{}]", numbered.join(","))));
        Some(delta.to_raw())
    }
}

/// Whether a chunk seems to have every key. Inside of strings quotes are escaped, so nothing there is taken for a key.
fn is_complete(chunk: &[u8]) -> bool {
    let Keys { choices, index, delta, finish_reason, tool_calls, .. } = &*KEYS;
    let Some(list) = behind(choices, chunk) else { return false };
    if after_colon(list).starts_with(b"[]") {
        return true;
    }
    let calls = tool_calls.find_iter(chunk).any(|at| {
        let value = after_colon(&chunk[at + tool_calls.needle().len()..]);
        value.strip_prefix(b"[").is_some_and(|list| list.trim_ascii_start().starts_with(b"{"))
    });
    // One index is the choice's own.
    let indexes = if calls { 2 } else { 1 };
    index.find_iter(chunk).nth(indexes - 1).is_some()
        && [delta, finish_reason].into_iter().all(|key| key.find(chunk).is_some())
}

/// What comes after the first place of a key.
fn behind<'a>(key: &Finder<'_>, chunk: &'a [u8]) -> Option<&'a [u8]> {
    key.find(chunk).map(|at| &chunk[at + key.needle().len()..])
}

/// Whether a text, or the end of it behind a quotation mark, would be found as a key together with the marks around it.
/// Where none is, a search finds the same whatever is said.
fn is_like_a_key(said: &Said<'_>) -> bool {
    let found = |text: &[u8]| NAMES.iter().any(|name| text.ends_with(name.as_bytes()));
    found(said.text) || found(said.padding)
}

fn after_colon(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_start();
    text.strip_prefix(b":").unwrap_or(text).trim_ascii_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(completer: &mut Completer, chunk: &str) -> String {
        let chunk = completer.complete(Bytes::from(chunk.to_owned()));
        String::from_utf8(chunk.to_vec()).expect("text")
    }

    #[test]
    fn a_complete_chunk_is_left_as_it_is() {
        let mut completer = Completer::default();
        for chunk in [
            r#"{ "created": 5,"choices":[ {"index":0,"delta":{"tool_calls":[]},"finish_reason":null} ]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls": [ {"index":0}]},"finish_reason":null}],"created":5}"#,
            r#"{"created":5 ,"choices" : [],"usage":{}}"#,
        ] {
            assert_eq!(complete(&mut completer, chunk), chunk);
        }
    }

    #[test]
    fn a_choice_gets_the_keys_that_its_provider_left_out() {
        let mut completer = Completer::default();
        assert_eq!(
            complete(
                &mut completer,
                r#"{"choices":[{"delta":{"content":"\"index\""}},{"index":7,"delta":null}]}"#
            ),
            r#"{"choices":[{"delta":{"content":"\"index\""},"index":0,"finish_reason":null},{"index":7,"delta":{},"finish_reason":null}]}"#
        );
        assert_eq!(complete(&mut completer, "{}"), r#"{"choices":[]}"#);
        assert_eq!(complete(&mut completer, "no object"), "no object");
    }

    #[test]
    fn a_stream_was_made_at_one_time() {
        let mut completer = Completer::default();
        assert_eq!(
            complete(&mut completer, r#"{"created":5,"choices":[]}"#),
            r#"{"created":5,"choices":[]}"#
        );
        for other in ["6", "55", "\"5\"", "5.5"] {
            let chunk = format!(r#"{{"choices":[],"created":{other}}}"#);
            assert_eq!(complete(&mut completer, &chunk), r#"{"choices":[],"created":5}"#);
        }
        assert_eq!(complete(&mut completer, r#"{"choices":[]}"#), r#"{"choices":[],"created":5}"#);
        assert_eq!(&completer.chunk_of(b"[]")[..], br#"{"created":5,"choices":[]}"#);
        let mut untold = Completer::default();
        assert_eq!(complete(&mut untold, r#"{"created":0,"choices":[]}"#), r#"{"choices":[]}"#);
        assert_eq!(&untold.chunk_of(b"[]")[..], br#"{"choices":[]}"#);
    }

    #[test]
    fn a_tool_call_gets_the_index_that_its_provider_left_out() {
        let mut completer = Completer::default();
        let indexes = |completer: &mut Completer, calls: &str| -> Vec<u64> {
            let chunk = format!(
                r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":{calls}}},"finish_reason":null}}]}}"#
            );
            let chunk: Value = serde_json::from_str(&complete(completer, &chunk)).expect("JSON");
            let calls = chunk["choices"][0]["delta"]["tool_calls"].as_array().cloned().unwrap_or_default();
            calls.iter().filter_map(|call| call["index"].as_u64()).collect()
        };
        assert_eq!(indexes(&mut completer, r#"[{"id":"a","function":{}}]"#), [0]);
        assert_eq!(indexes(&mut completer, r#"[{"function":{"arguments":"{}"}}]"#), [0]);
        assert_eq!(indexes(&mut completer, r#"[{"id":"b"},{"id":"c"}]"#), [1, 2]);
        assert_eq!(indexes(&mut completer, r#"[{"id":"","function":{"arguments":"{}"}}]"#), [2]);
    }
}
