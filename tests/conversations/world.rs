//! A database and what has to be in it.

use std::collections::BTreeMap;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use serde_json::json;
use switchboard::conversation::agent::{Agent, Definition};
use switchboard::conversation::message::Message;
use switchboard::conversation::opening::{Opening, normal};
use switchboard::conversation::turn::Completeness;
use switchboard::json::Raw;
use switchboard::retention::BATCH;
use switchboard::store::account::AccountRow;
use switchboard::store::session::{Change, Fork, SessionRow};
use switchboard::store::turn::{self, Of, StoredTurn};
use switchboard::store::{account, agent, connection, session, session_list, verify};
use tempfile::TempDir;

use crate::random::Random;

const ACCOUNTS: [&str; 2] = ["acct_a", "acct_b"];
const AGENTS: u64 = 3;
/// Few, so that conversations meet and part.
const WORDS: [&str; 3] = ["yes", "no", "maybe"];
const NAMES: u64 = 5;
const IDLE: i64 = 1_000;

/// Account, agent and name.
type Key = (String, String, String);

struct Session {
    /// As they are shown.
    messages: Vec<String>,
    used: i64,
}

/// The store, and the plain model of it.
pub struct World {
    conn: SqliteConnection,
    _dir: TempDir,
    sessions: BTreeMap<Key, Session>,
    agents: Vec<(String, String)>,
    now: i64,
    made: u64,
}

fn body(role: &str, text: &str) -> String {
    json!({"role": role, "content": text}).to_string()
}

impl World {
    /// An empty one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut conn = connection::open_writer(&connection::database_file(dir.path())).expect("a database");
        conn.batch_execute("PRAGMA synchronous = OFF;").expect("a setting");
        let mut world =
            Self { conn, _dir: dir, sessions: BTreeMap::new(), agents: Vec::new(), now: 1, made: 0 };
        for id in ACCOUNTS {
            let row = AccountRow {
                account_id: id.to_owned(),
                name: id.to_owned(),
                status: "active".to_owned(),
                limits: "{}".to_owned(),
                last_seq: 0,
                available: 0,
                held: 0,
                agent_count: 0,
                session_count: 0,
                created_at: 0,
                retention_days: None,
                closed_at: None,
            };
            account::insert(&mut world.conn, &row).expect("an account");
            (0..AGENTS).for_each(|_| world.add_agent(id));
        }
        world
    }

    fn add_agent(&mut self, owner: &str) {
        self.made += 1;
        let id = format!("ag_{}", self.made);
        let definition = Definition { name: id.clone(), ..Definition::default() };
        let new = Agent {
            id: id.as_str().into(),
            account: owner.into(),
            definition,
            created_at: self.now,
            updated_at: self.now,
        };
        agent::insert(&mut self.conn, &new).expect("an agent");
        self.agents.push((owner.to_owned(), id));
    }

    fn any(&self, random: &mut Random) -> Option<Key> {
        let keys: Vec<&Key> = self.sessions.keys().collect();
        random.pick(&keys).map(|key| (*key).clone())
    }

    fn row(&mut self, (owner, of_agent, name): &Key) -> SessionRow {
        session::find(&mut self.conn, owner, of_agent, name).expect("a read").expect("a session of the model")
    }

    fn new_key(&mut self, random: &mut Random) -> Key {
        self.made += 1;
        let (owner, of_agent) = random.pick(&self.agents).expect("agents").clone();
        (owner, of_agent, format!("sess_{}", self.made))
    }

    /// Runs a turn, as a reserve and a settle would.
    fn turn(&mut self, key: &Key, said: &[String], unnamed: bool, random: &mut Random) {
        self.now += 1;
        self.made += 1;
        let reply = body("assistant", random.pick(&WORDS).expect("words"));
        let parsed: Vec<Message> = said
            .iter()
            .map(|text| Message::parse(Raw::parse(text.clone()).expect("JSON"), 0).expect("a message"))
            .collect();
        let opening = Opening::of((&key.0, &key.1), unnamed, &parsed, &Raw::trusted(reply.clone()));
        let given = opening.given();
        let turn = StoredTurn {
            messages: said.to_vec(),
            reply: reply.clone(),
            completeness: Completeness::Complete,
            metadata: None,
            opening: Some(opening),
        };
        let (completion, now) = (format!("chatcmpl_{}", self.made), self.now);
        let done = self.conn.immediate_transaction(|conn| {
            session::ensure(conn, &key.0, &key.1, &key.2, unnamed, now).expect("a session");
            let of =
                Of { account: &key.0, agent: &key.1, session: &key.2, completion: &completion, hold: "h" };
            let own = turn::standing(conn, of)?.expect("the session");
            turn::append_turn(conn, own, of, &turn, now)
        });
        done.expect("a turn");
        let own = self.sessions.entry(key.clone()).or_insert(Session { messages: Vec::new(), used: now });
        let shown = |(at, text): (usize, &String)| match at < given {
            true => normal(&Raw::trusted(text.clone())).text().into_owned(),
            false => text.clone(),
        };
        own.messages.extend(said.iter().enumerate().map(shown));
        own.messages.push(reply);
        own.used = now;
    }

    /// A client says something in a session, by its name.
    pub fn say(&mut self, random: &mut Random) {
        let key = match self.any(random).filter(|_| random.chance(70)) {
            Some(key) => key,
            None => {
                let (owner, of_agent) = random.pick(&self.agents).expect("agents").clone();
                (owner, of_agent, format!("s{}", random.below(NAMES)))
            }
        };
        let more = random.below(2);
        let said: Vec<String> =
            (0..=more).map(|_| body("user", random.pick(&WORDS).expect("words"))).collect();
        self.turn(&key, &said, false, random);
    }

    /// A client sends a conversation that took place, or its beginning, and something new, under no name.
    pub fn send_again(&mut self, random: &mut Random) {
        let key = self.new_key(random);
        let mut said = Vec::new();
        if let Some(earlier) = self.any(random) {
            said.clone_from(&self.sessions[&earlier].messages);
            if random.chance(30) {
                said.truncate(usize::try_from(random.below(said.len() as u64 + 1)).expect("an index"));
            }
        }
        // Mostly with the same agent, or nothing would ever be shared.
        let same = self
            .sessions
            .keys()
            .find(|key| said.len() > 1 && self.sessions[*key].messages.starts_with(&said));
        let key = match same.filter(|_| random.chance(85)) {
            Some((owner, of_agent, _)) => (owner.clone(), of_agent.clone(), key.2),
            None => key,
        };
        if random.chance(90) {
            said.push(body("user", random.pick(&WORDS).expect("words")));
        }
        self.turn(&key, &said, true, random);
    }

    /// Somebody begins another session with the beginning of one.
    pub fn fork(&mut self, random: &mut Random) {
        let Some(of) = self.any(random) else { return };
        self.now += 1;
        let source = self.row(&of);
        let head = random.between(0, source.head);
        let name = match random.chance(70) {
            true => self.new_key(random).2,
            false => format!("s{}", random.below(NAMES)),
        };
        let key = (of.0.clone(), of.1.clone(), name.clone());
        let fork = Fork { name, by_server: false, head, change: Change::default() };
        let now = self.now;
        let made = self.conn.immediate_transaction(|conn| {
            session::fork(conn, &source, &fork, now).map_err(|_| diesel::result::Error::NotFound)
        });
        let made = made.expect("a fork");
        assert_eq!(made.is_none(), self.sessions.contains_key(&key), "a name is taken once");
        if made.is_some() {
            let head = usize::try_from(head).expect("a length");
            let messages = self.sessions[&of].messages[..head].to_vec();
            self.sessions.insert(key, Session { messages, used: now });
        }
    }

    /// Somebody takes back what came after a message.
    pub fn truncate(&mut self, random: &mut Random) {
        let Some(key) = self.any(random) else { return };
        self.now += 1;
        let (row, now) = (self.row(&key), self.now);
        let head = random.between(0, row.head);
        let cut = self.conn.immediate_transaction(|conn| session::truncate(conn, &row, head, now));
        assert_eq!(cut.expect("a cut").expect("a session").head, head);
        let own = self.sessions.get_mut(&key).expect("a session of the model");
        own.messages.truncate(usize::try_from(head).expect("a length"));
        own.used = now;
    }

    /// Somebody deletes a session.
    pub fn delete(&mut self, random: &mut Random) {
        let Some(key) = self.any(random) else { return };
        let row = self.row(&key);
        let gone = self.conn.immediate_transaction(|conn| session::delete(conn, &row));
        assert!(gone.expect("a deletion"));
        self.sessions.remove(&key);
    }

    /// Time passes, and who was idle for too long goes.
    pub fn pass(&mut self, random: &mut Random) {
        self.now += random.between(0, IDLE);
        let owner = *random.pick(&ACCOUNTS).expect("accounts");
        let idle_since = self.now - random.between(1, IDLE);
        let all = session_list::candidates(&mut self.conn, owner, 0, i64::MAX).expect("a read");
        let ids: Vec<i64> = all.iter().map(|(id, ..)| *id).collect();
        for batch in ids.chunks(BATCH) {
            let gone =
                self.conn.immediate_transaction(|conn| session::delete_idle(conn, owner, batch, idle_since));
            gone.expect("a deletion");
        }
        self.sessions.retain(|key, own| key.0 != owner || own.used > idle_since);
    }

    /// A tenant deletes an agent and makes another.
    pub fn delete_agent(&mut self, random: &mut Random) {
        let at = usize::try_from(random.below(self.agents.len() as u64)).expect("an index");
        let (owner, id) = self.agents.remove(at);
        assert!(agent::delete(&mut self.conn, &owner, &id).expect("a deletion"));
        while session::delete_of_agent(&mut self.conn, &owner, &id, 3).expect("a deletion") > 0 {}
        self.sessions.retain(|key, _| key.1 != id);
        self.add_agent(&owner);
    }

    /// Fails the test unless the store has what the model has, and nothing else.
    pub fn compare(&mut self) {
        let keys: Vec<Key> = self.sessions.keys().cloned().collect();
        for key in &keys {
            let row = self.row(key);
            let expected = &self.sessions[key].messages;
            let (whole, _) =
                switchboard::store::message::messages(&mut self.conn, &row, i64::MAX, i64::MAX, usize::MAX)
                    .expect("a read");
            let bodies: Vec<&String> = whole.iter().map(|message| &message.body).collect();
            assert_eq!(bodies, expected.iter().collect::<Vec<_>>(), "in {key:?}");
            let (page, _) =
                switchboard::store::message::messages(&mut self.conn, &row, row.head, 2, usize::MAX)
                    .expect("a read");
            let from = expected.len().saturating_sub(3);
            let page: Vec<&String> = page.iter().map(|message| &message.body).collect();
            assert_eq!(
                page,
                expected[from..].iter().take(expected.len().saturating_sub(1).min(2)).collect::<Vec<_>>()
            );
        }
        let stored: i64 = ACCOUNTS
            .iter()
            .map(|id| account::find(&mut self.conn, id).expect("a read").expect("an account").session_count)
            .sum();
        assert_eq!(usize::try_from(stored).expect("a count"), keys.len());
        let report = verify::run(&mut self.conn).expect("the store can be checked");
        assert!(report.ok, "{:?}", report.checks);
    }
}
