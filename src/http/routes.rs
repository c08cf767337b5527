//! Every path of the server.

use actix_web::web::{self, ServiceConfig, delete, get, patch, post, resource};

use crate::error::Error;
use crate::http::error::ApiError;
use crate::http::manage::{agents, billing, health, keys, operator, prices, sessions, webhooks};
use crate::http::{native, openai};

/// Adds all paths to an application.
pub fn configure(app: &mut ServiceConfig) {
    app.configure(chat)
        .configure(conversations)
        .configure(tenants)
        .configure(operators)
        .configure(probes)
        .default_service(web::to(|| async { Err::<&str, _>(ApiError::from(Error::NotFound("this path"))) }));
}

fn chat(app: &mut ServiceConfig) {
    app.service(resource("/v1/chat/completions").route(post().to(openai::create)))
        .service(resource("/v2/chats/openai").route(post().to(openai::create)))
        .service(resource("/v1/agents/{id}/chat").route(post().to(native::chat)))
        .service(resource("/v1/models").route(get().to(openai::models)))
        .service(resource("/v1/models/{id:.*}").route(get().to(openai::model)))
        .service(resource("/v1/chat/completions/{id}/stream").route(get().to(resumed_streams)))
        .service(resource("/v1/chat/completions/{id}/cancel").route(post().to(cancelling)));
}

fn conversations(app: &mut ServiceConfig) {
    app.service(resource("/v2/sessions").route(post().to(sessions::create)).route(get().to(sessions::list)))
        .service(
            resource("/v2/sessions/{id}")
                .route(get().to(sessions::show))
                .route(patch().to(sessions::update))
                .route(delete().to(sessions::delete)),
        )
        .service(resource("/v2/sessions/{id}/messages").route(get().to(sessions::messages)))
        .service(resource("/v2/chats").route(get().to(sessions::list_chats)))
        .service(
            resource("/v2/chats/{id}")
                .route(get().to(sessions::show_chat))
                .route(delete().to(sessions::delete)),
        );
}

fn tenants(app: &mut ServiceConfig) {
    app.service(resource("/v2/agents").route(post().to(agents::create)).route(get().to(agents::list)))
        .service(
            resource("/v2/agents/{id}")
                .route(get().to(agents::show))
                .route(patch().to(agents::update))
                .route(delete().to(agents::delete)),
        )
        .service(
            resource("/v2/agents/{id}/api-keys")
                .route(post().to(keys::create_for_agent))
                .route(get().to(keys::list_of_agent)),
        )
        .service(
            resource("/v2/agents/{id}/api-keys/{key_id}")
                .route(patch().to(keys::update_of_agent))
                .route(delete().to(keys::revoke_of_agent)),
        )
        .service(
            resource("/v2/account/api-keys")
                .route(post().to(keys::create_for_account))
                .route(get().to(keys::list_of_account)),
        )
        .service(resource("/v2/account/api-keys/{key_id}").route(delete().to(keys::revoke_of_account)))
        .service(resource("/v2/webhooks").route(post().to(webhooks::create)).route(get().to(webhooks::list)))
        .service(resource("/v2/webhooks/{id}").route(delete().to(webhooks::delete)))
        .service(resource("/v2/billing/balance").route(get().to(billing::balance)))
        .service(resource("/v2/billing/transactions").route(get().to(billing::transactions)))
        .service(resource("/v2/usage").route(get().to(billing::usage)));
}

fn operators(app: &mut ServiceConfig) {
    app.service(
        resource("/admin/accounts")
            .route(post().to(operator::create_account))
            .route(get().to(operator::list_accounts)),
    )
    .service(
        resource("/admin/accounts/{id}")
            .route(get().to(operator::show_account))
            .route(patch().to(operator::update_account)),
    )
    .service(resource("/admin/accounts/{id}/credit").route(post().to(operator::credit)))
    .service(resource("/admin/accounts/{id}/adjust").route(post().to(operator::adjust)))
    .service(resource("/admin/prices").route(post().to(prices::set)).route(get().to(prices::list)))
    .service(resource("/admin/providers").route(get().to(operator::providers)))
    .service(resource("/admin/ledger/verify").route(get().to(operator::verify)))
    .service(resource("/admin/ledger/explain/{id}").route(get().to(operator::explain)))
    .service(resource("/admin/streams").route(get().to(operator::streams)));
}

fn probes(app: &mut ServiceConfig) {
    app.service(resource("/api/health").route(get().to(health::health)))
        .service(resource("/livez").route(get().to(health::live)))
        .service(resource("/readyz").route(get().to(health::ready)))
        .service(resource("/metrics").route(get().to(metrics)))
        .service(resource("/openapi.json").route(get().to(openapi)))
        .service(resource("/docs").route(get().to(docs)));
}

macro_rules! not_yet {
    ($($name:ident: $what:literal;)*) => {$(
        async fn $name() -> Result<&'static str, ApiError> {
            Err(Error::NotImplemented($what).into())
        }
    )*};
}

not_yet! {
    resumed_streams: "taking up a broken stream";
    cancelling: "cancelling a completion by its id";
    metrics: "GET /metrics";
    openapi: "GET /openapi.json";
    docs: "GET /docs";
}
