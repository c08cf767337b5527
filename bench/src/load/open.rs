//! An open loop: requests are due at a rate, whether the server keeps up or not, and an answer's time counts from the
//! moment when its request was due.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Load;
use crate::wire::Wire;

/// How one request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Answered in whole.
    Answered,
    /// Refused with 429 or 503.
    Refused,
    /// Anything else.
    Failed,
    /// Not sent: as many as may be were on their way.
    Kept,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Shot {
    /// Seconds from the beginning until it was due.
    pub due: f64,
    /// Milliseconds from then until it was sent.
    pub late: f64,
    /// Milliseconds from when it was due to its end.
    pub latency: f64,
    /// How it went.
    pub fate: Fate,
}

/// A rate for a while.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Requests a second.
    pub rate: f64,
    /// For so long.
    pub time: Duration,
}

struct Range {
    load: Load,
    idle: Mutex<Vec<Wire>>,
    flying: AtomicU64,
    fault: Mutex<Option<String>>,
}

/// Requests at these rates, at most `bound` on their way at once; answers them and the first fault.
pub async fn run(load: &Load, phases: &[Phase], bound: u64) -> Result<(Vec<Shot>, Option<String>)> {
    let range = Arc::new(Range {
        load: load.clone(),
        idle: Mutex::default(),
        flying: AtomicU64::new(0),
        fault: Mutex::default(),
    });
    let (began, mut from, mut seq) = (Instant::now(), Duration::ZERO, 0);
    let (mut shots, mut tasks) = (Vec::new(), JoinSet::new());
    for phase in phases {
        for at in 0..(phase.rate * phase.time.as_secs_f64()) as u64 {
            let due = from + Duration::from_secs_f64(at as f64 / phase.rate);
            sleep_until(began + due).await;
            while let Some(shot) = tasks.try_join_next() {
                shots.push(shot?);
            }
            if range.flying.load(Relaxed) >= bound {
                shots.push(Shot { due: due.as_secs_f64(), late: 0.0, latency: 0.0, fate: Fate::Kept });
            } else {
                range.flying.fetch_add(1, Relaxed);
                tasks.spawn(fly(range.clone(), began, due, seq));
            }
            seq += 1;
        }
        from += phase.time;
    }
    while let Some(shot) = tasks.join_next().await {
        shots.push(shot?);
    }
    let fault = range.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((shots, fault))
}

async fn fly(range: Arc<Range>, began: Instant, due: Duration, seq: u64) -> Shot {
    let idle = range.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut wire = idle.unwrap_or_else(|| Wire::new(range.load.target.addr));
    let since_due = || (Instant::now() - (began + due)).as_secs_f64() * 1e3;
    let late = since_due();
    // A conversation for each request: waiting for another turn of the same one is not what is measured here.
    let answer = wire.call(&range.load.request(seq, 0, seq), || {}).await;
    range.flying.fetch_sub(1, Relaxed);
    let latency = since_due();
    let fault = match &answer {
        Ok(answer) if matches!(answer.status, 429 | 503) => None,
        Ok(answer) => answer.fault(range.load.chunks, range.load.streamed),
        Err(error) => Some(format!("{error:#}")),
    };
    let fate = match (&answer, &fault) {
        (Ok(answer), None) if answer.status == 200 => Fate::Answered,
        (Ok(_), None) => Fate::Refused,
        _ => Fate::Failed,
    };
    if fate == Fate::Answered {
        range.load.target.answered.fetch_add(1, Relaxed);
    }
    if let Some(fault) = fault {
        range.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }
    range.idle.lock().unwrap_or_else(PoisonError::into_inner).push(wire);
    Shot { due: due.as_secs_f64(), late, latency, fate }
}
