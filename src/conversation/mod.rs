//! What a conversation is made of: plain data, without actix or diesel.

pub mod agent;
pub mod chunk;
pub mod history;
pub mod message;
pub mod opening;
pub mod outline;
pub mod reply;
pub mod shape;
pub mod summary;
pub mod tokens;
pub mod transcript;
pub mod turn;
pub mod usage;
