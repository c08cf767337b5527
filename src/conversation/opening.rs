//! What the first turn of a session brings along: a title, and a conversation that took place before.
//!
//! A client that never names a session sends its whole conversation each time. What of it was answered before is
//! **given**: it is stored once for all sessions that begin with it. So that nobody can tell, what is given is
//! always shown in its [normal form](normal), which is the same for all who share it, and never as it was sent.

use std::borrow::Cow;

use serde_json::Value;

use crate::conversation::message::{Message, Role};
use crate::json::{ObjectWriter, Raw, Scan, once};

/// The most characters of a title that is taken from the first message.
pub const TITLE_CHARS: usize = 60;
/// What of an answer clients send back; anything else that a provider adds is known to few of them.
const SENT_BACK: [&str; 7] = ["role", "content", "name", "refusal", "tool_calls", "function_call", "audio"];
/// A message of more fields is read with care.
const FIELDS: usize = 32;
/// A longer first message is not looked at beyond this, in bytes.
const TITLE_BYTES: usize = 4 * 1_024;

/// The first turn of a session, beside its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// What the user said first, in short.
    pub title: Option<String>,
    /// A digest of the conversation up to each answer in it, the turn's own last; `None` for other messages.
    /// Empty where the session has a name of its own: its conversation is not sent again.
    pub chains: Vec<Option<Chain>>,
}

impl Opening {
    /// Of a turn that says `messages` and gets `reply`; `unnamed` if the client did not name the session.
    pub fn of(owner: (&str, &str), unnamed: bool, messages: &[Message], reply: &Raw) -> Self {
        let title = messages.iter().find(|message| message.role == Role::User).and_then(title);
        let mut chains = Vec::new();
        if unnamed {
            let mut chain = Chain::begin(owner);
            for message in messages {
                chain = chain.and(&normal(&message.raw));
                chains.push((message.role == Role::Assistant).then_some(chain));
            }
            chains.push(Some(chain.and(&normal(reply))));
        }
        Self { title, chains }
    }

    /// How many of the messages were said before: all up to the last answer among them.
    pub fn given(&self) -> usize {
        let before = self.chains.len().saturating_sub(1);
        self.chains[..before].iter().rposition(Option::is_some).map_or(0, |at| at + 1)
    }

    /// The longest given beginning that is `known`, as the number of its messages.
    ///
    /// Where a beginning is known, so is each shorter one, which makes it a matter of few questions.
    ///
    /// # Errors
    /// What `known` answers.
    pub fn longest_known<T, E>(
        &self,
        mut known: impl FnMut(usize, &Chain) -> Result<Option<T>, E>,
    ) -> Result<Option<(usize, T)>, E> {
        let given = self.chains[..self.given()].iter().enumerate();
        let answers: Vec<(usize, &Chain)> =
            given.filter_map(|(at, chain)| Some((at + 1, chain.as_ref()?))).collect();
        let (mut found, mut rest) = (None, &answers[..]);
        // Mostly all of it is known, or nothing.
        let mut at = rest.len().saturating_sub(1);
        while let Some((len, chain)) = rest.get(at) {
            match known(*len, chain)? {
                Some(place) => {
                    found = Some((*len, place));
                    rest = &rest[at + 1..];
                }
                None => rest = &rest[..at],
            }
            at = rest.len() / 2;
        }
        Ok(found)
    }
}

/// A digest of a conversation up to an answer, of one agent of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain([u8; 16]);

impl Chain {
    /// Of nothing said yet, with the agent of that account.
    pub fn begin((account, agent): (&str, &str)) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [account, agent] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self::short(&hasher)
    }

    /// Of the same and one more message, which is in its normal form.
    pub fn and(&self, message: &Raw) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(message.bytes());
        Self::short(&hasher)
    }

    fn short(hasher: &blake3::Hasher) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(short)
    }

    /// From a column of the database.
    pub fn stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// For a column of the database.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A message in the form in which it is the same for all who may have sent it: without blanks, without fields that
/// are empty, its names in order; of an answer only what clients send back, its text in one piece.
///
/// What cannot be read stays as it is.
pub fn normal(raw: &Raw) -> Raw {
    if let Some(normal) = Scan::of(raw.bytes(), normal_of_texts) {
        return normal;
    }
    let Ok(mut value) = raw.read::<Value>() else { return raw.clone() };
    let answer = value["role"] == "assistant";
    let Some(fields) = value.as_object_mut() else { return raw.clone() };
    if answer {
        if let Some(text) = fields.get("content").and_then(joined) {
            fields.insert("content".to_owned(), text.into());
        }
        for call in fields.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(call) = call.as_object_mut() {
                call.remove("index");
            }
        }
        fields.retain(|name, value| SENT_BACK.contains(&name.as_str()) && !is_blank(value));
    }
    fields.retain(|_, value| !value.is_null());
    value.sort_all_objects();
    Raw::of(&value)
}

/// The same for a message of nothing but texts that are written as we write them, which most are.
fn normal_of_texts(scan: &mut Scan<'_>) -> Option<Raw> {
    let mut fields: Vec<(&str, &str)> = Vec::with_capacity(8);
    scan.object(|scan, name| {
        let unusual = fields.len() == FIELDS || fields.iter().any(|(own, _)| *own == name);
        fields.push((name, scan.value()?));
        (!unusual).then_some(())
    })?;
    if !scan.is_readable() {
        return None;
    }
    if fields.contains(&("role", "\"assistant\"")) {
        fields.retain(|(name, value)| SENT_BACK.contains(name) && !matches!(*value, "\"\"" | "[]"));
    }
    fields.retain(|(_, value)| *value != "null");
    fields.sort_unstable();
    let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut normal = ObjectWriter::with_capacity(size + 2);
    for (name, value) in fields {
        let text = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))?;
        is_as_we_write(text).then(|| normal.field(name, value.as_bytes()))?;
    }
    Some(Raw::trusted(normal.finish()))
}

/// Whether no other escapes are in the inside of a string than those that it is written with.
fn is_as_we_write(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr(b'\\', rest) {
        if !matches!(rest.get(at + 1), Some(b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f')) {
            return false;
        }
        rest = &rest[at + 2..];
    }
    true
}

fn is_blank(value: &Value) -> bool {
    matches!(value, Value::String(text) if text.is_empty())
        || matches!(value, Value::Array(items) if items.is_empty())
}

/// The text of content that is a list of nothing but texts.
fn joined(content: &Value) -> Option<String> {
    let text = |part: &Value| {
        let plain = part["type"] == "text" && part.as_object().is_some_and(|fields| fields.len() == 2);
        part["text"].as_str().filter(|_| plain).map(str::to_owned)
    };
    content.as_array()?.iter().map(text).collect()
}

/// The beginning of what a message says, in one line.
fn title(message: &Message) -> Option<String> {
    if let Some(text) = Scan::of(message.raw.bytes(), content_of) {
        return short(&text);
    }
    let value: Value = message.raw.read().ok()?;
    let content = &value["content"];
    let parts = content.as_array().into_iter().flatten();
    short(content.as_str().or_else(|| parts.filter_map(|part| part["text"].as_str()).next())?)
}

/// What a message says whose content is a string.
fn content_of<'a>(scan: &mut Scan<'a>) -> Option<Cow<'a, str>> {
    let mut content = None;
    scan.object(|scan, name| match name {
        "content" => once(&mut content, scan.text()?),
        _ => scan.value().map(drop),
    })?;
    content.filter(|_| scan.is_readable())
}

/// The same of a text that begins with one line of ASCII, or is one.
fn short_of_line(text: &str) -> Option<String> {
    let begin = &text.as_bytes()[..text.len().min(TITLE_CHARS + 1)];
    let tidy = begin.iter().all(|byte| matches!(byte, b' '..=b'~'))
        && !begin.starts_with(b" ")
        && !begin.ends_with(b" ")
        && memchr::memmem::find(begin, b"  ").is_none();
    let cut = || match text.len() > TITLE_CHARS {
        true => format!("{}…", text[..TITLE_CHARS].trim_end()),
        false => text.to_owned(),
    };
    tidy.then(cut)
}

/// The first characters of a text, in one line; `None` if there is nothing to be seen.
fn short(text: &str) -> Option<String> {
    if let Some(short) = short_of_line(text) {
        return Some(short).filter(|short| !short.is_empty());
    }
    let mut end = text.len().min(TITLE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let (mut short, mut chars, mut apart) = (String::new(), 0, false);
    for letter in text[..end].chars() {
        if letter.is_whitespace() || letter.is_control() {
            apart = chars > 0;
            continue;
        }
        let more = if std::mem::take(&mut apart) { 2 } else { 1 };
        if chars + more > TITLE_CHARS {
            return Some(format!("{}…", short.trim_end()));
        }
        short.extend((more == 2).then_some(' '));
        short.push(letter);
        chars += more;
    }
    (!short.is_empty()).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::carefully;
    use crate::json::random::{Oddness, Random};

    fn message(text: &str) -> Message {
        Message::parse(Raw::parse(text.to_owned()).expect("JSON"), 0).expect("a message")
    }

    fn user(text: &str) -> Message {
        message(&serde_json::json!({"role": "user", "content": text}).to_string())
    }

    fn answer(text: &str) -> Message {
        message(&serde_json::json!({"role": "assistant", "content": text}).to_string())
    }

    fn opening(messages: &[Message]) -> Opening {
        Opening::of(("acct", "ag"), true, messages, &answer("end").raw)
    }

    #[test]
    fn an_answer_is_the_same_however_a_client_sends_it_back() {
        let received = r#"{"role":"assistant","content":"a","refusal":null,"annotations":[],"reasoning":"hm","x_note":1}"#;
        let sent = [
            r#"{"content": "a", "role": "assistant"}"#,
            r#"{"role":"assistant","content":[{"type":"text","text":"a"}],"tool_calls":[]}"#,
        ];
        for text in sent {
            assert_eq!(normal(&message(text).raw), normal(&message(received).raw), "{text}");
        }
        let call = |more: &str| {
            let text = format!(
                r#"{{"role":"assistant",{more}"tool_calls":[{{"id":"c","type":"function","function":{{"name":"f","arguments":"{{}}"}}}}]}}"#
            );
            normal(&message(&text).raw)
        };
        assert_eq!(call(r#""content":null,"#), call(r#""content":"","#));
    }

    #[test]
    fn what_can_be_seen_makes_a_difference() {
        let plain = normal(&user("a").raw);
        for text in [
            r#"{"role":"user","content":"a","name":"bob"}"#,
            r#"{"role":"user","content":"a "}"#,
            r#"{"role":"user","content":[{"type":"text","text":"a"}]}"#,
            r#"{"role":"assistant","content":"a"}"#,
        ] {
            assert_ne!(normal(&message(text).raw), plain, "{text}");
        }
    }

    #[test]
    fn a_chain_depends_on_its_owner_on_all_messages_and_on_their_order() {
        let of = |owner, said: &[&str]| {
            said.iter().fold(Chain::begin(owner), |chain, text| chain.and(&normal(&user(text).raw)))
        };
        let one = of(("acct", "ag"), &["a", "b"]);
        assert_eq!(one, of(("acct", "ag"), &["a", "b"]));
        for other in [of(("acct", "ah"), &["a", "b"]), of(("acctag", ""), &["a", "b"])] {
            assert_ne!(one, other);
        }
        assert_ne!(one, of(("acct", "ag"), &["b", "a"]));
        assert_ne!(one, of(("acct", "ag"), &["b"]));
    }

    #[test]
    fn what_was_answered_before_is_given() {
        assert_eq!(opening(&[user("a")]).given(), 0);
        assert_eq!(opening(&[user("a"), answer("b"), user("c")]).given(), 2);
        assert_eq!(opening(&[user("a"), answer("b"), user("c"), answer("d")]).given(), 4);
        let named =
            Opening::of(("acct", "ag"), false, &[user("a"), answer("b"), user("c")], &answer("d").raw);
        assert_eq!((named.given(), named.chains.len()), (0, 0));
    }

    #[test]
    fn the_longest_known_beginning_is_found_with_few_questions() {
        let said: Vec<Message> =
            (0..1_000).flat_map(|turn| [user(&format!("u{turn}")), answer(&format!("a{turn}"))]).collect();
        let opening = opening(&said);
        for stored in [0, 1, 2, 499, 998, 999, 1_000] {
            let mut asked = 0;
            let found = opening.longest_known(|len, _| {
                asked += 1;
                Ok::<_, ()>((len <= stored * 2).then_some(()))
            });
            assert_eq!(found, Ok((stored > 0).then_some((stored * 2, ()))), "{stored} turns are stored");
            assert!(asked <= 12, "{asked} questions");
        }
    }

    #[test]
    fn an_opening_is_the_same_however_its_messages_are_read() {
        let mut normal_texts = 0;
        for seed in 0..20_000 {
            let mut random = Random(seed);
            let how = Oddness::any(&mut random);
            let role = random.of(&["\"user\"", "\"assistant\"", "\"tool\""]);
            let content = format!("\"{}\"", random.inside(how));
            let mut fields = vec![("content".to_owned(), content), ("role".to_owned(), role.to_owned())];
            for name in ["refusal", "annotations", "tool_calls", "name", "x", "content"] {
                if random.chance(15) {
                    let usual = random.of(&["null", "[]", "\"\"", "\"a\""]).to_owned();
                    let value = if random.chance(50) { usual } else { random.value(2, how) };
                    fields.insert(random.below(fields.len() + 1), (name.to_owned(), value));
                }
            }
            let Ok(raw) = Raw::parse(random.object(&fields, how)) else { continue };
            let seen = || (normal(&raw), title(&Message::stored(raw.clone())));
            assert_eq!(seen(), carefully::run(seen), "{raw:?}");
            normal_texts += u32::from(Scan::of(raw.bytes(), normal_of_texts).is_some());
        }
        assert!(normal_texts > 5_000, "{normal_texts}");
    }

    /// As it is said: without controls, each blank one space, so many characters.
    fn shortened(text: &str) -> Option<String> {
        let cleaned = text.replace(char::is_control, " ");
        let line = cleaned.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = line.chars().take(TITLE_CHARS).collect();
        let short = if short.len() < line.len() { format!("{}…", short.trim_end()) } else { short };
        (!short.is_empty()).then_some(short)
    }

    #[test]
    fn a_title_is_cut_where_it_is_said() {
        for seed in 0..3_000 {
            let mut random = Random(seed);
            let count = random.below(70);
            let pieces = ["a", "bc", "größer", " ", "  ", "\n", "\u{7}", "\u{a0}", "日"];
            let pieces = if random.chance(50) { &pieces[..] } else { &["a", "word", "b c", "a ", "~"] };
            let text: String = (0..count).map(|_| random.of(pieces)).collect();
            assert_eq!(short(&text), shortened(&text), "{text:?}");
        }
    }

    #[test]
    fn a_title_is_one_short_line() {
        let titled = |text: &str| title(&user(text));
        assert_eq!(titled(" Hello\n\n there\u{7} ").as_deref(), Some("Hello there"));
        assert_eq!(titled(" \n "), None);
        let long = "wörter ".repeat(5_000);
        let short = titled(&long).expect("a title");
        assert!(short.starts_with("wörter wörter") && short.ends_with('…'), "{short}");
        assert!(short.chars().count() <= TITLE_CHARS + 1, "{short}");
        let parts = message(
            r#"{"role":"user","content":[{"type":"image_url","image_url":{}},{"type":"text","text":"what is it"}]}"#,
        );
        assert_eq!(title(&parts).as_deref(), Some("what is it"));
    }
}
