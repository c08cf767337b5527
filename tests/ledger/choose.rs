//! Which move comes next: drawn so that money is scarce, names repeat and everything is done to everything.

use switchboard::conversation::usage::{Usage, UsageSource};

use crate::model::{Hold, Model, State};
use crate::moves::{Again, Move, Period, Price, Reserve, SessionKey, Settle, Turn};
use crate::random::Random;

/// Where the wall clock stands at first.
pub const START: i64 = 1_800_000_000_000;

const MODELS: [&str; 3] = ["demo/small", "demo/large", "demo/free"];
const KINDS: usize = 17;

/// Draws moves. Each seed has its own taste: how dear tokens are, and what happens how often.
pub struct Chooser {
    random: Random,
    /// The size of a price, in nano-dollars per million tokens.
    scale: i64,
    weights: [u64; KINDS],
}

impl Chooser {
    /// The taste of that seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let scale = 10i64.pow(u32::try_from(random.below(9)).expect("small") + 2);
        let mut weights = [75, 45, 12, 25, 8, 12, 10, 5, 6, 2, 2, 2, 4, 6, 8, 4, 4];
        for weight in &mut weights {
            *weight *= 1 + random.below(3);
        }
        Self { random, scale, weights }
    }

    /// The accounts that there are.
    pub fn accounts(&mut self) -> Vec<String> {
        (1..=2 + self.random.below(2)).map(|number| format!("acct_{number}")).collect()
    }

    /// What is there before anything happens.
    pub fn opening(&mut self, accounts: &[String]) -> Vec<Move> {
        let mut moves = Vec::new();
        for (number, model) in MODELS.iter().enumerate() {
            let price = self.price(format!("price_{number}"), model, START);
            moves.push(Move::SetPrice(price));
        }
        for (number, account) in accounts.iter().enumerate() {
            let (account, agent, key) = (account.clone(), format!("ag_{number}"), format!("key_{number}"));
            let delta = self.scale / 250 * self.random.between(0, 4) + 1;
            moves.push(Move::Post { account: account.clone(), kind: "grant", reference: None, delta });
            moves.push(Move::AddAgent { account, agent, key: key.clone() });
            if self.random.chance(60) {
                moves.push(Move::SetBudget { key, budget: self.budget() });
            }
        }
        moves
    }

    /// The next move.
    pub fn next(&mut self, model: &Model) -> Move {
        let account = self.account(model);
        match self.random.weighted(&self.weights) {
            0 => self.reserve(model).unwrap_or_else(|| Self::add_agent(model, account)),
            1 => match self.settle(model).or_else(|| self.reserve(model)) {
                Some(chosen) => chosen,
                None => self.credit(account),
            },
            2 => match self.hold(model) {
                Some(hold) => Move::Release { hold: hold.id.clone(), why: "upstream" },
                None => self.credit(account),
            },
            3 => self.checkpoint(model).unwrap_or_else(|| self.post(model, account)),
            4 => {
                let known: Vec<_> = model.requests.keys().collect();
                if self.random.chance(70)
                    && let Some((account, key, name)) = self.random.pick(&known)
                {
                    let again = Again { name: name.clone(), ..self.again() };
                    return Move::AskAgain { account: account.clone(), key: key.clone(), again };
                }
                let Some(key) = self.key(model, true) else { return self.credit(account) };
                Move::AskAgain { account: key.account.clone(), key: key.id.clone(), again: self.again() }
            }
            5 => self.credit(account),
            6 => self.post(model, account),
            7 => Move::SetStatus { account, active: self.random.chance(85) },
            8 => self.new_price(model),
            9 => Self::add_agent(model, account),
            10 => match self.key(model, true) {
                Some(key) => Move::DeleteAgent { agent: key.agent.clone() },
                None => Self::add_agent(model, account),
            },
            11 | 12 => match self.session(model) {
                Some(at) if self.random.chance(40) => Move::OpenSession { at },
                Some(at) => Move::DeleteSession { at },
                None => Self::add_agent(model, account),
            },
            13 => match self.key(model, false) {
                Some(key) => Move::SetBudget { key: key.id.clone(), budget: self.budget() },
                None => Self::add_agent(model, account),
            },
            14 => Move::Pass { ms: self.random.between(0, 100_000) },
            15 => match &model.accounts[&account].watch {
                Some(_) if self.random.chance(20) => Move::Unwatch { account },
                Some(_) => self.credit(account),
                None => Move::Watch { account, low: vec![self.money(), 0, self.money() / 2] },
            },
            _ => Move::Pass { ms: self.random.between(-90_000_000, 180_000_000) },
        }
    }

    fn account(&mut self, model: &Model) -> String {
        let ids: Vec<_> = model.accounts.keys().collect();
        self.random.pick(&ids).expect("there are accounts").to_string()
    }

    /// A key; one of an agent that is gone only now and then, or when `any` will do.
    fn key<'m>(&mut self, model: &'m Model, any: bool) -> Option<&'m crate::model::Key> {
        let late = any || self.random.chance(4);
        let keys: Vec<_> = model.keys.iter().filter(|key| late || model.agents[&key.agent].alive).collect();
        self.random.pick(&keys).copied()
    }

    /// A hold: mostly an open one, else any, or one that a recovery closed under its turn.
    fn hold<'m>(&mut self, model: &'m Model) -> Option<&'m Hold> {
        let wanted = match self.random.below(20) {
            0 => |hold: &Hold| hold.reason == Some("crash"),
            1 | 2 => |_: &Hold| true,
            _ => |hold: &Hold| hold.state == State::Open,
        };
        let holds: Vec<_> = model.holds.iter().filter(|hold| wanted(hold)).collect();
        self.random.pick(&holds).copied()
    }

    fn session(&mut self, model: &Model) -> Option<SessionKey> {
        let key = self.key(model, false)?;
        let name = format!("s{}", self.random.below(3));
        Some(SessionKey { account: key.account.clone(), agent: key.agent.clone(), name })
    }

    fn reserve(&mut self, model: &Model) -> Option<Move> {
        let key = self.key(model, false)?;
        let name = format!("s{}", self.random.below(3));
        let at = SessionKey { account: key.account.clone(), agent: key.agent.clone(), name };
        let prices = self.candidates(model)?;
        let number = model.holds.len();
        let (mut hold, mut request, mut step) = (format!("hold_{number}"), format!("req_{number}"), 0);
        if self.random.chance(12)
            && let Some(other) = self.random.pick(&model.holds)
        {
            // Another call of the same request; now and then one that was made already.
            request.clone_from(&other.request);
            step = if self.random.chance(80) { i32::try_from(number).ok()? } else { other.step };
            if self.random.chance(10) {
                hold.clone_from(&other.id);
            }
        }
        let mut prompt_max = self.random.below(4_000);
        if self.random.chance(2) && prices[0].input > 4_000_000 {
            prompt_max = u64::MAX / 4;
        }
        let wanted = 1 + self.random.below(3_000);
        let least = if self.random.chance(50) { wanted } else { wanted.min(1 + self.random.below(256)) };
        let n = if self.random.chance(80) { 1 } else { 1 + self.random.below(4) };
        let again = (step == 0 && self.random.chance(40)).then(|| self.again());
        let budget = key.budget.map(|(cap, period)| (cap, period.number(model.now)));
        let (key, completion) = (key.id.clone(), format!("chatcmpl-{number}"));
        let by_server = self.random.chance(20);
        Some(Move::Reserve(Box::new(Reserve {
            hold,
            at,
            key,
            budget,
            by_server,
            completion,
            request,
            again,
            step,
            prices,
            prompt_max,
            n,
            wanted,
            least,
        })))
    }

    /// The rows in force of one model or several, in any order, perhaps one of them twice.
    fn candidates(&mut self, model: &Model) -> Option<Vec<Price>> {
        let count = if self.random.chance(60) { 1 } else { 2 + self.random.below(2) };
        (0..count).map(|_| model.current_price(self.random.pick(&MODELS)?).cloned()).collect()
    }

    /// Who serves a call: nobody knows, who was noted, or any candidate.
    fn served(&mut self, model: &Model, hold: &Hold) -> Option<Price> {
        let at = match (hold.served, self.random.below(10)) {
            (_, 0..=2) => return None,
            (Some(at), 3..) => at,
            _ => *self.random.pick(&hold.prices)?,
        };
        Some(model.prices[at].clone())
    }

    fn settle(&mut self, model: &Model) -> Option<Move> {
        let hold = self.hold(model)?;
        let served = self.served(model, hold);
        let at = served.as_ref().map(|row| model.row(&row.id)).or(hold.served).unwrap_or(hold.price);
        let usage = self.usage(hold, &model.prices[at]);
        let source = if self.random.chance(80) { UsageSource::Upstream } else { UsageSource::Local };
        let turn = self.random.chance(75).then(|| self.turn());
        let whole = turn.as_ref().is_some_and(|turn| turn.complete) && self.random.chance(70);
        let answer = whole.then(|| format!(r#"{{"id":"{}"}}"#, hold.completion));
        Some(Move::Settle(Settle { hold: hold.id.clone(), usage, source, served, turn, answer }))
    }

    fn usage(&mut self, hold: &Hold, price: &Price) -> Usage {
        let (prompt_max, ceiling) = (hold.prompt_max, hold.n * hold.max_output);
        let up_to = |random: &mut Random, bound: u64| random.below(bound.saturating_add(1));
        match self.random.below(100) {
            0..=49 => {
                let prompt = up_to(&mut self.random, prompt_max);
                let cached = if self.random.chance(50) { up_to(&mut self.random, prompt) } else { 0 };
                Usage { prompt, cached, output: up_to(&mut self.random, ceiling) }
            }
            50..=59 => {
                let cached = if price.cached > price.input { prompt_max } else { 0 };
                Usage { prompt: prompt_max, cached, output: ceiling }
            }
            60..=67 => Usage::default(),
            68..=73 => Usage { prompt: 1, cached: self.random.below(2), output: self.random.below(2) },
            74..=77 => Usage { prompt: 3, cached: 4, output: 0 },
            78..=81 if price.output >= 2_000_000 => Usage { prompt: 0, cached: 0, output: u64::MAX / 2 },
            _ => {
                let times = if self.random.chance(80) {
                    1 + self.random.below(6)
                } else {
                    10 + self.random.below(90)
                };
                let prompt = up_to(&mut self.random, prompt_max) + prompt_max * times / 3;
                Usage { prompt, cached: 0, output: ceiling * times + 1 }
            }
        }
    }

    fn turn(&mut self) -> Turn {
        let messages = self.messages();
        let reply = format!(r#"{{"role":"assistant","content":"r{}"}}"#, self.random.below(1_000));
        let metadata = self.random.chance(20).then(|| r#"{"tag":"x"}"#.to_owned());
        Turn { messages, reply, complete: self.random.chance(70), metadata }
    }

    fn messages(&mut self) -> Vec<String> {
        let one = |random: &mut Random| format!(r#"{{"role":"user","content":"u{}"}}"#, random.below(1_000));
        (0..self.random.below(3)).map(|_| one(&mut self.random)).collect()
    }

    fn checkpoint(&mut self, model: &Model) -> Option<Move> {
        let hold = self.hold(model)?;
        let (mut prompt, mut output) = hold.marks;
        match self.random.below(10) {
            0 | 1 => prompt = prompt.saturating_sub(1 + self.random.below(50)),
            2 => output = output.saturating_sub(1 + self.random.below(50)),
            3 => output += hold.n * hold.max_output,
            _ => {
                prompt = prompt.max(self.random.below(hold.prompt_max.saturating_add(1)));
                output = (output + self.random.below(400)).min(hold.n * hold.max_output).max(output);
            }
        }
        let said = self.random.chance(40).then(|| self.messages());
        let served = self.served(model, hold);
        Some(Move::Checkpoint { hold: hold.id.clone(), prompt, output, served, said })
    }

    fn again(&mut self) -> Again {
        let name = format!("again-{}", self.random.below(4));
        Again { name, fingerprint: format!("f{}", self.random.below(5) / 4) }
    }

    fn money(&mut self) -> i64 {
        self.random.between(1, self.scale / 200 + 3)
    }

    fn credit(&mut self, account: String) -> Move {
        let number = self.random.below(25);
        // One amount for a reference, mostly: a payment is told twice rather than changed.
        let usual = self.scale / 4_000 * i64::try_from(number).expect("small") + 1;
        let amount = if self.random.chance(80) { usual } else { self.money() };
        Move::Credit { account, reference: format!("pay_{number}"), amount }
    }

    fn post(&mut self, model: &Model, account: String) -> Move {
        let available = model.accounts[&account].available;
        let (kind, reference, delta) = match self.random.below(12) {
            0..=2 => ("grant", None, self.money()),
            3 => ("adjust", None, -available),
            4 => ("adjust", None, -available - self.money()),
            5 => ("adjust", None, -self.random.between(0, available / 2) - 1),
            6 => ("expire", None, -1),
            7 | 8 => ("refund", Some(format!("pay_{}", self.random.below(25))), self.money()),
            9 => ("topup", Some(format!("pay_{}", self.random.below(25))), self.money()),
            10 => ("topup", None, self.money()),
            _ if available > 0 => ("grant", None, i64::MAX),
            _ => ("topup", Some(format!("back_{available}")), 0),
        };
        Move::Post { account, kind, reference, delta }
    }

    fn new_price(&mut self, model: &Model) -> Move {
        let of = *self.random.pick(&MODELS).expect("there are models");
        let known = model.current_price(of).map_or(START, |row| row.from);
        let from = match self.random.below(10) {
            0 | 1 => known,
            2..=4 => model.now + self.random.between(1, 200_000),
            _ => model.now,
        };
        Move::SetPrice(self.price(format!("price_{}", model.prices.len()), of, from))
    }

    fn price(&mut self, id: String, model: &str, from: i64) -> Price {
        let model_name = model.to_owned();
        if model == "demo/free" && self.random.chance(80) {
            return Price { id, model: model_name, from, input: 0, cached: 0, output: 0, fee: 0 };
        }
        let mut one = || self.random.between(0, self.scale);
        let (input, cached, output) = (one(), one(), one());
        // A cached token is dearer than a fresh one here and there; the worst case has to know.
        let cached = if self.random.chance(80) { cached.min(input) } else { cached };
        let fee = if self.random.chance(30) { self.random.between(0, self.scale / 1_000 + 2) } else { 0 };
        Price { id, model: model_name, from, input, cached, output, fee }
    }

    fn budget(&mut self) -> Option<(i64, Period)> {
        let period = *self.random.pick(&[Period::Day, Period::Month, Period::Total])?;
        self.random.chance(75).then(|| (self.random.between(0, self.scale / 100 + 5), period))
    }

    fn add_agent(model: &Model, account: String) -> Move {
        let number = model.keys.len();
        Move::AddAgent { account, agent: format!("ag_{number}"), key: format!("key_{number}") }
    }
}
