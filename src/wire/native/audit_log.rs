//! The audit log, as it is answered.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::store::audit_log::AuditRow;
use crate::wire::native::values::Time;

/// A page of the audit log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditLog {
    /// The newest first.
    pub records: Vec<AuditRecord>,
    /// Whether there are older ones.
    pub has_more: bool,
}

/// Something that was done to an object.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditRecord {
    id: i64,
    created_at: Time,
    /// What was done, such as `agent.update`.
    action: String,
    object: AuditObject,
    /// Whose object it is; null for the server's own, such as prices.
    account_id: Option<String>,
    actor: AuditActor,
    /// The object as it was, without secrets; null if it was not there. Of fields longer than 4 KiB, the digest.
    #[schemars(with = "Option<Map<String, Value>>")]
    before: Option<Value>,
    /// The object as it became, likewise; null if it went.
    #[schemars(with = "Option<Map<String, Value>>")]
    after: Option<Value>,
    /// The `x-request-id` of the call; null where the server did it by itself.
    request_id: Option<String>,
    /// Where the call came from.
    remote_address: Option<String>,
}

/// What something was done to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditObject {
    /// `account`, `agent`, `key`, `price`, `provider`, `session` or `webhook`.
    kind: String,
    /// A session's and a provider's name, for all others the id.
    id: String,
}

/// Who did it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditActor {
    /// `account`, `operator` or `server`.
    kind: String,
    /// The id of the key; accounts do not learn the operator's.
    key_id: Option<String>,
}

impl AuditRecord {
    /// The record as an account may see it: nothing of the operator's but that it was the operator.
    pub fn for_account(row: AuditRow) -> Self {
        let own = row.actor_kind == "account";
        let AuditRow { actor_key, address, .. } = row;
        Self::from(AuditRow { actor_key: actor_key.filter(|_| own), address: address.filter(|_| own), ..row })
    }
}

impl From<AuditRow> for AuditRecord {
    fn from(row: AuditRow) -> Self {
        let read = |text: Option<String>| text.map(|text| serde_json::from_str(&text).unwrap_or_default());
        Self {
            id: row.id,
            created_at: row.created_at.into(),
            action: row.action,
            object: AuditObject { kind: row.object_kind, id: row.object_id },
            account_id: row.account_id,
            actor: AuditActor { kind: row.actor_kind, key_id: row.actor_key },
            before: read(row.state_before),
            after: read(row.state_after),
            request_id: row.request_id,
            remote_address: row.address,
        }
    }
}
