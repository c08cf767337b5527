//! `switchboard account …`: tenants, as the operator sees them.

use anyhow::bail;
use clap::{Args, Subcommand};

use super::client::{Call, Reply};
use super::own_provider::OwnProvider;
use super::parse::{self, Body, Limits};
use super::server::{Server, Who};
use super::{Plan, output};

const FIRST: &[&str] = &[
    "id",
    "name",
    "status",
    "available",
    "held",
    "balance",
    "limits",
    "retention_days",
    "created_at",
    "updated_at",
    "key",
];
const COLUMNS: &[&str] = &["id", "name", "status", "balance", "available", "held", "created_at"];

/// Tenants: create them, suspend them, set their limits.
#[derive(Args)]
#[command(after_help = "\
Examples:
  switchboard account create \"Acme Ltd\" --balance 5.00
  switchboard account list
  switchboard account limits acct_… --limit-requests 600 --limit-concurrency 20
  switchboard account suspend acct_…
  switchboard account provider set mine --base-url https://llm.example.com/v1

These commands need the operator token; those of `account provider` need an account key.")]
pub struct Account {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Subcommand)]
pub(super) enum Action {
    /// Create a tenant; prints its first account key, this once
    Create {
        /// What to call it
        name: String,
        /// Money to start with, in USD
        #[arg(long, value_name = "USD", value_parser = parse::amount)]
        balance: Option<String>,
        #[command(flatten)]
        limits: Limits,
    },
    /// List tenants
    List {
        /// How many to show, 1 to 100 [default: 50]
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// How many to skip
        #[arg(long, value_name = "N")]
        offset: Option<u64>,
    },
    /// Show one tenant
    Show {
        /// The account (acct_…)
        #[arg(value_parser = parse::id)]
        id: String,
    },
    /// Refuse a tenant's chats until it is activated again; it still sees its data and its money
    Suspend {
        /// The account (acct_…)
        #[arg(value_parser = parse::id)]
        id: String,
    },
    /// Let a suspended tenant work again
    Activate {
        /// The account (acct_…)
        #[arg(value_parser = parse::id)]
        id: String,
    },
    /// Close a tenant for good: its agents, keys and sessions go, its running answers end; its ledger stays
    Close {
        /// The account (acct_…)
        #[arg(value_parser = parse::id)]
        id: String,
    },
    /// Set after how many idle days a tenant's sessions are deleted for good
    Retention {
        /// The account (acct_…)
        #[arg(value_parser = parse::id)]
        id: String,
        /// Days, or none to keep sessions for ever
        #[arg(value_parser = parse::count)]
        days: parse::Settable<u64>,
    },
    /// Set how much a tenant may do
    ///
    /// The given limits replace the former ones as a whole: what is not given falls back to the server's default.
    Limits {
        /// The account (acct_…)
        #[arg(value_parser = parse::id)]
        id: String,
        #[command(flatten)]
        limits: Limits,
        /// Take all limits of its own away
        #[arg(long)]
        reset: bool,
    },
    /// Keys of your own for providers (account key)
    #[command(subcommand)]
    Provider(OwnProvider),
}

impl Action {
    pub(super) fn plan(self) -> anyhow::Result<Plan> {
        let patch =
            |id: &str, body| Plan::new(Call::patch(Who::Operator, &["admin", "accounts", id], body), show);
        Ok(match self {
            Self::Create { name, balance, limits } => {
                let body = Body::default().set("name", Some(name)).set("balance", balance);
                let body = body.set_all("limits", limits.body());
                Plan::new(Call::post(Who::Operator, &["admin", "accounts"], body), created)
            }
            Self::List { limit, offset } => {
                let call = Call::get(Who::Operator, &["admin", "accounts"]);
                output::pages(call, COLUMNS, limit, offset)
            }
            Self::Show { id } => Plan::new(Call::get(Who::Operator, &["admin", "accounts", &id]), show),
            Self::Suspend { id } => patch(&id, Body::default().set("status", Some("suspended"))),
            Self::Activate { id } => patch(&id, Body::default().set("status", Some("active"))),
            Self::Close { id } => {
                let call = Call::delete(Who::Operator, &["admin", "accounts", &id]);
                Plan::new(call, move |_| format!("closed {id}; its ledger stays"))
            }
            Self::Retention { id, days } => patch(&id, Body::default().set("retention_days", Some(days))),
            Self::Limits { id, limits, reset } => {
                let limits = limits.body();
                if limits.is_empty() != reset {
                    bail!("give either some --limit-… or --reset (see --help)");
                }
                patch(&id, Body::default().set("limits", Some(limits)))
            }
            Self::Provider(own) => own.plan(),
        })
    }
}

fn show(reply: &Reply) -> String {
    output::details(FIRST, &reply.value)
}

fn created(reply: &Reply) -> String {
    let note = if reply.value["key"].is_null() { "" } else { output::SHOWN_ONCE };
    show(reply) + note
}
