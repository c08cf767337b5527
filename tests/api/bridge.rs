//! A TLS client for the tests: what comes to its own port goes through TLS to the server's, and back.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A forwarder that trusts one certificate and no other.
pub struct Bridge {
    /// Where it takes plain connections.
    pub addr: String,
}

fn connector(trusted: &CertificateDer<'static>, spoken: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let settings = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut settings =
        settings.expect("protocol versions").with_root_certificates(roots).with_no_client_auth();
    settings.alpn_protocols = spoken.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(settings))
}

async fn connect(addr: &str, connector: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    connector.connect(name, tcp).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// One handshake: what was agreed to be spoken, or why there is no connection.
pub fn handshake(
    addr: &str,
    trusted: &CertificateDer<'static>,
    spoken: &[&[u8]],
) -> io::Result<Option<Vec<u8>>> {
    runtime().block_on(async {
        let stream = connect(addr, &connector(trusted, spoken)).await?;
        Ok(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    })
}

impl Bridge {
    /// Forwards to a server that has to show this certificate.
    pub fn start(server: &str, trusted: &CertificateDer<'static>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address").to_string();
        listener.set_nonblocking(true).expect("a listener");
        let (server, connector) = (server.to_owned(), connector(trusted, &[b"http/1.1"]));
        std::thread::spawn(move || runtime().block_on(forward(listener, server, connector)));
        Self { addr }
    }
}

async fn forward(listener: TcpListener, server: String, connector: TlsConnector) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((mut plain, _)) = listener.accept().await {
        let _ = plain.set_nodelay(true);
        let (server, connector) = (server.clone(), connector.clone());
        tokio::spawn(async move {
            let Ok(mut secured) = connect(&server, &connector).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut plain, &mut secured).await;
        });
    }
}
