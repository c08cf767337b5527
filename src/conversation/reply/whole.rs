//! An answer that comes whole.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::Error;
use serde_json::{Map, Value};

use super::{Choice, ChunkPeek, Reply, given, text_bytes};
use crate::conversation::outline::{Of, Outline};
use crate::conversation::usage::Counter;
use crate::json::{Fields, Raw, Scan, once};

/// An answer of one choice, as most are written.
#[derive(Default)]
struct Usual<'a> {
    usage: Option<(&'a str, Counter)>,
    index: Option<u64>,
    finish: Option<Option<Cow<'a, str>>>,
    message: Option<&'a str>,
    content: Option<Cow<'a, str>>,
    /// Whether choice and message have all that they have to have.
    is_complete: bool,
    outline: Outline,
}

/// The parts of a whole answer, if it has one choice and is written as most are.
pub fn outline(answer: &[u8]) -> Option<Outline> {
    Scan::of(answer, Usual::pass).map(|usual| usual.outline)
}

impl Reply {
    /// Takes a whole answer.
    ///
    /// # Errors
    /// When it is not an answer as OpenAI describes it.
    pub fn whole(answer: &Bytes) -> serde_json::Result<Self> {
        if let Some(usual) = Scan::of(answer, Usual::pass)
            && let Some(message) = usual.message
        {
            let mut reply = Self::default();
            if let Some((usage, counter)) = usual.usage {
                reply.counted(counter.counted(), usage, answer);
            }
            let message = Raw::trusted(answer.slice_ref(message.as_bytes()));
            let (index, finish) = (usual.index.unwrap_or(0), usual.finish.flatten());
            reply.take_whole(index, message, usual.content, finish);
            reply.outline = Some(usual.outline);
            return Ok(reply);
        }
        let peek: ChunkPeek<'_> = serde_json::from_slice(answer)?;
        let mut reply = Self::default();
        if let Some(usage) = given(peek.usage) {
            reply.told(usage.get(), answer);
        }
        for choice in peek.choices.unwrap_or_default() {
            let Some(message) = given(choice.message) else { continue };
            let message = Raw::trusted(answer.slice_ref(message.get().as_bytes()));
            let parsed: Map<String, Value> = message.read()?;
            let content = parsed.get("content").and_then(Value::as_str).map(Cow::Borrowed);
            reply.take_whole(choice.index, with_role(message), content, choice.finish_reason);
        }
        if reply.choices.is_empty() {
            return Err(serde_json::Error::custom("an answer without choices"));
        }
        Ok(reply)
    }

    fn take_whole(
        &mut self,
        index: u64,
        message: Raw,
        content: Option<Cow<'_, str>>,
        finish: Option<Cow<'_, str>>,
    ) {
        self.content_bytes += content.as_ref().map_or(0, |text| text.len() as u64);
        self.pieces += 1;
        self.choices.push(Choice {
            index,
            content: content.map(Cow::into_owned),
            rest: Map::new(),
            whole: Some(message),
            finish: finish.map(Cow::into_owned),
        });
    }
}

impl<'a> Usual<'a> {
    fn pass(scan: &mut Scan<'a>) -> Option<Self> {
        let mut usual = Self { outline: Outline::new(), ..Self::default() };
        let mut outline = std::mem::take(&mut usual.outline);
        scan.object(|scan, name| {
            outline.passing(scan, Of::Answer, name, |outline, scan| match name {
                "usage" if scan.null() => Some(()),
                "usage" => once(&mut usual.usage, scan.around(|scan| count(scan, outline))?),
                "choices" => scan.array(|scan| usual.pass_choice(scan, outline)),
                _ => scan.value().map(drop),
            })
        })?;
        outline.complete = usual.is_complete;
        usual.outline = outline;
        (usual.message.is_some() && scan.is_readable()).then_some(usual)
    }

    /// Passes the only choice.
    fn pass_choice(&mut self, scan: &mut Scan<'a>, outline: &mut Outline) -> Option<()> {
        if self.message.is_some() {
            return None;
        }
        let mut logprobs = false;
        scan.object(|scan, name| {
            outline.passing(scan, Of::Choice, name, |outline, scan| match name {
                "index" => once(&mut self.index, scan.count()?),
                "finish_reason" if scan.null() => once(&mut self.finish, None),
                "finish_reason" => once(&mut self.finish, Some(scan.text()?)),
                "message" => {
                    let (message, whole) = scan.around(|scan| self.pass_message(scan, outline))?;
                    self.is_complete = whole;
                    once(&mut self.message, message)
                }
                "delta" => None,
                _ => {
                    logprobs |= name == "logprobs";
                    scan.value().map(drop)
                }
            })
        })?;
        self.is_complete &= logprobs && self.index.is_some() && self.finish.is_some();
        self.message.map(drop)
    }

    /// Passes a message that says whose it is; answers whether it has all that it has to have.
    fn pass_message(&mut self, scan: &mut Scan<'a>, outline: &mut Outline) -> Option<bool> {
        let (mut role, mut content, mut refusal) = (false, false, false);
        scan.object(|scan, name| {
            outline.passing(scan, Of::Message, name, |_, scan| {
                match name {
                    "content" => {
                        content = true;
                        if scan.peek() == Some(b'"') {
                            self.content = Some(scan.text()?);
                            return Some(());
                        }
                    }
                    "refusal" => refusal = true,
                    "role" => {
                        role = true;
                        return scan.value().filter(|role| *role != "null").map(drop);
                    }
                    _ => {}
                }
                scan.value().map(drop)
            })
        })?;
        role.then_some(content && refusal)
    }
}

/// Passes what the provider counted.
fn count(scan: &mut Scan<'_>, outline: &mut Outline) -> Option<Counter> {
    let mut counter = Counter::default();
    scan.object(|scan, name| outline.passing(scan, Of::Usage, name, |_, scan| counter.pass(scan, name)))?;
    Some(counter)
}

/// A message as it came, if it says whose it is.
fn with_role(message: Raw) -> Raw {
    match Fields::parse(message.bytes()) {
        Ok(mut fields) if fields.given("role").is_none() => {
            fields.set("role", Raw::of("assistant"));
            fields.to_raw()
        }
        _ => message,
    }
}

/// Bytes of all text in a message beside its content.
pub fn text_bytes_beside(message: &Raw) -> u64 {
    let mut fields: Map<String, Value> = message.read().unwrap_or_default();
    fields.retain(|name, _| name != "content" && name != "role");
    text_bytes(&fields)
}
