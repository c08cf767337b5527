//! What each command line asks of the server.

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::server::Who;
use super::{Manage, Plan};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Manage,
}

fn parsed(line: &[&str]) -> Result<Manage, String> {
    let words = std::iter::once("switchboard").chain(line.iter().copied());
    Cli::try_parse_from(words).map(|cli| cli.command).map_err(|fault| fault.to_string())
}

fn plan(line: &[&str]) -> Plan {
    let plan = match parsed(line).expect("a command") {
        Manage::Account(noun) => noun.action.plan(),
        Manage::Agent(noun) => noun.action.plan(),
        Manage::Key(noun) => noun.action.plan(),
        Manage::Credit(noun) => Ok(noun.action.plan()),
        Manage::Price(noun) => noun.action.plan(),
        Manage::Provider(noun) => Ok(noun.action.plan()),
        Manage::Session(noun) => Ok(noun.action.plan()),
        Manage::Ledger(noun) => Ok(noun.action.plan()),
        Manage::Webhook(noun) => Ok(noun.action.plan()),
        Manage::Audit(noun) => Ok(noun.wanted.plan()),
    };
    plan.expect("a plan")
}

/// The request of a command line: whose, which, and with what body.
fn request(line: &[&str]) -> (Who, String, Value) {
    let call = plan(line).call;
    (call.who, format!("{} {}", call.method, call.target), call.body.unwrap_or_default())
}

#[test]
fn the_commands_are_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn where_the_server_is_can_stand_anywhere() {
    for line in [&["account", "--json", "list"], &["account", "list", "--json"]] {
        let Ok(Manage::Account(noun)) = parsed(line) else { panic!("{line:?}") };
        assert!(noun.server.json);
    }
    let Ok(Manage::Ledger(noun)) = parsed(&["ledger", "verify", "--offline", "--data", "/x"]) else {
        panic!()
    };
    assert!(noun.is_offline());
    assert_eq!(noun.server.data(), std::path::Path::new("/x"));
    assert!(parsed(&["account", "list", "--url", "nowhere"]).is_err());
}

#[test]
fn accounts_are_the_operators() {
    let line = [
        "account",
        "create",
        "Acme",
        "--balance",
        "5.00",
        "--limit-requests",
        "60",
        "--limit-tokens",
        "none",
    ];
    let body = json!({ "name": "Acme", "balance": "5.00", "limits": { "requests_per_minute": 60, "tokens_per_minute": null } });
    assert_eq!(request(&line), (Who::Operator, "POST /admin/accounts".into(), body));
    let suspend = request(&["account", "suspend", "acct_1"]);
    assert_eq!(
        suspend,
        (Who::Operator, "PATCH /admin/accounts/acct_1".into(), json!({ "status": "suspended" }))
    );
    assert!(parsed(&["account", "show", ""]).is_err());
    let Ok(Manage::Account(noun)) = parsed(&["account", "limits", "acct_1"]) else { panic!() };
    assert!(noun.action.plan().is_err());
    assert_eq!(request(&["account", "limits", "acct_1", "--reset"]).2, json!({ "limits": {} }));
    assert_eq!(request(&["account", "list", "--offset", "50"]).1, "GET /admin/accounts?offset=50");
}

#[test]
fn an_agent_takes_its_settings_from_flags() {
    let line = [
        "agent",
        "create",
        "Helper",
        "--model",
        "m",
        "--instructions",
        "Be terse.",
        "--temperature",
        "0.2",
        "--max-tokens",
        "9",
        "--param",
        "seed=7",
        "--param",
        "reasoning_effort=low",
        "--lock",
        "seed",
        "--lock",
        "temperature",
        "--metadata",
        "team=a=b",
    ];
    let body = json!({
        "name": "Helper", "model": "m", "instructions": "Be terse.", "temperature": 0.2, "max_tokens": 9,
        "parameters": { "seed": 7, "reasoning_effort": "low" }, "locked": ["seed", "temperature"],
        "metadata": { "team": "a=b" },
    });
    assert_eq!(request(&line), (Who::Account, "POST /v2/agents".into(), body));
    let update = request(&["agent", "update", "ag_1", "--name", "New", "--clear", "max_tokens"]);
    assert_eq!(
        update,
        (Who::Account, "PATCH /v2/agents/ag_1".into(), json!({ "name": "New", "max_tokens": null }))
    );
    let list = request(&["agent", "list", "--limit", "5", "--offset", "10"]);
    assert_eq!(list.1, "GET /v2/agents?limit=5&offset=10");
}

#[test]
fn instructions_come_from_a_file() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "From a file.\n").expect("written");
    let from = format!("@{}", file.path().display());
    assert_eq!(
        request(&["agent", "create", "a", "--instructions", &from]).2["instructions"],
        "From a file.\n"
    );
}

#[test]
fn a_key_is_an_agents_or_the_accounts() {
    let line = [
        "key",
        "create",
        "--agent",
        "ag_1",
        "--name",
        "web",
        "--budget",
        "10.00/month",
        "--public",
        "--scope",
        "chat",
    ];
    let budget = json!({ "amount": "10.00", "period": "month" });
    let body = json!({ "name": "web", "budget": budget, "public": true, "scopes": ["chat"] });
    assert_eq!(request(&line), (Who::Account, "POST /v2/agents/ag_1/api-keys".into(), body));
    assert_eq!(request(&["key", "create", "--name", "ci"]).1, "POST /v2/account/api-keys");
    assert_eq!(request(&["key", "revoke", "k1"]).1, "DELETE /v2/account/api-keys/k1");
    let update =
        request(&["key", "update", "k1", "--agent", "ag_1", "--expires-at", "none", "--public=false"]);
    assert_eq!(update.1, "PATCH /v2/agents/ag_1/api-keys/k1");
    assert_eq!(update.2, json!({ "expires_at": null, "public": false }));
}

#[test]
fn money_goes_in_by_the_operator_and_is_seen_by_the_account() {
    let add = request(&["credit", "add", "acct_1", "5.00", "--ref", "p-1"]);
    let body = json!({ "amount": "5.00", "external_ref": "p-1" });
    assert_eq!(add, (Who::Operator, "POST /admin/accounts/acct_1/credit".into(), body));
    let adjust = request(&["credit", "adjust", "acct_1", "-1.00", "--note", "twice"]);
    assert_eq!(adjust.2, json!({ "amount": "-1.00", "note": "twice" }));
    assert!(parsed(&["credit", "add", "acct_1", "-5.00", "--ref", "p"]).is_err());
    assert_eq!(request(&["credit", "balance"]).0, Who::Account);
    assert_eq!(
        request(&["ledger", "transactions", "--after", "7"]).1,
        "GET /v2/billing/transactions?after=7"
    );
}

#[test]
fn prices_sessions_and_usage_follow_the_contract() {
    let price = request(&[
        "price",
        "set",
        "a/b",
        "--input",
        "0.15",
        "--output",
        "0.60",
        "--effective-from",
        "2027-01-01",
    ]);
    let body = json!({ "model": "a/b", "input": "0.15", "output": "0.60", "effective_from": "2027-01-01T00:00:00Z" });
    assert_eq!(price, (Who::Operator, "POST /admin/prices".into(), body));
    let archive = request(&["session", "archive", "mine:1", "--agent", "ag_1"]);
    assert_eq!(
        archive,
        (Who::Account, "PATCH /v2/sessions/mine:1?agent_id=ag_1".into(), json!({ "status": "archived" }))
    );
    let fork = request(&["session", "fork", "s", "--message", "msg_4", "--metadata", "a=b"]);
    let body = json!({ "message_id": "msg_4", "metadata": { "a": "b" } });
    assert_eq!(fork, (Who::Account, "POST /v2/sessions/s/fork".into(), body));
    let truncate = request(&["session", "truncate", "s", "--all"]);
    assert_eq!(truncate, (Who::Account, "POST /v2/sessions/s/truncate".into(), json!({ "after": null })));
    assert!(parsed(&["session", "truncate", "s"]).is_err());
    let export = plan(&["session", "export", "--agent", "ag_1"]);
    assert!(export.as_it_comes);
    assert_eq!(export.call.target, "/v2/sessions/export?agent_id=ag_1");
    assert_eq!(request(&["session", "export", "s"]).1, "GET /v2/sessions/s/export");
    let noted = request(&["session", "list", "--metadata", "user=4 2"]);
    assert_eq!(noted.1, "GET /v2/sessions?metadata%5Buser%5D=4%202");
    let retention = request(&["session", "retention", "30"]);
    assert_eq!(retention, (Who::Account, "PATCH /v2/account".into(), json!({ "retention_days": 30 })));
    let kept = request(&["account", "retention", "acct_1", "none"]);
    assert_eq!(kept.2, json!({ "retention_days": null }));
    let list = request(&["session", "list", "--status", "active", "--after", "s"]);
    assert_eq!(list.1, "GET /v2/sessions?status=active&after=s");
    let usage = request(&["ledger", "usage", "--from", "2026-01-01", "--group-by", "day"]);
    assert_eq!(usage.1, "GET /v2/usage?from=2026-01-01T00:00:00Z&group_by=day");
    assert_eq!(
        request(&["ledger", "verify"]),
        (Who::Operator, "GET /admin/ledger/verify".into(), Value::Null)
    );
}

#[test]
fn the_token_of_the_environment_is_not_shown() {
    let help = parsed(&["account", "list", "--help"]).err().expect("help");
    assert!(help.contains("SWITCHBOARD_TOKEN") && !help.contains("[env: SWITCHBOARD_TOKEN="), "{help}");
}

#[test]
fn webhooks_are_the_accounts() {
    let line =
        ["webhook", "create", "https://a.example/hook", "--balance-low", "1.00", "--balance-low", "0.10"];
    let body = json!({ "url": "https://a.example/hook", "balance_low": ["1.00", "0.10"] });
    assert_eq!(request(&line), (Who::Account, "POST /v2/webhooks".into(), body));
    let Ok(Manage::Webhook(noun)) = parsed(&line) else { panic!("a webhook") };
    assert_eq!(noun.server.url(), "http://127.0.0.1:8080", "the target is taken for the server");
    let delete = request(&["webhook", "delete", "wh_1"]);
    assert_eq!(delete, (Who::Account, "DELETE /v2/webhooks/wh_1".into(), Value::Null));
    assert!(parsed(&["webhook", "create", "https://a.example", "--event", "balance.high"]).is_err());
}

#[test]
fn the_audit_log_is_the_account_s_own_unless_all_or_one_account_is_asked_for() {
    let own = request(&["audit", "--object", "ag_1", "--since", "2030-01-01"]);
    let path = "GET /v2/account/audit-log?object=ag_1&since=2030-01-01T00:00:00Z";
    assert_eq!(own, (Who::Account, path.into(), Value::Null));
    let all = request(&["audit", "--all", "--limit", "5"]);
    assert_eq!(all, (Who::Operator, "GET /admin/audit-log?limit=5".into(), Value::Null));
    let one = request(&["audit", "--account", "acct_1", "--after", "9"]);
    assert_eq!(one, (Who::Operator, "GET /admin/audit-log?account=acct_1&after=9".into(), Value::Null));
}
