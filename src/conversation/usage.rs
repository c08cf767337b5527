//! Tokens: how many a turn took, and who counted them.

use serde::Deserialize;

/// Tokens of one provider call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt: u64,
    /// Those of the prompt that the provider had in its cache.
    pub cached: u64,
    /// Tokens of the answer, reasoning included.
    pub output: u64,
}

impl Usage {
    /// Prompt and output together.
    pub fn total(&self) -> u64 {
        self.prompt.saturating_add(self.output)
    }
}

/// Who counted the tokens of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageSource {
    /// The provider told.
    Upstream,
    /// The provider told nothing, or nonsense: counted from the text.
    Local,
    /// From the marks of a call that nobody saw end.
    Recovered,
}

impl UsageSource {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Local => "local",
            Self::Recovered => "recovered",
        }
    }
}

/// How much of an answer is counted.
pub enum Counted {
    /// All of it.
    All(Usage),
    /// The count of the answer is `null`: it is yet to come.
    Prompt(Usage),
}

/// Usage as OpenAI and its likes tell it. `None` if a number is missing, negative or no integer.
pub fn read_usage(text: &str) -> Option<Counted> {
    #[derive(Deserialize)]
    struct Told {
        prompt_tokens: u64,
        #[serde(default = "nothing")]
        completion_tokens: Option<u64>,
        prompt_tokens_details: Option<Details>,
        prompt_cache_hit_tokens: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Details {
        cached_tokens: Option<u64>,
    }
    fn nothing() -> Option<u64> {
        Some(0)
    }
    let told: Told = serde_json::from_str(text).ok()?;
    let cached = told.prompt_tokens_details.and_then(|details| details.cached_tokens);
    let cached = cached.or(told.prompt_cache_hit_tokens).unwrap_or(0).min(told.prompt_tokens);
    let usage = Usage { prompt: told.prompt_tokens, cached, output: told.completion_tokens.unwrap_or(0) };
    Some(if told.completion_tokens.is_some() { Counted::All(usage) } else { Counted::Prompt(usage) })
}
