//! What can happen to the ledger, as plain data: a failing run prints its last moves.

use switchboard::conversation::usage::{Usage, UsageSource};

/// How long a call may live without another word, in milliseconds.
pub const HOLD_LIFE: i64 = 660_000;

/// One thing that happens. The writer runs each in a savepoint of its own.
#[derive(Clone, Debug)]
pub enum Move {
    /// A turn is at the head of its session.
    Reserve(Box<Reserve>),
    /// A turn came to its end.
    Settle(Settle),
    /// A turn ended before anything was received.
    Release { hold: String, why: &'static str },
    /// A long turn notes how far it has come.
    Checkpoint { hold: String, prompt: u64, output: u64, served: Option<Price>, said: Option<Vec<String>> },
    /// A client looks whether its request was answered before.
    AskAgain { account: String, key: String, again: Again },
    /// A payment arrives, perhaps once more: its reference is looked up first.
    Credit { account: String, reference: String, amount: i64 },
    /// An entry is posted without looking first.
    Post { account: String, kind: &'static str, reference: Option<String>, delta: i64 },
    /// The operator suspends an account or lets it go on.
    SetStatus { account: String, active: bool },
    /// The operator sets a price, perhaps one that begins later.
    SetPrice(Price),
    /// A tenant wants to be told when its money runs low, out, or past a budget.
    Watch { account: String, low: Vec<i64> },
    /// A tenant wants to be told no more.
    Unwatch { account: String },
    /// A tenant adds an agent with a key.
    AddAgent { account: String, agent: String, key: String },
    /// A tenant deletes an agent, whatever is open under it.
    DeleteAgent { agent: String },
    /// A client opens a session ahead of its first turn.
    OpenSession { at: SessionKey },
    /// A client deletes a session, whatever is open in it.
    DeleteSession { at: SessionKey },
    /// A tenant sets or removes the budget of a key; the next reserve brings it.
    SetBudget { key: String, budget: Option<(i64, Period)> },
    /// The wall clock moves, perhaps backwards.
    Pass { ms: i64 },
}

/// A wish to set money aside.
#[derive(Clone, Debug)]
pub struct Reserve {
    pub hold: String,
    pub at: SessionKey,
    pub key: String,
    pub budget: Option<(i64, i64)>,
    pub by_server: bool,
    pub completion: String,
    pub request: String,
    pub again: Option<Again>,
    pub step: i32,
    /// The price rows of all that may serve it.
    pub prices: Vec<Price>,
    pub prompt_max: u64,
    pub n: u64,
    pub wanted: u64,
    pub least: u64,
}

/// The end of a turn.
#[derive(Clone, Debug)]
pub struct Settle {
    pub hold: String,
    pub usage: Usage,
    pub source: UsageSource,
    /// The price row of whoever served it.
    pub served: Option<Price>,
    pub turn: Option<Turn>,
    pub answer: Option<String>,
}

/// A turn to be kept.
#[derive(Clone, Debug)]
pub struct Turn {
    pub messages: Vec<String>,
    pub reply: String,
    pub complete: bool,
    pub metadata: Option<String>,
}

/// A client's own name of a request, and what it asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Again {
    pub name: String,
    pub fingerprint: String,
}

/// A row of the price list, in nano-dollars per million tokens.
#[derive(Clone, Debug)]
pub struct Price {
    pub id: String,
    pub model: String,
    pub from: i64,
    pub input: i64,
    pub cached: i64,
    pub output: i64,
    pub fee: i64,
}

/// Account, agent and name of a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionKey {
    pub account: String,
    pub agent: String,
    pub name: String,
}

/// How often a budget begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    Day,
    Month,
    Total,
}

impl Period {
    /// The number of the period that runs at `now`.
    pub fn number(self, now: i64) -> i64 {
        match self {
            Self::Day => now / 86_400_000,
            Self::Month => now / 86_400_000 / 30,
            Self::Total => 0,
        }
    }
}

/// What a move came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to say.
    Done,
    /// Whether something was changed.
    Changed(bool),
    Granted {
        amount: i64,
        max_output: u64,
    },
    Closed {
        charged: i64,
        written_off: i64,
        balance: i64,
        usage: (u64, u64, u64),
    },
    /// An entry; `again` if it stood there before.
    Entry {
        seq: i64,
        balance_after: i64,
        again: bool,
    },
    /// What is known of a request.
    Known(Known),
    Refused(Refusal),
}

/// What is known of a request that is asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    Unknown,
    Running,
    Mismatch,
    Answered { answer: String, tokens: [i64; 3], charged: i64, balance: i64 },
}

/// Why a move was refused; a refused move has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Suspended,
    Budget,
    Balance {
        needed: i64,
        available: i64,
    },
    /// Nobody is there to answer.
    AgentGone,
    /// A cost that no account could ever pay.
    BeyondMoney,
    /// Less than nothing would be left.
    BelowNothing,
    /// The reference names another payment.
    OtherPayment,
    /// The same request runs.
    Running,
    /// The database itself would not: a constraint.
    Constraint,
    /// Something that no move should come to.
    Unexpected(String),
}
