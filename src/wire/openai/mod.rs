//! OpenAI's chat completions.

pub mod chat;
pub mod describe;
pub mod error;
pub mod stream;
