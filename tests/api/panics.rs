//! A defect in one turn ends that turn and nothing else. Debug builds can be made to have one at a named point.

use std::thread;

use serde_json::json;

use crate::app::{App, Setup, eventually, nanos};
use crate::client::Event;
use crate::crash_load::{START, price};
use crate::database::Snapshot;
use crate::metrics;
use crate::script::{Counts, Reply};

const PIECES: usize = 5;

/// A server that has a defect where it comes to `point` for the `times`-th time.
fn panicking_at(point: &str, times: u64) -> App {
    Setup::default().environment("SWITCHBOARD_FAILPOINT", &format!("{point}:{times}:panic")).start()
}

/// Ends a test in which something panicked, as it had to.
fn finish(mut app: App) {
    app.verify_ledger();
    app.terminate();
    assert_eq!(app.wait_for_exit().code(), Some(0), "the log says:\n{}", app.log());
    let log = app.log();
    assert_eq!(log.matches("panicked at").count(), 1, "{log}");
    assert!(log.contains("a turn ended by a defect"), "{log}");
    app.finish_stopped();
}

/// What the client of the turn sees: a status, or the events of a stream.
enum Seen {
    Status(u16),
    Events(Vec<Event>),
}

/// A turn comes to `point` for the `times`-th time while one of another session runs and one of its own waits.
fn ends_alone(point: &str, times: u64, stream: bool) -> (Seen, Option<i64>) {
    // Of the other session's turn, whose points are counted too.
    let before = match point {
        "reserve committed" | "provider answers" | "delta passed on" => 1,
        _ => 0,
    };
    let app = panicking_at(point, before + times);
    let gate = app.upstream.gate();
    let reply = Reply::long(PIECES).usage(9, PIECES as i64).counts(Counts::OnEveryChunk);
    app.upstream.next(reply.clone().pause_after(0, &gate));
    let mut other = app.stream("Hello", json!({"session_id": "other"}));
    other.chunk();
    let own_gate = app.upstream.gate();
    // It waits before its last piece, so that somebody can wait behind it; a plain one waits anyway.
    app.upstream.next(reply.clone().pause_after(0, &own_gate));
    app.upstream.always(reply);
    let body = |text: &str, stream: bool| app.saying(text, json!({"session_id": "s", "stream": stream}));
    let seen = thread::scope(|scope| {
        let call = app.chat_call(&body("one", stream));
        let own = scope.spawn(move || {
            let mut answer = call.open();
            match answer.status {
                200 if stream => Seen::Events(answer.rest()),
                status => Seen::Status(status),
            }
        });
        let mut waiting = None;
        if point != "reserve committed" {
            app.upstream.wait_for_requests(2);
            let behind = app.chat_call(&body("two", false));
            waiting = Some(scope.spawn(move || behind.send()));
            let answered = || app.upstream.asked() > 2;
            eventually("somebody waits", || {
                let told = metrics::value(&metrics::read(&app), "switchboard_turns_waiting");
                (told == Some(1.0) || answered()).then_some(())
            });
        }
        own_gate.open();
        let seen = own.join().expect("an answer");
        if let Some(waiting) = waiting {
            waiting.join().expect("an answer").is(200);
        }
        seen
    });
    // The session goes on, and so does the other one.
    app.chat(&body("three", false)).is(200);
    gate.open();
    assert!(other.rest().last().is_some_and(Event::is_done), "{point}: another session's turn ends, too");
    let balance = app.settled();
    let now = Snapshot::live(&app);
    assert!(now.in_state("open").next().is_none());
    let said = app.upstream.last().said();
    assert_eq!(said.last().map(|(_, text)| text.as_str()), Some("three"));
    let charges: Vec<i64> = app.charges().iter().map(|row| -nanos(&row["delta"])).collect();
    assert_eq!(balance.balance, START - charges.iter().sum::<i64>());
    let whole = if point == "reserve committed" { 2 } else { 3 };
    let mut charges = charges;
    for _ in 0..whole {
        let at = charges.iter().position(|charge| *charge == price(9, PIECES as i64));
        charges.remove(at.unwrap_or_else(|| panic!("{point}: a whole turn is not charged for: {charges:?}")));
    }
    assert!(charges.len() <= 1, "{point}: a turn is charged for twice: {charges:?}");
    finish(app);
    (seen, charges.pop())
}

fn is_cut(seen: &Seen) {
    let Seen::Events(events) = seen else { panic!("no stream") };
    let last = events.last().expect("events").json();
    assert_eq!(last["error"]["code"], "internal");
    assert!(!events.iter().any(Event::is_done), "a cut answer looks whole");
}

#[test]
fn before_the_first_byte_it_is_an_error_of_ours_and_free() {
    for (point, streams) in [("reserve committed", [false, true]), ("provider answers", [false, true])] {
        for stream in streams {
            let (seen, charge) = ends_alone(point, 1, stream);
            assert!(matches!(seen, Seen::Status(500)), "{point}");
            assert_eq!(charge, None, "{point}");
        }
    }
}

#[test]
fn in_mid_stream_readers_are_told_and_no_more_is_charged_than_had_come() {
    let (seen, charge) = ends_alone("delta passed on", 3, true);
    is_cut(&seen);
    let charge = charge.expect("a charge");
    assert!(charge > 0 && charge <= price(9, 3), "{charge}");
}

#[test]
fn between_the_last_byte_and_the_charge_no_more_is_charged_than_had_come() {
    for stream in [true, false] {
        let (seen, charge) = ends_alone("all received", 1, stream);
        match stream {
            true => is_cut(&seen),
            false => assert!(matches!(seen, Seen::Status(500))),
        }
        assert!(charge.is_none_or(|charge| charge <= price(9, PIECES as i64)), "{charge:?}");
    }
}

#[test]
fn after_the_charge_it_is_charged_once() {
    let (seen, charge) = ends_alone("settle committed", 1, true);
    is_cut(&seen);
    assert_eq!(charge, Some(price(9, PIECES as i64)));
}
