//! Queries on `hold`: the life of a charge, each step one compare-and-set inside the writer's transaction.

use std::sync::Arc;

use diesel::prelude::*;

use crate::billing::money::Nanos;
use crate::billing::price::{Price, split};
use crate::clock::EpochMs;
use crate::conversation::turn::Completeness;
use crate::conversation::usage::{Usage, UsageSource};
use crate::error::Error;
use crate::id::PriceId;
use crate::store::fixed::Value::{Int, MaybeText, Text};
use crate::store::fixed::{Value, fixed};
use crate::store::ledger_entry::NewEntry;
use crate::store::request_key::Idempotency;
use crate::store::schema::hold::dsl::*;
use crate::store::schema::{account, api_key};
use crate::store::session::StoredTurn;
use crate::store::session_summary::NewSummary;
use crate::store::usage_record::UsageRow;
use crate::store::writer::WriteError;
use crate::store::{
    account as accounts, key_budget, ledger_entry, price, request_key, session, session_summary,
    usage_record, webhook,
};

/// What a hold is made for.
#[derive(Clone, Debug)]
pub struct NewHold {
    /// The hold.
    pub id: String,
    /// Who pays.
    pub account: String,
    /// With which key.
    pub key: String,
    /// The key's budget: its cap and the number of the running period.
    pub budget: Option<(Nanos, i64)>,
    /// For whose answer.
    pub agent: String,
    /// In which session.
    pub session: String,
    /// Whether the session's name is ours.
    pub session_by_server: bool,
    /// Under which id.
    pub completion: String,
    /// Who may serve it, the one that is asked first in front; at least one.
    pub candidates: Vec<Candidate>,
    /// For which HTTP request.
    pub request: String,
    /// The request's own name, if its client gave one.
    pub idempotency: Option<Idempotency>,
    /// The number of the provider call in it.
    pub step: i32,
    /// Tokens of the prompt, at most.
    pub prompt_max: u64,
    /// Answers.
    pub n: u64,
    /// The bound of each answer that is wanted.
    pub wanted_output: u64,
    /// The least that will do.
    pub least_output: u64,
    /// Which run of the server owns it.
    pub epoch: i64,
    /// When.
    pub now: EpochMs,
    /// When nobody can still be working on it.
    pub expires_at: EpochMs,
}

/// A model that may serve a call, and at which price.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The model, as usage is told by it.
    pub model: String,
    /// The row that is in force now.
    pub price: Arc<Price>,
}

/// Who serves a call, at the price that was in force when its hold was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The provider and its model, for people.
    pub by: String,
    /// The model, as usage is told by it.
    pub model: String,
    /// The row of the price list.
    pub price: PriceId,
}

/// What was granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// What is held.
    pub amount: Nanos,
    /// The bound of each answer that this covers.
    pub max_output: u64,
    /// What the account can spend then.
    pub left: Nanos,
}

/// The most that a call may cost with answers of that length, whoever serves it, and at whose price.
///
/// # Errors
/// When that is beyond all money, or there is no candidate.
pub fn dearest(new: &NewHold, max_output: u64) -> Result<(Nanos, &Price), Error> {
    let mut dearest: Option<(Nanos, &Price)> = None;
    for Candidate { price, .. } in &new.candidates {
        let worst = price.worst_case(new.prompt_max, new.n, max_output);
        let worst = worst.ok_or_else(|| Error::Internal("a worst case beyond all money".to_owned()))?;
        if dearest.is_none_or(|(most, _)| worst > most) {
            dearest = Some((worst, price));
        }
    }
    dearest.ok_or_else(|| Error::Internal("a hold without a candidate".to_owned()))
}

/// Sets money aside: check and deduction are one statement.
pub fn reserve(conn: &mut SqliteConnection, new: &NewHold) -> Result<Granted, WriteError> {
    let (state_now, spendable): (String, i64) =
        account::table.find(&new.account).select((account::status, account::available)).get_result(conn)?;
    if state_now != "active" {
        return Err(Error::AccountSuspended.into());
    }
    // A turn may have waited for its place since its key was looked at.
    let ends = api_key::table.find(&new.key).select((api_key::revoked_at, api_key::expires_at));
    let ends = ends.get_result::<(Option<i64>, Option<i64>)>(conn).optional()?.unwrap_or_default();
    if ends.0.is_some() || ends.1.is_some_and(|end| end <= new.now) {
        return Err(Error::Unauthenticated("revoked while the request waited".to_owned()).into());
    }
    let budget_left = match new.budget {
        Some((cap, period)) => Some(key_budget::left(conn, &new.key, cap, period)?),
        None => None,
    };
    let spendable = Nanos(spendable);
    let payable = budget_left.map_or(spendable, |left| left.min(spendable));
    let affordable = new.candidates.iter().map(|candidate| {
        // Whoever serves it in the end, the answer's length is covered.
        candidate.price.affordable_output(payable, new.prompt_max, new.n)
    });
    let affordable = affordable.min().unwrap_or(0);
    let max_output_granted = affordable.min(new.wanted_output).max(new.least_output);
    let (worst, pinned) = dearest(new, max_output_granted)?;
    // All that may refuse comes before all that is written, so that a refusal leaves nothing to undo.
    let unpayable = Error::InsufficientBalance { needed: worst, available: spendable };
    if spendable < worst {
        return Err(unpayable.into());
    }
    if budget_left.is_some_and(|left| left < worst) {
        return Err(Error::BudgetExceeded.into());
    }
    if let Some(own) = &new.idempotency {
        request_key::check_free(conn, (&new.account, &new.key), own, new.now)?;
    }
    if !accounts::reserve(conn, &new.account, worst.0)? {
        return Err(unpayable.into());
    }
    key_budget::hold(conn, &new.key, worst)?;
    insert(conn, new, worst, pinned)?;
    session::ensure(conn, &new.account, &new.agent, &new.session, new.session_by_server, new.now)?;
    if let Some(own) = &new.idempotency {
        request_key::begin(conn, (&new.account, &new.key), own, &new.request, new.now)?;
    }
    crate::failpoint::hit("reserve executed");
    Ok(Granted { amount: worst, max_output: max_output_granted, left: Nanos(spendable.0 - worst.0) })
}

/// As [`reserve`]; a refusal that a webhook is told of comes as a value, so that its notice is committed.
pub fn reserve_or_tell(
    conn: &mut SqliteConnection,
    new: &NewHold,
) -> Result<Result<Granted, Error>, WriteError> {
    let error = match reserve(conn, new) {
        Err(WriteError::Refused(error)) => error,
        done => return done.map(Ok),
    };
    // These two come before anything is written, save the upkeep of the budget, which is true anyway.
    let told = match &error {
        Error::InsufficientBalance { needed, available } => {
            webhook::exhausted(conn, &new.account, *needed, *available, new.now)?
        }
        Error::BudgetExceeded => webhook::budget_exceeded(conn, &new.account, &new.key, new.now)?,
        _ => false,
    };
    if told { Ok(Err(error)) } else { Err(error.into()) }
}

fn insert(conn: &mut SqliteConnection, new: &NewHold, worst: Nanos, pinned: &Price) -> QueryResult<()> {
    let row = (
        id.eq(&new.id),
        account_id.eq(&new.account),
        key_id.eq(&new.key),
        agent_id.eq(&new.agent),
        session_id.eq(&new.session),
        completion_id.eq(&new.completion),
        model.eq(new.candidates.first().map_or("", |candidate| &candidate.model)),
        request_id.eq(&new.request),
        step.eq(new.step),
        amount.eq(worst.0),
        price_id.eq(pinned.id.as_str()),
        state.eq("open"),
        owner_epoch.eq(new.epoch),
        created_at.eq(new.now),
        expires_at.eq(new.expires_at),
    );
    diesel::insert_into(hold).values(row).execute(conn).map(drop)
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
        Some(Served { by: self.served_by.clone()?, model: self.served_model.clone()?, price })
    }
}

/// What a turn came to.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Tokens.
    pub usage: Usage,
    /// Who counted them.
    pub source: UsageSource,
    /// Who served it; else whoever was noted while it ran, else its only candidate.
    pub served: Option<Served>,
    /// The turn to store, if its session still exists.
    pub turn: Option<StoredTurn>,
    /// The summary to store, if the call made one.
    pub summary: Option<NewSummary>,
    /// The whole answer, to be given again to a client that asks with the same idempotency key.
    pub answer: Option<String>,
}

/// The outcome of closing a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// What was charged.
    pub charged: Nanos,
    /// What the steps of the request before it were charged.
    pub earlier: Nanos,
    /// What the operator bore.
    pub written_off: Nanos,
    /// The account's balance after it.
    pub balance: Nanos,
    /// What of it can be spent.
    pub left: Nanos,
    /// The tokens that were charged for.
    pub usage: Usage,
    /// The provider's name of the model.
    pub model: String,
}

/// Charges a hold once: entry, usage record and turn in one transaction. A closed hold answers its outcome.
pub fn settle(
    conn: &mut SqliteConnection,
    of_hold: &str,
    settlement: &Settlement,
    why: Option<&str>,
    now: EpochMs,
) -> Result<Closed, WriteError> {
    let row = find(conn, of_hold)?;
    if row.state != "open" {
        return outcome(conn, &row);
    }
    let usage = settlement.usage;
    let served = settlement.served.clone().or(row.served());
    let of_model = served.as_ref().map_or(&row.model, |served| &served.model);
    let of_price = served.as_ref().map_or(row.price_id.as_str(), |served| served.price.as_str());
    let of_price = price::find(conn, of_price)?;
    let cost = of_price.cost(usage).ok_or_else(|| Error::Internal("a cost beyond all money".to_owned()))?;
    let rest = if cost.0 <= row.amount { Nanos::ZERO } else { available_of(conn, &row.account_id)? };
    let parts = split(cost, Nanos(row.amount), rest);
    if parts.written_off > Nanos::ZERO {
        tracing::warn!(hold = %row.id, written_off = %parts.written_off, "a charge was more than the account had");
    }
    close(conn, &row, settlement.served.as_ref(), ("settled", why), now)?;
    let after = accounts::post(conn, &row.account_id, row.amount, row.amount - parts.charged.0)?;
    key_budget::close(conn, &row.key_id, Nanos(row.amount), parts.charged)?;
    let entry = ledger_entry::append(
        conn,
        &NewEntry {
            account: &row.account_id,
            kind: "charge",
            hold: Some(&row.id),
            delta: -parts.charged.0,
            actor: &row.key_id,
            now,
            ..NewEntry::default()
        },
        after,
    )?;
    let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    usage_record::insert(
        conn,
        &UsageRow {
            hold_id: row.id.clone(),
            account_id: row.account_id.clone(),
            key_id: row.key_id.clone(),
            agent_id: row.agent_id.clone(),
            session_id: row.session_id.clone(),
            completion_id: row.completion_id.clone(),
            model: of_model.clone(),
            created_at: now,
            price_id: of_price.id.to_string(),
            prompt: tokens(usage.prompt),
            cached: tokens(usage.cached),
            output: tokens(usage.output),
            source: settlement.source.as_str().to_owned(),
            cost: cost.0,
            charged: parts.charged.0,
            written_off: parts.written_off.0,
        },
    )?;
    let of = session::Of {
        account: &row.account_id,
        agent: &row.agent_id,
        session: &row.session_id,
        completion: &row.completion_id,
        hold: &row.id,
    };
    if let Some(turn) = settlement.turn.as_ref().or(pending_turn(&row).as_ref()) {
        session::append_turn(conn, of, turn, now)?;
    }
    if let Some(summary) = &settlement.summary {
        session_summary::keep(conn, of, summary, now)?;
    }
    request_key::finish(conn, &row.request_id, settlement.answer.as_deref())?;
    let balance = Nanos(entry.balance_after);
    crate::failpoint::hit("settle executed");
    let earlier = usage_record::charged_before(conn, &row.request_id, row.step)?;
    Ok(Closed {
        charged: parts.charged,
        earlier: Nanos(earlier),
        written_off: parts.written_off,
        balance,
        left: Nanos(after.available),
        usage,
        model: of_model.clone(),
    })
}

/// Gives everything back: nothing was received.
pub fn release(conn: &mut SqliteConnection, of_hold: &str, why: &str, now: EpochMs) -> QueryResult<()> {
    let row = find(conn, of_hold)?;
    if row.state == "open" {
        close(conn, &row, None, ("released", Some(why)), now)?;
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
    fixed(GROW, grown).execute(conn)?;
    crate::failpoint::after_commit("checkpoint written");
    if let Some(said) = said {
        fixed(SAY, [Text(said), Text(of_hold)]).execute(conn)?;
    }
    Ok(())
}

/// The turn of a call that nobody saw end: what the client said, and an empty answer.
fn pending_turn(row: &HoldRow) -> Option<StoredTurn> {
    let said: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(row.pending.as_deref()?).ok()?;
    Some(StoredTurn {
        messages: said.iter().map(|message| message.get().to_owned()).collect(),
        reply: r#"{"role":"assistant","content":""}"#.to_owned(),
        completeness: Completeness::Incomplete,
        metadata: None,
        opening: None,
    })
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

fn available_of(conn: &mut SqliteConnection, owner: &str) -> QueryResult<Nanos> {
    account::table.find(owner).select(account::available).get_result(conn).map(Nanos)
}

/// The columns that say who serves a call.
fn columns(served: Option<&Served>) -> [Value<'_>; 3] {
    [
        MaybeText(served.map(|served| served.by.as_str())),
        MaybeText(served.map(|served| served.model.as_str())),
        MaybeText(served.map(|served| served.price.as_str())),
    ]
}

fn find(conn: &mut SqliteConnection, of_hold: &str) -> QueryResult<HoldRow> {
    hold.find(of_hold).select(HoldRow::as_select()).get_result(conn)
}

fn close(
    conn: &mut SqliteConnection,
    row: &HoldRow,
    served: Option<&Served>,
    (to, why): (&str, Option<&str>),
    now: EpochMs,
) -> QueryResult<()> {
    const CLOSE: &str = "UPDATE hold SET state = ?, reason = ?, closed_at = ?, pending = NULL, \
                         served_by = coalesce(?, served_by), served_model = coalesce(?, served_model), \
                         served_price_id = coalesce(?, served_price_id) WHERE id = ? AND state = 'open'";
    let [by, of_model, at_price] = columns(served);
    let values = [Text(to), MaybeText(why), Int(now), by, of_model, at_price, Text(&row.id)];
    match fixed(CLOSE, values).execute(conn)? {
        1 => Ok(()),
        _ => Err(diesel::result::Error::NotFound),
    }
}

fn outcome(conn: &mut SqliteConnection, row: &HoldRow) -> Result<Closed, WriteError> {
    let (available, held): (i64, i64) =
        account::table.find(&row.account_id).select((account::available, account::held)).get_result(conn)?;
    let balance = Nanos(available + held);
    let tokens = |count: i64| u64::try_from(count).unwrap_or(0);
    let earlier = Nanos(usage_record::charged_before(conn, &row.request_id, row.step)?);
    Ok(match usage_record::find(conn, &row.id)? {
        Some(usage) => Closed {
            charged: Nanos(usage.charged),
            earlier,
            written_off: Nanos(usage.written_off),
            balance,
            left: Nanos(available),
            usage: Usage {
                prompt: tokens(usage.prompt),
                cached: tokens(usage.cached),
                output: tokens(usage.output),
            },
            model: usage.model,
        },
        None => Closed {
            charged: Nanos::ZERO,
            earlier,
            written_off: Nanos::ZERO,
            balance,
            left: Nanos(available),
            usage: Usage::default(),
            model: row.model.clone(),
        },
    })
}
