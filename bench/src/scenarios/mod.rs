//! What is measured.

mod crowd;
mod growth;
mod overload;
mod passing;
mod start;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::books;
use crate::load::{Outcome, Target};
use crate::mock::{Mock, Shape};
use crate::options::{Options, Scenario};
use crate::proxy::{self, Proxy};
use crate::report::{Column, Report};
use crate::site::Site;

/// All that runs while targets are compared.
pub struct Bench {
    /// What was asked for.
    pub options: Options,
    /// What was found.
    pub report: Report,
    /// The server under test.
    site: Site,
    /// The provider that nginx and no proxy at all ask.
    bare: Mock,
    proxy: Option<Proxy>,
    /// Requests to the server that got no whole answer.
    failed: u64,
}

impl Bench {
    /// Starts whatever is measured.
    pub async fn start(options: Options, mut report: Report) -> Result<Self> {
        let site = Site::start(&options.server, &[]).await?;
        let bare = Mock::start()?;
        let proxy = match Proxy::start(&bare).await {
            Ok(proxy) => Some(proxy),
            Err(error) => {
                report.note(&format!("no column for nginx: {error:#}"));
                None
            }
        };
        Ok(Self { options, report, site, bare, proxy, failed: 0 })
    }

    /// Runs what was asked for, checks the money, and stops the server.
    pub async fn run(&mut self) -> Result<()> {
        for scenario in self.options.scenarios() {
            match scenario {
                Scenario::Requests => passing::requests(self).await,
                Scenario::Streams => passing::streams(self).await,
                Scenario::Bursts => passing::bursts(self).await,
                Scenario::Single => passing::single(self).await,
                Scenario::FirstToken => passing::first_token(self).await,
                Scenario::Crowd => crowd::run(self).await,
                Scenario::Overload => overload::run(self).await,
                Scenario::Growth => growth::run(self).await,
                Scenario::Start => start::run(self).await,
            }
            .and_then(|()| self.site.alive())
            .with_context(|| format!("scenario {scenario}"))?;
        }
        self.report.section("the books", &[]);
        books::check(&self.site, "all of the above", self.failed, &mut self.report).await
    }

    /// Ends everything that was started.
    pub fn stop(self) -> (Report, Result<()>) {
        (self.report, self.site.stop())
    }

    /// Direct, through nginx where it is there, and through the server.
    fn targets(&self) -> Vec<Target> {
        let mut targets = vec![proxy::direct(&self.bare)];
        targets.extend(self.proxy.as_ref().map(Proxy::target));
        targets.push(self.site.target());
        targets
    }

    /// Both providers answer like this from now on.
    async fn shape(&self, shape: Shape) -> Result<()> {
        self.bare.shape(shape).await?;
        self.site.mock.shape(shape).await
    }

    /// Begins a part of the table with a column for each target.
    fn section(&mut self, title: &str) {
        let targets = self.targets();
        let columns: Vec<&str> = targets.iter().map(|target| target.name).collect();
        self.report.section(title, &columns);
    }

    /// Measures `N` figures of all targets in interleaved rounds (A B C, B C A, …); answers the columns of `N` rows.
    async fn rounds<const N: usize>(
        &mut self,
        mut one: impl AsyncFnMut(&mut Self, &Target) -> Result<[f64; N]>,
    ) -> Result<[Vec<Column>; N]> {
        let targets = self.targets();
        let mut rows =
            [(); N].map(|()| targets.iter().map(|target| (target.name, Vec::new())).collect::<Vec<Column>>());
        for round in 0..self.options.rounds() {
            for at in 0..targets.len() {
                let at = (at + round) % targets.len();
                let figures = one(self, &targets[at]).await?;
                for (row, figure) in rows.iter_mut().zip(figures) {
                    row[at].1.push(figure);
                }
            }
        }
        Ok(rows)
    }

    /// Tells of requests that failed.
    fn note_failures(&mut self, target: &Target, outcome: &Outcome) {
        if outcome.failed == 0 {
            return;
        }
        if target.name == "switchboard" {
            self.failed += outcome.failed;
        }
        let all = outcome.failed + outcome.whole;
        let fault = outcome.fault.as_deref().unwrap_or_default();
        self.report
            .problem(&format!("{}: {} of {all} requests failed: {fault}", target.name, outcome.failed));
    }
}

/// Kilobytes of bytes.
fn kilobytes(bytes: f64) -> f64 {
    bytes / 1e3
}

/// Megabytes of bytes.
fn megabytes(bytes: f64) -> f64 {
    bytes / 1e6
}

/// What a duration is in milliseconds.
fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
