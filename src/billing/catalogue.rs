//! What well-known models cost and hold, so that a new server has prices to start from.
//!
//! A starting point, not a promise: `switchboard price set` replaces what a provider has changed.

use crate::billing::money::Nanos;
use crate::billing::price::Price;
use crate::clock::EpochMs;
use crate::id::PriceId;

/// Bound of an answer where nobody named one and the catalogue does not know the model, in tokens.
pub const DEFAULT_MAX_OUTPUT: u64 = 4_096;
/// The least that a bound nobody named is lowered to, in tokens.
pub const LEAST_MAX_OUTPUT: u64 = 256;
/// The most tokens that one image, sound or file is taken to be.
pub const TOKENS_PER_MEDIUM: u64 = 4_096;

/// What is known of a model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Its name, without a provider.
    pub name: &'static str,
    /// Cents per million prompt tokens, cached prompt tokens and tokens of the answer, times a hundred.
    prices: [i64; 3],
    /// Size of its window, in tokens.
    pub context: u64,
    /// Bound of an answer where nobody names one, in tokens.
    pub default_output: u64,
}

const fn model(name: &'static str, prices: [i64; 3], context: u64, default_output: u64) -> Model {
    Model { name, prices, context, default_output }
}

/// Prices in hundredths of a cent per million tokens.
const MODELS: [Model; 18] = [
    model("gpt-5", [12_500, 1_250, 100_000], 400_000, 16_384),
    model("gpt-5-mini", [2_500, 250, 20_000], 400_000, 16_384),
    model("gpt-5-nano", [500, 50, 4_000], 400_000, 16_384),
    model("gpt-4.1", [20_000, 5_000, 80_000], 1_047_576, 8_192),
    model("gpt-4.1-mini", [4_000, 1_000, 16_000], 1_047_576, 8_192),
    model("gpt-4.1-nano", [1_000, 250, 4_000], 1_047_576, 8_192),
    model("gpt-4o", [25_000, 12_500, 100_000], 128_000, 4_096),
    model("gpt-4o-mini", [1_500, 750, 6_000], 128_000, 4_096),
    model("gpt-3.5-turbo", [5_000, 5_000, 15_000], 16_385, 4_096),
    model("o3", [20_000, 5_000, 80_000], 200_000, 16_384),
    model("o3-mini", [11_000, 5_500, 44_000], 200_000, 16_384),
    model("o4-mini", [11_000, 2_750, 44_000], 200_000, 16_384),
    model("claude-opus-4-5", [50_000, 5_000, 250_000], 200_000, 4_096),
    model("claude-opus-4-1", [150_000, 15_000, 750_000], 200_000, 4_096),
    model("claude-sonnet-4-5", [30_000, 3_000, 150_000], 200_000, 4_096),
    model("claude-haiku-4-5", [10_000, 1_000, 50_000], 200_000, 4_096),
    model("deepseek-chat", [2_700, 700, 11_000], 128_000, 4_096),
    model("demo", [1_000, 1_000, 4_000], 32_768, 1_024),
];

/// What is known of `model`; a provider in front of the name does not matter, nor the day of its release after it, as
/// in `claude-sonnet-4-5-20250929`.
pub fn find(model: &str) -> Option<&'static Model> {
    let bare = model.rsplit('/').next().unwrap_or(model);
    let day = |tail: &str| tail.len() == 8 && tail.bytes().all(|digit| digit.is_ascii_digit());
    let undated = bare.rsplit_once('-').filter(|(_, tail)| day(tail)).map_or(bare, |(name, _)| name);
    MODELS.iter().find(|known| known.name == undated)
}

/// The price to start with, and whether the catalogue knew it: else 1 USD in and 2 USD out per million tokens.
pub fn starting_price(model: &str, now: EpochMs) -> (Price, bool) {
    let known = find(model);
    let [input, cached_input, output] = known.map_or([10_000, 10_000, 20_000], |known| known.prices);
    let nanos = |hundredths: i64| Nanos(hundredths * 100_000);
    let price = Price {
        id: PriceId::random(),
        model: model.to_owned(),
        effective_from: now,
        input: nanos(input),
        cached_input: nanos(cached_input),
        output: nanos(output),
        per_request: Nanos::ZERO,
    };
    (price, known.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_costs_one_and_two_dollars() {
        let (price, known) = starting_price("anything", 0);
        assert!(!known);
        assert_eq!((price.input, price.output), (Nanos::DOLLAR, Nanos(2_000_000_000)));
    }

    #[test]
    fn the_day_of_a_release_does_not_matter() {
        let name = |model: &str| find(model).map(|known| known.name);
        assert_eq!(name("anthropic/claude-sonnet-4-5-20250929"), Some("claude-sonnet-4-5"));
        for other in ["claude-sonnet-4-5-2025092", "claude-sonnet-4-5-latest", "claude-20250929"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn a_known_model_is_found_behind_its_provider() {
        let (price, known) = starting_price("openai/gpt-4o-mini", 0);
        assert!(known);
        assert_eq!(price.input, Nanos(150_000_000));
        assert_eq!(price.output, Nanos(600_000_000));
    }
}
