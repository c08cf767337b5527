//! Charging a hold: entry, usage record and turn in one transaction.

use diesel::prelude::*;

use crate::billing::money::Nanos;
use crate::billing::price::{Price, split};
use crate::clock::EpochMs;
use crate::conversation::turn::Completeness;
use crate::conversation::usage::{Usage, UsageSource};
use crate::error::Error;
use crate::store::account::{self as accounts, Standing};
use crate::store::hold::{Charge, Granted, HoldRow, Memory, NewHold, Served, close, find};
use crate::store::ledger_entry::{self, NewEntry};
use crate::store::session_summary::NewSummary;
use crate::store::turn::{self, Found, Of, StoredTurn};
use crate::store::usage_record;
use crate::store::writer::WriteError;
use crate::store::{key_budget, price, request_key, session_summary};

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
    /// Where its turn has left the session, if that was stored just now.
    pub place: Option<Found>,
}

/// A hold that is being charged: the columns that tell what for.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    of: Of<'a>,
    key: &'a str,
    request: &'a str,
    step: i32,
    amount: Nanos,
    model: &'a str,
    price: &'a Price,
}

impl<'a> Case<'a> {
    pub(super) fn of_new(new: &'a NewHold, amount: Nanos, (model, price): (&'a str, &'a Price)) -> Self {
        let of = new.whose();
        Self {
            of,
            key: new.key.as_str(),
            request: new.request.as_str(),
            step: new.step,
            amount,
            model,
            price,
        }
    }

    pub(super) fn cost(&self, usage: Usage) -> Result<Nanos, Error> {
        self.price.cost(usage).ok_or_else(|| Error::Internal("a cost beyond all money".to_owned()))
    }

    /// What is charged where the account has so much beside the hold.
    pub(super) fn charge(&self, settlement: &Settlement, cost: Nanos, available: Nanos) -> Charge {
        let charged = split(cost, self.amount, available).charged;
        Charge { usage: settlement.usage, source: settlement.source, cost, charged }
    }
}

/// Charges a hold once. A closed hold answers its outcome.
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
    let served = settlement.served.clone().or(row.served());
    let of_price = served.as_ref().map_or(row.price_id.as_str(), |served| served.price.as_str());
    let case = Case {
        of: Of {
            account: &row.account_id,
            agent: &row.agent_id,
            session: &row.session_id,
            completion: &row.completion_id,
            hold: &row.id,
        },
        key: &row.key_id,
        request: &row.request_id,
        step: row.step,
        amount: Nanos(row.amount),
        model: served.as_ref().map_or(&row.model, |served| &served.model),
        price: &price::find(conn, of_price)?,
    };
    let pending = pending_turn(&row);
    let turn = settlement.turn.as_ref().or(pending.as_ref());
    // What is remembered of the account is seen to be no more so by whoever names it next.
    let closed = charge(conn, &mut Memory::default(), &case, (why, turn, None), settlement, now)?;
    let closed = closed.ok_or(diesel::result::Error::NotFound)?;
    request_key::finish(conn, &row.request_id, settlement.answer.as_deref())?;
    crate::failpoint::hit("settle executed");
    Ok(closed)
}

/// As [`settle`], for whoever has what he reserved at hand, so that it need not be read again.
pub fn settle_reserved(
    conn: &mut SqliteConnection,
    memory: &mut Memory,
    new: &NewHold,
    granted: Granted,
    settlement: &Settlement,
    now: EpochMs,
) -> Result<Closed, WriteError> {
    // Whoever was noted while it ran, and what the client said then, only the row tells.
    let known = settlement.served.as_ref().filter(|_| settlement.turn.is_some());
    let Some(at) = known.and_then(|served| named(new, served)) else {
        return settle(conn, new.id.as_str(), settlement, None, now);
    };
    let case = Case::of_new(new, granted.amount, at);
    let stored = (None, settlement.turn.as_ref(), new.place());
    let Some(closed) = charge(conn, memory, &case, stored, settlement, now)? else {
        return settle(conn, new.id.as_str(), settlement, None, now);
    };
    if new.may_be_named() {
        request_key::finish(conn, new.request.as_str(), settlement.answer.as_deref())?;
    }
    crate::failpoint::hit("settle executed");
    Ok(closed)
}

/// The model and price of whoever served, if he is one of the candidates.
pub(super) fn named<'a>(new: &'a NewHold, served: &'a Served) -> Option<(&'a str, &'a Price)> {
    let found = new.candidates.iter().find(|candidate| candidate.price.id == served.price)?;
    Some((&served.model, &found.price))
}

/// Closes a hold, moves its money and writes down what for; `None` if it is closed already. The session may be at `place`.
fn charge(
    conn: &mut SqliteConnection,
    memory: &mut Memory,
    case: &Case<'_>,
    (why, turn, place): (Option<&str>, Option<&StoredTurn>, Option<Found>),
    settlement: &Settlement,
    now: EpochMs,
) -> Result<Option<Closed>, WriteError> {
    let Case { of, amount, .. } = *case;
    let cost = case.cost(settlement.usage)?;
    // What the hold covers is charged whatever else the account has; beyond that, what is remembered will not do.
    let known = if cost <= amount { memory.known(of.account, case.key) } else { None };
    let before = match known {
        Some(known) => known,
        None => accounts::standing(conn, (of.account, case.key))?,
    };
    let charge = case.charge(settlement, cost, Nanos(before.available));
    if !close(conn, of.hold, (settlement.served.as_ref(), why), &charge, now)? {
        return Ok(None);
    }
    let mut after = post(conn, memory, case, before, charge.charged)?;
    if after.budgeted {
        key_budget::close(conn, case.key, amount, charge.charged)?;
    }
    let mut closed = book(conn, case, &charge, (&mut after, now))?;
    if let Some(turn) = turn {
        closed.place = turn::append_wherever(conn, place, of, turn, now)?;
    }
    if let Some(summary) = &settlement.summary {
        session_summary::keep(conn, of, summary, now)?;
    }
    memory.stands(of.account, after);
    Ok(Some(closed))
}

/// Moves the money of a charge: how the account stands then. It may have stood as `before`.
fn post(
    conn: &mut SqliteConnection,
    memory: &mut Memory,
    case: &Case<'_>,
    before: Standing,
    charged: Nanos,
) -> QueryResult<Standing> {
    let (account, moved) = (case.of.account, (case.amount.0, case.amount.0 - charged.0));
    if let Some(after) = accounts::post(conn, account, before, moved)? {
        return Ok(after);
    }
    memory.forget(account);
    let before = accounts::standing(conn, (account, case.key))?;
    accounts::post(conn, account, before, moved)?.ok_or(diesel::result::Error::NotFound)
}

/// Writes the entry of a charge.
pub(super) fn book(
    conn: &mut SqliteConnection,
    case: &Case<'_>,
    charge: &Charge,
    (after, now): (&mut Standing, EpochMs),
) -> QueryResult<Closed> {
    let (of, charged, written_off) = (case.of, charge.charged, charge.written_off());
    if written_off > Nanos::ZERO {
        tracing::warn!(hold = %of.hold, %written_off, "a charge was more than the account had");
    }
    let entry = NewEntry {
        account: of.account,
        kind: "charge",
        hold: Some(of.hold),
        delta: -charged.0,
        actor: case.key,
        now,
        ..NewEntry::default()
    };
    ledger_entry::append(conn, &entry, after)?;
    Ok(Closed {
        charged,
        earlier: Nanos(usage_record::charged_before(conn, case.request, case.step)?),
        written_off,
        balance: Nanos(after.available + after.held),
        left: Nanos(after.available),
        usage: charge.usage,
        model: case.model.to_owned(),
        place: None,
    })
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

fn outcome(conn: &mut SqliteConnection, row: &HoldRow) -> Result<Closed, WriteError> {
    let (left, held) = accounts::money(conn, &row.account_id)?;
    let balance = Nanos(left.0 + held.0);
    let tokens = |count: i64| u64::try_from(count).unwrap_or(0);
    let earlier = Nanos(usage_record::charged_before(conn, &row.request_id, row.step)?);
    Ok(match usage_record::find(conn, &row.id)? {
        Some(usage) => Closed {
            charged: Nanos(usage.charged),
            earlier,
            written_off: Nanos(usage.written_off),
            balance,
            left,
            usage: Usage {
                prompt: tokens(usage.prompt),
                cached: tokens(usage.cached),
                output: tokens(usage.output),
            },
            model: usage.model,
            place: None,
        },
        None => Closed {
            charged: Nanos::ZERO,
            earlier,
            written_off: Nanos::ZERO,
            balance,
            left,
            usage: Usage::default(),
            model: row.model.clone(),
            place: None,
        },
    })
}
