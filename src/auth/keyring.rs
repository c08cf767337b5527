//! From a secret to its caller, by memory where possible and by the database where not.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::sleep;

use crate::auth::api_key::{self, Digest, KeyKind};
use crate::auth::attempts::Attempts;
use crate::auth::caller::{Budget, Caller, Period, Scopes, resolve};
use crate::billing::money::Nanos;
use crate::clock::{self, Ticks};
use crate::error::{Error, Limited, Refusal};
use crate::id::AccountId;
use crate::rate_limit::limits::{Limits, ResolvedLimits};
use crate::read_through::{REMEMBERED, ReadThrough};
use crate::store::Store;
use crate::store::api_key::{KeyRow, Owner};

/// How often a key is looked at with which somebody reads along.
const LOOKED_AT: Duration = Duration::from_millis(500);
/// How long a key counts as good lately.
const SEEN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The handle to all keys. Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    known: ReadThrough<Digest, Arc<Caller>>,
    /// Keys that were good lately. Unlike what is known of them, this outlives changes.
    seen: Cache<Digest, ()>,
    changes: Arc<AtomicU64>,
    store: Store,
    defaults: ResolvedLimits,
    attempts: Arc<Attempts>,
    clock: Ticks,
}

impl Keyring {
    /// Keys of a store. `defaults` are the limits of accounts without their own; an address may come with a wrong key
    /// `failed_logins` times a minute, 0 for any number.
    pub fn new(store: Store, defaults: ResolvedLimits, failed_logins: u64) -> Self {
        let known = ReadThrough::default();
        let seen = Cache::builder().max_capacity(REMEMBERED).time_to_live(SEEN_FOR).build();
        let attempts = Arc::new(Attempts::new(failed_logins));
        Self { known, seen, changes: Arc::default(), store, defaults, attempts, clock: Ticks::start() }
    }

    /// The caller of a secret that came `from` an address.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if the key is malformed, unknown, expired or revoked: all the same to a stranger.
    /// [`Error::RateLimited`] in its place, without a look at the store, for an address that came with too many such
    /// keys. A key that was good lately is looked at all the same.
    pub async fn find(&self, secret: &str, from: Option<IpAddr>) -> Result<Arc<Caller>, Error> {
        let Some(digest) = api_key::check(secret) else { return Err(self.failed(secret, from)) };
        if self.known.remembered(&digest).is_none() && !self.seen.contains_key(&digest) {
            let may = from.map_or(Ok(()), |from| self.attempts.check(from, self.clock.now()));
            may.map_err(too_often)?;
        }
        let caller = self.caller(digest).await?;
        let caller = caller.filter(|caller| !caller.expired(clock::now_ms()));
        if caller.is_none() {
            self.seen.invalidate(&digest);
        }
        caller.ok_or_else(|| self.failed(secret, from))
    }

    /// Resolves when a key that was good is so no more, within a second.
    pub async fn end_of(&self, secret: &str) {
        let Some(digest) = api_key::check(secret) else { return };
        loop {
            sleep(LOOKED_AT).await;
            let caller = self.caller(digest).await;
            // What cannot be looked up now is looked up again.
            if caller.is_ok_and(|caller| caller.is_none_or(|caller| caller.expired(clock::now_ms()))) {
                return;
            }
        }
    }

    fn failed(&self, secret: &str, from: Option<IpAddr>) -> Error {
        let counted = from.map_or(Ok(()), |from| self.attempts.failed(from, self.clock.now()));
        counted.map_or_else(too_often, |()| Error::Unauthenticated(api_key::masked(secret)))
    }

    async fn caller(&self, digest: Digest) -> Result<Option<Arc<Caller>>, Error> {
        self.known.find(&digest, || self.look_up(digest)).await
    }

    async fn look_up(&self, digest: Digest) -> Result<Option<Arc<Caller>>, Error> {
        let before = self.changes.load(Ordering::Acquire);
        let found = self.store.read(move |conn| crate::store::api_key::find(conn, &digest)).await?;
        let caller = found.and_then(|(row, owner)| self.read(row, owner, before)).map(Arc::new);
        if caller.is_some() {
            self.seen.insert(digest, ());
        }
        Ok(caller)
    }

    fn read(&self, row: KeyRow, owner: Owner, as_of: u64) -> Option<Caller> {
        let kind = KeyKind::named(&row.kind)?;
        let (status, account_limits) = owner.unwrap_or_default();
        let scopes: Vec<String> = serde_json::from_str(&row.scopes).unwrap_or_default();
        let (key_limits, account_limits) = match kind {
            KeyKind::Operator => (ResolvedLimits::NONE, ResolvedLimits::NONE),
            _ => resolve(&self.defaults, &Limits::stored(&account_limits), &Limits::stored(&row.limits)),
        };
        Some(Caller {
            key: row.key_id.into(),
            kind,
            account: row.account_id.map_or_else(|| AccountId::from(""), AccountId::from),
            agent: row.agent_id.map(Into::into),
            scopes: Scopes::of(kind, &scopes),
            public: row.public,
            suspended: status == "suspended",
            expires_at: row.expires_at,
            key_limits,
            account_limits,
            budget: row.budget.as_deref().and_then(stored_budget),
            as_of,
        })
    }

    /// Whether nothing has changed since a caller was looked up, and his key has not ended.
    pub fn is_current(&self, caller: &Caller) -> bool {
        caller.as_of == self.changes.load(Ordering::Acquire) && !caller.expired(clock::now_ms())
    }

    /// After a key, its account or its agent has changed: everything is looked up anew.
    pub fn forget(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.known.forget_all();
    }
}

fn too_often(retry_after: Duration) -> Error {
    Error::RateLimited(Refusal { what: Limited::Requests, retry_after })
}

fn stored_budget(text: &str) -> Option<Budget> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let cap = Nanos::parse(value["amount"].as_str()?).ok()?;
    Some(Budget { cap, period: Period::named(value["period"].as_str()?)? })
}
