//! Queries on `audit_record`: who did what to which object. Rows are added and never changed.
//!
//! A record is written in the transaction that does what it tells of, so neither is there without the other.

use diesel::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::auth::api_key::KeyKind;
use crate::clock::{self, EpochMs};
use crate::store::schema::audit_record::dsl::*;

/// What a field of an object may have in a record, in bytes of JSON; of longer ones the digest is kept.
pub const MAX_FIELD: usize = 4 * 1024;

/// What can be done to an object; the object's kind stands in front of the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each has its word below")]
pub enum Action {
    AccountCreate,
    AccountUpdate,
    AccountCredit,
    AccountAdjust,
    AccountClose,
    AgentCreate,
    AgentUpdate,
    AgentDelete,
    KeyCreate,
    KeyUpdate,
    KeyRevoke,
    PriceCreate,
    ProviderSet,
    ProviderDelete,
    SessionCreate,
    SessionUpdate,
    SessionDelete,
    SessionFork,
    SessionTruncate,
    WebhookCreate,
    WebhookDelete,
}

impl Action {
    /// Every action with its word.
    pub const ALL: [(Self, &'static str); 21] = [
        (Self::AccountCreate, "account.create"),
        (Self::AccountUpdate, "account.update"),
        (Self::AccountCredit, "account.credit"),
        (Self::AccountAdjust, "account.adjust"),
        (Self::AccountClose, "account.close"),
        (Self::AgentCreate, "agent.create"),
        (Self::AgentUpdate, "agent.update"),
        (Self::AgentDelete, "agent.delete"),
        (Self::KeyCreate, "key.create"),
        (Self::KeyUpdate, "key.update"),
        (Self::KeyRevoke, "key.revoke"),
        (Self::PriceCreate, "price.create"),
        (Self::ProviderSet, "provider.set"),
        (Self::ProviderDelete, "provider.delete"),
        (Self::SessionCreate, "session.create"),
        (Self::SessionUpdate, "session.update"),
        (Self::SessionDelete, "session.delete"),
        (Self::SessionFork, "session.fork"),
        (Self::SessionTruncate, "session.truncate"),
        (Self::WebhookCreate, "webhook.create"),
        (Self::WebhookDelete, "webhook.delete"),
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(own, _)| *own == self).map_or("", |(_, word)| word)
    }

    fn object_kind(self) -> &'static str {
        self.as_str().split('.').next().unwrap_or_default()
    }
}

/// Who did something, and by which request.
#[derive(Clone, Debug, Default)]
pub struct By {
    /// The key that was shown; `None` for the server by itself.
    pub key: Option<(KeyKind, String)>,
    /// The request.
    pub request: Option<String>,
    /// Where it came from.
    pub address: Option<String>,
}

impl By {
    /// The server by itself: its first start, its flags, its own checks.
    pub fn server() -> Self {
        Self::default()
    }
}

/// Something that was done to an object.
#[derive(Debug)]
pub struct Deed<'a> {
    /// What.
    pub action: Action,
    /// Whose object it is; `None` for the server's own.
    pub account: Option<&'a str>,
    /// The object's id.
    pub object: &'a str,
    /// What it was, without secrets; `None` if it was not there.
    pub before: Option<Value>,
    /// What it is now, likewise.
    pub after: Option<Value>,
}

/// An object as a record has it.
pub fn state(object: impl Serialize) -> Option<Value> {
    serde_json::to_value(object).ok()
}

/// Records what is done in this transaction.
pub fn record(conn: &mut SqliteConnection, by: &By, deed: &Deed<'_>) -> QueryResult<()> {
    let (kind, key) = match &by.key {
        Some((kind, key)) => (kind.as_str(), Some(key)),
        None => ("server", None),
    };
    let row = (
        account_id.eq(deed.account),
        actor_kind.eq(kind),
        actor_key.eq(key),
        action.eq(deed.action.as_str()),
        object_kind.eq(deed.action.object_kind()),
        object_id.eq(deed.object),
        state_before.eq(deed.before.as_ref().map(shortened)),
        state_after.eq(deed.after.as_ref().map(shortened)),
        request_id.eq(&by.request),
        address.eq(&by.address),
        created_at.eq(clock::now_ms()),
    );
    diesel::insert_into(audit_record).values(row).execute(conn).map(drop)
}

/// The JSON text of an object, a long field replaced by its digest: records are kept for good, so they are bounded.
fn shortened(object: &Value) -> String {
    let Value::Object(fields) = object else { return object.to_string() };
    let short = fields.iter().map(|(name, value)| {
        let text = value.to_string();
        if text.len() <= MAX_FIELD {
            return (name.clone(), value.clone());
        }
        let digest: String =
            Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        (name.clone(), json!({"sha256": digest, "bytes": text.len()}))
    });
    Value::Object(short.collect()).to_string()
}

/// A record, as stored.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = crate::store::schema::audit_record)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct AuditRow {
    pub id: i64,
    pub account_id: Option<String>,
    pub actor_kind: String,
    pub actor_key: Option<String>,
    pub action: String,
    pub object_kind: String,
    pub object_id: String,
    pub state_before: Option<String>,
    pub state_after: Option<String>,
    pub request_id: Option<String>,
    pub address: Option<String>,
    pub created_at: i64,
}

/// Which records are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those about objects of this account.
    pub account: Option<String>,
    /// Only those about the object of this id, or about objects of this kind.
    pub object: Option<String>,
    /// Only those of this action.
    pub action: Option<String>,
    /// Only those from this moment on.
    pub since: Option<EpochMs>,
    /// Only those before this moment.
    pub until: Option<EpochMs>,
    /// Only those older than this one.
    pub before: Option<i64>,
    /// How many.
    pub limit: i64,
}

/// The records that are wanted, newest first.
pub fn list(conn: &mut SqliteConnection, filter: &Filter) -> QueryResult<Vec<AuditRow>> {
    let mut query =
        audit_record.select(AuditRow::as_select()).order(id.desc()).limit(filter.limit).into_boxed();
    if let Some(owner) = &filter.account {
        query = query.filter(account_id.eq(owner));
    }
    if let Some(object) = &filter.object {
        query = query.filter(object_id.eq(object).or(object_kind.eq(object)));
    }
    if let Some(done) = &filter.action {
        query = query.filter(action.eq(done));
    }
    if let Some(since) = filter.since {
        query = query.filter(created_at.ge(since));
    }
    if let Some(until) = filter.until {
        query = query.filter(created_at.lt(until));
    }
    if let Some(before) = filter.before {
        query = query.filter(id.lt(before));
    }
    query.load(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_a_word_of_its_own_with_its_object_in_front() {
        let mut words: Vec<_> = Action::ALL.iter().map(|(own, _)| own.as_str()).collect();
        assert!(words.iter().all(|word| word.split('.').count() == 2));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Action::ALL.len());
        assert_eq!(Action::KeyRevoke.object_kind(), "key");
    }

    #[test]
    fn of_a_long_field_the_digest_is_kept() {
        let long = "x".repeat(MAX_FIELD);
        let kept: Value =
            serde_json::from_str(&shortened(&json!({"name": "Clerk", "instructions": long}))).expect("JSON");
        assert_eq!(kept["name"], "Clerk");
        assert_eq!(kept["instructions"]["bytes"], MAX_FIELD + 2);
        assert_eq!(kept["instructions"]["sha256"].as_str().map(str::len), Some(64));
    }
}
