//! The program: reads the command line, then serves or calls a server.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use switchboard::cli::Manage;
use switchboard::config::{Config, ServeArgs};
use tracing_subscriber::EnvFilter;

// Less CPU a stream than the system's allocator, and memory is given back after a peak.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Hosts AI agents for many tenants behind an OpenAI-compatible API.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Without a command it serves. `switchboard serve --help` lists all settings.")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Start the server (the default)
    Serve(ServeArgs),
    /// Print the effective configuration, secrets masked
    Config(ServeArgs),
    #[command(flatten)]
    Manage(Manage),
}

fn main() -> ExitCode {
    let Cli { command, serve } = Cli::parse();
    // TLS needs one chosen; a second choice would be refused, and there is none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match command {
        None => run_server(&serve),
        Some(Command::Serve(args)) => run_server(&args),
        Some(Command::Config(args)) => print_config(&args),
        Some(Command::Manage(command)) => switchboard::cli::run(command),
    };
    done.unwrap_or_else(|error| {
        eprintln!("switchboard: {error:#}");
        ExitCode::FAILURE
    })
}

fn run_server(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let config = Config::read(args)?;
    if args.check {
        println!("The configuration is sound.");
        return Ok(ExitCode::SUCCESS);
    }
    start_log(args)?;
    switchboard::error::log_content(args.log_content);
    switchboard::server::run(&config)?;
    Ok(ExitCode::SUCCESS)
}

fn print_config(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    print!("{}", Config::read(args)?.to_toml());
    Ok(ExitCode::SUCCESS)
}

fn start_log(args: &ServeArgs) -> anyhow::Result<()> {
    // It has an error for each connection that sends nonsense, which is for its sender to know.
    let filter = EnvFilter::try_new(args.log.as_deref().unwrap_or("info"))?
        .add_directive("actix_http::h1::dispatcher=off".parse()?);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if args.log_json {
        log.json().init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).init();
    }
    Ok(())
}
