//! The API over a real port, with the real binary and a scripted provider behind it.

mod app;
mod client;
mod connection;
mod script;
mod upstream;

mod agent_parameters;
mod agent_route;
mod agents;
mod audit;
mod books;
mod chat_completions;
mod chat_streams;
mod cheats;
mod clock;
mod configuration;
mod connections;
mod crash_load;
#[cfg(debug_assertions)]
mod crash_matrix;
mod crash_moments;
mod crashes;
mod database;
mod disconnect_matrix;
mod disconnects;
mod docs;
mod errors;
mod errors_of_limits;
mod errors_of_providers;
#[cfg(debug_assertions)]
mod failpoints;
mod fidelity;
mod fidelity_answers;
mod idempotency;
mod keys;
mod large_answers;
mod ledger_reads;
mod lifecycle;
mod limits;
mod management;
mod metrics;
mod money;
mod native;
mod openapi;
mod operator;
mod provider_faults;
mod provider_request;
mod recognition;
mod session_lifetime;
mod session_queue;
mod session_records;
mod sessions;
mod store_faults;
mod timeouts;
mod webhooks;
