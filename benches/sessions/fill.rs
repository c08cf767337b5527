//! A tenant, and very many sessions of his, made in bulk.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use switchboard::conversation::agent::{Agent, Definition};
use switchboard::store::account::AccountRow;
use switchboard::store::{account, agent};

pub const ACCOUNT: &str = "acct_bench";
pub const AGENT: &str = "ag_bench";
/// Sessions that one transaction makes.
const AT_ONCE: u64 = 50_000;

/// What the session with that number is called.
pub fn name(number: u64) -> String {
    format!("sess_{number:020}")
}

/// An account with an agent.
pub fn tenant(conn: &mut SqliteConnection) -> anyhow::Result<()> {
    let row = AccountRow {
        account_id: ACCOUNT.to_owned(),
        name: "bench".to_owned(),
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
    };
    account::insert(conn, &row)?;
    let definition = Definition { name: "bench".to_owned(), ..Definition::default() };
    let agent = Agent { id: AGENT.into(), account: ACCOUNT.into(), definition, created_at: 0, updated_at: 0 };
    Ok(agent::insert(conn, &agent)?)
}

/// Makes the sessions from number `there` up to number `wanted`, of one turn each. One in ten has a note, one in a
/// hundred is archived.
pub fn sessions(conn: &mut SqliteConnection, there: u64, wanted: u64) -> anyhow::Result<()> {
    let mut from = there;
    while from < wanted {
        let to = wanted.min(from + AT_ONCE);
        conn.immediate_transaction(|conn| conn.batch_execute(&statements(from, to)))?;
        from = to;
    }
    Ok(())
}

fn statements(from: u64, to: u64) -> String {
    let (said, answered) = (super::user("hello"), super::answer("hello"));
    let last = to - 1;
    format!(
        "CREATE TEMP TABLE made AS WITH RECURSIVE n(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM n WHERE n < {last})
           SELECT n, 1 + (SELECT COALESCE(MAX(id), 0) FROM message) + 2 * (n - {from}) AS first FROM n;
         INSERT INTO message (id, seq, turn_seq, body, created_at)
           SELECT first, 1, 2, '{said}', 1 FROM made;
         INSERT INTO message (id, previous_id, seq, turn_seq, body, created_at, completion_id, hold_id, status)
           SELECT first + 1, first, 2, 2, '{answered}', 1, 'chatcmpl-' || lower(hex(randomblob(11))), 'hold', 'complete' FROM made;
         INSERT INTO session (account_id, agent_id, name, named_by, status, head, created_at, updated_at, message_id,
                              title, metadata)
           SELECT '{ACCOUNT}', '{AGENT}', printf('sess_%020d', n), 'server',
           CASE WHEN n % 100 = 0 THEN 'archived' ELSE 'active' END, 2, 1, 1, first + 1, 'hello',
           CASE WHEN n % 10 = 0 THEN '{{\"plan\":\"paid\"}}' END FROM made;
         INSERT INTO session_metadata (session_id, account_id, name, value)
           SELECT s.id, '{ACCOUNT}', 'plan', 'paid' FROM made m JOIN session s ON s.account_id = '{ACCOUNT}'
           AND s.agent_id = '{AGENT}' AND s.name = printf('sess_%020d', m.n) WHERE m.n % 10 = 0;
         UPDATE account SET session_count = session_count + (SELECT COUNT(*) FROM made) WHERE account_id = '{ACCOUNT}';
         DROP TABLE made;"
    )
}
