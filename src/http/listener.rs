//! The port, plain or with TLS: who may connect, and what is answered before a request has its handler.
//!
//! actix-web's own listener offers HTTP/2 over TLS as soon as any crate of the program has it compiled in, and bounds
//! less than has to be bounded. So the listener is put together here, of the same parts: connections are
//! [`Socket`]s, and what TLS offers is decided by [`Certificate::settings`].

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpMessage, HttpService, KeepAlive, Protocol, Request, Response};
use actix_server::{GracefulShutdownSignal, Server, ServerBuilder};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Service};
use actix_web::http::StatusCode;
use actix_web::{ResponseError, web};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::auth::keyring::Keyring;
use crate::error::Error;
use crate::http::error::ApiError;
use crate::http::socket::{LINGER, Patience, Socket, refusal};
use crate::http::{HttpSettings, access, body, edge, peer};
use crate::tls::Certificate;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 8_192;
/// How long a TLS handshake may take.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);
/// TLS handshakes of a worker at the same time.
const MAX_HANDSHAKES: usize = 1_024;
/// How long the last bytes may take to leave, in seconds.
const FLUSH_WAIT_S: u64 = 2;
/// Connections that are one too many and are told so at the same time; others are just closed.
const DOORSTEP: usize = 256;
/// What actix-http's own times have on top of ours, which are for HTTP/1.1: it keeps those of HTTP/2.
const LATER: Duration = Duration::from_secs(1);
/// Paths below these take a key.
const KEYED: [&str; 3] = ["/v1/", "/v2/", "/admin/"];

/// The connections of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Places {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// A connection's place among them, given back when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Places {
    /// So many.
    pub fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    fn take(&self) -> Option<Place> {
        let more = |taken: usize| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(self.taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a port needs beside its application.
#[derive(Clone)]
pub struct Port {
    /// Where.
    pub address: SocketAddr,
    /// How many connections.
    pub places: Places,
    /// How long clients are waited for.
    pub patience: Patience,
    /// What requests may be.
    pub settings: web::Data<HttpSettings>,
    /// Whose.
    pub keyring: web::Data<Keyring>,
    /// How they are encrypted, if they are.
    pub certificate: Option<Arc<Certificate>>,
}

/// Binds the port and serves `app` on it; where it was bound.
///
/// # Errors
/// When the port cannot be had.
pub fn listen<F, I, S, B>(app: F, port: &Port) -> io::Result<(Server, SocketAddr)>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let socket = if port.address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    socket.bind(port.address)?;
    let listener = socket.listen(BACKLOG)?.into_std()?;
    let bound = listener.local_addr()?;
    // The places are the bound.
    let builder = Server::build()
        .max_concurrent_connections(usize::MAX)
        .shutdown_timeout(FLUSH_WAIT_S)
        .disable_signals();
    let server = match &port.certificate {
        Some(certificate) => secured(app, builder, listener, port, certificate)?,
        None => plain(app, builder, listener, port)?,
    };
    Ok((server, bound))
}

fn plain<F, I, S, B>(app: F, builder: ServerBuilder, listener: TcpListener, port: &Port) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let stopping = builder.graceful_shutdown_signal();
    let (port, doorstep) = (port.clone(), Places::new(DOORSTEP));
    let service = move || {
        let (http, door) = (http(app(), &port, &stopping), Door::new(&port, &doorstep));
        fn_service(move |stream: TcpStream| {
            let (door, peer) = (door.clone(), stream.peer_addr().ok());
            // Else a stream of small writes waits 40 ms for an acknowledgement.
            let _ = stream.set_nodelay(true);
            async move {
                let socket = door.enter(stream, true).await.ok_or(())?;
                Ok((socket, Protocol::Http1, peer))
            }
        })
        .and_then(http.map_err(drop))
    };
    Ok(builder.listen("http", listener, service)?.run())
}

fn secured<F, I, S, B>(
    app: F,
    builder: ServerBuilder,
    listener: TcpListener,
    port: &Port,
    certificate: &Arc<Certificate>,
) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    actix_tls::accept::max_concurrent_tls_connect(MAX_HANDSHAKES);
    let mut acceptor = Acceptor::new(certificate.settings());
    acceptor.set_handshake_timeout(HANDSHAKE_WAIT);
    let stopping = builder.graceful_shutdown_signal();
    let (port, doorstep) = (port.clone(), Places::new(DOORSTEP));
    let service = move || {
        let (http, door) = (http(app(), &port, &stopping), Door::new(&port, &doorstep));
        acceptor
            .clone()
            .map_init_err(|()| ())
            .map_err(drop)
            .and_then(move |stream: TlsStream<TcpStream>| {
                let door = door.clone();
                async move {
                    let (tcp, session) = stream.get_ref();
                    let _ = tcp.set_nodelay(true);
                    let spoken = match session.alpn_protocol() {
                        Some(b"h2") => Protocol::Http2,
                        _ => Protocol::Http1,
                    };
                    let peer = tcp.peer_addr().ok();
                    // Requests of HTTP/2 come side by side: it has flow control, and bounds of its own.
                    let socket = door.enter(stream, spoken == Protocol::Http1).await.ok_or(())?;
                    Ok((socket, spoken, peer))
                }
            })
            .and_then(http.map_err(drop))
    };
    Ok(builder.listen("https", listener, service)?.run())
}

/// What speaks HTTP on a connection.
fn http<T, I, S, B>(
    app: I,
    port: &Port,
    stopping: &GracefulShutdownSignal,
) -> impl ServiceFactory<
    (Socket<T>, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
> + use<T, I, S, B>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let (settings, keyring) = (port.settings.clone(), port.keyring.clone());
    let stopping = stopping.clone();
    let app = app.into_factory().map_err(|cause| cause.into().error_response());
    let http = HttpService::build()
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        })
        .h1_allow_half_closed(false) // else a client that leaves a silent stream is never noticed
        .keep_alive(KeepAlive::Timeout(port.patience.keep_alive + LATER))
        .client_request_timeout(port.patience.head + LATER)
        .client_disconnect_timeout(LINGER)
        .expect(fn_service(move |request: Request| expected(request, settings.clone(), keyring.clone())))
        .on_connect_ext(|socket: &Socket<T>, data| {
            if let Some(line) = socket.line() {
                data.insert(line.clone());
            }
        });
    let http = if port.certificate.is_some() { http.secure() } else { http };
    http.finish(map_config(app, |()| AppConfig::default()))
}

/// Lets connections in.
#[derive(Clone)]
struct Door {
    places: Places,
    doorstep: Places,
    patience: Patience,
}

impl Door {
    fn new(port: &Port, doorstep: &Places) -> Self {
        Self { places: port.places.clone(), doorstep: doorstep.clone(), patience: port.patience }
    }

    /// Tells one connection too many so, and gives it the time to read that, if not too many are there for this.
    async fn enter<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: T,
        bounded: bool,
    ) -> Option<Socket<T>> {
        if let Some(place) = self.places.take() {
            return Some(Socket::new(stream, self.patience, place, bounded));
        }
        let _place = self.doorstep.take()?;
        let text = refusal(StatusCode::SERVICE_UNAVAILABLE, "overloaded", &Error::Overloaded.to_string());
        let told = async {
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        // It is closed in any case.
        let _ = timeout(LINGER, told).await;
        None
    }
}

/// A client that asks before it sends a body hears what the head of its request is answered with in any case.
async fn expected(
    request: Request,
    settings: web::Data<HttpSettings>,
    keyring: web::Data<Keyring>,
) -> Result<Request, Response<BoxBody>> {
    if !KEYED.iter().any(|prefix| request.path().starts_with(prefix)) {
        return Ok(request);
    }
    let headers = request.headers();
    let from = request.peer_addr().map(|peer| peer::client_of(peer, headers, &settings.proxies));
    let known = match keyring.find(access::bearer(headers), from).await {
        Ok(_) => body::check_head(headers, settings.max_body),
        Err(error) => Err(error),
    };
    known.map(|()| request).map_err(|error| {
        let mut answer = ApiError::from(error).error_response();
        edge::name(answer.headers_mut());
        answer.into()
    })
}
