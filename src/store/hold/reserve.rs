//! Setting money aside: what is asked before, and what is written.

use std::sync::Arc;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable};

use crate::billing::money::Nanos;
use crate::billing::price::Price;
use crate::clock::EpochMs;
use crate::error::Error;
use crate::id::{AccountId, AgentId, CompletionId, HoldId, KeyId, RequestId, SessionName};
use crate::store::fixed::Value::{Int, Text};
use crate::store::fixed::fixed;
use crate::store::hold::memory::{Memory, Payer};
use crate::store::hold::{Charge, Served};
use crate::store::request_key::Idempotency;
use crate::store::session;
use crate::store::turn::{self, Found, Of};
use crate::store::writer::WriteError;
use crate::store::{account as accounts, key_budget, request_key, webhook};

/// What a hold is made for.
#[derive(Clone, Debug)]
pub struct NewHold {
    /// The hold.
    pub id: HoldId,
    /// Who pays.
    pub account: AccountId,
    /// With which key.
    pub key: KeyId,
    /// The key's budget: its cap and the number of the running period.
    pub budget: Option<(Nanos, i64)>,
    /// For whose answer.
    pub agent: AgentId,
    /// In which session.
    pub session: SessionName,
    /// Where the session's last turn has left it, as far as that is known.
    pub place: Option<Found>,
    /// Whether the session's name is ours.
    pub session_by_server: bool,
    /// Under which id.
    pub completion: CompletionId,
    /// Who may serve it, the one that is asked first in front; at least one.
    pub candidates: Vec<Candidate>,
    /// For which HTTP request.
    pub request: RequestId,
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

impl NewHold {
    /// The model as it is noted with the hold: the one that is asked first.
    pub(super) fn model(&self) -> &str {
        self.candidates.first().map_or("", |candidate| &candidate.model)
    }

    /// Whether a name of its request's client may have been taken, by it or by a step before it.
    pub(super) fn may_be_named(&self) -> bool {
        self.idempotency.is_some() || self.step > 0
    }

    /// Where the session was left, if it can be asked whether it still is there by that alone.
    pub(super) fn place(&self) -> Option<Found> {
        self.place.filter(|place| place.head > 0)
    }

    /// The account and the key that pay.
    pub(super) fn payer(&self) -> (&str, &str) {
        (self.account.as_str(), self.key.as_str())
    }

    /// Whose the turn is.
    pub(super) fn whose(&self) -> Of<'_> {
        let NewHold { account, agent, session, completion, id, .. } = self;
        Of {
            account: account.as_str(),
            agent: agent.as_str(),
            session: session.as_str(),
            completion: completion.as_str(),
            hold: id.as_str(),
        }
    }
}

/// A model that may serve a call, and at which price.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The model, as usage is told by it.
    pub model: Arc<str>,
    /// The row that is in force now.
    pub price: Arc<Price>,
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

/// What a hold may have, and at whose price that is the most.
pub(super) struct Fit<'a> {
    pub granted: Granted,
    pub pinned: &'a Price,
    /// How the account stands, this hold not yet taken from it.
    pub before: accounts::Standing,
    /// Whether that is remembered, and not yet seen to be so.
    pub remembered: bool,
    /// The session, if it is there already.
    pub session: Option<Found>,
}

/// How everything stands that may refuse a hold.
#[derive(Queryable)]
struct Standing {
    money: accounts::Standing,
    others: Others,
}

/// What of it is not about money.
#[derive(Queryable)]
struct Others {
    active: bool,
    key_ends_at: Option<EpochMs>,
    agent_there: bool,
    session: Option<i64>,
    head: Option<i64>,
}

fn standing(conn: &mut SqliteConnection, new: &NewHold) -> QueryResult<Standing> {
    // A turn may have waited for its place since its key and its agent were looked at.
    const ASK: &str = concat!(
        "SELECT ",
        accounts::standing_sql!(columns),
        ", a.status = 'active', \
         (SELECT iif(k.revoked_at IS NULL, k.expires_at, k.revoked_at) FROM api_key k WHERE k.key_id = ?), \
         EXISTS (SELECT 1 FROM agent g WHERE g.agent_id = ?), s.id, s.head ",
        accounts::standing_sql!(from),
        "LEFT JOIN session s ON s.account_id = a.account_id AND s.agent_id = ? AND s.name = ? WHERE a.account_id = ?"
    );
    type Other = (Bool, Nullable<BigInt>, Bool, Nullable<BigInt>, Nullable<BigInt>);
    let of = [
        Text(new.key.as_str()),
        Text(new.key.as_str()),
        Text(new.agent.as_str()),
        Text(new.agent.as_str()),
        Text(new.session.as_str()),
        Text(new.account.as_str()),
    ];
    fixed!(ASK, of).returning::<(accounts::StandingTypes, Other)>().get_result(conn)
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

/// All that may refuse a hold, before anything is written for it: a refusal leaves nothing to undo but the upkeep of
/// its key's budget.
pub(super) fn weigh<'a>(
    conn: &mut SqliteConnection,
    memory: &mut Memory,
    new: &'a NewHold,
) -> Result<Fit<'a>, WriteError> {
    if let Some(before) = memory.standing(new)
        && let Ok((granted, pinned)) = grant(new, Nanos(before.available), None)
    {
        let session = match new.place() {
            Some(place) => Some(place),
            None => turn::standing(conn, new.whose())?,
        };
        return Ok(Fit { granted, pinned, before, remembered: true, session });
    }
    let Standing { money, others: now } = standing(conn, new)?;
    if !now.active {
        return Err(Error::AccountSuspended.into());
    }
    if now.key_ends_at.is_some_and(|end| end <= new.now) {
        return Err(Error::Unauthenticated("revoked while the request waited".to_owned()).into());
    }
    let budget_left = match new.budget {
        Some((cap, period)) => {
            // From now on it has had one, even if this is refused.
            memory.forget_payer(new.key.as_str());
            Some(key_budget::left(conn, new.key.as_str(), cap, period)?)
        }
        None => None,
    };
    let (granted, pinned) = grant(new, Nanos(money.available), budget_left)?;
    if let Some(own) = &new.idempotency {
        request_key::check_free(conn, new.payer(), own, new.now)?;
    }
    if !now.agent_there {
        return Err(Error::ModelNotFound(new.agent.to_string()).into());
    }
    let session = match (now.session, now.head) {
        (Some(id), Some(head)) => Some(Found { id, head }),
        _ => None,
    };
    // Whether it has a budget was looked up before it got one here.
    let budgeted = money.budgeted || new.budget.is_some();
    memory.may_pay(new.key.as_str(), Payer { agent: new.agent.clone(), budgeted, ends_at: now.key_ends_at });
    let before = accounts::Standing { budgeted, ..money };
    Ok(Fit { granted, pinned, before, remembered: false, session })
}

/// What a hold may have of what can be spent, and at whose price that is the most.
fn grant(new: &NewHold, spendable: Nanos, budget_left: Option<Nanos>) -> Result<(Granted, &Price), Error> {
    let payable = budget_left.map_or(spendable, |left| left.min(spendable));
    let affordable = new.candidates.iter().map(|candidate| {
        // Whoever serves it in the end, the answer's length is covered.
        candidate.price.affordable_output(payable, new.prompt_max, new.n)
    });
    let affordable = affordable.min().unwrap_or(0);
    let max_output = affordable.min(new.wanted_output).max(new.least_output);
    let (amount, pinned) = dearest(new, max_output)?;
    if spendable < amount {
        return Err(unpayable(amount, spendable));
    }
    if budget_left.is_some_and(|left| left < amount) {
        return Err(Error::BudgetExceeded);
    }
    Ok((Granted { amount, max_output, left: Nanos(spendable.0 - amount.0) }, pinned))
}

/// What the account has does not cover what is needed.
pub(super) fn unpayable(needed: Nanos, available: Nanos) -> Error {
    Error::InsufficientBalance { needed, available }
}

/// Sets money aside: check and deduction are one statement.
pub fn reserve(
    conn: &mut SqliteConnection,
    memory: &mut Memory,
    new: &NewHold,
) -> Result<Granted, WriteError> {
    let Fit { granted, pinned, before, remembered, session } = weigh(conn, memory, new)?;
    let there = match session {
        Some(place) if remembered => {
            turn::is_at(conn, place)? || turn::standing(conn, new.whose())?.is_some()
        }
        session => session.is_some(),
    };
    let available = Nanos(before.available);
    let Some(after) =
        accounts::reserve(conn, new.account.as_str(), before, granted.amount.0, i64::from(!there))?
    else {
        memory.forget(new.account.as_str());
        // Nothing was written; what is asked now is so.
        return if remembered {
            reserve(conn, memory, new)
        } else {
            Err(unpayable(granted.amount, available).into())
        };
    };
    if after.budgeted {
        key_budget::hold(conn, new.key.as_str(), granted.amount)?;
    }
    insert(conn, new, (granted.amount, pinned), &Stage::Open)?;
    if !there {
        session::begin(
            conn,
            (new.account.as_str(), new.agent.as_str()),
            (new.session.as_str(), new.session_by_server),
            new.now,
        )?;
    }
    if let Some(own) = &new.idempotency {
        request_key::begin(conn, new.payer(), own, new.request.as_str(), new.now)?;
    }
    memory.stands(new.account.as_str(), after);
    crate::failpoint::hit("reserve executed");
    Ok(granted)
}

/// As [`reserve`]; a refusal that a webhook is told of comes as a value, so that its notice is committed.
pub fn reserve_or_tell(
    conn: &mut SqliteConnection,
    memory: &mut Memory,
    new: &NewHold,
) -> Result<Result<Granted, Error>, WriteError> {
    let done = reserve(conn, memory, new);
    tell_refusal(conn, new, done)
}

/// Makes a value of a refusal that a webhook is told of.
pub(super) fn tell_refusal<T>(
    conn: &mut SqliteConnection,
    new: &NewHold,
    done: Result<T, WriteError>,
) -> Result<Result<T, Error>, WriteError> {
    let error = match done {
        Err(WriteError::Refused(error)) => error,
        done => return done.map(Ok),
    };
    // These two come before anything is written, save the upkeep of the budget, which is true anyway.
    let told = match &error {
        Error::InsufficientBalance { needed, available } => {
            webhook::exhausted(conn, new.account.as_str(), *needed, *available, new.now)?
        }
        Error::BudgetExceeded => {
            webhook::budget_exceeded(conn, new.account.as_str(), new.key.as_str(), new.now)?
        }
        _ => false,
    };
    if told { Ok(Err(error)) } else { Err(error.into()) }
}

/// How far a hold has come when it is first written.
pub(super) enum Stage<'a> {
    Open,
    /// The provider has answered already: who served it, what it came to, and when.
    Settled(Option<&'a Served>, &'a Charge, EpochMs),
}

pub(super) fn insert(
    conn: &mut SqliteConnection,
    new: &NewHold,
    (amount, pinned): (Nanos, &Price),
    stage: &Stage<'_>,
) -> QueryResult<()> {
    const OPEN: &str = "INSERT INTO hold (id, account_id, key_id, agent_id, session_id, completion_id, model, request_id, \
                        step, amount, price_id, owner_epoch, created_at, expires_at, state) \
                        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open')";
    const SETTLED: &str = "INSERT INTO hold (id, account_id, key_id, agent_id, session_id, completion_id, model, \
                           request_id, step, amount, price_id, owner_epoch, created_at, expires_at, state, closed_at, \
                           served_by, served_model, served_price_id, \
                           prompt, cached, output, source, cost, charged, written_off) \
                           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'settled', ?, \
                           ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let made = [
        Text(new.id.as_str()),
        Text(new.account.as_str()),
        Text(new.key.as_str()),
        Text(new.agent.as_str()),
        Text(new.session.as_str()),
        Text(new.completion.as_str()),
        Text(new.model()),
        Text(new.request.as_str()),
        Int(new.step.into()),
        Int(amount.0),
        Text(pinned.id.as_str()),
        Int(new.epoch),
        Int(new.now),
        Int(new.expires_at),
    ];
    match stage {
        Stage::Open => fixed!(OPEN, made).execute(conn),
        Stage::Settled(served, charge, at) => {
            // When stands behind what was made, before who served.
            let mut row = [Int(*at); 25];
            row[..14].copy_from_slice(&made);
            row[15..18].copy_from_slice(&super::columns(*served));
            row[18..].copy_from_slice(&charge.columns());
            fixed!(SETTLED, row).execute(conn)
        }
    }
    .map(drop)
}
