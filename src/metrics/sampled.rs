//! What is looked up when somebody asks for the metrics.

use std::time::Duration;

use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, GaugeVec, Opts, Registry};

use crate::clock::{self, EpochMs};
use crate::metrics::process::Process;
use crate::store::writer::Counts;

/// The state of the parts of the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampled {
    /// Streamed turns that run.
    pub streamed_turns: usize,
    /// Other turns that run.
    pub plain_turns: usize,
    /// How many holds are open, and when the oldest of them was made; `None` if the database cannot be read.
    pub holds: Option<(i64, Option<EpochMs>)>,
    /// Keys and accounts that the rate limiter remembers.
    pub limiter_entries: usize,
    /// What requests take up in memory, in bytes.
    pub body_memory: usize,
    /// The writer.
    pub writer: Counts,
    /// Since the start.
    pub uptime: Duration,
}

impl Sampled {
    /// As metrics.
    ///
    /// # Errors
    /// When two have one name, which is a defect.
    #[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
    pub fn gather(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let all = Samples::default();
        let turns = [("true", self.streamed_turns as f64), ("false", self.plain_turns as f64)];
        all.gauges("switchboard_turns_running", "Turns that run.", "stream", &turns)?;
        if let Some((open, oldest)) = self.holds {
            all.gauge("switchboard_holds_open", "Holds of money that are open.", open as f64)?;
            let age = oldest.map_or(0, |made| (clock::now_ms() - made).max(0)) as f64 / 1e3;
            all.gauge("switchboard_hold_oldest_age_seconds", "Age of the oldest open hold.", age)?;
        }
        let entries = self.limiter_entries as f64;
        all.gauge(
            "switchboard_rate_limiter_entries",
            "Keys and accounts that the limiter remembers.",
            entries,
        )?;
        let bodies = self.body_memory as f64;
        all.gauge("switchboard_body_memory_bytes", "What requests take up in memory.", bodies)?;
        all.gauges("switchboard_build_info", "The version.", "version", &[(env!("CARGO_PKG_VERSION"), 1.0)])?;
        all.gauge("switchboard_uptime_seconds", "Since the start.", self.uptime.as_secs_f64())?;
        self.writer(&all)?;
        process(&all)?;
        Ok(all.0.gather())
    }

    #[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
    fn writer(&self, all: &Samples) -> prometheus::Result<()> {
        let writer = &self.writer;
        let counters = [
            ("batches", "Transactions that were committed.", writer.batches as f64),
            ("items", "Pieces of work in them.", writer.items as f64),
            ("failed_batches", "Transactions that came to nothing.", writer.failed_batches as f64),
            ("commit_seconds", "How long all commits took, fsync included.", writer.commits_us as f64 / 1e6),
            (
                "refused",
                "New work that was refused: the queue, the disk or the lock.",
                writer.refused_opens as f64,
            ),
            ("panics", "Pieces of work that panicked.", writer.panics as f64),
        ];
        for (name, help, value) in counters {
            all.counter(&format!("switchboard_writer_{name}_total"), help, value)?;
        }
        let waiting = [("close", writer.closes_waiting as f64), ("open", writer.opens_waiting as f64)];
        all.gauges("switchboard_writer_queue_length", "Pieces of work that wait.", "lane", &waiting)?;
        let last = writer.last_commit_us as f64 / 1e6;
        all.gauge("switchboard_writer_last_commit_seconds", "How long the last commit took.", last)?;
        let largest = writer.largest_batch as f64;
        all.gauge("switchboard_writer_largest_batch", "The most pieces in one transaction.", largest)?;
        let full = f64::from(u8::from(writer.disk_full));
        all.gauge("switchboard_writer_disk_full", "1 while new work is refused for want of disk space.", full)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn process(all: &Samples) -> prometheus::Result<()> {
    let Some(process) = Process::read() else { return Ok(()) };
    all.gauge("process_resident_memory_bytes", "Memory in RAM.", process.resident as f64)?;
    all.gauge("process_virtual_memory_bytes", "Memory in all.", process.virtual_size as f64)?;
    all.gauge("process_open_fds", "Open file descriptors.", process.open_fds as f64)?;
    all.gauge("process_threads", "Threads.", process.threads as f64)?;
    if let Some(most) = process.max_fds {
        all.gauge("process_max_fds", "The most file descriptors that may be open.", most as f64)?;
    }
    all.counter("process_cpu_seconds_total", "CPU time, of the user and the system.", process.cpu_seconds)
}

#[derive(Default)]
struct Samples(Registry);

impl Samples {
    fn gauge(&self, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value);
        self.0.register(Box::new(gauge))
    }

    fn counter(&self, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        let counter = Counter::new(name, help)?;
        counter.inc_by(value);
        self.0.register(Box::new(counter))
    }

    fn gauges(&self, name: &str, help: &str, label: &str, values: &[(&str, f64)]) -> prometheus::Result<()> {
        let gauges = GaugeVec::new(Opts::new(name, help), &[label])?;
        for (named, value) in values {
            gauges.with_label_values(&[*named]).set(*value);
        }
        self.0.register(Box::new(gauges))
    }
}
