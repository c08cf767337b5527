//! OpenAI's chat completions.

pub mod answer;
pub mod chat;
pub mod describe;
pub mod error;
pub mod stream;
