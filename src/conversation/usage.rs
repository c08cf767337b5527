//! Tokens: how many a turn took, and who counted them.

use serde::Deserialize;

use crate::json::{Scan, once};

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
    let told = Scan::of(text.as_bytes(), Told::pass).or_else(|| serde_json::from_str(text).ok());
    told.map(Told::counted)
}

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

/// The counts of usage that is written as most is, taken in field by field.
#[derive(Default)]
pub struct Counter {
    prompt: Option<u64>,
    output: Option<Option<u64>>,
    details: Option<Option<Details>>,
    hit: Option<Option<u64>>,
}

impl Counter {
    /// Passes a field's value.
    pub fn pass(&mut self, scan: &mut Scan<'_>, name: &str) -> Option<()> {
        match name {
            "prompt_tokens" => once(&mut self.prompt, scan.count()?),
            "completion_tokens" => once(&mut self.output, count(scan)?),
            "prompt_tokens_details" => once(&mut self.details, Details::pass(scan)?),
            "prompt_cache_hit_tokens" => once(&mut self.hit, count(scan)?),
            _ => scan.value().map(drop),
        }
    }

    /// What was counted. `None` if a number is missing.
    pub fn counted(self) -> Option<Counted> {
        self.told().map(Told::counted)
    }

    fn told(self) -> Option<Told> {
        Some(Told {
            prompt_tokens: self.prompt?,
            completion_tokens: self.output.unwrap_or_else(nothing),
            prompt_tokens_details: self.details.flatten(),
            prompt_cache_hit_tokens: self.hit.flatten(),
        })
    }
}

impl Told {
    fn pass(scan: &mut Scan<'_>) -> Option<Self> {
        let mut counter = Counter::default();
        scan.object(|scan, name| counter.pass(scan, name))?;
        counter.told()
    }

    fn counted(self) -> Counted {
        let cached = self.prompt_tokens_details.and_then(|details| details.cached_tokens);
        let cached = cached.or(self.prompt_cache_hit_tokens).unwrap_or(0).min(self.prompt_tokens);
        let output = self.completion_tokens.unwrap_or(0);
        let usage = Usage { prompt: self.prompt_tokens, cached, output };
        if self.completion_tokens.is_some() { Counted::All(usage) } else { Counted::Prompt(usage) }
    }
}

impl Details {
    fn pass(scan: &mut Scan<'_>) -> Option<Option<Self>> {
        if scan.null() {
            return Some(None);
        }
        let mut cached = None;
        scan.object(|scan, name| match name {
            "cached_tokens" => once(&mut cached, count(scan)?),
            _ => scan.value().map(drop),
        })?;
        Some(Some(Self { cached_tokens: cached.flatten() }))
    }
}

/// A number or `null`.
fn count(scan: &mut Scan<'_>) -> Option<Option<u64>> {
    if scan.null() { Some(None) } else { scan.count().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::carefully;
    use crate::json::random::{Oddness, Random};

    #[test]
    fn usage_is_the_same_however_it_is_read() {
        let mut counted = 0;
        for seed in 0..30_000 {
            let mut random = Random(seed);
            let how = Oddness::any(&mut random);
            let number = |random: &mut Random| match random.below(8) {
                0 => "null".to_owned(),
                1 => random.value(1, how),
                _ => random.number(how).to_owned(),
            };
            let names = ["prompt_tokens", "completion_tokens", "prompt_cache_hit_tokens", "total_tokens"];
            let mut fields: Vec<(String, String)> = Vec::new();
            for name in names.into_iter().filter(|_| random.chance(85)).collect::<Vec<_>>() {
                fields.push((name.to_owned(), number(&mut random)));
            }
            if random.chance(60) {
                let cached = ("cached_tokens".to_owned(), number(&mut random));
                let details =
                    if random.chance(80) { random.object(&[cached], how) } else { number(&mut random) };
                fields.insert(random.below(fields.len() + 1), ("prompt_tokens_details".to_owned(), details));
            }
            let text = random.object(&fields, how);
            let shown = |counted: Option<Counted>| {
                counted.map(|counted| match counted {
                    Counted::All(usage) => format!("all {usage:?}"),
                    Counted::Prompt(usage) => format!("prompt {usage:?}"),
                })
            };
            let careful = carefully::run(|| shown(read_usage(&text)));
            assert_eq!(shown(read_usage(&text)), careful, "{text}");
            counted += u32::from(careful.is_some());
        }
        assert!(counted > 3_000, "{counted}");
    }
}
