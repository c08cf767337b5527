//! The request of a chat completion, and the answer to a plain one.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::conversation::agent::Agent;
use crate::conversation::message::{Message, Seen};
use crate::conversation::turn::Dialect;
use crate::error::{Error, Invalid};
use crate::id::{AgentId, CompletionId, SessionName};
use crate::json::{Fields, Raw, Scan};

/// The most messages of one request.
pub const MAX_MESSAGES: usize = 100_000;
/// The most answers of one request.
pub const MAX_N: u64 = 128;
/// The highest bound of an answer, in tokens.
pub const MAX_OUTPUT: u64 = 10_000_000;

/// A request, read and checked.
#[derive(Debug)]
pub struct ChatRequest {
    /// The agent that the request names.
    pub agent: Option<String>,
    /// The session that the body names.
    pub session: Option<SessionName>,
    /// All messages.
    pub messages: Vec<Message>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// In which form.
    pub dialect: Dialect,
    /// Whether the stream shall tell its usage.
    pub include_usage: bool,
    /// How many answers.
    pub n: u64,
    /// The bound of each answer.
    pub max_output: Option<u64>,
    /// Everything else, for the provider.
    pub fields: Fields,
}

/// The dialect that a client names.
///
/// # Errors
/// When there is none of that name.
pub fn dialect(name: &str) -> Result<Dialect, Invalid> {
    Dialect::named(name).ok_or_else(|| Invalid::value("stream_format", "expected \"openai\" or \"native\""))
}

impl ChatRequest {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the field that is wrong and what was expected.
    pub fn read(body: &Bytes) -> Result<Self, Error> {
        let mut fields = Fields::parse(body)
            .map_err(|cause| Invalid::json(format!("the body is not a JSON object: {cause}")))?;
        // Clients write null for what they leave out, and some providers refuse it.
        fields.drop_nulls();
        let model: Option<String> = take(&mut fields, "model", "a string")?;
        let agent_id: Option<String> = take(&mut fields, "agent_id", "a string")?;
        if let (Some(model), Some(agent)) = (&model, &agent_id)
            && model != agent
        {
            return Err(Invalid::value("agent_id", "`model` and `agent_id` name different agents").into());
        }
        let stream = take(&mut fields, "stream", "true or false")?.unwrap_or(false);
        let dialect = match take::<String>(&mut fields, "stream_format", "a string")?.as_deref() {
            Some(name) => dialect(name)?,
            None if model.is_some() => Dialect::OpenAi,
            None => Dialect::Native,
        };
        let session = match take::<String>(&mut fields, "session_id", "a string")? {
            Some(name) => Some(session_name(&name, "session_id")?),
            None => None,
        };
        let messages = read_messages(&mut fields)?;
        check_numbers(&fields)?;
        Ok(Self {
            agent: model.or(agent_id),
            session,
            messages,
            stream,
            dialect,
            include_usage: include_usage(&fields, stream)?,
            n: whole(&fields, "n", MAX_N)?.unwrap_or(1),
            max_output: None,
            fields,
        })
    }

    /// Adds the agent's parameters: the request's win, except what the agent locks.
    ///
    /// # Errors
    /// Names the field that is wrong and what was expected.
    pub fn with_defaults(mut self, agent: &Agent) -> Result<Self, Error> {
        let definition = &agent.definition;
        for name in &definition.locked {
            if is_output_bound(name) {
                self.remove_output_bounds();
            } else {
                self.fields.remove(name);
            }
        }
        let bounded = OUTPUT_BOUNDS.iter().any(|bound| self.fields.given(bound).is_some());
        for (name, value) in definition.defaults() {
            let taken = if is_output_bound(name) { bounded } else { self.fields.given(name).is_some() };
            if !taken {
                self.fields.set(name, Raw::of(&value));
            }
        }
        let named = [
            whole(&self.fields, OUTPUT_BOUNDS[0], MAX_OUTPUT)?,
            whole(&self.fields, OUTPUT_BOUNDS[1], MAX_OUTPUT)?,
        ];
        self.remove_output_bounds();
        self.max_output = named[0].or(named[1]);
        self.n = whole(&self.fields, "n", MAX_N)?.unwrap_or(1);
        Ok(self)
    }

    fn remove_output_bounds(&mut self) {
        for bound in OUTPUT_BOUNDS {
            self.fields.remove(bound);
        }
    }
}

const OUTPUT_BOUNDS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

fn is_output_bound(name: &str) -> bool {
    OUTPUT_BOUNDS.contains(&name)
}

/// A session's name as a client may choose it.
///
/// # Errors
/// Names the field and what was expected.
pub fn session_name(name: &str, field: &str) -> Result<SessionName, Invalid> {
    SessionName::chosen(name)
        .ok_or_else(|| Invalid::value(field, "expected 1 to 128 characters of A-Z a-z 0-9 _ . : -"))
}

fn take<T: DeserializeOwned>(fields: &mut Fields, name: &str, expected: &str) -> Result<Option<T>, Invalid> {
    match fields.remove(name) {
        Some(value) if !value.is_null() => {
            value.read().map(Some).map_err(|_| Invalid::value(name, format_args!("expected {expected}")))
        }
        _ => Ok(None),
    }
}

fn read_messages(fields: &mut Fields) -> Result<Vec<Message>, Invalid> {
    let Some(raw) = fields.remove("messages").filter(|raw| !raw.is_null()) else {
        return Err(Invalid::missing("messages"));
    };
    if let Some(seen) = Scan::of(raw.bytes(), seen_messages) {
        check_count(seen.len())?;
        let one = |(at, (text, seen)): (usize, &(&str, Seen<'_>))| Message::seen(slice(&raw, text), seen, at);
        return seen.iter().enumerate().map(one).collect();
    }
    let list: Vec<&RawValue> =
        raw.peek().map_err(|_| Invalid::value("messages", "expected a list of messages"))?;
    check_count(list.len())?;
    let one = |(at, text): (usize, &&RawValue)| Message::parse(slice(&raw, text.get()), at);
    list.iter().enumerate().map(one).collect()
}

/// The messages of a list, each with its text, if all are written as most are.
fn seen_messages<'a>(scan: &mut Scan<'a>) -> Option<Vec<(&'a str, Seen<'a>)>> {
    let mut seen = Vec::new();
    scan.array(|scan| {
        seen.push(scan.around(Seen::pass)?);
        // What is seen of a message takes more memory than a short one, and too many are refused anyway.
        (seen.len() <= MAX_MESSAGES).then_some(())
    })?;
    Some(seen).filter(|_| scan.is_readable())
}

fn slice(of: &Raw, text: &str) -> Raw {
    Raw::trusted(of.bytes().slice_ref(text.as_bytes()))
}

fn check_count(messages: usize) -> Result<(), Invalid> {
    match messages {
        0 => Err(Invalid::value("messages", "expected at least one message")),
        count if count > MAX_MESSAGES => {
            Err(Invalid::value("messages", format_args!("expected at most {MAX_MESSAGES} messages")))
        }
        _ => Ok(()),
    }
}

fn include_usage(fields: &Fields, stream: bool) -> Result<bool, Invalid> {
    let Some(options) = fields.given("stream_options") else { return Ok(false) };
    if !stream {
        return Err(Invalid::value("stream_options", "only allowed together with `stream: true`"));
    }
    let options =
        Fields::parse(options.bytes()).map_err(|_| Invalid::value("stream_options", "expected an object"))?;
    let Some(wanted) = options.given("include_usage") else { return Ok(false) };
    wanted.read().map_err(|_| Invalid::value("stream_options.include_usage", "expected true or false"))
}

fn whole(fields: &Fields, name: &str, most: u64) -> Result<Option<u64>, Invalid> {
    let Some(value) = fields.given(name) else { return Ok(None) };
    match value.read::<u64>() {
        Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
        _ => Err(Invalid::value(name, format_args!("expected a whole number from 1 to {most}"))),
    }
}

fn check_numbers(fields: &Fields) -> Result<(), Invalid> {
    whole(fields, "n", MAX_N)?;
    for bound in OUTPUT_BOUNDS {
        whole(fields, bound, MAX_OUTPUT)?;
    }
    for (name, low, high) in [
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
        ("top_logprobs", 0.0, 20.0),
    ] {
        let Some(value) = fields.given(name) else { continue };
        if !value.read::<f64>().is_ok_and(|number| (low..=high).contains(&number)) {
            return Err(Invalid::value(name, format_args!("expected a number from {low} to {high}")));
        }
    }
    Ok(())
}

/// Who an answer is for, and what it may tell.
#[derive(Clone, Debug)]
pub struct Told {
    /// The completion's id.
    pub completion: CompletionId,
    /// The agent, which is the model to clients.
    pub agent: AgentId,
    /// The session.
    pub session: SessionName,
    /// When, in Unix seconds, where the provider does not tell.
    pub created: i64,
    /// Whether the key may see money.
    pub money: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::agent::Definition;
    use crate::json::carefully;
    use crate::json::random::{Oddness, Random};

    fn read(text: &str) -> Result<ChatRequest, Error> {
        ChatRequest::read(&Bytes::from(text.to_owned()))
    }

    fn param(text: &str) -> Option<String> {
        match read(text) {
            Err(Error::Invalid(invalid)) => invalid.param,
            other => panic!("{other:?}"),
        }
    }

    const HI: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

    #[test]
    fn what_is_not_ours_is_kept_for_the_provider() {
        let text = format!(
            r#"{{"model":"ag_1","session_id":"s","stream":null,"stream_format":"native","top_k":5,{HI},"user":"u"}}"#
        );
        let request = read(&text).expect("valid");
        let names: Vec<&str> = request.fields.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["top_k", "user"]);
        assert_eq!((request.agent.as_deref(), request.dialect), (Some("ag_1"), Dialect::Native));
        assert!(!request.stream);
    }

    #[test]
    fn a_wrong_field_is_named() {
        assert_eq!(param("{}").as_deref(), Some("messages"));
        assert_eq!(param(r#"{"messages":[]}"#).as_deref(), Some("messages"));
        for (field, name) in [
            (r#""n":0"#, "n"),
            (r#""temperature":2.1"#, "temperature"),
            (r#""max_tokens":-1"#, "max_tokens"),
            (r#""stream":"yes""#, "stream"),
            (r#""session_id":"a b""#, "session_id"),
            (r#""stream_options":{"include_usage":true}"#, "stream_options"),
            (r#""model":"a","agent_id":"b""#, "agent_id"),
        ] {
            assert_eq!(param(&format!("{{{field},{HI}}}")).as_deref(), Some(name));
        }
    }

    /// A request as clients write them, and as they do not.
    fn request(seed: u64) -> Bytes {
        let mut random = Random(seed);
        let how = Oddness::any(&mut random);
        let field = |name: &str, value: String| (name.to_owned(), value);
        let count = random.below(4);
        let mut messages = Vec::new();
        for _ in 0..count {
            let role = if random.chance(90) {
                random.of(&["user", "assistant", "system", "developer", "function"])
            } else {
                random.of(&["tool", "robot", ""])
            };
            let content = format!("\"{}\"", random.inside(how));
            let mut fields = vec![field("role", format!("\"{role}\"")), field("content", content)];
            if random.chance(30) {
                fields.swap(0, 1);
            }
            if random.chance(15) {
                let parts = format!(r#"[{{"type":"text","text":"{}"}}]"#, random.inside(how));
                fields.push(field("content", parts));
                fields.remove(usize::from(random.chance(50)));
            }
            for name in ["name", "tool_call_id", "tool_calls", "function_call", "refusal", "reasoning", "x"] {
                if random.chance(4) {
                    fields.push(field(name, random.value(2, how)));
                }
            }
            messages.push(random.object(&fields, how));
        }
        let messages = random.array(&messages, how);
        let mut fields = vec![field("model", "\"ag_1\"".to_owned()), field("messages", messages)];
        for name in ["stream", "temperature", "n", "max_tokens", "session_id", "stream_options", "tools", "x"]
        {
            if random.chance(4) {
                fields.insert(random.below(fields.len() + 1), field(name, random.value(2, how)));
            }
        }
        let text = random.object(&fields, how);
        if random.chance(5) { random.damaged(&text).into() } else { text.into() }
    }

    #[test]
    fn whatever_a_client_asks_nobody_can_tell_whether_it_was_read_with_care() {
        let seen = |body: &Bytes| match ChatRequest::read(body) {
            Ok(request) => {
                let prints: Vec<_> = request.messages.iter().map(Message::fingerprint).collect();
                Ok(format!("{request:?} {prints:?}"))
            }
            Err(Error::Invalid(invalid)) => Err(format!("{invalid:?}")),
            Err(other) => Err(other.to_string()),
        };
        let mut taken = 0;
        for seed in 0..30_000 {
            let body = request(seed);
            let careful = carefully::run(|| seen(&body));
            assert_eq!(seen(&body), careful, "seed {seed}: {}", body.escape_ascii());
            taken += u32::from(careful.is_ok());
        }
        assert!(taken > 8_000, "{taken} taken");
    }

    #[test]
    fn no_more_messages_are_looked_at_than_there_may_be() {
        let list = |count: usize| format!("[{}{{}}]", "{},".repeat(count - 1));
        let looked = |count: usize| Scan::of(list(count).as_bytes(), seen_messages).is_some();
        assert!(looked(MAX_MESSAGES));
        assert!(!looked(MAX_MESSAGES + 1));
        let refused = read(&format!(r#"{{"model":"ag_1","messages":{}}}"#, list(MAX_MESSAGES + 1)));
        let Err(Error::Invalid(invalid)) = refused else { panic!("{refused:?}") };
        assert!(format!("{invalid:?}").contains("at most 100000 messages"), "{invalid:?}");
    }

    #[test]
    fn the_request_wins_over_the_agent_except_what_is_locked() {
        let definition: Definition = serde_json::from_str(
            r#"{"name":"a","temperature":0.1,"max_tokens":50,"parameters":{"top_p":0.5,"seed":1},
                "locked":["top_p","tools"]}"#,
        )
        .expect("a definition");
        let agent =
            Agent { id: "ag_1".into(), account: "acct_1".into(), definition, created_at: 0, updated_at: 0 };
        let text = format!(r#"{{"temperature":0.9,"top_p":0.9,"tools":[],"max_completion_tokens":9,{HI}}}"#);
        let request = read(&text).and_then(|request| request.with_defaults(&agent)).expect("valid");
        let value = |name| request.fields.get(name).map(|raw| raw.text().into_owned());
        assert_eq!(value("temperature").as_deref(), Some("0.9"));
        assert_eq!(value("top_p").as_deref(), Some("0.5"));
        assert_eq!(value("seed").as_deref(), Some("1"));
        assert_eq!(value("tools"), None);
        assert_eq!(request.max_output, Some(9));
        let plain =
            read(&format!("{{{HI}}}")).and_then(|request| request.with_defaults(&agent)).expect("valid");
        assert_eq!(plain.max_output, Some(50));
    }
}
