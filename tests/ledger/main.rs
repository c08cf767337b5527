//! The ledger on SQLite against a plain model of it: the same moves, drawn at random from a seed, done to both.
//!
//! After every step each balance, budget, session, hold, entry and charge is what the model says; after every
//! commit each invariant of `ledger verify` holds; after every crash each column is what was committed. A failure
//! prints its seed and its last moves. In the environment: `LEDGER_SEED=n` repeats one run, `LEDGER_SEEDS=n` and
//! `LEDGER_STEPS=n` make a longer soak (504 seeds of 200 steps unless told otherwise). With any of them the
//! invariants are checked after every step too, inside the open transaction.

mod at_once;
mod choose;
mod compare;
mod database;
mod holds;
mod model;
mod moves;
mod random;
mod recomputed;
mod simulation;
mod words;

use simulation::{Simulation, Tally};

const SEEDS: u64 = 504;
const STEPS: u64 = 200;
/// Tests that share the seeds, so that they run at the same time.
const SHARES: u64 = 8;

/// What has to come about in each share of the normal run, or the run proves less than it says.
const REMARKABLE: [&str; 46] = [
    "a batch was lost with its process",
    "a batch was made again piece by piece",
    "a budget began anew",
    "a budget began anew under an open hold",
    "a charge was less than its hold",
    "a call was not served at the dearest price",
    "a charge was zero",
    "a cost above the hold was paid from the rest",
    "a cost was written off in part",
    "a crash left a call of which nothing was received",
    "a crash left a call that was not served at the dearest price",
    "a crash left a call that had come far enough to be charged",
    "a fallback was dearer than the first choice",
    "a hold was used up exactly",
    "a lack of money was told",
    "a low balance was told",
    "a payment was told twice",
    "a price changed while a call ran",
    "a recovery came twice",
    "a recovery died before its commit",
    "a release came after the settle",
    "a release came twice",
    "a settle came after the recovery",
    "a settle came after the release",
    "a settle came twice",
    "a start died between recovery and its run",
    "a turn was charged whose session is gone",
    "a used-up budget was told",
    "an agent was deleted under an open hold",
    "an answer was shortened to what can be paid",
    "asked again: Answered",
    "asked again: Mismatch",
    "asked again: Running",
    "asked again: Unknown",
    "marks grew",
    "marks that shrank were ignored",
    "refused: AgentGone",
    "refused: Balance",
    "refused: BelowNothing",
    "refused: BeyondMoney",
    "refused: Budget",
    "refused: Constraint",
    "refused: OtherPayment",
    "refused: Running",
    "refused: Suspended",
    "the budget of a key came or went under an open hold",
];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Runs one share of the seeds.
fn follow(share: u64) {
    let asked = ["LEDGER_SEED", "LEDGER_SEEDS", "LEDGER_STEPS"].iter().any(|name| number(name).is_some());
    let steps = number("LEDGER_STEPS").unwrap_or(STEPS);
    if let Some(seed) = number("LEDGER_SEED") {
        if seed % SHARES == share {
            println!("{:?}", Simulation::run(seed, steps, asked).tally);
        }
        return;
    }
    let seeds = number("LEDGER_SEEDS").unwrap_or(SEEDS);
    let mut tally = Tally::new();
    for seed in (0..seeds).filter(|seed| seed % SHARES == share) {
        let mut run = Simulation::run(seed, steps, asked);
        for (what, times) in std::mem::take(&mut run.tally) {
            *tally.entry(what).or_default() += times;
        }
    }
    println!("{tally:?}");
    if seeds >= SEEDS && steps >= STEPS {
        let missed: Vec<_> = REMARKABLE.iter().filter(|what| !tally.contains_key(**what)).collect();
        assert!(missed.is_empty(), "never came about: {missed:?}");
    }
}

macro_rules! shares {
    ($($name:ident = $share:literal;)*) => {$(
        #[test]
        fn $name() {
            follow($share);
        }
    )*};
}

shares! {
    the_ledger_follows_its_model_whatever_happens_1_of_8 = 0;
    the_ledger_follows_its_model_whatever_happens_2_of_8 = 1;
    the_ledger_follows_its_model_whatever_happens_3_of_8 = 2;
    the_ledger_follows_its_model_whatever_happens_4_of_8 = 3;
    the_ledger_follows_its_model_whatever_happens_5_of_8 = 4;
    the_ledger_follows_its_model_whatever_happens_6_of_8 = 5;
    the_ledger_follows_its_model_whatever_happens_7_of_8 = 6;
    the_ledger_follows_its_model_whatever_happens_8_of_8 = 7;
}
