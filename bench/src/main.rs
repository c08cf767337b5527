//! `cargo run --release -p switchboard-bench`: what this server costs, measured on this machine.
//!
//! Everything is started here, on loopback addresses: a scripted provider ([`mock`]), the server on fresh data
//! ([`site`]), and nginx where it is installed ([`proxy`]). [`load`] asks them, [`scenarios`] says for what, [`books`]
//! checks that each answer was charged once, [`report`] prints it. What was started ends with the value that stands for
//! it ([`process`]), so that nothing is left however the run ends.

mod books;
mod figures;
mod framing;
mod load;
mod machine;
mod mock;
mod options;
mod process;
mod proxy;
mod report;
mod scenarios;
mod site;
mod wire;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::options::{Options, Role};
use crate::report::Report;
use crate::scenarios::Bench;

fn main() -> ExitCode {
    run(Options::parse()).unwrap_or_else(|error| {
        eprintln!("switchboard-bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(options: Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(Role::Mock) = options.role {
        return runtime.block_on(mock::run()).map(|()| ExitCode::SUCCESS);
    }
    runtime.block_on(async {
        let (mut interrupt, mut terminate, mut hangup) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        );
        // Whichever ends first: the other one is dropped, and whatever it had started with it.
        tokio::select! {
            code = measure(options) => code,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("asked to end"),
            _ = hangup.recv() => bail!("nobody is there any more"),
        }
    })
}

async fn measure(mut options: Options) -> Result<ExitCode> {
    let missing = || {
        let path = options.server.display();
        format!("there is no server at {path}: `cargo build --release` makes it, or name it with --server")
    };
    options.server = options.server.canonicalize().with_context(missing)?;
    ensure!(options.server.is_file(), "{} is no file", options.server.display());
    let json = options.json.clone();
    println!("server       {}", options.server.display());
    if options.server.components().any(|part| part.as_os_str() == "debug") {
        println!("             built without optimisation: its figures mean nothing");
    }
    let report = Report::new(machine::describe());
    let mut bench = Bench::start(options, report).await?;
    let ended = bench.run().await;
    let (mut report, stopped) = bench.stop();
    for error in [ended.err(), stopped.err()].into_iter().flatten() {
        report.problem(&format!("{error:#}"));
    }
    println!("\nload average afterwards: {}", machine::load());
    if let Some(file) = json {
        std::fs::write(&file, format!("{:#}\n", report.to_json()))
            .with_context(|| file.display().to_string())?;
    }
    if report.problems().is_empty() {
        println!("All answers were whole, and each was charged once.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} things are not as they have to be:", report.problems().len());
    report.problems().iter().for_each(|problem| println!("  {problem}"));
    Ok(ExitCode::FAILURE)
}
