//! What the limiter's plain core costs: memory of a million keys, time of a decision.
//!
//! `cargo bench --bench limits`

use std::hint::black_box;
use std::time::Instant;

use switchboard::auth::api_key::KeyKind;
use switchboard::auth::caller::{Caller, Scopes};
use switchboard::id::{AccountId, KeyId};
use switchboard::rate_limit::limits::ResolvedLimits;
use switchboard::rate_limit::table::{Class, Table};

const KEYS: usize = 999_000;
const ACCOUNTS: usize = 1_000;
const ROUNDS: usize = 2_000_000;

/// A figure of this process's memory, in bytes.
fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells a process's memory");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a figure of that name");
    let kilobytes = line.trim_matches(|other: char| !other.is_ascii_digit());
    kilobytes.parse::<usize>().expect("a number") * 1_024
}

fn caller(key: usize) -> Caller {
    let limits = ResolvedLimits {
        requests_per_minute: Some(600_000),
        tokens_per_minute: Some(1_000_000_000),
        concurrency: Some(100_000),
        management_per_minute: Some(600_000),
    };
    Caller {
        key: KeyId::from(format!("key_{key:012}").as_str()),
        kind: KeyKind::Agent,
        account: AccountId::from(format!("acct_{:08}", key % ACCOUNTS).as_str()),
        agent: None,
        scopes: Scopes::default(),
        public: false,
        suspended: false,
        expires_at: None,
        key_limits: limits,
        account_limits: limits,
        budget: None,
        as_of: 0,
    }
}

/// Nanoseconds of one round: what a turn asks of the limiter, and for how many keys.
fn rounds(table: &mut Table, callers: &[Caller], from: u64) -> [f64; 3] {
    let each = |started: Instant| started.elapsed().as_secs_f64() * 1e9 / ROUNDS as f64;
    let now = |round: usize| from + 100_000 * round as u64;
    let who = |round: usize| &callers[round.wrapping_mul(7_919) % callers.len()];
    let started = Instant::now();
    for round in 0..ROUNDS {
        black_box(table.admit(who(round), Class::Management, now(round))).expect("a high limit");
    }
    let admitted = each(started);
    let started = Instant::now();
    for round in 0..ROUNDS {
        black_box(table.debit(who(round), 10, now(ROUNDS))).expect("a high limit");
    }
    let debited = each(started);
    let started = Instant::now();
    for round in 0..ROUNDS {
        black_box(table.status(who(round), Class::Chat, now(ROUNDS)));
    }
    [admitted, debited, each(started)]
}

fn main() {
    let before = memory("VmRSS:");
    let mut table = Table::new(10_000_000);
    let mut slowest = 0.0_f64;
    for key in 0..KEYS {
        let one = caller(key);
        let started = Instant::now();
        table.admit(&one, Class::Chat, 1).expect("a high limit");
        slowest = slowest.max(started.elapsed().as_secs_f64() * 1e3);
        table.leave(&one, false, 1);
    }
    let (kept, most) = (memory("VmRSS:") - before, memory("VmHWM:") - before);
    let mega = |bytes: usize| bytes as f64 / 1e6;
    println!("{} entries: {:.1} MB, {:.1} MB at most while it grew", table.len(), mega(kept), mega(most));
    println!("the slowest call while it grew: {slowest:.1} ms");
    for (at, number) in (1..).zip([1, 1_000, 100_000]) {
        let callers: Vec<Caller> = (0..number).map(caller).collect();
        let [admit, debit, status] = rounds(&mut table, &callers, at * 1_000_000_000_000);
        println!(
            "{number} keys of a million: admit {admit:.0} ns, debit {debit:.0} ns, headers {status:.0} ns"
        );
    }
    let started = Instant::now();
    table.sweep(1);
    println!("a sweep that keeps them: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let started = Instant::now();
    table.sweep(u64::MAX);
    println!(
        "a sweep that drops them: {:.1} ms; {} are left",
        started.elapsed().as_secs_f64() * 1e3,
        table.len()
    );
    println!("kept after it: {:.1} MB", mega(memory("VmRSS:").saturating_sub(before)));
}
