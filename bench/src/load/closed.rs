//! A closed loop: each client sends its next request when the last one is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Load, Outcome};
use crate::figures::each;
use crate::wire::Wire;

/// A client that fails waits so long, so that a server that is not there is not hammered.
const AFTER_A_FAILURE: Duration = Duration::from_millis(20);

/// What a measured window saw.
#[derive(Debug)]
pub struct Window {
    /// How the requests went; the times are of the window alone.
    pub outcome: Outcome,
    /// Answers that ended in the window.
    pub answers: f64,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Microseconds of processor time that the server used in it.
    pub cpu_us: f64,
}

impl Window {
    /// Microseconds of processor time an answer.
    pub fn cpu_each(&self) -> f64 {
        each(self.cpu_us, self.answers)
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    measuring: AtomicBool,
    answers: AtomicU64,
    seq: AtomicU64,
}

/// So many clients for a while; what happens in the first part of it is not measured.
pub async fn run(load: &Load, clients: u64, warmup: Duration, window: Duration) -> Result<Window> {
    let shared = Arc::new(Shared::default());
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        tasks.spawn(one(load.clone(), shared.clone(), client));
    }
    sleep(warmup).await;
    let (began, cpu, answers) = (Instant::now(), load.target.cpu_us()?, shared.answers.load(Relaxed));
    shared.measuring.store(true, Relaxed);
    sleep(window).await;
    let (seconds, cpu_us) = (began.elapsed().as_secs_f64(), load.target.cpu_us()? - cpu);
    let answers = (shared.answers.load(Relaxed) - answers) as f64;
    shared.measuring.store(false, Relaxed);
    shared.stop.store(true, Relaxed);
    let mut outcome = Outcome::default();
    while let Some(client) = tasks.join_next().await {
        outcome.add(client?);
    }
    Ok(Window { outcome, answers, seconds, cpu_us })
}

/// So many requests by so many clients, as fast as they go.
pub async fn send(load: &Load, clients: u64, requests: u64) -> Result<Outcome> {
    let shared = Arc::new(Shared::default());
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (load, shared) = (load.clone(), shared.clone());
        tasks.spawn(async move {
            let (mut wire, mut outcome, mut turn) = (Wire::new(load.target.addr), Outcome::default(), 0);
            loop {
                let seq = shared.seq.fetch_add(1, Relaxed);
                if seq >= requests {
                    return outcome;
                }
                let request = load.request(client, turn, seq);
                let sent = Instant::now();
                let answer = wire.call(&request, || {}).await;
                outcome.note(&load, answer, sent, false);
                outcome.completions.clear();
                turn += 1;
            }
        });
    }
    let mut outcome = Outcome::default();
    while let Some(client) = tasks.join_next().await {
        outcome.add(client?);
    }
    Ok(outcome)
}

async fn one(load: Load, shared: Arc<Shared>, client: u64) -> Outcome {
    let (mut wire, mut outcome, mut turn) = (Wire::new(load.target.addr), Outcome::default(), 0);
    while !shared.stop.load(Relaxed) {
        let request = load.request(client, turn, shared.seq.fetch_add(1, Relaxed));
        let sent = Instant::now();
        let answer = wire.call(&request, || {}).await;
        let failed = outcome.failed;
        outcome.note(&load, answer, sent, shared.measuring.load(Relaxed));
        outcome.completions.clear(); // a run has hundreds of thousands
        if outcome.failed > failed {
            sleep(AFTER_A_FAILURE).await;
        } else {
            shared.answers.fetch_add(1, Relaxed);
        }
        turn += 1;
    }
    outcome
}
