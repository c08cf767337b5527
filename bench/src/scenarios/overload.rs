//! Twice as much as the server can do: what it answers, what it refuses, and how soon all is as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Bench, megabytes};
use crate::books;
use crate::figures::quantile;
use crate::load::open::{self, Fate, Phase, Shot};
use crate::load::{Load, Target, closed};
use crate::mock::Shape;
use crate::process;
use crate::site::Site;

/// Clients of the closed loop that finds out what the server can do. More of them share each commit.
const CLIENTS: u64 = 256;

/// The same for the server with few turns: half as many as these, so that none is refused yet.
const FEW_CLIENTS: u64 = 32;

/// Requests that may be on their way at once.
const IN_FLIGHT: u64 = 6_000;

/// `--max-turns` of the server that refuses early.
const FEW_TURNS: &str = "64";

/// `--max-start-wait` as by default, in milliseconds.
const START_WAIT: &str = "250";

/// The same where only the way is tried: a server without optimisations is slow in a closed loop already.
const PATIENT_WAIT: &str = "5000";

/// Recovery is looked at in pieces so long, in seconds.
const PIECE: f64 = 0.25;

/// So many pieces in a row have to be as before: a second.
const QUIET: usize = 4;

/// Latency is normal again below so many times what it was before, or below [`NORMAL_MS`].
const NORMAL_TIMES: f64 = 2.0;

/// Below this nobody calls it slow.
const NORMAL_MS: f64 = 5.0;

/// With as many turns as the server takes by itself, and with few.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let wait = if bench.options.quick { PATIENT_WAIT } else { START_WAIT };
    let flags = |turns| ["--max-turns", turns, "--max-start-wait", wait];
    twice(bench, "overload, max_turns as by default", CLIENTS, &flags("10000")).await?;
    twice(bench, &format!("overload, max_turns {FEW_TURNS}"), FEW_CLIENTS, &flags(FEW_TURNS)).await
}

async fn twice(bench: &mut Bench, place: &str, clients: u64, flags: &[&str]) -> Result<()> {
    bench.report.section(place, &["switchboard"]);
    let site = Site::start(&bench.options.server, flags).await?;
    site.mock.shape(Shape::of(1)).await?;
    let (target, (warmup, window)) = (site.target(), bench.options.windows());
    let load = Load::plain(&target);
    let able = closed::run(&load, clients, warmup, window).await?;
    if let Some(fault) = &able.outcome.fault {
        bench.report.problem(&format!("{} requests of the closed loop failed: {fault}", able.outcome.failed));
    }
    let (capacity, calm, storm) = (able.answers / able.seconds, bench.options.calm(), bench.options.storm());
    let phases = [
        Phase { rate: capacity / 2.0, time: calm },
        Phase { rate: capacity * 2.0, time: storm },
        Phase { rate: capacity / 2.0, time: storm },
    ];
    let before = target.resident()?;
    let peak = Peak::watch(&target);
    let load_pids = [std::process::id(), site.mock.pid()];
    let (shot, cores) =
        tokio::join!(open::run(&load, &phases, IN_FLIGHT), cores([&target.pids, &load_pids], calm, storm));
    let ((shots, fault), [by_server, by_load], peak) = (shot?, cores?, peak.end());
    sleep(bench.options.rest()).await;
    let after = target.resident()?;
    tell(bench, &shots, capacity, calm.as_secs_f64(), storm.as_secs_f64());
    let report = &mut bench.report;
    report.figure("at twice that: cores used by the server", by_server);
    report.figure("at twice that: cores used by load and provider", by_load);
    report.figure("MB of memory before", megabytes(before));
    report.figure("MB of memory at most", megabytes(peak));
    report.figure("MB of memory afterwards", megabytes(after));
    let failed = shots.iter().filter(|shot| shot.fate == Fate::Failed).count() as u64;
    if let Some(fault) = fault {
        report.problem(&format!("{failed} requests neither answered nor refused, the first: {fault}"));
    }
    books::check(&site, place, failed + able.outcome.failed, report).await?;
    site.stop()
}

fn tell(bench: &mut Bench, shots: &[Shot], capacity: f64, calm: f64, storm: f64) {
    let during = |from: f64, to: f64, fate: Fate| -> Vec<f64> {
        let meant = shots.iter().filter(|shot| (from..to).contains(&shot.due) && shot.fate == fate);
        meant.map(|shot| shot.latency).collect()
    };
    let report = &mut bench.report;
    report.figure("answers a second it is able to, closed loop", capacity);
    let mut usual = during(0.0, calm, Fate::Answered);
    let normal = quantile(&mut usual, 0.5).unwrap_or(f64::NAN);
    report.figure("at half of that: ms p50", normal);
    report.figure("at half of that: ms p99", quantile(&mut usual, 0.99).unwrap_or(f64::NAN));
    // What ended while too much came; what was still waiting then is answered later.
    let ended = |fate: Fate| {
        let within = |shot: &&Shot| (calm..calm + storm).contains(&(shot.due + shot.latency / 1e3));
        shots.iter().filter(|shot| shot.fate == fate).filter(within).count() as f64 / storm
    };
    report.figure("at twice that: answered a second", ended(Fate::Answered));
    report.figure("at twice that: refused a second", ended(Fate::Refused));
    report.figure("at twice that: kept back a second", ended(Fate::Kept));
    let of = |fate: Fate| during(calm, calm + storm, fate);
    let (mut answered, mut refused) = (of(Fate::Answered), of(Fate::Refused));
    for (what, times) in [("answered", &mut answered), ("refused", &mut refused)] {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let Some(time) = quantile(times, share) else { continue };
            report.figure(&format!("at twice that: ms {name} of the {what}"), time);
        }
    }
    let within = |shot: &&Shot| (calm..calm + storm).contains(&shot.due) && shot.fate != Fate::Kept;
    let mut late: Vec<f64> = shots.iter().filter(within).map(|shot| shot.late).collect();
    report
        .figure("at twice that: ms p50 that it was sent late", quantile(&mut late, 0.5).unwrap_or(f64::NAN));
    match recovery(shots, calm + storm, storm, normal) {
        Some(seconds) => report.figure("s until as before, at half again", seconds),
        None => report.note(&format!("not as before within {storm} s of half the load")),
    }
}

/// How many cores each of these groups of processes uses in the `window` after a while.
async fn cores<const N: usize>(groups: [&[u32]; N], after: Duration, window: Duration) -> Result<[f64; N]> {
    let read = || -> Result<Vec<Duration>> { groups.iter().map(|pids| process::cpu(pids)).collect() };
    sleep(after).await;
    let before = read()?;
    sleep(window).await;
    let used = read()?;
    Ok(std::array::from_fn(|at| (used[at] - before[at]).as_secs_f64() / window.as_secs_f64()))
}

/// Seconds from `from` on until all requests of [`QUIET`] pieces in a row are answered as they were before; `None` if not
/// in `time`. What comes after that is the machine's.
fn recovery(shots: &[Shot], from: f64, time: f64, normal: f64) -> Option<f64> {
    let as_before = |at: usize| {
        let begin = from + at as f64 * PIECE;
        let here: Vec<&Shot> =
            shots.iter().filter(|shot| (begin..begin + PIECE).contains(&shot.due)).collect();
        let mut times: Vec<f64> = here.iter().map(|shot| shot.latency).collect();
        let slow =
            quantile(&mut times, 0.5).is_some_and(|median| median > (normal * NORMAL_TIMES).max(NORMAL_MS));
        !slow && here.iter().all(|shot| shot.fate == Fate::Answered)
    };
    let good: Vec<bool> = (0..(time / PIECE) as usize).map(as_before).collect();
    let first = good.windows(QUIET).position(|pieces| pieces.iter().all(|good| *good))?;
    Some(first as f64 * PIECE)
}

/// The most memory that the server has while this is there.
struct Peak {
    task: JoinHandle<()>,
    most: Arc<AtomicU64>,
}

impl Peak {
    fn watch(target: &Target) -> Self {
        let (pids, most) = (target.pids.clone(), Arc::new(AtomicU64::new(0)));
        let seen = most.clone();
        let task = tokio::spawn(async move {
            while let Ok(bytes) = process::resident(&pids) {
                seen.fetch_max(bytes, Relaxed);
                sleep(Duration::from_millis(50)).await;
            }
        });
        Self { task, most }
    }

    fn end(self) -> f64 {
        self.task.abort();
        self.most.load(Relaxed) as f64
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::recovery;
    use crate::load::open::{Fate, Shot};

    fn shots(late_until: f64) -> Vec<Shot> {
        let dues = (0..100).map(|at| f64::from(at) / 25.0);
        dues.map(|due| Shot {
            due,
            late: 0.0,
            latency: if due < late_until { 100.0 } else { 1.0 },
            fate: Fate::Answered,
        })
        .collect()
    }

    #[test]
    fn all_is_as_before_from_the_first_second_on_that_is() {
        assert_eq!(recovery(&shots(0.0), 0.0, 4.0, 1.0), Some(0.0));
        assert_eq!(recovery(&shots(1.0), 0.0, 4.0, 1.0), Some(1.0));
        assert_eq!(recovery(&shots(9.0), 0.0, 4.0, 1.0), None);
        let mut refused = shots(0.0);
        refused[20].fate = Fate::Refused;
        assert_eq!(recovery(&refused, 0.0, 4.0, 1.0), Some(1.0), "0.8 s were quiet");
        refused[90].fate = Fate::Refused;
        assert_eq!(recovery(&refused, 0.0, 4.0, 1.0), Some(1.0), "later ones are not about it");
    }
}
