//! How many tokens a text is likely to be: bytes per token, learned per model from what its provider reports.
//!
//! For fitting prompts into windows, where a guess will do. Money is never guessed from this.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

/// What a token is taken for before anything is known, in bytes.
const FIRST_GUESS: u64 = 4;
/// A token has at least so many bytes on average, and at most.
const LEAST: u64 = 1;
const MOST: u64 = 8;
/// The first guess weighs as much as so many tokens that were counted.
const PRIOR: u64 = 1_000;
/// What was counted longer ago than this many tokens counts half.
const MEMORY: u64 = 200_000;
/// Tokens that a message costs beside its text.
pub const PER_MESSAGE: u64 = 4;
/// Models that are told apart; what comes later is taken for the first guess.
const MODELS: usize = 10_000;

/// Bytes and tokens of the same texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    bytes: u64,
    tokens: u64,
}

impl Default for Ratio {
    fn default() -> Self {
        Self { bytes: PRIOR * FIRST_GUESS, tokens: PRIOR }
    }
}

impl Ratio {
    /// Takes in that so many bytes were so many tokens. What no tokenizer would say counts as its nearest bound.
    pub fn observe(&mut self, bytes: u64, tokens: u64) {
        if bytes == 0 || tokens == 0 {
            return;
        }
        // One text does not outweigh everything before it.
        let tokens = tokens.min(MEMORY);
        let bytes = bytes.clamp(tokens.saturating_mul(LEAST), tokens.saturating_mul(MOST));
        (self.bytes, self.tokens) = (self.bytes + bytes, self.tokens + tokens);
        if self.tokens > MEMORY {
            (self.bytes, self.tokens) = (self.bytes / 2, self.tokens / 2);
        }
    }

    /// How many tokens a text of so many bytes is likely to be.
    pub fn tokens(&self, bytes: u64) -> u64 {
        let scaled = u128::from(bytes) * u128::from(self.tokens);
        u64::try_from(scaled.div_ceil(u128::from(self.bytes))).unwrap_or(u64::MAX)
    }
}

/// The ratios of all models. Cheap to clone; touched twice a turn.
#[derive(Clone, Debug, Default)]
pub struct Ratios(Arc<Mutex<HashMap<String, Ratio>>>);

impl Ratios {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Ratio>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ratio of a model, as it is known now.
    pub fn of(&self, model: &str) -> Scale {
        let ratio = self.lock().get(model).copied().unwrap_or_default();
        Scale { ratios: self.clone(), model: model.to_owned(), ratio }
    }
}

/// The ratio of one model, and where it is learned.
#[derive(Clone, Debug, Default)]
pub struct Scale {
    ratios: Ratios,
    model: String,
    /// As it was known when a prompt was put together.
    pub ratio: Ratio,
}

impl Scale {
    /// Takes in that a prompt of so many messages and bytes was so many tokens.
    pub fn observe(&self, messages: u64, bytes: u64, tokens: u64) {
        let mut known = self.ratios.lock();
        if known.len() < MODELS || known.contains_key(&self.model) {
            let text = tokens.saturating_sub(messages.saturating_mul(PER_MESSAGE));
            known.entry(self.model.clone()).or_default().observe(bytes, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(observed: &[(u64, u64)]) -> Ratio {
        let mut ratio = Ratio::default();
        observed.iter().for_each(|(bytes, tokens)| ratio.observe(*bytes, *tokens));
        ratio
    }

    #[test]
    fn a_token_is_four_bytes_until_more_is_known() {
        assert_eq!([0, 1, 4, 5, 4_000].map(|bytes| Ratio::default().tokens(bytes)), [0, 1, 1, 2, 1_000]);
    }

    #[test]
    fn what_a_provider_reports_is_learned_the_more_it_reports() {
        let little = after(&[(30, 10)]).tokens(12_000);
        let much = after(&[(3_000, 1_000); 100]).tokens(12_000);
        assert!((3_000..3_020).contains(&little), "{little}");
        assert!((3_970..=4_000).contains(&much), "{much}");
    }

    #[test]
    fn a_change_of_the_tokenizer_is_followed() {
        let mut ratio = after(&[(6_000, 1_000); 2_000]);
        assert!(ratio.tokens(12_000) < 2_010);
        (0..1_000).for_each(|_| ratio.observe(2_000, 1_000));
        assert!(ratio.tokens(12_000) > 5_500, "{ratio:?}");
    }

    #[test]
    fn nonsense_is_bounded() {
        for wrong in [(0, 5), (5, 0), (0, 0)] {
            assert_eq!(after(&[wrong]), Ratio::default());
        }
        let huge = after(&[(1, u64::MAX); 50]);
        assert!(huge.tokens(8_000) <= 8_000 / LEAST);
        let tiny = after(&[(u64::MAX, 1_000); 5_000]);
        assert!(tiny.tokens(8_000) >= 8_000 / MOST);
    }

    #[test]
    fn models_are_told_apart() {
        let ratios = Ratios::default();
        for _ in 0..100 {
            ratios.of("dense").observe(1, 2_000, 1_000 + PER_MESSAGE);
        }
        assert!(ratios.of("dense").ratio.tokens(10_000) > 4_500);
        assert_eq!(ratios.of("other").ratio, Ratio::default());
    }
}
