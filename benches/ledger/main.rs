//! What reserving and settling costs: `cargo bench --bench ledger [-- SECONDS [DIRECTORY]]`, and with `-- turns` what
//! the writer does for a turn (see [`turns`]).
//!
//! Callers that are in flight at the same time each reserve, wait for the commit, settle, wait for the commit,
//! and begin again. They do so through the writer, which commits in groups, and through a thread that makes the
//! same statements one transaction each. fsync is on in both. The database lies in cargo's directory for
//! temporary files unless another is named; it has to be on the disk that is meant.

mod books;
mod turns;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use diesel::prelude::*;
use switchboard::billing::price::Price;
use switchboard::clock;
use switchboard::error::Error;
use switchboard::store::connection;
use switchboard::store::hold::{self, Memory};
use switchboard::store::writer::{Lane, WriteError, Writer};
use tokio::sync::oneshot;

/// Callers at the same time.
const IN_FLIGHT: [usize; 4] = [1, 16, 256, 1_000];
/// How long each run takes unless told otherwise, in seconds.
const SECONDS: f64 = 5.0;
/// What comes before that and is not counted.
const WARM_UP: Duration = Duration::from_millis(500);
/// Syncs that are timed to tell what one costs here.
const SYNCS: usize = 500;
/// What the callers in flight whose figures are aimed at are.
const AIM_AT: usize = 256;
/// How many times the rate of single transactions the writer should reach there.
const AIM_RATIO: f64 = 20.0;
/// Within how many fsyncs the 99th of a hundred reserves should be answered there.
const AIM_FSYNCS: f64 = 8.0;

fn main() -> anyhow::Result<()> {
    // Cargo passes `--bench`.
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).peekable();
    if args.next_if_eq("turns").is_some() {
        return turns::run(args);
    }
    let seconds = args.next().map_or(Ok(SECONDS), |told| told.parse().context("SECONDS is not a number"))?;
    let directory = args.next().map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let span = Duration::try_from_secs_f64(seconds).context("SECONDS is not a span of time")?;
    let fsync = time_fsync(&directory)?;
    println!("one fsync (4 KiB written in place, then fdatasync): {}", spread(fsync.in_place));
    println!("one fsync (4 KiB appended, then fdatasync):         {}", spread(fsync.appended));
    println!();
    println!(
        "{:>9} {:>10} {:>12} {:>6}  {:>22} {:>8}  {:>7} {:>7}  {:>20} {:>20}",
        "in flight",
        "pairs/s",
        "one by one/s",
        "ratio",
        "reserve p50 p99 ms",
        "fsyncs",
        "batch",
        "largest",
        "settle p50 p99 ms",
        "alone p50 p99 ms"
    );
    for callers in IN_FLIGHT {
        let alone = run(&directory, callers, span, |conn| Ok(Queue::one_by_one(conn)))?;
        let grouped = run(&directory, callers, span, Queue::writer)?;
        let ratio = grouped.rate / alone.rate;
        let fsyncs = grouped.reserve.1.as_secs_f64() / fsync.in_place.0.as_secs_f64();
        println!(
            "{callers:>9} {:>10.0} {:>12.0} {ratio:>6.1}  {:>22} {fsyncs:>8.1}  {:>7.1} {:>7}  {:>20} {:>20}",
            grouped.rate,
            alone.rate,
            millis(grouped.reserve),
            grouped.batch,
            grouped.largest,
            millis(grouped.settle),
            millis(alone.reserve),
        );
        if callers == AIM_AT {
            let verdict = |reached: bool| if reached { "reached" } else { "MISSED" };
            println!(
                "{:>9} aims: {AIM_RATIO} times the rate: {}; p99 of a reserve within {AIM_FSYNCS} fsyncs: {}",
                "",
                verdict(ratio >= AIM_RATIO),
                verdict(fsyncs <= AIM_FSYNCS)
            );
        }
    }
    Ok(())
}

/// The 50th and the 99th of a hundred.
type Spread = (Duration, Duration);

fn spread_of(mut times: Vec<Duration>) -> Spread {
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    (at(50), at(99))
}

fn spread((half, most): Spread) -> String {
    format!("p50 {:.3} ms, p99 {:.3} ms", half.as_secs_f64() * 1e3, most.as_secs_f64() * 1e3)
}

fn millis((half, most): Spread) -> String {
    format!("{:.2} {:.2}", half.as_secs_f64() * 1e3, most.as_secs_f64() * 1e3)
}

struct Fsync {
    in_place: Spread,
    appended: Spread,
}

fn time_fsync(directory: &Path) -> anyhow::Result<Fsync> {
    let file = directory.join("fsync-probe");
    let probe = OpenOptions::new().create(true).truncate(true).write(true).open(&file)?;
    let block = [0x5a; 4_096];
    let round = |count: usize| -> anyhow::Result<Spread> {
        let mut times = Vec::with_capacity(count);
        for at in 0..count {
            let began = Instant::now();
            probe.write_all_at(&block, (at * block.len()) as u64)?;
            probe.sync_data()?;
            times.push(began.elapsed());
        }
        Ok(spread_of(times))
    };
    let appended = round(SYNCS)?;
    // The same again lies where something lies already.
    let in_place = round(SYNCS)?;
    std::fs::remove_file(&file)?;
    Ok(Fsync { in_place, appended })
}

/// What a run came to.
struct Figures {
    /// Pairs of a reserve and a settle in a second.
    rate: f64,
    reserve: Spread,
    settle: Spread,
    batch: f64,
    largest: u64,
}

type Answer<T> = oneshot::Receiver<Result<T, Error>>;
type Order = Box<dyn FnOnce(&mut SqliteConnection) + Send>;

/// Who commits.
enum Queue {
    Writer(Writer, std::thread::JoinHandle<()>),
    OneByOne(mpsc::Sender<Order>, std::thread::JoinHandle<()>),
}

impl Queue {
    fn writer(conn: SqliteConnection) -> anyhow::Result<Self> {
        let (gone, _) = oneshot::channel();
        let (writer, thread) = Writer::start(conn, gone)?;
        Ok(Self::Writer(writer, thread))
    }

    fn one_by_one(mut conn: SqliteConnection) -> Self {
        let (orders, queue) = mpsc::channel::<Order>();
        let thread = std::thread::spawn(move || queue.into_iter().for_each(|order| order(&mut conn)));
        Self::OneByOne(orders, thread)
    }

    fn submit<T: Send + 'static>(
        &self,
        lane: Lane,
        account: &str,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, WriteError> + Send + 'static,
    ) -> anyhow::Result<Answer<T>> {
        match self {
            Self::Writer(writer, _) if lane == Lane::Open => Ok(writer.open_for(account, None, work)?),
            Self::Writer(writer, _) => Ok(writer.submit(lane, work)?),
            Self::OneByOne(orders, _) => {
                let (answer, committed) = oneshot::channel();
                let order: Order = Box::new(move |conn| {
                    let done = conn.immediate_transaction(work);
                    let _ = answer.send(done.map_err(|cause| Error::Internal(format!("{cause:?}"))));
                });
                orders.send(order).map_err(|_| anyhow::anyhow!("the thread is gone"))?;
                Ok(committed)
            }
        }
    }

    fn end(self) -> anyhow::Result<()> {
        let thread = match self {
            Self::Writer(writer, thread) => {
                writer.stop();
                thread
            }
            Self::OneByOne(orders, thread) => {
                drop(orders);
                thread
            }
        };
        thread.join().map_err(|_| anyhow::anyhow!("the thread panicked"))
    }

    /// Batches, pieces of work in them, and the largest.
    fn batches(&self) -> (u64, u64, u64) {
        match self {
            Self::Writer(writer, _) => {
                let counts = writer.counts();
                (counts.batches, counts.items, counts.largest_batch)
            }
            Self::OneByOne(..) => (1, 1, 1),
        }
    }
}

fn run(
    directory: &Path,
    callers: usize,
    span: Duration,
    queue: impl FnOnce(SqliteConnection) -> anyhow::Result<Queue>,
) -> anyhow::Result<Figures> {
    let data = tempfile::tempdir_in(directory)?;
    let file = connection::database_file(data.path());
    let mut conn = connection::open_writer(&file)?;
    let of_price = books::prepare(&mut conn)?;
    let queue = Arc::new(queue(conn)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let times = Arc::new(Mutex::new(Vec::new()));
    let begin = Instant::now() + WARM_UP;
    let before = runtime.block_on(async {
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let caller = Caller { number: caller, queue: queue.clone(), price: of_price.clone() };
                tokio::spawn(caller.work(begin, begin + span, times.clone()))
            })
            .collect();
        tokio::time::sleep_until(begin.into()).await;
        let before = queue.batches();
        for task in tasks {
            task.await??;
        }
        anyhow::Ok(before)
    })?;
    let after = queue.batches();
    Arc::into_inner(queue).context("a caller is left")?.end()?;
    books::sound(&file)?;
    let times = std::mem::take(&mut *times.lock().map_err(|_| anyhow::anyhow!("a caller panicked"))?);
    let (reserves, settles): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    Ok(Figures {
        rate: settles.len() as f64 / span.as_secs_f64(),
        reserve: spread_of(reserves),
        settle: spread_of(settles),
        batch: (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64,
        largest: after.2,
    })
}

/// One caller.
struct Caller {
    number: usize,
    queue: Arc<Queue>,
    price: Arc<Price>,
}

impl Caller {
    /// Makes pairs until `end`, and keeps the times of those that end between `begin` and then.
    async fn work(
        self,
        begin: Instant,
        end: Instant,
        times: Arc<Mutex<Vec<(Duration, Duration)>>>,
    ) -> anyhow::Result<()> {
        let mut own = Vec::new();
        let account = books::account(self.number);
        loop {
            let new = books::hold(self.number, &self.price);
            let id = new.id.clone();
            let began = Instant::now();
            let queued = self.queue.submit(Lane::Open, &account, move |conn| {
                hold::reserve(conn, &mut Memory::default(), &new)
            })?;
            queued.await??;
            let reserved = Instant::now();
            let settlement = books::settlement();
            let queued = self.queue.submit(Lane::Close, &account, move |conn| {
                hold::settle(conn, id.as_str(), &settlement, None, clock::now_ms())
            })?;
            queued.await??;
            let settled = Instant::now();
            if settled >= end {
                break;
            }
            if settled >= begin {
                own.push((reserved - began, settled - reserved));
            }
        }
        times.lock().map_err(|_| anyhow::anyhow!("a caller panicked"))?.append(&mut own);
        Ok(())
    }
}
