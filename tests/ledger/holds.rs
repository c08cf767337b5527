//! The model's holds: what setting money aside, charging it and giving it back have to come to.

use switchboard::conversation::usage::{Usage, UsageSource};

use crate::model::{Budget, Entry, Hold, Kept, Model, Request, State, Used};
use crate::moves::{HOLD_LIFE, Outcome, Price, Refusal, Reserve, SessionKey, Settle, Turn};

/// How long an answer is kept for being asked again, in milliseconds.
pub const KEPT: i64 = 86_400_000;

/// What tokens cost, by definition: the sum rounded up once, and the fee.
fn cost(price: &Price, prompt: u64, cached: u64, output: u64) -> Option<i64> {
    let fresh = i128::from(prompt) - i128::from(cached);
    let sum = fresh.checked_mul(i128::from(price.input))?
        + i128::from(cached).checked_mul(i128::from(price.cached))?
        + i128::from(output).checked_mul(i128::from(price.output))?;
    let rest = i128::from(sum % 1_000_000 != 0);
    i64::try_from(sum / 1_000_000 + rest + i128::from(price.fee)).ok()
}

/// The most that a call can cost: each prompt token at the dearer price, each answer at full length.
fn worst_at(wish: &Reserve, price: &Price, each: u64) -> Option<i64> {
    let dearer = if price.cached > price.input { wish.prompt_max } else { 0 };
    cost(price, wish.prompt_max, dearer, wish.n.checked_mul(each)?)
}

/// The same for the dearest of all that may serve it, the first of equals.
fn worst(wish: &Reserve, each: u64) -> Option<(i64, &Price)> {
    let mut all = wish.prices.iter().map(|price| Some((worst_at(wish, price, each)?, price)));
    let first = all.next()??;
    all.try_fold(first, |most, next| next.map(|next| if next.0 > most.0 { next } else { most }))
}

impl Model {
    pub(crate) fn reserve(&mut self, wish: &Reserve) -> Outcome {
        let (now, epoch) = (self.now, self.epoch());
        let own = &self.accounts[&wish.at.account];
        if !own.active {
            return Outcome::Refused(Refusal::Suspended);
        }
        let available = own.available;
        let budget = self.renewed_budget(wish);
        let left = match (&budget, wish.budget) {
            (Some(budget), Some(_)) => Some((budget.cap - budget.spent - budget.held).max(0)),
            _ => None,
        };
        let payable = left.map_or(available, |left| left.min(available));
        let granted = longest(wish, payable);
        let Some((amount, pinned)) = worst(wish, granted) else {
            return Outcome::Refused(Refusal::BeyondMoney);
        };
        if amount > available {
            self.tell_lack(wish, budget);
            return Outcome::Refused(Refusal::Balance { needed: amount, available });
        }
        if left.is_some_and(|left| amount > left) {
            self.tell_used_up(wish, budget);
            return Outcome::Refused(Refusal::Budget);
        }
        if self.name_is_taken(wish) {
            return Outcome::Refused(Refusal::Running);
        }
        if !self.agents[&wish.at.agent].alive && !self.sessions.contains_key(&wish.at) {
            return Outcome::Refused(Refusal::AgentGone);
        }
        let named =
            |hold: &Hold| hold.id == wish.hold || (&hold.request, hold.step) == (&wish.request, wish.step);
        if self.holds.iter().any(named) {
            return Outcome::Refused(Refusal::Constraint);
        }
        self.take_name(wish);
        if let Some(mut budget) = budget {
            let rolled = self.budgets.get(&wish.key).is_some_and(|before| before.period != budget.period);
            if rolled {
                self.notes.push(if budget.held > 0 {
                    "a budget began anew under an open hold"
                } else {
                    "a budget began anew"
                });
            }
            budget.held += amount;
            self.budgets.insert(wish.key.clone(), budget);
        }
        let own = self.account(&wish.at.account);
        own.available -= amount;
        own.held += amount;
        self.ensure_session(&wish.at, wish.by_server);
        if granted < wish.wanted {
            self.notes.push("an answer was shortened to what can be paid");
        }
        let price = self.row(&pinned.id);
        let prices: Vec<_> = wish.prices.iter().map(|price| self.row(&price.id)).collect();
        if price != prices[0] {
            self.notes.push("a fallback was dearer than the first choice");
        }
        self.holds.push(Hold {
            id: wish.hold.clone(),
            at: wish.at.clone(),
            key: wish.key.clone(),
            completion: wish.completion.clone(),
            request: wish.request.clone(),
            step: wish.step,
            amount,
            price,
            prices,
            served: None,
            prompt_max: wish.prompt_max,
            n: wish.n,
            max_output: granted,
            state: State::Open,
            reason: None,
            epoch,
            marks: (0, 0),
            pending: None,
            created: now,
            expires: now + HOLD_LIFE,
            closed: None,
            usage: None,
        });
        Outcome::Granted { amount, max_output: granted }
    }

    /// A refusal for want of money is told once, until there is new money. What is told stays, and the budget as the
    /// reserve has seen it with it; a refusal that nobody is told of leaves nothing.
    fn tell_lack(&mut self, wish: &Reserve, budget: Option<Budget>) {
        let now = self.now;
        let own = self.account(&wish.at.account);
        if own.watch.is_some() && own.exhausted.is_none() {
            own.exhausted = Some(now);
            own.notices.push(("balance.exhausted", now));
            self.notes.push("a lack of money was told");
            self.budgets.extend(budget.map(|budget| (wish.key.clone(), budget)));
        }
    }

    /// A refusal for a budget is told once in its period.
    fn tell_used_up(&mut self, wish: &Reserve, budget: Option<Budget>) {
        let (now, mut budget) = (self.now, budget.expect("there is a budget to be used up"));
        let own = self.account(&wish.at.account);
        if own.watch.is_some() && budget.told != Some(budget.period) {
            budget.told = Some(budget.period);
            own.notices.push(("budget.exceeded", now));
            self.notes.push("a used-up budget was told");
            self.budgets.insert(wish.key.clone(), budget);
        }
    }

    /// The key's budget as a reserve sees it: of the running period, with the cap that it brings.
    ///
    /// Once there is one, it counts every hold of its key, with a cap brought along or without.
    fn renewed_budget(&self, wish: &Reserve) -> Option<Budget> {
        let stored = self.budgets.get(&wish.key).cloned();
        let Some((cap, period)) = wish.budget else { return stored };
        let open = || {
            let own = self.holds.iter().filter(|hold| hold.state == State::Open && hold.key == wish.key);
            own.map(|hold| hold.amount).sum()
        };
        let mut budget = stored.unwrap_or_else(|| Budget { period, cap, spent: 0, held: open(), told: None });
        if budget.period != period {
            (budget.period, budget.spent) = (period, 0);
        }
        if budget.cap != cap {
            (budget.cap, budget.told) = (cap, None);
        }
        Some(budget)
    }

    /// Whether another request has its own name.
    fn name_is_taken(&self, wish: &Reserve) -> bool {
        let Some(again) = &wish.again else { return false };
        let of = (wish.at.account.clone(), wish.key.clone(), again.name.clone());
        self.requests.get(&of).is_some_and(|kept| kept.at > self.now - KEPT)
    }

    /// Takes the request's own name, after forgetting what is too old.
    fn take_name(&mut self, wish: &Reserve) {
        let Some(again) = &wish.again else { return };
        let of = (wish.at.account.clone(), wish.key.clone(), again.name.clone());
        let oldest = self.now - KEPT;
        self.requests.retain(|_, kept| kept.at > oldest);
        let (fingerprint, request) = (again.fingerprint.clone(), wish.request.clone());
        self.requests.insert(of, Request { fingerprint, request, answer: None, at: self.now });
    }

    pub(crate) fn settle(&mut self, end: &Settle, why: Option<&'static str>) -> Outcome {
        let (now, hold) = (self.now, self.hold(&end.hold).clone());
        let account = hold.at.account.clone();
        if hold.state != State::Open {
            self.notes.push(match hold.state {
                State::Released => "a settle came after the release",
                _ if hold.reason.is_some() => "a settle came after the recovery",
                _ => "a settle came twice",
            });
            return self.outcome(&hold);
        }
        let Usage { prompt, cached, output } = end.usage;
        let said = end.served.as_ref().map(|price| self.row(&price.id));
        let at = said.or(hold.served).unwrap_or(hold.price);
        let Some(cost) = cost(&self.prices[at], prompt, cached, output) else {
            return Outcome::Refused(Refusal::BeyondMoney);
        };
        if cached > prompt {
            return Outcome::Refused(Refusal::Constraint);
        }
        let own = self.account(&account);
        let charged = cost.min(hold.amount + own.available);
        let written_off = cost - charged;
        if hold.prices.contains(&at) && prompt <= hold.prompt_max && output <= hold.n * hold.max_output {
            assert!(charged <= hold.amount && written_off == 0, "a hold covers what it was made for");
        }
        own.held -= hold.amount;
        own.available += hold.amount - charged;
        let balance_after = own.available + own.held;
        self.notes.push(kind_of_charge(cost, charged, hold.amount));
        if at != hold.price {
            self.notes.push(match why {
                Some(_) => "a crash left a call that was not served at the dearest price",
                None => "a call was not served at the dearest price",
            });
        }
        let pinned = &self.prices[at];
        let newer = |row: &Price| row.model == pinned.model && row.from > pinned.from && row.from <= now;
        if self.prices.iter().any(newer) {
            self.notes.push("a price changed while a call ran");
        }
        self.close_budget(&hold, charged);
        let (hold_id, actor) = (Some(hold.id.clone()), hold.key.clone());
        let entry = Entry {
            kind: "charge",
            hold: hold_id,
            reference: None,
            delta: -charged,
            balance_after,
            actor,
            at: now,
        };
        self.append(&account, entry);
        let pending = hold.pending.clone().map(|messages| Turn {
            messages,
            reply: r#"{"role":"assistant","content":""}"#.to_owned(),
            complete: false,
            metadata: None,
        });
        if let Some(turn) = end.turn.clone().or(pending) {
            self.keep(&hold.at, &hold, turn);
        }
        self.finish_request(&hold.request, end.answer.as_ref());
        let source = source_name(end.source);
        let used = Used {
            prompt,
            cached,
            output,
            source,
            cost,
            charged,
            written_off,
            price: at,
            named: said.or(hold.served).unwrap_or(hold.prices[0]),
            at: now,
            balance_after,
        };
        if said.is_some() {
            self.hold_mut(&hold.id).served = said;
        }
        self.close(&hold.id, State::Settled, why, Some(used));
        Outcome::Closed { charged, written_off, balance: balance_after, usage: (prompt, cached, output) }
    }

    pub(crate) fn release(&mut self, id: &str, why: &'static str) -> Outcome {
        let hold = self.hold(id).clone();
        if hold.state != State::Open {
            self.notes.push(if hold.state == State::Settled {
                "a release came after the settle"
            } else {
                "a release came twice"
            });
            return Outcome::Done;
        }
        let own = self.account(&hold.at.account);
        own.held -= hold.amount;
        own.available += hold.amount;
        self.close_budget(&hold, 0);
        self.finish_request(&hold.request, None);
        self.close(id, State::Released, Some(why), None);
        Outcome::Done
    }

    pub(crate) fn checkpoint(
        &mut self,
        id: &str,
        marks: (u64, u64),
        served: Option<&Price>,
        said: Option<&Vec<String>>,
    ) -> Outcome {
        let served = served.map(|price| self.row(&price.id));
        let expires = self.now + HOLD_LIFE;
        let hold = self.hold_mut(id);
        if hold.state == State::Open {
            let grown = hold.marks.0 <= marks.0 && hold.marks.1 <= marks.1;
            if grown {
                (hold.marks, hold.expires) = (marks, expires);
                hold.served = served.or(hold.served);
            }
            if said.is_some() {
                hold.pending = said.cloned();
            }
            self.notes.push(if grown { "marks grew" } else { "marks that shrank were ignored" });
        }
        Outcome::Done
    }

    /// What start-up has to do: each open hold at its marks, in the order of accounts and ids.
    pub fn recover(&mut self) -> (usize, usize) {
        let mut open: Vec<_> = self.holds.iter().filter(|hold| hold.state == State::Open).cloned().collect();
        open.sort_by(|a, b| (&a.at.account, &a.id).cmp(&(&b.at.account, &b.id)));
        let (mut settled, mut released) = (0, 0);
        for hold in open {
            let (prompt, output) = hold.marks;
            if (prompt, output) == (0, 0) {
                self.release(&hold.id, "crash");
                released += 1;
            } else {
                let usage = Usage { prompt, cached: 0, output };
                let source = UsageSource::Recovered;
                let end = Settle { hold: hold.id, usage, source, served: None, turn: None, answer: None };
                self.settle(&end, Some("crash"));
                settled += 1;
            }
        }
        self.requests.retain(|_, kept| kept.answer.is_some());
        if settled > 0 {
            self.notes.push("a crash left a call that had come far enough to be charged");
        }
        if released > 0 {
            self.notes.push("a crash left a call of which nothing was received");
        }
        (settled, released)
    }

    fn outcome(&self, hold: &Hold) -> Outcome {
        let own = &self.accounts[&hold.at.account];
        let balance = own.available + own.held;
        match &hold.usage {
            Some(used) => Outcome::Closed {
                charged: used.charged,
                written_off: used.written_off,
                balance,
                usage: (used.prompt, used.cached, used.output),
            },
            None => Outcome::Closed { charged: 0, written_off: 0, balance, usage: (0, 0, 0) },
        }
    }

    fn close(&mut self, id: &str, state: State, reason: Option<&'static str>, usage: Option<Used>) {
        let at = self.holds.iter().position(|hold| hold.id == id).expect("a hold of the model");
        if usage.is_some() {
            self.charged.push(at);
        }
        let (now, hold) = (self.now, &mut self.holds[at]);
        (hold.state, hold.reason, hold.closed) = (state, reason, Some(now));
        (hold.pending, hold.usage) = (None, usage);
    }

    fn hold_mut(&mut self, id: &str) -> &mut Hold {
        self.holds.iter_mut().find(|hold| hold.id == id).expect("moves name holds of the model")
    }

    fn close_budget(&mut self, hold: &Hold, charged: i64) {
        if let Some(budget) = self.budgets.get_mut(&hold.key) {
            budget.held -= hold.amount;
            budget.spent += charged;
        }
    }

    fn finish_request(&mut self, request: &str, answer: Option<&String>) {
        match answer {
            Some(_) => {
                let own = self.requests.values_mut().filter(|kept| kept.request == request);
                own.for_each(|kept| kept.answer = answer.cloned());
            }
            None => self.requests.retain(|_, kept| kept.request != request),
        }
    }

    fn keep(&mut self, at: &SessionKey, hold: &Hold, turn: Turn) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(at) else {
            self.notes.push("a turn was charged whose session is gone");
            return;
        };
        let said = turn.messages.into_iter().chain([turn.reply]).collect::<Vec<_>>();
        let seq = i64::try_from(session.messages.len() + said.len()).expect("few messages");
        session.messages.extend(said.into_iter().map(|body| (seq, body)));
        let (completion, id) = (hold.completion.clone(), hold.id.clone());
        let (complete, metadata) = (turn.complete, turn.metadata);
        session.turns.push(Kept { seq, completion, hold: id, complete, metadata, at: now });
        session.updated = now;
    }
}

fn kind_of_charge(cost: i64, charged: i64, held: i64) -> &'static str {
    if cost > charged {
        "a cost was written off in part"
    } else if charged > held {
        "a cost above the hold was paid from the rest"
    } else if cost == 0 {
        "a charge was zero"
    } else if charged == held {
        "a hold was used up exactly"
    } else {
        "a charge was less than its hold"
    }
}

/// The longest answers that `payable` pays, between the least and what is wanted.
fn longest(wish: &Reserve, payable: i64) -> u64 {
    let fits = |each: u64| worst(wish, each).is_some_and(|(amount, _)| amount <= payable);
    let (mut low, mut high) = (wish.least, wish.wanted);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

fn source_name(source: UsageSource) -> &'static str {
    match source {
        UsageSource::Upstream => "upstream",
        UsageSource::Local => "local",
        UsageSource::Recovered => "recovered",
    }
}
