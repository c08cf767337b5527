//! Starts the actors, hands out the handles, shuts down in order.

use std::fs::{DirBuilder, File};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Arbiter;
use actix_cors::Cors;
use actix_web::dev::ServerHandle;
use actix_web::middleware::{Condition, from_fn};
use actix_web::{App, web};
use anyhow::Context;
use futures_util::future::select_all;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::admission::Admission;
use crate::agents::Agents;
use crate::auth::keyring::Keyring;
use crate::billing::Billing;
use crate::billing::price::PriceBook;
use crate::bookcheck;
use crate::bootstrap::{self, Bootstrap};
use crate::budget::Budget;
use crate::clock;
use crate::config::Config;
use crate::conversation::tokens::Ratios;
use crate::credentials::Credentials;
use crate::error::Stop;
use crate::http::listener::{self, Places, Port};
use crate::http::socket::Patience;
use crate::http::{self, HttpSettings, intake};
use crate::metrics;
use crate::pressure::Pressure;
use crate::provider::Routes;
use crate::rate_limit::RateLimits;
use crate::retention;
use crate::session::turns::Turns;
use crate::session::{Rooms, Sessions};
use crate::store::connection;
use crate::store::writer::Writer;
use crate::store::{self, Store};
use crate::tls::Certificate;
use crate::webhook::Webhooks;

/// Open files that are not connections of clients: the database, the log, some connections to providers.
const OWN_FILES: usize = 128;
/// How long turns that were told to end may take to settle.
const SETTLE_WAIT: Duration = Duration::from_secs(10);

/// Everything that runs, and what ends it.
struct Server {
    store: Store,
    billing: Billing,
    sessions: Sessions,
    webhooks: Webhooks,
    admission: Admission,
    keyring: Keyring,
    agents: Agents,
    routes: Routes,
    credentials: Credentials,
    bodies: Budget,
    epoch: i64,
    writer_thread: std::thread::JoinHandle<()>,
    /// Each resolves when a shared actor or the writer is gone.
    vital: Vec<oneshot::Receiver<()>>,
    _arbiters: [Arbiter; 3],
    _lock: File,
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// When it cannot start, or a part that it cannot do without is gone.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let started = Instant::now();
    actix::System::new().block_on(async move {
        let mut server = start(config).await?;
        let priced = bootstrap::price_models(&server.store, &server.billing, &server.routes).await?;
        let bootstrap = bootstrap::run(&server.store, &config.data).await?;
        if config.new_operator_token && bootstrap.secrets.is_none() {
            bootstrap::renew_operator(&server.store, &config.data).await?;
            println!("New operator token: see {}", config.data.join(bootstrap::OPERATOR_FILE).display());
        }
        let settings = HttpSettings {
            max_body: config.intake.max_body,
            bodies: server.bodies.clone(),
            body_timeout: config.intake.body_timeout,
            metrics_public: config.metrics_public,
            proxies: config.proxies.clone(),
            started,
        };
        let certificate =
            config.tls.clone().map(Certificate::open).transpose().map_err(anyhow::Error::msg)?;
        let (listener, address) = listen(config, &server, settings, certificate.as_ref())?;
        let handle = listener.handle();
        let listening = actix::spawn(listener);
        let bookcheck =
            bookcheck::watch(server.store.clone(), server.keyring.clone(), config.verify_interval);
        let bookcheck = actix::spawn(bookcheck);
        let sweep = actix::spawn(server.sessions.turns().clone().watch());
        let pressure = actix::spawn(server.admission.pressure().clone().watch());
        let retention = actix::spawn(retention::watch(server.store.clone(), server.sessions.clone()));
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let renewal = certificate.map(Certificate::watch).transpose()?.map(actix::spawn);
        announce(config, &bootstrap, &format!("{scheme}://{address}"), &priced)?;
        tracing::info!(%address, ready_ms = started.elapsed().as_millis(), "ready");
        let end = wait_for_end(std::mem::take(&mut server.vital)).await;
        bookcheck.abort();
        sweep.abort();
        pressure.abort();
        retention.abort();
        if let Some(renewal) = renewal {
            renewal.abort();
        }
        shut_down(server, &handle, config.shutdown_timeout).await?;
        drop(listening.await);
        end
    })
}

/// Opens the store, closes what an earlier run left open, starts the actors.
async fn start(config: &Config) -> anyhow::Result<Server> {
    let lock = lock(&config.data)?;
    let file = connection::database_file(&config.data);
    let mut conn = connection::open_writer(&file)?;
    let now = clock::now_ms();
    let recovered = conn
        .immediate_transaction(|conn| store::hold::recover(conn, now))
        .map_err(|cause| anyhow::anyhow!("closing the holds of an earlier run: {cause:?}"))?;
    crate::failpoint::hit("recovery committed");
    if recovered != store::hold::Recovered::default() {
        let (settled, released) = (recovered.settled, recovered.released);
        tracing::warn!(settled, released, "holds of an earlier run were closed");
    }
    let node = format!("pid {}", std::process::id());
    let epoch = conn.immediate_transaction(|conn| store::epoch::begin(conn, &node, now))?;
    let prices = PriceBook::default();
    for price in store::price::all(&mut conn)? {
        prices.add(price);
    }
    let webhooks_in_use = store::webhook::any(&mut conn)?;
    let mut vital = Vec::new();
    let mut gone = || {
        let (sender, receiver) = oneshot::channel();
        vital.push(receiver);
        sender
    };
    let (writer, writer_thread) = Writer::start(conn, gone()).context("starting the writer")?;
    writer.watch_epoch(epoch);
    let store = Store::new(connection::open_readers(&file)?, writer);
    let (money, upkeep, outside) = (Arbiter::new(), Arbiter::new(), Arbiter::new());
    let billing = Billing::start(&money.handle(), store.clone(), prices, epoch, gone());
    let limits = RateLimits::start(&upkeep.handle(), config.max_turns, gone());
    let secrets = (config.data.as_path(), webhooks_in_use);
    let webhooks = Webhooks::start(&outside.handle(), store.clone(), secrets, config.webhooks, gone())?;
    let routes = Routes::new(config.providers.clone(), config.policy);
    let credentials = Credentials::load(store.clone(), config.vault.clone()).await?;
    let bodies = Budget::new(config.intake.body_memory);
    let keyring = Keyring::new(store.clone(), config.default_limits, config.failed_logins);
    let pressure = Pressure::new(config.intake.max_start_wait);
    let rooms = Rooms {
        pressure: pressure.clone(),
        keyring: keyring.clone(),
        routes: routes.clone(),
        credentials: credentials.clone(),
        store: store.clone(),
        billing: billing.clone(),
        turns: Turns::new(config.replay_buffer),
        ratios: Ratios::default(),
        bodies: bodies.clone(),
        kept: Budget::new(config.session_memory),
    };
    let sessions = Sessions::start(&upkeep.handle(), rooms, config.session_idle, gone());
    Ok(Server {
        keyring,
        agents: Agents::new(store.clone()),
        admission: Admission::new(limits, pressure),
        store,
        billing,
        sessions,
        webhooks,
        routes,
        credentials,
        bodies,
        epoch,
        writer_thread,
        vital,
        _arbiters: [money, upkeep, outside],
        _lock: lock,
    })
}

/// One server a data directory.
fn lock(data: &Path) -> anyhow::Result<File> {
    // Conversations are nobody else's business.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.with_context(|| format!("making the data directory {}", data.display()))?;
    let file = File::create(data.join("lock")).context("making the lock file of the data directory")?;
    file.try_lock().with_context(|| format!("another server uses the data directory {}", data.display()))?;
    Ok(file)
}

fn listen(
    config: &Config,
    server: &Server,
    settings: HttpSettings,
    certificate: Option<&Arc<Certificate>>,
) -> anyhow::Result<(actix_web::dev::Server, SocketAddr)> {
    let origins = config.cors_origins.clone();
    let settings = web::Data::new(settings);
    let store = web::Data::new(server.store.clone());
    let billing = web::Data::new(server.billing.clone());
    let sessions = web::Data::new(server.sessions.clone());
    let webhooks = web::Data::new(server.webhooks.clone());
    let admission = web::Data::new(server.admission.clone());
    let keyring = web::Data::new(server.keyring.clone());
    let agents = web::Data::new(server.agents.clone());
    let routes = web::Data::new(server.routes.clone());
    let credentials = web::Data::new(server.credentials.clone());
    let port = Port {
        address: config.listen,
        places: Places::new(places(config.intake.max_connections)),
        patience: Patience {
            head: config.intake.head_timeout,
            keep_alive: config.intake.keep_alive,
            stall: config.intake.stall_timeout,
        },
        settings: settings.clone(),
        keyring: keyring.clone(),
        certificate: certificate.cloned(),
    };
    let pressure = server.admission.pressure().clone();
    let app = move || {
        sessions.prepare();
        actix::spawn(pressure.clone().beat());
        App::new()
            .app_data(settings.clone())
            .app_data(store.clone())
            .app_data(billing.clone())
            .app_data(sessions.clone())
            .app_data(webhooks.clone())
            .app_data(admission.clone())
            .app_data(keyring.clone())
            .app_data(agents.clone())
            .app_data(routes.clone())
            .app_data(credentials.clone())
            .wrap(Condition::new(!origins.is_empty(), cors(&origins)))
            .wrap(from_fn(http::trace))
            .wrap(from_fn(intake::watch))
            .configure(http::configure)
    };
    listener::listen(app, &port).with_context(|| format!("listening on {}", config.listen))
}

/// How many connections there may be: each takes a file descriptor, and some are needed for the rest.
fn places(wanted: usize) -> usize {
    let files = metrics::max_open_files().and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let places = wanted.min(files.saturating_sub(OWN_FILES).max(1));
    if places < wanted {
        tracing::warn!(files, places, "the limit of open files allows for fewer connections than configured");
    }
    places
}

fn cors(origins: &[String]) -> Cors {
    let exposed = [
        "x-request-id",
        "x-session-id",
        "x-completion-id",
        "x-history-matched",
        "x-context-dropped",
        "x-max-completion-tokens",
        "x-served-model",
        "idempotent-replayed",
        "retry-after",
        "x-should-retry",
        "openai-processing-ms",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "www-authenticate",
    ];
    let cors = Cors::default()
        .allowed_methods(["GET", "POST", "PUT", "PATCH", "DELETE"])
        .allow_any_header()
        .expose_headers(exposed)
        .max_age(3_600);
    origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
}

/// Tells people and programs that the server is there.
fn announce(config: &Config, bootstrap: &Bootstrap, url: &str, priced: &[String]) -> anyhow::Result<()> {
    println!("Switchboard {} listens on {url}", env!("CARGO_PKG_VERSION"));
    for (at, provider) in config.providers.iter().enumerate() {
        let origin = if at == 0 { format!(" ({})", config.provider_origin) } else { String::new() };
        println!("Provider: {}, model {}{origin}", provider.name, provider.model);
    }
    println!(
        "To change it: --provider-url with --provider-model, OPENAI_API_KEY, a running Ollama, or switchboard.toml"
    );
    for priced in priced {
        println!("Price: {priced}");
    }
    if let Some(welcome) = bootstrap.welcome(url, &config.data) {
        println!("{welcome}");
    }
    match &config.bootstrap_json {
        Some(file) => bootstrap.write_json(file, url),
        None => Ok(()),
    }
}

/// Resolves on a signal to stop; with an error when a vital part is gone.
async fn wait_for_end(vital: Vec<oneshot::Receiver<()>>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = select_all(vital) => Err(anyhow::anyhow!("a vital part of the server ended; see the log")),
    }
}

/// No new work; running turns end, at last by being told to; everything is settled; then the doors close.
async fn shut_down(server: Server, handle: &ServerHandle, grace: Duration) -> anyhow::Result<()> {
    tracing::info!("stopping: no new work, running answers may end");
    server.admission.drain();
    let turns = server.sessions.turns();
    turns.close();
    server.sessions.refuse_waiting();
    if timeout(grace, turns.all_ended()).await.is_err() {
        tracing::warn!(running = turns.list().len(), "the time is over; running answers are ended");
        turns.stop_where(Stop::Draining, |_| true);
        if timeout(SETTLE_WAIT, turns.all_ended()).await.is_err() {
            tracing::error!("some turns did not end; the next start settles them");
        }
    }
    handle.stop(true).await;
    server.billing.flush().await;
    server.webhooks.stop().await;
    let (store, epoch) = (server.store, server.epoch);
    store.write(move |conn| Ok(store::epoch::end(conn, epoch, clock::now_ms())?)).await?;
    store.writer().stop();
    let joined = tokio::task::spawn_blocking(move || server.writer_thread.join()).await?;
    joined.map_err(|_| anyhow::anyhow!("the writer ended by a defect"))?;
    tracing::info!("stopped");
    Ok(())
}
