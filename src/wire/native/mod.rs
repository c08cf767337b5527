//! Switchboard's own dialect, and the objects of its management API.

pub mod audit_log;
pub mod explain;
pub mod ledger;
pub mod messages;
pub mod objects;
pub mod providers;
pub mod requests;
pub mod stream;
pub mod values;
