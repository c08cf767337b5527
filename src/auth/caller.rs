//! Who a key stands for, and what it may do.

use crate::auth::api_key::KeyKind;
use crate::billing::money::Nanos;
use crate::clock::{self, EpochMs};
use crate::error::Error;
use crate::id::{AccountId, AgentId, KeyId};
use crate::rate_limit::limits::{Limits, ResolvedLimits};

/// A key that was found and is in force.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key.
    pub key: KeyId,
    /// What the key is for.
    pub kind: KeyKind,
    /// The account, unless the key is the operator's. Empty for the operator.
    pub account: AccountId,
    /// The agent of an agent key.
    pub agent: Option<AgentId>,
    /// What it may do.
    pub scopes: Scopes,
    /// Whether it may stand in a web page.
    pub public: bool,
    /// Whether the account is suspended.
    pub suspended: bool,
    /// When the key ends.
    pub expires_at: Option<EpochMs>,
    /// The key's own limits.
    pub key_limits: ResolvedLimits,
    /// The account's limits.
    pub account_limits: ResolvedLimits,
    /// The key's own budget.
    pub budget: Option<Budget>,
    /// How many changes of keys and accounts there had been when it was looked up.
    pub as_of: u64,
}

impl Caller {
    /// Whether answers tell this key about money.
    pub fn sees_money(&self) -> bool {
        self.scopes.usage_read
    }

    /// Whether the key has ended by `now`.
    pub fn expired(&self, now: EpochMs) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// # Errors
    /// [`Error::AccountSuspended`] if it is.
    pub fn active(&self) -> Result<(), Error> {
        if self.suspended { Err(Error::AccountSuspended) } else { Ok(()) }
    }
}

/// What a key may do. Account keys may do everything unless they were made with scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// Chat.
    pub chat: bool,
    /// Read sessions and their messages.
    pub sessions_read: bool,
    /// See what things cost.
    pub usage_read: bool,
    /// Everything else of the account.
    pub manage: bool,
}

impl Scopes {
    /// The scopes that a key may be given.
    pub const NAMES: [&'static str; 3] = ["chat", "sessions:read", "usage:read"];

    /// The scopes of a key of `kind` that was made with `names`.
    pub fn of(kind: KeyKind, names: &[String]) -> Self {
        let has = |name: &str| names.iter().any(|own| own == name);
        match kind {
            KeyKind::Operator => Self::default(),
            KeyKind::Account if names.is_empty() => {
                Self { chat: true, sessions_read: true, usage_read: true, manage: true }
            }
            KeyKind::Agent if names.is_empty() => Self { chat: true, ..Self::default() },
            KeyKind::Account | KeyKind::Agent => Self {
                chat: has("chat"),
                sessions_read: has("sessions:read"),
                usage_read: has("usage:read"),
                manage: false,
            },
        }
    }
}

/// How often a budget begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Each day, UTC.
    Day,
    /// Each month, UTC.
    Month,
    /// Never.
    Total,
}

impl Period {
    const NAMES: [(&'static str, Self); 3] =
        [("day", Self::Day), ("month", Self::Month), ("total", Self::Total)];

    /// The period of that word.
    pub fn named(word: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| *name == word).map(|(_, period)| *period)
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, own)| *own == self).map_or("total", |(name, _)| name)
    }

    /// The number of the period that `now` lies in.
    pub fn number(self, now: EpochMs) -> i64 {
        match self {
            Self::Day => clock::day_number(now),
            Self::Month => clock::month_number(now),
            Self::Total => 0,
        }
    }
}

/// The most that a key may spend in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The most.
    pub cap: Nanos,
    /// When it begins anew.
    pub period: Period,
}

/// Limits as they apply: a key without its own has its account's, an account without has the server's.
pub fn resolve(server: &ResolvedLimits, account: &Limits, key: &Limits) -> (ResolvedLimits, ResolvedLimits) {
    let account = account.over(server);
    let key = key.over(&account);
    (key, account)
}
