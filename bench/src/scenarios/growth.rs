//! Whether a request costs more where there is more of everything.

use anyhow::{Context, Result};

use super::Bench;
use super::passing::CLIENTS;
use crate::figures::{short, spread};
use crate::load::{Caller, Load, Sessions, Target, closed};
use crate::mock::Shape;
use crate::report::Beside;

/// A closed loop with one of everything, then with many keys, sessions, accounts.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let (keys, accounts, sessions) = bench.options.growth();
    bench.report.section("growth: CPU-us a request of the closed loop", &["switchboard"]);
    bench.shape(Shape::of(1)).await?;
    bench.site.keys(0, keys).await?;
    let many_keys = bench.site.accounts[0].callers.clone();
    let mut many_accounts: Vec<Caller> = Vec::new();
    for _ in 0..accounts {
        let account = bench.site.account().await?;
        many_accounts.extend(account.callers.first().cloned());
    }
    let target = bench.site.target();
    let filled =
        closed::send(&Load::plain(&target).sessions(Sessions::Named(sessions)), CLIENTS, sessions).await?;
    bench.note_failures(&target, &filled);
    // What was just made is in memory; after a restart it is not.
    bench.site.restart().await?;
    let target = bench.site.target();
    let ways: Vec<(String, Target, Sessions)> = vec![
        ("1 key, 1 account, new sessions".to_owned(), target.clone(), Sessions::OfTenTurns),
        (format!("{keys} keys of 1 account"), target.asked_by(&many_keys), Sessions::OfTenTurns),
        (format!("{accounts} accounts"), target.asked_by(&many_accounts), Sessions::OfTenTurns),
        (format!("{sessions} sessions from before a restart"), target.clone(), Sessions::Named(sessions)),
    ];
    let (warmup, window) = bench.options.windows();
    let mut costs = vec![Vec::new(); ways.len()];
    for round in 0..bench.options.rounds() {
        for at in 0..ways.len() {
            let at = (at + round) % ways.len();
            let (_, target, sessions) = &ways[at];
            let seen = closed::run(&Load::plain(target).sessions(*sessions), CLIENTS, warmup, window).await?;
            bench.note_failures(target, &seen.outcome);
            costs[at].push(seen.cpu_each());
        }
    }
    let base = costs.first().cloned().context("a first way")?;
    for ((what, _, _), costs) in ways.iter().zip(costs) {
        let ratios: Vec<f64> = costs.iter().zip(&base).map(|(cost, base)| cost / base).collect();
        let ratio = spread(&ratios).map(|one| short(one.median)).unwrap_or_default();
        bench.report.row(
            &format!("{what} ({ratio} x the first)"),
            &[("switchboard", costs)],
            Beside::Nothing,
        );
    }
    Ok(())
}
