//! `switchboard price …`: what models cost.

use clap::{Args, Subcommand};

use super::client::Call;
use super::parse::{self, Body};
use super::server::{Server, Who};
use super::{Plan, output};

const COLUMNS: &[&str] = &["model", "input", "cached_input", "output", "per_request", "effective_from", "id"];

/// What models cost. A model without a price answers nobody.
#[derive(Args)]
#[command(after_help = "\
Prices are in USD per million tokens. A price is never edited: a new one takes its place, and what was
charged before stays as it was.

Examples:
  switchboard price set gpt-4o-mini --input 0.15 --cached-input 0.075 --output 0.60
  switchboard price set llama3.2 --input 0 --output 0 --per-request 0.001
  switchboard price set gpt-4o-mini --input 0.10 --output 0.40 --effective-from 2027-01-01
  switchboard price list

These commands need the operator token.")]
pub struct Price {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Subcommand)]
pub(super) enum Action {
    /// Set what a model costs from now on, or from a later time
    Set {
        /// The model, as agents name it
        model: String,
        /// USD per million prompt tokens
        #[arg(long, value_name = "USD", value_parser = parse::amount)]
        input: String,
        /// USD per million answered tokens
        #[arg(long, value_name = "USD", value_parser = parse::amount)]
        output: String,
        /// USD per million prompt tokens that the provider had cached
        #[arg(long, value_name = "USD", value_parser = parse::amount)]
        cached_input: Option<String>,
        /// USD per request, on top
        #[arg(long, value_name = "USD", value_parser = parse::amount)]
        per_request: Option<String>,
        /// When it comes into force: a date or a time (RFC 3339)
        #[arg(long, value_name = "TIME", value_parser = parse::moment)]
        effective_from: Option<String>,
    },
    /// List the prices
    List,
}

impl Action {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Set { model, input, output, cached_input, per_request, effective_from } => {
                let body = Body::default()
                    .set("model", Some(model))
                    .set("input", Some(input))
                    .set("output", Some(output))
                    .set("cached_input", cached_input)
                    .set("per_request", per_request)
                    .set("effective_from", effective_from);
                let call = Call::post(Who::Operator, &["admin", "prices"], body);
                Plan::new(call, |reply| output::details(COLUMNS, &reply.value))
            }
            Self::List => Plan::new(Call::get(Who::Operator, &["admin", "prices"]), |reply| {
                output::table(COLUMNS, output::rows(&reply.value))
            }),
        }
    }
}
