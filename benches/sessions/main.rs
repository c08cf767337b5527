//! What a turn costs, by the length of its session and by the number of sessions:
//! `cargo bench --bench sessions [-- SESSIONS [DIRECTORY]]`.
//!
//! The statements of a turn are timed on the writing connection inside a transaction, as the writer runs them; the
//! commit, which turns share, is not in the figures. The database grows by steps up to SESSIONS (1,000,000) and lies
//! in cargo's directory for temporary files unless another is named. The plot is written beside it.

mod fill;
mod plot;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use diesel::prelude::*;
use switchboard::conversation::message::Message;
use switchboard::conversation::opening::Opening;
use switchboard::conversation::turn::Completeness;
use switchboard::json::Raw;
use switchboard::store::session::{Change, Fork};
use switchboard::store::session_list::{Filter, list};
use switchboard::store::turn::{self, Of, StoredTurn};
use switchboard::store::{connection, session, verify};

use fill::{ACCOUNT, AGENT};
use plot::{Panel, Series};

/// The most sessions unless told otherwise.
const SESSIONS: u64 = 1_000_000;
/// Turns that a session has before the one that is timed.
const LENGTHS: [u64; 11] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000];
/// How often each thing is timed; the median counts.
const TIMES: usize = 41;
/// Turns of the session that is woken.
const WOKEN: u64 = 1_000;

fn main() -> anyhow::Result<()> {
    // cargo adds a flag of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let most: u64 =
        words.first().map_or(Ok(SESSIONS), |word| word.parse()).context("SESSIONS is a number")?;
    let parent = words.get(1).map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(&parent).context("a directory for the database")?;
    let file = connection::database_file(dir.path());
    let mut bench = Bench { conn: connection::open_writer(&file)?, turns: 0 };
    fill::tenant(&mut bench.conn)?;

    let by_length = bench.by_length()?;
    let by_sessions = bench.by_sessions(most)?;
    let report = verify::run(&mut connection::open_reader(&file)?)?;
    let broken: Vec<_> = report.checks.iter().filter(|check| check.violations > 0).collect();
    anyhow::ensure!(report.ok, "what was measured is wrong: {broken:?}");
    let svg = parent.join("sessions.svg");
    write_plot(&svg, by_length, by_sessions)?;
    println!("\nThe database: {} MiB. The plot: {}", size(dir.path()) >> 20, svg.display());
    Ok(())
}

fn write_plot(svg: &Path, by_length: Vec<Series>, by_sessions: Vec<Series>) -> anyhow::Result<()> {
    let panels = [
        Panel { title: "by the turns of the session", series: by_length },
        Panel { title: "by the sessions in the database", series: by_sessions },
    ];
    std::fs::write(svg, plot::svg(&panels)).context("writing the plot")
}

fn size(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

struct Bench {
    conn: SqliteConnection,
    turns: u64,
}

/// The median of the times that `run` takes, in microseconds.
fn median(mut run: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut times = Vec::with_capacity(TIMES);
    for at in 0..TIMES {
        let began = Instant::now();
        run(at)?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[TIMES / 2])
}

fn user(text: &str) -> String {
    format!(r#"{{"role":"user","content":"{text} {}"}}"#, "ask ".repeat(60))
}

fn answer(text: &str) -> String {
    format!(r#"{{"role":"assistant","content":"{text} {}"}}"#, "say ".repeat(120))
}

impl Bench {
    fn turn(&mut self, named: &str, said: Vec<String>, opening: Option<Opening>) -> anyhow::Result<()> {
        self.turns += 1;
        let spread = blake3::hash(&self.turns.to_le_bytes()).to_hex();
        let completion = format!("chatcmpl-{}", &spread[..22]);
        let turn = StoredTurn {
            messages: said,
            // The digests of an opening are of this answer.
            reply: answer("end"),
            completeness: Completeness::Complete,
            metadata: None,
            opening,
        };
        let of = Of { account: ACCOUNT, agent: AGENT, session: named, completion: &completion, hold: "hold" };
        let own = turn::standing(&mut self.conn, of)?.context("the session")?;
        turn::append_turn(&mut self.conn, own, of, &turn, 1)?;
        Ok(())
    }

    fn ensure(&mut self, named: &str) -> anyhow::Result<()> {
        let made = session::ensure(&mut self.conn, ACCOUNT, AGENT, named, true, 1);
        made.map(drop).map_err(|cause| anyhow::anyhow!("{cause:?}"))
    }

    /// Makes a session of so many turns, as a client does that never names one and sends everything again.
    fn grow(&mut self, named: &str, turns: u64) -> anyhow::Result<Vec<String>> {
        let said: Vec<String> =
            (0..turns * 2 - 1)
                .map(|at| {
                    if at % 2 == 0 {
                        user(&format!("{named} {at}"))
                    } else {
                        answer(&format!("{named} {at}"))
                    }
                })
                .collect();
        self.ensure(named)?;
        let opening = opening(&said)?;
        self.turn(named, said.clone(), Some(opening))?;
        Ok(said)
    }

    fn by_length(&mut self) -> anyhow::Result<Vec<Series>> {
        println!(
            "{:>8} {:>14} {:>14} {:>14} {:>14}",
            "turns", "next turn us", "sent again us", "fork us", "wake us"
        );
        let names = ["next turn", "everything sent again", "fork", "wake"];
        let mut series: Vec<Series> = names.iter().map(|name| Series::new(name)).collect();
        for length in LENGTHS {
            let named = format!("long_{length}");
            let said = self.grow(&named, length)?;
            let figures = self.transaction(|bench| {
                let next = median(|at| bench.turn(&named, vec![user(&at.to_string())], None))?;
                let again = bench.sent_again(&named, &said)?;
                let fork = bench.forked(&named)?;
                let wake = bench.woken(&named)?;
                Ok([next, again, fork, wake])
            })?;
            let [next, again, fork, wake] = figures;
            println!("{length:>8} {next:>14.1} {again:>14.1} {fork:>14.1} {wake:>14.1}");
            for (series, figure) in series.iter_mut().zip(figures) {
                series.points.push((length as f64, figure));
            }
        }
        Ok(series)
    }

    /// The writer's part of a turn whose client sends all that was said before; its digests are made elsewhere.
    fn sent_again(&mut self, named: &str, said: &[String]) -> anyhow::Result<f64> {
        let mut said = said.to_vec();
        let row = session::find(&mut self.conn, ACCOUNT, AGENT, named)?.context("a session")?;
        let whole = switchboard::store::message::bodies(&mut self.conn, &row)?;
        said.push(whole[said.len()].1.clone());
        said.push(user("more"));
        let opening = opening(&said)?;
        let mut made = Vec::new();
        for at in 0..TIMES {
            let name = format!("{named}_again_{at}");
            self.ensure(&name)?;
            made.push(Some((name, said.clone(), opening.clone())));
        }
        median(|at| {
            let (name, said, opening) = made[at].take().context("once")?;
            self.turn(&name, said, Some(opening))
        })
    }

    fn forked(&mut self, named: &str) -> anyhow::Result<f64> {
        let row = session::find(&mut self.conn, ACCOUNT, AGENT, named)?.context("a session")?;
        median(|at| {
            let name = format!("{named}_fork_{at}");
            let fork = Fork { name, by_server: true, head: row.head, change: Change::default() };
            session::fork(&mut self.conn, &row, &fork, 1)
                .map(drop)
                .map_err(|cause| anyhow::anyhow!("{cause:?}"))
        })
    }

    /// What a session's actor reads when the session is called after a while.
    fn woken(&mut self, named: &str) -> anyhow::Result<f64> {
        median(|_| {
            let row = session::find(&mut self.conn, ACCOUNT, AGENT, named)?.context("a session")?;
            for (at, (_, body)) in
                switchboard::store::message::bodies(&mut self.conn, &row)?.into_iter().enumerate()
            {
                let message = Message::parse(Raw::parse(body)?, at);
                black_box(message.map_err(|cause| anyhow::anyhow!("{}", cause.message))?);
            }
            Ok(())
        })
    }

    fn by_sessions(&mut self, most: u64) -> anyhow::Result<Vec<Series>> {
        self.grow("woken", WOKEN)?;
        println!(
            "\n{:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  us; a session of {WOKEN} turns is woken",
            "sessions", "turn", "new", "list", "by note", "archived", "wake"
        );
        let names =
            ["next turn", "first turn", "list", "list by a note", "list archived", "wake 1,000 turns"];
        let mut series: Vec<Series> = names.iter().map(|name| Series::new(name)).collect();
        let steps =
            std::iter::successors(Some(100_u64), |step| Some(step * 10)).take_while(|step| *step < most);
        let mut there = 0;
        for sessions in steps.chain([most]) {
            fill::sessions(&mut self.conn, there, sessions)?;
            there = sessions;
            let figures = self.transaction(|bench| bench.among(sessions))?;
            let row: String = figures.iter().map(|figure| format!(" {figure:>9.1}")).collect();
            println!("{sessions:>9}{row}");
            for (series, figure) in series.iter_mut().zip(figures) {
                series.points.push((sessions as f64, figure));
            }
        }
        Ok(series)
    }

    fn among(&mut self, sessions: u64) -> anyhow::Result<[f64; 6]> {
        let any = |at: usize| fill::name((at as u64 * 7_919 + 13) % sessions);
        let next = median(|at| self.turn(&any(at), vec![user("more")], None))?;
        let new = median(|at| {
            let named = format!("new_{sessions}_{at}");
            self.ensure(&named)?;
            let said = vec![user("hello")];
            let opening = opening(&said)?;
            self.turn(&named, said, Some(opening))
        })?;
        let page = Filter { limit: 50, ..Filter::default() };
        let mut listed = |filter: &Filter| {
            median(|_| {
                black_box(list(&mut self.conn, ACCOUNT, filter)?);
                Ok(())
            })
        };
        let all = listed(&page)?;
        let by_note =
            listed(&Filter { metadata: vec![("plan".to_owned(), "paid".to_owned())], ..page.clone() })?;
        let archived = listed(&Filter { status: Some("archived".to_owned()), ..page.clone() })?;
        let wake = self.woken("woken")?;
        Ok([next, new, all, by_note, archived, wake])
    }

    fn transaction<T>(&mut self, run: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        use diesel::connection::{AnsiTransactionManager, TransactionManager};
        AnsiTransactionManager::begin_transaction_sql(&mut self.conn, "BEGIN IMMEDIATE")?;
        let done = run(self)?;
        AnsiTransactionManager::commit_transaction(&mut self.conn)?;
        Ok(done)
    }
}

fn opening(said: &[String]) -> anyhow::Result<Opening> {
    let one = |text: &String| {
        let message = Message::parse(Raw::parse(text.clone())?, 0);
        message.map_err(|cause| anyhow::anyhow!("{}", cause.message))
    };
    let messages: Vec<Message> = said.iter().map(one).collect::<anyhow::Result<_>>()?;
    Ok(Opening::of((ACCOUNT, AGENT), true, &messages, &Raw::trusted(answer("end"))))
}
