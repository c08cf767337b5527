//! `switchboard audit`: who changed what.

use clap::Args;
use serde_json::{Value, json};

use super::client::{Call, Reply};
use super::server::{Server, Who};
use super::{Plan, output, parse};

const COLUMNS: &[&str] =
    &["id", "created_at", "action", "object", "account_id", "actor", "remote_address", "changed"];

/// Who changed what, newest first.
#[derive(Args)]
#[command(after_help = "\
Examples:
  switchboard audit                                        # your own account
  switchboard audit --object ag_… --json                   # with each object before and after
  switchboard audit --object key --since 2026-01-01
  switchboard audit --all                                  # every account and the server itself
  switchboard audit --account acct_… --action account.update

`--all` and `--account` need the operator token, all else an account key.")]
pub struct Audit {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(flatten)]
    pub(super) wanted: Wanted,
}

#[derive(Args)]
pub(super) struct Wanted {
    /// Every account's, and the server's own
    #[arg(long)]
    all: bool,
    /// Only what was done to this account's objects (acct_…)
    #[arg(long, value_name = "ACCOUNT", value_parser = parse::id)]
    account: Option<String>,
    /// Only what was done to this object (its id), or to this kind of object
    #[arg(long, value_name = "ID")]
    object: Option<String>,
    /// Only this action, such as agent.update
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// The first moment: a date or a time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse::moment)]
    since: Option<String>,
    /// The first moment that is too late: a date or a time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse::moment)]
    until: Option<String>,
    /// How many to show, 1 to 100 [default: 50]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Go on below this id, the last one seen
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
}

impl Wanted {
    pub(super) fn plan(self) -> Plan {
        let call = if self.all || self.account.is_some() {
            Call::get(Who::Operator, &["admin", "audit-log"])
        } else {
            Call::get(Who::Account, &["v2", "account", "audit-log"])
        };
        let call = call
            .query("account", self.account)
            .query("object", self.object)
            .query("action", self.action)
            .query("since", self.since)
            .query("until", self.until)
            .query("limit", self.limit)
            .query("after", self.after);
        Plan::new(call, |reply| {
            let records: Vec<Value> = output::rows(&reply.value).iter().map(line).collect();
            let last = records.last().map(|record| output::text(&record["id"])).unwrap_or_default();
            output::table(COLUMNS, &records) + &more(reply, &last)
        })
    }
}

fn more(reply: &Reply, last: &str) -> String {
    output::more(reply, 0, &format!("--after {last}"))
}

/// A record in one line: of the object only the names of what changed.
fn line(record: &Value) -> Value {
    let actor = match &record["actor"]["key_id"] {
        Value::String(key) => format!("{} {key}", output::text(&record["actor"]["kind"])),
        _ => output::text(&record["actor"]["kind"]),
    };
    json!({
        "id": record["id"],
        "created_at": record["created_at"],
        "action": record["action"],
        "object": record["object"]["id"],
        "account_id": record["account_id"],
        "actor": actor,
        "remote_address": record["remote_address"],
        "changed": changed(&record["before"], &record["after"]),
    })
}

fn changed(before: &Value, after: &Value) -> Vec<String> {
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else { return Vec::new() };
    let names = after.keys().chain(before.keys().filter(|name| !after.contains_key(*name)));
    names.filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_what_changed_and_who_did_it() {
        let record = json!({
            "id": 7,
            "action": "agent.update",
            "object": {"kind": "agent", "id": "ag_1"},
            "actor": {"kind": "account", "key_id": "key_1"},
            "before": {"name": "a", "model": "m", "gone": 1},
            "after": {"name": "b", "model": "m"},
        });
        let line = line(&record);
        assert_eq!(line["changed"], json!(["name", "gone"]));
        assert_eq!(line["actor"], "account key_1");
        assert_eq!(changed(&Value::Null, &json!({"name": "b"})), Vec::<String>::new());
    }
}
