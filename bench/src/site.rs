//! The server under test: on fresh data, with everything switched on, and a scripted provider behind it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::load::{Caller, Target};
use crate::mock::{MODEL, Mock};
use crate::process::Process;
use crate::wire::Wire;

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How often a starting server is asked whether it is ready.
const LOOK: Duration = Duration::from_millis(1);

/// Limits that are checked for each request and never reached.
const LIMITS: &str = "requests_per_minute=1000000000,tokens_per_minute=1000000000,concurrency=1000000,\
                      management_per_minute=1000000000";

/// What each account starts with, in USD.
pub const BALANCE: &str = "1000000.00";

/// USD for a million tokens of the prompt, and of the answer: each token costs a whole number of nano-dollars.
pub const PRICE: (u64, u64) = (1, 2);

/// Flags that make a server take whatever comes; the ones of a scenario come after them.
const AMPLE: [&str; 8] = [
    "--max-turns",
    "20000",
    "--max-connections",
    "20000",
    "--default-limits",
    LIMITS,
    "--max-start-wait",
    "600000",
];

/// An account that was made for the benchmark.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its key.
    pub key: String,
    /// Its agent.
    pub agent: String,
    /// The keys of that agent.
    pub callers: Vec<Caller>,
}

/// A server and its provider.
pub struct Site {
    /// The provider.
    pub mock: Mock,
    /// The accounts that asked it.
    pub accounts: Vec<Account>,
    /// Whole answers that clients have got.
    pub answered: Arc<AtomicU64>,
    binary: PathBuf,
    flags: Vec<String>,
    dir: TempDir,
    server: Process,
    addr: SocketAddr,
    operator: String,
}

impl Site {
    /// Starts a server on an empty directory, with an account that has one agent and one key.
    pub async fn start(binary: &Path, flags: &[&str]) -> Result<Self> {
        let (mock, dir) = (Mock::start()?, tempfile::tempdir()?);
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (server, bootstrap, _) = launch(binary, &flags, &mock, dir.path()).await?;
        let mut site = Self {
            mock,
            accounts: Vec::new(),
            answered: Arc::default(),
            binary: binary.to_owned(),
            flags,
            addr: address(&bootstrap)?,
            operator: text(&bootstrap, "operator_token")?,
            dir,
            server,
        };
        let (input, output) = PRICE;
        let price = json!({"model": MODEL, "input": input.to_string(), "output": output.to_string()});
        site.operate("POST", "/admin/prices", Some(&price)).await?;
        site.account().await?;
        Ok(site)
    }

    /// Makes an account with an agent and a key of it.
    pub async fn account(&mut self) -> Result<&Account> {
        let body = json!({"name": "Benchmark", "balance": BALANCE});
        let made = self.operate("POST", "/admin/accounts", Some(&body)).await?;
        let key = text(&made, "key")?;
        let body = json!({"name": "Benchmark", "model": MODEL, "instructions": "You are measured."});
        let agent = self.manage(&key, "POST", "/v2/agents", Some(&body)).await?;
        self.accounts.push(Account { key, agent: text(&agent, "id")?, callers: Vec::new() });
        let last = self.accounts.len() - 1;
        self.keys(last, 1).await?;
        Ok(&self.accounts[last])
    }

    /// Makes keys until the agent of the account of this number has so many.
    pub async fn keys(&mut self, account: usize, keys: usize) -> Result<()> {
        let account = &mut self.accounts[account];
        let path = format!("/v2/agents/{}/api-keys", account.agent);
        let mut wire = Wire::new(self.addr);
        while account.callers.len() < keys {
            let made = wire.json("POST", &path, &account.key, Some(&json!({"name": "Benchmark"}))).await?;
            account.callers.push(Caller { key: text(&made, "key")?, model: account.agent.clone() });
        }
        Ok(())
    }

    /// The server as what is measured, asked by the first key of the first account.
    pub fn target(&self) -> Target {
        Target {
            name: "switchboard",
            addr: self.addr,
            pids: vec![self.server.pid()],
            callers: self.accounts.first().map(|first| first.callers[..1].into()).unwrap_or_default(),
            answered: self.answered.clone(),
        }
    }

    /// A management call with an account's key.
    pub async fn manage(&self, key: &str, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        Wire::new(self.addr).json(method, path, key, body).await
    }

    /// A call with the operator's token.
    pub async fn operate(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.manage(&self.operator, method, path, body).await
    }

    /// What `switchboard ledger verify` says of the running server; an error unless the books are right.
    pub async fn verify(&self) -> Result<String> {
        let mut command = tokio::process::Command::new(&self.binary);
        command.args(["ledger", "verify", "--url", &format!("http://{}", self.addr)]);
        command.env("SWITCHBOARD_TOKEN", &self.operator).current_dir(self.dir.path()).kill_on_drop(true);
        let told = tokio::time::timeout(START_LIMIT, command.output()).await.context("ledger verify")??;
        let text = String::from_utf8_lossy(&told.stdout).trim().to_owned();
        ensure!(told.status.success(), "{}: {text} {}", told.status, String::from_utf8_lossy(&told.stderr));
        Ok(text)
    }

    /// Stops the server and starts it again on the same data; answers how long the start took, in milliseconds.
    pub async fn restart(&mut self) -> Result<f64> {
        self.server.stop()?;
        std::fs::remove_file(self.dir.path().join("bootstrap.json")).context("the bootstrap file")?;
        let (server, bootstrap, ready) =
            launch(&self.binary, &self.flags, &self.mock, self.dir.path()).await?;
        self.server = server;
        self.addr = address(&bootstrap)?;
        Ok(ready)
    }

    /// The size of the database, in bytes.
    pub fn data_bytes(&self) -> u64 {
        let files = std::fs::read_dir(self.dir.path().join("data")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Fails once the server has ended by itself.
    pub fn alive(&mut self) -> Result<()> {
        self.server.alive().with_context(|| log(self.dir.path()))
    }

    /// Stops the server; an error if it had ended by itself or has to be killed.
    pub fn stop(mut self) -> Result<()> {
        self.alive()?;
        self.server.stop()
    }
}

/// Milliseconds until a server is ready on an empty directory, and its memory a moment later.
pub async fn first_start(binary: &Path, rest: Duration) -> Result<(f64, f64)> {
    let (mock, dir) = (Mock::start()?, tempfile::tempdir()?);
    let (server, _, ready) = launch(binary, &[], &mock, dir.path()).await?;
    sleep(rest).await;
    let memory = crate::process::resident(&[server.pid()])? as f64;
    Ok((ready, memory))
}

/// Starts the server; answers it, what it told, and after how many milliseconds `/readyz` said yes.
async fn launch(binary: &Path, flags: &[String], mock: &Mock, dir: &Path) -> Result<(Process, Value, f64)> {
    let log_file = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("stderr.txt"))?;
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let known = name.to_string_lossy();
        if known.starts_with("SWITCHBOARD_") || known.starts_with("OPENAI_") {
            command.env_remove(&name);
        }
    }
    let provider = format!("http://{}/v1", mock.addr);
    command.arg("serve").args([
        "--listen",
        "127.0.0.1:0",
        "--data",
        "data",
        "--bootstrap-json",
        "bootstrap.json",
    ]);
    command.args([
        "--provider-url",
        &provider,
        "--provider-key",
        "bench-provider-key",
        "--provider-model",
        MODEL,
    ]);
    command.args(ample(flags)).args(flags).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
    let began = Instant::now();
    let mut server = Process::start("the server", &mut command)?;
    let told = dir.join("bootstrap.json");
    let bootstrap = loop {
        server.alive().with_context(|| log(dir))?;
        if let Some(told) = std::fs::read(&told).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            break told;
        }
        if began.elapsed() > START_LIMIT {
            bail!("the server is not ready after {} s: {}", START_LIMIT.as_secs(), log(dir));
        }
        sleep(LOOK).await;
    };
    let mut wire = Wire::new(address(&bootstrap)?);
    let probe = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", address(&bootstrap)?);
    let answer = wire.call(probe.as_bytes(), || {}).await?;
    ensure!(answer.status == 200, "/readyz says {}", answer.status);
    Ok((server, bootstrap, began.elapsed().as_secs_f64() * 1e3))
}

/// What a scenario does not set by itself.
fn ample(flags: &[String]) -> Vec<&'static str> {
    let pairs = AMPLE.chunks(2).filter(|pair| !flags.iter().any(|flag| flag == pair[0]));
    pairs.flatten().copied().collect()
}

fn address(bootstrap: &Value) -> Result<SocketAddr> {
    let url = text(bootstrap, "url")?;
    let port = url.trim_end_matches('/').split_once("://").context("an address without a scheme")?.1;
    port.parse().with_context(|| format!("{url} is no address"))
}

/// A field of an answer that has to be a string.
pub fn text(value: &Value, name: &str) -> Result<String> {
    Ok(value[name].as_str().with_context(|| format!("{name} is missing in {value}"))?.to_owned())
}

/// The end of the server's log.
fn log(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("stderr.txt")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    format!("the end of the server's log:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
}
