//! What the operator's token does.

use actix_web::http::StatusCode;
use serde_json::json;

use crate::http::endpoint::{Endpoint, Keys, delete, get, patch, post, query};
use crate::http::manage::{audit_log, operator, prices};
use crate::http::query::{limit, offset};
use crate::http::routes::tenants::audit_filters;
use crate::wire::native::audit_log::AuditLog;
use crate::wire::native::explain::Explanation;
use crate::wire::native::ledger::{PostedEntry, Verdict};
use crate::wire::native::objects::{Account, AccountList, MadeAccount, PriceList, RunningTurns, SetPrices};
use crate::wire::native::providers::ProviderList;
use crate::wire::native::requests::{AccountChange, Adjustment, Credit, NewAccount, NewPrices};

const OK: StatusCode = StatusCode::OK;
const CREATED: StatusCode = StatusCode::CREATED;

pub fn endpoints() -> Vec<Endpoint> {
    let calls = accounts().into_iter().chain(ledger()).chain(models());
    calls.map(|endpoint| endpoint.by(Keys::Operator)).collect()
}

fn accounts() -> Vec<Endpoint> {
    vec![
        post("/admin/accounts", operator::create_account, "Make an account")
            .takes::<NewAccount>(json!({"name": "Acme Ltd", "balance": "20.00"}))
            .answers::<MadeAccount>(CREATED, "The account, with its first key this once."),
        get("/admin/accounts", operator::list_accounts, "List accounts")
            .with([limit(), offset()])
            .answers::<AccountList>(OK, "A page of accounts."),
        get("/admin/accounts/{id}", operator::show_account, "Show an account")
            .answers::<Account>(OK, "The account."),
        patch("/admin/accounts/{id}", operator::update_account, "Suspend or limit an account")
            .about("A suspended account's keys still read and manage.")
            .takes::<AccountChange>(json!({"status": "suspended"}))
            .answers::<Account>(OK, "The account as it is now."),
        delete("/admin/accounts/{id}", operator::close_account, "Close an account")
            .about(
                "For good: its agents, keys, sessions, webhooks and provider keys go, its running answers end. Its \
                 ledger and its balance stay.",
            )
            .nothing(StatusCode::NO_CONTENT, "It is closed."),
        post("/admin/accounts/{id}/credit", operator::credit, "Credit a payment")
            .about("The same reference twice is one credit.")
            .takes::<Credit>(json!({"amount": "5.00", "external_ref": "payment-123"}))
            .answers::<PostedEntry>(CREATED, "The ledger's new entry.")
            .answers::<PostedEntry>(OK, "The entry of the earlier credit of that reference.")
            .fails(&[422]),
        post("/admin/accounts/{id}/adjust", operator::adjust, "Correct a balance")
            .takes::<Adjustment>(json!({"amount": "-1.00", "note": "refunded by hand"}))
            .answers::<PostedEntry>(CREATED, "The ledger's new entry."),
    ]
}

fn ledger() -> Vec<Endpoint> {
    vec![
        get("/admin/audit-log", audit_log::all, "Read the audit log")
            .about("Who changed what: every management call of every account, of the operator, and of the server.")
            .with(audit_filters())
            .with([query("account", "Only what was done to this account's objects.", json!({"type": "string"}))])
            .answers::<AuditLog>(OK, "A page of records, the newest first."),
        get("/admin/ledger/verify", operator::verify, "Check the books")
            .answers::<Verdict>(OK, "What has to hold, and what does not."),
        get("/admin/ledger/explain/{id}", operator::explain, "Explain a charge")
            .about("By the id of a request, a completion or a hold.")
            .answers::<Explanation>(OK, "Price, hold, usage, entry, and the story in sentences."),
    ]
}

fn models() -> Vec<Endpoint> {
    vec![
        post("/admin/prices", prices::set, "Set prices")
            .about("One price, or up to 1,000 in a list, all or none. Rows are added and never changed.")
            .takes::<NewPrices>(json!({"model": "gpt-4o-mini", "input": "0.15", "output": "0.60"}))
            .answers::<SetPrices>(CREATED, "What was set."),
        get("/admin/prices", prices::list, "List prices").answers::<PriceList>(OK, "All rows."),
        get("/admin/providers", operator::providers, "List providers")
            .answers::<ProviderList>(OK, "The configured providers, without their keys."),
        get("/admin/streams", operator::streams, "List running answers")
            .answers::<RunningTurns>(OK, "The turns that run."),
    ]
}
