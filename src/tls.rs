//! The server's own certificate: read from two PEM files, and read again when they change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often it is looked whether the files have changed.
const POLL: Duration = Duration::from_secs(5);

/// Where the certificate and its key lie, and what is spoken over them.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, and those between it and its root after it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
}

/// What a file is known by, without reading it.
type Print = Option<(u64, u64, i64, i64)>;

fn print(file: &Path) -> Print {
    let data = std::fs::metadata(file).ok()?;
    Some((data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

impl TlsFiles {
    /// Reads the pair.
    ///
    /// # Errors
    /// Names the file that cannot be read, or says that they do not belong together.
    pub fn load(&self) -> Result<CertifiedKey, String> {
        let certs = CertificateDer::pem_file_iter(&self.cert).and_then(Iterator::collect);
        let certs: Vec<_> = certs.map_err(|cause| format!("tls_cert: {}: {cause}", self.cert.display()))?;
        if certs.is_empty() {
            return Err(format!("tls_cert: {}: expected a certificate in PEM", self.cert.display()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|cause| format!("tls_key: {}: {cause}", self.key.display()))?;
        CertifiedKey::from_der(certs, key, &ring::default_provider())
            .map_err(|cause| format!("tls_cert and tls_key: {cause}"))
    }

    fn prints(&self) -> [Print; 2] {
        [print(&self.cert), print(&self.key)]
    }
}

/// The certificate that is shown to clients now.
#[derive(Debug)]
pub struct Certificate {
    files: TlsFiles,
    shown: RwLock<Arc<CertifiedKey>>,
    read_at: RwLock<[Print; 2]>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Certificate {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// As [`TlsFiles::load`].
    pub fn open(files: TlsFiles) -> Result<Arc<Self>, String> {
        // What is noted first can only be too old, and then the files are read once more.
        let read_at = RwLock::new(files.prints());
        let shown = RwLock::new(Arc::new(files.load()?));
        Ok(Arc::new(Self { files, shown, read_at }))
    }

    /// How connections are secured: with this certificate, whichever it is then.
    pub fn settings(self: &Arc<Self>) -> ServerConfig {
        let settings = ServerConfig::builder().with_no_client_auth();
        let mut settings = settings.with_cert_resolver(self.clone());
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        if self.files.http2 {
            settings.alpn_protocols.insert(0, b"h2".to_vec());
        }
        settings
    }

    /// Reads the files again whenever they have changed, and at SIGHUP, until dropped. A pair that cannot be used
    /// changes nothing. From this call on, before the first poll, SIGHUP no longer ends the process.
    ///
    /// # Errors
    /// When the signal cannot be listened for.
    pub fn watch(self: Arc<Self>) -> std::io::Result<impl Future<Output = ()>> {
        let hangup = signal(SignalKind::hangup())?;
        Ok(self.read_again_and_again(hangup))
    }

    async fn read_again_and_again(self: Arc<Self>, mut hangup: Signal) {
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(POLL) => false,
                heard = hangup.recv() => heard.is_some(),
            };
            let prints = self.files.prints();
            let known =
                std::mem::replace(&mut *self.read_at.write().unwrap_or_else(PoisonError::into_inner), prints);
            if asked || prints != known {
                self.renew();
            }
        }
    }

    fn renew(&self) {
        match self.files.load() {
            Ok(new) => {
                *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                tracing::info!("the certificate was read again");
            }
            Err(cause) => tracing::error!(%cause, "the former certificate stays in use"),
        }
    }
}
