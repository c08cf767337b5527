//! Random turns, conflicts, leaving, coming back, cancelling, forks, cuts and deletions, interleaved, against a plain
//! model: whatever happens, each session has exactly its own messages in order, every reader of a stream the same
//! events, and every turn its one charge. The provider is led step by step, so that nothing depends on time.
//!
//! `WEAVE_SEED=n` follows one seed, `WEAVE_SEEDS=n` that many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::random::Random;
use crate::weave_world::World;

const SEEDS: u64 = 6;
const STEPS: usize = 140;
/// Seeds that are followed at once: they wait for the disk and for each other most of the time.
const AT_ONCE: u64 = 3;
/// How likely each move is, in the order in which `follow` names them.
const MIXED: [u64; 14] = [26, 24, 10, 9, 8, 4, 10, 4, 4, 3, 2, 2, 2, 2];
/// The same where turns are asked for faster than they end.
const CROWDED: [u64; 14] = [52, 10, 5, 4, 5, 1, 3, 1, 2, 4, 0, 2, 2, 1];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

fn follow(seed: u64) {
    println!("WEAVE_SEED={seed}");
    let mut random = Random::new(seed);
    let mut world = World::new(seed);
    world.crowded = seed % 3 == 2;
    let weights = if world.crowded { CROWDED } else { MIXED };
    let idle_at = random.below(STEPS as u64) as usize;
    for step in 0..STEPS {
        if step == idle_at {
            world.wait_until_the_idle_leave_memory();
        }
        match random.weighted(&weights) {
            0 => world.start(&mut random),
            1 => world.go_on(&mut random),
            2 => world.read(&mut random),
            3 => world.leave(&mut random),
            4 => world.come_back(&mut random),
            5 => world.cancel(&mut random),
            6 => world.finish(&mut random),
            7 => world.fail(&mut random),
            8 => world.read_again(&mut random),
            9 => world.rename(&mut random),
            10 => world.archive(&mut random),
            11 => world.fork(&mut random),
            12 => world.truncate(&mut random),
            _ => world.delete(&mut random),
        }
        world.check();
    }
    world.end();
}

#[test]
fn whatever_is_interleaved_history_order_streams_and_charges_are_right() {
    if let Some(seed) = number("WEAVE_SEED") {
        return follow(seed);
    }
    let (seeds, next) = (number("WEAVE_SEEDS").unwrap_or(SEEDS), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds {
                        return;
                    }
                    follow(seed);
                }
            });
        }
    });
}
