//! The buckets of everybody, plain: each call is checked for its key and for its account.

use std::collections::HashMap;
use std::time::Duration;

use crate::auth::caller::Caller;
use crate::error::{Error, Invalid, Limited, Refusal};
use crate::id::{AccountId, KeyId};
use crate::rate_limit::Status;
use crate::rate_limit::bucket::{Bucket, Level, Rate, Ticks};
use crate::rate_limit::limits::ResolvedLimits;

/// The most entries; beyond it those that are nearest to a fresh one go.
const MAX_ENTRIES: usize = 1_000_000;
/// What a refusal for concurrency tells to wait: nobody knows when a turn ends.
const CONCURRENCY_WAIT: Duration = Duration::from_secs(1);

/// Calls that a key may give up before their first byte, in a minute: the provider reads the prompt of each, and
/// nobody pays for it.
const GIVEN_UP_PER_MINUTE: u64 = 30;

/// Kinds of call that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Turns.
    Chat,
    /// Everything else.
    Management,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Key(KeyId),
    Account(AccountId),
}

#[derive(Debug, Default)]
struct Entry {
    chat: Bucket,
    management: Bucket,
    tokens: Bucket,
    given_up: Bucket,
    running: u64,
}

/// Whether any limit bears on a call of this class.
pub fn limited(caller: &Caller, class: Class) -> bool {
    let limits = [&caller.key_limits, &caller.account_limits];
    limits.iter().any(|limits| match class {
        // Calls given up before their first byte are counted for everybody.
        Class::Chat => true,
        Class::Management => limits.management_per_minute.is_some(),
    })
}

/// Whether tokens are limited for this caller.
pub fn tokens_limited(caller: &Caller) -> bool {
    caller.key_limits.tokens_per_minute.is_some() || caller.account_limits.tokens_per_minute.is_some()
}

#[derive(Default)]
pub struct Table {
    entries: HashMap<Subject, Entry>,
}

fn subjects(caller: &Caller) -> [(Subject, &ResolvedLimits); 2] {
    [
        (Subject::Key(caller.key.clone()), &caller.key_limits),
        (Subject::Account(caller.account.clone()), &caller.account_limits),
    ]
}

fn request_rate(limits: &ResolvedLimits, class: Class) -> Option<Rate> {
    let per_minute = match class {
        Class::Chat => limits.requests_per_minute,
        Class::Management => limits.management_per_minute,
    };
    per_minute.map(Rate::requests)
}

impl Entry {
    fn requests(&mut self, class: Class) -> &mut Bucket {
        match class {
            Class::Chat => &mut self.chat,
            Class::Management => &mut self.management,
        }
    }
}

impl Table {
    /// How many keys and accounts are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes a place and a request, for the key and for the account, or nothing at all.
    pub fn admit(&mut self, caller: &Caller, class: Class, now: Ticks) -> Result<(), Refusal> {
        let subjects = subjects(caller);
        if class == Class::Chat {
            for (subject, limits) in &subjects {
                let running = self.entries.get(subject).map_or(0, |entry| entry.running);
                if limits.concurrency.is_some_and(|most| running >= most) {
                    return Err(Refusal { what: Limited::Concurrency, retry_after: CONCURRENCY_WAIT });
                }
            }
        }
        if class == Class::Chat {
            let rate = Rate::tokens(GIVEN_UP_PER_MINUTE);
            if let Some(entry) = self.entries.get(&subjects[0].0) {
                let mut probe = entry.given_up;
                probe
                    .take(rate, 1, now)
                    .map_err(|retry_after| Refusal { what: Limited::Requests, retry_after })?;
            }
        }
        for at in 0..subjects.len() {
            let (subject, limits) = &subjects[at];
            let Some(rate) = request_rate(limits, class) else { continue };
            let bucket = self.entry(subject).requests(class);
            if let Err(retry_after) = bucket.take(rate, 1, now) {
                for (taken, limits) in &subjects[..at] {
                    if let Some(rate) = request_rate(limits, class) {
                        self.entry(taken).requests(class).give_back(rate, 1, now);
                    }
                }
                return Err(Refusal { what: Limited::Requests, retry_after });
            }
        }
        if class == Class::Chat {
            for (subject, _) in &subjects {
                self.entry(subject).running += 1;
            }
        }
        Ok(())
    }

    /// Takes tokens, for the key and for the account, or nothing at all.
    pub fn debit(&mut self, caller: &Caller, tokens: u64, now: Ticks) -> Result<Status, Error> {
        let subjects = subjects(caller);
        for at in 0..subjects.len() {
            let (subject, limits) = &subjects[at];
            let Some(rate) = limits.tokens_per_minute.map(Rate::tokens) else { continue };
            let taken = match self.entry(subject).tokens.take(rate, tokens, now) {
                Ok(()) => continue,
                Err(_) if tokens > rate.burst() => {
                    let expected = format!(
                        "this request may take {tokens} tokens, more than the {} that may be used in a minute",
                        rate.burst()
                    );
                    Error::Invalid(Invalid::value("max_tokens", expected))
                }
                Err(retry_after) => Error::RateLimited(Refusal { what: Limited::Tokens, retry_after }),
            };
            for (subject, limits) in &subjects[..at] {
                if let Some(rate) = limits.tokens_per_minute.map(Rate::tokens) {
                    self.entry(subject).tokens.give_back(rate, tokens, now);
                }
            }
            return Err(taken);
        }
        Ok(self.status(caller, Class::Chat, now))
    }

    /// Gives tokens back.
    pub fn give_back(&mut self, caller: &Caller, tokens: u64, now: Ticks) {
        for (subject, limits) in subjects(caller) {
            if let Some(rate) = limits.tokens_per_minute.map(Rate::tokens) {
                self.entry(&subject).tokens.give_back(rate, tokens, now);
            }
        }
    }

    /// A turn that was let in has ended; its client may have `given_up` before the first byte.
    pub fn leave(&mut self, caller: &Caller, given_up: bool, now: Ticks) {
        if given_up {
            let entry = self.entry(&Subject::Key(caller.key.clone()));
            // At the bound already: the next call is refused as it is.
            let _ = entry.given_up.take(Rate::tokens(GIVEN_UP_PER_MINUTE), 1, now);
        }
        for (subject, _) in subjects(caller) {
            if let Some(entry) = self.entries.get_mut(&subject) {
                entry.running = entry.running.saturating_sub(1);
            }
        }
    }

    /// How full the tighter of key and account is.
    pub fn status(&self, caller: &Caller, class: Class, now: Ticks) -> Status {
        let mut status = Status::default();
        let fresh = Entry::default();
        for (subject, limits) in subjects(caller) {
            let entry = self.entries.get(&subject).unwrap_or(&fresh);
            let bucket = match class {
                Class::Chat => entry.chat,
                Class::Management => entry.management,
            };
            let requests = request_rate(limits, class).map(|rate| bucket.level(rate, now));
            status.requests = tighter(status.requests, requests);
            if class == Class::Chat {
                let tokens = limits.tokens_per_minute.map(Rate::tokens);
                status.tokens = tighter(status.tokens, tokens.map(|rate| entry.tokens.level(rate, now)));
            }
        }
        status
    }

    /// Drops what equals a fresh entry.
    pub fn sweep(&mut self, now: Ticks) {
        self.entries.retain(|_, entry| {
            let idle = [entry.chat, entry.management, entry.tokens, entry.given_up]
                .iter()
                .all(|bucket| bucket.is_full(now));
            entry.running > 0 || !idle
        });
    }

    fn entry(&mut self, subject: &Subject) -> &mut Entry {
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(subject) {
            let victim =
                self.entries.iter().find(|(_, entry)| entry.running == 0).map(|(key, _)| key.clone());
            victim.and_then(|key| self.entries.remove(&key));
        }
        self.entries.entry(subject.clone()).or_default()
    }
}

fn tighter(one: Option<Level>, other: Option<Level>) -> Option<Level> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.remaining < one.remaining { other } else { one }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::api_key::KeyKind;
    use crate::auth::caller::Scopes;

    fn caller(key: &str, key_limits: ResolvedLimits, account_limits: ResolvedLimits) -> Caller {
        Caller {
            key: key.into(),
            kind: KeyKind::Agent,
            account: "acct_1".into(),
            agent: None,
            scopes: Scopes::default(),
            public: false,
            suspended: false,
            expires_at: None,
            key_limits,
            account_limits,
            budget: None,
        }
    }

    fn requests(limit: u64) -> ResolvedLimits {
        ResolvedLimits { requests_per_minute: Some(limit), ..ResolvedLimits::NONE }
    }

    #[test]
    fn a_refusal_by_the_account_takes_nothing_from_the_key() {
        let mut table = Table::default();
        let one = caller("one", requests(600), requests(60));
        let two = caller("two", requests(600), requests(60));
        for _ in 0..10 {
            assert!(table.admit(&one, Class::Chat, 0).is_ok());
        }
        let refusal = table.admit(&two, Class::Chat, 0).expect_err("the account is full");
        assert_eq!(refusal.what, Limited::Requests);
        let alone = caller("two", requests(600), ResolvedLimits::NONE);
        assert_eq!(table.status(&alone, Class::Chat, 0).requests.expect("limited").remaining, 100);
    }

    #[test]
    fn places_are_given_back() {
        let mut table = Table::default();
        let limits = ResolvedLimits { concurrency: Some(2), ..ResolvedLimits::NONE };
        let one = caller("one", limits, ResolvedLimits::NONE);
        assert!(table.admit(&one, Class::Chat, 0).is_ok());
        assert!(table.admit(&one, Class::Chat, 0).is_ok());
        assert_eq!(table.admit(&one, Class::Chat, 0).expect_err("full").what, Limited::Concurrency);
        table.leave(&one, false, 0);
        assert!(table.admit(&one, Class::Chat, 0).is_ok());
    }

    #[test]
    fn calls_given_up_again_and_again_are_refused_for_a_while() {
        let mut table = Table::default();
        let one = caller("one", ResolvedLimits::NONE, ResolvedLimits::NONE);
        for _ in 0..GIVEN_UP_PER_MINUTE {
            table.admit(&one, Class::Chat, 0).expect("no limit");
            table.leave(&one, true, 0);
        }
        let refusal = table.admit(&one, Class::Chat, 0).expect_err("too many");
        assert_eq!(refusal.retry_after, Duration::from_secs(2));
        assert!(table.admit(&one, Class::Chat, 2_000_000_000).is_ok());
    }

    #[test]
    fn tokens_beyond_the_burst_are_an_error_of_the_request() {
        let mut table = Table::default();
        let limits = ResolvedLimits { tokens_per_minute: Some(100), ..ResolvedLimits::NONE };
        let one = caller("one", limits, limits);
        assert!(matches!(table.debit(&one, 101, 0), Err(Error::Invalid(_))));
        assert!(table.debit(&one, 60, 0).is_ok());
        assert!(matches!(table.debit(&one, 60, 0), Err(Error::RateLimited(_))));
        table.give_back(&one, 50, 0);
        assert_eq!(table.debit(&one, 60, 0).expect("fits").tokens.expect("limited").remaining, 30);
    }

    #[test]
    fn an_idle_entry_is_swept_and_nothing_is_lost() {
        let mut table = Table::default();
        let one = caller("one", requests(60), ResolvedLimits::NONE);
        table.admit(&one, Class::Management, 0).expect("no limit");
        table.admit(&one, Class::Chat, 0).expect("admitted");
        table.leave(&one, false, 0);
        table.sweep(500_000_000);
        assert_eq!(table.entries.len(), 1);
        table.sweep(2_000_000_000);
        assert!(table.entries.is_empty());
    }
}
