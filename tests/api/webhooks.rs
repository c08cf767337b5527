//! Webhooks: each event once, rightly signed, delivered whatever the receiver or the server goes through, and
//! never into the operator's own network.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::app::{App, Setup, eventually};
use crate::client::PATIENCE;
use crate::script::Reply;

/// What a delivery must not take longer than to be believed missing.
const QUIET: Duration = Duration::from_millis(2_500);

/// A request that a receiver got.
#[derive(Clone, Debug)]
struct Received {
    id: String,
    timestamp: String,
    signature: String,
    body: String,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }

    fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap_or_default().to_owned()
    }

    /// Fails the test unless the signature is the one of this secret.
    fn is_signed_with(&self, secret: &str) {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
        assert_eq!(key.len(), 32);
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
        mac.update(format!("{}.{}.{}", self.id, self.timestamp, self.body).as_bytes());
        let signature = self.signature.strip_prefix("v1,").expect("version 1");
        mac.verify_slice(&STANDARD.decode(signature).expect("base64")).expect("the right signature");
        assert_eq!(self.json()["id"], self.id, "the event has the id of its message");
    }
}

/// A server that takes webhooks.
struct Receiver {
    port: u16,
    statuses: Arc<Mutex<Vec<u16>>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// Answers these statuses in turn, then 200.
    fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let statuses = Arc::new(Mutex::new(statuses.to_vec()));
        let received = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (statuses.clone(), received.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = take(stream, &script, &log);
            }
        });
        Self { port, statuses, received }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?to=me", self.port)
    }

    fn all(&self) -> Vec<Received> {
        self.received.lock().expect("the log").clone()
    }

    /// Waits for so many requests.
    fn wait_for(&self, count: usize) -> Vec<Received> {
        eventually("the webhook is called", || Some(self.all()).filter(|all| all.len() >= count))
    }

    /// The requests so far, after a while in which more could have come.
    fn in_the_end(&self) -> Vec<Received> {
        thread::sleep(QUIET);
        self.all()
    }

    fn kinds(&self, count: usize) -> Vec<String> {
        self.wait_for(count);
        self.in_the_end().iter().map(Received::kind).collect()
    }
}

fn take(
    mut stream: TcpStream,
    statuses: &Mutex<Vec<u16>>,
    received: &Mutex<Vec<Received>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    assert!(line.starts_with("POST /hook?to=me "), "{line}");
    let (mut length, mut headers) = (0, Vec::new());
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().unwrap_or(0);
        }
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let header = |name: &str| {
        let found = headers.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("{name} in {headers:?}")).1.clone()
    };
    let request = Received {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body: String::from_utf8(body).expect("the body is text"),
    };
    received.lock().expect("the log").push(request);
    let mut statuses = statuses.lock().expect("the script");
    let status = if statuses.is_empty() { 200 } else { statuses.remove(0) };
    let location = if status == 302 { "location: /elsewhere\r\n" } else { "" };
    write!(stream, "HTTP/1.1 {status} Told\r\n{location}content-length: 0\r\n\r\n")
}

/// A server that may call this machine and tries again after a second.
fn start() -> App {
    Setup::default().arg("--allow-private-webhooks").arg("--webhook-retry").arg("1").start()
}

/// A new webhook: its id and its secret.
fn hook(app: &App, key: &str, fields: &Value) -> (String, String) {
    let made = app.post(key, "/v2/webhooks", fields).is(201).json();
    let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    (text("id"), text("secret"))
}

/// An account with its key and an agent.
fn tenant(app: &App, balance: &str) -> (String, String, String) {
    let (account, key) = app.account(balance);
    let (agent, _) = app.agent_of(&key, json!({}));
    (account, key, agent)
}

/// One turn; answers the status.
fn turn(app: &App, key: &str, agent: &str, max_tokens: u64) -> u16 {
    let body = app.saying("Hello", json!({"model": agent, "max_tokens": max_tokens}));
    app.post(key, "/v1/chat/completions", &body).status
}

fn adjust(app: &App, account: &str, amount: &str) {
    let body = json!({"amount": amount, "note": "a test"});
    app.post(&app.operator_token, &format!("/admin/accounts/{account}/adjust"), &body).is(201);
}

#[test]
fn a_webhook_is_made_listed_and_deleted_by_its_account_alone() {
    let app = App::start();
    let fields = json!({"url": "https://example.com/hook", "balance_low": ["0.10", "1", "1.00"]});
    let made = app.post(&app.account_key, "/v2/webhooks", &fields).is(201).json();
    assert_eq!(made["balance_low"], json!(["1.000000000", "0.100000000"]));
    assert_eq!(made["events"], json!(["balance.low", "balance.exhausted", "budget.exceeded"]));
    let (id, secret) = (made["id"].as_str().expect("an id"), made["secret"].as_str().expect("a secret"));
    assert!(id.starts_with("wh_") && id.len() == 19, "{id}");
    let listed = app.get(&app.account_key, "/v2/webhooks").ok();
    let mut shown = made.clone();
    shown.as_object_mut().expect("an object").remove("secret");
    assert_eq!(listed, json!({"webhooks": [shown]}));

    let (_, other) = app.account("1.00");
    assert_eq!(app.get(&other, "/v2/webhooks").ok(), json!({"webhooks": []}));
    let foreign = app.delete(&other, &format!("/v2/webhooks/{id}"));
    let missing = app.delete(&other, "/v2/webhooks/wh_0000000000000000");
    foreign.refused(404, "invalid_request_error", "not_found");
    missing.refused(404, "invalid_request_error", "not_found");
    assert_eq!(foreign.json()["error"], missing.json()["error"]);
    app.post(&app.agent_key, "/v2/webhooks", &fields).refused(403, "permission_error", "key_scope");

    for wrong in [
        json!({}),
        json!({"url": "ftp://example.com"}),
        json!({"url": "http://10.0.0.1/hook"}),
        json!({"url": "http://[::1]/hook"}),
        json!({"url": "https://example.com", "events": ["balance.high"]}),
        json!({"url": "https://example.com", "events": []}),
        json!({"url": "https://example.com", "balance_low": ["0"]}),
        json!({"url": "https://example.com", "balance_low": [1]}),
        json!({"url": "https://example.com", "balance_low": vec!["1"; 11]}),
        json!({"url": "https://example.com", "secret": "mine"}),
    ] {
        app.post(&app.account_key, "/v2/webhooks", &wrong).is(400);
    }
    for _ in 0..9 {
        hook(&app, &app.account_key, &fields);
    }
    app.post(&app.account_key, "/v2/webhooks", &fields).is(400);
    app.delete(&app.account_key, &format!("/v2/webhooks/{id}")).is(204);
    app.delete(&app.account_key, &format!("/v2/webhooks/{id}")).is(404);
    assert!(!app.log().contains(secret), "the secret is in the log");
    let database = std::fs::read(app.data().join("switchboard.db-wal")).unwrap_or_default();
    let raw = STANDARD.decode(&secret["whsec_".len()..]).expect("base64");
    let stored = |bytes: &[u8]| database.windows(bytes.len()).any(|window| window == bytes);
    assert!(stored(id.as_bytes()), "the webhook is in the file that was looked at");
    assert!(!stored(secret.as_bytes()) && !stored(&raw), "the secret is in the database");
    app.finish();
}

#[test]
fn each_threshold_is_told_once_when_it_is_crossed_downwards() {
    let app = start();
    let receiver = Receiver::start(&[]);
    let (account, key, agent) = tenant(&app, "3.00");
    let fields = json!({"url": receiver.url(), "balance_low": ["2.00", "1.00", "0.50"]});
    let (_, secret) = hook(&app, &key, &fields);
    adjust(&app, &account, "-1.00"); // 2.00 is reached
    adjust(&app, &account, "-0.50");
    adjust(&app, &account, "-1.10"); // 1.00 and 0.50 at once
    adjust(&app, &account, "-0.01");
    let told = receiver.wait_for(3);
    assert_eq!(receiver.in_the_end().len(), 3, "{told:?}");
    let mut thresholds: Vec<String> = Vec::new();
    for request in &told {
        request.is_signed_with(&secret);
        let event = request.json();
        assert_eq!((&event["type"], &event["data"]["account_id"]), (&json!("balance.low"), &json!(account)));
        thresholds.push(event["data"]["threshold"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(thresholds, ["2.000000000", "1.000000000", "0.500000000"]);
    assert_eq!(told[0].json()["data"]["balance"], "2.000000000");

    // Up again, and down by a charge.
    adjust(&app, &account, "0.110004000"); // 0.500004
    app.upstream.next(Reply::says(&["Hi"]).usage(9, 3));
    assert_eq!(turn(&app, &key, &agent, 10), 200);
    let told = receiver.wait_for(4);
    assert_eq!(told[3].json()["data"]["balance"], "0.499989000");
    told[3].is_signed_with(&secret);
    assert!(!app.log().contains(&secret), "the secret is in the log");
    app.finish();
}

#[test]
fn the_end_of_the_money_is_told_once_until_there_is_more() {
    let app = start();
    let receiver = Receiver::start(&[]);
    let (account, key, agent) = tenant(&app, "0.0005");
    let (_, secret) = hook(&app, &key, &json!({"url": receiver.url()}));
    for _ in 0..3 {
        assert_eq!(turn(&app, &key, &agent, 1_000), 402);
    }
    assert_eq!(receiver.kinds(1), ["balance.exhausted"]);
    let event = receiver.all()[0].json();
    assert_eq!(event["data"]["account_id"], account);
    assert_eq!(event["data"]["available"], "0.000500000");
    assert!(event["data"]["needed"].as_str().is_some_and(|needed| needed > "0.002"), "{event}");
    adjust(&app, &account, "0.0001");
    for _ in 0..2 {
        assert_eq!(turn(&app, &key, &agent, 1_000), 402);
    }
    assert_eq!(receiver.kinds(2), ["balance.exhausted"; 2]);
    receiver.all().iter().for_each(|request| request.is_signed_with(&secret));
    app.finish();
}

#[test]
fn the_end_of_a_budget_is_told_once() {
    let app = start();
    let receiver = Receiver::start(&[]);
    let (_, key, agent) = tenant(&app, "1.00");
    let fields = json!({"url": receiver.url(), "events": ["budget.exceeded"]});
    let (_, secret) = hook(&app, &key, &fields);
    let budget = json!({"amount": "0.0005", "period": "day"});
    let narrow = app.new_key(&key, &agent, json!({ "budget": budget }));
    let (id, narrow) = (narrow["id"].clone(), narrow["key"].as_str().expect("a key").to_owned());
    for _ in 0..3 {
        assert_eq!(turn(&app, &narrow, &agent, 1_000), 402);
    }
    assert_eq!(receiver.kinds(1), ["budget.exceeded"]);
    let request = &receiver.all()[0];
    request.is_signed_with(&secret);
    let data = &request.json()["data"];
    assert_eq!(data["key_id"], id);
    assert_eq!(data["budget"], json!({"amount": "0.000500000", "period": "day"}));
    app.finish();
}

#[test]
fn what_fails_is_tried_again_under_the_same_id_and_410_ends_it() {
    let app = start();
    let receiver = Receiver::start(&[500, 302]);
    let (account, key, _) = tenant(&app, "3.00");
    let fields = json!({"url": receiver.url(), "balance_low": ["2.00", "1.00", "0.50"]});
    let (_, secret) = hook(&app, &key, &fields);
    adjust(&app, &account, "-1.50");
    let told = receiver.wait_for(2);
    assert_eq!(told[0].id, told[1].id, "a redirect is not followed, a failure is tried again");
    assert_eq!(told[0].body, told[1].body);
    told.iter().for_each(|request| request.is_signed_with(&secret));
    *receiver.statuses.lock().expect("the script") = vec![410];
    adjust(&app, &account, "-0.60"); // the second notice, to which the receiver says that it is gone
    receiver.wait_for(3);
    eventually("the webhook is deleted", || {
        let listed = app.get(&key, "/v2/webhooks").ok();
        (listed == json!({"webhooks": []})).then_some(())
    });
    adjust(&app, &account, "-0.50");
    assert_eq!(receiver.in_the_end().len(), 3);
    app.finish();
}

#[test]
fn a_notice_outlives_the_server() {
    let mut app = start();
    let receiver = Receiver::start(&[503]);
    let (account, key, _) = tenant(&app, "3.00");
    let (_, secret) = hook(&app, &key, &json!({"url": receiver.url(), "balance_low": ["2.00"]}));
    adjust(&app, &account, "-1.00");
    app.kill(); // at once after the answer: before, while or after it was sent for the first time
    app.start_again();
    let told = eventually("the notice is taken", || {
        let left = receiver.statuses.lock().expect("the script").len();
        Some(receiver.all()).filter(|all| left == 0 && all.len() >= 2)
    });
    assert!(told.iter().all(|request| request.id == told[0].id), "{told:?}");
    told.iter().for_each(|request| request.is_signed_with(&secret));
    app.finish();
}

#[test]
fn the_operators_own_network_is_no_target() {
    let app = Setup::default().arg("--webhook-retry").arg("1").start();
    let receiver = Receiver::start(&[]);
    let (account, key, _) = tenant(&app, "3.00");
    let refused = json!({"url": receiver.url(), "balance_low": ["2.00"]});
    app.post(&key, "/v2/webhooks", &refused).refused(400, "invalid_request_error", "invalid_value");
    let named = receiver.url().replace("127.0.0.1", "localhost");
    let (id, secret) = hook(&app, &key, &json!({"url": named, "balance_low": ["2.00"]}));
    adjust(&app, &account, "-1.50");
    eventually("the failure is in the log", || {
        let log = app.log();
        (log.contains(&id) && log.contains("not in the public internet")).then_some(())
    });
    assert!(receiver.in_the_end().is_empty());
    assert!(!app.log().contains(&secret), "the secret is in the log");
    app.finish();
}
