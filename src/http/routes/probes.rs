//! What the server tells of itself.

use actix_web::http::StatusCode;
use serde_json::{Map, Value};

use crate::http::endpoint::{Endpoint, Keys, get};
use crate::http::manage::health;
use crate::http::{docs, metrics, openapi};
use crate::wire::native::objects::{Health, Probe};

const OK: StatusCode = StatusCode::OK;
const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/health", health::health, "Tell how the server is")
            .answers::<Health>(OK, "It reaches its database.")
            .answers::<Health>(UNAVAILABLE, "It does not."),
        get("/livez", health::live, "Tell whether the process answers").answers::<Probe>(OK, "It does."),
        get("/readyz", health::ready, "Tell whether requests are taken")
            .answers::<Probe>(OK, "They are.")
            .answers::<Probe>(UNAVAILABLE, "The server is stopping."),
        get("/metrics", metrics::show, "Measure the server")
            .about("In the text format of Prometheus. With `metrics_public` in the configuration it takes no key.")
            .by(Keys::Operator)
            .text(OK, "The metrics.", "text/plain", "switchboard_turns_running 3\n"),
        get("/openapi.json", openapi::show, "Describe this API")
            .about("As an OpenAPI 3.1 document.")
            .answers::<Map<String, Value>>(OK, "The document.")
            .nothing(StatusCode::NOT_MODIFIED, "It is the one that `If-None-Match` names."),
        get("/docs", docs::show, "Read this API's documentation")
            .text(OK, "A page that shows `/openapi.json`.", "text/html", "<!doctype html>"),
    ]
}
