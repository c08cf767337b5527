//! Many streams at once, each by a client of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Load, Outcome};
use crate::wire::Wire;

/// How often is looked how many have begun.
const LOOK: Duration = Duration::from_millis(50);

/// Streams that run.
pub struct Streams {
    tasks: JoinSet<Outcome>,
    begun: Arc<AtomicU64>,
    count: u64,
}

impl Streams {
    /// Starts so many, spread over `ramp`.
    pub fn start(load: &Load, count: u64, ramp: Duration) -> Self {
        let begun = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for client in 0..count {
            let delay = ramp.mul_f64(client as f64 / count.max(1) as f64);
            tasks.spawn(one(load.clone(), client, delay, begun.clone()));
        }
        Self { tasks, begun, count }
    }

    /// Waits until all have got their first content, or until time is up; answers how many have.
    pub async fn begun(&self, limit: Duration) -> u64 {
        let deadline = Instant::now() + limit;
        loop {
            let begun = self.begun.load(Relaxed);
            if begun == self.count || Instant::now() > deadline {
                return begun;
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until all have ended.
    pub async fn end(mut self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        while let Some(client) = self.tasks.join_next().await {
            outcome.add(client?);
        }
        Ok(outcome)
    }
}

async fn one(load: Load, client: u64, delay: Duration, begun: Arc<AtomicU64>) -> Outcome {
    sleep(delay).await;
    let (mut wire, mut outcome) = (Wire::new(load.target.addr), Outcome::default());
    let request = load.request(client, 0, client);
    let sent = Instant::now();
    let answer = wire
        .call(&request, || {
            begun.fetch_add(1, Relaxed);
        })
        .await;
    outcome.note(&load, answer, sent, true);
    outcome
}
