//! What an account key manages.

use actix_web::http::StatusCode;
use serde_json::{Value, json};

use crate::conversation::agent::Definition;
use crate::http::endpoint::{Endpoint, Keys, Parameter, delete, get, patch, post, put, query};
use crate::http::manage::{
    account, agents as agent, audit_log, billing, keys as key, own_providers, webhooks as webhook,
};
use crate::http::query::{limit, offset};
use crate::store::audit_log::Action;
use crate::wire::native::audit_log::AuditLog;
use crate::wire::native::ledger::{TransactionList, UsageReport};
use crate::wire::native::objects::{
    Agent, AgentList, Balance, Key, KeyList, MadeKey, MadeWebhook, OwnAccount, WebhookList,
};
use crate::wire::native::providers::{OwnProvider, OwnProviderList};
use crate::wire::native::requests::{
    KeyChange, NewAccountKey, NewAgentKey, NewOwnProvider, NewWebhook, OwnAccountChange,
};

const OK: StatusCode = StatusCode::OK;

pub fn agents() -> Vec<Endpoint> {
    let definition = json!({"name": "Clerk", "instructions": "You are terse.", "max_tokens": 300});
    vec![
        post("/v2/agents", agent::create, "Make an agent")
            .about("Only `name` is required. The model needs a price.")
            .by(Keys::Account)
            .takes::<Definition>(definition)
            .requires(&["name"])
            .answers::<Agent>(StatusCode::CREATED, "The agent."),
        get("/v2/agents", agent::list, "List agents")
            .by(Keys::Account)
            .with([limit(), offset()])
            .answers::<AgentList>(OK, "A page of agents."),
        get("/v2/agents/{id}", agent::show, "Show an agent")
            .by(Keys::Account)
            .answers::<Agent>(OK, "The agent."),
        patch("/v2/agents/{id}", agent::update, "Change an agent")
            .about("Absent fields stay, null clears, and what is given replaces the former value as a whole.")
            .by(Keys::Account)
            .takes::<Definition>(json!({"temperature": 0.2}))
            .answers::<Agent>(OK, "The agent as it is now."),
        delete("/v2/agents/{id}", agent::delete, "Delete an agent")
            .about("Takes its keys and sessions along and ends its running turns. Billing records stay.")
            .by(Keys::Account)
            .nothing(StatusCode::NO_CONTENT, "It is gone."),
    ]
}

pub fn keys() -> Vec<Endpoint> {
    vec![
        post("/v2/agents/{id}/api-keys", key::create_for_agent, "Make a key of an agent")
            .by(Keys::Account)
            .takes::<NewAgentKey>(json!({"name": "website", "budget": {"amount": "5.00", "period": "month"}}))
            .answers::<MadeKey>(StatusCode::CREATED, "The key, with its secret this once."),
        get("/v2/agents/{id}/api-keys", key::list_of_agent, "List the keys of an agent")
            .by(Keys::Account)
            .answers::<KeyList>(OK, "The keys, without their secrets."),
        patch("/v2/agents/{id}/api-keys/{key_id}", key::update_of_agent, "Change a key of an agent")
            .about("Absent fields stay, null clears.")
            .by(Keys::Account)
            .takes::<KeyChange>(json!({"expires_at": null, "limits": {"requests_per_minute": 60}}))
            .answers::<Key>(OK, "The key as it is now."),
        delete("/v2/agents/{id}/api-keys/{key_id}", key::revoke_of_agent, "Revoke a key of an agent")
            .about("It ends at once, its running turns too.")
            .by(Keys::Account)
            .nothing(StatusCode::NO_CONTENT, "It has ended."),
        get("/v2/account", account::show, "Show the account")
            .by(Keys::Account)
            .answers::<OwnAccount>(OK, "The account.")
            .fails(&[404]),
        patch("/v2/account", account::update, "Set how long sessions are kept")
            .by(Keys::Account)
            .takes::<OwnAccountChange>(json!({"retention_days": 90}))
            .answers::<OwnAccount>(OK, "The account as it is now.")
            .fails(&[404]),
        get("/v2/account/audit-log", audit_log::own, "Read the audit log")
            .about("Who changed what: every management call of the account, and what the operator did to it.")
            .by(Keys::Account)
            .with(audit_filters())
            .answers::<AuditLog>(OK, "A page of records, the newest first."),
        post("/v2/account/api-keys", key::create_for_account, "Make an account key")
            .by(Keys::Account)
            .takes::<NewAccountKey>(json!({"name": "reports", "scopes": ["usage:read"]}))
            .answers::<MadeKey>(StatusCode::CREATED, "The key, with its secret this once."),
        get("/v2/account/api-keys", key::list_of_account, "List account keys")
            .by(Keys::Account)
            .answers::<KeyList>(OK, "The keys, without their secrets."),
        delete("/v2/account/api-keys/{key_id}", key::revoke_of_account, "Revoke an account key")
            .about("Not the last one without scopes and expiry.")
            .by(Keys::Account)
            .nothing(StatusCode::NO_CONTENT, "It has ended.")
            .fails(&[400]),
    ]
}

/// Money takes an account key that may manage, or has this scope.
const MONEY: &str = "It takes an account key, also one whose scopes have `usage:read`.";

pub fn money() -> Vec<Endpoint> {
    let after = query(
        "after",
        "The `seq` of the last row seen.",
        json!({"type": "integer", "minimum": 1, "maximum": i64::MAX}),
    );
    vec![
        get("/v2/billing/balance", billing::balance, "Show the balance")
            .about(MONEY)
            .by(Keys::Account)
            .answers::<Balance>(OK, "What the account has.")
            .example(balance())
            .fails(&[404]),
        get("/v2/billing/transactions", billing::transactions, "Read the ledger")
            .about(MONEY)
            .by(Keys::Account)
            .with([limit(), after, format()])
            .answers::<TransactionList>(OK, "A page of the ledger, the newest first.")
            .text(OK, "", "text/csv", "seq,created_at,kind,delta,balance_after\r\n"),
        get("/v2/usage", billing::usage, "Sum up usage")
            .about(MONEY)
            .by(Keys::Account)
            .with([
                query("from", "From this moment or day on; 30 days before `to`.", moment()),
                query("to", "Up to this moment or day; now.", moment()),
                query(
                    "group_by",
                    "What a row sums up.",
                    json!({"type": "string", "enum": ["day", "agent", "key", "model"], "default": "day"}),
                ),
                format(),
            ])
            .answers::<UsageReport>(OK, "A row a group.")
            .text(OK, "", "text/csv", "group,requests,prompt_tokens,cached_tokens,output_tokens,cost\r\n"),
    ]
}

pub fn webhooks() -> Vec<Endpoint> {
    let new = json!({"url": "https://example.com/hook", "events": ["balance.low"], "balance_low": ["1.00"]});
    vec![
        post("/v2/webhooks", webhook::create, "Make a webhook")
            .about("At most 10 an account. Requests are signed as Standard Webhooks says.")
            .by(Keys::Account)
            .takes::<NewWebhook>(new)
            .answers::<MadeWebhook>(StatusCode::CREATED, "The webhook, with its secret this once."),
        get("/v2/webhooks", webhook::list, "List webhooks")
            .by(Keys::Account)
            .answers::<WebhookList>(OK, "The webhooks, without their secrets."),
        delete("/v2/webhooks/{id}", webhook::delete, "Delete a webhook")
            .about("What it was still to be told is lost.")
            .by(Keys::Account)
            .nothing(StatusCode::NO_CONTENT, "It is gone."),
    ]
}

pub fn own_providers() -> Vec<Endpoint> {
    let key = json!({"api_key": "sk-example-0123456789", "base_url": "https://models.example.com/v1"});
    vec![
        get("/v2/account/providers", own_providers::list, "List your own providers")
            .by(Keys::Account)
            .answers::<OwnProviderList>(OK, "What you brought, without the keys."),
        put("/v2/account/providers/{name}", own_providers::set, "Bring a key or a provider of your own")
            .about(
                "Without `base_url`, `name` is one of the operator's providers and your key takes the place of the \
                 operator's. With it, it is a provider of your own, named `name/model` by your agents.",
            )
            .by(Keys::Account)
            .takes::<NewOwnProvider>(key)
            .answers::<OwnProvider>(StatusCode::CREATED, "It is new.")
            .answers::<OwnProvider>(OK, "It takes the place of the former one."),
        delete("/v2/account/providers/{name}", own_providers::delete, "Take back a key or a provider")
            .by(Keys::Account)
            .nothing(StatusCode::NO_CONTENT, "It is gone."),
    ]
}

fn balance() -> Value {
    json!({"currency": "USD", "available": "4.900000000", "held": "0.099975800", "balance": "4.999975800"})
}

/// How the audit log is narrowed down.
pub fn audit_filters() -> [Parameter; 6] {
    let actions = Action::ALL.map(|(_, word)| word);
    [
        query(
            "object",
            "Only what was done to the object of this id, or to objects of this kind.",
            json!({"type": "string"}),
        ),
        query("action", "Only this action.", json!({"type": "string", "enum": actions})),
        query("since", "From this moment or day on.", moment()),
        query("until", "Before this moment or day.", moment()),
        query(
            "after",
            "The `id` of the last record seen.",
            json!({"type": "integer", "minimum": 1, "maximum": i64::MAX}),
        ),
        limit(),
    ]
}

fn moment() -> Value {
    json!({"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}], "examples": ["2030-01-31"]})
}

fn format() -> Parameter {
    let schema = json!({"type": "string", "enum": ["json", "csv"], "default": "json"});
    query("format", "`csv` for a spreadsheet.", schema)
}
