//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

/// Measures a Switchboard server on this machine, beside nginx as a plain proxy and beside no proxy at all.
///
/// Starts everything itself, on loopback addresses and fresh data in a temporary directory, and ends it again. The last
/// part checks the money: exit code 1 if a charge is missing, doubled or wrong, or if requests failed.
#[derive(Clone, Debug, Parser)]
#[command(name = "switchboard-bench")]
pub struct Options {
    /// The server's binary [default: `switchboard` beside this program]
    #[arg(long, value_name = "BIN", default_value_os_t = beside())]
    pub server: PathBuf,
    /// A minute instead of ten: one round, short windows, fewer streams; to see that all works
    #[arg(long)]
    pub quick: bool,
    /// Only these, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub scenario: Vec<Scenario>,
    /// How often everything is measured, targets in turn [default: 3, quick: 1]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub rounds: Option<u8>,
    /// Sessions that are there before their cost is measured [default: 10000, quick: 300]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub sessions: Option<u64>,
    /// Streams open at once, separated by commas [default: 1000,2000,10000, quick: 200]
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub crowd: Vec<u64>,
    /// Writes all figures, round by round, to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// What else this program is
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What this program starts itself as.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Role {
    /// The scripted provider
    #[command(hide = true)]
    Mock,
}

/// What may be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// A closed loop of short plain answers
    Requests,
    /// 200 streams at a model's pace
    Streams,
    /// Long answers that come all at once
    Bursts,
    /// One stream at a time
    Single,
    /// What reserving adds to a provider that takes 20 ms
    FirstToken,
    /// Thousands of streams open at the same moment
    Crowd,
    /// Twice as much as the server can do
    Overload,
    /// More keys, accounts and sessions
    Growth,
    /// The time until it is ready, and what it takes when idle
    Start,
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        formatter.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

fn beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("switchboard")
}

impl Options {
    /// What is measured, in this order.
    pub fn scenarios(&self) -> Vec<Scenario> {
        let all = Scenario::value_variants().iter().copied();
        all.filter(|scenario| self.scenario.is_empty() || self.scenario.contains(scenario)).collect()
    }

    /// How often.
    pub fn rounds(&self) -> usize {
        usize::from(self.rounds.unwrap_or(if self.quick { 1 } else { 3 }))
    }

    fn seconds(&self, full: f64, quick: f64) -> Duration {
        Duration::from_secs_f64(if self.quick { quick } else { full })
    }

    /// The time before something is measured, and while it is.
    pub fn windows(&self) -> (Duration, Duration) {
        (self.seconds(2.0, 0.3), self.seconds(5.0, 1.0))
    }

    /// How long a server is left alone before its idle memory is read.
    pub fn rest(&self) -> Duration {
        self.seconds(1.0, 0.3)
    }

    /// How long it is left alone before its memory is read again.
    pub fn cooling(&self) -> Duration {
        self.seconds(15.0, 1.0)
    }

    /// How long half the load lasts before too much comes.
    pub fn calm(&self) -> Duration {
        self.seconds(3.0, 1.0)
    }

    /// How long too much comes.
    pub fn storm(&self) -> Duration {
        self.seconds(6.0, 1.5)
    }

    /// Streams at a model's pace, and pieces of each.
    pub fn streams(&self, chunks: u64) -> (u64, u64) {
        if self.quick { (50, chunks / 4) } else { (200, chunks) }
    }

    /// Streams open at once.
    pub fn crowds(&self) -> Vec<u64> {
        match (self.crowd.is_empty(), self.quick) {
            (false, _) => self.crowd.clone(),
            (true, true) => vec![200],
            (true, false) => vec![1_000, 2_000, 10_000],
        }
    }

    /// Keys, accounts and sessions of a server with many of them.
    pub fn growth(&self) -> (usize, usize, u64) {
        let (keys, accounts, sessions) = if self.quick { (50, 10, 300) } else { (1_000, 100, 10_000) };
        (keys, accounts, self.sessions.unwrap_or(sessions))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Options, Scenario};

    #[test]
    fn scenarios_run_in_their_own_order_however_they_are_named() {
        Options::command().debug_assert();
        let told = Options::parse_from(["switchboard-bench", "--scenario", "growth,requests"]);
        assert_eq!(told.scenarios(), [Scenario::Requests, Scenario::Growth]);
        let all = Options::parse_from(["switchboard-bench"]).scenarios();
        assert_eq!((all.len(), all[4].to_string()), (9, "first-token".to_owned()));
    }
}
