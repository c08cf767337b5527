//! A seed's run: moves in batches, crashes and restarts between and inside them, and a look after every step.

use std::collections::{BTreeMap, VecDeque};

use crate::choose::{Chooser, START};
use crate::compare;
use crate::database::Database;
use crate::model::{Account, Model, State};
use crate::moves::{Move, Outcome};
use crate::random::Random;

/// After how many steps every column is compared, not only every figure.
const WHOLE: u64 = 40;
/// How many of the last moves a failure shows.
const SHOWN: usize = 8;

/// How often each remarkable thing came about.
pub type Tally = BTreeMap<String, u64>;

/// A ledger and its model, which agree.
pub struct Simulation {
    seed: u64,
    step: u64,
    /// Whether the invariants are checked after each step too, not only after each commit.
    thorough: bool,
    random: Random,
    chooser: Chooser,
    pub model: Model,
    pub database: Database,
    pub tally: Tally,
    last: VecDeque<Move>,
}

/// What becomes of a batch.
enum Fate {
    Committed,
    /// The process dies before the commit, or right after it.
    Died {
        before_commit: bool,
    },
    /// Something in it panics: it is undone and made again piece by piece.
    MadeAgain,
    /// The server stops in order and starts again.
    Stopped,
}

impl Simulation {
    /// Drives `steps` moves of that seed. The figures are compared after each of them; the invariants too where it
    /// is to be `thorough`, else after each commit, when others can see what was done.
    ///
    /// # Panics
    /// When the database differs from the model, or breaks an invariant.
    pub fn run(seed: u64, steps: u64, thorough: bool) -> Self {
        let mut own = Self {
            seed,
            step: 0,
            thorough,
            random: Random::new(!seed),
            chooser: Chooser::new(seed),
            model: Model { now: START, ..Model::default() },
            database: Database::new(),
            tally: Tally::new(),
            last: VecDeque::new(),
        };
        own.open();
        while own.step < steps {
            own.batch();
        }
        own.columns();
        own
    }

    fn open(&mut self) {
        self.restart();
        let accounts = self.chooser.accounts();
        for id in &accounts {
            self.database.add_account(id, START);
            let fresh = Account { active: true, created: START, ..Account::default() };
            self.model.accounts.insert(id.clone(), fresh);
        }
        for step in self.chooser.opening(&accounts) {
            self.apply(&step);
        }
    }

    fn fate(&mut self) -> Fate {
        match self.random.below(100) {
            0 | 1 => Fate::Died { before_commit: true },
            2 => Fate::Died { before_commit: false },
            3..=5 => Fate::MadeAgain,
            6 => Fate::Stopped,
            _ => Fate::Committed,
        }
    }

    fn batch(&mut self) {
        let fate = self.fate();
        let undone = matches!(fate, Fate::Died { before_commit: true } | Fate::MadeAgain);
        let before = undone.then(|| self.model.clone());
        let mut moves = Vec::new();
        self.database.begin();
        for _ in 0..=self.random.below(8) {
            let step = self.chooser.next(&self.model);
            self.apply(&step);
            moves.push(step);
        }
        match (fate, before) {
            (Fate::Died { .. }, Some(before)) => {
                self.count("a batch was lost with its process");
                self.die(Some(before));
                self.restart();
            }
            (Fate::MadeAgain, Some(before)) => {
                self.count("a batch was made again piece by piece");
                self.database.roll_back();
                self.model = before;
                for step in moves {
                    self.database.begin();
                    self.apply(&step);
                    self.commit();
                }
            }
            (Fate::Died { .. }, None) => {
                self.commit();
                self.die(None);
                self.restart();
            }
            (Fate::Stopped, _) => {
                self.commit();
                self.stop();
                self.restart();
            }
            _ => self.commit(),
        }
    }

    /// One move, its outcome, and a look at everything.
    fn apply(&mut self, step: &Move) {
        self.last.push_back(step.clone());
        if self.last.len() > SHOWN {
            self.last.pop_front();
        }
        self.step += 1;
        let at = (self.model.now, self.model.epoch());
        let expected = self.model.apply(step);
        let found = self.database.apply(step, at);
        assert_eq!(found, expected, "what the move came to, and what the model says");
        match expected {
            Outcome::Refused(refusal) => {
                let named = format!("{refusal:?}");
                self.count(&format!("refused: {}", named.split(' ').next().unwrap_or_default()));
            }
            Outcome::Granted { .. } => self.count("money was set aside"),
            Outcome::Entry { again: true, .. } => self.count("a payment was told twice"),
            Outcome::Known(known) => {
                let named = format!("{known:?}");
                self.count(&format!("asked again: {}", named.split(' ').next().unwrap_or_default()));
            }
            _ => {}
        }
        self.look();
    }

    fn look(&mut self) {
        for note in std::mem::take(&mut self.model.notes) {
            *self.tally.entry(note.to_owned()).or_default() += 1;
        }
        compare::figures(self.database.conn(), &self.model);
        if self.thorough {
            compare::invariants(self.database.conn());
        }
        if self.step.is_multiple_of(WHOLE) {
            self.columns();
        }
    }

    /// Makes a batch last: from here on others see it.
    fn commit(&mut self) {
        self.database.commit();
        compare::invariants(self.database.conn());
    }

    fn columns(&mut self) {
        compare::columns(self.database.conn(), &self.model);
    }

    fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    /// The process dies; what was not committed, as `before` remembers, has not happened.
    fn die(&mut self, before: Option<Model>) {
        self.database.crash();
        if let Some(before) = before {
            self.model = before;
        }
        self.columns();
    }

    /// Ends the run in order: no turn is left, and the run says so.
    fn stop(&mut self) {
        let open = |model: &Model| {
            model.holds.iter().find(|hold| hold.state == State::Open).map(|hold| hold.id.clone())
        };
        while let Some(hold) = open(&self.model) {
            self.apply(&Move::Release { hold, why: "draining" });
        }
        self.database.end_epoch(self.model.epoch(), self.model.now);
        self.model.end_epoch();
        self.database.crash();
        self.columns();
    }

    /// Recovery and a new run, perhaps after a recovery that died or came twice.
    fn restart(&mut self) {
        match self.random.below(8) {
            0 => {
                self.count("a recovery died before its commit");
                self.database.begin();
                self.database.recover(self.model.now);
                self.die(None);
            }
            1 => {
                self.recover();
                self.count("a recovery came twice");
            }
            2 => {
                self.recover();
                self.count("a start died between recovery and its run");
                self.die(None);
            }
            _ => {}
        }
        self.recover();
        self.database.begin();
        let epoch = self.database.begin_epoch(self.model.now);
        self.commit();
        self.model.begin_epoch();
        assert_eq!(epoch, self.model.epoch(), "the number of the run");
    }

    fn recover(&mut self) {
        self.database.begin();
        let found = self.database.recover(self.model.now);
        self.database.commit();
        let expected = self.model.recover();
        assert_eq!(found, expected, "how many holds were charged and released");
        self.look();
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, step) = (self.seed, self.step);
            eprintln!(
                "\nLEDGER_SEED={seed} cargo test --test ledger repeats this; it failed after {step} steps."
            );
            eprintln!("The last moves, oldest first:");
            for step in &self.last {
                eprintln!("  {step:?}");
            }
        }
    }
}
