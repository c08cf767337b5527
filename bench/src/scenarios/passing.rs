//! What it costs to pass answers on: processor time, and time.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, millis};
use crate::figures::quantile;
use crate::load::streams::Streams;
use crate::load::{Load, closed};
use crate::mock::Shape;
use crate::report::Beside;

/// Clients of a closed loop.
pub const CLIENTS: u64 = 16;

/// Pieces of a long answer.
const CHUNKS: u64 = 200;

/// The time between two pieces where a model writes.
const GAP: Duration = Duration::from_millis(20);

/// How long a provider thinks where it is told.
const THINK: Duration = Duration::from_millis(20);

/// Clients that wait for their first token.
const WAITING: u64 = 8;

/// A closed loop of plain, short answers.
pub async fn requests(bench: &mut Bench) -> Result<()> {
    bench.section(&format!("closed loop, {CLIENTS} clients, plain answers"));
    bench.shape(Shape::of(1)).await?;
    let (warmup, window) = bench.options.windows();
    let [cpu, rate, median, late] = bench
        .rounds(async |bench, target| {
            let mut seen = closed::run(&Load::plain(target), CLIENTS, warmup, window).await?;
            bench.note_failures(target, &seen.outcome);
            let times = &mut seen.outcome.latencies;
            let (median, late) = (quantile(times, 0.5), quantile(times, 0.99));
            Ok([
                seen.cpu_each(),
                seen.answers / seen.seconds,
                median.unwrap_or(f64::NAN),
                late.unwrap_or(f64::NAN),
            ])
        })
        .await?;
    bench.report.row("CPU-us a request", &cpu, Beside::Times("nginx"));
    bench.report.row("answers a second", &rate, Beside::Times("nginx"));
    bench.report.row("ms a request, p50", &median, Beside::Over("direct"));
    bench.report.row("ms a request, p99", &late, Beside::Over("direct"));
    Ok(())
}

/// Many streams at a model's pace.
pub async fn streams(bench: &mut Bench) -> Result<()> {
    let (count, chunks) = bench.options.streams(CHUNKS);
    bench.section(&format!("{count} streams x {chunks} chunks, {} ms apart", millis(GAP)));
    bench.shape(Shape { gap: GAP, ..Shape::of(chunks) }).await?;
    let [cpu, median, late] = bench
        .rounds(async |bench, target| {
            let before = target.cpu_us()?;
            let ramp = Duration::from_secs(1);
            let mut seen = Streams::start(&Load::streamed(target, chunks), count, ramp).end().await?;
            let cpu = (target.cpu_us()? - before) / (count * chunks) as f64;
            bench.note_failures(target, &seen);
            let (median, late) = (quantile(&mut seen.firsts, 0.5), quantile(&mut seen.firsts, 0.99));
            Ok([cpu, median.unwrap_or(f64::NAN), late.unwrap_or(f64::NAN)])
        })
        .await?;
    bench.report.row("CPU-us a chunk", &cpu, Beside::Times("nginx"));
    bench.report.row("ms to the first token, p50", &median, Beside::Over("direct"));
    bench.report.row("ms to the first token, p99", &late, Beside::Over("direct"));
    Ok(())
}

/// Long answers that come all at once.
pub async fn bursts(bench: &mut Bench) -> Result<()> {
    bench.section(&format!("bursts of {CHUNKS} chunks, {CLIENTS} clients"));
    bench.shape(Shape::of(CHUNKS)).await?;
    let (warmup, window) = bench.options.windows();
    let [cpu, rate] = bench
        .rounds(async |bench, target| {
            let seen = closed::run(&Load::streamed(target, CHUNKS), CLIENTS, warmup, window).await?;
            bench.note_failures(target, &seen.outcome);
            Ok([seen.cpu_each() / CHUNKS as f64, seen.answers * CHUNKS as f64 / seen.seconds])
        })
        .await?;
    bench.report.row("CPU-us a chunk", &cpu, Beside::Times("nginx"));
    bench.report.row("chunks a second", &rate, Beside::Times("nginx"));
    Ok(())
}

/// One stream at a time.
pub async fn single(bench: &mut Bench) -> Result<()> {
    bench.section(&format!("one stream at a time, {CHUNKS} chunks at once"));
    bench.shape(Shape::of(CHUNKS)).await?;
    let (warmup, window) = bench.options.windows();
    let [median, late] = bench
        .rounds(async |bench, target| {
            let mut seen = closed::run(&Load::streamed(target, CHUNKS), 1, warmup, window).await?;
            bench.note_failures(target, &seen.outcome);
            let times = &mut seen.outcome.latencies;
            Ok([quantile(times, 0.5).unwrap_or(f64::NAN), quantile(times, 0.99).unwrap_or(f64::NAN)])
        })
        .await?;
    bench.report.row("ms a stream, p50", &median, Beside::Over("direct"));
    bench.report.row("ms a stream, p99", &late, Beside::Over("direct"));
    Ok(())
}

/// What reserving adds to a provider's own time.
pub async fn first_token(bench: &mut Bench) -> Result<()> {
    bench.section(&format!("a provider that thinks {} ms, {WAITING} clients", millis(THINK)));
    bench.shape(Shape { think: THINK, ..Shape::of(1) }).await?;
    let (warmup, window) = bench.options.windows();
    let [median, late] = bench
        .rounds(async |bench, target| {
            let mut seen = closed::run(&Load::streamed(target, 1), WAITING, warmup, window).await?;
            bench.note_failures(target, &seen.outcome);
            let times = &mut seen.outcome.firsts;
            Ok([quantile(times, 0.5).unwrap_or(f64::NAN), quantile(times, 0.99).unwrap_or(f64::NAN)])
        })
        .await?;
    bench.report.row("ms to the first token, p50", &median, Beside::Over("direct"));
    bench.report.row("ms to the first token, p99", &late, Beside::Over("direct"));
    Ok(())
}
