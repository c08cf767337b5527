//! `/v2/agents`: a tenant's agents.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use serde_json::{Map, Value, json};

use crate::agents::Agents;
use crate::auth::keyring::Keyring;
use crate::billing::Billing;
use crate::clock;
use crate::conversation::agent::{Agent, Definition};
use crate::credentials::Credentials;
use crate::error::{Error, Invalid, Stop};
use crate::http::access::Tenant;
use crate::http::body::{self, unknown_field};
use crate::http::error::ApiError;
use crate::http::query::Query;
use crate::http::whole::whole;
use crate::id::{AccountId, AgentId};
use crate::provider::Routes;
use crate::retention;
use crate::session::Sessions;
use crate::store::audit_log::{self, Action, Deed, state};
use crate::store::{self, Store};
use crate::wire::native::objects;

type Answer = Result<HttpResponse, ApiError>;

/// `POST /v2/agents`.
pub async fn create(
    request: HttpRequest,
    tenant: Tenant,
    payload: web::Payload,
    store: web::Data<Store>,
    pricing: Pricing,
) -> Answer {
    let given = body::read_object(&request, payload).await?.rest();
    let mut definition = changed(Definition::default(), given)?;
    if definition.model.is_empty() {
        pricing.routes.default_model().clone_into(&mut definition.model);
    }
    pricing.check(&definition, &tenant.account).await?;
    let now = clock::now_ms();
    let agent = Agent {
        id: AgentId::random(),
        account: tenant.account.clone(),
        definition,
        created_at: now,
        updated_at: now,
    };
    let (new, by) = (agent.clone(), tenant.by());
    let insert = move |conn: &mut _| {
        store::agent::insert(conn, &new)?;
        let after = state(objects::Agent::from(&new));
        Ok(audit_log::record(conn, &by, &deed(Action::AgentCreate, &new, None, after))?)
    };
    store.write(insert).await?;
    Ok(HttpResponse::Created().json(objects::Agent::from(&agent)))
}

/// What is done to an agent, for the audit log.
pub fn deed(action: Action, agent: &Agent, before: Option<Value>, after: Option<Value>) -> Deed<'_> {
    Deed { action, account: Some(agent.account.as_str()), object: agent.id.as_str(), before, after }
}

/// `GET /v2/agents`.
pub async fn list(tenant: Tenant, query: Query, store: web::Data<Store>) -> Answer {
    let (limit, offset) = (query.limit()?, query.offset()?);
    let owner = tenant.account.clone();
    let (agents, total) = store
        .read(move |conn| {
            let agents = store::agent::list(conn, owner.as_str(), limit, offset)?;
            let total = store::account::find(conn, owner.as_str())?.map_or(0, |row| row.agent_count);
            Ok((agents, total))
        })
        .await?;
    let agents = agents.iter().map(objects::Agent::from).collect();
    Ok(HttpResponse::Ok().json(objects::AgentList { agents, total }))
}

/// `GET /v2/agents/{id}`.
pub async fn show(tenant: Tenant, id: web::Path<String>, agents: web::Data<Agents>) -> Answer {
    let agent = own(&tenant, &id.into_inner(), &agents).await?;
    Ok(HttpResponse::Ok().json(objects::Agent::from(&agent)))
}

/// `PATCH /v2/agents/{id}`.
pub async fn update(
    request: HttpRequest,
    tenant: Tenant,
    id: web::Path<String>,
    payload: web::Payload,
    (store, agents): (web::Data<Store>, web::Data<Agents>),
    pricing: Pricing,
) -> Answer {
    let given = body::read_object(&request, payload).await?.rest();
    let mut agent = own(&tenant, &id.into_inner(), &agents).await?;
    agent.definition = changed(agent.definition, given)?;
    pricing.check(&agent.definition, &agent.account).await?;
    agent.updated_at = clock::now_ms();
    let (new, by) = (agent.clone(), tenant.by());
    let id = agent.id.clone();
    let kept = whole(async move {
        let update = move |conn: &mut _| {
            let before = store::agent::find(conn, new.id.as_str())?.ok_or(Error::NotFound("the agent"))?;
            store::agent::update(conn, &new)?;
            let (before, after) = (state(objects::Agent::from(&before)), state(objects::Agent::from(&new)));
            Ok(audit_log::record(conn, &by, &deed(Action::AgentUpdate, &new, before, after))?)
        };
        store.write(update).await?;
        agents.forget(&id);
        Ok(())
    });
    kept.await?;
    Ok(HttpResponse::Ok().json(objects::Agent::from(&agent)))
}

/// `DELETE /v2/agents/{id}`: takes its keys and sessions along; billing records stay.
pub async fn delete(
    tenant: Tenant,
    id: web::Path<String>,
    (store, agents): (web::Data<Store>, web::Data<Agents>),
    (keyring, sessions): (web::Data<Keyring>, web::Data<Sessions>),
) -> Answer {
    let id = AgentId::from(id.into_inner());
    whole(async move {
        let (owner, gone, by) = (tenant.account.clone(), id.clone(), tenant.by());
        let delete = move |conn: &mut _| {
            let agent = store::agent::find(conn, gone.as_str())?.filter(|agent| agent.account == owner);
            let agent = agent.ok_or(Error::NotFound("the agent"))?;
            let keys = store::api_key::list_of_agent(conn, owner.as_str(), gone.as_str())?;
            store::agent::delete(conn, owner.as_str(), gone.as_str())?;
            let keys: Vec<_> = keys.into_iter().map(|key| key.key_id).collect();
            let mut before = state(objects::Agent::from(&agent));
            if let Some(before) = &mut before {
                before["api_keys"] = json!(keys);
            }
            Ok(audit_log::record(conn, &by, &deed(Action::AgentDelete, &agent, before, None))?)
        };
        store.write(delete).await?;
        agents.forget(&id);
        keyring.forget();
        sessions.turns().stop_where(Stop::Cancelled, |turn| turn.agent == id);
        retention::delete_sessions_of(&store, tenant.account.as_str(), id.as_str()).await?;
        // Those that waited found their sessions while they were there; now they find neither agent nor session.
        sessions.turns().stop_where(Stop::Cancelled, |turn| turn.agent == id);
        sessions.turns().forget_where(|turn| turn.agent == id);
        Ok(())
    })
    .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The tenant's agent of that id.
///
/// # Errors
/// [`Error::NotFound`] for one that is not there or another's.
pub async fn own(tenant: &Tenant, id: &str, agents: &Agents) -> Result<Agent, Error> {
    let found = agents.find(&AgentId::from(id)).await?.filter(|agent| agent.account == tenant.account);
    found.map(|agent| (*agent).clone()).ok_or(Error::NotFound("the agent"))
}

/// `base` with the given fields in the place of its own; each is checked alone, so that an error names it.
pub fn changed(base: Definition, given: Map<String, Value>) -> Result<Definition, Invalid> {
    let mut document = serde_json::to_value(base).unwrap_or_default();
    for (name, value) in given {
        let Some(place) = document.get_mut(&name) else { return Err(unknown_field(&name)) };
        let empty = serde_json::to_value(Definition::default()).unwrap_or_default();
        // `null` clears a field.
        let value = if value.is_null() { empty[&name].clone() } else { value };
        serde_json::from_value::<Definition>(json!({name.clone(): value.clone()}))
            .map_err(|cause| Invalid::value(&name, cause))?;
        *place = value;
    }
    let definition: Definition =
        serde_json::from_value(document).map_err(|cause| Invalid::json(cause.to_string()))?;
    definition.check()?;
    Ok(definition)
}

/// What tells whether an agent's models have a price.
pub struct Pricing {
    routes: web::Data<Routes>,
    credentials: web::Data<Credentials>,
    billing: web::Data<Billing>,
}

impl FromRequest for Pricing {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        fn handle<T: 'static>(request: &HttpRequest) -> Result<web::Data<T>, Error> {
            let missing = || Error::Internal(format!("no {}", std::any::type_name::<T>()));
            request.app_data::<web::Data<T>>().cloned().ok_or_else(missing)
        }
        let all = || -> Result<Self, Error> {
            let (routes, credentials) = (handle(request)?, handle(request)?);
            Ok(Self { routes, credentials, billing: handle(request)? })
        };
        ready(all().map_err(ApiError::from))
    }
}

impl Pricing {
    /// Each model needs a price, or the agent would fail when it is used.
    async fn check(&self, definition: &Definition, owner: &AccountId) -> Result<(), Error> {
        let own = self.credentials.of(owner).await?;
        let now = clock::now_ms();
        for (at, model) in definition.models().enumerate() {
            let routes = self.routes.all(model, &own);
            let mut names = routes.iter().flat_map(|route| &route.priced_as);
            if !names.any(|name| self.billing.prices().current(name, now).is_some()) {
                let param = if at == 0 { "model".to_owned() } else { format!("fallbacks[{}]", at - 1) };
                let message = format!("the model `{model}` has no price; the operator has to set one");
                return Err(Invalid { param: Some(param), code: "model_not_priced", message }.into());
            }
        }
        Ok(())
    }
}
