//! One message of a conversation, kept as it was sent or received.

mod seen;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Number, Value};

use crate::error::Invalid;
use crate::json::{Fields, Raw, is_unicode};

pub use seen::Seen;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions, by the name that most models know.
    System,
    /// Instructions, by OpenAI's newer name.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
    /// The result of a function call, by the deprecated name.
    Function,
}

impl Role {
    const NAMES: [(&'static str, Self); 6] = [
        ("system", Self::System),
        ("developer", Self::Developer),
        ("user", Self::User),
        ("assistant", Self::Assistant),
        ("tool", Self::Tool),
        ("function", Self::Function),
    ];

    /// The result of a call.
    pub fn is_result(self) -> bool {
        matches!(self, Self::Tool | Self::Function)
    }

    fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(own, _)| *own == name).map(|(_, role)| *role)
    }

    /// Instructions hold for one turn and are not kept.
    pub fn is_instruction(self) -> bool {
        matches!(self, Self::System | Self::Developer)
    }
}

/// How many pictures a file may be: a document of some pages is read as text and as a picture of each.
const MEDIA_PER_FILE: usize = 32;

/// What of an assistant's message does not go back to the provider.
const NOT_SENT_BACK: [&str; 2] = ["annotations", "parsed"];
/// Thoughts go back with the tool calls that they led to, since some models demand them there, and else not.
const THOUGHTS: [&str; 2] = ["reasoning_content", "reasoning"];

/// A message, checked as far as we need to know it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The JSON object.
    pub raw: Raw,
    /// Bytes of text that the model will read: content, names, tool calls.
    pub text_bytes: usize,
    /// Images and audio, and what files come to in them.
    pub media: usize,
    /// Whether it calls tools.
    pub calls: bool,
    /// Whether it may have its role by OpenAI's newer name, which most providers do not know.
    pub newer_name: bool,
    /// Whether there is nothing in it (an answer that was cut before its first token).
    pub empty: bool,
    /// Whether it is known to have a role and a content and nothing else.
    bare: bool,
}

/// The same message, however a client writes it: equal for string and part form of the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
}

/// What is known of a message beside its text.
struct Facts {
    role: Role,
    text_bytes: usize,
    media: usize,
    calls: bool,
    bare: bool,
}

impl Facts {
    fn of(seen: &Seen<'_>, at: usize) -> Result<Self, Invalid> {
        let Some(name) = &seen.role else { return Err(Invalid::missing(path(at, ".role"))) };
        let role = Role::named(name).ok_or_else(|| {
            let known = Role::NAMES.map(|(name, _)| name).join(", ");
            Invalid::value(path(at, ".role"), format_args!("expected one of {known}"))
        })?;
        let (content_bytes, media) = weigh(seen.content, &|field| path(at, field))?;
        let calls = seen.tool_calls.or(seen.function_call);
        let may_be_null = matches!(role, Role::Assistant | Role::Function);
        if !may_be_null && seen.content.is_none() {
            return Err(Invalid::missing(path(at, ".content")));
        }
        if role == Role::Tool && seen.tool_call_id.is_none() {
            return Err(Invalid::missing(path(at, ".tool_call_id")));
        }
        let named = [&seen.refusal, &seen.tool_call_id, &seen.name];
        let written = [calls, seen.reasoning_content, seen.reasoning];
        let text_bytes = content_bytes
            + written.iter().flatten().map(|value| value.len()).sum::<usize>()
            + named.iter().map(|text| text.as_ref().map_or(0, |text| text.len())).sum::<usize>();
        Ok(Self { role, text_bytes, media, calls: calls.is_some(), bare: seen.bare })
    }

    fn of_message(self, raw: Raw) -> Message {
        let Self { role, text_bytes, media, calls, bare } = self;
        let newer_name = role == Role::Developer;
        Message { role, raw, text_bytes, media, calls, newer_name, empty: text_bytes + media == 0, bare }
    }
}

/// A field of the message that stands there in the list.
fn path(at: usize, field: &str) -> String {
    format!("messages[{at}]{field}")
}

impl Message {
    /// Reads a message of a request; `at` is its place in the list.
    ///
    /// # Errors
    /// Names the field that is wrong and what was expected.
    pub fn parse(raw: Raw, at: usize) -> Result<Self, Invalid> {
        if let Some(seen) = Seen::scanned(&raw) {
            let facts = Facts::of(&seen, at)?;
            return Ok(facts.of_message(raw));
        }
        // It is read again by more than us, and not everything that reads JSON takes that.
        if !is_unicode(raw.bytes()) {
            let reason = "expected Unicode text, found half of a surrogate pair";
            return Err(Invalid::value(path(at, ""), reason));
        }
        let seen = Seen::of(&raw).map_err(|cause| {
            Invalid::value(path(at, ""), format_args!("expected a message object ({cause})"))
        })?;
        let facts = Facts::of(&seen, at)?;
        Ok(facts.of_message(raw))
    }

    /// The same of one that was looked at, and can be read.
    ///
    /// # Errors
    /// Names the field that is wrong and what was expected.
    pub fn seen(raw: Raw, seen: &Seen<'_>, at: usize) -> Result<Self, Invalid> {
        Facts::of(seen, at).map(|facts| facts.of_message(raw))
    }

    /// As [`Self::stored`], of a text that should be what was stored.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn restored(text: String) -> serde_json::Result<Self> {
        let raw = Raw::trusted(text);
        match Seen::scanned(&raw).and_then(|seen| Facts::of(&seen, 0).ok()) {
            Some(facts) => Ok(facts.of_message(raw)),
            None => Raw::parse(raw.bytes().clone()).map(Self::stored),
        }
    }

    /// Takes what a provider answered or what is stored: it was taken once, whatever it holds.
    pub fn stored(raw: Raw) -> Self {
        #[derive(Deserialize)]
        struct Bare<'a> {
            #[serde(borrow)]
            role: Option<Cow<'a, str>>,
        }
        Self::parse(raw.clone(), 0).unwrap_or_else(|_| {
            let named = raw.peek::<Bare<'_>>().ok().and_then(|bare| Role::named(&bare.role?));
            let role = named.unwrap_or(Role::Assistant);
            let text_bytes = raw.bytes().len();
            // As what could not be read may be anything.
            let newer_name = memchr::memmem::find(raw.bytes(), b"developer").is_some();
            Self { role, raw, text_bytes, media: 0, calls: false, newer_name, empty: false, bare: false }
        })
    }

    /// The message in memory of its own, for being kept longer than the request that it came with.
    pub fn alone(self) -> Self {
        Self { raw: self.raw.alone(), ..self }
    }

    /// The message without the tools that it calls; `None` if nothing is left of it.
    pub fn without_calls(&self) -> Option<Self> {
        let mut fields = Fields::parse(self.raw.bytes()).ok()?;
        for name in ["tool_calls", "function_call"].iter().chain(&THOUGHTS) {
            fields.remove(name);
        }
        Some(Self::stored(fields.to_raw())).filter(|message| !message.empty)
    }

    /// The form in which a stored message goes back to the provider: without what only answers hold.
    pub fn for_prompt(self) -> Self {
        self.shortened().map_or(self, Self::stored)
    }

    /// An assistant's message without what does not go back, if there is any of it.
    fn shortened(&self) -> Option<Raw> {
        if self.role != Role::Assistant || self.bare {
            return None;
        }
        let mut fields = Fields::parse(self.raw.bytes()).ok()?;
        let before = fields.iter().count();
        let content = fields.get("content").cloned();
        fields.drop_nulls();
        if fields.get("tool_calls").is_some_and(|calls| calls.read::<[(); 0]>().is_ok()) {
            fields.remove("tool_calls");
        }
        let calls = fields.get("tool_calls").is_some();
        for name in NOT_SENT_BACK.iter().chain(THOUGHTS.iter().filter(|_| !calls)) {
            fields.remove(name);
        }
        if let Some(null) = content.filter(Raw::is_null) {
            fields.set("content", null);
        }
        (fields.iter().count() < before).then(|| fields.to_raw())
    }

    /// What identifies the message when a client sends it again: role, content and tool calls.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        let mut add = |tag: u8, text: &[u8]| {
            hasher.update(&[tag]);
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        add(b'r', &[self.role as u8]);
        // A message that was parsed once can be parsed again.
        if let Ok(seen) = Seen::of(&self.raw) {
            let (text, others) = joined_content(seen.content);
            add(b'c', text.as_bytes());
            for other in others {
                add(b'o', &other);
            }
            for calls in [seen.tool_calls, seen.function_call].into_iter().flatten() {
                add(b't', &normalised_calls(calls));
            }
            if self.role == Role::Tool {
                add(b'i', seen.tool_call_id.unwrap_or_default().as_bytes());
            }
        }
        let mut short = [0; 16];
        short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Fingerprint(short)
    }
}

/// Bytes of text and number of media parts in a message's content.
fn weigh(content: Option<&str>, path: &dyn Fn(&str) -> String) -> Result<(usize, usize), Invalid> {
    let Some(text) = content else { return Ok((0, 0)) };
    if text.starts_with('"') {
        return Ok((length(text), 0));
    }
    let parts: Vec<Part<'_>> = serde_json::from_str(text).map_err(|cause| {
        Invalid::value(
            path(".content"),
            format_args!("expected a string or a list of content parts ({cause})"),
        )
    })?;
    let (mut bytes, mut media) = (0, 0);
    for (at, part) in parts.iter().enumerate() {
        let kind = || path(&format!(".content[{at}].type"));
        match part.kind.as_deref() {
            Some("text") => bytes += part.text.as_ref().map_or(0, |text| text.len()),
            Some("refusal") => bytes += part.refusal.as_ref().map_or(0, |text| text.len()),
            Some("image_url" | "input_audio") => media += 1,
            Some("file") => media += MEDIA_PER_FILE,
            Some(_) => {
                let known = "text, image_url, input_audio, file, refusal";
                return Err(Invalid::value(kind(), format_args!("expected one of {known}")));
            }
            None => return Err(Invalid::missing(kind())),
        }
    }
    Ok((bytes, media))
}

/// The text of a JSON string; lone surrogates and the like, which serde refuses, count as they are written.
fn string(json: &str) -> Cow<'_, str> {
    let inside = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if let Some(inside) = inside.filter(|inside| memchr::memchr(b'\\', inside.as_bytes()).is_none()) {
        return Cow::Borrowed(inside);
    }
    match serde_json::from_str::<StringPeek<'_>>(json) {
        Ok(StringPeek(text)) => text,
        Err(_) => Cow::Borrowed(json),
    }
}

/// The length of that in bytes.
fn length(json: &str) -> usize {
    let inside = json.len().saturating_sub(2);
    let (mut escapes, mut rest) = (0, json.as_bytes());
    while let Some(at) = memchr::memchr(b'\\', rest) {
        match rest.get(at + 1..) {
            // All others are one letter for two.
            Some([letter, after @ ..]) if *letter != b'u' => rest = after,
            _ => return string(json).len(),
        }
        escapes += 1;
    }
    inside - escapes
}

#[derive(Deserialize)]
struct StringPeek<'a>(#[serde(borrow)] Cow<'a, str>);

/// All text of the content in one string, and every other part in a form without blanks.
fn joined_content(content: Option<&str>) -> (Cow<'_, str>, Vec<Vec<u8>>) {
    let Some(content) = content else { return (Cow::Borrowed(""), Vec::new()) };
    if content.starts_with('"') {
        return (string(content), Vec::new());
    }
    let parts: Vec<Value> = serde_json::from_str(content).unwrap_or_default();
    let (mut text, mut others) = (String::new(), Vec::new());
    for mut part in parts {
        part.sort_all_objects();
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(piece)) => text.push_str(piece),
            // As a field of its own it does not count either: many clients drop it.
            (Some("refusal"), _) => {}
            _ => others.push(part.to_string().into_bytes()),
        }
    }
    (Cow::Owned(text), others)
}

/// Tool calls by id, name and arguments, whatever else a client adds or leaves out.
fn normalised_calls(calls: &str) -> Vec<u8> {
    let calls: Value = serde_json::from_str(calls).unwrap_or_default();
    let one = |call: &Value| {
        let custom = &call["custom"];
        let (name, input) = if custom.is_object() {
            (&custom["name"], custom["input"].to_string())
        } else {
            (&call["function"]["name"], normalised_arguments(&call["function"]["arguments"]))
        };
        format!("{}\u{0}{name}\u{0}{input}\u{0}", call["id"])
    };
    match calls.as_array() {
        Some(list) => list.iter().map(one).collect::<String>().into_bytes(),
        None => format!("{}\u{0}{}", calls["name"], normalised_arguments(&calls["arguments"])).into_bytes(),
    }
}

/// A call's arguments, which many clients read and write anew: with other blanks, orders and numbers.
fn normalised_arguments(arguments: &Value) -> String {
    let mut read = match arguments.as_str().map(str::trim) {
        // No arguments at all are written in both ways.
        Some("") => Value::Object(Map::new()),
        Some(text) => match serde_json::from_str(text) {
            Ok(read) => read,
            Err(_) => return text.to_owned(),
        },
        None => arguments.clone(),
    };
    read.sort_all_objects();
    as_doubles(&mut read);
    read.to_string()
}

/// Writes every number as JavaScript reads it, where 1 and 1.0 are the same.
fn as_doubles(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(double) = number.as_f64().and_then(Number::from_f64) {
                *number = double;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(as_doubles),
        Value::Object(fields) => fields.values_mut().for_each(as_doubles),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
