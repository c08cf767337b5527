//! Conversations against a plain model: whatever is said, forked, taken back, deleted or outlived, each session has
//! exactly its own messages, and the store keeps none that no session has.
//!
//! `CONVERSATIONS_SEED=n` follows one seed, `CONVERSATIONS_SEEDS=n` that many.

#[path = "../ledger/random.rs"]
#[expect(dead_code, reason = "shared with the tests of the ledger")]
mod random;
mod world;

use random::Random;
use world::World;

const SEEDS: u64 = 24;
const STEPS: usize = 220;
/// How often everything is compared, in steps; a step compares what it touched.
const COMPARED: usize = 20;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

fn follow(seed: u64) {
    println!("CONVERSATIONS_SEED={seed}");
    let mut random = Random::new(seed);
    let mut world = World::new();
    for step in 1..=STEPS {
        match random.below(100) {
            0..30 => world.say(&mut random),
            30..60 => world.send_again(&mut random),
            60..72 => world.fork(&mut random),
            72..84 => world.truncate(&mut random),
            84..94 => world.delete(&mut random),
            94..98 => world.pass(&mut random),
            _ => world.delete_agent(&mut random),
        }
        if step % COMPARED == 0 || step == STEPS {
            world.compare();
        }
    }
}

#[test]
fn every_session_has_its_own_messages_and_nothing_else_is_kept() {
    match number("CONVERSATIONS_SEED") {
        Some(seed) => follow(seed),
        None => (0..number("CONVERSATIONS_SEEDS").unwrap_or(SEEDS)).for_each(follow),
    }
}
