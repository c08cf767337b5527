//! Streams that run at the same time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::client::Connection;
use super::process::{Memory, Server};
use super::{Tenant, mib, residents, text, upstream};

/// How many requests are under way at the same time while streams are opened.
const OPENING: usize = 256;
/// How long all may take to open.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long streams that have ended can be taken up again, and a little.
const SHELF: Duration = Duration::from_secs(5 * 60 + 20);

/// What was found.
pub struct Found {
    /// Without any stream.
    pub before: Memory,
    /// While all run, the most that was seen.
    pub during: Memory,
    /// What all their logs kept then.
    pub logs: u64,
    /// Soon after the end, while the streams can be taken up again.
    pub after: Memory,
    /// When they cannot any more and the sessions sleep.
    pub given_back: Memory,
    /// How long all took to open.
    pub opened: Duration,
}

struct Progress {
    opened: Cell<usize>,
    ended: Cell<usize>,
    opening: tokio::sync::Semaphore,
}

/// Reads one stream from its beginning to its end, and checks that nothing of it is missing.
async fn read(
    server: std::net::SocketAddr,
    tenant: Tenant,
    number: usize,
    chunks: usize,
    progress: Rc<Progress>,
) -> anyhow::Result<()> {
    let asked = format!(r#"{{"role":"user","content":"{}"}}"#, text(&number.to_string(), residents::MESSAGE));
    let body = residents::chat(&tenant, &format!("stream-{number:08}"), &[asked], r#","stream":true"#);
    let place = progress.opening.acquire().await?;
    let mut connection = Connection::open(server).await?;
    let answer = connection.begin("POST", "/v1/chat/completions", &tenant.key, &body).await?;
    drop(place);
    progress.opened.set(progress.opened.get() + 1);
    let whole = answer.rest().await?;
    progress.ended.set(progress.ended.get() + 1);
    check(&whole, chunks).with_context(|| format!("stream {number}"))
}

/// Every chunk in order, then why it ended, then `[DONE]`.
fn check(whole: &str, chunks: usize) -> anyhow::Result<()> {
    let mut data = whole.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut content = String::new();
    let mut finished = false;
    let done = data.by_ref().try_for_each(|event| {
        if event == "[DONE]" {
            return Err(None::<String>);
        }
        let chunk: Value = serde_json::from_str(event).map_err(|cause| Some(cause.to_string()))?;
        let choice = &chunk["choices"][0];
        content.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        finished |= choice["finish_reason"] == "stop";
        Ok(())
    });
    ensure!(done == Err(None), "no [DONE]: {done:?} after {} bytes", whole.len());
    ensure!(data.next().is_none() && finished, "not an end");
    let wanted: String = (0..chunks).map(upstream::said).collect();
    ensure!(content == wanted, "{} bytes of text came, not {}", content.len(), wanted.len());
    Ok(())
}

/// The bytes that the logs of all running streams keep.
async fn kept(server: &Server, wanted: usize) -> anyhow::Result<u64> {
    let list: Value = serde_json::from_str(&server.ask("/admin/streams").await?)?;
    let list = list["streams"].as_array().context("a list of streams")?;
    ensure!(list.len() == wanted, "{} streams run, not {wanted}", list.len());
    Ok(list.iter().filter_map(|stream| stream["kept_bytes"].as_u64()).sum())
}

/// How often the memory of running streams is looked at: what it tells is the largest of these.
const BETWEEN_LOOKS: Duration = Duration::from_secs(3);
/// After so long the allocator has given back what was let go: it waits for 10 s, in case it is needed again.
const GIVEN_BACK: Duration = Duration::from_secs(12);

/// Lets so many streams run at the same time, each of so many chunks.
pub async fn measure(
    server: &Server,
    tenant: &Tenant,
    streams: usize,
    chunks: usize,
    idle: Duration,
) -> anyhow::Result<Found> {
    let before = server.memory()?;
    let progress = Rc::new(Progress {
        opened: Cell::new(0),
        ended: Cell::new(0),
        opening: tokio::sync::Semaphore::new(OPENING),
    });
    let began = Instant::now();
    let all: Vec<_> = (0..streams)
        .map(|number| actix_rt::spawn(read(server.address, tenant.clone(), number, chunks, progress.clone())))
        .collect();
    let opening = async {
        while progress.opened.get() < streams {
            ensure!(!all.iter().any(|task| task.is_finished()), "a stream ended before all were open");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    let opening = timeout(PATIENCE, opening).await.context("too slow").and_then(|open| open);
    let opened = began.elapsed();
    let mut during = Memory::default();
    let mut logs = 0;
    // Until the first one ends, so that all run while it is weighed.
    while opening.is_ok() && progress.ended.get() == 0 {
        let (now, count) =
            (server.memory()?, server.metric("switchboard_turns_running{stream=\"true\"}").await?);
        if count == streams as u64 && now.rss > during.rss {
            (during, logs) = (now, kept(server, streams).await.unwrap_or(logs));
        }
        sleep(BETWEEN_LOOKS).await;
    }
    let mut failed = Vec::new();
    for task in all {
        failed.extend(task.await.context("a client")?.err());
    }
    ensure!(failed.is_empty(), "{} streams failed, the first with: {:#}", failed.len(), failed[0]);
    opening?;
    ensure!(during.rss > 0, "all streams were never seen running together");
    println!("{streams} streams of {chunks} chunks were whole; at once: {}", mib(during.rss));
    sleep(GIVEN_BACK).await;
    let after = server.memory()?;
    sleep(SHELF.max(idle)).await;
    server.until("switchboard_sessions_resident", 0, Duration::from_secs(60)).await?;
    sleep(GIVEN_BACK).await;
    Ok(Found { before, during, logs, after, given_back: server.memory()?, opened })
}
