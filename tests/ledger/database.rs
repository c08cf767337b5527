//! A ledger in a directory of its own, driven through the store's functions in the writer's shape.
//!
//! One immediate transaction for a batch, a savepoint for each piece of work in it.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::prelude::*;
use switchboard::conversation::agent::{Agent, Definition};
use switchboard::error::Error;
use switchboard::store::account::AccountRow;
use switchboard::store::api_key::KeyRow;
use switchboard::store::hold::{Closed, Memory, Recovered};
use switchboard::store::ledger_entry::NewEntry;
use switchboard::store::request_key;
use switchboard::store::webhook::{self, WebhookRow};
use switchboard::store::writer::WriteError;
use switchboard::store::{account, agent, api_key, connection, epoch, hold, ledger_entry, price, session};
use tempfile::TempDir;

use crate::compare;
use crate::moves::{HOLD_LIFE, Known, Move, Outcome, SessionKey};
use crate::words::{idempotency, new_hold, refusal, served, settlement, store_price};

/// A database and the only connection to it.
pub struct Database {
    dir: TempDir,
    conn: Option<SqliteConnection>,
}

impl Database {
    /// An empty one.
    pub fn new() -> Self {
        // Made once by the migrations; each further database begins as a copy.
        static TEMPLATE: OnceLock<Vec<u8>> = OnceLock::new();
        let dir = tempfile::tempdir().expect("a directory for a database");
        let file = connection::database_file(dir.path());
        let template = TEMPLATE.get_or_init(|| {
            compare::prepare(&mut connection::open_writer(&file).expect("a database"));
            fs::read(&file).expect("a database in one file")
        });
        fs::write(&file, template).expect("a copied database");
        let mut new = Self { dir, conn: None };
        new.open();
        new
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The connection.
    pub fn conn(&mut self) -> &mut SqliteConnection {
        self.conn.as_mut().expect("an opened database")
    }

    fn open(&mut self) {
        let file = connection::database_file(self.dir.path());
        let mut conn = connection::open_writer(&file).expect("the database opens");
        // The machine itself does not fail here, so nothing has to reach the disk.
        conn.batch_execute("PRAGMA synchronous = OFF;").expect("a setting");
        self.conn = Some(conn);
    }

    /// Closes the connection in order, which leaves one file.
    pub fn close(&mut self) {
        self.conn = None;
    }

    /// The process dies, with whatever transaction was open, and another one opens the database.
    pub fn crash(&mut self) {
        self.conn = None;
        self.open();
    }

    /// Begins a batch.
    pub fn begin(&mut self) {
        AnsiTransactionManager::begin_transaction_sql(self.conn(), "BEGIN IMMEDIATE").expect("a transaction");
    }

    /// Makes a batch last.
    pub fn commit(&mut self) {
        AnsiTransactionManager::commit_transaction(self.conn()).expect("a commit");
    }

    /// Undoes a batch, as the writer does after a panic in it.
    pub fn roll_back(&mut self) {
        AnsiTransactionManager::rollback_transaction(self.conn()).expect("a rollback");
    }

    /// Runs a piece of work in its savepoint.
    pub fn apply(&mut self, step: &Move, (now, own_epoch): (i64, i64)) -> Outcome {
        let outcome = self.conn().transaction(|conn| run(conn, step, now, own_epoch));
        outcome.unwrap_or_else(|refused| Outcome::Refused(refusal(refused)))
    }

    /// Closes what an earlier run left open: how many were charged and released.
    pub fn recover(&mut self, now: i64) -> (usize, usize) {
        let done = self.conn().transaction(|conn| hold::recover(conn, now));
        let Recovered { settled, released, .. } = done.expect("recovery never fails");
        (settled, released)
    }

    /// Begins another run.
    pub fn begin_epoch(&mut self, now: i64) -> i64 {
        self.conn().transaction(|conn| epoch::begin(conn, "test", now)).expect("a run of the server")
    }

    /// Ends a run in order.
    pub fn end_epoch(&mut self, own: i64, now: i64) {
        self.conn().transaction(|conn| epoch::end(conn, own, now)).expect("an end of the run");
    }

    /// Adds an account with nothing in it.
    pub fn add_account(&mut self, id: &str, now: i64) {
        let row = AccountRow {
            account_id: id.to_owned(),
            name: id.to_owned(),
            status: "active".to_owned(),
            limits: "{}".to_owned(),
            last_seq: 0,
            available: 0,
            held: 0,
            agent_count: 0,
            session_count: 0,
            created_at: now,
            retention_days: None,
            closed_at: None,
        };
        account::insert(self.conn(), &row).expect("an account");
    }
}

fn run(conn: &mut SqliteConnection, step: &Move, now: i64, own_epoch: i64) -> Result<Outcome, WriteError> {
    Ok(match step {
        Move::Reserve(wish) => {
            // What is told of a refusal is committed, so a refusal can come as a value.
            match hold::reserve_or_tell(conn, &mut Memory::default(), &new_hold(wish, now, own_epoch))? {
                Ok(granted) => Outcome::Granted { amount: granted.amount.0, max_output: granted.max_output },
                Err(told) => Outcome::Refused(refusal(WriteError::Refused(told))),
            }
        }
        Move::Settle(end) => {
            let Closed { charged, written_off, balance, usage, .. } =
                hold::settle(conn, &end.hold, &settlement(end), None, now)?;
            let usage = (usage.prompt, usage.cached, usage.output);
            Outcome::Closed { charged: charged.0, written_off: written_off.0, balance: balance.0, usage }
        }
        Move::Release { hold, why } => hold::release(conn, hold, why, now).map(|()| Outcome::Done)?,
        Move::Checkpoint { hold, prompt, output, served: by, said } => {
            let marks =
                switchboard::conversation::usage::Usage { prompt: *prompt, cached: 0, output: *output };
            let said = said.as_ref().map(|said| format!("[{}]", said.join(",")));
            let by = by.as_ref().map(served);
            hold::checkpoint(conn, hold, (marks, by.as_ref()), said.as_deref(), now + HOLD_LIFE)
                .map(|()| Outcome::Done)?
        }
        Move::AskAgain { account, key, again } => {
            Outcome::Known(match request_key::find(conn, (account, key), &idempotency(again), now)? {
                request_key::Known::Unknown => Known::Unknown,
                request_key::Known::Running => Known::Running,
                request_key::Known::Mismatch => Known::Mismatch,
                request_key::Known::Answered(kept) => Known::Answered {
                    answer: kept.answer,
                    tokens: kept.tokens,
                    charged: kept.charged,
                    balance: kept.balance,
                },
            })
        }
        Move::Credit { account, reference, amount } => {
            if let Some(earlier) = ledger_entry::by_reference(conn, "topup", reference)? {
                if earlier.account_id != *account || earlier.delta != *amount {
                    return Err(Error::Mismatch(reference.clone()).into());
                }
                let (seq, balance_after) = (earlier.seq, earlier.balance_after);
                return Ok(Outcome::Entry { seq, balance_after, again: true });
            }
            post(conn, account, "topup", Some(reference), *amount, now)?
        }
        Move::Post { account, kind, reference, delta } => {
            post(conn, account, kind, reference.as_deref(), *delta, now)?
        }
        Move::SetStatus { account: id, active } => {
            let status = if *active { "active" } else { "suspended" };
            Outcome::Changed(account::update(conn, id, Some(status), None)?)
        }
        Move::SetPrice(row) => Outcome::Changed(price::insert(conn, &store_price(row))?),
        Move::Watch { account, low } => {
            let row = WebhookRow {
                id: format!("wh_{account}"),
                account_id: account.clone(),
                url: "http://127.0.0.1:9/".to_owned(),
                events: r#"["balance.low","balance.exhausted","budget.exceeded"]"#.to_owned(),
                balance_low: format!("{low:?}"),
                created_at: now,
            };
            webhook::insert(conn, &row).map(|()| Outcome::Done)?
        }
        Move::Unwatch { account } => {
            Outcome::Changed(webhook::delete(conn, account, &format!("wh_{account}"))?)
        }
        Move::AddAgent { account, agent, key } => add_agent(conn, (account, agent, key), now)?,
        Move::DeleteAgent { agent: id } => {
            let owner = agent::find(conn, id)?.map(|own| own.account);
            Outcome::Changed(match owner {
                Some(owner) => {
                    let gone = agent::delete(conn, owner.as_str(), id)?;
                    session::delete_of_agent(conn, owner.as_str(), id, i64::MAX)?;
                    gone
                }
                None => false,
            })
        }
        Move::OpenSession { at: SessionKey { account, agent, name } } => {
            Outcome::Changed(session::ensure(conn, account, agent, name, true, now)?)
        }
        Move::DeleteSession { at: SessionKey { account, agent, name } } => {
            Outcome::Changed(match session::find(conn, account, agent, name)? {
                Some(row) => session::delete(conn, &row)?,
                None => false,
            })
        }
        Move::SetBudget { .. } | Move::Pass { .. } => Outcome::Done,
    })
}

fn post(
    conn: &mut SqliteConnection,
    account: &str,
    kind: &str,
    external_ref: Option<&str>,
    delta: i64,
    now: i64,
) -> Result<Outcome, WriteError> {
    let note = Some("as it was told");
    let new =
        NewEntry { account, kind, external_ref, delta, actor: "operator", note, now, ..NewEntry::default() };
    let entry = ledger_entry::post(conn, &new)?;
    Ok(Outcome::Entry { seq: entry.seq, balance_after: entry.balance_after, again: false })
}

fn add_agent(
    conn: &mut SqliteConnection,
    (account, id, key): (&str, &str, &str),
    now: i64,
) -> Result<Outcome, WriteError> {
    let definition = Definition { name: id.to_owned(), ..Definition::default() };
    let new = Agent { id: id.into(), account: account.into(), definition, created_at: now, updated_at: now };
    agent::insert(conn, &new)?;
    let row = KeyRow {
        key_id: key.to_owned(),
        kind: "agent".to_owned(),
        account_id: Some(account.to_owned()),
        agent_id: Some(id.to_owned()),
        name: key.to_owned(),
        digest: key.as_bytes().to_vec(),
        last_four: "0000".to_owned(),
        scopes: "[]".to_owned(),
        limits: "{}".to_owned(),
        budget: None,
        public: false,
        created_at: now,
        expires_at: None,
        revoked_at: None,
    };
    api_key::insert(conn, &row)?;
    Ok(Outcome::Done)
}
