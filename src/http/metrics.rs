//! `GET /metrics`: for Prometheus.

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};

use crate::admission::Admission;
use crate::error::Error;
use crate::http::HttpSettings;
use crate::http::access::Operator;
use crate::http::error::ApiError;
use crate::metrics::{self, Sampled};
use crate::session::Sessions;
use crate::store::{self, Store};

/// The call itself.
pub async fn show(
    request: HttpRequest,
    settings: web::Data<HttpSettings>,
    (admission, sessions, store): (web::Data<Admission>, web::Data<Sessions>, web::Data<Store>),
) -> Result<HttpResponse, ApiError> {
    if !settings.metrics_public {
        Operator::from_request(&request, &mut Payload::None).await?;
    }
    let (streamed_turns, plain_turns) = sessions.turns().counts();
    let sampled = Sampled {
        streamed_turns,
        plain_turns,
        // The rest is wanted the more while the database cannot be read.
        holds: store.read(store::hold::open).await.ok(),
        limiter_entries: admission.limiter_entries(),
        body_memory: settings.bodies.used(),
        writer: store.writer().counts(),
        uptime: settings.started.elapsed(),
    };
    let text = metrics::text(&sampled).map_err(|cause| Error::Internal(cause.to_string()))?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}
