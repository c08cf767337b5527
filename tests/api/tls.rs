//! The server's own TLS: streams over it, a new certificate while it runs, and clients that do not speak it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rustls::pki_types::CertificateDer;
use serde_json::json;
use tempfile::TempDir;

use crate::app::{App, Setup, binary, eventually};
use crate::bridge::handshake;
use crate::client::PATIENCE;
use crate::script::Reply;

/// A certificate and its key in two files.
struct Pair {
    dir: TempDir,
    shown: CertificateDer<'static>,
}

/// A new certificate for this machine, with its key, in PEM.
fn made() -> (CertificateDer<'static>, String, String) {
    let names = vec!["localhost".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names).expect("a certificate");
    (cert.der().clone(), cert.pem(), signing_key.serialize_pem())
}

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (shown, cert, key) = made();
        let pair = Self { dir, shown };
        pair.write(&cert, &key);
        pair
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("a path of text").to_owned()
    }

    fn write(&self, cert: &str, key: &str) {
        for (name, text) in [("cert.pem", cert), ("key.pem", key)] {
            let draft = self.file("draft");
            fs::write(&draft, text).expect("a file");
            fs::rename(draft, self.file(name)).expect("a file");
        }
    }

    fn setup(&self) -> Setup {
        let args = ["--tls-cert", &self.file("cert.pem"), "--tls-key", &self.file("key.pem")];
        args.iter().fold(Setup::default(), |setup, arg| setup.arg(arg)).trusting(&self.shown)
    }
}

fn hang_up(app: &App) {
    let sent = Command::new("kill").args(["-HUP", &app.pid().to_string()]).status().expect("kill can be run");
    assert!(sent.success(), "no signal was sent");
}

/// What the server writes to a client that sends this; the connection has to end.
fn sent_plainly(app: &App, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(app.port()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a setting");
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        Err(cause) => {
            let kept_open =
                matches!(cause.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
            assert!(!kept_open, "the connection stays open");
            answer
        }
    }
}

#[test]
fn a_stream_over_tls_is_as_one_without_and_whoever_leaves_it_is_noticed_at_once() {
    let pair = Pair::new();
    let app = pair.setup().start();
    assert!(app.bootstrap["url"].as_str().is_some_and(|url| url.starts_with("https://")));
    app.upstream.next(Reply::long(50));
    let events = app.stream("Hello", json!({})).rest();
    assert!(events.last().is_some_and(crate::client::Event::is_done), "{events:?}");
    assert!(events.len() > 50, "{}", events.len());
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(400).pause_after(30, &gate));
    let mut stream = app.stream("Hello", json!({"max_tokens": 1000}));
    for _ in 0..20 {
        stream.chunk();
    }
    let left = Instant::now();
    drop(stream);
    let ended = app.upstream.wait_for_aborts(1).remove(0);
    assert!(ended.saturating_duration_since(left).as_secs() < 4, "it was noticed late");
    app.settled();
    app.finish();
}

#[test]
fn the_command_line_trusts_a_certificate_that_it_is_given() {
    let pair = Pair::new();
    let app = pair.setup().start();
    let run = |more: &[&str]| {
        let url = format!("https://{}", app.port().replace("127.0.0.1", "localhost"));
        let output = binary()
            .args(["account", "list", "--url", &url, "--token", &app.operator_token])
            .args(more)
            .output()
            .expect("the command line");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (done, said) = run(&["--ca-cert", &pair.file("cert.pem")]);
    assert!(done && said.contains(&app.account_id), "{said}");
    assert!(!run(&[]).0, "nobody vouches for it");
    let other = Pair::new();
    assert!(!run(&["--ca-cert", &other.file("cert.pem")]).0, "another one vouches for another one");
    app.finish();
}

#[test]
fn http_2_is_spoken_only_where_it_is_switched_on() {
    let pair = Pair::new();
    let both: [&[u8]; 2] = [b"h2", b"http/1.1"];
    let app = pair.setup().start();
    let agreed = handshake(app.port(), &pair.shown, &both).expect("a connection");
    assert_eq!(agreed.as_deref(), Some(&b"http/1.1"[..]));
    assert!(handshake(app.port(), &pair.shown, &[b"h2"]).is_err(), "nothing else is offered");
    app.finish();
    let app = pair.setup().arg("--http2").start();
    let agreed = handshake(app.port(), &pair.shown, &both).expect("a connection");
    assert_eq!(agreed.as_deref(), Some(&b"h2"[..]));
    app.say("Hello", json!({}));
    app.finish();
}

#[test]
fn a_new_certificate_is_shown_without_a_restart_and_a_running_stream_goes_on() {
    let pair = Pair::new();
    let mut app = pair.setup().start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(40).pause_after(10, &gate));
    let mut stream = app.stream("Hello", json!({}));
    stream.chunk();
    let (newer, cert, key) = made();
    pair.write(&cert, &key);
    hang_up(&app);
    eventually("the new certificate is shown", || handshake(app.port(), &newer, &[]).ok());
    assert!(handshake(app.port(), &pair.shown, &[]).is_err(), "the former one is still shown");
    gate.open();
    assert!(stream.rest().last().is_some_and(crate::client::Event::is_done));
    app.trust(&newer);
    app.say("Hello", json!({}));
    app.finish();
}

#[test]
fn changed_files_are_noticed_without_a_signal() {
    let pair = Pair::new();
    let mut app = pair.setup().start();
    let (newer, cert, key) = made();
    pair.write(&cert, &key);
    eventually("the new certificate is shown", || handshake(app.port(), &newer, &[]).ok());
    app.trust(&newer);
    app.finish();
}

#[test]
fn a_pair_that_cannot_be_used_leaves_the_former_one_in_use_and_is_told() {
    let pair = Pair::new();
    let app = pair.setup().start();
    let (_, cert, key) = made();
    let (_, other, _) = made();
    let broken = [
        (other.as_str(), key.as_str(), "tls_cert and tls_key"),
        ("no certificate", key.as_str(), "tls_cert"),
        (cert.as_str(), "no key", "tls_key"),
    ];
    for (number, (cert, key, told)) in broken.into_iter().enumerate() {
        pair.write(cert, key);
        hang_up(&app);
        let lines = || {
            let log = app.log();
            let all = log.lines().filter(|line| line.contains("the former certificate stays in use"));
            all.map(str::to_owned).collect::<Vec<_>>()
        };
        eventually("the fault is told", || (lines().len() > number).then_some(()));
        assert!(lines().last().is_some_and(|line| line.contains(told)), "{:?}", lines());
        handshake(app.port(), &pair.shown, &[]).expect("the former certificate");
    }
    assert!(!app.log().contains("PRIVATE KEY"));
    app.say("Hello", json!({}));
    app.finish();
}

#[test]
fn whoever_speaks_no_tls_is_hung_up_on_and_harms_nobody() {
    let pair = Pair::new();
    let app = pair.setup().start();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::long(40).pause_after(10, &gate));
    let mut stream = app.stream("Hello", json!({}));
    stream.chunk();
    let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..20 {
        let answer = sent_plainly(&app, request);
        assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    }
    // Says nothing: the handshake has its time, and then the connection ends.
    sent_plainly(&app, b"");
    sent_plainly(&app, &[0x16, 0x03, 0x01, 0xff, 0xff]);
    gate.open();
    assert!(stream.rest().last().is_some_and(crate::client::Event::is_done));
    app.finish();
}

#[test]
fn a_pair_that_cannot_be_used_is_a_fault_of_the_configuration() {
    let pair = Pair::new();
    let check = |args: &[&str]| {
        let output = binary()
            .current_dir(pair.dir.path())
            .args(["--check", "--provider-url", "http://127.0.0.1:9/v1", "--provider-model", "m"])
            .args(args)
            .output()
            .expect("the binary can be run");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let both = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    assert!(check(&both).0);
    for (args, told) in [
        (&both[..2], "tls_cert: needs tls_key"),
        (&both[2..], "tls_key: needs tls_cert"),
        (&["--http2"][..], "http2: needs"),
        (&["--tls-cert", "none.pem", "--tls-key", "key.pem"][..], "tls_cert: none.pem"),
        (&["--tls-cert", "key.pem", "--tls-key", "key.pem"][..], "tls_cert: key.pem: expected a certificate"),
        (&["--tls-cert", "cert.pem", "--tls-key", "cert.pem"][..], "tls_key: cert.pem"),
    ] {
        let (sound, said) = check(args);
        assert!(!sound && said.contains(told), "{args:?}: {said}");
    }
    let (_, _, other) = made();
    fs::write(Path::new(&pair.file("other.pem")), other).expect("a file");
    let (sound, said) = check(&["--tls-cert", "cert.pem", "--tls-key", "other.pem"]);
    assert!(!sound && said.contains("tls_cert and tls_key"), "{said}");
}
