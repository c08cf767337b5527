//! A configured assistant: what a tenant sets once and every turn starts from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::EpochMs;
use crate::error::Invalid;
use crate::id::{AccountId, AgentId};

/// The longest name of an agent, in bytes.
pub const MAX_NAME: usize = 256;
/// The most fallbacks of an agent.
pub const MAX_FALLBACKS: usize = 8;
/// The smallest window in which a summary has room, in tokens.
pub const LEAST_SUMMED_UP: u64 = 1_024;
/// The longest instructions, in bytes.
pub const MAX_INSTRUCTIONS: usize = 256 * 1024;

/// An agent as its owner defined it.
#[derive(Clone, Debug)]
pub struct Agent {
    /// What clients name as `model`.
    pub id: AgentId,
    /// The owner.
    pub account: AccountId,
    /// What it is.
    pub definition: Definition,
    /// When it was made.
    pub created_at: EpochMs,
    /// When it was last changed.
    pub updated_at: EpochMs,
}

/// What a tenant says of an agent. The names are those of the API; it is kept as this JSON document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "AgentDefinition", extend("additionalProperties" = false))]
pub struct Definition {
    /// For people.
    #[schemars(length(min = 1, max = MAX_NAME))]
    pub name: String,
    /// `provider/model`, or a bare name; empty for whatever is the first provider's own model.
    pub model: String,
    /// The first message of every prompt.
    #[schemars(length(max = MAX_INSTRUCTIONS))]
    pub instructions: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// 0 to 2.
    #[schemars(range(min = 0, max = 2))]
    pub temperature: Option<f64>,
    /// Default bound of an answer, in tokens.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u64>,
    /// Any further fields for the provider.
    pub parameters: Map<String, Value>,
    /// Models to try when the first one fails.
    pub fallbacks: Vec<String>,
    /// Size of the window that history has to fit, in tokens.
    #[schemars(range(min = 1))]
    pub context_tokens: Option<u64>,
    /// What becomes of the turns that do not fit into it.
    pub context: Context,
    /// Idle seconds after which a session is closed.
    #[schemars(range(min = 1))]
    pub expires_after: Option<u64>,
    /// Names that a request may not override.
    pub locked: Vec<String>,
    /// The tenant's own notes.
    pub metadata: Map<String, Value>,
}

/// What becomes of the turns that do not fit into a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// They are left out.
    #[default]
    Truncate,
    /// A summary stands for them.
    Summarize,
}

/// Fields that `parameters` may not set, since they have a place of their own or are ours.
const NOT_PARAMETERS: [&str; 10] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "n",
    "session_id",
    "agent_id",
    "stream_format",
    "max_tokens",
    "max_completion_tokens",
];

impl Definition {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// Names the field that is wrong and what was expected.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.name.trim().is_empty() {
            return Err(Invalid::missing("name"));
        }
        if self.name.len() > MAX_NAME {
            return Err(Invalid::value("name", format_args!("expected at most {MAX_NAME} bytes")));
        }
        if self.instructions.as_ref().is_some_and(|text| text.len() > MAX_INSTRUCTIONS) {
            let expected = format_args!("expected at most {MAX_INSTRUCTIONS} bytes").to_string();
            return Err(Invalid::value("instructions", expected));
        }
        if self.temperature.is_some_and(|value| !(0.0..=2.0).contains(&value)) {
            return Err(Invalid::value("temperature", "expected a number from 0 to 2"));
        }
        for (name, value) in [
            ("max_tokens", self.max_tokens),
            ("context_tokens", self.context_tokens),
            ("expires_after", self.expires_after),
        ] {
            if value == Some(0) {
                return Err(Invalid::value(name, "expected a whole number above 0"));
            }
        }
        if self.context == Context::Summarize && self.context_tokens.is_none_or(|most| most < LEAST_SUMMED_UP)
        {
            let expected = format_args!("expected at least {LEAST_SUMMED_UP} where `context` is `summarize`");
            return Err(Invalid::value("context_tokens", expected));
        }
        if self.fallbacks.len() > MAX_FALLBACKS {
            return Err(Invalid::value("fallbacks", format_args!("expected at most {MAX_FALLBACKS} models")));
        }
        if let Some(at) = self.fallbacks.iter().position(|model| model.trim().is_empty()) {
            return Err(Invalid::value(format!("fallbacks[{at}]"), "expected the name of a model"));
        }
        if let Some(name) = self.parameters.keys().find(|name| NOT_PARAMETERS.contains(&name.as_str())) {
            return Err(Invalid::value(format!("parameters.{name}"), "this field cannot be a parameter"));
        }
        Ok(())
    }

    /// Its model and what is tried after it.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.model).chain(&self.fallbacks).map(String::as_str)
    }

    /// The provider fields that a request starts from.
    pub fn defaults(&self) -> impl Iterator<Item = (&str, Value)> {
        let own = [
            ("temperature", self.temperature.map(Value::from)),
            ("max_tokens", self.max_tokens.map(Value::from)),
        ];
        let parameters = self.parameters.iter().map(|(name, value)| (name.as_str(), value.clone()));
        parameters.chain(own.into_iter().filter_map(|(name, value)| Some((name, value?))))
    }

    /// Whether a request may set `name`. The two spellings of the output bound are one name.
    pub fn locks(&self, name: &str) -> bool {
        let same = |own: &String| *own == name || (is_output_bound(own) && is_output_bound(name));
        self.locked.iter().any(same)
    }
}

fn is_output_bound(name: &str) -> bool {
    matches!(name, "max_tokens" | "max_completion_tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_enough() {
        let named: Definition = serde_json::from_str(r#"{"name":"a"}"#).expect("a definition");
        assert_eq!(named.check(), Ok(()));
        assert_eq!(Definition::default().check().expect_err("no name").param.as_deref(), Some("name"));
    }

    #[test]
    fn a_lock_on_the_output_bound_covers_both_spellings() {
        let locked = Definition { locked: vec!["max_tokens".to_owned()], ..Definition::default() };
        assert!(locked.locks("max_completion_tokens"));
        assert!(!locked.locks("temperature"));
    }
}
