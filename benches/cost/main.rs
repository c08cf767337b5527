//! How many instructions the paths of a turn take, for `scripts/cost`, which runs this under valgrind and compares.
//!
//! Everything here is the same from run to run: what is asked, said and stored is fixed, and no socket takes part. Alone
//! (`cargo bench --bench cost [-- NAME]`) it tells times instead.

mod plain;
mod whole;
mod wire;

use std::hint::black_box;
use std::time::Instant;

// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Something whose cost is counted.
pub struct Scenario {
    /// What stands beside the figure.
    name: &'static str,
    /// How many of what is counted one run of `work` does.
    units: usize,
    work: Box<dyn FnMut() -> anyhow::Result<()>>,
    /// Whether what was done is right, as far as `work` does not tell.
    check: Option<Box<dyn Fn() -> anyhow::Result<()>>>,
}

fn main() -> anyhow::Result<()> {
    // Cargo passes `--bench`.
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let plain = plain::scenarios(directory.path())?;
    let scenarios = plain.into_iter().chain(whole::scenarios()?).chain(wire::scenarios()?);
    for mut scenario in scenarios {
        if !scenario.name.starts_with(&wanted) {
            continue;
        }
        // What is made once is not counted.
        (scenario.work)()?;
        let began = Instant::now();
        counted(&mut *scenario.work)?;
        let each = began.elapsed().as_nanos() / scenario.units as u128;
        scenario.check.map_or(Ok(()), |check| check())?;
        println!("{}\t{}\t{each} ns", scenario.name, scenario.units);
    }
    Ok(())
}

/// Valgrind counts what happens in here, and writes a figure down when it ends: `scripts/cost` knows its name.
#[inline(never)]
fn counted(work: &mut dyn FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    // What comes after the call keeps it one: a jump would not come back here.
    black_box(work())
}
