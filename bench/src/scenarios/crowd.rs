//! Thousands of streams open at the same moment: what each takes in memory, and whether all of them end whole.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{Bench, kilobytes, megabytes};
use crate::books;
use crate::load::Load;
use crate::load::streams::Streams;
use crate::machine;
use crate::mock::Shape;
use crate::site::Site;

/// Files that a process has open beside those of its streams.
const SPARE_FILES: u64 = 500;

/// Streams that begin in a second.
const PACE: u64 = 500;

/// How long all of them may take to begin beyond that.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);

/// Pieces of each stream; half of them come before it is held until all are there.
const CHUNKS: u64 = 40;

/// The time between two pieces.
const GAP: Duration = Duration::from_millis(50);

/// As many streams as are asked for, each number on a server of its own.
pub async fn run(bench: &mut Bench) -> Result<()> {
    // A streamed turn takes two files of the server: its client's connection and its provider's.
    let most = machine::open_files().saturating_sub(SPARE_FILES) / 2;
    for wanted in bench.options.crowds() {
        let count = wanted.min(most);
        bench.report.section(&format!("{count} streams open at once"), &["switchboard"]);
        if count < wanted {
            bench.report.note(&format!("not {wanted}: the limit of open files allows {most}"));
        }
        at_once(bench, count).await?;
    }
    Ok(())
}

async fn at_once(bench: &mut Bench, count: u64) -> Result<()> {
    let site = Site::start(&bench.options.server, &[]).await?;
    let (target, place) = (site.target(), format!("{count} streams"));
    site.mock.shape(Shape { gap: GAP, hold_after: Some(CHUNKS / 2), ..Shape::of(CHUNKS) }).await?;
    sleep(bench.options.rest()).await;
    let idle = target.resident()?;
    let ramp = Duration::from_secs_f64(count as f64 / PACE as f64);
    let streams = Streams::start(&Load::streamed(&target, CHUNKS), count, ramp);
    let begun = streams.begun(ramp + BEGIN_LIMIT).await;
    // Until the last ones have got what comes before they are held.
    sleep(GAP.mul_f64(CHUNKS as f64 / 2.0) + bench.options.rest()).await;
    let peak = target.resident()?;
    site.mock.release().await?;
    let seen = streams.end().await?;
    let after = target.resident()?;
    sleep(bench.options.cooling()).await;
    let later = target.resident()?;
    let report = &mut bench.report;
    report.figure("kB of memory a stream", kilobytes((peak - idle) / count as f64));
    report.figure("MB of memory when idle", megabytes(idle));
    report.figure("MB of memory with all of them", megabytes(peak));
    report.figure("MB of memory when they have ended", megabytes(after));
    report.figure(&format!("MB of memory {} s later", bench.options.cooling().as_secs()), megabytes(later));
    let fault = seen.fault.clone().unwrap_or_default();
    let text =
        format!("{begun} begun before the first ended, {} whole, {} not {fault}", seen.whole, seen.failed);
    report.check(&place, "every stream whole", seen.failed == 0 && begun == count, &text);
    books::once_each(&site, &site.accounts[0], &seen.completions, &place, report).await?;
    books::check(&site, &place, seen.failed, report).await?;
    site.stop()
}
