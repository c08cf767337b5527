//! Load: who asks whom for what, and how it went.

pub mod closed;
pub mod open;
pub mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::Result;

use crate::process;
use crate::wire::Answer;

/// Turns that a conversation has before a client begins the next one.
const TURNS: u64 = 10;
/// How many callers on a client's next conversation is: a prime, so that each has his turn.
const STRIDE: u64 = 31;

/// The most that an answer may have, in tokens.
const MAX_TOKENS: u64 = 512;

/// What every request says; 200 bytes of it.
const PROMPT: &str = "Tell me in a few words what a benchmark can show, what it cannot show, and why two figures from \
                      two machines should not be put side by side. Leave out what everybody knows already, please: ";

/// Each load has a number, so that no two of them share a conversation.
static LOADS: AtomicU64 = AtomicU64::new(0);

/// A key, and the agent that it asks for.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key.
    pub key: String,
    /// The agent, or the provider's model where there is no server in between.
    pub model: String,
}

/// Who is asked.
#[derive(Clone)]
pub struct Target {
    /// The name of its column.
    pub name: &'static str,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its processes.
    pub pids: Vec<u32>,
    /// Who asks it, in turn.
    pub callers: Arc<[Caller]>,
    /// Whole answers that clients have got of it.
    pub answered: Arc<AtomicU64>,
}

impl Target {
    /// The same one, asked by others.
    pub fn asked_by(&self, callers: &[Caller]) -> Self {
        Self { callers: callers.into(), ..self.clone() }
    }

    /// The processor time that it has used, in microseconds.
    pub fn cpu_us(&self) -> Result<f64> {
        Ok(process::cpu(&self.pids)?.as_secs_f64() * 1e6)
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> Result<f64> {
        Ok(process::resident(&self.pids)? as f64)
    }
}

/// Which conversation a request belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Sessions {
    /// Each client begins a new one after ten turns.
    OfTenTurns,
    /// These, so many, in turn; they may be there already.
    Named(u64),
}

/// What is asked for.
#[derive(Clone)]
pub struct Load {
    target: Target,
    sessions: Sessions,
    /// Whether answers are streamed.
    streamed: bool,
    /// Pieces of content that each stream must hold.
    chunks: u64,
    number: u64,
}

impl Load {
    /// Plain answers.
    pub fn plain(target: &Target) -> Self {
        let number = LOADS.fetch_add(1, Relaxed);
        Self { target: target.clone(), sessions: Sessions::OfTenTurns, streamed: false, chunks: 1, number }
    }

    /// Streams of so many pieces.
    pub fn streamed(target: &Target, chunks: u64) -> Self {
        Self { streamed: true, chunks, ..Self::plain(target) }
    }

    /// In other conversations.
    pub fn sessions(self, sessions: Sessions) -> Self {
        Self { sessions, ..self }
    }

    /// The bytes of a request: the `turn`-th one of a client, the `seq`-th of all.
    fn request(&self, client: u64, turn: u64, seq: u64) -> Vec<u8> {
        let (number, talk) = (self.number, turn / TURNS);
        // A conversation has one caller, or it would be another one with each.
        let (session, by) = match self.sessions {
            Sessions::OfTenTurns => (format!("bench-{number}-{client}-{talk}"), client + STRIDE * talk),
            Sessions::Named(count) => (format!("kept-{}", seq % count), seq),
        };
        let callers = &self.target.callers;
        let caller = &callers[(by % callers.len() as u64) as usize];
        let stream =
            if self.streamed { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" };
        let body = format!(
            r#"{{"model":"{}","messages":[{{"role":"user","content":"{PROMPT}{seq}"}}],"max_tokens":{MAX_TOKENS}{stream}}}"#,
            caller.model
        );
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nX-Session-Id: {session}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.target.addr,
            caller.key,
            body.len()
        );
        (head + &body).into_bytes()
    }
}

/// How requests went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Milliseconds from sending a request to the end of its answer.
    pub latencies: Vec<f64>,
    /// Milliseconds from sending a request to the first content.
    pub firsts: Vec<f64>,
    /// Whole answers.
    pub whole: u64,
    /// The ids of their completions, where they are asked for.
    pub completions: Vec<String>,
    /// Requests that failed.
    pub failed: u64,
    /// What was wrong with the first of them.
    pub fault: Option<String>,
}

impl Outcome {
    /// Adds what another client saw.
    pub fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.firsts.extend(other.firsts);
        self.completions.extend(other.completions);
        self.whole += other.whole;
        self.failed += other.failed;
        self.fault = self.fault.take().or(other.fault);
    }

    /// Notes an answer to a request sent at `sent`; only what is `measured` counts among the times.
    fn note(&mut self, load: &Load, answer: Result<Answer>, sent: Instant, measured: bool) {
        let fault = match &answer {
            Ok(answer) => answer.fault(load.chunks, load.streamed),
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(fault) = fault {
            self.failed += 1;
            self.fault.get_or_insert(fault);
            return;
        }
        self.whole += 1;
        load.target.answered.fetch_add(1, Relaxed);
        let Ok(answer) = answer else { return };
        if measured {
            self.latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            self.firsts.extend(answer.first.map(|first| (first - sent).as_secs_f64() * 1e3));
        }
        self.completions.extend(answer.completion);
    }
}
