//! What the ledger should be: plain numbers and lists, by the rules of money alone.
//!
//! Shares no arithmetic with the server. Moves of holds stand in `holds`.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::moves::{Again, Known, Move, Outcome, Period, Price, Refusal, SessionKey};

/// Everything that is known after the last move.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub now: i64,
    /// Number, start and end of each run of the server.
    pub epochs: Vec<(i64, i64, Option<i64>)>,
    pub accounts: BTreeMap<String, Account>,
    pub agents: BTreeMap<String, Agent>,
    pub keys: Vec<Key>,
    pub budgets: BTreeMap<String, Budget>,
    pub prices: Vec<Price>,
    pub holds: Vec<Hold>,
    /// Numbers of the holds that were charged, in the order in which they were.
    pub charged: Vec<usize>,
    pub sessions: BTreeMap<SessionKey, Session>,
    pub requests: BTreeMap<(String, String, String), Request>,
    /// What was remarkable about the last moves.
    pub notes: Vec<&'static str>,
}

#[derive(Clone, Debug, Default)]
pub struct Account {
    pub active: bool,
    pub available: i64,
    pub held: i64,
    pub agents: i64,
    pub sessions: i64,
    pub created: i64,
    /// The balances whose crossing is told, if anything is.
    pub watch: Option<Vec<i64>>,
    /// When the lack of money was told.
    pub exhausted: Option<i64>,
    /// What is still to be told, and since when.
    pub notices: Vec<(&'static str, i64)>,
    pub entries: Vec<Entry>,
    /// All entries, one after the other, as a glance at the database shows them.
    pub glance: String,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub kind: &'static str,
    pub hold: Option<String>,
    pub reference: Option<String>,
    pub delta: i64,
    pub balance_after: i64,
    pub actor: String,
    pub at: i64,
}

#[derive(Clone, Debug)]
pub struct Agent {
    pub account: String,
    pub alive: bool,
}

#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub account: String,
    pub agent: String,
    pub budget: Option<(i64, Period)>,
}

#[derive(Clone, Debug)]
pub struct Budget {
    pub period: i64,
    pub cap: i64,
    pub spent: i64,
    pub held: i64,
    /// The period of which it was told that it is used up.
    pub told: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    Settled,
    Released,
}

#[derive(Clone, Debug)]
pub struct Hold {
    pub id: String,
    pub at: SessionKey,
    pub key: String,
    pub completion: String,
    pub request: String,
    pub step: i32,
    pub amount: i64,
    /// Which row of the price list it is pinned to: the dearest.
    pub price: usize,
    /// Which rows it can be served at.
    pub prices: Vec<usize>,
    /// At which of them it is served, as far as it was said.
    pub served: Option<usize>,
    pub prompt_max: u64,
    pub n: u64,
    pub max_output: u64,
    pub state: State,
    pub reason: Option<&'static str>,
    pub epoch: i64,
    pub marks: (u64, u64),
    pub pending: Option<Vec<String>>,
    pub created: i64,
    pub expires: i64,
    pub closed: Option<i64>,
    pub usage: Option<Used>,
}

#[derive(Clone, Debug)]
pub struct Used {
    pub prompt: u64,
    pub cached: u64,
    pub output: u64,
    pub source: &'static str,
    pub cost: i64,
    pub charged: i64,
    pub written_off: i64,
    /// At which row of the price list.
    pub price: usize,
    /// The row that names the model: that of whoever served it, else that of whoever was to be asked first.
    pub named: usize,
    pub at: i64,
    /// Where the account stood right after it.
    pub balance_after: i64,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub by_server: bool,
    pub created: i64,
    pub updated: i64,
    /// Each message with the seq of the last message of its turn.
    pub messages: Vec<(i64, String)>,
    pub turns: Vec<Kept>,
}

#[derive(Clone, Debug)]
pub struct Kept {
    pub seq: i64,
    pub completion: String,
    pub hold: String,
    pub complete: bool,
    pub metadata: Option<String>,
    pub at: i64,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub fingerprint: String,
    pub request: String,
    pub answer: Option<String>,
    pub at: i64,
}

impl Model {
    /// The run of the server that owns new holds.
    pub fn epoch(&self) -> i64 {
        self.epochs.last().map_or(0, |(epoch, ..)| *epoch)
    }

    /// The hold of that id; the caller has it from the model.
    pub fn hold(&self, id: &str) -> &Hold {
        self.holds.iter().find(|hold| hold.id == id).expect("moves name holds of the model")
    }

    /// The place of a row in the price list.
    pub fn row(&self, id: &str) -> usize {
        self.prices.iter().position(|row| row.id == id).expect("moves name prices of the model")
    }

    /// The row of the price list in force now.
    pub fn current_price(&self, model: &str) -> Option<&Price> {
        let in_force = self.prices.iter().filter(|row| row.model == model && row.from <= self.now);
        in_force.max_by_key(|row| row.from)
    }

    pub(crate) fn account(&mut self, id: &str) -> &mut Account {
        self.accounts.get_mut(id).expect("moves name accounts of the model")
    }

    /// Does what the move says and tells what it has to come to. A refusal changes nothing.
    pub fn apply(&mut self, step: &Move) -> Outcome {
        match step {
            Move::Reserve(wish) => self.reserve(wish),
            Move::Settle(end) => self.settle(end, None),
            Move::Release { hold, why } => self.release(hold, why),
            Move::Checkpoint { hold, prompt, output, served, said } => {
                self.checkpoint(hold, (*prompt, *output), served.as_ref(), said.as_ref())
            }
            Move::AskAgain { account, key, again } => Outcome::Known(self.known(account, key, again)),
            Move::Credit { account, reference, amount } => self.credit(account, reference, *amount),
            Move::Post { account, kind, reference, delta } => {
                self.post(account, kind, reference.as_deref(), *delta)
            }
            Move::SetStatus { account, active } => {
                self.account(account).active = *active;
                Outcome::Changed(true)
            }
            Move::SetPrice(price) => {
                let taken = self.prices.iter().any(|row| row.model == price.model && row.from == price.from);
                if !taken {
                    self.prices.push(price.clone());
                }
                Outcome::Changed(!taken)
            }
            Move::Watch { account, low } => {
                self.account(account).watch = Some(low.clone());
                Outcome::Done
            }
            Move::Unwatch { account } => {
                let own = self.account(account);
                own.notices.clear();
                Outcome::Changed(own.watch.take().is_some())
            }
            Move::AddAgent { account, agent, key } => {
                self.account(account).agents += 1;
                self.agents.insert(agent.clone(), Agent { account: account.clone(), alive: true });
                let (id, account, agent) = (key.clone(), account.clone(), agent.clone());
                self.keys.push(Key { id, account, agent, budget: None });
                Outcome::Done
            }
            Move::DeleteAgent { agent } => Outcome::Changed(self.delete_agent(agent)),
            Move::OpenSession { at } if !self.agents[&at.agent].alive && !self.sessions.contains_key(at) => {
                Outcome::Refused(Refusal::AgentGone)
            }
            Move::OpenSession { at } => Outcome::Changed(self.ensure_session(at, true)),
            Move::DeleteSession { at } => {
                let gone = self.sessions.remove(at).is_some();
                self.account(&at.account).sessions -= i64::from(gone);
                Outcome::Changed(gone)
            }
            Move::SetBudget { key, budget } => {
                let own = self.keys.iter_mut().find(|own| own.id == *key).expect("a key of the model");
                let switched = own.budget.is_some() != budget.is_some();
                own.budget = *budget;
                if switched && self.holds.iter().any(|hold| hold.state == State::Open && hold.key == *key) {
                    self.notes.push("the budget of a key came or went under an open hold");
                }
                Outcome::Done
            }
            Move::Pass { ms } => {
                self.now += ms;
                Outcome::Done
            }
        }
    }

    /// Ends every earlier run and begins a new one.
    pub fn begin_epoch(&mut self) {
        let (next, now) = (self.epoch() + 1, self.now);
        self.end_epoch();
        self.epochs.push((next, now, None));
    }

    /// Ends the run in order.
    pub fn end_epoch(&mut self) {
        for (_, _, ended) in &mut self.epochs {
            ended.get_or_insert(self.now);
        }
    }

    pub(crate) fn ensure_session(&mut self, at: &SessionKey, by_server: bool) -> bool {
        if self.sessions.contains_key(at) {
            return false;
        }
        let now = self.now;
        let fresh =
            Session { by_server, created: now, updated: now, messages: Vec::new(), turns: Vec::new() };
        self.sessions.insert(at.clone(), fresh);
        self.account(&at.account).sessions += 1;
        true
    }

    fn delete_agent(&mut self, agent: &str) -> bool {
        let own = self.agents.get_mut(agent).expect("moves name agents of the model");
        if !own.alive {
            return false;
        }
        own.alive = false;
        let account = own.account.clone();
        let before = self.sessions.len();
        self.sessions.retain(|at, _| at.agent != agent);
        let gone = i64::try_from(before - self.sessions.len()).expect("few sessions");
        let owner = self.account(&account);
        owner.agents -= 1;
        owner.sessions -= gone;
        // A budget with money held stays until the hold is closed, and after.
        for key in self.keys.iter().filter(|key| key.agent == agent) {
            if self.budgets.get(&key.id).is_some_and(|budget| budget.held == 0) {
                self.budgets.remove(&key.id);
            }
        }
        if self.holds.iter().any(|hold| hold.state == State::Open && hold.at.agent == agent) {
            self.notes.push("an agent was deleted under an open hold");
        }
        true
    }

    /// Adds an entry behind the last one; the account's columns already say the balance after it.
    pub(crate) fn append(&mut self, account: &str, entry: Entry) -> Outcome {
        let own = self.account(account);
        let seq = i64::try_from(own.entries.len()).expect("few entries") + 1;
        let (delta, balance_after) = (entry.delta, entry.balance_after);
        assert_eq!(balance_after, own.available + own.held, "the model's own books");
        write!(own.glance, "{delta}={balance_after} ").expect("text can be written");
        if delta > 0 {
            own.exhausted = None;
        }
        let low = own.watch.iter().flatten();
        let crossed = low.filter(|low| balance_after - delta > **low && **low >= balance_after).count();
        own.notices.extend(vec![("balance.low", entry.at); crossed]);
        own.entries.push(entry);
        if crossed > 0 {
            self.notes.push("a low balance was told");
        }
        Outcome::Entry { seq, balance_after, again: false }
    }

    fn find_entry(&self, kind: &str, reference: &str) -> Option<(&str, usize, &Entry)> {
        self.accounts.iter().find_map(|(account, own)| {
            let named = |entry: &Entry| entry.kind == kind && entry.reference.as_deref() == Some(reference);
            let at = own.entries.iter().position(named)?;
            Some((account.as_str(), at, &own.entries[at]))
        })
    }

    fn credit(&mut self, account: &str, reference: &str, amount: i64) -> Outcome {
        if let Some((owner, at, earlier)) = self.find_entry("topup", reference) {
            if owner != account || earlier.delta != amount {
                return Outcome::Refused(Refusal::OtherPayment);
            }
            let seq = i64::try_from(at).expect("few entries") + 1;
            return Outcome::Entry { seq, balance_after: earlier.balance_after, again: true };
        }
        self.post(account, "topup", Some(reference), amount)
    }

    fn post(&mut self, account: &str, kind: &'static str, reference: Option<&str>, delta: i64) -> Outcome {
        let own = &self.accounts[account];
        let Some(after) = own.available.checked_add(delta).filter(|after| *after >= 0) else {
            return Outcome::Refused(Refusal::BelowNothing);
        };
        let named_before = reference.is_some_and(|name| self.find_entry(kind, name).is_some());
        let no_payment = kind == "topup" && (delta <= 0 || reference.is_none());
        if named_before || no_payment {
            return Outcome::Refused(Refusal::Constraint);
        }
        let (now, own) = (self.now, self.account(account));
        own.available = after;
        let balance_after = own.available + own.held;
        let (reference, actor) = (reference.map(str::to_owned), "operator".to_owned());
        self.append(account, Entry { kind, hold: None, reference, delta, balance_after, actor, at: now })
    }

    fn known(&self, account: &str, key: &str, again: &Again) -> Known {
        let of = (account.to_owned(), key.to_owned(), again.name.clone());
        let kept = self.requests.get(&of).filter(|kept| kept.at > self.now - super::holds::KEPT);
        let Some(kept) = kept else { return Known::Unknown };
        if kept.fingerprint != again.fingerprint {
            return Known::Mismatch;
        }
        let Some(answer) = kept.answer.clone() else { return Known::Running };
        let steps = || self.holds.iter().filter(|hold| hold.request == kept.request && hold.usage.is_some());
        let last = steps().max_by_key(|hold| hold.step).expect("an answer was charged");
        let charged = steps().filter_map(|hold| hold.usage.as_ref()).map(|used| used.charged).sum();
        let used = last.usage.as_ref().expect("an answer was charged");
        let tokens = [used.prompt, used.cached, used.output].map(|count| i64::try_from(count).expect("few"));
        Known::Answered { answer, tokens, charged, balance: used.balance_after }
    }
}
