//! `switchboard key …`: the keys of agents and of the account.

use anyhow::bail;
use clap::{Args, Subcommand};

use super::client::{Call, Reply};
use super::parse::{self, Body, Budget, Limits, Settable};
use super::server::{Server, Who};
use super::{Plan, output};

const FIRST: &[&str] =
    &["id", "name", "key", "preview", "agent_id", "scopes", "expires_at", "budget", "limits"];
const COLUMNS: &[&str] = &[
    "id",
    "name",
    "preview",
    "scopes",
    "public",
    "budget",
    "limits",
    "expires_at",
    "created_at",
    "last_used_at",
];

/// API keys of agents and of the account.
#[derive(Args)]
#[command(after_help = "\
An agent key (ak_…) chats with one agent. An account key (sk_…) can do everything of the account.

Examples:
  switchboard key create --agent ag_… --name app --budget 10.00/month --expires-at 2027-01-01
  switchboard key create --agent ag_… --name website --public
  switchboard key create --name ci                      # an account key
  switchboard key list --agent ag_…
  switchboard key update KEY_ID --agent ag_… --budget none
  switchboard key revoke KEY_ID --agent ag_…

These commands need an account key.")]
pub struct Key {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Subcommand)]
pub(super) enum Action {
    /// Create a key; the secret is shown this once
    Create {
        #[command(flatten)]
        owner: Owner,
        /// What to call it
        #[arg(long)]
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// List keys, by their first and last letters
    List {
        #[command(flatten)]
        owner: Owner,
    },
    /// Change an agent's key; what is not given stays as it is
    ///
    /// Scopes and limits replace the former ones as a whole.
    Update {
        /// The key's id, as `key list` shows it
        #[arg(value_parser = parse::id)]
        id: String,
        /// The agent that the key is for
        #[arg(long, value_name = "AGENT", value_parser = parse::id)]
        agent: String,
        /// What to call it
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// End a key, at once and for good
    Revoke {
        /// The key's id, as `key list` shows it
        #[arg(value_parser = parse::id)]
        id: String,
        #[command(flatten)]
        owner: Owner,
    },
}

/// Whose key it is.
#[derive(Args)]
#[group(skip)]
pub(super) struct Owner {
    /// The agent that the key is for; without it, the account
    #[arg(long, value_name = "AGENT", value_parser = parse::id)]
    agent: Option<String>,
}

/// What a key may do.
#[derive(Args)]
#[group(skip)]
pub(super) struct Settings {
    /// When it ends: a date, a time (RFC 3339), or none
    #[arg(long, value_name = "TIME", value_parser = parse::settable_moment)]
    expires_at: Option<Settable<String>>,
    /// What it may spend: AMOUNT/day, AMOUNT/month or AMOUNT/total in USD, or none
    #[arg(long, value_name = "AMOUNT/PERIOD", value_parser = parse::budget)]
    budget: Option<Settable<Budget>>,
    /// It may stand in a web page: it goes on only with sessions whose ids the server made
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true
    )]
    public: Option<bool>,
    /// A thing it may do (chat, sessions:read, usage:read); can be given several times
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    #[command(flatten)]
    limits: Limits,
}

impl Settings {
    fn body(self, name: Option<String>) -> Body {
        Body::default()
            .set("name", name)
            .set("expires_at", self.expires_at)
            .set("budget", self.budget)
            .set("public", self.public)
            .set_all("scopes", self.scopes)
            .set_all("limits", self.limits.body())
    }
}

impl Owner {
    fn path<'a>(&'a self, key: &'a [&'a str]) -> Vec<&'a str> {
        let keys: &[&str] = match &self.agent {
            Some(agent) => &["v2", "agents", agent, "api-keys"],
            None => &["v2", "account", "api-keys"],
        };
        [keys, key].concat()
    }
}

impl Action {
    pub(super) fn plan(self) -> anyhow::Result<Plan> {
        Ok(match self {
            Self::Create { owner, name, settings } => {
                let call = Call::post(Who::Account, &owner.path(&[]), settings.body(Some(name)));
                Plan::new(call, |reply| show(reply) + output::SHOWN_ONCE)
            }
            Self::List { owner } => Plan::new(Call::get(Who::Account, &owner.path(&[])), |reply| {
                output::table(COLUMNS, output::rows(&reply.value))
            }),
            Self::Update { id, agent, name, settings } => {
                let body = settings.body(name);
                if body.is_empty() {
                    bail!("nothing to change: give at least one setting (see --help)");
                }
                let owner = Owner { agent: Some(agent) };
                Plan::new(Call::patch(Who::Account, &owner.path(&[&id]), body), show)
            }
            Self::Revoke { id, owner } => {
                let call = Call::delete(Who::Account, &owner.path(&[&id]));
                Plan::new(call, move |_| format!("revoked {id}"))
            }
        })
    }
}

fn show(reply: &Reply) -> String {
    output::details(FIRST, &reply.value)
}
