//! What of clients is taken, and for how long it is waited for.

use std::time::Duration;

use crate::config::file::Table;
use crate::config::{ServeArgs, number};

/// The bounds of connections, requests and bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// The largest body of a chat request, in bytes.
    pub max_body: usize,
    /// What all bodies that are in memory may come to, in bytes.
    pub body_memory: usize,
    /// How long a body may take, beside the time that its length allows.
    pub body_timeout: Duration,
    /// How long the head of a request may take.
    pub head_timeout: Duration,
    /// How long a connection may stay without a request.
    pub keep_alive: Duration,
    /// How long a client may take nothing of its answer.
    pub stall_timeout: Duration,
    /// Connections at the same time.
    pub max_connections: usize,
    /// How long turns may take to begin before others are refused.
    pub max_start_wait: Duration,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            max_body: 20_000_000,
            body_memory: 256 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            head_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(60),
            max_connections: 10_000,
            max_start_wait: Duration::from_millis(250),
        }
    }
}

impl Intake {
    /// Reads them from flags, environment and file.
    pub fn read(args: &ServeArgs, file: &mut Table, faults: &mut Vec<String>) -> Self {
        let mut read = |given: Option<&String>, name: &str| {
            let in_file = file.number(name, faults);
            let number = number(given, in_file, name, faults);
            if number == Some(0) {
                faults.push(format!("{name}: expected at least 1"));
            }
            number
        };
        let usual = Self::default();
        let size = |number: Option<u64>, usual: usize| {
            number.map_or(usual, |number| usize::try_from(number).unwrap_or(usize::MAX))
        };
        let time = |number: Option<u64>, usual: Duration| number.map_or(usual, Duration::from_secs);
        let intake = Self {
            max_body: size(read(args.max_body_bytes.as_ref(), "max_body_bytes"), usual.max_body),
            body_memory: size(read(args.body_memory_bytes.as_ref(), "body_memory_bytes"), usual.body_memory),
            body_timeout: time(read(args.body_timeout.as_ref(), "body_timeout_s"), usual.body_timeout),
            head_timeout: time(read(args.head_timeout.as_ref(), "head_timeout_s"), usual.head_timeout),
            keep_alive: time(read(args.keep_alive.as_ref(), "keep_alive_s"), usual.keep_alive),
            stall_timeout: time(read(args.stall_timeout.as_ref(), "stall_timeout_s"), usual.stall_timeout),
            max_connections: size(
                read(args.max_connections.as_ref(), "max_connections"),
                usual.max_connections,
            ),
            max_start_wait: read(args.max_start_wait.as_ref(), "max_start_wait_ms")
                .map_or(usual.max_start_wait, Duration::from_millis),
        };
        if intake.max_body.saturating_mul(2) > intake.body_memory {
            faults.push("body_memory_bytes: expected at least twice max_body_bytes".to_owned());
        }
        intake
    }

    /// Each by its name in the file.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("max_body_bytes", self.max_body as u64),
            ("body_memory_bytes", self.body_memory as u64),
            ("body_timeout_s", self.body_timeout.as_secs()),
            ("head_timeout_s", self.head_timeout.as_secs()),
            ("keep_alive_s", self.keep_alive.as_secs()),
            ("stall_timeout_s", self.stall_timeout.as_secs()),
            ("max_connections", self.max_connections as u64),
            ("max_start_wait_ms", u64::try_from(self.max_start_wait.as_millis()).unwrap_or(u64::MAX)),
        ]
    }
}
