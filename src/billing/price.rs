//! Prices: what a turn costs, what it may cost at most.

use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashMap;

use crate::billing::money::Nanos;
use crate::clock::EpochMs;
use crate::conversation::usage::Usage;
use crate::id::PriceId;

const MILLION: i128 = 1_000_000;

/// One row of the price list: immutable, in force from a moment until the next row of its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// The row.
    pub id: PriceId,
    /// The model, as agents name it: `provider/model`, or bare.
    pub model: String,
    /// In force from here on.
    pub effective_from: EpochMs,
    /// Per million prompt tokens.
    pub input: Nanos,
    /// Per million prompt tokens that the provider had in its cache.
    pub cached_input: Nanos,
    /// Per million tokens of the answer.
    pub output: Nanos,
    /// Per request.
    pub per_request: Nanos,
}

impl Price {
    /// What `usage` costs, rounded up once. `None` if it does not fit in [`Nanos`].
    pub fn cost(&self, usage: Usage) -> Option<Nanos> {
        let fresh = usage.prompt.saturating_sub(usage.cached);
        self.rounded(&[(fresh, self.input), (usage.cached, self.cached_input), (usage.output, self.output)])
    }

    /// The most that a call may cost: every prompt token at the dearer input price, `n` answers at full length.
    pub fn worst_case(&self, prompt_max: u64, n: u64, max_output: u64) -> Option<Nanos> {
        let output = n.checked_mul(max_output)?;
        self.rounded(&[(prompt_max, self.input.max(self.cached_input)), (output, self.output)])
    }

    /// The longest answers (of `n`) that `amount` affords after `prompt_max` tokens of prompt.
    pub fn affordable_output(&self, amount: Nanos, prompt_max: u64, n: u64) -> u64 {
        let input = i128::from(self.input.max(self.cached_input).0);
        let left = i128::from(amount.0) - i128::from(self.per_request.0);
        let left = left * MILLION - i128::from(prompt_max) * input;
        let each = i128::from(n.max(1)) * i128::from(self.output.0);
        match (left < 0, each) {
            (true, _) => 0,
            (false, 0) => u64::MAX,
            (false, each) => u64::try_from(left / each).unwrap_or(u64::MAX),
        }
    }

    /// Whether the cost of `usage` comes out in whole nano-dollars.
    pub fn is_exact(&self, usage: Usage) -> bool {
        let fresh = usage.prompt.saturating_sub(usage.cached);
        let parts = [(fresh, self.input), (usage.cached, self.cached_input), (usage.output, self.output)];
        parts.iter().map(|(tokens, price)| i128::from(*tokens) * i128::from(price.0) % MILLION).sum::<i128>()
            % MILLION
            == 0
    }

    fn rounded(&self, parts: &[(u64, Nanos)]) -> Option<Nanos> {
        let millionths = parts.iter().try_fold(0i128, |sum, (tokens, price)| {
            sum.checked_add(i128::from(*tokens).checked_mul(i128::from(price.0))?)
        })?;
        let nanos = millionths.checked_add(MILLION - 1)? / MILLION + i128::from(self.per_request.0);
        i64::try_from(nanos).ok().map(Nanos)
    }
}

/// How a settled charge is split when the account cannot pay all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// What the account pays.
    pub charged: Nanos,
    /// What the operator bears.
    pub written_off: Nanos,
}

/// The account pays from the hold and, beyond it, from what is available; never more.
pub fn split(cost: Nanos, held: Nanos, available: Nanos) -> Split {
    let payable = Nanos(held.0.saturating_add(available.0));
    let charged = cost.min(payable);
    Split { charged, written_off: Nanos(cost.0 - charged.0) }
}

/// The price list in memory. Cheap to clone; all clones see a change at once.
#[derive(Clone, Default)]
pub struct PriceBook(Arc<RwLock<HashMap<String, Vec<Arc<Price>>>>>);

impl PriceBook {
    /// Adds a row.
    pub fn add(&self, price: Price) {
        let mut book = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let rows = book.entry(price.model.clone()).or_default();
        let at = rows.partition_point(|row| row.effective_from <= price.effective_from);
        rows.insert(at, Arc::new(price));
    }

    /// The row of `model` in force at `now`.
    pub fn current(&self, model: &str, now: EpochMs) -> Option<Arc<Price>> {
        let book = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let rows = book.get(model)?;
        let after = rows.partition_point(|row| row.effective_from <= now);
        rows.get(after.checked_sub(1)?).cloned()
    }

    /// All rows, by model, oldest first.
    pub fn all(&self) -> Vec<Arc<Price>> {
        let book = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = book.values().flatten().cloned().collect();
        rows.sort_by(|a, b| (&a.model, a.effective_from).cmp(&(&b.model, b.effective_from)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(input: i64, cached_input: i64, output: i64, per_request: i64) -> Price {
        Price {
            id: "price_1".into(),
            model: "m".to_owned(),
            effective_from: 0,
            input: Nanos(input),
            cached_input: Nanos(cached_input),
            output: Nanos(output),
            per_request: Nanos(per_request),
        }
    }

    #[test]
    fn a_cost_is_rounded_up_once() {
        let price = price(18_750_000, 18_750_000, 18_750_000, 0);
        let usage = Usage { prompt: 1, cached: 0, output: 0 };
        assert_eq!(price.cost(usage), Some(Nanos(19)));
        let usage = Usage { prompt: 1, cached: 1, output: 3 };
        assert_eq!(price.cost(usage), Some(Nanos(75)));
    }

    #[test]
    fn cached_tokens_have_their_own_price() {
        let price = price(1_000_000, 100_000, 2_000_000, 7);
        let usage = Usage { prompt: 100, cached: 40, output: 10 };
        assert_eq!(price.cost(usage), Some(Nanos(60 + 4 + 20 + 7)));
    }

    #[test]
    fn what_is_affordable_is_the_inverse_of_the_worst_case() {
        let price = price(1_500_000, 100_000, 2_300_000, 11);
        for amount in [0, 11, 500, 12_345, 999_999] {
            let output = price.affordable_output(Nanos(amount), 100, 2);
            if output > 0 {
                assert!(price.worst_case(100, 2, output).expect("fits") <= Nanos(amount));
            }
            assert!(price.worst_case(100, 2, output + 1).expect("fits") > Nanos(amount));
        }
    }

    #[test]
    fn an_absurd_usage_does_not_overflow() {
        let price = price(i64::MAX, i64::MAX, i64::MAX, i64::MAX);
        assert_eq!(price.cost(Usage { prompt: u64::MAX, cached: 0, output: u64::MAX }), None);
    }

    #[test]
    fn the_operator_bears_what_the_account_cannot_pay() {
        let all = split(Nanos(10), Nanos(4), Nanos(20));
        assert_eq!(all, Split { charged: Nanos(10), written_off: Nanos(0) });
        let part = split(Nanos(10), Nanos(4), Nanos(1));
        assert_eq!(part, Split { charged: Nanos(5), written_off: Nanos(5) });
    }

    #[test]
    fn the_newest_row_in_force_counts() {
        let book = PriceBook::default();
        for (id, from) in [("c", 30), ("a", 10), ("b", 20)] {
            book.add(Price { id: id.into(), effective_from: from, ..price(1, 1, 1, 0) });
        }
        let id = |now| book.current("m", now).map(|row| row.id.to_string());
        assert_eq!(id(9), None);
        assert_eq!(id(10).as_deref(), Some("a"));
        assert_eq!(id(29).as_deref(), Some("b"));
        assert_eq!(id(1_000).as_deref(), Some("c"));
    }
}
