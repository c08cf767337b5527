//! Setting aside and charging in one step.

use diesel::prelude::*;

use crate::billing::money::Nanos;
use crate::clock::EpochMs;
use crate::error::Error;
use crate::store::account as accounts;
use crate::store::hold::reserve::{Fit, Stage, insert, tell_refusal, unpayable, weigh};
use crate::store::hold::settle::{Case, book, named};
use crate::store::hold::{Closed, Granted, Memory, NewHold, Settlement};
use crate::store::session;
use crate::store::turn::{self, Found};
use crate::store::writer::WriteError;
use crate::store::{key_budget, price, request_key, session_summary};

/// Sets aside and charges in one step, for a call that was answered before its hold was written: leaves what
/// [`reserve()`](super::reserve()) and [`settle()`](super::settle()) after it would leave, and refuses as `reserve` does.
///
/// # Errors
/// What `reserve` and `settle` refuse.
pub fn charge_at_once(
    conn: &mut SqliteConnection,
    memory: &mut Memory,
    new: &NewHold,
    settlement: &Settlement,
    now: EpochMs,
) -> Result<(Granted, Closed), WriteError> {
    let Fit { granted, pinned, before, remembered, session: there } = weigh(conn, memory, new)?;
    let spendable = Nanos(before.available);
    let amount = granted.amount;
    let of_another;
    let at = match &settlement.served {
        None => (new.model(), pinned),
        Some(served) => match named(new, served) {
            Some(at) => at,
            None => {
                of_another = price::find(conn, served.price.as_str())?;
                (&*served.model, &of_another)
            }
        },
    };
    let case = Case::of_new(new, amount, at);
    let cost = case.cost(settlement.usage)?;
    let charge = case.charge(settlement, cost, Nanos(spendable.0 - amount.0));
    let begun = i64::from(there.is_none());
    let Some(mut after) =
        accounts::charge(conn, new.account.as_str(), before, (amount.0, charge.charged.0), begun)?
    else {
        memory.forget(new.account.as_str());
        // Nothing was written; what is asked now is so.
        return match remembered {
            true => charge_at_once(conn, memory, new, settlement, now),
            false => Err(unpayable(amount, spendable).into()),
        };
    };
    insert(conn, new, (amount, pinned), &Stage::Settled(settlement.served.as_ref(), &charge, now))?;
    if after.budgeted {
        key_budget::close(conn, new.key.as_str(), Nanos::ZERO, charge.charged)?;
    }
    let mut closed = book(conn, &case, &charge, (&mut after, now))?;
    closed.place = store_turn(conn, new, there, settlement, now)?;
    memory.stands(new.account.as_str(), after);
    if let Some(own) = &new.idempotency {
        request_key::begin(conn, new.payer(), own, new.request.as_str(), new.now)?;
    }
    if new.may_be_named() {
        request_key::finish(conn, new.request.as_str(), settlement.answer.as_deref())?;
    }
    crate::failpoint::hit("settle executed");
    Ok((granted, closed))
}

/// As [`charge_at_once`]; a refusal that a webhook is told of comes as a value, so that its notice is committed.
///
/// # Errors
/// As [`charge_at_once`].
pub fn charge_at_once_or_tell(
    conn: &mut SqliteConnection,
    memory: &mut Memory,
    new: &NewHold,
    settlement: &Settlement,
    now: EpochMs,
) -> Result<Result<(Granted, Closed), Error>, WriteError> {
    let done = charge_at_once(conn, memory, new, settlement, now);
    tell_refusal(conn, new, done)
}

/// Stores the turn in its session, which may begin with it; where the session is then, if that is known.
///
/// A session that was where it was remembered may be somewhere else by now, or gone, and begin again.
fn store_turn(
    conn: &mut SqliteConnection,
    new: &NewHold,
    there: Option<Found>,
    settlement: &Settlement,
    now: EpochMs,
) -> Result<Option<Found>, WriteError> {
    let of = new.whose();
    let name = (new.session.as_str(), new.session_by_server);
    let place = match (there, &settlement.turn) {
        (Some(own), Some(turn)) => match turn::append_wherever(conn, Some(own), of, turn, now)? {
            Some(place) => Some(place),
            None => {
                accounts::count(conn, of.account, 0, 1)?;
                Some(turn::begin_with(conn, of, new.session_by_server, new.now, turn, now)?)
            }
        },
        (Some(_), None) => None,
        (None, Some(turn)) => Some(turn::begin_with(conn, of, new.session_by_server, new.now, turn, now)?),
        (None, None) => {
            session::begin(conn, (of.account, of.agent), name, new.now)?;
            None
        }
    };
    if let Some(summary) = &settlement.summary {
        session_summary::keep(conn, of, summary, now)?;
    }
    Ok(place)
}
