//! What the writer does for a turn, counted: `cargo bench --bench ledger -- turns [COUNT [IN_A_BATCH [DATABASE]]]`.
//!
//! One thread reserves and settles so many turns in transactions of so many pieces, each turn in a session that the
//! server names, as a client without sessions makes them. Pages and bytes are exact, and the same everywhere; for
//! instructions run it under a counter with two counts and take the difference. With a database that another run
//! left behind it goes on there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use switchboard::billing::price::Price;
use switchboard::clock;
use switchboard::conversation::message::Message;
use switchboard::conversation::opening::Opening;
use switchboard::id::SessionName;
use switchboard::json::Raw;
use switchboard::store::hold::{self, Memory, NewHold, Settlement};
use switchboard::store::writer::WriteError;
use switchboard::store::{connection, price};

use crate::books;

/// Turns unless told otherwise.
const COUNT: usize = 2_000;
/// Pieces of work in a transaction unless told otherwise.
const BATCH: usize = 8;
/// A page of the write-ahead log, its head included.
const FRAME: u64 = 4_096 + 24;
/// The log is copied into the database when it has become so long, as by the writer.
const CHECKPOINT_EVERY: u64 = 4_096 * FRAME;

pub fn run(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut number = |usual: usize| args.next().map_or(Ok(usual), |told| told.parse());
    let (count, batch) = (number(COUNT)?, number(BATCH)?.max(1));
    let own = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let file = args.next().map_or_else(|| connection::database_file(own.path()), PathBuf::from);
    let there = file.exists();
    let mut conn = connection::open_writer(&file)?;
    conn.batch_execute("PRAGMA wal_autocheckpoint = 0;")?;
    let of_price =
        if there { Arc::new(price::find(&mut conn, "price_bench")?) } else { books::prepare(&mut conn)? };
    conn.batch_execute("PRAGMA wal_checkpoint(TRUNCATE);")?;
    let began = cpu_ns()?;
    let written = work(&mut conn, &file, &of_price, count, batch)?;
    let each = |total: u64| total as f64 / count as f64;
    println!(
        "{count} turns, {batch} pieces a transaction: {:.1} pages a turn ({:.0} bytes of log), {:.1} us of CPU",
        each(written / FRAME),
        each(written),
        each(cpu_ns()? - began) / 1e3,
    );
    if !there {
        books::sound(&file)?;
    }
    Ok(())
}

/// Makes the turns; how many bytes of log they took.
fn work(
    conn: &mut SqliteConnection,
    file: &Path,
    of_price: &Arc<Price>,
    count: usize,
    batch: usize,
) -> anyhow::Result<u64> {
    let log = file.with_extension("db-wal");
    let (mut written, mut merged) = (0, 0);
    let turns: Vec<usize> = (0..count).collect();
    for group in turns.chunks(batch) {
        let made: Vec<_> = group.iter().map(|caller| turn(*caller, of_price)).collect::<Result<_, _>>()?;
        let reserved = conn.immediate_transaction(|conn| {
            made.iter().try_for_each(|(new, _)| hold::reserve(conn, &mut Memory::default(), new).map(drop))
        });
        let settled = reserved.and_then(|()| {
            conn.immediate_transaction(|conn| {
                let settle = |(new, end): &(NewHold, Settlement)| {
                    hold::settle(conn, new.id.as_str(), end, None, clock::now_ms()).map(drop)
                };
                made.iter().try_for_each(settle)
            })
        });
        settled.map_err(|cause: WriteError| anyhow::anyhow!("a turn: {cause:?}"))?;
        let len = log.metadata().context("the log")?.len();
        if len >= CHECKPOINT_EVERY {
            conn.batch_execute("PRAGMA wal_checkpoint(TRUNCATE);")?;
            merged += len;
            written = 0;
        } else {
            written = len;
        }
    }
    Ok(merged + written)
}

/// A turn of a session that nobody named.
fn turn(caller: usize, of_price: &Arc<Price>) -> anyhow::Result<(NewHold, Settlement)> {
    let mut new = books::hold(caller, of_price);
    (new.session, new.session_by_server, new.step) = (SessionName::random(), true, 0);
    let mut end = books::settlement();
    if let Some(turn) = &mut end.turn {
        // Each says something else, so that nothing is shared.
        turn.messages =
            vec![format!(r#"{{"role":"user","content":"{} {}"}}"#, new.request, "ask ".repeat(60))];
        let said = Message::parse(Raw::trusted(turn.messages[0].clone()), 0);
        let said = said.map_err(|invalid| anyhow::anyhow!("{}", invalid.message))?;
        let reply = Raw::trusted(turn.reply.clone());
        turn.opening = Some(Opening::of((new.account.as_str(), new.agent.as_str()), true, &[said], &reply));
    }
    Ok((new, end))
}

/// How long this thread has worked, in nanoseconds.
fn cpu_ns() -> anyhow::Result<u64> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    told.split(' ').next().and_then(|first| first.parse().ok()).context("no time in schedstat")
}
