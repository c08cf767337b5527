//! The management API: tenants on their own things, the operator on all of them.

pub mod account;
pub mod agents;
pub mod audit_log;
pub mod billing;
pub mod branches;
pub mod export;
pub mod health;
pub mod keys;
pub mod operator;
pub mod own_providers;
pub mod prices;
pub mod sessions;
pub mod webhooks;
