//! Who calls: keys, what they are allowed, and how they are looked up.

pub mod api_key;
pub mod attempts;
pub mod caller;
pub mod keyring;
pub mod vault;
