//! A tenant's own access to a provider.

use secrecy::SecretString;

use crate::clock::EpochMs;
use crate::id::AccountId;

/// A key that a tenant brought.
#[derive(Clone, Debug)]
pub struct Own {
    /// Whose.
    pub account: AccountId,
    /// What its agents put in front of a model's name.
    pub name: String,
    /// Where it is good for; `None` for one of the operator's providers, in the place of the operator's key.
    pub base_url: Option<String>,
    /// The key; `None` if it can be read no more.
    pub api_key: Option<SecretString>,
    /// When it was set: another key begins with a clean slate.
    pub since: EpochMs,
}
