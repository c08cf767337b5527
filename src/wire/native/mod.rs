//! Switchboard's own dialect, and the objects of its management API.

pub mod explain;
pub mod objects;
pub mod stream;
