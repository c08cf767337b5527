//! Sealing the secrets that tenants entrust to the server: XChaCha20-Poly1305 with a random nonce.
//!
//! What a secret belongs to is sealed along, so that nobody who writes the database can put it elsewhere.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::id::fill_random;

/// Bytes of a key.
const KEY_LEN: usize = 32;
/// Bytes of a nonce: so many that random ones never meet.
const NONCE_LEN: usize = 24;
/// The first byte of what is sealed, in case there will be another form.
const FORM: u8 = 1;
/// Older keys that may be tried.
pub const MAX_OLD: usize = 8;

/// Seals with one key; opens with that and with older ones.
#[derive(Clone)]
pub struct Vault(Arc<Vec<XChaCha20Poly1305>>);

/// What a secret belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Belongs<'a> {
    /// The tenant.
    pub account: &'a str,
    /// The provider's name.
    pub name: &'a str,
    /// Where it may be sent.
    pub base_url: Option<&'a str>,
}

impl Belongs<'_> {
    fn bytes(&self) -> Vec<u8> {
        // Lengths first, so that no two owners look the same.
        let parts = [self.account, self.name, self.base_url.unwrap_or_default()];
        let framed = parts.iter().flat_map(|part| {
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes();
            length.into_iter().chain(part.bytes())
        });
        framed.chain([u8::from(self.base_url.is_some())]).collect()
    }
}

/// A secret that was opened.
pub struct Opened {
    /// The secret.
    pub secret: SecretString,
    /// Whether an older key had sealed it.
    pub stale: bool,
}

impl Vault {
    /// Keys in base64, the one that seals in front.
    ///
    /// # Errors
    /// The place of a key that is not one.
    pub fn new(keys: &[SecretString]) -> Result<Self, usize> {
        let read = |(at, key): (usize, &SecretString)| {
            let bytes = Zeroizing::new(STANDARD.decode(key.expose_secret().trim()).map_err(|_| at)?);
            if bytes.len() == KEY_LEN {
                XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| at)
            } else {
                Err(at)
            }
        };
        let keys: Vec<_> = keys.iter().enumerate().map(read).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(0) } else { Ok(Self(Arc::new(keys))) }
    }

    /// Seals a secret; `None` if it is too large for that.
    pub fn seal(&self, belongs: Belongs<'_>, secret: &SecretString) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce);
        let payload = Payload { msg: secret.expose_secret().as_bytes(), aad: &belongs.bytes() };
        let sealed = self.0.first()?.encrypt(XNonce::from_slice(&nonce), payload).ok()?;
        Some([&[FORM][..], &nonce, &sealed].concat())
    }

    /// Opens what was sealed; `None` if no key fits, or it belongs elsewhere.
    pub fn open(&self, belongs: Belongs<'_>, sealed: &[u8]) -> Option<Opened> {
        let (form, rest) = sealed.split_first()?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
        if *form != FORM {
            return None;
        }
        let aad = belongs.bytes();
        let open = |(at, key): (usize, &XChaCha20Poly1305)| {
            let payload = Payload { msg: text, aad: &aad };
            let bytes = key.decrypt(XNonce::from_slice(nonce), payload).ok()?;
            Some(Opened { secret: String::from_utf8(bytes).ok()?.into(), stale: at > 0 })
        };
        self.0.iter().enumerate().find_map(open)
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Vault(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BELONGS: Belongs<'static> =
        Belongs { account: "acct_1", name: "mine", base_url: Some("https://example.com") };

    fn key(byte: u8) -> SecretString {
        STANDARD.encode([byte; KEY_LEN]).into()
    }

    fn vault(keys: &[u8]) -> Vault {
        Vault::new(&keys.iter().map(|byte| key(*byte)).collect::<Vec<_>>()).expect("keys")
    }

    fn text(opened: Option<Opened>) -> Option<String> {
        opened.map(|opened| opened.secret.expose_secret().to_owned())
    }

    #[test]
    fn what_was_sealed_opens_and_shows_nothing() {
        let sealed = vault(&[1]).seal(BELONGS, &"the-tenant-s-key".into()).expect("sealed");
        assert!(!sealed.windows(6).any(|window| window == b"tenant"));
        assert_eq!(text(vault(&[1]).open(BELONGS, &sealed)).as_deref(), Some("the-tenant-s-key"));
        let again = vault(&[1]).seal(BELONGS, &"the-tenant-s-key".into()).expect("sealed");
        assert_ne!(sealed, again, "another nonce each time");
    }

    #[test]
    fn it_does_not_open_elsewhere_or_when_it_was_changed() {
        let vault = vault(&[1]);
        let mut sealed = vault.seal(BELONGS, &"secret".into()).expect("sealed");
        for elsewhere in [
            Belongs { account: "acct_2", ..BELONGS },
            Belongs { name: "other", ..BELONGS },
            Belongs { base_url: None, ..BELONGS },
            Belongs { base_url: Some("https://evil.example"), ..BELONGS },
            Belongs { account: "acct_1m", name: "ine", ..BELONGS },
        ] {
            assert!(vault.open(elsewhere, &sealed).is_none(), "{elsewhere:?}");
        }
        *sealed.last_mut().expect("bytes") ^= 1;
        assert!(vault.open(BELONGS, &sealed).is_none());
        for cut in [0, 1, 20, 25] {
            assert!(vault.open(BELONGS, &sealed[..cut]).is_none());
        }
    }

    #[test]
    fn older_keys_open_and_the_newest_seals() {
        let sealed = vault(&[1]).seal(BELONGS, &"secret".into()).expect("sealed");
        let opened = vault(&[2, 1]).open(BELONGS, &sealed).expect("opened");
        assert!(opened.stale);
        let renewed = vault(&[2, 1]).seal(BELONGS, &opened.secret).expect("sealed");
        assert!(vault(&[2]).open(BELONGS, &renewed).is_some_and(|opened| !opened.stale));
        assert!(vault(&[2]).open(BELONGS, &sealed).is_none());
    }

    #[test]
    fn a_key_that_is_none_is_named_by_its_place() {
        assert_eq!(Vault::new(&[key(1), "short".into()]).err(), Some(1));
        assert_eq!(Vault::new(&[STANDARD.encode([1; 31]).into()]).err(), Some(0));
        assert_eq!(Vault::new(&[]).err(), Some(0));
    }
}
