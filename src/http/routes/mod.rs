//! Every path of the server: one table, from which actix-web routes and `/openapi.json` tells.
//!
//! A new call is one entry in the list of its group.

mod chat;
mod operators;
mod probes;
mod sessions;
mod tenants;

use actix_web::web::{self, ServiceConfig};
use actix_web::{Resource, Route};

use crate::error::Error;
use crate::http::endpoint::Endpoint;
use crate::http::error::ApiError;

/// Calls that belong together.
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Its calls.
    pub endpoints: Vec<Endpoint>,
}

/// Every call, in the order in which it is told.
pub fn table() -> Vec<Group> {
    let group = |name, about, endpoints| Group { name, about, endpoints };
    vec![
        group("Chat", "Turns of conversations, in OpenAI's dialect and in ours.", chat::endpoints()),
        group("Sessions", "Conversations as their owner sees them.", sessions::endpoints()),
        group("Agents", "Configured assistants, which clients name as `model`.", tenants::agents()),
        group("Keys", "Keys of agents and of accounts.", tenants::keys()),
        group("Own providers", "Keys and providers that an account brings along.", tenants::own_providers()),
        group("Money", "What an account has and where it went.", tenants::money()),
        group("Webhooks", "Being told what happens to the money.", tenants::webhooks()),
        group("Operator", "Accounts, credit, prices, and a look at what runs.", operators::endpoints()),
        group("Server", "Whether it lives, and what it can do.", probes::endpoints()),
    ]
}

/// Adds all paths to an application.
pub fn configure(app: &mut ServiceConfig) {
    let mut by_path: Vec<(&str, Vec<Route>)> = Vec::new();
    for endpoint in table().into_iter().flat_map(|group| group.endpoints) {
        match by_path.iter_mut().find(|(path, _)| *path == endpoint.path) {
            Some((_, routes)) => routes.push(endpoint.route),
            None => by_path.push((endpoint.path, vec![endpoint.route])),
        }
    }
    for (path, routes) in by_path {
        app.service(routes.into_iter().fold(web::resource(path), Resource::route));
    }
    app.default_service(web::to(|| async { Err::<&str, _>(ApiError::from(Error::NotFound("this path"))) }));
}
