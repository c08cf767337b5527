//! The processes of a run: the server as it is shipped, and the provider behind it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::client::Connection;

/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that may open as many files as this user can allow it.
fn allowed_all(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\""]).arg(program);
    command
}

/// How many files a process may have open at most.
pub fn most_files() -> anyhow::Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits").context("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("a limit of files")?;
    line.split_whitespace().nth(4).and_then(|hard| hard.parse().ok()).context("a hard limit of files")
}

/// The provider; it ends when this is dropped.
pub struct Upstream {
    child: Child,
    pub port: u16,
}

impl Upstream {
    pub fn start(chunks: usize, pause: Duration) -> anyhow::Result<Self> {
        let mut command = allowed_all(&std::env::current_exe()?);
        command.args(["upstream", &chunks.to_string(), &pause.as_millis().to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().context("starting the provider")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        Ok(Self { child, port: line.trim().parse().context("the provider's port")? })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running server.
pub struct Server {
    child: Child,
    dir: PathBuf,
    pub address: SocketAddr,
    /// The operator's token, from the data directory.
    pub operator: String,
}

/// What the kernel says of a process's memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub rss: u64,
    pub pss: u64,
}

impl Server {
    /// Starts the server on the data in `dir`; `args` beside the usual ones.
    pub async fn start(dir: &Path, upstream: &Upstream, args: &[&str]) -> anyhow::Result<Self> {
        let (told, log) = (dir.join("bootstrap.json"), dir.join("server.log"));
        let _ = fs::remove_file(&told);
        let binary = std::env::var_os("SWITCHBOARD_BINARY")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_switchboard")), PathBuf::from);
        let mut command = allowed_all(&binary);
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--default-limits",
                "none",
                "--provider-model",
                "bench",
            ])
            .args(["--provider-url", &format!("http://127.0.0.1:{}/v1", upstream.port)])
            // As an operator has it who expects so many.
            .args(["--max-turns", "20000", "--max-connections", "20000"])
            .arg("--data")
            .arg(dir.join("data"))
            .arg("--bootstrap-json")
            .arg(&told)
            .args(args);
        let log = File::options().create(true).append(true).open(log)?;
        let child = command.stdout(Stdio::null()).stderr(log).spawn().context("starting the server")?;
        let began = Instant::now();
        while !told.exists() {
            ensure!(began.elapsed() < PATIENCE, "the server does not start; see {}", dir.display());
            sleep(Duration::from_millis(20)).await;
        }
        let told: Value = serde_json::from_slice(&fs::read(&told)?)?;
        let url = told["url"].as_str().context("a url")?;
        let address = url.trim_start_matches("http://").trim_end_matches('/').parse()?;
        let operator = fs::read_to_string(dir.join("data/operator.token"))?.trim().to_owned();
        Ok(Self { child, dir: dir.to_owned(), address, operator })
    }

    /// What it takes now.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let file = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&file).with_context(|| file.clone())?;
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
            kib.map(|kib| kib * 1_024).with_context(|| format!("{name} in {file}"))
        };
        Ok(Memory { rss: of("Rss:")?, pss: of("Pss:")? })
    }

    /// The most that it has taken so far, in bytes.
    pub fn peak(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1_024)
    }

    /// A connection of the operator.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address).await
    }

    /// What the operator gets at `path`.
    pub async fn ask(&self, path: &str) -> anyhow::Result<String> {
        self.connect().await?.call("GET", path, &self.operator, "").await
    }

    /// The value of a metric without labels, or of that one line.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.ask("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: f64 = line.with_context(|| format!("the metric {name}"))?.trim().parse()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]
        Ok(value as u64)
    }

    /// Waits until a metric has that value.
    pub async fn until(&self, name: &str, wanted: u64, patience: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let now = self.metric(name).await?;
            if now == wanted {
                return Ok(());
            }
            ensure!(began.elapsed() < patience, "{name} is {now}, not {wanted}");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Stops it properly, after its books were checked.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let verdict: Value = serde_json::from_str(&self.ask("/admin/ledger/verify").await?)?;
        ensure!(verdict["ok"] == true, "the books are not clean: {verdict}");
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(began.elapsed() < PATIENCE, "the server does not stop; see {}", self.dir.display());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
