//! The fields of a request beside its messages: what becomes of each one.

use serde_json::json;

use crate::error::Invalid;
use crate::json::{Fields, Raw};
use crate::provider::anthropic::tools::{Choice, Tool, read_choice, read_tools};

const PRICE: &str = "this changes the price, and this server has no price for it";
const UNKNOWN: &str = "this model has nothing like it";

/// What OpenAI's fields come to.
#[derive(Debug)]
pub struct Options<'a> {
    /// Fields that go out as they are.
    pub passed: Fields,
    /// The tools.
    pub tools: Vec<Tool<'a>>,
    /// Which of them may be called.
    pub choice: Option<Choice>,
    /// Whether several may be called at once.
    pub parallel: bool,
    /// How many tokens of thoughts are asked for.
    pub effort: Option<u64>,
}

impl<'a> Options<'a> {
    /// Reads the fields.
    ///
    /// # Errors
    /// Names the field that has no counterpart and would change the answer, or its price.
    pub fn read(fields: &'a Fields) -> Result<Self, Invalid> {
        let mut passed = Fields::default();
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            if let Some((name, value)) = translated(name, value, fields)? {
                passed.set(name, value);
            }
        }
        if let Some(format) = fields.given("response_format")
            && let Some(format) = output_format(format)?
        {
            // Whoever speaks to Claude in its own words may have said more about the answer's form.
            let own = passed.get("output_config").and_then(|own| Fields::parse(own.bytes()).ok());
            let mut config = own.unwrap_or_default();
            config.set("format", format);
            passed.set("output_config", config.to_raw());
        }
        if let Some(user) = user_id(fields)? {
            passed.set("metadata", Raw::of(&json!({ "user_id": user })));
        }
        let tools = fields.given("tools").map(read_tools).transpose()?.unwrap_or_default();
        let choice = fields.given("tool_choice").map(|choice| read_choice(choice, &tools)).transpose()?;
        let parallel = fields
            .given("parallel_tool_calls")
            .map(|value| read(value, "parallel_tool_calls", "true or false"));
        let effort = fields.given("reasoning_effort").map(effort).transpose()?.flatten();
        Ok(Self {
            passed,
            tools,
            choice: choice.flatten(),
            parallel: parallel.transpose()?.unwrap_or(true),
            effort,
        })
    }
}

/// What becomes of one field: another one, the same one, or nothing.
fn translated<'n>(name: &'n str, value: &Raw, all: &Fields) -> Result<Option<(&'n str, Raw)>, Invalid> {
    let refused = |why: &str| Err(Invalid::value(name, why));
    match name {
        // These have a place of their own.
        "model"
        | "messages"
        | "stream"
        | "max_tokens"
        | "max_completion_tokens"
        | "tools"
        | "tool_choice"
        | "parallel_tool_calls"
        | "reasoning_effort"
        | "response_format"
        | "user"
        | "safety_identifier"
        | "metadata" => Ok(None),
        // Without these the answer means the same.
        "stream_options"
        | "store"
        | "seed"
        | "prediction"
        | "prompt_cache_key"
        | "prompt_cache_options"
        | "prompt_cache_retention" => Ok(None),
        "temperature" => Ok(Some((name, at_most_one(value)))),
        // The whole of the vocabulary is the default, and some models refuse it beside a temperature.
        "top_p" => Ok((number(value) != Some(1.0)).then(|| (name, value.clone()))),
        "stop" => Ok(stop_sequences(value)?.map(|list| ("stop_sequences", list))),
        "stop_sequences" if all.given("stop").is_some() => refused("`stop` says it already"),
        "service_tier" => match text(value).as_deref() {
            Some("auto" | "default") => Ok(None),
            Some("standard_only") => Ok(Some((name, value.clone()))),
            _ => refused(PRICE),
        },
        "modalities" => match value.read::<Vec<String>>() {
            Ok(kinds) if kinds.iter().all(|kind| kind == "text") => Ok(None),
            _ => refused(PRICE),
        },
        "audio" | "web_search_options" | "cache_control" | "container" | "inference_geo" | "speed" => {
            refused(PRICE)
        }
        "n" if number(value) == Some(1.0) => Ok(None),
        "n" => refused("this model gives one answer at a time"),
        "logprobs" if &value.bytes()[..] == b"false" => Ok(None),
        "top_logprobs" | "presence_penalty" | "frequency_penalty" if number(value) == Some(0.0) => Ok(None),
        "logit_bias" if value.read::<serde_json::Map<_, _>>().is_ok_and(|map| map.is_empty()) => Ok(None),
        "verbosity" if text(value).as_deref() == Some("medium") => Ok(None),
        "logprobs" | "top_logprobs" | "presence_penalty" | "frequency_penalty" | "logit_bias"
        | "verbosity" | "moderation" => refused(UNKNOWN),
        "functions" | "function_call" => refused("this model knows `tools` and `tool_choice` alone"),
        "system" => refused("expected a message of the role `system`"),
        _ => Ok(Some((name, value.clone()))),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &Raw, name: &str, expected: &str) -> Result<T, Invalid> {
    value.read().map_err(|_| Invalid::value(name, format_args!("expected {expected}")))
}

fn number(value: &Raw) -> Option<f64> {
    value.read().ok()
}

fn text(value: &Raw) -> Option<String> {
    value.read().ok()
}

/// OpenAI's temperatures reach 2, Claude's 1.
fn at_most_one(value: &Raw) -> Raw {
    if number(value).is_some_and(|number| number > 1.0) { Raw::of(&1) } else { value.clone() }
}

fn stop_sequences(value: &Raw) -> Result<Option<Raw>, Invalid> {
    if let Some(one) = text(value) {
        return Ok(Some(Raw::of(&[one])));
    }
    let list: Vec<String> = read(value, "stop", "a string or a list of strings")?;
    Ok((!list.is_empty()).then(|| value.clone()))
}

/// The schema that the answer has to follow, if there is one.
fn output_format(format: &Raw) -> Result<Option<Raw>, Invalid> {
    const AT: &str = "response_format";
    let fields = Fields::parse(format.bytes()).map_err(|_| Invalid::value(AT, "expected an object"))?;
    match fields.get("type").and_then(text).as_deref() {
        Some("text") => Ok(None),
        Some("json_schema") => {
            let inner = fields.given("json_schema").and_then(|inner| Fields::parse(inner.bytes()).ok());
            let schema = inner.as_ref().and_then(|inner| inner.given("schema"));
            let schema = schema.ok_or_else(|| Invalid::missing(format!("{AT}.json_schema.schema")))?;
            let mut out = Fields::default();
            out.set("type", Raw::of("json_schema"));
            out.set("schema", schema.clone());
            Ok(Some(out.to_raw()))
        }
        Some("json_object") => {
            Err(Invalid::value(AT, "this model has no json_object; give a schema with json_schema"))
        }
        _ => Err(Invalid::value(AT, "expected the type text or json_schema")),
    }
}

/// Who the client says its user is.
fn user_id(fields: &Fields) -> Result<Option<String>, Invalid> {
    for name in ["safety_identifier", "user"] {
        if let Some(value) = fields.given(name) {
            return read(value, name, "a string").map(Some);
        }
    }
    let metadata = fields.given("metadata").and_then(|metadata| Fields::parse(metadata.bytes()).ok());
    Ok(metadata.and_then(|metadata| text(metadata.given("user_id")?)))
}

/// Tokens of thoughts for OpenAI's words for them.
fn effort(value: &Raw) -> Result<Option<u64>, Invalid> {
    let budget = match text(value).as_deref() {
        Some("none") => return Ok(None),
        Some("minimal") => 1_024,
        Some("low") => 2_048,
        Some("medium") => 8_192,
        Some("high") => 16_384,
        Some("xhigh" | "max") => 32_768,
        _ => {
            let known = "expected one of none, minimal, low, medium, high, xhigh, max";
            return Err(Invalid::value("reasoning_effort", known));
        }
    };
    Ok(Some(budget))
}

/// The least that thoughts may have, in tokens.
const LEAST_BUDGET: u64 = 1_024;

/// How many tokens thoughts may have within an answer of `max_output`: half of it at most, so that there is room to
/// say something. `None` where that is too little.
pub fn thinking_budget(effort: u64, max_output: u64) -> Option<u64> {
    Some(effort.min(max_output / 2)).filter(|budget| *budget >= LEAST_BUDGET)
}

/// What a model that thinks does not take: any temperature but its own, `top_k`, a narrow `top_p`.
pub fn fits_thinking(name: &str, value: &Raw) -> bool {
    match name {
        "temperature" | "top_k" => false,
        "top_p" => number(value).is_some_and(|share| share >= 0.95),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(&Bytes::from(text.to_owned())).expect("an object")
    }

    fn passed(text: &str) -> String {
        Options::read(&fields(text)).expect("fields").passed.to_raw().text().into_owned()
    }

    fn param(text: &str) -> String {
        Options::read(&fields(text)).expect_err("refused").param.unwrap_or_default()
    }

    #[test]
    fn each_field_goes_out_in_claude_s_words() {
        for (sent, expected) in [
            (
                r#"{"temperature":0.70,"top_p":0.9,"top_k":5}"#,
                r#"{"temperature":0.70,"top_p":0.9,"top_k":5}"#,
            ),
            (r#"{"temperature":1.5,"top_p":1}"#, r#"{"temperature":1}"#),
            (r#"{"stop":"a"}"#, r#"{"stop_sequences":["a"]}"#),
            (r#"{"stop":["a","b"]}"#, r#"{"stop_sequences":["a","b"]}"#),
            (r#"{"stop":[]}"#, "{}"),
            (r#"{"user":"u","safety_identifier":"s"}"#, r#"{"metadata":{"user_id":"s"}}"#),
            (r#"{"metadata":{"user_id":"m","x":"y"}}"#, r#"{"metadata":{"user_id":"m"}}"#),
            (r#"{"metadata":{"x":"y"}}"#, "{}"),
            (
                r#"{"thinking":{"type":"adaptive"},"x_new":[1.50]}"#,
                r#"{"thinking":{"type":"adaptive"},"x_new":[1.50]}"#,
            ),
            (r#"{"service_tier":"default","top_k":null}"#, "{}"),
        ] {
            assert_eq!(passed(sent), expected, "{sent}");
        }
    }

    #[test]
    fn what_cannot_change_the_answer_is_left_out() {
        let harmless = r#"{"stream_options":{},"store":true,"seed":1,"prediction":{},"prompt_cache_key":"k","n":1,
            "logprobs":false,"top_logprobs":0,"presence_penalty":0,"frequency_penalty":0.0,"logit_bias":{},
            "verbosity":"medium","modalities":["text"],"response_format":{"type":"text"},"seed":null}"#;
        assert_eq!(passed(harmless), "{}");
    }

    #[test]
    fn what_would_change_the_answer_or_its_price_is_named() {
        for (name, value) in [
            ("n", "2"),
            ("logprobs", "true"),
            ("top_logprobs", "3"),
            ("presence_penalty", "0.1"),
            ("frequency_penalty", "-1"),
            ("logit_bias", r#"{"1":2}"#),
            ("verbosity", "\"low\""),
            ("moderation", "{}"),
            ("functions", "[]"),
            ("function_call", "\"auto\""),
            ("system", "\"x\""),
            ("audio", "{}"),
            ("web_search_options", "{}"),
            ("cache_control", "{}"),
            ("speed", "\"fast\""),
            ("service_tier", "\"priority\""),
            ("modalities", r#"["text","audio"]"#),
            ("response_format", r#"{"type":"json_object"}"#),
            ("reasoning_effort", "\"ultra\""),
            ("stop", "7"),
            ("user", "7"),
            ("parallel_tool_calls", "\"no\""),
        ] {
            assert_eq!(param(&format!("{{\"{name}\":{value}}}")), name, "{name}: {value}");
        }
        assert_eq!(param(r#"{"stop":"a","stop_sequences":["b"]}"#), "stop_sequences");
        let without = r#"{"response_format":{"type":"json_schema","json_schema":{"name":"n"}}}"#;
        assert_eq!(param(without), "response_format.json_schema.schema");
    }

    #[test]
    fn a_schema_of_the_answer_joins_what_else_is_said_of_it() {
        let sent = r#"{"output_config":{"effort":"low"},"response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"b":1.50}}}}"#;
        let expected =
            r#"{"output_config":{"effort":"low","format":{"type":"json_schema","schema":{"b":1.50}}}}"#;
        assert_eq!(passed(sent), expected);
    }

    #[test]
    fn thoughts_leave_room_for_the_answer() {
        let budget = |word: &str, most| {
            let effort = Options::read(&fields(&format!("{{\"reasoning_effort\":\"{word}\"}}")))
                .expect("an effort")
                .effort;
            effort.and_then(|effort| thinking_budget(effort, most))
        };
        assert_eq!(budget("medium", 100_000), Some(8_192));
        assert_eq!(budget("max", 4_096), Some(2_048));
        assert_eq!(budget("high", 2_047), None);
        assert_eq!(budget("minimal", 2_048), Some(1_024));
        assert_eq!(budget("none", 100_000), None);
    }
}
