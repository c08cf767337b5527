//! A server, and the plain model of what its sessions, streams and charges have to be.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::app::{App, Setup, eventually, nanos};
use crate::client::{Answer, Stream};
use crate::crash_load::{START, price};
use crate::metrics;
use crate::resume::watching;
use crate::script::{Reply, Script};
use crate::upstream::{End, Leash};
use crate::weave_turn::{Client, Outcome, Reader, State, Turn};

/// A message of a session: role, text, and the status of an answer.
pub type Said = (String, String, Option<&'static str>);

/// A session of the model.
#[derive(Default)]
pub struct Session {
    pub messages: Vec<Said>,
    pub running: Option<usize>,
    pub waiting: VecDeque<usize>,
    pub archived: bool,
    /// Whether the server knows it: its first turn has begun.
    pub exists: bool,
}

type Replies = Arc<Mutex<HashMap<String, (Reply, Leash)>>>;

/// The server and its model.
pub struct World {
    pub app: App,
    pub sessions: BTreeMap<String, Session>,
    pub turns: Vec<Turn>,
    pub replies: Replies,
    /// Whether everybody wants the same session.
    pub crowded: bool,
    /// How often a client left before it was answered: the server bears that only so often a minute.
    pub gave_up: usize,
    /// Tokens that were charged for, by completion.
    charges: BTreeMap<String, (i64, i64)>,
    asked: usize,
    trace: Trace,
}

/// What was done, for whoever has to find out why a seed fails.
struct Trace {
    seed: u64,
    steps: Vec<String>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("WEAVE_SEED={} fails after:\n{}", self.seed, self.steps.join("\n"));
        }
    }
}

impl World {
    /// A server that nobody has asked anything.
    pub fn new(seed: u64) -> Self {
        let app = Setup::default().arg("--session-idle").arg("1").start();
        let replies = Replies::default();
        let known = replies.clone();
        app.upstream.choose(move |request| {
            let replies = known.lock().expect("replies");
            let led = replies.get(&request.last_text()).cloned();
            led.map_or_else(Script::hello, |(reply, leash)| Script::Led(Box::new(reply), leash))
        });
        Self {
            app,
            sessions: BTreeMap::new(),
            turns: Vec::new(),
            replies,
            crowded: false,
            gave_up: 0,
            charges: BTreeMap::new(),
            asked: 0,
            trace: Trace { seed, steps: Vec::new() },
        }
    }

    /// Notes what is done.
    pub fn note(&mut self, what: String) {
        self.trace.steps.push(what);
    }

    /// The session, which is in the model.
    pub fn session(&mut self, name: &str) -> &mut Session {
        self.sessions.get_mut(name).expect("a session of the model")
    }

    /// The turns in this state.
    pub fn in_state(&self, state: State) -> Vec<usize> {
        self.turns.iter().filter(|turn| turn.state == state).map(|turn| turn.number).collect()
    }

    /// What runs, as the operator sees it: `readers` and `kept_bytes` of each.
    fn running(&self) -> Vec<Value> {
        let running = self.app.get(&self.app.operator_token, "/admin/streams").ok();
        running["streams"].as_array().expect("a list").clone()
    }

    fn running_as(&self, field: &str, value: &str) -> Option<Value> {
        self.running().into_iter().find(|turn| turn[field] == value)
    }

    /// Waits until as many read a turn as do in the model.
    pub fn wait_for_readers(&self, turn: usize) {
        let turn = &self.turns[turn];
        eventually("the readers are counted", || {
            let running = self.running_as("id", turn.id()).expect("a turn that runs");
            (running["readers"] == turn.present()).then_some(())
        });
    }

    /// Waits until the log of a turn has its first event.
    pub fn wait_for_first_event(&self, turn: usize) {
        let turn = &self.turns[turn];
        eventually("the first event is there", || {
            let running = self.running_as("id", turn.id()).expect("a turn that runs");
            (running["kept_bytes"] != 0).then_some(())
        });
    }

    /// A turn has its place: the provider is asked, for this turn and no other, with all that was said before it.
    pub fn begun(&mut self, number: usize) {
        let requests = self.app.upstream.wait_for_requests(self.asked + 1);
        let request = &requests[self.asked];
        let turn = &mut self.turns[number];
        assert_eq!(request.last_text(), turn.said(), "another turn is next");
        turn.asked(self.asked, request);
        self.asked += 1;
        let session = self.sessions.get_mut(&turn.session).expect("a session of the model");
        assert_eq!(session.running, None);
        (session.running, session.exists) = (Some(number), true);
        // An answer that was cut before its first word is nothing that a provider would take.
        let told = session.messages.iter().filter(|(_, text, _)| !text.is_empty());
        let mut told: Vec<_> = told.map(|(role, text, _)| (role.clone(), text.clone())).collect();
        told.push(("user".to_owned(), turn.said()));
        assert_eq!(request.said(), told, "the prompt of turn {number}");
        let name = turn.session.clone();
        let running = eventually("the turn is listed", || self.running_as("session_id", &name));
        self.turns[number].completion = running["id"].as_str().map(str::to_owned);
    }

    /// A session is free: whoever waits first is next.
    fn next(&mut self, name: &str) {
        while let Some(next) = self.session(name).waiting.pop_front() {
            if !self.session(name).archived {
                return self.begun(next);
            }
            if let Some(answer) = self.told_at_once(next) {
                answer.refused(410, "invalid_request_error", "session_closed");
            }
        }
    }

    /// A waiting turn is over before it began; what its client was told.
    pub fn told_at_once(&mut self, number: usize) -> Option<Answer> {
        let turn = &mut self.turns[number];
        turn.state = State::Over;
        match std::mem::replace(&mut turn.client, Client::Gone) {
            Client::Unread(connection) => {
                Some(Stream::read(connection).expect("a head").into_answer().expect("a whole answer"))
            }
            Client::Reading(_) => panic!("a waiting turn is answered"),
            Client::Gone => None,
        }
    }

    /// A turn is over, in one of these ways: all that has to be true then, and what comes next in its session.
    pub fn ended(&mut self, number: usize, legal: &[Outcome]) {
        let outcome = self.has_ended(number, legal);
        let name = self.turns[number].session.clone();
        self.check_stored(number, outcome);
        self.note(format!("    turn {number} is {outcome:?}"));
        self.next(&name);
    }

    /// As [`Self::ended`], of a session that is gone now.
    pub fn ended_with_its_session(&mut self, number: usize) {
        self.turns[number].known = false;
        self.has_ended(number, &[Outcome::Cancelled]);
        self.check_cut_charge(number);
    }

    fn has_ended(&mut self, number: usize, legal: &[Outcome]) -> Outcome {
        let id = self.turns[number].id().to_owned();
        eventually("the turn ends", || self.running_as("id", &id).is_none().then_some(()));
        self.app.upstream.wait_until_over(self.turns[number].request.expect("a request"));
        let told =
            self.app.post(&self.app.account_key, &format!("/v1/chat/completions/{id}/cancel"), &json!({}));
        let turn = &mut self.turns[number];
        turn.state = State::Over;
        let outcome = if told.status == 404 && !turn.known {
            *legal.last().expect("an outcome")
        } else {
            let status = told.ok()["status"].clone();
            let found = legal.iter().find(|outcome| status == outcome.word());
            *found.unwrap_or_else(|| panic!("turn {number} ends {status}, expected was one of {legal:?}"))
        };
        turn.outcome = Some(outcome);
        self.session(&self.turns[number].session.clone()).running = None;
        self.check_clients(number, outcome);
        outcome
    }

    /// Everybody who reads gets the rest, and all of them the same.
    fn check_clients(&mut self, number: usize, outcome: Outcome) {
        let turn = &mut self.turns[number];
        match std::mem::replace(&mut turn.client, Client::Gone) {
            Client::Unread(connection) => {
                let stream = Stream::read(connection).expect("a head");
                if turn.way.stream && stream.status == 200 {
                    assert!(turn.sent > 0 || turn.ending, "a stream that has nothing to say");
                    Reader::new(stream, 0).finish(&mut turn.events);
                } else {
                    assert!(!turn.way.stream || turn.sure == 0, "a status after the first event");
                    check_plain(turn, outcome, &stream.into_answer().expect("a whole answer"));
                }
            }
            Client::Reading(reader) => reader.finish(&mut turn.events),
            Client::Gone => {}
        }
        for reader in std::mem::take(&mut turn.readers) {
            reader.finish(&mut turn.events);
        }
        let kept = turn.way.stream || turn.way.goes_on;
        let again = watching(&self.app, &self.app.account_key, turn.id(), None).open();
        match again.status {
            200 => {
                assert!(kept, "the stream of a plain turn is kept for nobody");
                Reader::new(again, 0).finish(&mut turn.events);
            }
            410 => assert!(!kept, "the stream of turn {number} is gone"),
            404 => assert!(!turn.known, "turn {number} is forgotten"),
            status => panic!("{status} for a stream that has ended"),
        }
        turn.check_events(outcome);
    }

    /// The session has what it had before, and of this turn what has to be stored.
    fn check_stored(&mut self, number: usize, outcome: Outcome) {
        let turn = &self.turns[number];
        let before = &self.sessions[&turn.session].messages;
        let stored = self.stored(&turn.session);
        let mut expected = before.clone();
        let mut charge = None;
        if outcome == Outcome::Completed {
            expected.push(("user".to_owned(), turn.said(), None));
            expected.push(("assistant".to_owned(), turn.content(turn.pieces.len()), Some("complete")));
            charge = Some(vec![turn.told]);
        } else if stored.len() > before.len() {
            let text = stored.last().map(|(_, text, _)| text.clone()).unwrap_or_default();
            let pieces = turn.may_have_come_to().find(|pieces| turn.content(*pieces) == text);
            let pieces = pieces.unwrap_or_else(|| panic!("turn {number} is stored as {text:?}"));
            assert!(turn.may_be_stored(pieces), "turn {number} is stored with {pieces} pieces");
            assert!(turn.pieces_read() <= pieces, "more was read of turn {number} than is stored");
            expected.push(("user".to_owned(), turn.said(), None));
            expected.push(("assistant".to_owned(), text, Some("incomplete")));
            let mut legal = vec![turn.tokens(pieces)];
            // The provider may have told its count before the cut.
            legal.extend(Some(turn.told).filter(|_| turn.ending && pieces == turn.pieces.len()));
            charge = Some(legal);
        } else {
            assert!(turn.may_be_nothing(), "nothing of turn {number} is stored");
        }
        assert_eq!(stored, expected, "what session {} has after turn {number}", turn.session);
        self.check_charge(number, charge.as_deref().unwrap_or_default());
        let name = self.turns[number].session.clone();
        self.session(&name).messages = expected;
    }

    /// The charge of a turn that was cut and whose messages nobody can read any more.
    fn check_cut_charge(&mut self, number: usize) {
        let turn = &self.turns[number];
        let legal: Vec<_> = turn
            .may_have_come_to()
            .filter(|pieces| turn.may_be_stored(*pieces))
            .map(|pieces| turn.tokens(pieces))
            .collect();
        let nothing = turn.may_be_nothing() && self.charge_of(turn.id()).is_none();
        self.check_charge(number, if nothing { &[] } else { &legal });
    }

    fn charge_of(&self, completion: &str) -> Option<Value> {
        let page = self.app.get(&self.app.account_key, "/v2/billing/transactions?limit=100").ok();
        let rows = page["transactions"].as_array().expect("rows");
        rows.iter().find(|row| row["completion_id"] == completion).cloned()
    }

    /// One charge for one of these numbers of tokens; none, where there are none.
    fn check_charge(&mut self, number: usize, legal: &[(i64, i64)]) {
        let turn = &self.turns[number];
        let Some(row) = self.charge_of(turn.id()) else {
            assert!(legal.is_empty(), "turn {number} is not charged for");
            return;
        };
        let tokens = |name: &str| row[name].as_i64().expect("a number of tokens");
        let tokens = (tokens("prompt_tokens"), tokens("output_tokens"));
        assert!(legal.contains(&tokens), "turn {number} is charged for {tokens:?}, not one of {legal:?}");
        assert_eq!(-nanos(&row["delta"]), price(tokens.0, tokens.1), "{row}");
        let id = turn.id().to_owned();
        assert_eq!(self.charges.insert(id, tokens), None);
    }

    /// What the server has of a session.
    pub fn stored(&self, name: &str) -> Vec<Said> {
        let answer = self.app.get(&self.app.account_key, &format!("/v2/sessions/{name}/messages?limit=100"));
        if answer.status == 404 {
            assert!(!self.sessions[name].exists, "session {name} is gone");
            return Vec::new();
        }
        let page = answer.ok();
        assert_eq!(page["has_more"], false, "a session that is longer than this test thinks");
        let one = |message: &Value| {
            let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
            let status = match message["status"].as_str() {
                Some("complete") => Some("complete"),
                Some("incomplete") => Some("incomplete"),
                _ => None,
            };
            (text("role"), text("content"), status)
        };
        page["messages"].as_array().expect("messages").iter().map(one).collect()
    }

    /// What is true after every step: who runs and waits, and that nobody who waits holds money.
    pub fn check(&self) {
        let running = self.in_state(State::Running).len();
        let waiting = self.in_state(State::Waiting).len();
        assert_eq!(self.sessions.values().map(|session| session.waiting.len()).sum::<usize>(), waiting);
        eventually("those who wait are counted", || {
            let text = metrics::read(&self.app);
            let value = |name: &str| metrics::value(&text, name).expect("a metric");
            let runs = value("switchboard_turns_running{stream=\"true\"}")
                + value("switchboard_turns_running{stream=\"false\"}");
            let as_many = |value: f64, count: usize| (value - count as f64).abs() < 0.5;
            (as_many(value("switchboard_turns_waiting"), waiting)
                && as_many(runs, running)
                && as_many(value("switchboard_holds_open"), running))
            .then_some(())
        });
        assert_eq!(self.app.upstream.asked(), self.asked, "the provider is asked for nobody");
    }

    /// Sessions in which nothing runs leave memory, and no others.
    pub fn wait_until_the_idle_leave_memory(&mut self) {
        self.note("the idle leave memory".to_owned());
        let busy = self.sessions.values().filter(|session| session.running.is_some()).count();
        let resident = eventually("idle sessions leave memory", || {
            let resident = metrics::value(&metrics::read(&self.app), "switchboard_sessions_resident");
            resident.filter(|resident| *resident < busy as f64 + 0.5)
        });
        assert!(resident > busy as f64 - 0.5, "a session leaves memory while a turn runs in it");
    }

    /// Lets everything end, and compares all there is, before and after a restart.
    pub fn end(mut self) {
        while let Some(running) = self.in_state(State::Running).first().copied() {
            self.note(format!("end: turn {running} ends whole"));
            let turn = &mut self.turns[running];
            turn.leash.let_out(turn.steps());
            turn.leash.end(End::Whole);
            (turn.sent, turn.ending, turn.known) = (turn.steps(), true, true);
            self.ended(running, &[Outcome::Completed]);
        }
        assert!(self.in_state(State::Waiting).is_empty());
        self.check();
        self.check_everything();
        self.app.restart();
        self.check_everything();
        let names: Vec<String> = self.sessions.keys().cloned().collect();
        for name in names.into_iter().filter(|name| !self.sessions[name].archived) {
            self.app.say("After all", json!({"session_id": name}));
            let said = self.app.upstream.last().said();
            let texts: Vec<_> = said[..said.len() - 1].iter().map(|(_, text)| text.as_str()).collect();
            let told = self.sessions[&name].messages.iter().map(|(_, text, _)| text.as_str());
            assert_eq!(texts, told.filter(|text| !text.is_empty()).collect::<Vec<_>>());
        }
        self.app.finish();
    }

    fn check_everything(&self) {
        for (name, session) in &self.sessions {
            assert_eq!(self.stored(name), session.messages, "session {name}");
        }
        let rows = self.app.charges();
        let charged: BTreeMap<String, (i64, i64)> = rows
            .iter()
            .map(|row| {
                let tokens = |name: &str| row[name].as_i64().expect("a number of tokens");
                let id = row["completion_id"].as_str().expect("an id").to_owned();
                (id, (tokens("prompt_tokens"), tokens("output_tokens")))
            })
            .collect();
        assert_eq!((rows.len(), &charged), (self.charges.len(), &self.charges), "the charges");
        let spent: i64 = self.charges.values().map(|(prompt, output)| price(*prompt, *output)).sum();
        let balance = self.app.balance();
        assert_eq!((balance.held, balance.balance), (0, START - spent));
    }
}

/// What the client of a plain turn gets, or that of a stream that did not begin.
fn check_plain(turn: &Turn, outcome: Outcome, answer: &Answer) {
    match outcome {
        Outcome::Completed => {
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.headers.required("x-completion-id"), turn.id());
            assert_eq!(answer.json()["content"], turn.content(turn.pieces.len()));
        }
        Outcome::Failed => assert!((500..=504).contains(&answer.status), "{}", answer.text()),
        cut => drop(answer.refused(503, "server_error", cut.word())),
    }
}
