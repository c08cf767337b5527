//! The buckets of everybody, plain: each call is checked for its key and for its account, and nothing is taken unless
//! both let it pass. Time is an argument.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::auth::caller::Caller;
use crate::error::{Error, Invalid, Limited, Refusal};
use crate::rate_limit::Status;
use crate::rate_limit::bucket::{Bucket, Level, Rate, Ticks};
use crate::rate_limit::entries::{Entries, Entry, Map, Subject};
use crate::rate_limit::limits::ResolvedLimits;

/// The most entries; beyond it those go that have been idle for longest.
const MAX_ENTRIES: usize = 1_000_000;
/// Of a full table, the part that goes at once: one in so many.
const MADE_ROOM: usize = 64;
/// What a refusal for concurrency tells to wait: nobody knows when a turn ends.
const CONCURRENCY_WAIT: Duration = Duration::from_secs(1);
/// Calls that a key may give up before their first byte, in a minute: the provider reads the prompt of each, and
/// nobody pays for it.
const GIVEN_UP_PER_MINUTE: u64 = 30;
/// Turns that an account may run however many others are there.
const FAIR_SHARE: u64 = 8;
/// The part of all places that is used, in per cent, from which on places are shared out.
const CROWDED: u64 = 80;

/// Kinds of call that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Turns.
    Chat,
    /// Everything else.
    Management,
}

/// Whether any limit bears on a call of this class.
pub fn limited(caller: &Caller, class: Class) -> bool {
    let limits = [&caller.key_limits, &caller.account_limits];
    limits.iter().any(|limits| match class {
        // The places of the server, and calls given up before their first byte, are counted for everybody.
        Class::Chat => true,
        Class::Management => limits.management_per_minute.is_some(),
    })
}

/// Whether tokens are limited for this caller.
pub fn tokens_limited(caller: &Caller) -> bool {
    caller.key_limits.tokens_per_minute.is_some() || caller.account_limits.tokens_per_minute.is_some()
}

/// All buckets and all places.
pub struct Table {
    entries: Entries,
    /// Calls that keys gave up; few keys do.
    given_up: Map<Bucket>,
    digests: RandomState,
    /// Turns that the server runs at once.
    places: u64,
    running: u64,
    /// Accounts that have a turn running.
    active: u64,
}

fn request_rate(limits: &ResolvedLimits, class: Class) -> Option<Rate> {
    let per_minute = match class {
        Class::Chat => limits.requests_per_minute,
        Class::Management => limits.management_per_minute,
    };
    per_minute.map(Rate::requests)
}

impl Table {
    /// A table with nobody in it, of a server that runs so many turns at once.
    pub fn new(places: u64) -> Self {
        Self {
            entries: Entries::default(),
            given_up: Map::default(),
            digests: RandomState::new(),
            places,
            running: 0,
            active: 0,
        }
    }

    /// How many keys and accounts are remembered.
    pub fn len(&self) -> usize {
        self.entries.len
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.len == 0
    }

    fn key(&self, caller: &Caller) -> Subject {
        self.digests.hash_one(("key", caller.key.as_str()))
    }

    fn account(&self, caller: &Caller) -> Subject {
        self.digests.hash_one(("account", caller.account.as_str()))
    }

    /// Key and account with their limits and what is known of them.
    fn subjects<'a>(&self, caller: &'a Caller) -> [(Subject, &'a ResolvedLimits, Entry); 2] {
        let one = |subject, limits| (subject, limits, self.entries.get(subject).copied().unwrap_or_default());
        [one(self.key(caller), &caller.key_limits), one(self.account(caller), &caller.account_limits)]
    }

    /// Takes a place and a request, for the key and for the account, or nothing at all.
    ///
    /// # Errors
    /// What is used up, and the longest that any of it takes.
    pub fn admit(&mut self, caller: &Caller, class: Class, now: Ticks) -> Result<(), Refusal> {
        let mut subjects = self.subjects(caller);
        if class == Class::Chat {
            self.check_places(&subjects)?;
            if let Some(mut given_up) = self.given_up.get(&subjects[0].0).copied() {
                let taken = given_up.take(Rate::tokens(GIVEN_UP_PER_MINUTE), 1, now);
                taken.map_err(|retry_after| Refusal { what: Limited::Requests, retry_after })?;
            }
        }
        let mut wait = None;
        for (_, limits, entry) in &mut subjects {
            let taken = request_rate(limits, class).map(|rate| entry.requests(class).take(rate, 1, now));
            wait = wait.max(taken.and_then(Result::err));
        }
        if let Some(retry_after) = wait {
            return Err(Refusal { what: Limited::Requests, retry_after });
        }
        if class == Class::Chat {
            subjects.iter_mut().for_each(|(_, _, entry)| entry.running += 1);
            self.running += 1;
            self.active += u64::from(subjects[1].2.running == 1);
        }
        self.keep(subjects);
        Ok(())
    }

    fn check_places(&self, subjects: &[(Subject, &ResolvedLimits, Entry); 2]) -> Result<(), Refusal> {
        let of_account = u64::from(subjects[1].2.running);
        let own = subjects
            .iter()
            .all(|(_, limits, entry)| limits.concurrency.is_none_or(|most| u64::from(entry.running) < most));
        let crowded = self.running.saturating_mul(100) >= self.places.saturating_mul(CROWDED);
        let fair =
            !crowded || of_account < FAIR_SHARE.max(self.places.saturating_mul(2) / self.active.max(1));
        if own && fair && self.running < self.places {
            return Ok(());
        }
        Err(Refusal { what: Limited::Concurrency, retry_after: CONCURRENCY_WAIT })
    }

    /// Takes tokens, for the key and for the account, or nothing at all.
    ///
    /// # Errors
    /// That they do not fit now, and the longest that any of it takes; that they never would.
    pub fn debit(&mut self, caller: &Caller, tokens: u64, now: Ticks) -> Result<Status, Error> {
        let mut subjects = self.subjects(caller);
        let mut wait = None;
        for (_, limits, entry) in &mut subjects {
            let Some(rate) = limits.tokens_per_minute.map(Rate::tokens) else { continue };
            if tokens > rate.burst() {
                let most = rate.burst();
                let expected = format!(
                    "this request may take {tokens} tokens, more than the {most} that may be used in a minute"
                );
                return Err(Error::Invalid(Invalid::value("max_tokens", expected)));
            }
            wait = wait.max(entry.tokens.take(rate, tokens, now).err());
        }
        if let Some(retry_after) = wait {
            return Err(Error::RateLimited(Refusal { what: Limited::Tokens, retry_after }));
        }
        self.keep(subjects);
        Ok(self.status(caller, Class::Chat, now))
    }

    /// Gives tokens back.
    pub fn give_back(&mut self, caller: &Caller, tokens: u64, now: Ticks) {
        for (subject, limits, _) in self.subjects(caller) {
            let rate = limits.tokens_per_minute.map(Rate::tokens);
            if let (Some(rate), Some(entry)) = (rate, self.entries.get_mut(subject)) {
                entry.tokens.give_back(rate, tokens, now);
            }
        }
    }

    /// A turn that was let in has ended; its client may have `given_up` before the first byte.
    pub fn leave(&mut self, caller: &Caller, given_up: bool, now: Ticks) {
        let [key, account] = [self.key(caller), self.account(caller)];
        if given_up {
            // At the bound already: the next call is refused as it is.
            let _ = self.given_up.entry(key).or_default().take(Rate::tokens(GIVEN_UP_PER_MINUTE), 1, now);
        }
        for subject in [key, account] {
            if let Some(entry) = self.entries.get_mut(subject) {
                entry.running = entry.running.saturating_sub(1);
            }
        }
        self.running = self.running.saturating_sub(1);
        let ended = self.entries.get(account).is_none_or(|entry| entry.running == 0);
        self.active = self.active.saturating_sub(u64::from(ended));
    }

    /// How full the tighter of key and account is.
    pub fn status(&self, caller: &Caller, class: Class, now: Ticks) -> Status {
        let mut status = Status::default();
        for (_, limits, mut entry) in self.subjects(caller) {
            let requests = request_rate(limits, class).map(|rate| entry.requests(class).level(rate, now));
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
        self.entries.retain(|entry| entry.running > 0 || entry.latest() > now);
        self.given_up.retain(|_, bucket| !bucket.is_full(now));
    }

    fn keep(&mut self, subjects: [(Subject, &ResolvedLimits, Entry); 2]) {
        if self.entries.len + subjects.len() > MAX_ENTRIES {
            self.make_room();
        }
        subjects.into_iter().for_each(|(subject, _, entry)| self.entries.put(subject, entry));
    }

    /// Drops the entries that are nearest to a fresh one, some at once, so that it is seldom done.
    fn make_room(&mut self) {
        let mut idle: Vec<Ticks> =
            self.entries.values().filter(|entry| entry.running == 0).map(Entry::latest).collect();
        if idle.is_empty() {
            return;
        }
        let at = (MAX_ENTRIES / MADE_ROOM).min(idle.len() - 1);
        let (_, oldest, _) = idle.select_nth_unstable(at);
        let (oldest, mut left) = (*oldest, at + 1);
        self.entries.retain(|entry| {
            // Many may be as old as one another; no more go than have to.
            let goes = entry.running == 0 && entry.latest() <= oldest && left > 0;
            left -= usize::from(goes);
            !goes
        });
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
            as_of: 0,
        }
    }

    fn requests(limit: u64) -> ResolvedLimits {
        ResolvedLimits { requests_per_minute: Some(limit), ..ResolvedLimits::NONE }
    }

    #[test]
    fn a_refusal_by_the_account_takes_nothing_from_the_key() {
        let mut table = Table::new(1_000);
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
        let mut table = Table::new(1_000);
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
        let mut table = Table::new(1_000);
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
        let mut table = Table::new(1_000);
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
        let mut table = Table::new(1_000);
        let one = caller("one", requests(60), ResolvedLimits::NONE);
        table.admit(&one, Class::Management, 0).expect("no limit");
        table.admit(&one, Class::Chat, 0).expect("admitted");
        table.leave(&one, false, 0);
        table.sweep(500_000_000);
        assert_eq!(table.len(), 1);
        table.sweep(2_000_000_000);
        assert!(table.is_empty());
    }

    #[test]
    fn a_refusal_tells_the_longest_wait_of_key_and_account() {
        let mut table = Table::new(1_000);
        let one = caller("one", requests(6), requests(12));
        table.admit(&one, Class::Chat, 0).expect("the first");
        let two = caller("two", requests(6), requests(12));
        table.admit(&two, Class::Chat, 0).expect("the account's second");
        let refusal = table.admit(&one, Class::Chat, 0).expect_err("both are used up");
        assert_eq!(refusal.retry_after, Duration::from_secs(10), "the key takes longer than the account");
        let wait = u64::try_from(refusal.retry_after.as_nanos()).expect("short");
        assert!(table.admit(&one, Class::Chat, wait).is_ok());
    }

    #[test]
    fn places_are_shared_out_when_they_run_short() {
        let mut table = Table::new(100);
        let none = ResolvedLimits::NONE;
        let of = |account: &str| Caller { account: account.into(), ..caller(account, none, none) };
        let fill = |table: &mut Table, account: &str, most: usize| {
            (0..most).take_while(|_| table.admit(&of(account), Class::Chat, 0).is_ok()).count()
        };
        assert_eq!(fill(&mut table, "greedy", 60), 60, "nobody else is there");
        let others: Vec<String> = (0..4).map(|at| format!("other {at}")).collect();
        for other in &others {
            assert_eq!(fill(&mut table, other, 5), 5);
        }
        // 80 of 100 are used by 5 accounts: each may have 40.
        assert_eq!(fill(&mut table, "greedy", 1), 0, "it has more than its share");
        assert_eq!(fill(&mut table, "late", 50), 20, "all that is left");
        assert_eq!(fill(&mut table, &others[0], 1), 0, "there are no more");
        (0..20).for_each(|_| table.leave(&of("late"), false, 0));
        assert_eq!(fill(&mut table, &others[0], 50), 20, "up to its share");
    }

    #[test]
    fn a_full_table_forgets_who_has_been_idle_for_longest_and_nobody_who_runs() {
        let mut table = Table::new(10_000_000);
        let busy = caller("busy", requests(60), ResolvedLimits::NONE);
        table.admit(&busy, Class::Chat, 0).expect("the first");
        let second = 1_000_000_000;
        for at in 0..MAX_ENTRIES as u64 + 10 {
            let one = Caller {
                account: "all".into(),
                ..caller(&at.to_string(), requests(1), ResolvedLimits::NONE)
            };
            table.admit(&one, Class::Management, at * second / 100_000).expect("a new one");
            let subject = table.key(&one);
            let mut entry = table.entries.get(subject).copied().unwrap_or_default();
            entry.chat.take(Rate::requests(1), 1, at * second / 100_000).expect("a fresh bucket");
            table.entries.put(subject, entry);
        }
        assert!(table.len() <= MAX_ENTRIES && table.len() > MAX_ENTRIES / 10 * 9, "{}", table.len());
        let known =
            |table: &Table, key: &str| table.entries.get(table.digests.hash_one(("key", key))).is_some();
        assert!(known(&table, "busy") && known(&table, &MAX_ENTRIES.to_string()));
        assert!(!known(&table, "0"), "the oldest is gone");
    }

    #[test]
    fn whatever_comes_no_window_passes_more_than_its_burst_and_rate() {
        let (key_limits, account_limits) = (requests(600), requests(900));
        for seed in 0..20_u64 {
            let mut table = Table::new(1_000);
            let (mut draw, mut now) = (seed * 2 + 1, 0_u64);
            let mut passed: Vec<(u64, usize)> = Vec::new();
            for _ in 0..3_000 {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                now += (draw >> 33) % 40_000_000;
                let key = usize::try_from((draw >> 20) % 3).expect("small");
                let one = caller(&format!("key {key}"), key_limits, account_limits);
                match table.admit(&one, Class::Chat, now) {
                    Ok(()) => {
                        passed.push((now, key));
                        table.leave(&one, false, now);
                    }
                    Err(refusal) => {
                        let then = now + u64::try_from(refusal.retry_after.as_nanos()).expect("short");
                        let mut probe = Table { entries: table.entries.clone(), ..Table::new(1_000) };
                        probe.digests = table.digests.clone();
                        assert!(probe.admit(&one, Class::Chat, then).is_ok(), "waiting did not pass");
                        assert!(probe.admit(&one, Class::Chat, now.max(1) - 1).is_err() || then == now);
                    }
                }
            }
            let within = |from: u64, to: u64, key: Option<usize>| {
                let counted =
                    |(at, of): &&(u64, usize)| (from..=to).contains(at) && key.is_none_or(|key| key == *of);
                passed.iter().filter(counted).count() as u64
            };
            for (at, _) in passed.iter().step_by(37) {
                let to = at + 10_000_000_000;
                assert!(within(*at, to, Some(0)) <= 100 + 100, "seed {seed}");
                assert!(within(*at, to, None) <= 150 + 150, "seed {seed}");
            }
        }
    }
}
