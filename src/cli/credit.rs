//! `switchboard credit …`: money in, and what is left of it.

use clap::{Args, Subcommand};

use super::client::{Call, Reply};
use super::parse::{self, Body};
use super::server::{Server, Who};
use super::{Plan, output};

const COLUMNS: &[&str] = &[
    "seq",
    "created_at",
    "kind",
    "delta",
    "balance_after",
    "model",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "session_id",
    "external_ref",
    "note",
];

/// Money: add it, see what is left of it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  switchboard credit add acct_… 5.00 --ref payment-123     # the same --ref twice is one credit
  switchboard credit adjust acct_… -1.00 --note 'charged twice on 3 May'
  switchboard credit balance
  switchboard credit transactions --limit 20

`add` and `adjust` need the operator token, `balance` and `transactions` an account key.")]
pub struct Credit {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Subcommand)]
pub(super) enum Action {
    /// Add money that was paid
    Add {
        /// The account (acct_…)
        #[arg(value_parser = parse::id)]
        account: String,
        /// How much, in USD
        #[arg(value_parser = parse::amount, allow_negative_numbers = true)]
        amount: String,
        /// The payment's own id: the same one twice is one credit
        #[arg(long = "ref", value_name = "REF")]
        reference: String,
    },
    /// Correct a balance, up or down, with a reason
    Adjust {
        /// The account (acct_…)
        #[arg(value_parser = parse::id)]
        account: String,
        /// How much, in USD; negative takes away
        #[arg(value_parser = parse::signed_amount, allow_negative_numbers = true)]
        amount: String,
        /// The reason, for the books
        #[arg(long, value_name = "TEXT")]
        note: String,
    },
    /// What the account can spend, what running requests hold, and both
    Balance,
    /// Every movement of money, newest first; --json has every field
    Transactions(Page),
}

/// A page of the ledger.
#[derive(Args)]
#[group(skip)]
pub(super) struct Page {
    /// How many to show, 1 to 100 [default: 50]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Go on below this seq, the last one seen
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
}

impl Action {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Add { account, amount, reference } => {
                let body =
                    Body::default().set("amount", Some(amount)).set("external_ref", Some(reference.clone()));
                let call = Call::post(Who::Operator, &["admin", "accounts", &account, "credit"], body);
                Plan::new(call, move |reply| match reply.status {
                    200 => format!("{}\n{reference} was credited before: nothing changed\n", moved(reply)),
                    _ => moved(reply),
                })
            }
            Self::Adjust { account, amount, note } => {
                let body = Body::default().set("amount", Some(amount)).set("note", Some(note));
                Plan::new(Call::post(Who::Operator, &["admin", "accounts", &account, "adjust"], body), moved)
            }
            Self::Balance => Plan::new(Call::get(Who::Account, &["v2", "billing", "balance"]), |reply| {
                output::details(&["available", "held", "balance", "currency"], &reply.value)
            }),
            Self::Transactions(page) => page.plan(),
        }
    }
}

impl Page {
    /// `credit transactions` and `ledger transactions` are one command.
    pub(super) fn plan(self) -> Plan {
        let call = Call::get(Who::Account, &["v2", "billing", "transactions"]);
        Plan::new(call.query("limit", self.limit).query("after", self.after), |reply| {
            let entries = output::rows(&reply.value);
            let last = entries.last().map(|entry| output::text(&entry["seq"])).unwrap_or_default();
            output::table(COLUMNS, entries) + &output::more(reply, 0, &format!("--after {last}"))
        })
    }
}

fn moved(reply: &Reply) -> String {
    output::details(&["account_id", "seq", "kind", "delta", "balance_after"], &reply.value)
}
