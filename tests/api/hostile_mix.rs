//! Everything hostile at once, from several connections, with honest clients beside it.
//!
//! `HOSTILE_SEED` chooses another mix; `SOAK=1` sends 100,000 requests instead of 2,000 and holds honest clients' waits
//! to twice what they are without the attack.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::app::{App, Setup};
use crate::hostile::{chat_head, check_memory, statuses};

/// Hostile requests in a second in the soak: attackers and server share the machine, and unpaced ones would take its
/// processors from both.
const PACE: f64 = 500.0;
/// Connections that attack at the same time.
const ATTACKERS: usize = 4;
/// Honest chats that are timed before the attack, at least.
const CALM: usize = 100;

/// Numbers that look random and come again with the seed (an xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The tenant who attacks.
struct Attacker {
    agent: String,
    key: String,
}

/// One hostile request.
fn request(app: &App, Attacker { agent, key }: &Attacker, chance: &mut Chance) -> Vec<u8> {
    let with_body = |body: String| {
        let head = chat_head(app, key, &format!("Content-Length: {}\r\n\r\n", body.len()));
        format!("{head}{body}").into_bytes()
    };
    let chat = |content: &str, more: &str| {
        with_body(format!(
            "{{\"model\":\"{agent}\",\"messages\":[{{\"role\":\"user\",\"content\":{content}}}]{more}}}"
        ))
    };
    let size = usize::try_from(chance.below(20_000)).unwrap_or(1) + 1;
    match chance.below(20) {
        0 => chat(&"[".repeat(size), ""),
        1 => chat("\"a\"", &format!(",\"x\":{}{}", "[".repeat(size), "]".repeat(size))),
        2 => chat("\"a\"", &format!(",\"temperature\":{}", "9".repeat(size))),
        3 => chat("\"\\ud800\"", ",\"messages\":7"),
        4 => with_body("\0".repeat(size)),
        5 => chat_head(app, key, "Content-Length: 999999999\r\n\r\n{").into_bytes(),
        6 => chat_head(app, key, "Content-Length: 5000\r\n\r\n{").into_bytes(),
        7 => {
            let lines = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
            chat_head(app, key, lines).into_bytes()
        }
        8 => chat_head(app, key, "Transfer-Encoding: chunked\r\n\r\nzz\r\n").into_bytes(),
        9 => format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(size * 4)).into_bytes(),
        10 => format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "%ff/".repeat(size)).into_bytes(),
        11 => format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: a\r\n".repeat(size)).into_bytes(),
        12 => (0..size).map(|_| u8::try_from(chance.below(256)).unwrap_or(0)).collect(),
        13 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        14 => chat_head(app, "ak_nobody", "Content-Length: 9\r\nExpect: 100-continue\r\n\r\n").into_bytes(),
        15 => "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(size % 100 + 1).into_bytes(),
        16 => chat_head(app, key, "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x08").into_bytes(),
        17 => format!(
            "GET /v2/sessions?limit={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
            "9".repeat(size % 5_000),
            key
        )
        .into_bytes(),
        18 => chat("\"a\"", &format!(",\"tools\":[{}]", vec!["{}"; size].join(","))),
        _ => {
            let whole = chat("\"a\"", "");
            whole[..size.min(whole.len())].to_vec()
        }
    }
}

/// Sends one hostile request and reads what there is of an answer, or leaves at once.
fn attack(app: &App, attacker: &Attacker, chance: &mut Chance) -> Vec<u16> {
    let Ok(mut stream) = TcpStream::connect(&app.addr) else { return Vec::new() };
    let bytes = request(app, attacker, chance);
    let _ = stream.write_all(&bytes);
    if chance.below(4) == 0 {
        return Vec::new();
    }
    let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
    let mut said = vec![0; 65_536];
    let read = stream.read(&mut said).unwrap_or(0);
    statuses(&String::from_utf8_lossy(&said[..read]))
}

/// How long one honest chat takes.
fn honest(app: &App) -> Duration {
    let began = Instant::now();
    app.say("Hello", json!({}));
    began.elapsed()
}

fn p99(mut waits: Vec<Duration>) -> Duration {
    waits.sort_unstable();
    waits[(waits.len() * 99 / 100).min(waits.len() - 1)]
}

#[test]
fn a_mix_of_everything_hostile_harms_neither_the_server_nor_honest_clients() {
    let soak = std::env::var_os("SOAK").is_some();
    let seed = std::env::var("HOSTILE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_126);
    let wanted = if soak { 100_000 } else { 2_000 };
    let app = Setup::default().arg("--body-timeout=2").arg("--head-timeout=2").start();
    let (_, owner) = app.account("1.00");
    let (agent, key) = app.agent_of(&owner, json!({}));
    let attacker = Attacker { agent, key };
    let calm = if soak { 10 * CALM } else { CALM };
    let calm = p99((0..calm).map(|_| honest(&app)).collect());
    let began = Instant::now();
    let (sent, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let waits = std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|number| {
                let mut chance = Chance(seed + number as u64 * 7_919 + 1);
                let (app, attacker, sent) = (&app, &attacker, &sent);
                scope.spawn(move || {
                    loop {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        if number >= wanted {
                            break;
                        }
                        if soak {
                            let due = Duration::from_secs_f64(number as f64 / PACE);
                            std::thread::sleep(due.saturating_sub(began.elapsed()));
                        }
                        for status in attack(app, attacker, &mut chance) {
                            assert!(status < 500 || status == 503, "a hostile request is answered {status}");
                        }
                    }
                })
            })
            .collect();
        let clients = scope.spawn(|| {
            let mut waits = Vec::new();
            while !over.load(Ordering::Relaxed) || waits.len() < CALM {
                waits.push(honest(&app));
                check_memory(&app);
            }
            waits
        });
        let ended: Vec<bool> = attackers.into_iter().map(|attacker| attacker.join().is_ok()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(|ended| *ended), "an attacker saw what it should not, with seed {seed}");
        clients.join().expect("every honest chat is answered")
    });
    let attacked = p99(waits);
    let ratio = attacked.as_secs_f64() / calm.as_secs_f64();
    println!(
        "{wanted} hostile requests, seed {seed}: p99 {calm:?} before, {attacked:?} meanwhile, ratio {ratio:.2}"
    );
    assert!(!soak || ratio <= 2.0, "honest clients wait {ratio:.2} times as long");
    app.finish();
}
