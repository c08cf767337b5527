//! The process as the kernel sees it: Linux's `/proc`. Elsewhere nothing is told.

use std::fs;

/// Clock ticks in a second: what Linux tells to programs on every architecture.
const TICKS: f64 = 100.0;

/// What the process takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub resident: u64,
    pub virtual_size: u64,
    pub threads: u64,
    pub open_fds: usize,
    pub max_fds: Option<u64>,
    pub cpu_seconds: f64,
}

impl Process {
    /// Reads it.
    pub fn read() -> Option<Self> {
        let mut process = parse(
            &fs::read_to_string("/proc/self/status").ok()?,
            &fs::read_to_string("/proc/self/stat").ok()?,
            &fs::read_to_string("/proc/self/limits").ok()?,
        )?;
        // The directory that is being read has a descriptor, too.
        process.open_fds = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
        Some(process)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn parse(status: &str, stat: &str, limits: &str) -> Option<Process> {
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    // The program's name stands in parentheses and may hold anything.
    let mut times = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || times.next()?.parse::<u64>().ok();
    let cpu = ticks()? + ticks()?;
    let max_fds = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    Some(Process {
        resident: field("VmRSS:")? * 1_024,
        virtual_size: field("VmSize:")? * 1_024,
        threads: field("Threads:")?,
        open_fds: 0,
        max_fds: max_fds.and_then(|line| line.split_whitespace().next()?.parse().ok()),
        cpu_seconds: cpu as f64 / TICKS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let status = "Name:\tx y\nVmSize:\t    2048 kB\nVmRSS:\t     100 kB\nThreads:\t7\n";
        let stat = "1 (a) b) S 1 1 1 0 -1 4194560 10 0 0 0 150 50 0 0 20 0 7 0 100";
        let limits =
            "Max cpu time unlimited\nMax open files            1024                 4096       files\n";
        let process = parse(status, stat, limits).expect("it is complete");
        assert_eq!((process.resident, process.virtual_size, process.threads), (102_400, 2_097_152, 7));
        assert_eq!((process.max_fds, process.cpu_seconds), (Some(1_024), 2.0));
    }
}
