//! Killed at any moment, the server starts again with a clean ledger: nothing finished is lost or charged
//! twice, and nothing stays held.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::app::{App, nanos};
use crate::client::Call;
use crate::script::Reply;

const START: i64 = 5_000_000_000;
const ROUNDS: u64 = 36;
const CLIENTS: u64 = 6;
const PIECES: usize = 12;

/// Numbers that look random and are the same for the same seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What one client saw before the server was gone.
struct Seen {
    session: String,
    text: String,
    completion: Option<String>,
    whole: bool,
}

/// Runs one turn to its end or to the end of the server; tells `events` of each event.
fn client(call: &Call, session: String, text: String, streamed: bool, events: &mpsc::Sender<()>) -> Seen {
    let mut seen = Seen { session, text, completion: None, whole: false };
    let Ok(mut stream) = call.try_open() else { return seen };
    assert_eq!(stream.status, 200);
    seen.completion = stream.headers.find("x-completion-id").map(str::to_owned);
    if !streamed {
        seen.whole = stream.into_answer().is_ok();
        let _ = events.send(());
        return seen;
    }
    while let Ok(Some(event)) = stream.try_event() {
        seen.whole = event.is_done();
        let _ = events.send(());
    }
    seen
}

fn seed() -> u64 {
    let given = std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    given.unwrap_or(u64::from(now.subsec_nanos()))
}

#[test]
fn killed_at_any_moment_it_loses_no_finished_turn_and_charges_none_twice() {
    let seed = seed();
    println!("CRASH_SEED={seed} repeats this run");
    let mut random = Random(seed);
    let mut app = App::start();
    app.upstream.choose(|request| {
        let reply = Reply { pieces: vec![request.last_text(); PIECES], ..Reply::says(&[]) };
        reply.usage(7, PIECES as i64).gap(Duration::from_millis(2)).into()
    });
    let mut all: Vec<Seen> = Vec::new();
    for round in 0..ROUNDS {
        // The server is killed after so many events, so the moment does not depend on the machine's speed.
        let events_before_the_kill = random.below(CLIENTS * (PIECES as u64 + 4));
        let (events, seen_events) = mpsc::channel();
        let streamed: Vec<bool> = (0..CLIENTS).map(|_| random.below(4) > 0).collect();
        let seen: Vec<Seen> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let (session, text) = (format!("s-{round}-{number}"), format!("t-{round}-{number} "));
                    let streamed = streamed[number as usize];
                    let more = json!({"session_id": session, "stream": streamed, "max_tokens": 100});
                    let (call, events) = (app.chat_call(&app.saying(&text, more)), events.clone());
                    scope.spawn(move || client(&call, session, text, streamed, &events))
                })
                .collect();
            drop(events);
            for _ in 0..events_before_the_kill {
                if seen_events.recv().is_err() {
                    break;
                }
            }
            app.kill();
            clients.into_iter().map(|client| client.join().expect("a client")).collect()
        });
        all.extend(seen);
        app.start_again();
        app.verify_ledger();
        assert_eq!(app.balance().held, 0, "money stays held after round {round}");
    }
    check(&app, &all);
    app.finish();
}

fn check(app: &App, all: &[Seen]) {
    let charges = app.charges();
    let mut count: HashMap<&str, usize> = HashMap::new();
    for charge in &charges {
        *count.entry(charge["completion_id"].as_str().unwrap_or_default()).or_default() += 1;
    }
    assert!(count.values().all(|times| *times == 1), "a turn is charged twice: {count:?}");
    for seen in all.iter().filter(|seen| seen.whole) {
        let id = seen.completion.as_deref().expect("a whole answer has an id");
        assert_eq!(count.get(id), Some(&1), "the finished turn {id} is not charged");
        let path = format!("/v2/sessions/{}/messages", seen.session);
        let stored = app.get(&app.account_key, &path).ok();
        let contents: Vec<_> =
            (0..2).map(|at| stored["messages"][at]["content"].as_str().unwrap_or("")).collect();
        assert_eq!(contents, [seen.text.as_str(), seen.text.repeat(PIECES).as_str()]);
    }
    let whole = all.iter().filter(|seen| seen.whole).count();
    println!("{} turns, {whole} of them finished, {} charged", all.len(), charges.len());
    let spent: i64 = charges.iter().map(|charge| nanos(&charge["delta"])).sum();
    assert_eq!(app.balance().balance, START + spent);
    let most = 7 * 1000 + PIECES as i64 * 2000;
    assert!(
        charges.iter().all(|charge| -nanos(&charge["delta"]) <= most),
        "more is charged than was generated"
    );
}

#[test]
fn a_long_stream_that_a_crash_cuts_is_charged_for_what_was_marked() {
    let mut app = App::start();
    let gate = app.upstream.gate();
    let long = Reply::long(60).gap(Duration::from_millis(100)).pause_after(55, &gate);
    app.upstream.next(long);
    let mut stream = app.stream("Hello", json!({"session_id": "s", "max_tokens": 500}));
    let mut text = String::new();
    while !text.ends_with("w54 ") {
        text.push_str(stream.chunk()["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    app.kill();
    app.start_again();
    assert_eq!(app.balance().held, 0);
    let charges = app.charges();
    assert_eq!(charges.len(), 1, "a stream of more than five seconds has been marked");
    let output = charges[0]["output_tokens"].as_i64().unwrap_or_default();
    assert!((1..=110).contains(&output), "55 words or fewer are counted as {output} tokens");
    let stored = app.get(&app.account_key, "/v2/sessions/s/messages").ok();
    assert_eq!(stored["messages"][0]["content"], "Hello");
    assert_eq!(stored["messages"][1]["status"], "incomplete");
    app.say("two", json!({"session_id": "s"}));
    app.finish();
}

#[test]
fn a_crash_before_anything_came_gives_the_money_back() {
    let mut app = App::start();
    app.upstream.next(crate::script::Script::Silence);
    let connection =
        app.chat_call(&app.saying("Hello", json!({"stream": true}))).connect().expect("a connection");
    app.upstream.wait_for_requests(1);
    assert!(app.balance().held > 0, "nothing is held while the provider is asked");
    app.kill();
    drop(connection);
    app.start_again();
    let balance = app.balance();
    assert_eq!((balance.held, balance.balance), (0, START));
    assert!(app.charges().is_empty());
    app.finish();
}
