//! Twice as much as there is room for. What room there is, is said by the configuration, and answers end when the test
//! says so; so nothing here depends on how fast the machine is.

use std::cell::Cell;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use crate::app::{App, Setup, eventually};
use crate::client::{Answer, PATIENCE, Stream};
use crate::database::WriteLock;
use crate::metrics::{read, value};
use crate::script::{Reply, Script};
use crate::upstream::End;

/// Turns that may begin however long they take for it.
const BEGINNING: usize = 256;

/// What there is room for.
const ROOM: usize = 16;

/// A streamed chat in a session of its own.
fn body(app: &App) -> Value {
    app.saying("Hello", json!({"stream": true, "max_tokens": 100}))
}

/// So many chats at the same moment; the streams that began, and the refusals.
fn rush(app: &App, count: usize) -> (Vec<Stream>, Vec<Answer>) {
    let call = app.chat_call(&body(app));
    let all: Vec<Stream> = thread::scope(|scope| {
        let clients: Vec<_> = (0..count).map(|_| scope.spawn(|| call.open())).collect();
        clients.into_iter().map(|client| client.join().expect("an answer")).collect()
    });
    let (begun, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(|stream| stream.status == 200);
    (begun, refused.into_iter().map(|stream| stream.into_answer().expect("a whole refusal")).collect())
}

/// So many plain chats at the same moment while nothing can be written, until the first of them has an answer; all of
/// their answers.
fn rush_at_a_locked_database(app: &App, count: usize) -> Vec<Answer> {
    let call = app.chat_call(&app.saying("Hello", json!({"max_tokens": 100})));
    let (told, first) = mpsc::channel();
    let lock = WriteLock::take(app);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..count)
            .map(|_| {
                let (call, told) = (&call, told.clone());
                scope.spawn(move || {
                    let answer = call.send();
                    // Only the first one is waited for.
                    let _ = told.send(());
                    answer
                })
            })
            .collect();
        first.recv().expect("an answer");
        drop(lock);
        clients.into_iter().map(|client| client.join().expect("an answer")).collect()
    })
}

/// The server's resident memory in bytes.
fn resident(app: &App) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", app.pid())).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

/// Each of these ends whole.
fn all_end(streams: &mut [Stream]) {
    for stream in streams {
        assert!(stream.rest().last().is_some_and(|event| event.is_done()), "a stream that began is whole");
    }
}

#[test]
fn at_twice_the_turns_half_is_refused_at_once_and_the_other_half_is_answered() {
    let app = Setup::default().arg("--max-turns").arg(&ROOM.to_string()).start();
    for round in 1..=3 {
        let gate = app.upstream.gate();
        app.upstream.always(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
        // The gate is closed, so nobody's turn can end: who is refused was not kept waiting for a place.
        let (mut begun, refused) = rush(&app, 2 * ROOM);
        assert_eq!((begun.len(), refused.len()), (ROOM, ROOM));
        for answer in refused {
            answer.refused(429, "concurrency", "rate_limit_exceeded");
            assert!((1..=60).contains(&answer.headers.number("retry-after")));
        }
        assert_eq!(app.upstream.asked(), round * ROOM, "the provider hears of no other");
        gate.open();
        all_end(&mut begun);
        eventually("no turn runs any more", || {
            (value(&read(&app), "switchboard_turns_running{stream=\"true\"}") == Some(0.0)).then_some(())
        });
    }
    assert_eq!(app.settled().held, 0);
    assert_eq!(app.charges().len(), 3 * ROOM);
    app.finish();
}

#[test]
fn more_turns_than_will_begin_in_time_are_refused_at_once_and_the_others_are_answered() {
    let app = Setup::default().arg("--max-start-wait").arg("1").start();
    app.upstream.always(Reply::says(&["Hello"]));
    app.chat_call(&app.saying("Hello", json!({}))).send().ok();
    // A machine that lets fewer begin while the lock is waited for shows nothing.
    let before = Cell::new(0);
    let answers = eventually("enough turns begin while the database is locked", || {
        before.set(app.upstream.asked());
        let answers = rush_at_a_locked_database(&app, BEGINNING + 4 * ROOM);
        let too_slow =
            answers.iter().any(|answer| answer.status == 503 && answer.headers.number("retry-after") > 1);
        (!too_slow).then_some(answers)
    });
    let (answered, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert!(!refused.is_empty() && !answered.is_empty(), "{} and {}", answered.len(), refused.len());
    for answer in refused {
        answer.refused(503, "server_error", "overloaded");
        assert_eq!(answer.headers.number("retry-after"), 1);
    }
    assert_eq!(app.settled().held, 0);
    assert_eq!(app.upstream.asked() - before.get(), answered.len(), "the provider hears of no other");
    assert!(app.charges().len() >= answered.len(), "each of them is charged");
    let call = app.chat_call(&app.saying("Hello", json!({})));
    eventually("there is room again", || Some(call.send()).filter(|answer| answer.status == 200));
    app.finish();
}

#[test]
fn refusals_without_end_neither_delay_the_answers_that_run_nor_take_memory() {
    let app = Setup::default().arg("--max-turns").arg("2").start();
    let (leash, other) = (app.upstream.leash(), app.upstream.leash());
    let reply = Reply::long(40);
    for leash in [&leash, &other] {
        leash.let_out(1);
        app.upstream.next(Script::Led(Box::new(reply.clone()), leash.clone()));
    }
    let call = app.chat_call(&body(&app));
    let (mut led, still) = (call.open().ok(), call.open().ok());
    let held = app.balance().held;
    let refuse = |times: usize| (0..times).for_each(|_| assert_eq!(call.send().status, 429));
    refuse(300);
    let before = resident(&app);
    thread::scope(|scope| {
        let crowd: Vec<_> = (0..4).map(|_| scope.spawn(|| refuse(400))).collect();
        // Piece by piece, each of which comes only after the one before it was read: nothing waits behind the crowd.
        led.chunk();
        for piece in 0..40 {
            leash.let_out(piece + 2);
            assert_eq!(led.chunk()["choices"][0]["delta"]["content"], format!("w{piece} "));
        }
        crowd.into_iter().for_each(|one| one.join().expect("refusals"));
    });
    let grown = resident(&app).saturating_sub(before);
    assert!(grown < 12 << 20, "1600 refusals took {grown} bytes");
    let metrics = read(&app);
    assert_eq!(value(&metrics, "switchboard_sessions_resident"), Some(2.0), "no session for a refusal");
    assert_eq!(value(&metrics, "switchboard_holds_open"), Some(2.0));
    assert_eq!(app.balance().held, held, "nothing is held for a refusal");
    for leash in [&leash, &other] {
        leash.let_out(41);
        leash.end(End::Whole);
    }
    all_end(&mut [led, still]);
    eventually("a place is free", || Some(call.send()).filter(|answer| answer.status == 200));
    app.finish();
}

#[test]
fn a_provider_with_all_its_places_taken_is_told_of_at_once_and_asked_again_at_once() {
    let app = Setup::default().in_file(&format!("max_concurrency = {ROOM}")).start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    let (mut begun, refused) = rush(&app, 2 * ROOM);
    assert_eq!((begun.len(), refused.len()), (ROOM, ROOM));
    for answer in refused {
        answer.refused(503, "server_error", "overloaded");
        assert!((1..=60).contains(&answer.headers.number("retry-after")));
    }
    assert_eq!(app.upstream.asked(), ROOM);
    gate.open();
    all_end(&mut begun);
    let (mut again, refused) = eventually("all places are free", || {
        let listed = app.get(&app.operator_token, "/admin/providers").ok();
        (listed["providers"][0]["running"] == 0).then(|| rush(&app, ROOM))
    });
    assert!(refused.is_empty(), "{}", refused[0].text());
    all_end(&mut again);
    assert_eq!(app.settled().held, 0);
    assert_eq!(app.charges().len(), 2 * ROOM);
    app.finish();
}

#[test]
fn at_twice_the_rate_half_is_refused_with_the_time_to_wait_and_costs_nothing() {
    let limits = format!("requests_per_minute={}", 6 * ROOM);
    let app = Setup::default().with_default_limits().arg("--default-limits").arg(&limits).start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    // A burst is a sixth of the limit, and one comes back every 625 ms while the clients connect.
    let (mut begun, refused) = rush(&app, 2 * ROOM);
    assert!(begun.len() >= ROOM && !refused.is_empty(), "{} and {}", begun.len(), refused.len());
    for answer in &refused {
        answer.refused(429, "requests", "rate_limit_exceeded");
        assert_eq!(answer.headers.number("retry-after"), 1);
    }
    assert_eq!(app.upstream.asked(), begun.len());
    gate.open();
    all_end(&mut begun);
    let call = app.chat_call(&body(&app));
    eventually("the rate allows one more", || Some(call.send()).filter(|answer| answer.status == 200));
    app.finish();
}

#[test]
fn at_twice_the_connections_each_further_one_is_refused_and_closed_while_the_others_are_served() {
    let app = Setup::default().arg("--max-connections").arg(&ROOM.to_string()).start();
    let connect = || {
        let stream = TcpStream::connect(&app.addr).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    };
    // One place is left for the chat that goes on.
    let kept: Vec<TcpStream> = (1..ROOM).map(|_| connect()).collect();
    let gate = app.upstream.gate();
    app.upstream.next(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    let mut served = eventually("the last place is taken", || {
        Some(app.chat_call(&body(&app)).open()).filter(|stream| stream.status == 200)
    });
    for _ in 0..ROOM {
        let mut told = String::new();
        // It may close before it has read what was never sent; what it said is there all the same.
        let _ = connect().read_to_string(&mut told);
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("overloaded"), "{told:?}");
    }
    gate.open();
    assert!(served.rest().last().is_some_and(|event| event.is_done()));
    drop((served, kept));
    eventually("connections are taken again", || {
        let answer = app.call("GET", "/livez").send();
        (answer.status == 200).then_some(())
    });
    app.finish();
}

#[test]
fn a_client_that_goes_on_at_once_finds_its_own_place_free() {
    let app = Setup::default().arg("--max-turns").arg("1").start();
    let call = app.chat_call(&body(&app));
    for turn in 0..200 {
        let mut stream = call.open();
        assert_eq!(stream.status, 200, "turn {turn}");
        while !stream.event().expect("the stream goes on").is_done() {}
    }
    app.finish();
}
