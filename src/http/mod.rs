//! The thin edge: reads requests, hands them on, writes answers. The only room that knows actix-web.

use std::time::Duration;

mod access;
mod body;
mod csv;
mod docs;
mod edge;
pub mod endpoint;
pub mod error;
pub mod intake;
pub mod listener;
pub mod manage;
mod metrics;
mod names;
mod native;
mod openai;
mod openapi;
mod paths;
pub mod peer;
mod query;
pub mod routes;
pub mod socket;
pub mod sse;
mod streams;
mod whole;

pub use edge::trace;
pub use routes::configure;

use crate::budget::Budget;

/// What the edge needs of the configuration.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// The largest body that is read, in bytes.
    pub max_body: usize,
    /// What all bodies that are in memory may come to.
    pub bodies: Budget,
    /// How long a body may take, beside the time that its length allows.
    pub body_timeout: Duration,
    /// Whether `/metrics` takes no key.
    pub metrics_public: bool,
    /// The proxies in front of the server.
    pub proxies: peer::Proxies,
    /// When the server started.
    pub started: std::time::Instant,
}
