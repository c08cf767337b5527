//! How long a start takes, and what a server takes that does nothing.

use anyhow::Result;
use tokio::time::sleep;

use super::{Bench, megabytes};
use crate::report::Beside;
use crate::site::first_start;

/// Starts on nothing, and on all that the other scenarios have left.
pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.report.section("start", &["switchboard"]);
    let (mut fresh, mut fresh_memory, mut used, mut used_memory) = (vec![], vec![], vec![], vec![]);
    let bytes = bench.site.data_bytes();
    for _ in 0..bench.options.rounds() {
        let (ready, memory) = first_start(&bench.options.server, bench.options.rest()).await?;
        fresh.push(ready);
        fresh_memory.push(megabytes(memory));
        used.push(bench.site.restart().await?);
        sleep(bench.options.rest()).await;
        used_memory.push(megabytes(bench.site.target().resident()?));
    }
    bench.report.row("ms until ready, no database yet", &[("switchboard", fresh)], Beside::Nothing);
    bench.report.row("MB of memory then, idle", &[("switchboard", fresh_memory)], Beside::Nothing);
    let size = format!("ms until ready, database of {:.1} MB", megabytes(bytes as f64));
    bench.report.row(&size, &[("switchboard", used)], Beside::Nothing);
    bench.report.row("MB of memory then, idle", &[("switchboard", used_memory)], Beside::Nothing);
    Ok(())
}
