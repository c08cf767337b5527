//! What accounts can spend, as the writer told last: who can clearly pay need not wait for a commit. Plain.
//!
//! Nothing here is a promise to anybody but the provider's socket: the writer's guarded statement decides again, and the
//! client hears nothing before it has. What was changed elsewhere, by a refund say, is not known here until the account's
//! next reservation.

use foldhash::HashMap;

use crate::billing::money::Nanos;
use crate::id::AccountId;

/// Accounts that are remembered; those with nothing on its way are forgotten when there are more.
const MAX_ACCOUNTS: usize = 100_000;

/// What is known of one account.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// What it could spend after the last thing that was told.
    available: Nanos,
    /// What all reservations may take that are on their way to the writer, promised or not.
    sent: Nanos,
}

/// All accounts that have reserved something lately.
#[derive(Debug, Default)]
pub struct Balances(HashMap<AccountId, Known>);

impl Balances {
    /// Counts `amount` as on its way to the writer; whether the account is known to have it beside all else that is.
    pub fn send(&mut self, account: &AccountId, amount: Nanos) -> bool {
        let known = self.known(account);
        known.sent = Nanos(known.sent.0.saturating_add(amount.0));
        known.sent <= known.available
    }

    /// What was on its way has come to the writer, or never will.
    pub fn arrived(&mut self, account: &AccountId, amount: Nanos) {
        if let Some(known) = self.0.get_mut(account) {
            known.sent = Nanos(known.sent.0.saturating_sub(amount.0).max(0));
        }
    }

    /// The writer tells what an account can spend.
    pub fn told(&mut self, account: &AccountId, available: Nanos) {
        self.known(account).available = available;
    }

    /// What is known of an account: of a new one, that it has nothing.
    fn known(&mut self, account: &AccountId) -> &mut Known {
        if self.0.len() >= MAX_ACCOUNTS && !self.0.contains_key(account) {
            self.0.retain(|_, known| known.sent > Nanos::ZERO);
        }
        self.0.entry(account.clone()).or_default()
    }

    /// The writer cannot write: until it has told of an account, it decides alone.
    pub fn forget_all(&mut self) {
        self.0.values_mut().for_each(|known| known.available = Nanos::ZERO);
    }

    /// The writer did not agree: until it tells anew, it decides alone.
    pub fn forget(&mut self, account: &AccountId) {
        if let Some(known) = self.0.get_mut(account) {
            known.available = Nanos::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_promised_twice() {
        let mut balances = Balances::default();
        assert!(!balances.send(&"a".into(), Nanos(1)), "an account that nothing is known of");
        balances.arrived(&"a".into(), Nanos(1));
        balances.told(&"a".into(), Nanos(10));
        assert!(balances.send(&"a".into(), Nanos(6)));
        assert!(balances.send(&"a".into(), Nanos(4)));
        balances.told(&"a".into(), Nanos(4));
        balances.arrived(&"a".into(), Nanos(6));
        assert!(!balances.send(&"a".into(), Nanos(1)), "four are left, and on their way");
        balances.told(&"a".into(), Nanos(7));
        assert!(balances.send(&"a".into(), Nanos(2)));
    }

    #[test]
    fn who_waits_for_the_writer_is_counted_too() {
        let mut balances = Balances::default();
        balances.told(&"a".into(), Nanos(10));
        assert!(!balances.send(&"a".into(), Nanos(11)));
        assert!(
            !balances.send(&"a".into(), Nanos(1)),
            "the writer may grant the eleven, with what comes back meanwhile"
        );
        balances.arrived(&"a".into(), Nanos(11));
        assert!(balances.send(&"a".into(), Nanos(1)));
    }

    #[test]
    fn after_a_disagreement_the_writer_decides_alone() {
        let mut balances = Balances::default();
        balances.told(&"a".into(), Nanos(10));
        balances.forget(&"a".into());
        assert!(!balances.send(&"a".into(), Nanos(1)));
        balances.arrived(&"a".into(), Nanos(1));
        balances.told(&"a".into(), Nanos(10));
        assert!(balances.send(&"a".into(), Nanos(1)));
    }

    #[test]
    fn an_account_with_something_on_its_way_is_remembered() {
        let mut balances = Balances::default();
        balances.told(&"kept".into(), Nanos(10));
        assert!(balances.send(&"kept".into(), Nanos(10)));
        for at in 0..MAX_ACCOUNTS {
            balances.told(&at.to_string().into(), Nanos(1));
        }
        assert!(balances.0.len() <= MAX_ACCOUNTS);
        balances.told(&"kept".into(), Nanos(10));
        assert!(!balances.send(&"kept".into(), Nanos(1)), "all of it is on its way");
    }
}
