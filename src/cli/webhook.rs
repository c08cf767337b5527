//! `switchboard webhook …`: where an account is told that its money runs out.

use clap::{Args, Subcommand};

use super::client::Call;
use super::parse::{self, Body};
use super::server::{Server, Who};
use super::{Plan, output};

const FIRST: &[&str] = &["id", "url", "events", "balance_low", "secret"];
const COLUMNS: &[&str] = &["id", "url", "events", "balance_low", "created_at"];
const EVENTS: [&str; 3] = ["balance.low", "balance.exhausted", "budget.exceeded"];
/// Follows a secret that was just made.
const SHOWN_ONCE: &str = "\nkeep the secret: it is not shown again\n";

/// Webhooks: signed requests that tell an account that its money runs out.
#[derive(Args)]
#[command(after_help = "\
Examples:
  switchboard webhook create https://example.com/hook --balance-low 1.00 --balance-low 0.10
  switchboard webhook create https://example.com/hook --event budget.exceeded
  switchboard webhook list
  switchboard webhook delete wh_…

These commands need an account key.")]
pub struct Webhook {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Subcommand)]
pub(super) enum Action {
    /// Add a webhook
    Create {
        /// Where to send events
        // Not called `url`: that is where the server is.
        #[arg(value_name = "URL")]
        target: String,
        /// An event to send; can be given several times [default: all]
        #[arg(long = "event", value_name = "EVENT", value_parser = EVENTS)]
        events: Vec<String>,
        /// A balance in USD that is told when it is reached from above; can be given several times
        #[arg(long, value_name = "USD", value_parser = parse::amount)]
        balance_low: Vec<String>,
    },
    /// List the account's webhooks
    List,
    /// Delete a webhook; what it was still to be told is lost
    Delete {
        /// The webhook (wh_…)
        #[arg(value_parser = parse::id)]
        id: String,
    },
}

impl Action {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Create { target, events, balance_low } => {
                let body = Body::default()
                    .set("url", Some(target))
                    .set_all("events", events)
                    .set_all("balance_low", balance_low);
                Plan::new(Call::post(Who::Account, &["v2", "webhooks"], body), |reply| {
                    output::details(FIRST, &reply.value) + SHOWN_ONCE
                })
            }
            Self::List => Plan::new(Call::get(Who::Account, &["v2", "webhooks"]), |reply| {
                output::table(COLUMNS, output::rows(&reply.value))
            }),
            Self::Delete { id } => {
                let call = Call::delete(Who::Account, &["v2", "webhooks", &id]);
                Plan::new(call, move |_| format!("deleted {id}"))
            }
        }
    }
}
