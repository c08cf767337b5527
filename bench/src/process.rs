//! Processes that were started here: their end, their processor time, their memory.

use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(25);

/// A process that ends with this value, whatever happens.
pub struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts a program.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name, child })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pipes to it, where it has any.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Fails once it has ended.
    pub fn alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended by itself: {status}", self.name),
        }
    }

    /// Asks it to end, waits, and kills it when it does not.
    pub fn stop(&mut self) -> Result<()> {
        let _ = self.child.stdin.take(); // the mock ends when nobody is left who could tell it anything
        let deadline = Instant::now() + FAREWELL;
        if self.child.try_wait()?.is_none() {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a pid")?;
            let _ = kill_process(pid, Signal::TERM);
        }
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                bail!("{} did not end within {} s and was killed", self.name, FAREWELL.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

/// The processor time, user and system, that these processes have used with all their threads.
pub fn cpu(pids: &[u32]) -> Result<Duration> {
    let mut ticks = 0;
    for pid in pids {
        let stat =
            fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
        // The name in brackets may hold anything; the fields after it are numbers.
        let (_, fields) = stat.rsplit_once(')').context("a process without a name")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number =
            |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).context("/proc/stat");
        ticks += number(11)? + number(12)?;
    }
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The memory, in bytes, that these processes have resident.
pub fn resident(pids: &[u32]) -> Result<u64> {
    let mut pages = 0;
    for pid in pids {
        let statm =
            fs::read_to_string(format!("/proc/{pid}/statm")).with_context(|| format!("process {pid}"))?;
        let field = statm.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
        pages += field.context("/proc/statm")?;
    }
    Ok(pages * rustix::param::page_size() as u64)
}

/// A process and all that it has started.
pub fn family(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent =
            stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(1)?.parse().ok());
        parents.push((pid, parent.unwrap_or(0_u32)));
    }
    let mut at = 0;
    while at < all.len() {
        let parent = all[at];
        all.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    all
}
