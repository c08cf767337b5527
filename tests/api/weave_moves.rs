//! What clients do in the weave, one thing at a time: each does something to the server, and the same to its model.

use serde_json::json;

use crate::random::Random;
use crate::resume::watching;
use crate::script::Fault;
use crate::upstream::End;
use crate::weave_turn::{Client, Outcome, Reader, State, Turn};
use crate::weave_world::{Session, World};

const SESSIONS: u64 = 4;
const FORKS: usize = 3;
/// By contract.
const WAITING: usize = 8;
/// Readers of one stream at once.
const READERS: usize = 3;
/// Clients that leave before they are answered: thirty a minute are borne.
const MAX_GAVE_UP: usize = 24;

impl World {
    fn any_session(&mut self, random: &mut Random) -> String {
        let forks: Vec<String> = self.sessions.keys().filter(|name| name.starts_with('f')).cloned().collect();
        match random.pick(&forks).filter(|_| random.chance(20)) {
            Some(fork) => fork.clone(),
            None => {
                let crowd = if self.crowded { 80 } else { 40 };
                let name = format!("s{}", if random.chance(crowd) { 0 } else { random.below(SESSIONS) });
                self.sessions.entry(name.clone()).or_default();
                name
            }
        }
    }

    fn any_in(&self, state: State, random: &mut Random) -> Option<usize> {
        random.pick(&self.in_state(state)).copied()
    }

    /// Somebody says something.
    pub fn start(&mut self, random: &mut Random) {
        let name = self.any_session(random);
        let number = self.turns.len();
        let turn = Turn::new(number, &name, self.app.upstream.leash(), random);
        let mode = ["queue", "reject", "interrupt"]
            [random.weighted(if self.crowded { &[86, 8, 6] } else { &[65, 12, 23] })];
        self.note(format!("turn {number} in {name}, {mode}, {:?}", turn.way));
        self.replies.lock().expect("replies").insert(turn.said(), (turn.reply(), turn.leash.clone()));
        let on_disconnect = if turn.way.goes_on { "continue" } else { "cancel" };
        let call = self.app.chat_call(&self.app.saying(&turn.said(), turn.fields()));
        let call = call.header("X-Session-Conflict", mode).header("X-On-Disconnect", on_disconnect);
        let session = self.session(&name);
        let (running, full) = (session.running, session.waiting.len() >= WAITING);
        match running {
            None if session.archived => {
                drop(call.send().refused(410, "invalid_request_error", "session_closed"));
                return;
            }
            Some(_) if mode == "reject" => {
                drop(call.send().refused(409, "invalid_request_error", "session_busy"));
                return;
            }
            Some(_) if full => {
                let refused = call.send();
                assert_eq!(
                    (refused.status, &refused.json()["error"]["code"]),
                    (429, &json!("session_queue_full"))
                );
                return;
            }
            None => {}
            Some(_) if mode == "interrupt" => session.waiting.push_front(number),
            Some(_) => session.waiting.push_back(number),
        }
        let client = Client::Unread(call.connect().expect("a connection"));
        self.turns.push(Turn { client, ..turn });
        match running {
            None => self.begun(number),
            Some(running) if mode == "interrupt" => {
                self.turns[running].known = true;
                self.ended(running, &[Outcome::Interrupted]);
            }
            Some(_) => {}
        }
    }

    /// The provider goes on for some steps, and perhaps nobody waits until that has come.
    pub fn go_on(&mut self, random: &mut Random) {
        let Some(number) = self.any_in(State::Running, random) else { return };
        let turn = &mut self.turns[number];
        if !turn.way.stream || turn.sent == turn.steps() {
            return;
        }
        let left = turn.steps() - turn.sent;
        let first = turn.sent == 0;
        let steps = turn.sent + 1 + random.below(left as u64) as usize;
        let waits = random.chance(60);
        self.note(format!("turn {number} goes on to step {steps}, waits: {waits}"));
        let turn = &mut self.turns[number];
        turn.sent = steps;
        turn.leash.let_out(steps);
        if first {
            self.wait_for_first_event(number);
            let turn = &mut self.turns[number];
            turn.read_head();
            (turn.sure, turn.known) = (1, true);
        }
        if waits {
            self.catch_up(number, random);
        }
    }

    /// Reads, as one of the clients, what the provider has sent: then the server surely has it.
    fn catch_up(&mut self, number: usize, random: &mut Random) {
        let turn = &mut self.turns[number];
        let wanted = turn.sent - 1;
        let readers = turn.reading();
        if readers > 0 {
            return turn.read_to(random.below(readers as u64) as usize, wanted);
        }
        // Nobody reads it, and it goes on all the same: somebody looks in.
        let last = turn.events.last().map(|event| event.id().to_owned());
        let stream = watching(&self.app, &self.app.account_key, turn.id(), last.as_deref()).open().ok();
        turn.readers.push(Reader::new(stream, turn.events.len()));
        turn.read_to(0, wanted);
        turn.readers.clear();
        self.wait_for_readers(number);
    }

    /// One of those who read reads on.
    pub fn read(&mut self, random: &mut Random) {
        let Some(number) = self.any_in(State::Running, random) else { return };
        let turn = &mut self.turns[number];
        let readers = turn.reading();
        if readers == 0 || turn.sent < 2 {
            return;
        }
        let who = random.below(readers as u64) as usize;
        let pieces = 1 + random.below(turn.sent as u64 - 1) as usize;
        self.note(format!("reader {who} of turn {number} reads to piece {pieces}"));
        self.turns[number].read_to(who, pieces);
    }

    /// One of those who read or wait leaves.
    pub fn leave(&mut self, random: &mut Random) {
        if random.chance(30)
            && let Some(number) = self.any_in(State::Waiting, random)
        {
            return self.leave_waiting(number);
        }
        let Some(number) = self.any_in(State::Running, random) else { return };
        let turn = &self.turns[number];
        if turn.audience() == 0 {
            return;
        }
        let unanswered = turn.sent == 0 && turn.audience() == 1 && !turn.way.goes_on;
        if unanswered && self.gave_up >= MAX_GAVE_UP {
            return;
        }
        self.gave_up += usize::from(unanswered);
        let who = random.below(turn.audience() as u64) as usize;
        self.note(format!("of {} of turn {number} number {who} leaves", turn.audience()));
        let turn = &mut self.turns[number];
        if who < turn.readers.len() {
            drop(turn.readers.remove(who));
        } else {
            turn.client = Client::Gone;
        }
        if turn.audience() == 0 && !turn.way.goes_on {
            self.ended(number, &[Outcome::Cancelled]);
        } else {
            self.wait_for_readers(number);
        }
    }

    fn leave_waiting(&mut self, number: usize) {
        self.note(format!("the client of turn {number} leaves, which waits"));
        let turn = &mut self.turns[number];
        turn.client = Client::Gone;
        if !turn.way.goes_on {
            turn.state = State::Over;
            let name = turn.session.clone();
            self.session(&name).waiting.retain(|waiting| *waiting != number);
        }
    }

    /// Somebody comes back to a stream that goes on, or reads along.
    pub fn come_back(&mut self, random: &mut Random) {
        let Some(number) = self.any_in(State::Running, random) else { return };
        let turn = &mut self.turns[number];
        if turn.readers.len() >= READERS {
            return;
        }
        let seen = random.below(turn.events.len() as u64 + 1) as usize;
        let after = seen.checked_sub(1).map(|last| turn.events[last].id().to_owned());
        let stream = watching(&self.app, &self.app.account_key, turn.id(), after.as_deref()).open().ok();
        turn.readers.push(Reader::new(stream, seen));
        turn.known = true;
        self.note(format!("somebody reads turn {number} after {after:?}"));
        self.wait_for_readers(number);
    }

    /// Somebody cancels a turn.
    pub fn cancel(&mut self, random: &mut Random) {
        let Some(number) = self.any_in(State::Running, random) else { return };
        self.note(format!("turn {number} is cancelled"));
        let told = self.ask_to_cancel(number);
        assert_eq!(told, Outcome::Cancelled.word());
        self.ended(number, &[Outcome::Cancelled]);
    }

    fn ask_to_cancel(&mut self, number: usize) -> String {
        let turn = &mut self.turns[number];
        turn.known = true;
        let path = format!("/v1/chat/completions/{}/cancel", turn.id());
        let told = self.app.post(&self.app.account_key, &path, &json!({})).ok();
        told["status"].as_str().expect("a status").to_owned()
    }

    /// The provider ends its answer; perhaps somebody cuts the turn at the same moment.
    pub fn finish(&mut self, random: &mut Random) {
        let Some(number) = self.any_in(State::Running, random) else { return };
        let turn = &mut self.turns[number];
        turn.leash.let_out(turn.steps());
        turn.leash.end(End::Whole);
        (turn.sent, turn.ending) = (turn.steps(), true);
        let race = random.weighted(&[70, 15, 15]);
        self.note(format!("turn {number} ends, race: {race}"));
        let turn = &mut self.turns[number];
        match race {
            1 => {
                let told = self.ask_to_cancel(number);
                let legal = [Outcome::Completed, Outcome::Cancelled];
                let told = legal.into_iter().find(|outcome| outcome.word() == told).expect("an outcome");
                self.ended(number, &[told]);
            }
            2 if self.gave_up < MAX_GAVE_UP => {
                self.gave_up += 1;
                turn.client = Client::Gone;
                turn.readers.clear();
                if turn.way.goes_on {
                    turn.known = true;
                    self.ended(number, &[Outcome::Completed]);
                } else {
                    self.ended(number, &[Outcome::Completed, Outcome::Cancelled]);
                }
            }
            _ => {
                turn.known = true;
                self.ended(number, &[Outcome::Completed]);
            }
        }
    }

    /// The provider fails.
    pub fn fail(&mut self, random: &mut Random) {
        let Some(number) = self.any_in(State::Running, random) else { return };
        let error = json!({"message": "broken", "type": "server_error", "param": null, "code": null});
        let faults = [Fault::HangUp, Fault::Reset, Fault::End, Fault::Error(error), Fault::Garbage];
        let fault = random.pick(&faults).expect("faults").clone();
        let turn = &mut self.turns[number];
        if !matches!(fault, Fault::Reset) {
            // What was sent before comes before.
            turn.sure = turn.sent;
        }
        turn.leash.end(End::Fault(fault));
        self.note(format!("the provider of turn {number} fails"));
        self.ended(number, &[Outcome::Failed]);
    }

    /// Somebody reads a stream that has ended, from wherever he stands.
    pub fn read_again(&mut self, random: &mut Random) {
        let over = self.turns.iter().filter(|turn| turn.known && turn.state == State::Over);
        let kept: Vec<usize> = over.filter(|turn| !turn.events.is_empty()).map(|turn| turn.number).collect();
        let Some(number) = random.pick(&kept).copied() else { return };
        let turn = &mut self.turns[number];
        if !turn.way.stream && !turn.way.goes_on {
            return;
        }
        let seen = random.below(turn.events.len() as u64 + 1) as usize;
        let after = seen.checked_sub(1).map(|last| turn.events[last].id().to_owned());
        let stream = watching(&self.app, &self.app.account_key, turn.id(), after.as_deref()).open().ok();
        Reader::new(stream, seen).finish(&mut turn.events);
        self.note(format!("somebody reads turn {number} again after {after:?}"));
    }

    /// A session's row changes, and what is in memory is read anew.
    pub fn rename(&mut self, random: &mut Random) {
        let name = self.any_session(random);
        self.note(format!("{name} gets a title"));
        let path = format!("/v2/sessions/{name}");
        let status = if self.sessions[&name].exists { 200 } else { 404 };
        self.app.patch(&self.app.account_key, &path, &json!({"title": "A title"})).is(status);
    }

    /// A session takes no more turns, or takes them again.
    pub fn archive(&mut self, random: &mut Random) {
        let name = self.any_session(random);
        let session = self.session(&name);
        if !session.exists {
            return;
        }
        session.archived = !session.archived && random.chance(35);
        let status = if session.archived { "archived" } else { "active" };
        self.note(format!("{name} is {status}"));
        let path = format!("/v2/sessions/{name}");
        self.app.patch(&self.app.account_key, &path, &json!({ "status": status })).is(200);
    }

    /// Another session begins with what one has.
    pub fn fork(&mut self, random: &mut Random) {
        let forks = self.sessions.keys().filter(|name| name.starts_with('f')).count();
        let name = self.any_session(random);
        if forks >= FORKS || !self.sessions[&name].exists {
            return;
        }
        let fork = format!("f{}", self.turns.len());
        if self.sessions.contains_key(&fork) {
            return;
        }
        let mut messages = self.sessions[&name].messages.clone();
        let mut body = json!({"session_id": fork});
        if !messages.is_empty() && random.chance(70) {
            let upto = 1 + random.below(messages.len() as u64) as usize;
            messages.truncate(upto);
            body["message_id"] = json!(format!("msg_{upto}"));
        }
        self.note(format!("{fork} is made of {name}: {body}"));
        self.app.post(&self.app.account_key, &format!("/v2/sessions/{name}/fork"), &body).is(201);
        self.sessions.insert(fork.clone(), Session { messages, exists: true, ..Session::default() });
        assert_eq!(self.stored(&fork), self.sessions[&fork].messages);
    }

    /// What was said last is taken back.
    pub fn truncate(&mut self, random: &mut Random) {
        let name = self.any_session(random);
        let session = self.session(&name);
        let upto = random.below(session.messages.len() as u64 + 1) as usize;
        let after = if upto == 0 { json!(null) } else { json!(format!("msg_{upto}")) };
        let status = match (session.exists, session.running) {
            (false, _) => 404,
            (true, Some(_)) => 409,
            (true, None) => 200,
        };
        if status == 200 {
            session.messages.truncate(upto);
        }
        self.note(format!("{name} is cut after {upto}: {status}"));
        let path = format!("/v2/sessions/{name}/truncate");
        self.app.post(&self.app.account_key, &path, &json!({ "after": after })).is(status);
        assert_eq!(self.stored(&name), self.sessions[&name].messages);
    }

    /// A session goes, with all that runs and waits in it.
    pub fn delete(&mut self, random: &mut Random) {
        let name = self.any_session(random);
        self.note(format!("{name} is deleted"));
        let status = if self.sessions[&name].exists { 204 } else { 404 };
        self.app.delete(&self.app.account_key, &format!("/v2/sessions/{name}")).is(status);
        if status == 404 {
            return;
        }
        let gone = std::mem::take(self.session(&name));
        for turn in self.turns.iter_mut().filter(|turn| turn.session == name) {
            turn.known = false;
        }
        if let Some(running) = gone.running {
            self.ended_with_its_session(running);
        }
        for waiting in gone.waiting {
            if let Some(answer) = self.told_at_once(waiting) {
                answer.refused(503, "server_error", "cancelled");
            }
        }
        if name.starts_with('f') {
            self.sessions.remove(&name);
        }
    }
}
