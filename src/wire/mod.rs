//! What goes over the wire: reading requests, writing answers. No I/O, no decisions.

pub mod native;
pub mod openai;
pub mod sse;
pub mod template;
