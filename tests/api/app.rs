//! The real server on a free port, with a scripted upstream behind it and a data directory of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bridge::Bridge;
use crate::client::{Answer, Call, PATIENCE, Stream};
use crate::setup::command;
pub use crate::setup::{Setup, binary};
use crate::upstream::Upstream;

/// The key with which the server asks the upstream; no client may ever see it.
pub const PROVIDER_KEY: &str = "test-provider-key-7781";

/// The model that the upstream is asked for.
pub const MODEL: &str = "test-model";

/// A running server.
pub struct App {
    /// The provider behind it.
    pub upstream: Upstream,
    /// Host and port.
    pub addr: String,
    /// The demo account.
    pub account_id: String,
    /// The agent of the demo account.
    pub agent_id: String,
    /// A key of that agent.
    pub agent_key: String,
    /// A key of that account.
    pub account_key: String,
    /// The operator's token.
    pub operator_token: String,
    /// What the last start wrote into the bootstrap file.
    pub bootstrap: Value,
    port: String,
    setup: Setup,
    child: Child,
    dir: TempDir,
    finished: bool,
}

/// The balance of an account in nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// What may be spent.
    pub available: i64,
    /// What is set aside for turns that run.
    pub held: i64,
    /// Both together.
    pub balance: i64,
}

impl App {
    /// A server without default limits.
    pub fn start() -> Self {
        Setup::default().start()
    }

    /// A server whose upstream gives each request this script.
    pub fn answering(script: impl Into<crate::script::Script>) -> Self {
        let app = Self::start();
        app.upstream.always(script);
        app
    }

    /// Starts the server and waits until it is ready.
    pub(crate) fn launch(setup: Setup) -> Self {
        let upstream = Upstream::start();
        let dir = tempfile::tempdir().expect("a directory for the test");
        if let Some(options) = &setup.disk {
            let data = dir.path().join("data");
            fs::create_dir(&data).expect("a directory for the disk");
            let mount =
                Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&data).status();
            assert!(mount.expect("mount can be run").success(), "the disk cannot be mounted");
        }
        let child = spawn(&setup, &upstream, &dir);
        let mut app = Self {
            upstream,
            addr: String::new(),
            account_id: String::new(),
            agent_id: String::new(),
            agent_key: String::new(),
            account_key: String::new(),
            operator_token: String::new(),
            bootstrap: Value::Null,
            port: String::new(),
            setup,
            child,
            dir,
            finished: false,
        };
        app.wait_until_ready();
        let text = |name: &str| {
            let value = app.bootstrap[name].as_str();
            value.unwrap_or_else(|| panic!("{name} is missing in {}", app.bootstrap)).to_owned()
        };
        app.account_id = text("account_id");
        app.agent_id = text("agent_id");
        app.agent_key = text("agent_key");
        app.account_key = text("account_key");
        app.operator_token = text("operator_token");
        app
    }

    fn wait_until_ready(&mut self) {
        let file = self.dir.path().join("bootstrap.json");
        let deadline = Instant::now() + PATIENCE;
        while !file.exists() {
            if let Some(status) = self.child.try_wait().expect("the server's status") {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the server is not ready:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
        let written = fs::read(&file).expect("the bootstrap file can be read");
        self.bootstrap = serde_json::from_slice(&written).expect("the bootstrap file is JSON");
        let url = self.bootstrap["url"].as_str().expect("the bootstrap file names the url");
        let (_, port) = url.trim_end_matches('/').split_once("://").expect("a scheme");
        self.addr = port.to_owned();
        self.port = port.to_owned();
        if let Some(trusted) = &self.setup.trusted {
            self.addr = Bridge::start(port, trusted).addr;
        }
    }

    /// Where the server itself listens, be there TLS in between or not.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Trusts another certificate from now on.
    pub fn trust(&mut self, certificate: &CertificateDer<'static>) {
        self.addr = Bridge::start(&self.port, certificate).addr;
        self.setup.trusted = Some(certificate.clone());
    }

    /// What the server has written to its standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr.txt")).unwrap_or_default()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A request to any route.
    pub fn call(&self, method: &str, path: &str) -> Call {
        Call::new(&self.addr, method, path)
    }

    /// A GET with a key.
    pub fn get(&self, key: &str, path: &str) -> Answer {
        self.call("GET", path).key(key).send()
    }

    /// A POST of JSON with a key.
    pub fn post(&self, key: &str, path: &str, body: &Value) -> Answer {
        self.call("POST", path).key(key).json(body).send()
    }

    /// A PATCH of JSON with a key.
    pub fn patch(&self, key: &str, path: &str, body: &Value) -> Answer {
        self.call("PATCH", path).key(key).json(body).send()
    }

    /// A DELETE with a key.
    pub fn delete(&self, key: &str, path: &str) -> Answer {
        self.call("DELETE", path).key(key).send()
    }

    /// A chat body for the demo agent, with more fields.
    pub fn saying(&self, text: &str, more: Value) -> Value {
        let messages = json!([{"role": "user", "content": text}]);
        merged(json!({"model": self.agent_id, "messages": messages}), more)
    }

    /// A chat call with the account key.
    pub fn chat_call(&self, body: &Value) -> Call {
        self.call("POST", "/v1/chat/completions").key(&self.account_key).json(body)
    }

    /// A plain chat with the account key.
    pub fn chat(&self, body: &Value) -> Answer {
        self.chat_call(body).send()
    }

    /// Says one thing with the account key; answers the completion.
    pub fn say(&self, text: &str, more: Value) -> Value {
        self.chat(&self.saying(text, more)).ok()
    }

    /// A streamed chat with the account key.
    pub fn stream(&self, text: &str, more: Value) -> Stream {
        let body = merged(self.saying(text, more), json!({"stream": true}));
        self.chat_call(&body).open().ok()
    }

    /// A new agent of the demo account and a key of it.
    pub fn agent(&self, fields: Value) -> (String, String) {
        self.agent_of(&self.account_key, fields)
    }

    /// A new agent of the account that `key` belongs to, and a key of it.
    pub fn agent_of(&self, key: &str, fields: Value) -> (String, String) {
        let fields = merged(json!({"name": "Another agent", "model": MODEL}), fields);
        let agent = self.post(key, "/v2/agents", &fields).is(201).json();
        let id = agent["id"].as_str().expect("an agent has an id").to_owned();
        let agent_key = self.new_key(key, &id, json!({}))["key"].clone();
        (id, agent_key.as_str().expect("a key is shown once").to_owned())
    }

    /// A new key of an agent, as it is answered once.
    pub fn new_key(&self, key: &str, agent_id: &str, fields: Value) -> Value {
        let fields = merged(json!({"name": "A key"}), fields);
        self.post(key, &format!("/v2/agents/{agent_id}/api-keys"), &fields).is(201).json()
    }

    /// A new account with this balance; answers its id and its first key.
    pub fn account(&self, balance: &str) -> (String, String) {
        let body = json!({"name": "Another account", "balance": balance});
        let account = self.post(&self.operator_token, "/admin/accounts", &body).is(201).json();
        let text = |name: &str| account[name].as_str().unwrap_or_default().to_owned();
        (text("id"), text("key"))
    }

    /// The balance of the demo account.
    pub fn balance(&self) -> Balance {
        self.balance_of(&self.account_key)
    }

    /// The balance of the account that `key` belongs to.
    pub fn balance_of(&self, key: &str) -> Balance {
        let body = self.get(key, "/v2/billing/balance").ok();
        assert_eq!(body["currency"], "USD");
        let balance = Balance {
            available: nanos(&body["available"]),
            held: nanos(&body["held"]),
            balance: nanos(&body["balance"]),
        };
        assert_eq!(balance.available + balance.held, balance.balance);
        balance
    }

    /// Waits until nothing is held any more; answers the balance then.
    pub fn settled(&self) -> Balance {
        eventually("nothing is held", || Some(self.balance()).filter(|balance| balance.held == 0))
    }

    /// All rows of the demo account's ledger, newest first.
    pub fn transactions(&self) -> Vec<Value> {
        let mut rows: Vec<Value> = Vec::new();
        loop {
            let after = rows.last().map(|row| format!("&after={}", row["seq"])).unwrap_or_default();
            let path = format!("/v2/billing/transactions?limit=100{after}");
            let page = self.get(&self.account_key, &path).ok();
            let more = page["transactions"].as_array().expect("a list of rows");
            assert!(!more.is_empty() || page["has_more"] == false, "an empty page with more to come");
            rows.extend(more.iter().cloned());
            if page["has_more"] == false {
                return rows;
            }
        }
    }

    /// The charges of the demo account, newest first.
    pub fn charges(&self) -> Vec<Value> {
        self.transactions().into_iter().filter(|row| row["kind"] == "charge").collect()
    }

    /// Fails the test unless every invariant of the ledger holds.
    pub fn verify_ledger(&self) {
        let verdict = self.get(&self.operator_token, "/admin/ledger/verify").ok();
        assert_eq!(verdict["ok"], true, "the ledger is not clean: {verdict}");
    }

    /// Asks the server to stop.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill can be run");
        assert!(sent.success(), "no signal was sent");
    }

    /// Waits until the server has ended.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.child, || "after SIGTERM".to_owned())
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the server at once, as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server has ended");
    }

    /// Starts the server again on the same data, after it has ended.
    pub fn start_again(&mut self) {
        self.begin_again();
        self.wait_until_ready();
    }

    /// As [`Self::start_again`], without waiting for anything.
    pub fn begin_again(&mut self) {
        // One that was killed before it was ready has left none.
        let _ = fs::remove_file(self.dir.path().join("bootstrap.json"));
        self.child = spawn(&self.setup, &self.upstream, &self.dir);
    }

    /// What the next start is told beside what the last one was.
    pub fn add_argument(&mut self, arg: &str) {
        self.setup.args.push(arg.to_owned());
    }

    /// What the next start finds in its environment beside what is always there.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.setup.environment = variables.iter().map(owned).collect();
    }

    /// Stops the server properly and starts it again on the same data.
    pub fn restart(&mut self) {
        self.terminate();
        assert_eq!(self.wait_for_exit().code(), Some(0), "the log says:\n{}", self.log());
        self.start_again();
    }

    /// Stops the server properly, does something to its data, and starts it again.
    pub fn restart_with(mut self, change: impl FnOnce(&Self)) -> Self {
        self.terminate();
        assert_eq!(self.wait_for_exit().code(), Some(0), "the log says:\n{}", self.log());
        change(&self);
        self.start_again();
        self
    }

    /// A second process on the same data directory, not yet started.
    pub fn second_process(&self) -> Command {
        command(&self.setup, &self.upstream, &self.dir, "second.json")
    }

    /// Ends every test: the ledger is clean and a stop is a proper stop.
    pub fn finish(mut self) {
        self.verify_ledger();
        self.terminate();
        self.finished = true;
        let status = self.wait_for_exit();
        assert_eq!(status.code(), Some(0), "the log says:\n{}", self.log());
        let log = self.log();
        for secret in [&self.agent_key, &self.account_key, &self.operator_token] {
            assert!(!log.contains(secret.as_str()), "a secret is in the log:\n{log}");
        }
        assert!(!log.contains(PROVIDER_KEY), "the provider's key is in the log:\n{log}");
        assert!(!log.contains("panicked"), "something panicked:\n{log}");
    }

    /// Ends a test that has already stopped the server.
    pub fn finish_stopped(mut self) {
        self.finished = true;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.setup.disk.is_some() {
            let _ = Command::new("umount").arg("--lazy").arg(self.data()).status();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            eprintln!("the end of the server's log:\n{tail}");
        } else {
            assert!(self.finished, "a test has to end with finish()");
        }
    }
}

/// Kills a server whose [`App`] is in use elsewhere, as a power cut would.
pub fn kill_at_once(pid: u32) {
    let sent = Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill can be run");
    assert!(sent.success(), "no signal was sent");
}

/// Waits until a process has ended; kills it and fails the test when it does not.
pub fn wait_for_exit(child: &mut Child, context: impl Fn() -> String) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("the process's status") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the process does not end {}", context());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn spawn(setup: &Setup, upstream: &Upstream, dir: &TempDir) -> Child {
    let open = |name: &str| {
        let path = dir.path().join(name);
        fs::OpenOptions::new().create(true).append(true).open(path).expect("a file for the log")
    };
    command(setup, upstream, dir, "bootstrap.json")
        .stdin(Stdio::null())
        .stdout(open("stdout.txt"))
        .stderr(open("stderr.txt"))
        .spawn()
        .expect("the server can be started")
}

/// Asks again and again until there is an answer; fails the test when there is none in time.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(Instant::now() < deadline, "it never came about that {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// An object with the fields of another put over its own.
pub fn merged(mut base: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (base.as_object_mut(), more) {
        fields.extend(more);
    }
    base
}

/// A decimal string of USD in nano-dollars.
pub fn nanos(value: &Value) -> i64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is not a decimal string"));
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    assert!(fraction.len() <= 9, "{text} has more than nine places");
    let number =
        |digits: &str| -> i64 { digits.parse().unwrap_or_else(|_| panic!("{text} is not a decimal number")) };
    sign * (number(whole) * 1_000_000_000 + number(&format!("{fraction:0<9}")))
}
