//! An answer that comes whole.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::Error;
use serde_json::{Map, Value};

use super::{Choice, ChunkPeek, Reply, given, text_bytes};
use crate::json::{Fields, Raw, Scan, once};

/// An answer of one choice, as most are written.
struct Usual<'a> {
    usage: Option<&'a str>,
    index: u64,
    finish: Option<Cow<'a, str>>,
    message: &'a str,
    content: Option<Cow<'a, str>>,
}

impl Reply {
    /// Takes a whole answer.
    ///
    /// # Errors
    /// When it is not an answer as OpenAI describes it.
    pub fn whole(answer: &Bytes) -> serde_json::Result<Self> {
        if let Some(usual) = Scan::of(answer, Usual::pass) {
            let mut reply = Self::default();
            if let Some(usage) = usual.usage {
                reply.told(usage, answer);
            }
            let message = Raw::trusted(answer.slice_ref(usual.message.as_bytes()));
            reply.take_whole(usual.index, message, usual.content, usual.finish);
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
        let (mut usage, mut error, mut choices, mut choice) = (None, None, None, None);
        scan.object(|scan, name| match name {
            "usage" => once(&mut usage, scan.value()?),
            "error" => once(&mut error, scan.value()?),
            "choices" => {
                once(&mut choices, ())?;
                scan.array(|scan| once(&mut choice, Self::pass_choice(scan)?))
            }
            _ => scan.value().map(drop),
        })?;
        let usage = usage.filter(|usage| *usage != "null");
        choice.map(|choice| Self { usage, ..choice }).filter(|_| scan.is_readable())
    }

    fn pass_choice(scan: &mut Scan<'a>) -> Option<Self> {
        let (mut index, mut finish, mut message) = (None, None, None);
        scan.object(|scan, name| match name {
            "index" => once(&mut index, scan.count()?),
            "finish_reason" if scan.null() => once(&mut finish, None),
            "finish_reason" => once(&mut finish, Some(scan.text()?)),
            "message" => once(&mut message, scan.around(Self::pass_message)?),
            "delta" => None,
            _ => scan.value().map(drop),
        })?;
        let (message, content) = message?;
        Some(Self { usage: None, index: index.unwrap_or(0), finish: finish.flatten(), message, content })
    }

    /// Passes a message that says whose it is; answers its text.
    fn pass_message(scan: &mut Scan<'a>) -> Option<Option<Cow<'a, str>>> {
        let (mut content, mut role) = (None, None);
        scan.object(|scan, name| match name {
            "content" if scan.peek() == Some(b'"') => once(&mut content, Some(scan.text()?)),
            "content" => scan.value().and_then(|_| once(&mut content, None)),
            "role" => once(&mut role, scan.value()?),
            _ => scan.value().map(drop),
        })?;
        role.filter(|role| *role != "null")?;
        Some(content.flatten())
    }
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
