//! What the writer remembers of accounts from one turn to the next, so that it need not ask for what it has just written.
//!
//! Nothing here is believed of money: the statement that moves it names what is remembered, and does nothing where the
//! account stands otherwise. What else is remembered goes with any change that is not a turn's, and with any transaction
//! that comes to nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::HashMap;

use crate::clock::EpochMs;
use crate::id::AgentId;
use crate::store::account::Standing;
use crate::store::hold::NewHold;

/// Accounts, and keys, that are remembered; when there are more, all are forgotten.
const MOST: usize = 100_000;

/// What is remembered. It is the writing thread's alone.
#[derive(Debug, Default)]
pub struct Memory {
    /// Counts what may have made it untrue.
    changes: Arc<AtomicU64>,
    as_of: u64,
    accounts: HashMap<String, Standing>,
    payers: HashMap<String, Payer>,
}

/// A key that has paid for its agent's answers.
#[derive(Clone, Debug)]
pub(super) struct Payer {
    /// The agent, which is there; an account's key may have others too.
    pub agent: AgentId,
    /// Whether the key has, or had, a budget.
    pub budgeted: bool,
    /// When it ends.
    pub ends_at: Option<EpochMs>,
}

impl Memory {
    /// Remembers as long as `changes` stays as it is.
    pub fn until(changes: Arc<AtomicU64>) -> Self {
        Self { changes, ..Self::default() }
    }

    /// How the account of a hold stands, if all that may refuse it beside the money is known to be in order.
    pub(super) fn standing(&mut self, new: &NewHold) -> Option<Standing> {
        let known = self.known(new.account.as_str(), new.key.as_str())?;
        let payer = self.payers.get(new.key.as_str()).filter(|payer| payer.agent == new.agent)?;
        let ended = payer.ends_at.is_some_and(|end| end <= new.now);
        let plain = new.budget.is_none() && new.idempotency.is_none();
        (plain && !ended).then_some(known)
    }

    /// How an account of which that key pays stands.
    pub(super) fn known(&mut self, account: &str, key: &str) -> Option<Standing> {
        let changes = self.changes.load(Relaxed);
        if self.as_of != changes || self.payers.len() > MOST || self.accounts.len() > MOST {
            (self.as_of, self.accounts, self.payers) = (changes, HashMap::default(), HashMap::default());
        }
        let budgeted = self.payers.get(key)?.budgeted;
        Some(Standing { budgeted, ..self.accounts.get(account)?.clone() })
    }

    /// A key may pay for an agent's answers.
    pub(super) fn may_pay(&mut self, key: &str, payer: Payer) {
        self.payers.insert(key.to_owned(), payer);
    }

    /// What is remembered of a key is so no more.
    pub(super) fn forget_payer(&mut self, key: &str) {
        self.payers.remove(key);
    }

    /// An account stands so, after a movement that was written just now.
    pub(super) fn stands(&mut self, account: &str, standing: Standing) {
        match self.accounts.get_mut(account) {
            Some(known) => *known = standing,
            None => drop(self.accounts.insert(account.to_owned(), standing)),
        }
    }

    /// An account stands otherwise.
    pub(super) fn forget(&mut self, account: &str) {
        self.accounts.remove(account);
    }
}
