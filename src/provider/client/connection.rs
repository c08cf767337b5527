//! One connection, plain or over TLS, which owns no buffer of its own: what comes is read into one that all connections
//! of the thread share.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_service::Service;
use actix_tls::connect::ConnectInfo;
use actix_tls::connect::rustls_0_23::reexports::{AsyncTlsStream, ClientConfig};
use actix_tls::connect::rustls_0_23::{TlsConnector, webpki_roots_cert_store};
use bytes::Buf;
use rustls::RootCertStore;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Unanswered;
use super::target::{Request, Target};
use crate::outbound::{self, Reach};

/// How much is read at once, in bytes.
const READ: usize = 16 * 1_024;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// How a client speaks TLS.
pub type Tls = fn() -> Arc<ClientConfig>;

/// The settings of all clients: whom the web trusts is trusted. Needs a crypto provider installed before.
pub fn tls() -> Arc<ClientConfig> {
    static SETTINGS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| trusting(webpki_roots_cert_store()));
    SETTINGS.clone()
}

/// Settings that trust these.
pub fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let mut settings = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(settings)
}

/// Both sides of a socket.
pub enum Connection {
    /// In the clear.
    Plain(TcpStream),
    /// Over TLS, whose state is large.
    Secure(Box<AsyncTlsStream<TcpStream>>),
}

impl Connection {
    /// Connects within `limit`, and shakes hands within another one.
    pub async fn open(target: &Target, reach: Reach, limit: Duration, tls: Tls) -> Result<Self, Unanswered> {
        let connecting = outbound::connect(ConnectInfo::new(target.uri().clone()), reach);
        let connection =
            timeout(limit, connecting).await.map_err(|_| Unanswered::unreached("no connection in time"))?;
        let connection = connection.map_err(Unanswered::unreached)?;
        // Without TCP_NODELAY a small write may wait 40 ms for an acknowledgement.
        if let Err(cause) = connection.io_ref().set_nodelay(true) {
            tracing::debug!(%cause, "TCP_NODELAY could not be set");
        }
        if !target.secure() {
            return Ok(Self::Plain(connection.into_parts().0));
        }
        let shaking = TlsConnector::service(tls()).call(connection);
        let secured =
            timeout(limit, shaking).await.map_err(|_| Unanswered::unreached("no handshake in time"))?;
        let secured = secured.map_err(Unanswered::unreached)?;
        Ok(Self::Secure(Box::new(secured.into_parts().0)))
    }

    /// Writes all of a request, of which nothing is kept.
    pub async fn write(&mut self, request: Request) -> io::Result<()> {
        let mut parts = request.head.chain(request.body);
        match self {
            Self::Plain(stream) => stream.write_all_buf(&mut parts).await,
            Self::Secure(stream) => {
                stream.write_all_buf(&mut parts).await?;
                stream.flush().await
            }
        }
    }

    /// Gives what has come to `take`, nothing at the end of the connection.
    pub fn poll_read<R>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> R,
    ) -> Poll<io::Result<R>> {
        SHARED.with_borrow_mut(|shared| {
            let mut buffer = ReadBuf::new(shared);
            ready!(self.poll_into(cx, &mut buffer))?;
            Poll::Ready(Ok(take(buffer.filled())))
        })
    }

    /// The same, waited for.
    pub async fn read<R>(&mut self, mut take: impl FnMut(&[u8]) -> R) -> io::Result<R> {
        poll_fn(|cx| self.poll_read(cx, &mut take)).await
    }

    /// Whether nothing has come since the last answer, not even the end.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        self.poll_into(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte)).is_pending()
    }

    fn poll_into(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl Drop for Connection {
    /// Says goodbye where that is custom, and does not wait for it.
    fn drop(&mut self) {
        if let Self::Secure(stream) = self {
            let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}
