//! Tools, and which of them may be called.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::Invalid;
use crate::json::{Fields, Raw};
use crate::provider::anthropic::blocks::Text;

/// A tool that the model may call.
#[derive(Debug, Serialize)]
pub struct Tool<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<Cow<'a, str>>,
    /// What it takes.
    input_schema: Box<RawValue>,
    /// Whether its arguments follow the schema to the letter.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    strict: bool,
}

impl<'a> Tool<'a> {
    /// A tool of which nothing but the name is known.
    pub fn named(name: &'a str) -> Self {
        Self { name: Cow::Borrowed(name), description: None, input_schema: schema(None), strict: false }
    }
}

/// Which tools may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Any, or none.
    Auto,
    /// None.
    None,
    /// At least one.
    Any,
    /// This one.
    Named(String),
}

impl Choice {
    /// As Messages say it.
    pub fn to_json(&self, parallel: bool) -> Value {
        let mut choice = match self {
            Self::Auto => json!({"type": "auto"}),
            Self::None => return json!({"type": "none"}),
            Self::Any => json!({"type": "any"}),
            Self::Named(name) => json!({"type": "tool", "name": name}),
        };
        if !parallel {
            choice["disable_parallel_tool_use"] = true.into();
        }
        choice
    }

    /// Whether a tool has to be called.
    pub fn forces(&self) -> bool {
        matches!(self, Self::Any | Self::Named(_))
    }
}

#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    description: Option<Text<'a>>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    strict: Option<bool>,
}

/// Reads `tools`.
///
/// # Errors
/// Names the tool that is no function.
pub fn read_tools(raw: &Raw) -> Result<Vec<Tool<'_>>, Invalid> {
    let list: Vec<&RawValue> = raw.peek().map_err(|_| Invalid::value("tools", "expected a list of tools"))?;
    list.into_iter().enumerate().map(|(at, tool)| read_tool(tool, at)).collect()
}

fn read_tool(tool: &RawValue, at: usize) -> Result<Tool<'_>, Invalid> {
    let path = |field: &str| format!("tools[{at}]{field}");
    let sent: Sent<'_> =
        serde_json::from_str(tool.get()).map_err(|_| Invalid::value(path(""), "expected a tool"))?;
    if sent.kind.is_some_and(|kind| kind.0 != "function") {
        return Err(Invalid::value(path(".type"), "this model knows the type `function` alone"));
    }
    let function = sent.function.ok_or_else(|| Invalid::missing(path(".function")))?;
    let function: Function<'_> = serde_json::from_str(function.get())
        .map_err(|cause| Invalid::value(path(".function"), format_args!("expected a function ({cause})")))?;
    Ok(Tool {
        name: function.name.0,
        description: function.description.map(|text| text.0).filter(|text| !text.is_empty()),
        input_schema: schema(function.parameters),
        strict: function.strict == Some(true),
    })
}

/// A schema that says it is one of an object, which Messages demand.
fn schema(parameters: Option<&RawValue>) -> Box<RawValue> {
    let given = parameters.map_or("null", RawValue::get);
    let fields = Fields::parse(&Bytes::copy_from_slice(given.as_bytes())).unwrap_or_default();
    if let Some(parameters) = parameters
        && fields.get("type").is_some()
    {
        return parameters.to_owned();
    }
    let mut typed = Fields::default();
    typed.set("type", Raw::of("object"));
    typed.set("properties", Raw::of(&json!({})));
    fields.iter().for_each(|(name, value)| typed.set(name, value.clone()));
    RawValue::from_string(typed.to_raw().text().into_owned()).unwrap_or_default()
}

/// Reads `tool_choice`. `None` where there is nothing to choose from.
///
/// # Errors
/// When it demands what there is not.
pub fn read_choice(raw: &Raw, tools: &[Tool<'_>]) -> Result<Option<Choice>, Invalid> {
    const AT: &str = "tool_choice";
    let value: Value = raw.read().unwrap_or_default();
    let choice = match (value.as_str(), value["type"].as_str(), value["function"]["name"].as_str()) {
        (Some("auto"), ..) => Choice::Auto,
        (Some("none"), ..) => Choice::None,
        (Some("required"), ..) => Choice::Any,
        (None, Some("function"), Some(name)) => Choice::Named(name.to_owned()),
        _ => return Err(Invalid::value(AT, "expected none, auto, required, or a function by its name")),
    };
    match &choice {
        Choice::Any if tools.is_empty() => Err(Invalid::value(AT, "there are no tools to choose from")),
        Choice::Named(name) if tools.iter().all(|tool| tool.name != name.as_str()) => {
            Err(Invalid::value(AT, format_args!("there is no tool `{name}`")))
        }
        _ => Ok(Some(choice).filter(|_| !tools.is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(list: &str) -> Result<String, String> {
        let raw = Raw::trusted(list.to_owned());
        let read = read_tools(&raw).map_err(|invalid| invalid.param.unwrap_or_default())?;
        Ok(serde_json::to_string(&read).expect("JSON"))
    }

    #[test]
    fn a_function_keeps_its_schema_to_the_letter() {
        let sent = r#"[{"type":"function","function":{"name":"f","description":"d","strict":true,"parameters":{"type":"object","properties":{"z":{"maximum":1.50},"a":{}}}}}]"#;
        let expected = r#"[{"name":"f","description":"d","input_schema":{"type":"object","properties":{"z":{"maximum":1.50},"a":{}}},"strict":true}]"#;
        assert_eq!(tools(sent).as_deref(), Ok(expected));
    }

    #[test]
    fn a_function_without_a_schema_takes_nothing() {
        let nothing = r#"[{"name":"f","input_schema":{"type":"object","properties":{}}}]"#;
        for function in [r#"{"name":"f"}"#, r#"{"name":"f","parameters":{},"strict":false,"description":""}"#]
        {
            assert_eq!(
                tools(&format!("[{{\"function\":{function}}}]")).as_deref(),
                Ok(nothing),
                "{function}"
            );
        }
    }

    #[test]
    fn what_is_no_function_is_named() {
        for (list, name) in [
            ("{}", "tools"),
            ("[7]", "tools[0]"),
            (
                r#"[{"type":"function","function":{"name":"f"}},{"type":"custom","custom":{"name":"c"}}]"#,
                "tools[1].type",
            ),
            (r#"[{"type":"web_search_20250305","name":"web_search"}]"#, "tools[0].type"),
            (r#"[{"type":"function"}]"#, "tools[0].function"),
            (r#"[{"type":"function","function":{}}]"#, "tools[0].function"),
        ] {
            assert_eq!(tools(list), Err(name.to_owned()), "{list}");
        }
    }

    #[test]
    fn a_choice_has_to_be_there() {
        let tool = [Tool::named("f")];
        let choice = |text: &str, tools: &[Tool<'_>]| read_choice(&Raw::trusted(text.to_owned()), tools).ok();
        assert_eq!(choice("\"auto\"", &tool), Some(Some(Choice::Auto)));
        assert_eq!(choice("\"none\"", &tool), Some(Some(Choice::None)));
        assert_eq!(choice("\"required\"", &tool), Some(Some(Choice::Any)));
        let named = r#"{"type":"function","function":{"name":"f"}}"#;
        assert_eq!(choice(named, &tool), Some(Some(Choice::Named("f".to_owned()))));
        assert_eq!(choice("\"auto\"", &[]), Some(None));
        for refused in ["\"required\"", named] {
            assert_eq!(choice(refused, &[]), None, "{refused}");
        }
        for refused in
            ["7", "\"x\"", r#"{"type":"custom","custom":{"name":"f"}}"#, r#"{"type":"allowed_tools"}"#]
        {
            assert_eq!(choice(refused, &tool), None, "{refused}");
        }
    }

    #[test]
    fn one_call_at_a_time_is_part_of_the_choice() {
        assert_eq!(Choice::Any.to_json(true), json!({"type": "any"}));
        assert_eq!(Choice::Auto.to_json(false), json!({"type": "auto", "disable_parallel_tool_use": true}));
        assert_eq!(Choice::None.to_json(false), json!({"type": "none"}));
        let named = json!({"type": "tool", "name": "f", "disable_parallel_tool_use": true});
        assert_eq!(Choice::Named("f".to_owned()).to_json(false), named);
    }
}
