//! Queries on `hold`: the life of a charge, each step one compare-and-set inside the writer's transaction.

mod at_once;
mod memory;
mod reserve;
mod settle;

use std::sync::Arc;

use diesel::prelude::*;

use crate::billing::money::Nanos;
use crate::clock::EpochMs;
use crate::conversation::usage::{Usage, UsageSource};
use crate::id::PriceId;
use crate::store::fixed::Value::{Int, MaybeText, Text};
use crate::store::fixed::{Value, fixed};
use crate::store::schema::hold::dsl::*;
use crate::store::writer::WriteError;
use crate::store::{account as accounts, key_budget, request_key};

pub use at_once::{charge_at_once, charge_at_once_or_tell};
pub use memory::Memory;
pub use reserve::{Candidate, Granted, NewHold, dearest, reserve, reserve_or_tell};
pub use settle::{Closed, Settlement, settle, settle_reserved};

/// Who serves a call, at the price that was in force when its hold was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The provider and its model, for people.
    pub by: Arc<str>,
    /// The model, as usage is told by it.
    pub model: Arc<str>,
    /// The row of the price list.
    pub price: PriceId,
}

/// An open or closed hold.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = crate::store::schema::hold)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct HoldRow {
    pub id: String,
    pub account_id: String,
    pub key_id: String,
    pub agent_id: String,
    pub session_id: String,
    pub completion_id: String,
    pub model: String,
    pub request_id: String,
    pub step: i32,
    pub amount: i64,
    pub price_id: String,
    pub state: String,
    pub reason: Option<String>,
    pub mark_prompt: i64,
    pub mark_output: i64,
    pub pending: Option<String>,
    pub created_at: i64,
    pub closed_at: Option<i64>,
    pub served_by: Option<String>,
    pub served_model: Option<String>,
    pub served_price_id: Option<String>,
}

impl HoldRow {
    /// Who served the call, as far as it was noted.
    fn served(&self) -> Option<Served> {
        let price = self.served_price_id.as_deref()?.into();
        let by = self.served_by.as_deref()?.into();
        Some(Served { by, model: self.served_model.as_deref()?.into(), price })
    }
}

/// Gives everything back: nothing was received.
pub fn release(conn: &mut SqliteConnection, of_hold: &str, why: &str, now: EpochMs) -> QueryResult<()> {
    let row = find(conn, of_hold)?;
    if row.state == "open" {
        const RELEASE: &str = "UPDATE hold SET state = 'released', reason = ?, closed_at = ?, pending = NULL \
                               WHERE id = ? AND state = 'open'";
        if fixed!(RELEASE, [Text(why), Int(now), Text(of_hold)]).execute(conn)? == 0 {
            return Err(diesel::result::Error::NotFound);
        }
        accounts::close(conn, &row.account_id, row.amount, row.amount)?;
        request_key::finish(conn, &row.request_id, None)?;
        key_budget::close(conn, &row.key_id, Nanos(row.amount), Nanos::ZERO)?;
    }
    Ok(())
}

/// Notes how far an open call has come, whose answer it is and, the first time, what the client `said`; marks only
/// grow.
pub fn checkpoint(
    conn: &mut SqliteConnection,
    of_hold: &str,
    (marks, served): (Usage, Option<&Served>),
    said: Option<&str>,
    expires: EpochMs,
) -> QueryResult<()> {
    let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    const GROW: &str = "UPDATE hold SET mark_prompt = ?, mark_output = ?, expires_at = ?, \
                        served_by = coalesce(?, served_by), served_model = coalesce(?, served_model), \
                        served_price_id = coalesce(?, served_price_id) \
                        WHERE id = ? AND state = 'open' AND mark_prompt <= ? AND mark_output <= ?";
    const SAY: &str = "UPDATE hold SET pending = ? WHERE id = ? AND state = 'open'";
    let (prompt, output) = (tokens(marks.prompt), tokens(marks.output));
    let [by, of_model, at_price] = columns(served);
    let grown = [
        Int(prompt),
        Int(output),
        Int(expires),
        by,
        of_model,
        at_price,
        Text(of_hold),
        Int(prompt),
        Int(output),
    ];
    fixed!(GROW, grown).execute(conn)?;
    crate::failpoint::after_commit("checkpoint written");
    if let Some(said) = said {
        fixed!(SAY, [Text(said), Text(of_hold)]).execute(conn)?;
    }
    Ok(())
}

/// What start-up found of an earlier run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Calls that had come far enough to be charged at their marks.
    pub settled: usize,
    /// Calls of which nothing was known to be received.
    pub released: usize,
}

/// How many holds are open, and when the oldest of them was made.
pub fn open(conn: &mut SqliteConnection) -> QueryResult<(i64, Option<EpochMs>)> {
    use diesel::dsl::{count_star, min};
    hold.filter(state.eq("open")).select((count_star(), min(created_at))).first(conn)
}

/// Closes every open hold, each at its marks. Runs before the server listens.
pub fn recover(conn: &mut SqliteConnection, now: EpochMs) -> Result<Recovered, WriteError> {
    let open: Vec<HoldRow> =
        hold.filter(state.eq("open")).select(HoldRow::as_select()).order((account_id, id)).load(conn)?;
    let mut recovered = Recovered::default();
    for row in open {
        let tokens = |count: i64| u64::try_from(count).unwrap_or(0);
        let marks = Usage { prompt: tokens(row.mark_prompt), cached: 0, output: tokens(row.mark_output) };
        if marks.total() == 0 {
            release(conn, &row.id, "crash", now)?;
            recovered.released += 1;
        } else {
            let source = UsageSource::Recovered;
            let settlement =
                Settlement { usage: marks, source, served: None, turn: None, summary: None, answer: None };
            settle(conn, &row.id, &settlement, Some("crash"), now)?;
            recovered.settled += 1;
        }
        crate::failpoint::hit("hold recovered");
    }
    request_key::free_running(conn)?;
    Ok(recovered)
}

/// The columns that say who serves a call.
fn columns(served: Option<&Served>) -> [Value<'_>; 3] {
    [
        MaybeText(served.map(|served| &*served.by)),
        MaybeText(served.map(|served| &*served.model)),
        MaybeText(served.map(|served| served.price.as_str())),
    ]
}

fn find(conn: &mut SqliteConnection, of_hold: &str) -> QueryResult<HoldRow> {
    hold.find(of_hold).select(HoldRow::as_select()).get_result(conn)
}

/// What a call came to.
#[derive(Clone, Copy, Debug)]
struct Charge {
    usage: Usage,
    source: UsageSource,
    /// What that costs,
    cost: Nanos,
    /// and what of it the account pays.
    charged: Nanos,
}

impl Charge {
    /// What the operator bears.
    fn written_off(&self) -> Nanos {
        Nanos(self.cost.0 - self.charged.0)
    }

    /// The columns that tell it: tokens, their source, money.
    fn columns(&self) -> [Value<'static>; 7] {
        let tokens = |count: u64| Int(i64::try_from(count).unwrap_or(i64::MAX));
        let Usage { prompt, cached, output } = self.usage;
        [
            tokens(prompt),
            tokens(cached),
            tokens(output),
            Text(self.source.as_str()),
            Int(self.cost.0),
            Int(self.charged.0),
            Int(self.written_off().0),
        ]
    }
}

/// Closes an open hold with what its call came to; `false` if it is none.
fn close(
    conn: &mut SqliteConnection,
    of_hold: &str,
    (by_whom, why): (Option<&Served>, Option<&str>),
    charge: &Charge,
    now: EpochMs,
) -> QueryResult<bool> {
    const CLOSE: &str = "UPDATE hold SET state = 'settled', reason = ?, closed_at = ?, pending = NULL, \
                         prompt = ?, cached = ?, output = ?, source = ?, cost = ?, charged = ?, written_off = ?, \
                         served_by = coalesce(?, served_by), served_model = coalesce(?, served_model), \
                         served_price_id = coalesce(?, served_price_id) WHERE id = ? AND state = 'open'";
    let [by, of_model, at_price] = columns(by_whom);
    let [read, known, written, told_by, costs, pays, lost] = charge.columns();
    let values = [
        MaybeText(why),
        Int(now),
        read,
        known,
        written,
        told_by,
        costs,
        pays,
        lost,
        by,
        of_model,
        at_price,
        Text(of_hold),
    ];
    Ok(fixed!(CLOSE, values).execute(conn)? == 1)
}
