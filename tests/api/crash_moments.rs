//! Killed at random moments: 1,000 times, or as often as fits in three minutes (`CRASH_SECONDS` says otherwise), and
//! 10,000 times with `SOAK=1`. `CRASH_SEED` repeats a run as far as the machine's timing allows.

use std::collections::HashSet;
use std::env;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::app::{App, kill_at_once};
use crate::crash_load::{Load, Tally, check, echo};
use crate::crashes::Random;
use crate::database::Snapshot;

const SHORT: Load = Load { clients: 8, turns: 2 };
const PIECES: usize = 12;
/// Now and then the answers are so long that checkpoints are written.
const LONG: Load = Load { clients: 8, turns: 1 };
const LONG_PIECES: usize = 700;
/// One in so many.
const LONG_ROUNDS: u64 = 16;
/// What is killed in one data directory, before the next begins: so that checking it stays quick.
const KILLS_OF_ONE: usize = 100;
const KILLS: usize = 1_000;
const SOAK_KILLS: usize = 10_000;
/// How long it goes on unless told otherwise or in a soak, in seconds.
const SECONDS: u64 = 180;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn killed_at_random_moments_it_loses_doubles_and_overcharges_nothing() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = number("CRASH_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let soak = number("SOAK") == Some(1);
    let until = Instant::now() + Duration::from_secs(number("CRASH_SECONDS").unwrap_or(SECONDS));
    println!("CRASH_SEED={seed} repeats this run");
    let (mut random, mut tally, mut kills) = (Random(seed), Tally::default(), 0);
    let goes_on = |kills| if soak { kills < SOAK_KILLS } else { kills < KILLS && Instant::now() < until };
    while goes_on(kills) {
        let mut app = App::start();
        let asked = Mutex::new(HashSet::new());
        app.upstream.choose(move |request| {
            // What is asked once more after a crash has proved enough already, and is short.
            let new = asked.lock().unwrap_or_else(PoisonError::into_inner).insert(request.last_text());
            match new && request.last_text().starts_with("long") {
                true => echo(request, LONG_PIECES).gap(Duration::from_millis(6)).into(),
                false => echo(request, PIECES).gap(Duration::from_millis(1)).into(),
            }
        });
        let first = kills;
        while goes_on(kills) && kills < first + KILLS_OF_ONE {
            kills += kill_once(&mut app, &mut random, kills, &mut tally);
        }
        app.finish();
    }
    let Tally { turns, whole, released, recovered, replayed, most_lost } = tally;
    println!(
        "CRASH_SEED={seed}: {kills} kills, {turns} turns, {whole} of them seen whole, {released} released, \
         {recovered} charged at their marks, {replayed} given again after the kill, at most {most_lost} tokens of \
         one call lost; 0 lost, 0 doubled, 0 overcharged"
    );
}

/// Kills the server in the middle of its work, sometimes once more while it starts again, and checks the books.
fn kill_once(app: &mut App, random: &mut Random, round: usize, tally: &mut Tally) -> usize {
    app.upstream.forget_requests();
    let (load, name, pieces) = match random.below(LONG_ROUNDS) {
        0 => (LONG, "long", LONG_PIECES),
        _ => (SHORT, "short", PIECES),
    };
    // So many events, and a little more: within one write as well as between two.
    let events_before = random.below((load.clients * load.turns * pieces) as u64);
    let pause = Duration::from_micros(random.below(3_000));
    let (events, seen) = mpsc::channel();
    let pid = app.pid();
    let ran = load.run(app, &format!("{name}-{round}"), events, || {
        for _ in 0..events_before {
            // There are fewer when all clients are done.
            if seen.recv().is_err() {
                break;
            }
        }
        thread::sleep(pause);
        kill_at_once(pid);
    });
    app.wait_for_exit();
    let died = Instant::now();
    let before = Snapshot::dead(app);
    let mut kills = 1;
    while random.below(4) == 0 {
        app.begin_again();
        thread::sleep(Duration::from_micros(random.below(150_000)));
        app.kill();
        kills += 1;
    }
    app.start_again();
    check(app, &before, &ran, died, tally);
    kills
}
