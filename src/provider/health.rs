//! How each provider does: its running calls, its circuits, its retries, its last error. Shared by all threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;

use crate::clock::{self, EpochMs};
use crate::error::UpstreamKind;
use crate::provider::ProviderConfig;
use crate::provider::breaker::{self, Breaker, Pass, State};
use crate::provider::choice::{Gauge, Place};
use crate::provider::retry::Budget;

/// Circuits that are remembered; the most idle ones are forgotten first.
const MAX_CIRCUITS: usize = 10_000;

/// How one of the operator's providers does.
#[derive(Debug)]
pub struct Standing {
    /// Its running calls.
    pub gauge: Arc<Gauge>,
    /// Its circuits, by model.
    pub circuits: Circuits,
    /// What opens them.
    pub breaker: breaker::Settings,
    retries: Mutex<Budget>,
    retried: AtomicU64,
}

impl Standing {
    /// Nothing has happened yet.
    pub fn new(config: &ProviderConfig) -> Self {
        Self {
            gauge: Arc::new(Gauge::new(config.terms.max_concurrency)),
            circuits: Circuits::default(),
            breaker: config.terms.breaker,
            retries: Mutex::new(Budget::new(Instant::now())),
            retried: AtomicU64::new(0),
        }
    }

    /// A call is made that is no retry.
    pub fn earn(&self) {
        locked(&self.retries).earn();
    }

    /// Whether it may be asked once more.
    pub fn take_retry(&self) -> bool {
        let taken = locked(&self.retries).take(Instant::now());
        if taken {
            self.retried.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// How often it was asked once more.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }
}

/// Circuits by whose they are and by model.
#[derive(Debug, Default)]
pub struct Circuits(Mutex<HashMap<(String, String), Arc<Circuit>>>);

impl Circuits {
    /// The circuit of `model`.
    pub fn of(&self, whose: &str, model: &str, settings: breaker::Settings) -> Arc<Circuit> {
        let mut circuits = locked(&self.0);
        let key = (whose.to_owned(), model.to_owned());
        if let Some(circuit) = circuits.get(&key) {
            return circuit.clone();
        }
        if circuits.len() >= MAX_CIRCUITS {
            forget_idle(&mut circuits);
        }
        let circuit = Arc::new(Circuit::new(settings));
        circuits.insert(key, circuit.clone());
        circuit
    }

    /// All of them, by model.
    pub fn all(&self) -> Vec<(String, Arc<Circuit>)> {
        let circuits = locked(&self.0);
        let mut all: Vec<_> = circuits.iter().map(|((_, model), own)| (model.clone(), own.clone())).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }
}

/// Leaves the half that was used last, so that this is rare.
fn forget_idle(circuits: &mut HashMap<(String, String), Arc<Circuit>>) {
    let mut used: Vec<Instant> = circuits.values().map(|circuit| locked(&circuit.0).used).collect();
    used.sort_unstable();
    if let Some(middle) = used.get(used.len() / 2).copied() {
        circuits.retain(|_, circuit| locked(&circuit.0).used > middle);
    }
}

/// The circuit of a provider and model, with what happened there.
#[derive(Debug)]
pub struct Circuit(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    breaker: Breaker,
    used: Instant,
    calls: u64,
    failures: u64,
    last_error: Option<(&'static str, EpochMs)>,
    /// Of a tenant's own provider, which has no standing.
    retries: Budget,
}

/// What is known of a circuit.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Where it is.
    pub state: State,
    /// How long it stays open.
    pub open_for: Option<Duration>,
    /// Calls since the start.
    pub calls: u64,
    /// Those of them that failed by the provider's fault.
    pub failures: u64,
    /// The kind of the last failure, and when.
    pub last_error: Option<(&'static str, EpochMs)>,
}

impl Default for Circuit {
    fn default() -> Self {
        Self::new(breaker::Settings::DEFAULT)
    }
}

impl Circuit {
    fn new(settings: breaker::Settings) -> Self {
        let used = Instant::now();
        let (breaker, retries) = (Breaker::new(settings, used), Budget::new(used));
        Self(Mutex::new(Inner { breaker, used, calls: 0, failures: 0, last_error: None, retries }))
    }

    /// A call is made that is no retry.
    pub fn earn(&self) {
        locked(&self.0).retries.earn();
    }

    /// Whether it may be asked once more.
    pub fn take_retry(&self) -> bool {
        locked(&self.0).retries.take(Instant::now())
    }

    /// What is known.
    pub fn snapshot(&self) -> Snapshot {
        let own = locked(&self.0);
        Snapshot {
            state: own.breaker.state(),
            open_for: own.breaker.open_for(Instant::now()),
            calls: own.calls,
            failures: own.failures,
            last_error: own.last_error,
        }
    }

    /// Leave for a call, with its place among the provider's; `shown` is who that is, for the log.
    ///
    /// # Errors
    /// Why not now.
    pub fn enter(self: &Arc<Self>, gauge: Option<&Arc<Gauge>>, shown: &str) -> Result<Ticket, Skipped> {
        // First the place: one that is not there must not cost a probe.
        let place = match gauge {
            Some(gauge) => Some(gauge.enter().ok_or(Skipped::Full)?),
            None => None,
        };
        let pass = self.told(shown, |own, now| own.breaker.enter(now)).map_err(Skipped::Open)?;
        Ok(Ticket { circuit: self.clone(), shown: shown.to_owned(), pass: Some(pass), _place: place })
    }

    /// Does something to the breaker and logs it if that changes its state.
    fn told<T>(&self, shown: &str, what: impl FnOnce(&mut Inner, Instant) -> T) -> T {
        let now = Instant::now();
        let mut own = locked(&self.0);
        let before = own.breaker.state();
        own.used = now;
        let done = what(&mut own, now);
        let (after, last) = (own.breaker.state(), own.last_error.map(|(kind, _)| kind));
        drop(own);
        if before != after {
            let (from, to) = (before.as_str(), after.as_str());
            match after {
                State::Open => tracing::error!(provider = shown, from, to, last, "a provider is left alone"),
                _ => tracing::warn!(provider = shown, from, to, "a provider's circuit changes"),
            }
        }
        done
    }
}

/// Why a candidate is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// It has as many calls as it may.
    Full,
    /// It failed too often; how long it is left alone yet.
    Open(Duration),
}

/// A call that runs. If nobody tells how it went, it says nothing of the provider.
#[derive(Debug)]
pub struct Ticket {
    circuit: Arc<Circuit>,
    shown: String,
    pass: Option<Pass>,
    _place: Option<Place>,
}

impl Ticket {
    /// The provider answers. The call goes on.
    pub fn answered(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.circuit.told(&self.shown, |own, now| {
                own.calls += 1;
                own.breaker.succeeded(&pass, now);
            });
        }
    }

    /// The call failed, before its first event or after; what the request itself is to blame for does not count.
    pub fn failed(&mut self, kind: &UpstreamKind) {
        let Some(word) = word(kind) else { return };
        let pass = self.pass.take();
        self.circuit.told(&self.shown, |own, now| {
            own.last_error = Some((word, clock::now_ms()));
            own.failures += 1;
            let pass = match pass {
                Some(pass) => {
                    own.calls += 1;
                    Some(pass)
                }
                // It answered and then broke: another mark against it, where marks count.
                None if own.breaker.state() == State::Closed => own.breaker.enter(now).ok(),
                None => None,
            };
            if let Some(pass) = pass {
                own.breaker.failed(&pass, now);
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.circuit.told(&self.shown, |own, _| own.breaker.ended(&pass));
        }
    }
}

/// The word for a failure that is the provider's.
fn word(kind: &UpstreamKind) -> Option<&'static str> {
    (!matches!(kind, UpstreamKind::BadRequest { .. })).then(|| kind.word())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: breaker::Settings = breaker::Settings { min_calls: 2, ..breaker::Settings::DEFAULT };

    #[test]
    fn our_own_cancellations_and_wrong_requests_count_neither_way() {
        let circuits = Circuits::default();
        let circuit = circuits.of("", "m", SETTINGS);
        for _ in 0..9 {
            drop(circuit.enter(None, "p/m").expect("closed"));
            let mut ticket = circuit.enter(None, "p/m").expect("closed");
            ticket.failed(&UpstreamKind::BadRequest { code: None, param: None });
        }
        let seen = circuit.snapshot();
        assert_eq!((seen.state, seen.calls, seen.failures), (State::Closed, 0, 0));
    }

    #[test]
    fn failures_open_it_and_say_of_what_kind_they_were() {
        let circuits = Circuits::default();
        let circuit = circuits.of("", "m", SETTINGS);
        for _ in 0..2 {
            circuit.enter(None, "p/m").expect("closed").failed(&UpstreamKind::Auth);
        }
        let seen = circuits.of("", "m", SETTINGS).snapshot();
        assert_eq!((seen.state, seen.last_error.map(|(kind, _)| kind)), (State::Open, Some("auth")));
        assert!(matches!(circuit.enter(None, "p/m"), Err(Skipped::Open(_))));
        assert!(
            circuits.of("", "other", SETTINGS).enter(None, "p/other").is_ok(),
            "another model is not concerned"
        );
    }

    #[test]
    fn a_stream_that_breaks_after_its_beginning_is_half_a_failure() {
        let circuit = Arc::new(Circuit::new(breaker::Settings { min_calls: 4, ..SETTINGS }));
        for _ in 0..2 {
            let mut ticket = circuit.enter(None, "p/m").expect("closed");
            ticket.answered();
            ticket.failed(&UpstreamKind::Invalid);
        }
        assert_eq!(circuit.snapshot().state, State::Open);
    }

    #[test]
    fn a_full_provider_is_told_from_one_that_is_left_alone() {
        let gauge = Arc::new(Gauge::new(Some(1)));
        let circuit = Arc::new(Circuit::new(SETTINGS));
        let ticket = circuit.enter(Some(&gauge), "p/m").expect("a place");
        assert_eq!(circuit.enter(Some(&gauge), "p/m").err(), Some(Skipped::Full));
        drop(ticket);
        assert!(circuit.enter(Some(&gauge), "p/m").is_ok());
    }

    #[test]
    fn circuits_have_a_bound() {
        let circuits = Circuits::default();
        for number in 0..MAX_CIRCUITS + 10 {
            circuits.of("", &number.to_string(), SETTINGS);
        }
        assert!(circuits.all().len() <= MAX_CIRCUITS);
    }
}
