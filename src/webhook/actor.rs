//! The actor that delivers notices: looks for due ones, posts them, notes what came of it.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::Duration;

use actix::prelude::*;
use actix_service::fn_service;
use actix_tls::connect::ConnectInfo;
use awc::http::header::{CONTENT_TYPE, USER_AGENT};
use awc::http::{StatusCode, Uri, Version};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::clock;
use crate::error::Error;
use crate::id::fill_random;
use crate::outbound::{self, Reach};
use crate::store::Store;
use crate::store::webhook::{self, Due};
use crate::webhook::Delivery;
use crate::webhook::sign::ServerKey;

/// Messages that may wait.
pub const MAILBOX: usize = 16;
/// How often due notices are looked for.
const EACH: Duration = Duration::from_secs(1);
/// The most notices that one look takes.
const BATCH: i64 = 64;
/// The most requests at once, each to another webhook.
const IN_FLIGHT: usize = 16;
/// How long a receiver may take, from the look-up of its name to its status.
const PATIENCE: Duration = Duration::from_secs(10);
/// The waits between tries, in seconds; the first one is configured. After the last try a notice is given up.
const WAITS_S: [u64; 9] = [5, 30, 120, 600, 3_600, 10_800, 21_600, 43_200, 86_400];

pub struct Courier {
    store: Store,
    key: ServerKey,
    first_retry: Duration,
    client: awc::Client,
    /// The webhooks that are being called.
    in_flight: HashSet<String>,
    looking: bool,
    stopping: bool,
    idle: Option<oneshot::Sender<()>>,
    _gone: oneshot::Sender<()>,
}

impl Courier {
    pub fn new(store: Store, key: ServerKey, delivery: Delivery, gone: oneshot::Sender<()>) -> Self {
        Self {
            store,
            key,
            first_retry: delivery.first_retry,
            client: client(delivery.allow_private),
            in_flight: HashSet::new(),
            looking: false,
            stopping: false,
            idle: None,
            _gone: gone,
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.looking || self.stopping || self.in_flight.len() >= IN_FLIGHT {
            return;
        }
        self.looking = true;
        let busy: Vec<String> = self.in_flight.iter().cloned().collect();
        let store = self.store.clone();
        let due =
            async move { store.read(move |conn| webhook::due(conn, clock::now_ms(), &busy, BATCH)).await };
        let due = due.into_actor(self).map(|due, courier, ctx| {
            courier.looking = false;
            match due {
                Ok(due) => due.into_iter().for_each(|due| courier.deliver(due, ctx)),
                Err(cause) => tracing::warn!(?cause, "the notices of webhooks cannot be read"),
            }
        });
        ctx.spawn(due);
    }

    /// Calls a webhook, unless it is being called or too many are.
    fn deliver(&mut self, due: Due, ctx: &mut Context<Self>) {
        let full = self.stopping || self.in_flight.len() >= IN_FLIGHT;
        if full || !self.in_flight.insert(due.webhook.clone()) {
            return;
        }
        let id = due.webhook.clone();
        let (client, store, first_retry) = (self.client.clone(), self.store.clone(), self.first_retry);
        let now_s = clock::now_ms() / 1_000;
        let signature = self.key.secret(&due.webhook).sign(&due.event, now_s, &due.body);
        let delivery = async move {
            let outcome = post(&client, &due, now_s, &signature).await;
            if let Err(cause) = note(&store, due, outcome, first_retry).await {
                // Until it can be noted, it would be sent again and again.
                tracing::error!(?cause, "a webhook's delivery cannot be noted; it will be called again");
                tokio::time::sleep(first_retry).await;
            }
        };
        let delivery = delivery.into_actor(self).map(move |(), courier, ctx| {
            courier.in_flight.remove(&id);
            courier.end_if_idle();
            courier.look(ctx);
        });
        ctx.spawn(delivery);
    }

    fn end_if_idle(&mut self) {
        if self.stopping && self.in_flight.is_empty() {
            // Whoever waited for it may be gone.
            let _ = self.idle.take().map(|idle| idle.send(()));
        }
    }
}

impl Actor for Courier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(EACH, Self::look);
    }
}

/// Begin no more deliveries. Answered when those under way have ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

impl Handler<Stop> for Courier {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Stop: Stop, _: &mut Self::Context) -> Self::Result {
        let (idle, ended) = oneshot::channel();
        self.stopping = true;
        self.idle = Some(idle);
        self.end_if_idle();
        Box::pin(async move { drop(ended.await) })
    }
}

/// A client that reaches the public internet alone, unless more is allowed.
fn client(allow_private: bool) -> awc::Client {
    let reach = if allow_private { Reach::Anywhere } else { Reach::Public };
    let checked = fn_service(move |to: ConnectInfo<Uri>| outbound::connect(to, reach));
    let connector = awc::Connector::new()
        .connector(checked)
        .max_http_version(Version::HTTP_11)
        .limit(IN_FLIGHT)
        .timeout(PATIENCE)
        .handshake_timeout(PATIENCE);
    awc::Client::builder()
        .connector(connector)
        .disable_redirects()
        .timeout(PATIENCE)
        .no_default_headers()
        .finish()
}

/// Sends a notice once; the receiver's status, or why there is none. Its body is not read.
async fn post(client: &awc::Client, due: &Due, now_s: i64, signature: &str) -> Result<StatusCode, String> {
    let request = client
        .post(&due.url)
        .force_close()
        .insert_header((CONTENT_TYPE, "application/json"))
        .insert_header((USER_AGENT, concat!("switchboard/", env!("CARGO_PKG_VERSION"))))
        .insert_header(("webhook-id", due.event.as_str()))
        .insert_header(("webhook-timestamp", now_s.to_string()))
        .insert_header(("webhook-signature", signature));
    match timeout(PATIENCE, request.send_body(due.body.clone())).await {
        Ok(Ok(answer)) => Ok(answer.status()),
        Ok(Err(cause)) => Err(cause.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Notes what came of a try.
async fn note(
    store: &Store,
    due: Due,
    outcome: Result<StatusCode, String>,
    first_retry: Duration,
) -> Result<(), Error> {
    let cause: &dyn Display = match &outcome {
        Ok(status) if status.is_success() => {
            tracing::debug!(webhook = %due.webhook, event = %due.event, "a webhook was called");
            return store.write(move |conn| Ok(webhook::forget(conn, due.id)?)).await;
        }
        Ok(StatusCode::GONE) => {
            tracing::warn!(webhook = %due.webhook, "a receiver answers 410: the webhook is deleted");
            return store.write(move |conn| Ok(webhook::delete_gone(conn, &due.webhook)?)).await;
        }
        Ok(status) => status,
        Err(cause) => cause,
    };
    let Some(wait) = wait_ms(due.attempts, first_retry, random_byte()) else {
        tracing::error!(webhook = %due.webhook, event = %due.event, %cause, "a webhook could not be called; given up");
        return store.write(move |conn| Ok(webhook::forget(conn, due.id)?)).await;
    };
    tracing::warn!(webhook = %due.webhook, event = %due.event, %cause, wait_ms = wait, "a webhook could not be called");
    let now = clock::now_ms();
    let others = now + millis(first_retry);
    store.write(move |conn| Ok(webhook::put_off(conn, &due, now + wait, others)?)).await
}

fn random_byte() -> u8 {
    let mut byte = [0];
    fill_random(&mut byte);
    byte[0]
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}

/// How long to wait after a try that failed, in milliseconds, `tried` before it; `None` after the last one.
/// Up to a fifth more by `chance`, so that what failed together does not come back together.
fn wait_ms(tried: i32, first_retry: Duration, chance: u8) -> Option<i64> {
    let at = usize::try_from(tried).unwrap_or(0);
    let wait = Duration::from_secs(*WAITS_S.get(at)?);
    let wait = millis(if at == 0 { first_retry } else { wait.max(first_retry) });
    Some(wait + wait / 5 * i64::from(chance) / 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_get_rarer_and_end() {
        let first = Duration::from_secs(5);
        assert_eq!(wait_ms(0, first, 0), Some(5_000));
        assert_eq!(wait_ms(0, first, 255), Some(6_000));
        assert_eq!(wait_ms(1, first, 0), Some(30_000));
        assert_eq!(wait_ms(8, first, 0), Some(86_400_000));
        assert_eq!(wait_ms(9, first, 0), None);
        assert_eq!(wait_ms(1, Duration::from_secs(100), 0), Some(100_000));
    }
}
