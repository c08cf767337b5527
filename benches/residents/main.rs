//! What sessions and streams cost in memory, and what waking costs: `cargo bench --bench residents [-- SESSIONS [STREAMS]]`.
//!
//! The server is the binary as it is shipped, in a process of its own and on a database of its own; so is the provider
//! behind it. Everything goes through HTTP on 127.0.0.1 over connections that stay open, with SQLite's syncs on. What
//! is weighed is what the kernel says of the server's process. `SWITCHBOARD_BINARY` names another binary to weigh.

mod client;
mod process;
mod residents;
mod streams;
mod upstream;
mod wake;

use std::time::Duration;

use anyhow::Context;
use process::{Memory, Server, Upstream};
use serde_json::{Value, json};

/// Sessions in memory at once unless told otherwise.
const SESSIONS: u64 = 100_000;
/// Streams at once unless told otherwise, or as many as the limit of open files allows: each takes two.
const STREAMS: usize = 10_000;
/// Files that the server needs beside those of its streams.
const OTHER_FILES: usize = 150;
/// Chunks of each stream, and the time between two.
const CHUNKS: usize = 40;
const PAUSE: Duration = Duration::from_secs(2);
/// How long a session stays in memory: longer than it takes to make them all, at this many a second.
const LEAST_RATE: u64 = 900;
/// The same while streams are weighed.
const IDLE_OF_STREAMS: Duration = Duration::from_secs(100);
/// Turns before streams are weighed, so that caches are warm.
const WARM_UP: u64 = 3_000;

/// Who calls.
#[derive(Clone)]
pub struct Tenant {
    /// The account's key.
    pub key: String,
    /// The agent's id.
    pub agent: String,
}

fn main() -> anyhow::Result<()> {
    // cargo adds a flag of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let number = |at: usize, usual: u64| words.get(at).map_or(Ok(usual), |word| word.parse());
    actix_rt::System::new().block_on(async {
        if words.first().is_some_and(|word| word == "upstream") {
            let (chunks, pause) = (number(1, 1)?, number(2, 0)?);
            return upstream::serve(usize::try_from(chunks)?, Duration::from_millis(pause)).await;
        }
        let sessions = number(0, SESSIONS).context("SESSIONS is a number")?;
        let streams = number(1, STREAMS as u64).context("STREAMS is a number")?;
        run(sessions, usize::try_from(streams)?).await
    })
}

async fn run(sessions: u64, wanted: usize) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("a directory for the database")?;
    let upstream = Upstream::start(CHUNKS, PAUSE)?;

    let idle = Duration::from_secs(30 + sessions / LEAST_RATE);
    let server =
        Server::start(dir.path(), &upstream, &["--session-idle", &idle.as_secs().to_string()]).await?;
    let empty = server.memory()?;
    let tenant = tenant(&server).await?;
    let found = residents::measure(&server, &tenant, sessions, idle).await?;
    report_residents(sessions, &found)?;
    wake::prepare(&server, &tenant).await?;
    server.stop().await?;

    let idle = IDLE_OF_STREAMS.as_secs().to_string();
    let server = Server::start(dir.path(), &upstream, &["--session-idle", &idle]).await?;
    println!("{:<58} {:>12}", "a server that has just started, without any session", mib(empty.rss));
    println!(
        "{:<58} {:>12}",
        format!("the same with {sessions} sessions, asleep"),
        mib(server.memory()?.rss)
    );
    let woken = wake::measure(&server, &tenant).await?;
    report_wake(&woken);

    residents::make(&server, &tenant, sessions, sessions + WARM_UP).await?;
    let most = process::most_files()?.saturating_sub(OTHER_FILES) / 2;
    let streams = wanted.min(most);
    if streams < wanted {
        println!("\nOnly {streams} streams: this user may open no more files (ulimit -Hn)");
    }
    let found = streams::measure(&server, &tenant, streams, CHUNKS, IDLE_OF_STREAMS).await?;
    report_streams(streams, wanted, &found, server.peak()?);
    server.stop().await
}

/// An account with money and an agent.
async fn tenant(server: &Server) -> anyhow::Result<Tenant> {
    let mut connection = server.connect().await?;
    let account = json!({"name": "bench", "balance": "1000000.00"}).to_string();
    let account = connection.json("POST", "/admin/accounts", &server.operator, &account).await?;
    let key = word(&account, "key")?;
    let agent = json!({"name": "bench", "model": "bench"}).to_string();
    let agent = connection.json("POST", "/v2/agents", &key, &agent).await?;
    Ok(Tenant { agent: word(&agent, "id")?, key })
}

fn word(object: &Value, name: &str) -> anyhow::Result<String> {
    object[name].as_str().map(str::to_owned).with_context(|| format!("{name} in {object}"))
}

/// Text of that length, which begins with `with`.
pub fn text(with: &str, length: usize) -> String {
    let mut text = format!("{with} ");
    while text.len() < length {
        text.push_str("lorem ipsum dolor ");
    }
    text.truncate(length);
    text
}

/// An amount of memory for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn kib(bytes: u64) -> String {
    format!("{:.2} KiB", bytes as f64 / 1_024.0)
}

/// Bytes for each of `many`, and whether that is within the aim.
fn each(bytes: u64, many: u64, aim: u64) -> String {
    let each = bytes / many.max(1);
    let verdict = if each <= aim { "reached" } else { "MISSED" };
    format!("{} (at most {} KiB: {verdict})", kib(each), aim >> 10)
}

fn within(memory: Memory) -> &'static str {
    if memory.rss <= 1 << 30 { "within 1 GiB" } else { "ABOVE 1 GiB" }
}

fn report_residents(sessions: u64, found: &residents::Found) -> anyhow::Result<()> {
    println!("\n{:>12} {:>14} {:>14}", "in memory", "RSS", "PSS");
    for (sessions, memory) in &found.steps {
        println!("{sessions:>12} {:>14} {:>14}", mib(memory.rss), mib(memory.pss));
    }
    println!("{:>12} {:>14} {:>14}", "asleep", mib(found.asleep.rss), mib(found.asleep.pss));
    let half = found.steps.get(found.steps.len() / 2).context("steps")?;
    let all = found.steps.last().context("steps")?;
    let grown = all.1.rss.saturating_sub(half.1.rss);
    let freed = all.1.rss.saturating_sub(found.asleep.rss);
    let more = sessions - half.0;
    println!("\nall of them: {} ({})", mib(all.1.rss), within(all.1));
    println!("{:<58} {}", "each, by the growth of the second half", each(grown, more, 6 << 10));
    println!("{:<58} {}", "each, by what going to sleep gave back", each(freed, sessions, 6 << 10));
    println!("{:<58} {} B", "of it text of its messages", found.text);
    let net = grown.saturating_sub(found.text * more);
    println!("{:<58} {}", "each, by growth, without that text", each(net, more, 6 << 10));
    println!("{:<58} {:.0}", "turns a second while they were made", found.rate);
    Ok(())
}

fn report_wake(found: &wake::Found) {
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    println!("\n{:<40} {:>14} {:>14}", "a turn, median", "asleep", "in memory");
    println!(
        "{:<40} {:>14} {:>14}",
        format!("in a session of {} turns", wake::TURNS),
        ms(found.asleep),
        ms(found.awake)
    );
    println!("{:<40} {:>14} {:>14}", "in a session of 1 turn", ms(found.short_asleep), ms(found.short_awake));
    println!("waking the long one takes {}", ms(found.asleep.saturating_sub(found.awake)));
}

fn report_streams(streams: usize, wanted: usize, found: &streams::Found, peak: u64) {
    println!("\n{:<58} {:>12}", "before any stream", mib(found.before.rss));
    println!(
        "{:<58} {:>12}",
        format!("{streams} streams at once ({})", within(found.during)),
        mib(found.during.rss)
    );
    println!("{:<58} {:>12}", "of it their logs, for who comes back", mib(found.logs));
    println!("{:<58} {:>12}", "the most at any time", mib(peak));
    println!("{:<58} {:>12}", "12 s after their end", mib(found.after.rss));
    println!(
        "{:<58} {:>12}",
        "when nobody can take them up again and sessions sleep",
        mib(found.given_back.rss)
    );
    let grown = found.during.rss.saturating_sub(found.before.rss);
    println!("{:<58} {}", "each", kib(grown / streams as u64));
    println!(
        "{:<58} {}",
        "each, without its log",
        each(grown.saturating_sub(found.logs), streams as u64, 32 << 10)
    );
    println!("{:<58} {:.1} s", "opening them took", found.opened.as_secs_f64());
    if streams < wanted {
        let more = grown / streams as u64 * (wanted - streams) as u64;
        println!(
            "{wanted} of them would come to {}, by the same figure for each",
            mib(found.during.rss + more)
        );
    }
}
