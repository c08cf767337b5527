//! The answer to a plain chat completion.

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::json::{Fields, ObjectWriter, Raw, Scan};
use crate::session::Ended;
use crate::wire::openai::chat::Told;

/// What is ours in an answer, in the order in which it is added where the provider has it not.
const OURS: [&str; 8] = ["id", "object", "created", "model", "usage", "agent_id", "session_id", "content"];
/// An object of more fields is read with care.
const FIELDS: usize = 32;

/// The whole answer as clients get it. `None` if what the provider sent is no object.
pub fn whole(told: &Told, ended: &Ended) -> Option<Bytes> {
    let answer = ended.tail.first()?;
    if let Some(spliced) = spliced(told, ended, answer) {
        return Some(spliced.into());
    }
    let mut fields = Fields::parse(answer).ok()?;
    fields.set("id", Raw::of(&told.completion));
    fields.set("object", Raw::of("chat.completion"));
    if fields.get("created").and_then(created).is_none() {
        fields.set("created", Raw::of(&told.created));
    }
    fields.set("model", Raw::of(&told.agent));
    if let Some(choices) = fields.get("choices").and_then(with_required_keys) {
        fields.set("choices", choices);
    }
    fields.set("usage", usage(told, ended));
    fields.set("agent_id", Raw::of(&told.agent));
    fields.set("session_id", Raw::of(&told.session));
    fields.set("content", ended.content.as_deref().map_or_else(|| Raw::of(&Value::Null), Raw::of));
    Some(fields.to_raw().bytes().clone())
}

/// The usage object as clients get it: the provider's own, with cost and balance for those who may see them.
pub fn usage(told: &Told, ended: &Ended) -> Raw {
    let mut text = Vec::with_capacity(ended.usage_raw.as_ref().map_or(0, |raw| raw.bytes().len()) + 128);
    if spliced_usage(told, ended, &mut text).is_some() {
        return Raw::trusted(text);
    }
    let own = ended.usage_raw.as_ref().and_then(|raw| Fields::parse(raw.bytes()).ok());
    let mut usage = own.unwrap_or_default();
    usage.retain(|name| !is_of_the_operator(name));
    for (name, count) in counts(ended) {
        usage.set_if_absent(name, || Raw::of(&count));
    }
    if told.money {
        usage.set("cost", Raw::of(&ended.charged.to_string()));
        usage.set("balance", Raw::of(&ended.balance.to_string()));
    }
    usage.to_raw()
}

/// What the provider asks of the operator is not what the client pays.
fn is_of_the_operator(name: &str) -> bool {
    name == "balance" || name.as_bytes().windows(4).any(|letters| letters == b"cost")
}

/// What every usage has.
fn counts(ended: &Ended) -> [(&'static str, u64); 3] {
    let usage = &ended.usage;
    [("prompt_tokens", usage.prompt), ("completion_tokens", usage.output), ("total_tokens", usage.total())]
}

/// The choices with every key that OpenAI requires, where the provider left one out.
fn with_required_keys(choices: &Raw) -> Option<Raw> {
    let list: Vec<&RawValue> = choices.peek().ok()?;
    let mut added = false;
    let mut written = Vec::with_capacity(list.len());
    for (at, text) in list.into_iter().enumerate() {
        let raw = Raw::trusted(choices.bytes().slice_ref(text.get().as_bytes()));
        let mut choice = Fields::parse(raw.bytes()).ok()?;
        let mut message = Fields::parse(choice.get("message")?.bytes()).ok()?;
        added |= message.set_if_absent("role", || Raw::of("assistant"));
        for name in ["content", "refusal"] {
            added |= message.set_if_absent(name, || Raw::of(&Value::Null));
        }
        added |= choice.set_if_absent("index", || Raw::of(&at));
        for name in ["logprobs", "finish_reason"] {
            added |= choice.set_if_absent(name, || Raw::of(&Value::Null));
        }
        choice.set("message", message.to_raw());
        written.push(choice.to_raw().text().into_owned());
    }
    added.then(|| Raw::trusted(format!("[{}]", written.join(","))))
}

/// When an answer was made, as the provider tells it.
fn created(told: &Raw) -> Option<i64> {
    told.read().ok().filter(|seconds| *seconds > 0)
}

/// The same as [`whole`] comes to with care, written while the provider's answer is passed over; `None` where something
/// about it is unusual.
fn spliced(told: &Told, ended: &Ended, answer: &[u8]) -> Option<Vec<u8>> {
    let content = ended.content.as_deref();
    Scan::of(answer, |scan| {
        let size = answer.len() + content.map_or(0, str::len) + 512;
        let mut out = ObjectWriter::into(Vec::with_capacity(size));
        let mut names = Names::default();
        let ours = |name: &str, value: Option<&str>, out: &mut ObjectWriter| {
            match name {
                "id" => out.string(name, &told.completion),
                "object" => out.string(name, "chat.completion"),
                "created" => {
                    match value.filter(|value| value.parse().is_ok_and(|seconds: i64| seconds > 0)) {
                        Some(value) => out.field(name, value.as_bytes()),
                        None => out.value(name, &told.created),
                    }
                }
                "model" | "agent_id" => out.string(name, &told.agent),
                "usage" => return spliced_usage(told, ended, out.name(name).out()),
                "session_id" => out.string(name, &told.session),
                _ => match content {
                    Some(text) => out.string(name, text),
                    None => out.field(name, b"null"),
                },
            }
            Some(())
        };
        scan.object(|scan, name| {
            names.add(name)?;
            match name {
                "choices" => spliced_choices(scan, out.name(name).out()),
                name if OURS.contains(&name) => ours(name, Some(scan.value()?), &mut out),
                name => scan.value().map(|value| out.field(name, value.as_bytes())),
            }
        })?;
        OURS.iter().filter(|name| !names.has(name)).try_for_each(|name| ours(name, None, &mut out))?;
        Some(out.close())
    })
}

/// The same as [`usage`] comes to with care.
fn spliced_usage(told: &Told, ended: &Ended, out: &mut Vec<u8>) -> Option<()> {
    let mut out = ObjectWriter::into(out);
    let mut names = Names::default();
    if let Some(own) = &ended.usage_raw {
        Scan::of(own.bytes(), |scan| {
            scan.object(|scan, name| {
                names.add(name)?;
                let value = scan.value()?;
                if !is_of_the_operator(name) {
                    out.field(name, value.as_bytes());
                }
                Some(())
            })
        })?;
    }
    for (name, count) in counts(ended) {
        if !names.has(name) {
            out.value(name, &count);
        }
    }
    if told.money {
        out.string("cost", &ended.charged.to_string());
        out.string("balance", &ended.balance.to_string());
    }
    out.close();
    Some(())
}

/// The choices as they are if no key is missing in any of them, and else as [`with_required_keys`] writes them.
fn spliced_choices(scan: &mut Scan<'_>, out: &mut Vec<u8>) -> Option<()> {
    let (begin, mut at, mut added) = (out.len(), 0_usize, false);
    out.push(b'[');
    let (raw, ()) = scan.around(|scan| {
        scan.array(|scan| {
            if at > 0 {
                out.push(b',');
            }
            added |= spliced_choice(scan, at, out)?;
            at += 1;
            Some(())
        })
    })?;
    out.push(b']');
    if !added {
        out.truncate(begin);
        out.extend_from_slice(raw.as_bytes());
    }
    Some(())
}

/// Writes a choice; answers whether a key was missing.
fn spliced_choice(scan: &mut Scan<'_>, at: usize, out: &mut Vec<u8>) -> Option<bool> {
    let mut names = Names::default();
    let mut writer = ObjectWriter::into(out);
    let mut added = false;
    scan.object(|scan, name| {
        names.add(name)?;
        match name {
            "message" => added |= spliced_message(scan, writer.name(name).out())?,
            name => writer.field(name, scan.value()?.as_bytes()),
        }
        Some(())
    })?;
    if !names.has("message") {
        return None;
    }
    for (name, value) in [("index", None), ("logprobs", Some("null")), ("finish_reason", Some("null"))] {
        if !names.has(name) {
            added = true;
            match value {
                Some(value) => writer.field(name, value.as_bytes()),
                None => writer.value(name, &at),
            }
        }
    }
    writer.close();
    Some(added)
}

/// Writes a message; answers whether a key was missing.
fn spliced_message(scan: &mut Scan<'_>, out: &mut Vec<u8>) -> Option<bool> {
    let mut names = Names::default();
    let mut writer = ObjectWriter::into(out);
    scan.object(|scan, name| {
        names.add(name)?;
        writer.field(name, scan.value()?.as_bytes());
        Some(())
    })?;
    let mut added = false;
    for (name, value) in [("role", "\"assistant\""), ("content", "null"), ("refusal", "null")] {
        if !names.has(name) {
            added = true;
            writer.field(name, value.as_bytes());
        }
    }
    writer.close();
    Some(added)
}

/// The names of an object's fields.
#[derive(Default)]
struct Names<'a>(Vec<&'a str>);

impl<'a> Names<'a> {
    /// `None` if it is there already, or there are very many.
    fn add(&mut self, name: &'a str) -> Option<()> {
        let usual = self.0.len() < FIELDS && !self.has(name);
        usual.then(|| self.0.push(name))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }
}

#[cfg(test)]
mod tests;
