//! Switchboard hosts AI agents for many tenants behind an OpenAI-compatible API.
//!
//! A request is a straight line. [`http`] reads it, [`admission`] lets it in, [`session`] gives it its turn,
//! [`billing`] sets aside what it may cost, [`provider`] answers it, the session streams the answer back, and
//! one transaction of [`store`] charges it and keeps it. [`webhook`] tells the account what it has to know of that.
//!
//! Dependencies point down that line; [`conversation`], [`json`], [`id`] and [`clock`] are plain data below all.
//! [`server`] starts the actors and hands out the handles, [`config`] is read once, [`error`] says what can go
//! wrong, [`metrics`] counts, [`wire`] knows the dialects and [`cli`] is the client of the management API.

pub mod admission;
pub mod agents;
pub mod auth;
pub mod billing;
pub mod bookcheck;
pub mod bootstrap;
pub mod budget;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conversation;
pub mod credentials;
pub mod error;
pub mod failpoint;
pub mod http;
pub mod id;
pub mod json;
pub mod metrics;
pub mod outbound;
pub mod pressure;
pub mod provider;
pub mod rate_limit;
pub mod read_through;
pub mod retention;
pub mod server;
pub mod session;
pub mod store;
pub mod tls;
pub mod webhook;
pub mod wire;
