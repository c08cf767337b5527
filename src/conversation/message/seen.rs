//! What of a message is looked at, found without parsing the rest of it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::{Object, Raw, Scan, once};

/// What of a message is looked at; the values of some fields as they stand there.
#[derive(Default)]
pub struct Seen<'a> {
    pub(super) role: Option<Cow<'a, str>>,
    pub(super) content: Option<&'a str>,
    pub(super) tool_calls: Option<&'a str>,
    pub(super) function_call: Option<&'a str>,
    pub(super) refusal: Option<Cow<'a, str>>,
    pub(super) reasoning_content: Option<&'a str>,
    pub(super) reasoning: Option<&'a str>,
    pub(super) tool_call_id: Option<Cow<'a, str>>,
    pub(super) name: Option<Cow<'a, str>>,
    /// Whether it has a role and a content and nothing else.
    pub(super) bare: bool,
}

impl<'a> Seen<'a> {
    /// Looks at a message that is written as most are, and can be read by everybody.
    pub(super) fn scanned(raw: &'a Raw) -> Option<Self> {
        Scan::of(raw.bytes(), |scan| Self::pass(scan).filter(|_| scan.is_readable()))
    }

    /// Looks at a message, which is a JSON object if there is no error.
    pub(super) fn of(raw: &'a Raw) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Peek<'a> {
            #[serde(borrow)]
            role: Option<Cow<'a, str>>,
            #[serde(borrow)]
            content: Option<&'a RawValue>,
            #[serde(borrow)]
            tool_calls: Option<&'a RawValue>,
            #[serde(borrow)]
            function_call: Option<&'a RawValue>,
            #[serde(borrow)]
            refusal: Option<Cow<'a, str>>,
            #[serde(borrow)]
            reasoning_content: Option<&'a RawValue>,
            #[serde(borrow)]
            reasoning: Option<&'a RawValue>,
            #[serde(borrow)]
            tool_call_id: Option<Cow<'a, str>>,
            #[serde(borrow)]
            name: Option<Cow<'a, str>>,
        }
        if let Some(seen) = Scan::of(raw.bytes(), Self::pass) {
            return Ok(seen);
        }
        let given = |value: Option<&'a RawValue>| value.map(RawValue::get).filter(|value| *value != "null");
        let peek: Peek<'a> = raw.peek()?;
        let Object(fields) = raw.peek()?;
        let content = given(peek.content);
        Ok(Self {
            bare: fields.len() == 2 && peek.role.is_some() && content.is_some(),
            role: peek.role,
            content,
            tool_calls: given(peek.tool_calls),
            function_call: given(peek.function_call),
            refusal: peek.refusal,
            reasoning_content: given(peek.reasoning_content),
            reasoning: given(peek.reasoning),
            tool_call_id: peek.tool_call_id,
            name: peek.name,
        })
    }

    /// The same where a scan has come to one that is written as most are.
    pub fn pass(scan: &mut Scan<'a>) -> Option<Self> {
        fn text<'a>(scan: &mut Scan<'a>) -> Option<Option<Cow<'a, str>>> {
            if scan.null() { Some(None) } else { scan.text().map(Some) }
        }
        fn value<'a>(scan: &mut Scan<'a>) -> Option<Option<&'a str>> {
            scan.value().map(|value| Some(value).filter(|value| *value != "null"))
        }
        let (mut role, mut refusal, mut tool_call_id, mut own_name) = (None, None, None, None);
        let (mut content, mut tool_calls, mut function_call) = (None, None, None);
        let (mut reasoning_content, mut reasoning) = (None, None);
        let mut fields = 0;
        scan.object(|scan, name| {
            fields += 1;
            match name {
                "role" => once(&mut role, text(scan)?),
                "content" => once(&mut content, value(scan)?),
                "tool_calls" => once(&mut tool_calls, value(scan)?),
                "function_call" => once(&mut function_call, value(scan)?),
                "refusal" => once(&mut refusal, text(scan)?),
                "reasoning_content" => once(&mut reasoning_content, value(scan)?),
                "reasoning" => once(&mut reasoning, value(scan)?),
                "tool_call_id" => once(&mut tool_call_id, text(scan)?),
                "name" => once(&mut own_name, text(scan)?),
                _ => scan.value().map(drop),
            }
        })?;
        let content = content.flatten();
        let role = role.flatten();
        Some(Self {
            bare: fields == 2 && role.is_some() && content.is_some(),
            role,
            content,
            tool_calls: tool_calls.flatten(),
            function_call: function_call.flatten(),
            refusal: refusal.flatten(),
            reasoning_content: reasoning_content.flatten(),
            reasoning: reasoning.flatten(),
            tool_call_id: tool_call_id.flatten(),
            name: own_name.flatten(),
        })
    }
}
