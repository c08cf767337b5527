//! `switchboard price …`: what models cost.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::clock::{self, EpochMs};

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
  switchboard price list --json > prices.json
  switchboard price import prices.json

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
    /// Set many prices at once, all or none, from a file as `price list --json` writes it, or TOML
    #[command(after_help = "\
A TOML file has one table a price:

  [[prices]]
  model = \"gpt-4o-mini\"
  input = \"0.15\"
  cached_input = \"0.075\"
  output = \"0.60\"

Prices that began in the past count from now on; of several of one model the newest.")]
    Import {
        /// The file: .json or .toml
        file: PathBuf,
    },
    /// List the prices
    List,
}

impl Action {
    pub(super) fn plan(self) -> anyhow::Result<Plan> {
        Ok(match self {
            Self::Import { file } => {
                let body =
                    Body::default().set("prices", Some(prices_to_come(&read(&file)?, clock::now_ms())?));
                let call = Call::post(Who::Operator, &["admin", "prices"], body);
                Plan::new(call, |reply| output::table(COLUMNS, output::rows(&reply.value)))
            }
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
        })
    }
}

/// The list of prices in a file.
fn read(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let whole: Value = if file.extension().is_some_and(|kind| kind == "toml") {
        toml::from_str(&text).with_context(|| format!("reading {}", file.display()))?
    } else {
        serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?
    };
    let list = if whole.is_array() { whole } else { whole["prices"].clone() };
    serde_json::from_value(list).with_context(|| format!("{} has no list of prices", file.display()))
}

/// What of a list is still to be set at `now`: of the prices that have begun the newest of each model, from now on.
fn prices_to_come(list: &[Value], now: EpochMs) -> anyhow::Result<Vec<Value>> {
    let mut begun: Vec<(EpochMs, Value)> = Vec::new();
    let mut to_come = Vec::new();
    for (at, price) in list.iter().enumerate() {
        let mut price = price.clone();
        let fields = price.as_object_mut().with_context(|| format!("prices[{at}] is no object"))?;
        fields.remove("id");
        let from = match fields.get("effective_from").and_then(Value::as_str) {
            None => now,
            Some(text) => clock::parse_rfc3339(text)
                .with_context(|| format!("prices[{at}].effective_from is no time"))?,
        };
        if from > now {
            to_come.push(price);
            continue;
        }
        fields.remove("effective_from");
        match begun.iter_mut().find(|(_, own)| own["model"] == price["model"]) {
            Some(own) if own.0 <= from => *own = (from, price),
            Some(_) => {}
            None => begun.push((from, price)),
        }
    }
    Ok(begun.into_iter().map(|(_, price)| price).chain(to_come).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_the_prices_that_have_begun_the_newest_is_imported() {
        let price = |model: &str, input: &str, from: &str| json!({"id": "price_1", "model": model, "input": input, "output": "1", "effective_from": from});
        let list = [
            price("a", "2", "2026-02-01T00:00:00Z"),
            price("a", "1", "2026-01-01T00:00:00Z"),
            price("a", "3", "2030-01-01T00:00:00Z"),
            json!({"model": "b", "input": "4", "output": "1"}),
        ];
        let now = clock::parse_rfc3339("2026-06-01T00:00:00Z").expect("a time");
        let prices = prices_to_come(&list, now).expect("a list");
        assert_eq!(prices.len(), 3);
        assert_eq!(prices[0], json!({"model": "a", "input": "2", "output": "1"}));
        assert_eq!(prices[2]["effective_from"], "2030-01-01T00:00:00Z");
        assert_eq!(prices[1]["model"], "b");
    }
}
