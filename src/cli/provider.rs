//! `switchboard provider …`: who answers, and how they do.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Call, Reply};
use super::server::{Server, Who};
use super::{Plan, output};

const COLUMNS: &[&str] = &[
    "name",
    "kind",
    "model",
    "state",
    "calls",
    "failures",
    "last_error",
    "running",
    "retried",
    "weight",
    "max_concurrency",
    "base_url",
];

/// Providers: who answers, and how they do.
#[derive(Args)]
#[command(after_help = "\
Examples:
  switchboard provider list
  switchboard provider list --json

These commands need the operator token. Providers are configured in the server's file.")]
pub struct Provider {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Subcommand)]
pub(super) enum Action {
    /// List providers: their calls, and the circuit of each model that was asked for
    List,
}

impl Action {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::List => Plan::new(Call::get(Who::Operator, &["admin", "providers"]), list),
        }
    }
}

/// A line for each circuit; one for a provider that was not asked yet.
fn list(reply: &Reply) -> String {
    let mut rows = Vec::new();
    for provider in output::rows(&reply.value["providers"]) {
        let circuits = provider["circuits"].as_array().cloned().unwrap_or_default();
        if circuits.is_empty() {
            rows.push(provider.clone());
        }
        for circuit in circuits {
            let mut row = provider.clone();
            for name in ["model", "state", "calls", "failures", "last_error"] {
                row[name] = circuit[name].clone();
            }
            if circuit["open_for_s"].is_u64() {
                row["state"] = json!(format!("{}, {} s", text(&circuit["state"]), circuit["open_for_s"]));
            }
            rows.push(row);
        }
    }
    output::table(COLUMNS, &rows)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
