//! Sessions that stay in memory, and sessions that sleep.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::time::sleep;

use super::process::{Memory, Server};
use super::{Tenant, mib, text, upstream};

/// Bytes of text in each message.
pub const MESSAGE: usize = 200;
/// Messages of each session, the answer included.
pub const MESSAGES: usize = 4;
/// Connections over which sessions are made.
const CONNECTIONS: usize = 64;
/// What the sweep takes beyond the idle time, generously.
const SWEEP: Duration = Duration::from_secs(60);
/// How long after an end memory is looked at: the allocator gives back a little later.
const AFTER: Duration = Duration::from_secs(12);

/// What was found.
pub struct Found {
    /// By so many sessions, the memory.
    pub steps: Vec<(u64, Memory)>,
    /// When all of them sleep.
    pub asleep: Memory,
    /// Bytes of the messages of one session, as they are kept.
    pub text: u64,
    /// Turns a second while they were made.
    pub rate: f64,
}

fn messages(number: u64) -> Vec<String> {
    let say = |at: usize| {
        let role = if at.is_multiple_of(2) { "user" } else { "assistant" };
        format!(r#"{{"role":"{role}","content":"{}"}}"#, text(&format!("{number} {at}"), MESSAGE))
    };
    (0..MESSAGES - 1).map(say).collect()
}

/// The body of a chat in a session of that name.
pub fn chat(tenant: &Tenant, session: &str, messages: &[String], more: &str) -> String {
    let (agent, messages) = (&tenant.agent, messages.join(","));
    format!(r#"{{"model":"{agent}","session_id":"{session}","messages":[{messages}]{more}}}"#)
}

/// Has one turn in each of the sessions from number `from` up to `to`.
pub async fn make(server: &Server, tenant: &Tenant, from: u64, to: u64) -> anyhow::Result<()> {
    let next = Rc::new(Cell::new(from));
    let one = || {
        let (next, tenant, address) = (next.clone(), tenant.clone(), server.address);
        async move {
            let mut connection = super::client::Connection::open(address).await?;
            loop {
                let number = next.get();
                if number >= to {
                    return anyhow::Ok(());
                }
                next.set(number + 1);
                let body = chat(&tenant, &format!("resident-{number:08}"), &messages(number), "");
                connection.call("POST", "/v1/chat/completions", &tenant.key, &body).await?;
            }
        }
    };
    let all: Vec<_> = (0..CONNECTIONS).map(|_| actix_rt::spawn(one())).collect();
    for task in all {
        task.await.context("a client")??;
    }
    Ok(())
}

/// Makes `sessions` of them, weighs the server on the way, and again when all have gone to sleep.
pub async fn measure(
    server: &Server,
    tenant: &Tenant,
    sessions: u64,
    idle: Duration,
) -> anyhow::Result<Found> {
    let mut steps = vec![(0, server.memory()?)];
    let began = Instant::now();
    for step in 1..=10 {
        let (from, to) = (sessions * (step - 1) / 10, sessions * step / 10);
        make(server, tenant, from, to).await?;
        steps.push((to, server.memory()?));
    }
    let took = began.elapsed();
    sleep(AFTER).await;
    let resident = server.metric("switchboard_sessions_resident").await?;
    ensure!(
        resident == sessions,
        "{resident} sessions are in memory, not {sessions}: a longer idle time is needed"
    );
    if let Some(last) = steps.last_mut() {
        last.1 = server.memory()?;
    }
    println!(
        "{sessions} sessions are in memory after {:.0} s: {}",
        took.as_secs_f64(),
        mib(server.memory()?.rss)
    );
    server.until("switchboard_sessions_resident", 0, idle + SWEEP).await?;
    sleep(AFTER).await;
    let kept: usize =
        messages(sessions / 2).iter().map(String::len).sum::<usize>() + upstream::message().len();
    let rate = sessions as f64 / took.as_secs_f64();
    Ok(Found { steps, asleep: server.memory()?, text: kept as u64, rate })
}
