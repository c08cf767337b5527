//! `switchboard ledger …`: the books, proved and read.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Call, Reply};
use super::credit::Page;
use super::server::{Server, Who};
use super::{Plan, output, parse};
use crate::store::verify::{self, Report};
use crate::wire::native::ledger::Verdict;

const USAGE: &[&str] = &["group", "requests", "prompt_tokens", "cached_tokens", "output_tokens", "cost"];

/// The books: prove them, read them.
#[derive(Args)]
#[command(after_help = "\
Examples:
  switchboard ledger verify                          # a running server's books
  switchboard ledger verify --offline --data ./data  # without a server
  switchboard ledger explain chatcmpl-…              # the life of one charge
  switchboard ledger transactions --limit 20
  switchboard ledger usage --from 2026-01-01 --to 2026-02-01 --group-by model

`verify` and `explain` need the operator token (nothing, when offline), `transactions` and `usage` an account key.
`verify` ends with exit code 1 when the books are wrong.")]
pub struct Ledger {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Subcommand)]
pub(super) enum Action {
    /// Check every invariant of the books; exit code 1 when one is violated
    Verify {
        /// Read the data directory itself (--data), without a server
        #[arg(long)]
        offline: bool,
    },
    /// Tell the life of one charge: price, hold, usage and its source, rounding, entry
    Explain {
        /// A request (req_…), a completion (chatcmpl-…) or a hold (hold_…)
        id: String,
    },
    /// Every movement of money, newest first; --json has every field
    Transactions(Page),
    /// What was used and what it cost, summed up
    Usage {
        /// The first moment that counts: a date or a time (RFC 3339) [default: 30 days ago]
        #[arg(long, value_name = "TIME", value_parser = parse::moment)]
        from: Option<String>,
        /// The first moment that no longer counts: a date or a time (RFC 3339) [default: now]
        #[arg(long, value_name = "TIME", value_parser = parse::moment)]
        to: Option<String>,
        /// What to sum up by [default: day]
        #[arg(long, value_name = "WHAT")]
        group_by: Option<Group>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Group {
    Agent,
    Key,
    Model,
    Day,
}

impl Group {
    const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Key => "key",
            Self::Model => "model",
            Self::Day => "day",
        }
    }
}

impl Ledger {
    pub(super) fn is_offline(&self) -> bool {
        matches!(self.action, Action::Verify { offline: true })
    }
}

impl Action {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Verify { .. } => {
                let call = Call::get(Who::Operator, &["admin", "ledger", "verify"]);
                Plan { good: is_ok, ..Plan::new(call, |reply| checked(&reply.value)) }
            }
            Self::Explain { id } => {
                Plan::new(Call::get(Who::Operator, &["admin", "ledger", "explain", &id]), |reply| {
                    told(&reply.value)
                })
            }
            Self::Transactions(page) => page.plan(),
            Self::Usage { from, to, group_by } => {
                let call = Call::get(Who::Account, &["v2", "usage"])
                    .query("from", from)
                    .query("to", to)
                    .query("group_by", group_by.map(Group::name));
                Plan::new(call, |reply| {
                    let (from, to) = (output::text(&reply.value["from"]), output::text(&reply.value["to"]));
                    format!(
                        "from {from} to {to}\n\n{}",
                        output::table(USAGE, output::rows(&reply.value["usage"]))
                    )
                })
            }
        }
    }
}

/// Checks the books of a data directory, without a server.
pub(super) fn verify_offline(server: &Server) -> anyhow::Result<ExitCode> {
    let report = verify::offline(&server.data())?;
    output::print(&if server.json {
        serde_json::to_string(&Verdict::from(&report))?
    } else {
        page(&report)
    })?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The sentences of each provider call of a request.
fn told(value: &Value) -> String {
    let stories = value["charges"].as_array().into_iter().flatten().map(|charge| {
        let lines = charge["story"].as_array().into_iter().flatten().map(output::text);
        lines.collect::<Vec<_>>().join("\n")
    });
    format!("{}\n", stories.collect::<Vec<_>>().join("\n\n"))
}

fn is_ok(reply: &Reply) -> bool {
    reply.value["ok"] == Value::Bool(true)
}

/// A running server's report, whatever its invariants are called and whatever it counted.
fn checked(value: &Value) -> String {
    let named: Vec<(String, &Value)> = match &value["invariants"] {
        Value::Array(list) => list.iter().map(|check| (output::text(&check["name"]), check)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, check)| (output::printable(name), check)).collect()
        }
        _ => Vec::new(),
    };
    // Counts become columns; lists of offending rows follow below.
    let mut counts: Vec<&str> = Vec::new();
    for (name, count) in named.iter().filter_map(|(_, check)| check.as_object()).flatten() {
        if name != "name" && !count.is_array() && !counts.contains(&name.as_str()) {
            counts.push(name);
        }
    }
    let plain = named.iter().any(|(_, check)| !check.is_object());
    let mut titles = vec!["INVARIANT".to_owned()];
    titles.extend(plain.then(|| "VIOLATIONS".to_owned()));
    titles.extend(counts.iter().map(|count| count.to_uppercase().replace('_', " ")));
    let mut lines = Vec::new();
    let mut offending = String::new();
    for (name, check) in named {
        let mut line = vec![name.clone()];
        line.extend(plain.then(|| if check.is_object() { "-".to_owned() } else { output::text(check) }));
        line.extend(counts.iter().map(|count| output::text(&check[*count])));
        lines.push(line);
        let rows =
            check.as_object().into_iter().flat_map(|fields| fields.values().filter_map(Value::as_array));
        rows.flatten().for_each(|row| offending.push_str(&format!("{name}: {}\n", output::text(row))));
    }
    closed(output::grid(&titles, &lines), &offending, value["ok"] == Value::Bool(true))
}

/// The same of a report made here.
fn page(report: &Report) -> String {
    let lines: Vec<Vec<String>> =
        report.checks.iter().map(|check| vec![check.name.clone(), check.violations.to_string()]).collect();
    let mut offending = String::new();
    for check in &report.checks {
        check
            .rows
            .iter()
            .for_each(|row| offending.push_str(&format!("{}: {}\n", check.name, output::printable(row))));
    }
    closed(output::grid(&["INVARIANT".to_owned(), "VIOLATIONS".to_owned()], &lines), &offending, report.ok)
}

fn closed(table: String, offending: &str, ok: bool) -> String {
    let verdict = if ok { "the books are right" } else { "the books are WRONG" };
    let gap = if offending.is_empty() { "" } else { "\n" };
    format!("{table}{gap}{offending}\n{verdict}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_shows_whatever_was_counted() {
        let report = json!({ "ok": true, "invariants": { "I1": { "checked": 3, "violations": 0 }, "I2": { "violations": 0 } } });
        let page = "INVARIANT  CHECKED  VIOLATIONS\nI1               3           0\nI2               -           0\n\nthe books are right\n";
        assert_eq!(checked(&report), page);
        let plain = json!({ "ok": true, "invariants": { "I1": 0 } });
        assert_eq!(checked(&plain), "INVARIANT  VIOLATIONS\nI1                  0\n\nthe books are right\n");
    }

    #[test]
    fn a_violation_names_its_rows_and_fails() {
        let report =
            json!({ "ok": false, "invariants": [{ "name": "I1", "violations": 1, "rows": ["acct_x"] }] });
        let page = checked(&report);
        assert!(page.contains("I1: acct_x") && page.contains("WRONG"), "{page}");
        assert!(!is_ok(&Reply::of(200, report)) && !is_ok(&Reply::of(200, json!({}))));
    }
}
