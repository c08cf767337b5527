//! What is held and charged here, and the accounts that pay.

use std::path::Path;
use std::sync::Arc;

use diesel::prelude::*;
use switchboard::billing::money::Nanos;
use switchboard::billing::price::Price;
use switchboard::clock;
use switchboard::conversation::agent::{Agent, Definition};
use switchboard::conversation::turn::Completeness;
use switchboard::conversation::usage::{Usage, UsageSource};
use switchboard::id::{CompletionId, HoldId, RequestId};
use switchboard::store::account::{self, AccountRow};
use switchboard::store::hold::{Candidate, NewHold, Settlement};
use switchboard::store::ledger_entry::{self, NewEntry};
use switchboard::store::turn::StoredTurn;
use switchboard::store::writer::WriteError;
use switchboard::store::{agent, connection, price, verify};

/// Accounts that the callers share.
pub const ACCOUNTS: usize = 64;

/// What the account `of_caller` shares with others is called.
pub fn account(of_caller: usize) -> String {
    format!("account_{}", of_caller % ACCOUNTS)
}

/// What a caller reserves, in a session of his own.
pub fn hold(caller: usize, price: &Arc<Price>) -> NewHold {
    NewHold {
        id: HoldId::random(),
        account: account(caller).into(),
        key: format!("key_{}", caller % ACCOUNTS).into(),
        budget: None,
        agent: "agent_bench".into(),
        session: format!("session_{}", caller).into(),
        place: None,
        session_by_server: false,
        completion: CompletionId::random(),
        request: RequestId::random(),
        idempotency: None,
        step: 1,
        candidates: vec![Candidate { model: "bench/model".into(), price: price.clone() }],
        prompt_max: 1_000,
        n: 1,
        wanted_output: 500,
        least_output: 500,
        epoch: 1,
        now: clock::now_ms(),
        expires_at: clock::now_ms() + 600_000,
    }
}

/// What it comes to.
pub fn settlement() -> Settlement {
    Settlement {
        usage: Usage { prompt: 700, cached: 100, output: 300 },
        source: UsageSource::Upstream,
        served: None,
        turn: Some(StoredTurn {
            messages: vec![format!(r#"{{"role":"user","content":"{}"}}"#, "ask ".repeat(60))],
            reply: format!(r#"{{"role":"assistant","content":"{}"}}"#, "say ".repeat(120)),
            completeness: Completeness::Complete,
            metadata: None,
            opening: None,
        }),
        summary: None,
        answer: None,
    }
}

/// Accounts with enough money, and a price.
pub fn prepare(conn: &mut SqliteConnection) -> anyhow::Result<Arc<Price>> {
    let of_price = Price {
        id: "price_bench".into(),
        model: "bench/model".to_owned(),
        effective_from: 0,
        input: Nanos(150_000_000),
        cached_input: Nanos(75_000_000),
        output: Nanos(600_000_000),
        per_request: Nanos(0),
    };
    conn.immediate_transaction(|conn| {
        price::insert(conn, &of_price)?;
        for number in 0..ACCOUNTS {
            let id = format!("account_{number}");
            account::insert(
                conn,
                &AccountRow {
                    account_id: id.clone(),
                    name: id.clone(),
                    status: "active".to_owned(),
                    limits: "{}".to_owned(),
                    last_seq: 0,
                    available: 0,
                    held: 0,
                    agent_count: 0,
                    session_count: 0,
                    created_at: 0,
                    retention_days: None,
                    closed_at: None,
                },
            )?;
            let topup = NewEntry {
                account: &id,
                kind: "topup",
                external_ref: Some(&id),
                delta: 1_000_000 * Nanos::DOLLAR.0,
                actor: "bench",
                ..NewEntry::default()
            };
            ledger_entry::post(conn, &topup)?;
        }
        agent::insert(
            conn,
            &Agent {
                id: "agent_bench".into(),
                account: "account_0".into(),
                definition: Definition { name: "bench".to_owned(), ..Definition::default() },
                created_at: 0,
                updated_at: 0,
            },
        )?;
        Ok::<_, WriteError>(())
    })
    .map_err(|cause| anyhow::anyhow!("filling the database: {cause:?}"))?;
    Ok(Arc::new(of_price))
}

/// What was measured has to be right as well.
pub fn sound(file: &Path) -> anyhow::Result<()> {
    let report = verify::run(&mut connection::open_reader(file)?)?;
    anyhow::ensure!(report.ok, "the books are wrong: {:?}", report.checks);
    Ok(())
}
