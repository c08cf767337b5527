//! The port: plain, or with TLS.
//!
//! actix-web's own TLS listener offers HTTP/2 as soon as any crate of the program has it compiled in, and it notices
//! a client that leaves only with HTTP/1.1. So the TLS listener is put together here, of the same parts, and what it
//! offers is decided by [`Certificate::settings`].

use std::fmt::Debug;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Protocol, Request, Response};
use actix_server::Server;
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, map_config};
use actix_tls::accept::TlsError;
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Service};
use actix_web::{Error, HttpServer};
use tokio::net::{TcpSocket, TcpStream};

use crate::tls::Certificate;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 50_000;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 8_192;
/// How long a connection may stay without a request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a request's head may take.
const HEAD_WAIT: Duration = Duration::from_secs(5);
/// How long a connection that is being closed may take.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// How long a TLS handshake may take.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);
/// TLS handshakes of a worker at the same time.
const MAX_HANDSHAKES: usize = 1_024;
/// How long the last bytes may take to leave, in seconds.
const FLUSH_WAIT_S: u64 = 2;

/// Binds the port and serves `app` on it; where it was bound.
///
/// # Errors
/// When the port cannot be had.
pub fn listen<F, I, S, B>(
    app: F,
    address: SocketAddr,
    certificate: Option<&Arc<Certificate>>,
) -> std::io::Result<(Server, SocketAddr)>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?.into_std()?;
    let bound = listener.local_addr()?;
    let server = match certificate {
        Some(certificate) => secured(app, listener, certificate)?,
        None => plain(app, listener)?,
    };
    Ok((server, bound))
}

fn plain<F, I, S, B>(app: F, listener: TcpListener) -> std::io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let server = HttpServer::new(app)
        .h1_allow_half_closed(false) // else a client that leaves a silent stream is never noticed
        .tcp_nodelay(true) // else a stream of small writes waits 40 ms for an acknowledgement
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_WAIT)
        .client_disconnect_timeout(CLOSE_WAIT)
        .max_connections(MAX_CONNECTIONS)
        .shutdown_timeout(FLUSH_WAIT_S)
        .disable_signals();
    Ok(server.listen(listener)?.run())
}

fn secured<F, I, S, B>(
    app: F,
    listener: TcpListener,
    certificate: &Arc<Certificate>,
) -> std::io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    actix_tls::accept::max_concurrent_tls_connect(MAX_HANDSHAKES);
    let mut acceptor = Acceptor::new(certificate.settings());
    acceptor.set_handshake_timeout(HANDSHAKE_WAIT);
    let builder = Server::build()
        .max_concurrent_connections(MAX_CONNECTIONS)
        .shutdown_timeout(FLUSH_WAIT_S)
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let service = move || {
        let app = app().into_factory().map_err(|cause| cause.into().error_response());
        let stopping = stopping.clone();
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .secure()
            .h1_allow_half_closed(false)
            .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
            .client_request_timeout(HEAD_WAIT)
            .client_disconnect_timeout(CLOSE_WAIT)
            .finish(map_config(app, |()| AppConfig::default()));
        acceptor
            .clone()
            .map_init_err(|()| ())
            .map_err(TlsError::into_service_error::<DispatchError>)
            .and_then(|stream: TlsStream<TcpStream>| async move {
                let (tcp, session) = stream.get_ref();
                let _ = tcp.set_nodelay(true);
                let spoken = match session.alpn_protocol() {
                    Some(b"h2") => Protocol::Http2,
                    _ => Protocol::Http1,
                };
                let peer = tcp.peer_addr().ok();
                Ok((stream, spoken, peer))
            })
            .and_then(http.map_err(TlsError::Service))
    };
    Ok(builder.listen("https", listener, service)?.run())
}
