//! The machine that the figures are from.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

/// How long the machine is looked at before anything is measured.
const BUSY_WINDOW: Duration = Duration::from_secs(1);

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Load averages of the last one, five and fifteen minutes.
pub fn load() -> String {
    first_line("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The share of all cores, in per cent, that was busy during a second in which nothing is measured.
fn busy() -> Option<u64> {
    let read = || -> Option<(u64, u64)> {
        let line = first_line("/proc/stat");
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // The fourth and fifth are idle and waiting for the disk; guests count among those before them.
        Some((ticks.get(..8)?.iter().sum(), ticks[3] + ticks[4]))
    };
    let (all, idle) = read()?;
    std::thread::sleep(BUSY_WINDOW);
    let (all_then, idle_then) = read()?;
    let passed = all_then.checked_sub(all).filter(|passed| *passed > 0)?;
    Some(100 - 100 * idle_then.saturating_sub(idle).min(passed) / passed)
}

/// What the machine is, and how busy it was before anything was measured.
pub fn describe() -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_else(|| "unknown".to_owned());
    json!({
        "cores": cores,
        "cpu": field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
        "kernel": first_line("/proc/sys/kernel/osrelease"),
        "memory": memory,
        "load_before": load(),
        "busy_before": busy().map(|share| format!("{share} % of all cores, by others")),
        "open_files": open_files(),
    })
}

/// The limit of open files, raised as far as it may be.
pub fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
