//! Whether the server lives, is ready, and reaches its database.

use actix_web::{HttpResponse, web};

use crate::admission::Admission;
use crate::http::HttpSettings;
use crate::store::{self, Store};
use crate::wire::native::objects::{Health, Probe};

/// `GET /api/health`.
pub async fn health(settings: web::Data<HttpSettings>, store: web::Data<Store>) -> HttpResponse {
    let reached = store.read(store::account::none).await;
    let (mut answer, status, database) = match reached {
        Ok(_) => (HttpResponse::Ok(), "healthy", "ok"),
        Err(_) => (HttpResponse::ServiceUnavailable(), "unhealthy", "unavailable"),
    };
    let uptime = settings.started.elapsed().as_secs();
    answer.json(Health { status, version: env!("CARGO_PKG_VERSION"), database, uptime })
}

/// `GET /livez`.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Probe { status: "ok" })
}

/// `GET /readyz`: 503 while the server is stopping.
pub async fn ready(admission: web::Data<Admission>) -> HttpResponse {
    if admission.draining() {
        HttpResponse::ServiceUnavailable().json(Probe { status: "draining" })
    } else {
        HttpResponse::Ok().json(Probe { status: "ready" })
    }
}
