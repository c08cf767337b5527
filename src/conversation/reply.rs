//! An answer as it arrives: assembled from a provider's chunks, or taken whole.

pub mod whole;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::conversation::outline::Outline;
use crate::conversation::shape::{Known, Said};
use crate::conversation::usage::{Counted, Usage, read_usage};
use crate::json::{Key, Object, Raw};

/// Bytes that a token is taken to be where nobody counted.
pub const BYTES_PER_TOKEN: u64 = 4;

/// The most choices of an answer, as OpenAI bounds `n`.
const MAX_CHOICES: usize = 128;
/// The most calls of tools, or the like, in one choice.
const MAX_ITEMS: usize = 1_024;

/// What of an answer has been received.
#[derive(Debug, Default)]
pub struct Reply {
    choices: Vec<Choice>,
    known: Known<Says>,
    usage: Option<(Usage, Raw)>,
    prompt_told: Option<Usage>,
    /// Of a whole answer that is written as most are.
    outline: Option<Outline>,
    pieces: u64,
    content_bytes: u64,
    /// Of everything beside text, as it came.
    other_bytes: u64,
}

#[derive(Debug, Default)]
struct Choice {
    index: u64,
    content: Option<String>,
    /// What was streamed beside the content.
    rest: Map<String, Value>,
    /// The message where it was not streamed; it says whose it is.
    whole: Option<Raw>,
    finish: Option<String>,
}

/// What a chunk means that does nothing but go on with a text.
#[derive(Debug)]
struct Says {
    /// Where its choice stands.
    choice: usize,
    place: Place,
    /// What it counts beside the text, in bytes.
    around: u64,
}

/// Where a text goes on.
#[derive(Debug)]
enum Place {
    Content,
    Field(Box<str>),
    /// The arguments of the call with this index.
    Arguments(Value),
}

/// What a chunk turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Part of the answer.
    Delta,
    /// It tells why a choice ended; everything but the end has been seen of it.
    Finish,
    /// It tells why one choice ended, and goes on with another.
    Mixed,
    /// It holds nothing but usage.
    Usage,
    /// The provider reports an error in the place of a chunk.
    Error(Raw),
}

#[derive(Deserialize)]
struct ChunkPeek<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<ChoicePeek<'a>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ChoicePeek<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow, default)]
    delta: Option<DeltaPeek<'a>>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

/// The text of a delta, and whatever else it holds.
#[derive(Default)]
struct DeltaPeek<'a> {
    content: Option<(Cow<'a, str>, &'a RawValue)>,
    others: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> ChoicePeek<'a> {
    /// The one text that it brings and where that goes on, if it brings nothing else; and how much is around it.
    fn only(&self) -> Option<(Place, &'a RawValue, u64)> {
        let delta = self.delta.as_ref()?;
        let text = delta.content.as_ref().filter(|(text, _)| !text.is_empty());
        match (text, &delta.others[..]) {
            (Some((_, value)), []) => Some((Place::Content, value, 0)),
            (None, [(name, value)]) if name == "tool_calls" => {
                let (index, arguments) = only_arguments(value)?;
                let around = value.get().len() - arguments.get().len();
                Some((Place::Arguments(index.into()), arguments, around as u64))
            }
            (None, [(name, value)]) => Some((Place::Field(Box::from(&**name)), value, 0)),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for DeltaPeek<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = DeltaPeek<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a delta object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut delta = DeltaPeek::default();
                while let Some(Key(name)) = map.next_key()? {
                    match &*name {
                        "role" => drop(map.next_value::<serde::de::IgnoredAny>()?),
                        _ => {
                            let value: &RawValue = map.next_value()?;
                            if name == "content" && value.get().starts_with('"') {
                                let text: Key<'de> =
                                    serde_json::from_str(value.get()).map_err(A::Error::custom)?;
                                delta.content = Some((text.0, value));
                            } else if !matches!(value.get(), "null" | "\"\"" | "[]" | "{}") {
                                delta.others.push((name, value));
                            }
                        }
                    }
                }
                Ok(delta)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl Reply {
    /// Takes in one chunk of a stream.
    ///
    /// # Errors
    /// When it is not a chunk as OpenAI describes it.
    pub fn absorb(&mut self, chunk: &Bytes) -> serde_json::Result<Chunk> {
        if self.go_on(chunk).is_some() {
            return Ok(Chunk::Delta);
        }
        let peek: ChunkPeek<'_> = serde_json::from_slice(chunk)?;
        if let Some(error) = given(peek.error) {
            return Ok(Chunk::Error(Raw::trusted(chunk.slice_ref(error.get().as_bytes()))));
        }
        let usage = given(peek.usage);
        if let Some(usage) = usage {
            self.told(usage.get(), chunk);
        }
        let mut choices = peek.choices.unwrap_or_default();
        if choices.len() > MAX_CHOICES || choices.iter().any(|choice| choice.index >= MAX_CHOICES as u64) {
            return Err(serde_json::Error::custom(format_args!("more than {MAX_CHOICES} choices")));
        }
        // Some providers write an empty reason where there is none yet.
        for choice in &mut choices {
            choice.finish_reason.take_if(|reason| reason.is_empty());
        }
        let ended = choices.iter().filter(|choice| choice.finish_reason.is_some()).count();
        let kind = match (ended, choices.len()) {
            (_, 0) => Chunk::Usage,
            (0, _) => Chunk::Delta,
            (ended, all) if ended == all => Chunk::Finish,
            _ => Chunk::Mixed,
        };
        let alone = kind == Chunk::Delta && usage.is_none() && choices.len() == 1;
        let only = choices.first().filter(|_| alone).and_then(|choice| Some((choice.index, choice.only()?)));
        for choice in choices {
            self.absorb_choice(choice)?;
        }
        if let Some((index, only)) = only {
            self.learn(chunk, index, only);
        }
        Ok(kind)
    }

    /// Learns from a chunk that said nothing but the text of `value`.
    fn learn(&mut self, chunk: &Bytes, index: u64, (place, value, around): (Place, &RawValue, u64)) {
        let Some(choice) = self.choices.iter().position(|choice| choice.index == index) else { return };
        let same = |said: &Said<'_>| std::ptr::eq(said.quoted, value.get().as_bytes());
        self.known.learn(chunk, |_, said| same(&said).then_some(Says { choice, place, around }));
    }

    /// Takes in a chunk that goes on with a text as one before it did.
    fn go_on(&mut self, chunk: &[u8]) -> Option<()> {
        let (said, Says { choice, place, around }) = self.known.said(chunk)?;
        let text = match said.plain {
            true => Cow::Borrowed(std::str::from_utf8(said.text).ok()?),
            false => serde_json::from_slice::<Key<'_>>(said.quoted).ok()?.0,
        };
        let choice = &mut self.choices[*choice];
        let other = match place {
            Place::Content => {
                choice.content.get_or_insert_default().push_str(&text);
                self.content_bytes += text.len() as u64;
                self.pieces += 1;
                return Some(());
            }
            Place::Field(name) => choice.rest.get_mut(&**name)?,
            Place::Arguments(index) => {
                let calls = choice.rest.get_mut("tool_calls")?.as_array_mut()?;
                let call = calls.iter_mut().find(|call| call.get("index") == Some(index))?;
                call.get_mut("function")?.get_mut("arguments")?
            }
        };
        let Value::String(whole) = other else { return None };
        whole.push_str(&text);
        self.other_bytes += said.quoted.len() as u64 + *around;
        self.pieces += 1;
        Some(())
    }

    fn told(&mut self, usage: &str, within: &Bytes) {
        self.counted(read_usage(usage), usage, within);
    }

    fn counted(&mut self, counted: Option<Counted>, usage: &str, within: &Bytes) {
        match counted {
            Some(Counted::All(read)) => {
                self.usage = Some((read, Raw::trusted(within.slice_ref(usage.as_bytes()))));
            }
            Some(Counted::Prompt(read)) => self.prompt_told = Some(read),
            None => {}
        }
    }

    fn absorb_choice(&mut self, peek: ChoicePeek<'_>) -> serde_json::Result<()> {
        let delta = peek.delta.unwrap_or_default();
        let text = delta.content.map(|(text, _)| text).filter(|text| !text.is_empty());
        self.pieces += u64::from(text.is_some() || !delta.others.is_empty());
        let choice = match self.choices.iter().position(|choice| choice.index == peek.index) {
            Some(at) => &mut self.choices[at],
            None => self.choices.push_mut(Choice { index: peek.index, ..Choice::default() }),
        };
        if let Some(text) = text {
            self.content_bytes += text.len() as u64;
            choice.content.get_or_insert_default().push_str(&text);
        }
        for (name, value) in delta.others {
            self.other_bytes += value.get().len() as u64;
            let value = serde_json::from_str(value.get())?;
            merge(choice.rest.entry(name).or_insert(Value::Null), value)?;
        }
        if let Some(reason) = peek.finish_reason {
            choice.finish = Some(reason.into_owned());
        }
        Ok(())
    }

    /// Whether anything was received that is to be paid for: text, tool calls, reasoning, or usage.
    pub fn received(&self) -> bool {
        self.pieces > 0 || self.usage.is_some()
    }

    /// Hands out where the parts of a whole answer stand.
    pub fn take_outline(&mut self) -> Option<Outline> {
        self.outline.take()
    }

    /// Whether every choice told why it ended.
    pub fn finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// Why the first choice ended.
    pub fn finish_reason(&self) -> Option<&str> {
        self.first()?.finish.as_deref()
    }

    /// The text of the first choice.
    pub fn content(&self) -> Option<&str> {
        self.first()?.content.as_deref()
    }

    /// What the provider counted.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.as_ref().map(|(usage, _)| *usage)
    }

    /// What the provider counted of the prompt before it began to answer. That alone is nothing received.
    pub fn prompt_told(&self) -> Option<Usage> {
        self.prompt_told
    }

    /// What the provider counted, in its own words.
    pub fn usage_raw(&self) -> Option<&Raw> {
        self.usage.as_ref().map(|(_, raw)| raw)
    }

    /// Output tokens by our own estimate, from the joined text of all choices.
    pub fn estimated_output(&self) -> u64 {
        let others: u64 = self.choices.iter().map(Choice::text_bytes_beside).sum();
        (self.content_bytes + others).div_ceil(BYTES_PER_TOKEN)
    }

    /// A number of output tokens that is not more than were received: each piece is one, or each four bytes.
    pub fn output_floor(&self) -> u64 {
        match self.content_bytes {
            0 => self.pieces,
            bytes => self.pieces.min(bytes.div_ceil(BYTES_PER_TOKEN)),
        }
    }

    /// What is kept of it in memory, about, in bytes.
    pub fn kept_bytes(&self) -> u64 {
        self.content_bytes + self.other_bytes
    }

    /// Everything that was streamed as one `chat.completion` object.
    pub fn as_completion(&self) -> Option<Raw> {
        let choices: Vec<Value> = self
            .choices
            .iter()
            .map(|choice| {
                let message: Value = choice.message().read().ok()?;
                Some(serde_json::json!({"index": choice.index, "message": message, "finish_reason": choice.finish}))
            })
            .collect::<Option<_>>()?;
        Some(Raw::of(&serde_json::json!({"choices": choices})))
    }

    /// The assistant's message of the first choice, as it is stored.
    pub fn message(&self) -> Raw {
        self.first()
            .map_or_else(|| Raw::trusted(&br#"{"role":"assistant","content":""}"#[..]), Choice::message)
    }

    fn first(&self) -> Option<&Choice> {
        self.choices.iter().min_by_key(|choice| choice.index)
    }
}

impl Choice {
    /// Bytes of text beside the content.
    fn text_bytes_beside(&self) -> u64 {
        match &self.whole {
            Some(whole) => whole::text_bytes_beside(whole),
            None => text_bytes(&self.rest),
        }
    }

    fn message(&self) -> Raw {
        if let Some(whole) = &self.whole {
            return whole.clone();
        }
        let mut message = Map::new();
        message.insert("role".to_owned(), "assistant".into());
        let content = match &self.content {
            Some(text) => Value::from(text.as_str()),
            None if self.rest.is_empty() => Value::from(""),
            None => Value::Null,
        };
        message.insert("content".to_owned(), content);
        message.extend(self.rest.clone());
        if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
            for call in calls.iter_mut().filter_map(Value::as_object_mut) {
                call.remove("index");
            }
        }
        Raw::of(&message)
    }
}

/// The index and the arguments of calls of tools that are one and tell no more.
fn only_arguments(calls: &RawValue) -> Option<(u64, &RawValue)> {
    let [Object(call)] = serde_json::from_str(calls.get()).ok()?;
    let named = |wanted: &str| call.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.get());
    let index = named("index")?.parse().ok()?;
    let Object(function) = serde_json::from_str(named("function")?).ok()?;
    match (call.len(), &function[..]) {
        (2, [(name, arguments)]) if name == "arguments" => Some((index, arguments)),
        _ => None,
    }
}

fn given(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}

/// Puts a further piece onto what is there: text is joined, lists by `index`, objects field by field.
///
/// # Errors
/// When a list grows beyond all measure.
fn merge(whole: &mut Value, piece: Value) -> serde_json::Result<()> {
    match (whole, piece) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => text.push_str(&more),
        (Value::Object(fields), Value::Object(more)) => {
            for (name, value) in more {
                match fields.get_mut(&name) {
                    // These name a thing; some providers repeat them on every piece.
                    Some(old) if matches!(name.as_str(), "id" | "type" | "index") => *old = value,
                    Some(old) => merge(old, value)?,
                    None => drop(fields.insert(name, value)),
                }
            }
        }
        (Value::Array(items), Value::Array(more)) => {
            for item in more {
                let full = items.len() >= MAX_ITEMS;
                let index = item.get("index").filter(|index| index.is_u64());
                match items.iter_mut().find(|own| index.is_some() && own.get("index") == index) {
                    Some(own) => merge(own, item)?,
                    None if full => {
                        return Err(serde_json::Error::custom(format_args!(
                            "more than {MAX_ITEMS} in a list"
                        )));
                    }
                    None => items.push(item),
                }
            }
        }
        (whole, piece) => *whole = piece,
    }
    Ok(())
}

/// Bytes of all text in a message's further fields, without what only names things.
fn text_bytes(fields: &Map<String, Value>) -> u64 {
    fn weigh(value: &Value) -> u64 {
        match value {
            Value::String(text) => text.len() as u64,
            Value::Array(items) => items.iter().map(weigh).sum(),
            Value::Object(fields) => text_bytes(fields),
            _ => 0,
        }
    }
    let weighed = fields.iter().filter(|(name, _)| !matches!(name.as_str(), "id" | "type" | "role"));
    weighed.map(|(_, value)| weigh(value)).sum()
}

#[cfg(test)]
mod tests;
