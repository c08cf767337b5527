//! How long a session takes that has to be read from the database first.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Connection;
use super::process::Server;
use super::{Tenant, residents, text};

/// Turns of the long session.
pub const TURNS: usize = 1_000;
/// How often each thing is timed; the median counts.
const TIMES: usize = 21;

/// What was found: medians.
pub struct Found {
    /// A turn in a session of [`TURNS`] turns that sleeps.
    pub asleep: Duration,
    /// The next one, in memory.
    pub awake: Duration,
    /// A turn in a session of one turn that sleeps.
    pub short_asleep: Duration,
    /// The next one, in memory.
    pub short_awake: Duration,
}

fn message(number: usize) -> String {
    format!(r#"{{"role":"user","content":"{}"}}"#, text(&number.to_string(), residents::MESSAGE))
}

async fn say(
    connection: &mut Connection,
    tenant: &Tenant,
    session: &str,
    number: usize,
) -> anyhow::Result<Duration> {
    let body = residents::chat(tenant, session, &[message(number)], "");
    let began = Instant::now();
    connection.call("POST", "/v1/chat/completions", &tenant.key, &body).await?;
    Ok(began.elapsed())
}

/// Makes the long session and a short one, turn by turn.
pub async fn prepare(server: &Server, tenant: &Tenant) -> anyhow::Result<()> {
    let mut connection = server.connect().await?;
    for number in 0..TURNS {
        say(&mut connection, tenant, "long", number).await?;
    }
    say(&mut connection, tenant, "short", 0).await?;
    Ok(())
}

/// Times turns in sessions that begin as the prepared ones do and that nobody has called yet.
pub async fn measure(server: &Server, tenant: &Tenant) -> anyhow::Result<Found> {
    let (asleep, awake) = both(server, tenant, "long").await?;
    let (short_asleep, short_awake) = both(server, tenant, "short").await?;
    Ok(Found { asleep, awake, short_asleep, short_awake })
}

async fn both(server: &Server, tenant: &Tenant, from: &str) -> anyhow::Result<(Duration, Duration)> {
    let mut connection = server.connect().await?;
    let (mut asleep, mut awake) = (Vec::new(), Vec::new());
    for at in 0..TIMES {
        let path = format!("/v2/sessions/{from}/fork");
        let fork: Value = connection.json("POST", &path, &tenant.key, "{}").await?;
        let fork = fork["id"].as_str().unwrap_or_default().to_owned();
        asleep.push(say(&mut connection, tenant, &fork, at).await?);
        awake.push(say(&mut connection, tenant, &fork, at).await?);
    }
    Ok((median(asleep), median(awake)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
