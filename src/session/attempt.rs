//! Asking the candidates of a turn, one after the other, until one answers.
//!
//! All of it happens before the first byte to the client and on one hold. What a provider finds wrong with the request
//! itself ends it: the next one would find the same. All else goes on to the next candidate.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout_at};

use crate::billing::Hold;
use crate::billing::catalogue::{self, DEFAULT_MAX_OUTPUT};
use crate::billing::price::Price;
use crate::clock;
use crate::conversation::turn::Turn;
use crate::error::{Error, Invalid, UpstreamFailure, UpstreamKind};
use crate::id::fill_random;
use crate::metrics;
use crate::provider::choice::Gauge;
use crate::provider::health::{Circuit, Skipped, Ticket};
use crate::provider::{Answer, Call, Event, Provider, Route, retry};
use crate::session::LocalRooms;
use crate::session::first::First;
use crate::session::prompt::Prompt;
use crate::store::hold::Served;

/// The most candidates of a turn: the providers of its model and of each fallback.
const MAX_CANDIDATES: usize = 16;

/// Who may serve a turn, and at which price.
pub struct Candidate {
    pub route: Route,
    pub price: Arc<Price>,
}

impl Candidate {
    /// The bound of an answer where neither the client nor the agent names one.
    pub fn default_output(&self) -> u64 {
        catalogue::find(&self.route.model).map_or(DEFAULT_MAX_OUTPUT, |known| known.default_output)
    }
}

/// Who may serve a turn, in the order in which to ask; at least one.
///
/// # Errors
/// When nobody serves the agent's own model at a price. A fallback without one is left out.
pub async fn candidates(local: &LocalRooms, turn: &Turn) -> Result<Vec<Candidate>, Error> {
    let own = local.rooms.credentials.of(&turn.agent.account).await?;
    let (routes, prices, now) = (&local.rooms.routes, local.rooms.billing.prices(), clock::now_ms());
    let price = |route: &Route| route.priced_as.iter().find_map(|name| prices.current(name, now));
    let mut found: Vec<Candidate> = Vec::new();
    for (at, model) in turn.agent.definition.models().enumerate() {
        let mut all = routes.all(model, &own);
        let served = !all.is_empty();
        all.retain(|route| price(route).is_some());
        let mut unfit = None;
        all.retain(|route| match routes.check(route, turn) {
            Ok(()) => true,
            Err(invalid) => {
                unfit.get_or_insert(invalid);
                false
            }
        });
        // Where the first choice has no words for the request, that is told; a fallback is left out then.
        if let Some(invalid) = unfit.filter(|_| all.is_empty()) {
            if at == 0 {
                return Err(invalid.into());
            }
            continue;
        }
        if all.is_empty() && at == 0 {
            return Err(unpriced(turn, served).into());
        }
        if all.is_empty() {
            tracing::warn!(agent = %turn.agent.id, %model, "a fallback has no price and is left out");
        }
        for route in routes.ordered(all) {
            let known = found.iter().any(|other| other.route.shown == route.shown);
            if let Some(price) = price(&route).filter(|_| !known) {
                found.push(Candidate { route, price });
            }
        }
    }
    found.truncate(MAX_CANDIDATES);
    Ok(found)
}

fn unpriced(turn: &Turn, served: bool) -> Invalid {
    let why = if served { "has no price yet; the operator has to set one" } else { "is not served here" };
    let message = format!("the model of agent `{}` {why}", turn.agent.id);
    Invalid { param: Some("model".to_owned()), code: "model_not_priced", message }
}

/// A provider has begun to answer.
pub struct Asked {
    pub first: First,
    /// The running call, for those who count them.
    pub ticket: Ticket,
    pub meter: metrics::Call,
    /// The provider and its model.
    pub shown: Arc<str>,
    /// Those whose clients have left and that are read on, where this provider's calls are.
    pub drains: Option<Arc<Gauge>>,
    /// The bound of each answer that it was given.
    pub max_output: u64,
    pub between: Duration,
    pub deadline: Instant,
}

/// Asks until one answers.
///
/// # Errors
/// The last failure; that all are busy; that all are left alone for a while.
pub async fn ask(
    local: &LocalRooms,
    turn: &Turn,
    prompt: &Prompt,
    candidates: &[Candidate],
    hold: &mut Hold,
) -> Result<Asked, Error> {
    let timeouts = |candidate: &Candidate| Some(local.providers.of(&candidate.route)?.timeouts().total);
    let longest = candidates.iter().filter_map(timeouts).max().unwrap_or_default();
    let mut asking = Asking { local, turn, prompt, hold, deadline: Instant::now() + longest };
    let (mut failed, mut skipped) = (None, Vec::new());
    for candidate in candidates {
        match asking.one(candidate).await {
            Ok(asked) => return Ok(asked),
            Err(Why::Failed(failure)) if matches!(failure.kind, UpstreamKind::BadRequest { .. }) => {
                return Err(failure.into());
            }
            Err(Why::Failed(failure)) => failed = Some(failure),
            Err(Why::Skipped(why)) => skipped.push(why),
        }
        if Instant::now() >= asking.deadline {
            break;
        }
    }
    Err(failed.map_or_else(|| nobody(&skipped), Error::Upstream))
}

/// Nobody was asked: all are busy, or left alone.
fn nobody(skipped: &[Skipped]) -> Error {
    let open = skipped.iter().filter_map(|why| match why {
        Skipped::Open(wait) => Some(*wait),
        Skipped::Full => None,
    });
    match open.min() {
        Some(wait) => {
            let kind = UpstreamKind::Unavailable { retry_after: Some(wait) };
            UpstreamFailure::new(kind, "every provider of the model is left alone for a while").into()
        }
        None => Error::Overloaded,
    }
}

/// Why a candidate does not serve.
enum Why {
    Failed(UpstreamFailure),
    Skipped(Skipped),
}

struct Asking<'a> {
    local: &'a LocalRooms,
    turn: &'a Turn,
    prompt: &'a Prompt,
    hold: &'a mut Hold,
    /// When no more is asked, and nothing more is read.
    deadline: Instant,
}

impl Asking<'_> {
    /// Asks one candidate, again where that may help and costs nobody twice.
    async fn one(&mut self, candidate: &Candidate) -> Result<Asked, Why> {
        let (routes, route) = (&self.local.rooms.routes, &candidate.route);
        let (standing, circuit) = (routes.standing(route), routes.circuit(route));
        let Some(provider) = self.local.providers.of(route) else {
            let gone = UpstreamFailure::new(UpstreamKind::Refused, "a route without a provider");
            return Err(Why::Failed(gone));
        };
        if route.own().is_some_and(|own| own.api_key.is_none()) {
            let lost = UpstreamFailure::new(UpstreamKind::Auth, "a tenant's key that cannot be opened");
            return Err(Why::Failed(told(lost, route)));
        }
        routes.earn_retry(route, &circuit);
        let granted = self.hold.granted().max_output;
        let own_bound = self.turn.max_output.is_none().then(|| candidate.default_output());
        let max_output = own_bound.map_or(granted, |own| own.min(granted));
        let mut failed: Option<UpstreamFailure> = None;
        for number in 0.. {
            let entered = circuit.enter(standing.map(|standing| &standing.gauge), &route.shown);
            let mut ticket = entered.map_err(|why| failed.take().map_or(Why::Skipped(why), Why::Failed))?;
            self.hold.serve(Served {
                by: route.shown.clone(),
                model: route.counted_as.clone(),
                price: candidate.price.id.clone(),
            });
            let mut meter = routes.meter(route);
            let (timeouts, begun) = (provider.timeouts(), Instant::now());
            let failure = match self.call(provider.as_ref(), route, max_output).await {
                Ok(first) => {
                    ticket.answered();
                    let deadline = self.deadline.min(begun + timeouts.total);
                    let (shown, between) = (route.shown.clone(), timeouts.between);
                    let drains = routes.drains(route);
                    return Ok(Asked { first, ticket, meter, shown, drains, max_output, between, deadline });
                }
                Err(failure) => told(failure, route),
            };
            meter.failed(&failure.kind);
            ticket.failed(&failure.kind);
            drop((meter, ticket));
            tracing::warn!(
                request = %self.turn.request, provider = %route.shown, number, kind = failure.kind.word(),
                cause = %failure.cause, said = failure.told(), "the provider failed"
            );
            let Some(wait) = self.wait(route, &circuit, number, &failure) else {
                return Err(Why::Failed(failure));
            };
            failed = Some(failure);
            sleep(wait).await;
        }
        unreachable!("the loop ends by returning")
    }

    /// How long to wait before asking the same provider again; `None` if it is not asked again.
    fn wait(
        &self,
        route: &Route,
        circuit: &Circuit,
        number: u32,
        failure: &UpstreamFailure,
    ) -> Option<Duration> {
        let routes = &self.local.rooms.routes;
        // A plain call that was sent whole may be running there yet: asking again would have it made twice, for which
        // the operator pays. A stream's call ends with its connection.
        let running = !self.turn.stream && failure.kind == UpstreamKind::Timeout;
        if !failure.passes || running || number >= routes.retries(route) {
            return None;
        }
        let asked = match failure.kind {
            UpstreamKind::Unavailable { retry_after } => retry_after,
            _ => None,
        };
        let mut chance = [0];
        fill_random(&mut chance);
        let wait = retry::wait(number, asked, chance[0])?;
        let in_time = Instant::now() + wait < self.deadline;
        (in_time && routes.take_retry(route, circuit)).then_some(wait)
    }

    /// One call, up to its first event.
    async fn call(
        &self,
        provider: &dyn Provider,
        route: &Route,
        max_output: u64,
    ) -> Result<First, UpstreamFailure> {
        let call = Call {
            model: route.model.clone(),
            messages: self.prompt.messages.clone(),
            newer_names: self.prompt.newer_names(),
            fields: self.turn.fields.clone(),
            max_output,
            stream: self.turn.stream,
            own: route.own().cloned(),
        };
        let late = |what| move |_| UpstreamFailure::new(UpstreamKind::Timeout, what);
        let answer = timeout_at(self.deadline, provider.call(call)).await;
        match answer.map_err(late("no answer before the turn's end"))?? {
            Answer::Whole(whole) => First::whole(whole),
            Answer::Stream(mut stream) => {
                let limit = self.deadline.min(Instant::now() + provider.timeouts().first_byte);
                let event = timeout_at(limit, stream.next()).await;
                match event.map_err(late("no first event in time"))? {
                    Some(Ok(Event::Chunk(chunk))) => First::streamed(chunk, stream),
                    Some(Ok(Event::Alive | Event::Done)) | None => {
                        Err(UpstreamFailure::new(UpstreamKind::Invalid, "an empty stream"))
                    }
                    Some(Err(failure)) => Err(failure),
                }
            }
        }
    }
}

/// A failure in the words that fit whose key it was.
fn told(mut failure: UpstreamFailure, route: &Route) -> UpstreamFailure {
    if let Some(own) = route.own().filter(|_| failure.kind == UpstreamKind::Auth) {
        failure.message = format!("the provider does not accept your own key for `{}`", own.name);
    }
    failure
}
