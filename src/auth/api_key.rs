//! The secrets that clients send: their form, their digest, how they may be shown.

use sha2::{Digest as _, Sha256};

use crate::id::{base62, base62_number, is_base62};

/// Characters after the prefix.
const BODY: usize = 40;
/// Of these, the checksum.
const CHECKSUM: usize = 6;

/// What a key is for; its prefix tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Chat with one agent.
    Agent,
    /// Everything of one account.
    Account,
    /// The server itself.
    Operator,
}

impl KeyKind {
    /// What a key of this kind begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Agent => "ak_",
            Self::Account => "sk_",
            Self::Operator => "op_",
        }
    }

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Account => "account",
            Self::Operator => "operator",
        }
    }

    /// The kind of that word.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Agent, Self::Account, Self::Operator].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// SHA-256 of a secret: what is stored and looked up.
pub type Digest = [u8; 32];

/// A new secret. It is shown once and then only its digest is kept.
///
/// Prefix, 34 random characters, and the CRC-32 of all that in base62: a typo is found without the database.
pub fn generate(kind: KeyKind) -> String {
    let mut secret = format!("{}{}", kind.prefix(), base62(BODY - CHECKSUM));
    let checksum = base62_number(crc32fast::hash(secret.as_bytes()).into(), CHECKSUM);
    secret.push_str(&checksum);
    secret
}

/// The digest of a secret, if it is well formed.
pub fn check(secret: &str) -> Option<Digest> {
    let kinds = [KeyKind::Agent, KeyKind::Account, KeyKind::Operator];
    let body = kinds.iter().find_map(|kind| secret.strip_prefix(kind.prefix()))?;
    if body.len() != BODY || !body.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let (front, checksum) = secret.split_at(secret.len() - CHECKSUM);
    is_base62(checksum, crc32fast::hash(front.as_bytes()).into()).then(|| digest(secret))
}

/// SHA-256 of a secret.
pub fn digest(secret: &str) -> Digest {
    Sha256::digest(secret.as_bytes()).into()
}

/// The last four characters, which lists show.
pub fn last_four(secret: &str) -> &str {
    secret.get(secret.len().saturating_sub(4)..).unwrap_or_default()
}

/// A secret as a list shows it.
pub fn preview(kind: KeyKind, last_four: &str) -> String {
    format!("{}…{last_four}", kind.prefix())
}

/// What a client sent as its key, as an error may show it: the prefix alone, never the secret.
pub fn masked(sent: &str) -> String {
    let known = [KeyKind::Agent, KeyKind::Account, KeyKind::Operator];
    match known.iter().find(|kind| sent.starts_with(kind.prefix())) {
        Some(kind) => format!("{}…", kind.prefix()),
        None if sent.is_empty() => "(none)".to_owned(),
        None => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_key_is_well_formed() {
        for kind in [KeyKind::Agent, KeyKind::Account, KeyKind::Operator] {
            let secret = generate(kind);
            assert_eq!(secret.len(), 43);
            assert_eq!(check(&secret), Some(digest(&secret)));
        }
    }

    #[test]
    fn a_typo_is_found_without_the_database() {
        let secret = generate(KeyKind::Agent);
        for at in 3..secret.len() {
            let mut wrong = secret.clone().into_bytes();
            wrong[at] = if wrong[at] == b'x' { b'y' } else { b'x' };
            let wrong = String::from_utf8(wrong).expect("text");
            assert_eq!(check(&wrong), None, "{wrong}");
        }
        assert_eq!(check(&secret.replacen("ak_", "sk_", 1)), None);
        assert_eq!(check(""), None);
        assert_eq!(check("ak_…"), None);
    }

    #[test]
    fn an_error_does_not_show_the_secret() {
        let secret = generate(KeyKind::Account);
        assert_eq!(masked(&secret), "sk_…");
        assert_eq!(masked("sk-proj-somebody-elses"), "…");
    }
}
