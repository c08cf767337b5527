//! What a webhook tells: plain data.

use serde_json::{Value, json};

use crate::billing::money::Nanos;
use crate::clock::{EpochMs, rfc3339};
use crate::id::EventId;

/// What can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The balance crossed a threshold downwards.
    BalanceLow,
    /// The balance did not cover a request.
    BalanceExhausted,
    /// A key's budget did not cover a request.
    BudgetExceeded,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BalanceLow, Self::BalanceExhausted, Self::BudgetExceeded];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BalanceLow => "balance.low",
            Self::BalanceExhausted => "balance.exhausted",
            Self::BudgetExceeded => "budget.exceeded",
        }
    }

    /// The kind of that word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Something that happened, ready to be sent.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its id, by which a receiver knows one that comes again.
    pub id: EventId,
    /// What it is.
    pub kind: Kind,
    /// The body of the request: JSON.
    pub body: String,
}

impl Event {
    fn new(kind: Kind, now: EpochMs, data: Value) -> Self {
        let id = EventId::random();
        let body = json!({"type": kind.as_str(), "id": id.as_str(), "timestamp": rfc3339(now), "data": data});
        Self { id, kind, body: body.to_string() }
    }

    /// The balance fell to `threshold` or below.
    pub fn balance_low(
        account: &str,
        balance: Nanos,
        available: Nanos,
        threshold: Nanos,
        now: EpochMs,
    ) -> Self {
        let data = json!({
            "account_id": account,
            "balance": balance.to_string(),
            "available": available.to_string(),
            "threshold": threshold.to_string(),
        });
        Self::new(Kind::BalanceLow, now, data)
    }

    /// What is `available` does not cover what is `needed`.
    pub fn balance_exhausted(account: &str, available: Nanos, needed: Nanos, now: EpochMs) -> Self {
        let data = json!({
            "account_id": account,
            "available": available.to_string(),
            "needed": needed.to_string(),
        });
        Self::new(Kind::BalanceExhausted, now, data)
    }

    /// What is left of a key's budget does not cover a request.
    pub fn budget_exceeded(account: &str, key: &str, budget: Value, now: EpochMs) -> Self {
        let data = json!({"account_id": account, "key_id": key, "budget": budget});
        Self::new(Kind::BudgetExceeded, now, data)
    }
}
