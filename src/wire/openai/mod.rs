//! OpenAI's chat completions.

pub mod chat;
pub mod error;
pub mod stream;
