//! Tokens: how many a turn took, and who counted them.

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
