//! nginx as a plain proxy: what passing an answer on costs at the least, for a program that does nothing else.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::load::{Caller, Target};
use crate::mock::{MODEL, Mock};
use crate::process::{Process, family};

/// How long it may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// nginx that runs.
pub struct Proxy {
    process: Process,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Proxy {
    /// Starts it before a provider.
    pub async fn start(mock: &Mock) -> Result<Self> {
        let binary = find().context("there is no nginx on PATH")?;
        let dir = tempfile::tempdir()?;
        // Nothing else takes a port that was free a moment ago, on a machine that is fit for measuring.
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, configuration(addr, mock.addr, workers))?;
        let mut command = Command::new(binary);
        command.arg("-p").arg(dir.path()).arg("-e").arg("error.log").arg("-c").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start("nginx", &mut command)?;
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(addr).await.is_err() {
            let log = || std::fs::read_to_string(dir.path().join("error.log")).unwrap_or_default();
            process.alive().with_context(log)?;
            if Instant::now() > deadline {
                bail!("nginx does not listen: {}", log());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { process, addr, _dir: dir })
    }

    /// nginx as what is measured.
    pub fn target(&self) -> Target {
        let pids = family(self.process.pid());
        Target { name: "nginx", addr: self.addr, pids, callers: strangers(), answered: Default::default() }
    }
}

/// The provider itself, with nothing in between.
pub fn direct(mock: &Mock) -> Target {
    let pids = vec![mock.pid()];
    Target { name: "direct", addr: mock.addr, pids, callers: strangers(), answered: Default::default() }
}

/// Whom nobody asks who they are.
fn strangers() -> std::sync::Arc<[Caller]> {
    [Caller { key: "bench-key".to_owned(), model: MODEL.to_owned() }].into()
}

/// Where nginx is.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("nginx")).find(|file| file.is_file())
}

fn configuration(addr: SocketAddr, upstream: SocketAddr, workers: usize) -> String {
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {kind};\n"))
        .collect();
    format!(
        "daemon off;\nworker_processes {workers};\npid nginx.pid;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n    access_log off;\n    keepalive_requests 1000000000;\n{folders}    \
         upstream provider {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}\n    \
         server {{\n        listen {addr} backlog=8192;\n        location / {{\n            \
         proxy_pass http://provider;\n            proxy_http_version 1.1;\n            \
         proxy_set_header Connection \"\";\n            proxy_buffering off;\n        }}\n    }}\n}}\n"
    )
}
