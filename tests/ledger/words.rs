//! The model's words in those of the store, and back.

use std::sync::Arc;

use switchboard::billing::money::Nanos;
use switchboard::billing::price::Price as StorePrice;
use switchboard::conversation::turn::Completeness;
use switchboard::error::Error;
use switchboard::store::hold::{Candidate, NewHold, Served, Settlement};
use switchboard::store::request_key::Idempotency;
use switchboard::store::turn::StoredTurn;
use switchboard::store::writer::WriteError;

use crate::moves::{Again, HOLD_LIFE, Price, Refusal, Reserve, Settle, Turn};

pub fn refusal(refused: WriteError) -> Refusal {
    use diesel::result::DatabaseErrorKind::{CheckViolation, UniqueViolation};
    match refused {
        WriteError::Refused(Error::AccountSuspended) => Refusal::Suspended,
        WriteError::Refused(Error::BudgetExceeded) => Refusal::Budget,
        WriteError::Refused(Error::InsufficientBalance { needed, available }) => {
            Refusal::Balance { needed: needed.0, available: available.0 }
        }
        WriteError::Refused(Error::Internal(text)) if text.contains("beyond all money") => {
            Refusal::BeyondMoney
        }
        WriteError::Refused(Error::ModelNotFound(_)) => Refusal::AgentGone,
        WriteError::Refused(Error::Invalid(_)) => Refusal::BelowNothing,
        WriteError::Refused(Error::Mismatch(_)) => Refusal::OtherPayment,
        WriteError::Refused(Error::IdempotencyInProgress) => Refusal::Running,
        WriteError::Query(diesel::result::Error::DatabaseError(UniqueViolation | CheckViolation, _)) => {
            Refusal::Constraint
        }
        other => Refusal::Unexpected(format!("{other:?}")),
    }
}

pub fn new_hold(wish: &Reserve, now: i64, own_epoch: i64) -> NewHold {
    NewHold {
        id: wish.hold.as_str().into(),
        account: wish.at.account.as_str().into(),
        key: wish.key.as_str().into(),
        budget: wish.budget.map(|(cap, period)| (Nanos(cap), period)),
        agent: wish.at.agent.as_str().into(),
        session: wish.at.name.as_str().into(),
        place: None,
        session_by_server: wish.by_server,
        completion: wish.completion.as_str().into(),
        candidates: wish.prices.iter().map(candidate).collect(),
        request: wish.request.as_str().into(),
        idempotency: wish.again.as_ref().map(idempotency),
        step: wish.step,
        prompt_max: wish.prompt_max,
        n: wish.n,
        wanted_output: wish.wanted,
        least_output: wish.least,
        epoch: own_epoch,
        now,
        expires_at: now + HOLD_LIFE,
    }
}

fn candidate(row: &Price) -> Candidate {
    Candidate { model: row.model.as_str().into(), price: Arc::new(store_price(row)) }
}

/// Who serves a call at the price of that row, by the names that the row itself has.
pub fn served(row: &Price) -> Served {
    Served {
        by: format!("p/{}", row.model).into(),
        model: row.model.as_str().into(),
        price: row.id.as_str().into(),
    }
}

pub fn settlement(end: &Settle) -> Settlement {
    let kept = |turn: &Turn| StoredTurn {
        messages: turn.messages.clone(),
        reply: turn.reply.clone(),
        completeness: if turn.complete { Completeness::Complete } else { Completeness::Incomplete },
        metadata: turn.metadata.clone(),
        opening: None,
    };
    Settlement {
        usage: end.usage,
        source: end.source,
        served: end.served.as_ref().map(served),
        turn: end.turn.as_ref().map(kept),
        summary: None,
        answer: end.answer.clone(),
    }
}

pub fn idempotency(again: &Again) -> Idempotency {
    Idempotency { key: again.name.clone(), fingerprint: again.fingerprint.clone() }
}

pub fn store_price(row: &Price) -> StorePrice {
    StorePrice {
        id: row.id.as_str().into(),
        model: row.model.clone(),
        effective_from: row.from,
        input: Nanos(row.input),
        cached_input: Nanos(row.cached),
        output: Nanos(row.output),
        per_request: Nanos(row.fee),
    }
}
