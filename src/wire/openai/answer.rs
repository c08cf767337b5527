//! The answer to a plain chat completion.

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::conversation::chunk::created;
use crate::conversation::outline::{Copier, Of, Outline};
use crate::conversation::reply::whole::outline;
use crate::json::{Fields, ObjectWriter, Raw};
use crate::session::Ended;
use crate::wire::openai::chat::Told;

/// What is ours in an answer, in the order in which it is added where the provider has it not.
const OURS: [&str; 8] = ["id", "object", "created", "model", "usage", "agent_id", "session_id", "content"];

/// The whole answer as clients get it. `None` if what the provider sent is no object.
pub fn whole(told: &Told, ended: &Ended) -> Option<Bytes> {
    let answer = ended.tail.first()?;
    if let Some(spliced) = spliced(told, ended, answer) {
        return Some(spliced.into());
    }
    let mut fields = Fields::parse(answer).ok()?;
    fields.set("id", Raw::of(told.completion.as_str()));
    fields.set("object", Raw::of("chat.completion"));
    if fields.get("created").and_then(created).is_none() {
        fields.set("created", Raw::of(&told.created));
    }
    fields.set("model", Raw::of(told.agent.as_str()));
    if let Some(choices) = fields.get("choices").and_then(with_required_keys) {
        fields.set("choices", choices);
    }
    fields.set("usage", usage(told, ended));
    fields.set("agent_id", Raw::of(told.agent.as_str()));
    fields.set("session_id", Raw::of(told.session.as_str()));
    fields.set("content", ended.content.as_deref().map_or_else(|| Raw::of(&Value::Null), Raw::of));
    Some(fields.to_raw().bytes().clone())
}

/// The usage object as clients get it: the provider's own, with cost and balance for those who may see them.
pub fn usage(told: &Told, ended: &Ended) -> Raw {
    let mut text = Vec::with_capacity(ended.usage_raw.as_ref().map_or(0, |raw| raw.bytes().len()) + 128);
    if spliced_usage(told, ended, None, &mut text).is_some() {
        return Raw::trusted(text);
    }
    let own = ended.usage_raw.as_ref().and_then(|raw| Fields::parse(raw.bytes()).ok());
    let mut usage = own.unwrap_or_default();
    usage.retain(|name| !is_of_the_operator(name.as_bytes()));
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
fn is_of_the_operator(name: &[u8]) -> bool {
    name == b"balance" || name.windows(4).any(|letters| letters == b"cost")
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

/// The same as [`whole`] comes to with care, put together from what is between the parts that are ours; `None` where
/// something about the answer is unusual.
fn spliced(told: &Told, ended: &Ended, answer: &[u8]) -> Option<Vec<u8>> {
    let found;
    let outline = match &ended.outline {
        Some(known) => known,
        None => {
            found = outline(answer)?;
            &found
        }
    };
    let size = answer.len() + ended.content.as_ref().map_or(0, String::len) + 512;
    let mut out = ObjectWriter::into(Vec::with_capacity(size));
    let mut copier = Copier::of(answer);
    let mut there = [false; OURS.len()];
    for part in outline.parts(Of::Answer) {
        let name = part.name(answer);
        let own = OURS.iter().position(|own| own.as_bytes() == name);
        own.inspect(|at| there[*at] = true);
        match own {
            Some(at) if OURS[at] != "created" || !is_time(part.value(answer)) => {
                copier.flush(&mut out);
                ours(OURS[at], told, ended, (outline, answer), &mut out)?;
            }
            None if name == b"choices" && !outline.complete => {
                copier.flush(&mut out);
                completed_choice(outline, answer, out.name("choices").out());
            }
            _ => copier.copy(part, &mut out),
        }
    }
    copier.flush(&mut out);
    for (name, _) in OURS.iter().zip(there).filter(|(_, there)| !there) {
        ours(name, told, ended, (outline, answer), &mut out)?;
    }
    Some(out.close())
}

/// The same as [`created`] tells.
fn is_time(told: &[u8]) -> bool {
    std::str::from_utf8(told).ok().and_then(|told| told.parse().ok()).is_some_and(|seconds: i64| seconds > 0)
}

/// Writes what is ours by that name.
fn ours(
    name: &str,
    told: &Told,
    ended: &Ended,
    parts: (&Outline, &[u8]),
    out: &mut ObjectWriter,
) -> Option<()> {
    match name {
        "id" => out.string(name, told.completion.as_str()),
        "object" => out.string(name, "chat.completion"),
        "created" => out.value(name, &told.created),
        "model" | "agent_id" => out.string(name, told.agent.as_str()),
        "usage" => return spliced_usage(told, ended, Some(parts), out.name(name).out()),
        "session_id" => out.string(name, told.session.as_str()),
        _ => match &ended.content {
            Some(text) => out.string(name, text),
            None => out.field(name, b"null"),
        },
    }
    Some(())
}

/// The same as [`usage`] comes to with care; `parts` may be those of the answer that it stands in.
fn spliced_usage(
    told: &Told,
    ended: &Ended,
    parts: Option<(&Outline, &[u8])>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let found;
    let own = ended.usage_raw.as_ref().map(|raw| &raw.bytes()[..]);
    let stands_there = |(outline, text): &(&Outline, &[u8])| {
        let usage = outline.parts(Of::Answer).find(|part| part.name(text) == b"usage");
        own.is_some() && usage.map(|part| part.value(text)) == own
    };
    let (outline, text) = match parts.filter(stands_there) {
        Some(parts) => parts,
        None => {
            found = own.map_or_else(|| Some(Outline::default()), |own| Outline::of_object(own, Of::Usage))?;
            (&found, own.unwrap_or_default())
        }
    };
    let mut out = ObjectWriter::into(out);
    let mut copier = Copier::of(text);
    for part in outline.parts(Of::Usage).filter(|part| !is_of_the_operator(part.name(text))) {
        copier.copy(part, &mut out);
    }
    copier.flush(&mut out);
    for (name, count) in counts(ended) {
        if !outline.has(Of::Usage, name, text) {
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

/// The only choice as [`with_required_keys`] writes it.
fn completed_choice(outline: &Outline, answer: &[u8], out: &mut Vec<u8>) {
    out.push(b'[');
    let mut choice = ObjectWriter::into(out);
    let mut copier = Copier::of(answer);
    for part in outline.parts(Of::Choice) {
        if part.name(answer) == b"message" {
            copier.flush(&mut choice);
            completed_message(outline, answer, choice.name("message").out());
        } else {
            copier.copy(part, &mut choice);
        }
    }
    copier.flush(&mut choice);
    for (name, value) in [("index", "0"), ("logprobs", "null"), ("finish_reason", "null")] {
        if !outline.has(Of::Choice, name, answer) {
            choice.field(name, value.as_bytes());
        }
    }
    choice.close().push(b']');
}

fn completed_message(outline: &Outline, answer: &[u8], out: &mut Vec<u8>) {
    let mut message = ObjectWriter::into(out);
    let mut copier = Copier::of(answer);
    outline.parts(Of::Message).for_each(|part| copier.copy(part, &mut message));
    copier.flush(&mut message);
    // It says whose it is, or it has no outline.
    for name in ["content", "refusal"] {
        if !outline.has(Of::Message, name, answer) {
            message.field(name, b"null");
        }
    }
    message.close();
}

#[cfg(test)]
mod tests;
