//! `switchboard agent …`: the assistants of one account.

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::client::{Call, Reply};
use super::parse::{self, Body};
use super::server::{Server, Who};
use super::{Plan, output};

const FIRST: &[&str] =
    &["id", "name", "description", "model", "fallbacks", "instructions", "temperature", "max_tokens"];
const COLUMNS: &[&str] = &["id", "name", "model", "description", "created_at"];
const CLEARABLE: [&str; 11] = [
    "description",
    "instructions",
    "temperature",
    "max_tokens",
    "parameters",
    "fallbacks",
    "context_tokens",
    "context",
    "expires_after",
    "locked",
    "metadata",
];

/// Agents: the configured assistants that clients name as `model`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  switchboard agent create Helper --model openai/gpt-4o-mini --instructions 'You are terse.'
  switchboard agent create Clerk --model gpt-4o-mini --instructions @clerk.md \\
      --temperature 0.2 --param reasoning_effort=low --param 'stop=[\"END\"]' --lock temperature
  switchboard agent update ag_… --max-tokens 800
  switchboard key create --agent ag_… --name website     # lets a client chat with it

These commands need an account key.")]
pub struct Agent {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Subcommand)]
pub(super) enum Action {
    /// Create an agent
    Create {
        /// What to call it
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// List the account's agents
    List {
        /// How many to show, 1 to 100 [default: 50]
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// How many to skip
        #[arg(long, value_name = "N")]
        offset: Option<u64>,
    },
    /// Show one agent
    Show {
        /// The agent (ag_…)
        #[arg(value_parser = parse::id)]
        id: String,
    },
    /// Change an agent; what is not given stays as it is
    ///
    /// Lists and maps (--param, --fallback, --lock, --metadata) replace the former ones as a whole.
    Update {
        /// The agent (ag_…)
        #[arg(value_parser = parse::id)]
        id: String,
        /// What to call it
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        settings: Settings,
        /// Take a setting away again; can be given several times
        #[arg(long, value_name = "FIELD", value_parser = CLEARABLE)]
        clear: Vec<String>,
    },
    /// Delete an agent with its keys and sessions; its billing records stay
    Delete {
        /// The agent (ag_…)
        #[arg(value_parser = parse::id)]
        id: String,
    },
}

/// What an agent is made of.
#[derive(Args)]
#[group(skip)]
pub(super) struct Settings {
    /// The model that answers: provider/model, or a bare name
    #[arg(long)]
    model: Option<String>,
    /// The system message of every conversation, or @FILE to read it from (@-: standard input)
    #[arg(long, value_name = "TEXT|@FILE")]
    instructions: Option<String>,
    /// What the agent is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Randomness, 0 to 2
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// The longest answer, in tokens
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,
    /// A further field for the provider, its value as JSON; can be given several times
    #[arg(long = "param", value_name = "NAME=JSON", value_parser = parse::json_pair)]
    params: Vec<(String, Value)>,
    /// A model to try when the first one fails; can be given several times
    #[arg(long = "fallback", value_name = "MODEL")]
    fallbacks: Vec<String>,
    /// The longest prompt, in tokens: beyond it the oldest turns are left out
    #[arg(long, value_name = "N")]
    context_tokens: Option<u64>,
    /// What becomes of the turns that are left out: truncate, or summarize for a summary in their place
    #[arg(long, value_name = "HOW", value_parser = ["truncate", "summarize"])]
    context: Option<String>,
    /// Seconds without a turn after which a session closes
    #[arg(long, value_name = "SECONDS")]
    expires_after: Option<u64>,
    /// A parameter that requests may not override; can be given several times
    #[arg(long = "lock", value_name = "NAME")]
    locked: Vec<String>,
    /// A note of your own; can be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::text_pair)]
    metadata: Vec<(String, String)>,
}

impl Settings {
    fn body(self) -> anyhow::Result<Body> {
        let instructions = self.instructions.as_deref().map(parse::text_or_file).transpose()?;
        let metadata: Map<String, Value> =
            self.metadata.into_iter().map(|(name, value)| (name, value.into())).collect();
        Ok(Body::default()
            .set("model", self.model)
            .set("instructions", instructions)
            .set("description", self.description)
            .set("temperature", self.temperature)
            .set("max_tokens", self.max_tokens)
            .set_all("parameters", self.params.into_iter().collect::<Map<_, _>>())
            .set_all("fallbacks", self.fallbacks)
            .set("context_tokens", self.context_tokens)
            .set("context", self.context)
            .set("expires_after", self.expires_after)
            .set_all("locked", self.locked)
            .set_all("metadata", metadata))
    }
}

impl Action {
    pub(super) fn plan(self) -> anyhow::Result<Plan> {
        Ok(match self {
            Self::Create { name, settings } => {
                let body = settings.body()?.set("name", Some(name));
                Plan::new(Call::post(Who::Account, &["v2", "agents"], body), show)
            }
            Self::List { limit, offset } => {
                output::pages(Call::get(Who::Account, &["v2", "agents"]), COLUMNS, limit, offset)
            }
            Self::Show { id } => Plan::new(Call::get(Who::Account, &["v2", "agents", &id]), show),
            Self::Update { id, name, settings, clear } => {
                let mut body = settings.body()?.set("name", name);
                for field in &clear {
                    body = body.set(field, Some(Value::Null));
                }
                if body.is_empty() {
                    bail!("nothing to change: give at least one setting (see --help)");
                }
                Plan::new(Call::patch(Who::Account, &["v2", "agents", &id], body), show)
            }
            Self::Delete { id } => {
                let call = Call::delete(Who::Account, &["v2", "agents", &id]);
                Plan::new(call, move |_| format!("deleted {id}, with its keys and sessions"))
            }
        })
    }
}

fn show(reply: &Reply) -> String {
    output::details(FIRST, &reply.value)
}
