//! Which models go where. Shared by all threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::conversation::message::Message;
use crate::conversation::turn::Turn;
use crate::error::Invalid;
use crate::json::Fields;
use crate::metrics;
use crate::provider::choice::{self, Balance, Gauge, Load};
use crate::provider::health::{Circuit, Circuits, Standing};
use crate::provider::own::Own;
use crate::provider::{OnDisconnect, ProviderConfig, ProviderKind, anthropic, openai};

/// What stands in front of the names under which calls with tenants' own keys are priced; no provider is called so.
pub const OWN: &str = "own";

/// Calls at once that are read on after their clients have left; beyond that they end.
const MAX_DRAINS: usize = 256;

/// How calls are spread, and where tenants' own providers may lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// How calls are spread over the providers of one model.
    pub balance: Balance,
    /// Whether tenants' own providers may lie in the operator's network.
    pub allow_private: bool,
}

/// Who serves a model.
#[derive(Clone, Debug)]
pub struct Route {
    pub(super) target: Target,
    /// The provider's name of the model.
    pub model: Arc<str>,
    /// The model as usage is told by it.
    pub counted_as: Arc<str>,
    /// The provider and its model, for people.
    pub shown: Arc<str>,
    /// The names under which its price may stand, the most exact first.
    pub priced_as: Vec<Arc<str>>,
}

/// Whose provider, and whose key.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The operator's, at that place.
    Operator(usize),
    /// A tenant's key: at the operator's provider of that place, else at the tenant's own.
    Own { at: Option<usize>, own: Arc<Own> },
}

impl Route {
    /// The tenant's own key, if it is one that is used.
    pub fn own(&self) -> Option<&Arc<Own>> {
        match &self.target {
            Target::Operator(_) => None,
            Target::Own { own, .. } => Some(own),
        }
    }

    /// The place of the operator's provider.
    pub(super) fn provider(&self) -> Option<usize> {
        match self.target {
            Target::Operator(at) => Some(at),
            Target::Own { at, .. } => at,
        }
    }
}

/// Which models go where.
#[derive(Clone, Debug)]
pub struct Routes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    providers: Vec<ProviderConfig>,
    standings: Vec<Standing>,
    circuits: Circuits,
    policy: Policy,
    /// Calls that are read on after their clients have left.
    drains: Arc<Gauge>,
    /// Counts choices.
    chosen: AtomicU64,
}

impl Routes {
    /// Routes over the configured providers, of which there is at least one.
    pub fn new(providers: Vec<ProviderConfig>, policy: Policy) -> Self {
        let standings = providers.iter().map(Standing::new).collect();
        let (circuits, chosen) = (Circuits::default(), AtomicU64::new(0));
        let drains = Arc::new(Gauge::new(Some(MAX_DRAINS)));
        Self(Arc::new(Inner { providers, standings, circuits, policy, drains, chosen }))
    }

    /// The providers.
    pub fn providers(&self) -> &[ProviderConfig] {
        &self.0.providers
    }

    /// How the providers do, in the same order.
    pub fn standings(&self) -> &[Standing] {
        &self.0.standings
    }

    /// The policy.
    pub fn policy(&self) -> Policy {
        self.0.policy
    }

    /// The model of agents that name none: the first provider's.
    pub fn default_model(&self) -> &str {
        self.0.providers.first().map_or("", |provider| &provider.model)
    }

    /// Who serves `model`: `provider/model` that provider, a bare name those that list it, else the first one, no
    /// name the first one's own model. A tenant's `own` keys stand in the place of the operator's.
    pub fn all(&self, model: &str, own: &[Arc<Own>]) -> Vec<Route> {
        let model = if model.is_empty() { self.default_model() } else { model };
        if let Some((name, rest)) = model.split_once('/').filter(|(_, rest)| !rest.is_empty()) {
            if let Some(own) = own.iter().find(|own| own.name == name && own.base_url.is_some()) {
                return vec![route_of_tenant(None, own, rest)];
            }
            if let Some(at) = self.0.providers.iter().position(|provider| provider.name == name) {
                return vec![self.route(at, rest, own)];
            }
        }
        if model.is_empty() {
            return Vec::new();
        }
        let lists = |(at, provider): (usize, &ProviderConfig)| provider.lists(model).then_some(at);
        let mut places: Vec<usize> = self.0.providers.iter().enumerate().filter_map(lists).collect();
        if places.is_empty() {
            places.push(0);
        }
        places.into_iter().map(|at| self.route(at, model, own)).collect()
    }

    fn route(&self, at: usize, model: &str, own: &[Arc<Own>]) -> Route {
        let name = self.0.providers.get(at).map_or("", |provider| &provider.name);
        let replaceable = self.0.providers.get(at).is_some_and(ProviderConfig::takes_own_key);
        if replaceable && let Some(own) = own.iter().find(|own| own.name == name && own.base_url.is_none()) {
            return route_of_tenant(Some(at), own, model);
        }
        let (shown, bare): (Arc<str>, Arc<str>) = (format!("{name}/{model}").into(), model.into());
        let mut priced_as = vec![shown.clone(), bare.clone()];
        // A model may have a name that reads like that of a price for something else.
        let first = model.split_once('/').map(|(first, _)| first);
        if first.is_some_and(|first| {
            first == OWN || self.0.providers.iter().any(|provider| provider.name == first)
        }) {
            priced_as.truncate(1);
        }
        Route { target: Target::Operator(at), model: bare.clone(), counted_as: bare, priced_as, shown }
    }

    /// Routes of one model in the order in which to ask them now.
    pub fn ordered(&self, routes: Vec<Route>) -> Vec<Route> {
        if routes.len() < 2 {
            return routes;
        }
        let load = |route: &Route| {
            let at = route.provider().unwrap_or(usize::MAX);
            let weight = self.0.providers.get(at).map_or(1, |provider| provider.terms.weight);
            let running = self.0.standings.get(at).map_or(0, |standing| standing.gauge.running());
            Load { weight, running }
        };
        let loads: Vec<Load> = routes.iter().map(load).collect();
        let draw = choice::draw(self.0.chosen.fetch_add(1, Ordering::Relaxed));
        let order = choice::order(&loads, self.0.policy.balance, draw);
        let mut routes: Vec<Option<Route>> = routes.into_iter().map(Some).collect();
        order.into_iter().filter_map(|at| routes.get_mut(at)?.take()).collect()
    }

    /// Times a call that begins now. What tenants name themselves is counted together.
    pub fn meter(&self, route: &Route) -> metrics::Call {
        match route.target {
            Target::Operator(at) => {
                let name = self.0.providers.get(at).map_or("", |provider| &provider.name);
                metrics::Call::begin(name, &route.model)
            }
            Target::Own { .. } => metrics::Call::begin(OWN, OWN),
        }
    }

    /// How the provider of a route does; a tenant's own is nobody's business but its circuit's.
    pub fn standing(&self, route: &Route) -> Option<&Standing> {
        match route.target {
            Target::Operator(at) => self.0.standings.get(at),
            Target::Own { .. } => None,
        }
    }

    /// The circuit of a route.
    pub fn circuit(&self, route: &Route) -> Arc<Circuit> {
        match &route.target {
            Target::Operator(at) => match self.0.standings.get(*at) {
                Some(standing) => standing.circuits.of("", &route.model, standing.breaker),
                None => Arc::default(),
            },
            Target::Own { own, .. } => {
                let whose = format!("{}/{}/{}", own.account, own.name, own.since);
                self.0.circuits.of(&whose, &route.model, super::breaker::Settings::DEFAULT)
            }
        }
    }

    /// Where a call is counted that is read on after its client has left; `None` if it ends then.
    pub fn drains(&self, route: &Route) -> Option<Arc<Gauge>> {
        let terms =
            route.provider().and_then(|at| self.0.providers.get(at)).map(|own| own.terms.on_disconnect);
        (terms == Some(OnDisconnect::Drain)).then(|| self.0.drains.clone())
    }

    /// A call to a route is made that is no retry.
    pub fn earn_retry(&self, route: &Route, circuit: &Circuit) {
        match self.standing(route) {
            Some(standing) => standing.earn(),
            None => circuit.earn(),
        }
    }

    /// Takes a retry from what the calls of a route's provider have earned.
    pub fn take_retry(&self, route: &Route, circuit: &Circuit) -> bool {
        match self.standing(route) {
            Some(standing) => standing.take_retry(),
            None => circuit.take_retry(),
        }
    }

    /// How often a route's provider may be asked again.
    pub fn retries(&self, route: &Route) -> u32 {
        let terms = route.provider().and_then(|at| self.0.providers.get(at)).map(|own| own.terms.retries);
        terms.unwrap_or(super::DEFAULT_RETRIES)
    }

    /// Refuses fields that change the price beyond what the price list covers, and those that the provider's protocol
    /// has no words for.
    ///
    /// # Errors
    /// Names the field.
    pub fn check_price(&self, route: &Route, fields: &Fields) -> Result<(), Invalid> {
        match route.provider().and_then(|at| self.0.providers.get(at)).map(|provider| &provider.kind) {
            Some(ProviderKind::OpenAi { .. }) | None => openai::check_price(fields),
            Some(ProviderKind::Anthropic { .. }) => anthropic::check_fields(fields),
            Some(ProviderKind::Demo) => Ok(()),
        }
    }

    /// Both of these.
    ///
    /// # Errors
    /// Names what a route's provider cannot be asked.
    pub fn check(&self, route: &Route, turn: &Turn) -> Result<(), Invalid> {
        self.check_price(route, &turn.fields)?;
        self.check_messages(route, &turn.messages)
    }

    /// Refuses messages that the provider's protocol has no words for.
    ///
    /// # Errors
    /// Names the part of the message.
    pub fn check_messages(&self, route: &Route, messages: &[Message]) -> Result<(), Invalid> {
        match route.provider().and_then(|at| self.0.providers.get(at)).map(|provider| &provider.kind) {
            Some(ProviderKind::Anthropic { .. }) => {
                anthropic::check_messages(messages.iter().map(|message| &message.raw))
            }
            Some(ProviderKind::OpenAi { .. } | ProviderKind::Demo) | None => Ok(()),
        }
    }
}

fn route_of_tenant(at: Option<usize>, own: &Arc<Own>, model: &str) -> Route {
    let shown = format!("{}/{model}", own.name);
    let exact: Arc<str> = format!("{OWN}/{shown}").into();
    Route {
        target: Target::Own { at, own: own.clone() },
        model: model.into(),
        counted_as: exact.clone(),
        shown: shown.into(),
        priced_as: vec![exact, format!("{OWN}/{model}").into(), format!("{OWN}/*").into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{OutputField, Terms, Timeouts};

    fn provider(name: &str, model: &str, models: &[&str]) -> ProviderConfig {
        ProviderConfig {
            name: name.to_owned(),
            kind: ProviderKind::OpenAi {
                base_url: "http://127.0.0.1:1/v1".to_owned(),
                api_key: Some("the operator's".into()),
                output_field: OutputField::MaxTokens,
            },
            model: model.to_owned(),
            timeouts: Timeouts::DEFAULT,
            terms: Terms {
                models: models.iter().map(|model| (*model).to_owned()).collect(),
                ..Terms::default()
            },
        }
    }

    fn own(name: &str, base_url: Option<&str>) -> Arc<Own> {
        Arc::new(Own {
            account: "acct_1".into(),
            name: name.to_owned(),
            base_url: base_url.map(str::to_owned),
            api_key: Some("secret".into()),
            since: 1,
        })
    }

    fn routes() -> Routes {
        let providers = vec![
            provider("a", "small", &[]),
            provider("b", "large", &["large", "huge"]),
            provider("c", "huge", &["huge"]),
        ];
        Routes::new(providers, Policy::default())
    }

    fn shown(model: &str, own: &[Arc<Own>]) -> Vec<String> {
        routes().all(model, own).into_iter().map(|route| route.shown.to_string()).collect()
    }

    fn priced(route: &Route) -> Vec<String> {
        route.priced_as.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bare_name_goes_to_all_that_list_it_and_else_to_the_first() {
        assert_eq!(shown("huge", &[]), ["b/huge", "c/huge"]);
        assert_eq!(shown("large", &[]), ["b/large"]);
        assert_eq!(shown("anything", &[]), ["a/anything"]);
        assert_eq!(shown("some/thing", &[]), ["a/some/thing"]);
        assert_eq!(shown("", &[]), ["a/small"]);
        assert_eq!(shown("c/anything", &[]), ["c/anything"]);
    }

    #[test]
    fn a_tenant_s_key_takes_the_place_of_the_operator_s() {
        let mine = [own("b", None), own("mine", Some("https://example.com/v1"))];
        let found = routes().all("huge", &mine);
        assert_eq!(priced(&found[0]), ["own/b/huge", "own/huge", "own/*"]);
        assert!(found[0].own().is_some() && found[1].own().is_none());
        assert_eq!(shown("mine/model", &mine), ["mine/model"]);
        assert_eq!(shown("mine/model", &[]), ["a/mine/model"], "another tenant's name means nothing");
    }

    #[test]
    fn a_model_whose_name_reads_like_another_price_has_its_whole_name_alone() {
        let priced = |model: &str| priced(&routes().all(model, &[])[0]);
        assert_eq!(priced("small"), ["a/small", "small"]);
        assert_eq!(priced("own/*"), ["a/own/*"]);
        assert_eq!(priced("b/own/*"), ["b/own/*"]);
        assert_eq!(priced("b/c/huge"), ["b/c/huge"]);
        assert_eq!(priced("b/some/thing"), ["b/some/thing", "some/thing"]);
    }

    #[test]
    fn another_key_of_a_tenant_has_a_circuit_of_its_own() {
        let routes = routes();
        let circuit = |own: Arc<Own>| routes.circuit(&routes.all("mine/m", &[own])[0]);
        let first = own("mine", Some("https://example.com/v1"));
        let second = Arc::new(Own { since: 2, ..(*first).clone() });
        assert!(Arc::ptr_eq(&circuit(first.clone()), &circuit(first.clone())));
        assert!(!Arc::ptr_eq(&circuit(first), &circuit(second)));
    }
}
