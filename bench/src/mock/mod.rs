//! The scripted provider: a process of its own, so that its files and its processor time are nobody else's.

mod answers;
mod serve;

pub use serve::run;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process::Process;
use crate::wire::Wire;

/// Stands once in each piece of content.
pub const TOKEN: &str = "tok~";

/// The model that it says it is.
pub const MODEL: &str = "bench-model";

/// The prompt tokens that it says a request had.
pub const PROMPT_TOKENS: u64 = 10;

/// How long a held stream waits to be let go, less than a provider may be silent.
pub const HOLD_LIMIT: Duration = Duration::from_secs(50);

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pieces of content of a stream; a plain answer has all of them in one text.
    pub chunks: u64,
    /// The time between two pieces; all at once without one.
    pub gap: Duration,
    /// The time before the first byte of an answer.
    pub think: Duration,
    /// After so many pieces each stream waits for [`Mock::release`].
    pub hold_after: Option<u64>,
}

impl Shape {
    /// So many pieces, at once.
    pub fn of(chunks: u64) -> Self {
        Self { chunks, gap: Duration::ZERO, think: Duration::ZERO, hold_after: None }
    }

    fn to_json(self) -> Value {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        json!({
            "chunks": self.chunks,
            "gap_us": micros(self.gap),
            "think_us": micros(self.think),
            "hold_after": self.hold_after,
        })
    }

    fn of_json(value: &Value) -> Self {
        let number = |name: &str| value[name].as_u64().unwrap_or_default();
        Self {
            chunks: number("chunks"),
            gap: Duration::from_micros(number("gap_us")),
            think: Duration::from_micros(number("think_us")),
            hold_after: value["hold_after"].as_u64(),
        }
    }
}

/// What it has answered since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    /// Calls that reached it.
    pub asked: u64,
    /// Of these, the ones that were answered to their end.
    pub whole: u64,
    /// Tokens of answers that it told in whole answers.
    pub output_tokens: u64,
}

/// A provider that runs.
pub struct Mock {
    /// Where it listens.
    pub addr: SocketAddr,
    process: Process,
}

impl Mock {
    /// Starts one on a free port.
    pub fn start() -> Result<Self> {
        let own = std::env::current_exe().context("this program's own path")?;
        let mut command = Command::new(own);
        command.arg("mock").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start("the scripted provider", &mut command)?;
        let output = process.child().stdout.take().context("the provider's output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("the provider tells no address")?;
        let addr = line.trim().parse().with_context(|| format!("{line:?} is not the provider's address"))?;
        Ok(Self { addr, process })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Answers like this from now on.
    pub async fn shape(&self, shape: Shape) -> Result<()> {
        Wire::new(self.addr).json("PUT", "/bench/shape", "", Some(&shape.to_json())).await.map(drop)
    }

    /// Lets the streams go on that wait.
    pub async fn release(&self) -> Result<()> {
        Wire::new(self.addr).json("PUT", "/bench/release", "", Some(&json!({}))).await.map(drop)
    }

    /// What it has answered.
    pub async fn calls(&self) -> Result<Calls> {
        let told = Wire::new(self.addr).json("GET", "/bench/calls", "", None).await?;
        let number = |name: &str| told[name].as_u64().with_context(|| format!("{name} is missing in {told}"));
        Ok(Calls {
            asked: number("asked")?,
            whole: number("whole")?,
            output_tokens: number("output_tokens")?,
        })
    }
}
