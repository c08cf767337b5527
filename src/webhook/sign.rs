//! Secrets and signatures, in the manner of Standard Webhooks.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::bootstrap;
use crate::id::fill_random;

/// Where the key lies that all secrets of webhooks follow from.
pub const KEY_FILE: &str = "webhook.key";
/// Bytes of that key, and of each secret.
const KEY_LEN: usize = 32;

/// The key that all secrets of webhooks follow from, so that the database has none of them.
#[derive(Clone)]
pub struct ServerKey(Arc<Zeroizing<[u8; KEY_LEN]>>);

impl ServerKey {
    /// Reads the key from the data directory, or makes it; and whether it was made.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn load(data: &Path) -> anyhow::Result<(Self, bool)> {
        let file = data.join(KEY_FILE);
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let text = Zeroizing::new(text);
                let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
                let bytes = bytes.with_context(|| {
                    format!("{} is damaged: expected {KEY_LEN} bytes in base64", file.display())
                })?;
                Ok((Self(Arc::new(Zeroizing::new(bytes))), false))
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = Zeroizing::new([0; KEY_LEN]);
                fill_random(&mut *bytes);
                bootstrap::write_secret(&file, &Zeroizing::new(STANDARD.encode(*bytes)))?;
                Ok((Self(Arc::new(bytes)), true))
            }
            Err(cause) => Err(cause).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// The secret of a webhook.
    pub fn secret(&self, webhook: &str) -> Secret {
        Secret(*blake3::keyed_hash(&self.0, webhook.as_bytes()).as_bytes())
    }
}

/// What a webhook's requests are signed with.
pub struct Secret([u8; KEY_LEN]);

impl Secret {
    /// As its owner is told it, once.
    pub fn reveal(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.0))
    }

    /// The value of `webhook-signature`. `timestamp` is in Unix seconds.
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standard() {
        // The example of the Standard Webhooks specification's reference libraries.
        let bytes = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let mut padded = [0; KEY_LEN];
        // HMAC pads short keys with zeros, so this is the same key.
        padded[..bytes.len()].copy_from_slice(&bytes);
        let signed =
            Secret(padded).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_key_is_made_once_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let (key, made) = ServerKey::load(dir.path()).expect("a new key");
        let (again, made_again) = ServerKey::load(dir.path()).expect("the same key");
        assert!(made && !made_again);
        assert_eq!(key.secret("wh_1").reveal(), again.secret("wh_1").reveal());
        assert_ne!(key.secret("wh_1").reveal(), key.secret("wh_2").reveal());
        let file = dir.path().join(KEY_FILE);
        let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&file, "c2hvcnQ=\n").expect("a damaged file");
        assert!(ServerKey::load(dir.path()).is_err());
    }
}
