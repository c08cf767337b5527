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
mod chat_completions;
mod chat_streams;
mod cheats;
mod configuration;
mod connections;
mod crashes;
mod disconnects;
mod errors;
mod errors_of_limits;
mod errors_of_providers;
mod idempotency;
mod keys;
mod large_answers;
mod ledger_reads;
mod lifecycle;
mod limits;
mod management;
mod money;
mod native;
mod operator;
mod provider_request;
mod session_lifetime;
mod session_queue;
mod session_records;
mod sessions;
mod timeouts;
