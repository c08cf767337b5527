//! The short ways to a charge leave what the long one leaves, whatever is remembered: a database for each way, the same
//! turns in each, every row of every table compared.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diesel::prelude::*;
use switchboard::billing::money::Nanos;
use switchboard::conversation::message::Message;
use switchboard::conversation::opening::Opening;
use switchboard::conversation::turn::Completeness;
use switchboard::conversation::usage::{Usage, UsageSource};
use switchboard::error::Error;
use switchboard::json::Raw;
use switchboard::store::hold::{self, Candidate, Closed, Granted, Memory, NewHold, Served, Settlement};
use switchboard::store::request_key::Idempotency;
use switchboard::store::session_summary::NewSummary;
use switchboard::store::turn::{Found, StoredTurn};
use switchboard::store::writer::WriteError;

use crate::compare;
use crate::database::Database;
use crate::moves::{HOLD_LIFE, Move, Price, SessionKey};
use crate::random::Random;
use crate::words::store_price;

const SEEDS: u64 = 24;
const TURNS: u64 = 120;
/// Turns after which all rows are compared; outcomes are after each.
const COMPARED_EVERY: u64 = 10;

/// Every row of every table as one line. Two columns are random by their nature.
const TABLES: &str = "SELECT m.name || ': ' || group_concat(CASE WHEN c.name IN ('event_id', 'body') AND \
    m.name = 'webhook_delivery' THEN '''-''' ELSE 'quote(' || c.name || ')' END, '||'' ''||') AS line \
    FROM sqlite_master m JOIN pragma_table_info(m.name) c \
    WHERE m.type = 'table' AND m.name NOT LIKE '\\_\\_%' ESCAPE '\\' GROUP BY m.name";

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = diesel::sql_types::Text)]
    line: String,
}

fn rows(conn: &mut SqliteConnection) -> Vec<String> {
    let tables: Vec<Line> = diesel::sql_query(TABLES).load(conn).expect("the tables");
    let mut all = Vec::new();
    for Line { line } in tables {
        let (table, columns) = line.split_once(": ").expect("a table and its columns");
        let query = format!("SELECT '{table} ' || {columns} AS line FROM {table}");
        let found: Vec<Line> = diesel::sql_query(query).load(conn).expect("a table's rows");
        all.extend(found.into_iter().map(|found| found.line));
    }
    all.sort_unstable();
    all
}

/// How a turn gets from its wish to its charge.
#[derive(Clone, Copy, Debug)]
enum Way {
    Long,
    Reserved,
    AtOnce,
    /// As the one before, with what is remembered from one turn to the next, as those that follow.
    ReservedFromMemory,
    AtOnceFromMemory,
}

const WAYS: [Way; 5] =
    [Way::Long, Way::Reserved, Way::AtOnce, Way::ReservedFromMemory, Way::AtOnceFromMemory];

type Done = Result<(Granted, Closed), Error>;

/// What a server knows from its earlier turns.
#[derive(Default)]
struct Mind {
    changes: Arc<AtomicU64>,
    memory: Memory,
    places: HashMap<String, Found>,
}

impl Mind {
    fn new() -> Self {
        let changes = Arc::new(AtomicU64::new(0));
        Self { memory: Memory::until(changes.clone()), changes, places: HashMap::new() }
    }
}

impl Way {
    fn go(
        self,
        conn: &mut SqliteConnection,
        mind: &mut Mind,
        (new, end, now): (&NewHold, &Settlement, i64),
    ) -> Result<Done, String> {
        let (mut nothing, key) =
            (Memory::default(), [new.account.as_str(), new.agent.as_str(), new.session.as_str()].join("/"));
        let known = mind.places.get(&key).copied();
        let (memory, place) = match self {
            Self::AtOnceFromMemory | Self::ReservedFromMemory => (&mut mind.memory, known),
            _ => (&mut nothing, None),
        };
        let new = &NewHold { place, ..new.clone() };
        let gone = match self {
            Self::AtOnce | Self::AtOnceFromMemory => {
                conn.transaction(|conn| hold::charge_at_once_or_tell(conn, memory, new, end, now))
            }
            _ => {
                let reserved = conn.transaction(|conn| hold::reserve_or_tell(conn, memory, new));
                reserved.and_then(|granted| {
                    let Ok(granted) = granted else {
                        return Ok(granted.map(|_| unreachable!("it is refused")));
                    };
                    let closed = conn.transaction(|conn| match self {
                        Self::Long => hold::settle(conn, new.id.as_str(), end, None, now),
                        _ => hold::settle_reserved(conn, memory, new, granted, end, now),
                    });
                    closed.map(|closed| Ok((granted, closed)))
                })
            }
        };
        if let Ok(Ok((_, Closed { place: Some(place), .. }))) = gone {
            mind.places.insert(key, place);
        }
        gone.map_err(|refused: WriteError| format!("{refused:?}"))
    }

    /// Goes that way, and comes to nothing; where the session would be is remembered all the same.
    fn go_in_vain(self, conn: &mut SqliteConnection, mind: &mut Mind, turn: (&NewHold, &Settlement, i64)) {
        let vain: QueryResult<()> = conn.transaction(|conn| {
            let _ = self.go(conn, mind, turn);
            Err(diesel::result::Error::RollbackTransaction)
        });
        assert!(vain.is_err());
        mind.changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// What turns are drawn from.
struct World {
    random: Random,
    prices: Vec<Price>,
    made: u64,
    now: i64,
}

impl World {
    fn turn(&mut self) -> (NewHold, Settlement) {
        self.made += 1;
        self.now += self.random.between(1, 40_000_000);
        let (account, agent) = *self.random.pick(&AGENTS).expect("an agent");
        let unnamed = self.random.chance(50);
        let session = match unnamed {
            true => format!("sess_{}", self.made),
            false => format!("chosen_{}", self.random.below(6)),
        };
        let mut candidates: Vec<_> = (0..self.random.between(1, 2)).map(|_| self.candidate()).collect();
        candidates.dedup_by(|a, b| a.price.id == b.price.id);
        let wanted = self.random.below(4_000);
        let new = NewHold {
            id: format!("hold_{}", self.made).into(),
            account: account.into(),
            key: format!("key_{agent}").into(),
            budget: self
                .random
                .chance(25)
                .then(|| (Nanos(self.random.between(0, 9_000_000)), self.now / 400_000_000)),
            agent: agent.into(),
            session: session.into(),
            place: None,
            session_by_server: unnamed,
            completion: format!("chatcmpl_{}", self.made).into(),
            // A request of two steps now and then.
            request: format!("req_{}", self.made / 2).into(),
            step: i32::try_from(self.made % 2).expect("small"),
            idempotency: self.random.chance(12).then(|| Idempotency {
                key: format!("again_{}", self.random.below(4)),
                fingerprint: "f".to_owned(),
            }),
            candidates,
            prompt_max: self.random.below(3_000),
            n: 1 + self.random.below(2),
            wanted_output: wanted,
            least_output: self.random.below(wanted + 1),
            epoch: 1,
            now: self.now,
            expires_at: self.now + HOLD_LIFE,
        };
        self.now += self.random.between(0, 5_000);
        let end = self.settlement(&new, unnamed);
        (new, end)
    }

    fn candidate(&mut self) -> Candidate {
        let row = self.random.pick(&self.prices).expect("a price");
        Candidate { model: row.model.as_str().into(), price: Arc::new(store_price(row)) }
    }

    fn settlement(&mut self, new: &NewHold, unnamed: bool) -> Settlement {
        let prompt = self.random.below(4_000);
        let served = self.random.chance(80).then(|| {
            let one = match self.random.chance(95) {
                true => self.random.pick(&new.candidates).expect("a candidate").clone(),
                false => self.candidate(),
            };
            Served { by: format!("p/{}", one.model).into(), model: one.model, price: one.price.id.clone() }
        });
        Settlement {
            usage: Usage { prompt, cached: self.random.below(prompt + 1), output: self.random.below(9_000) },
            source: UsageSource::Upstream,
            served,
            turn: self.random.chance(85).then(|| self.stored(new, unnamed)),
            summary: self.random.chance(10).then(|| NewSummary { upto: 1, body: "notes".to_owned() }),
            answer: self.random.chance(60).then(|| format!("{{\"answer\":{}}}", self.made)),
        }
    }

    /// A turn that may bring along what others said before.
    fn stored(&mut self, new: &NewHold, unnamed: bool) -> StoredTurn {
        let (mut said, theme) = (Vec::new(), self.random.below(3));
        for at in 0..self.random.below(3) {
            said.push(format!(r#"{{"role":"user","content":"{theme} ask {at}"}}"#));
            said.push(format!(r#"{{"role":"assistant","content":"{theme} say {at}"}}"#));
        }
        let at = said.len() / 2;
        said.push(format!(r#"{{"role":"user","content":"{theme} ask {at}"}}"#));
        let reply = format!(r#"{{"role":"assistant","content":"{theme} say {at}"}}"#);
        let read =
            |(at, text): (usize, &String)| Message::parse(Raw::trusted(text.clone()), at).map_err(|_| at);
        let messages = said.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>().expect("messages");
        let owner = (new.account.as_str(), new.agent.as_str());
        let opening = Opening::of(owner, unnamed, &messages, &Raw::trusted(reply.clone()));
        StoredTurn {
            messages: said,
            reply,
            completeness: Completeness::Complete,
            metadata: self.random.chance(20).then(|| r#"{"note":1}"#.to_owned()),
            opening: self.random.chance(80).then_some(opening),
        }
    }

    /// What else happens between turns.
    fn event(&mut self) -> Option<Move> {
        let (account, agent) = *self.random.pick(&AGENTS).expect("an agent");
        let account = account.to_owned();
        Some(match self.random.weighted(&[120, 90, 8, 40, 20, 9, 1, 12]) {
            0 => return None,
            1 => Move::Credit {
                account,
                reference: format!("pay_{}", self.made),
                amount: self.random.between(1, 40_000_000),
            },
            2 => Move::SetStatus { account, active: self.random.chance(80) },
            3 => Move::Watch { account, low: vec![self.random.between(0, 9_000_000), 1_000_000] },
            4 => Move::Unwatch { account },
            5 => Move::DeleteSession {
                at: SessionKey {
                    account,
                    agent: agent.to_owned(),
                    name: format!("chosen_{}", self.random.below(6)),
                },
            },
            6 => Move::DeleteAgent { agent: agent.to_owned() },
            _ => Move::SetStatus { account, active: true },
        })
    }
}

const AGENTS: [(&str, &str); 4] =
    [("acct_a", "ag_1"), ("acct_a", "ag_2"), ("acct_b", "ag_3"), ("acct_b", "ag_4")];

fn prices() -> Vec<Price> {
    let price = |at: i64, input, cached, output, fee| Price {
        id: format!("price_{at}"),
        model: format!("m{at}"),
        from: at,
        input,
        cached,
        output,
        fee,
    };
    vec![
        price(1, 150_000_000, 75_000_000, 600_000_000, 0),
        price(2, 900_000_001, 100, 2_000_000_003, 7),
        price(3, 0, 0, 0, 0),
    ]
}

/// A database for each way, and what turns for them are drawn from.
fn worlds(seed: u64) -> ([(Way, Database, Mind); 5], World) {
    let mut databases = WAYS.map(|way| (way, Database::new(), Mind::new()));
    let world = World { random: Random::new(seed), prices: prices(), made: 0, now: 1_000 };
    for (_, database, _) in &mut databases {
        for account in ["acct_a", "acct_b"] {
            database.add_account(account, 1);
        }
        database.begin_epoch(1);
        for (account, agent) in AGENTS {
            let (account, agent, key) = (account.to_owned(), agent.to_owned(), format!("key_{agent}"));
            database.apply(&Move::AddAgent { account, agent, key }, (1, 1));
        }
        prices().into_iter().for_each(|row| drop(database.apply(&Move::SetPrice(row), (1, 1))));
    }
    (databases, world)
}

/// Plays one seed: how many turns were charged, refused with a notice, refused, and written off in part.
fn play(seed: u64) -> [u64; 4] {
    let (mut databases, mut world) = worlds(seed);
    let (mut charged, mut told, mut refused, mut written_off) = (0, 0, 0, 0);
    for turn in 1..=TURNS {
        let compared = turn % COMPARED_EVERY == 0;
        let (event, (new, end)) = (world.event(), world.turn());
        let now = world.now;
        let vain = world.random.chance(10);
        // Somebody else's call, of which this memory is not told and which does not end.
        let other =
            world.random.chance(35).then(|| NewHold { budget: None, idempotency: None, ..world.turn().0 });
        let outcomes = databases.each_mut().map(|(way, database, mind)| {
            event.iter().for_each(|event| drop(database.apply(event, (new.now, 1))));
            // Of money, of a status and of sessions the statements themselves tell whether it is as it was.
            if matches!(event, Some(Move::Watch { .. } | Move::Unwatch { .. } | Move::DeleteAgent { .. })) {
                mind.changes.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(other) = &other {
                let held = database
                    .conn()
                    .transaction(|conn| hold::reserve_or_tell(conn, &mut Memory::default(), other));
                drop(held);
            }
            if vain {
                way.go_in_vain(database.conn(), mind, (&new, &end, now));
            }
            let gone = way.go(database.conn(), mind, (&new, &end, now));
            let outcome = format!("{gone:?}");
            match gone {
                Ok(Ok((_, closed))) => {
                    charged += 1;
                    written_off += u64::from(closed.written_off > Nanos::ZERO);
                }
                Ok(Err(_)) => told += 1,
                Err(_) => refused += 1,
            }
            (outcome, if compared { rows(database.conn()) } else { Vec::new() })
        });
        for (other, way) in outcomes.iter().zip(WAYS).skip(1) {
            let only = |of: &[String], from: &[String]| -> String {
                of.iter().filter(|line| !from.contains(line)).map(|line| format!("    {line}\n")).collect()
            };
            assert_eq!(other.0, outcomes[0].0, "seed {seed}, {way:?}: {new:?} {end:?}");
            assert!(
                other.1 == outcomes[0].1,
                "seed {seed}, {way:?} leaves\n{}  and not\n{}",
                only(&other.1, &outcomes[0].1),
                only(&outcomes[0].1, &other.1),
            );
        }
    }
    databases.iter_mut().for_each(|(_, database, _)| compare::invariants(database.conn()));
    [charged, told, refused, written_off]
}

#[test]
fn a_charge_leaves_the_same_whichever_way_it_goes() {
    let mut sums = [0; 4];
    for seed in 0..SEEDS {
        sums.iter_mut().zip(play(seed)).for_each(|(sum, more)| *sum += more);
    }
    println!("charged, told, refused, written off: {sums:?}");
    assert!(sums.iter().all(|sum| *sum > 0), "something never came about: {sums:?}");
}

#[test]
fn a_budget_that_was_used_up_at_once_counts_from_then_on() {
    let (databases, mut world) = worlds(1);
    let (plain, end) = world.turn();
    let price = world.prices.first().expect("a price");
    let candidate = Candidate { model: price.model.as_str().into(), price: Arc::new(store_price(price)) };
    let end = Settlement { served: None, ..end };
    let turn = |number: u64, budget| NewHold {
        id: format!("hold_{number}").into(),
        request: format!("req_{number}").into(),
        completion: format!("chatcmpl_{number}").into(),
        step: 0,
        idempotency: None,
        least_output: 1,
        candidates: vec![candidate.clone()],
        budget,
        ..plain.clone()
    };
    let turns = [turn(1, None), turn(2, Some((Nanos(0), 1))), turn(3, None)];
    let mut left = databases.into_iter().map(|(way, mut database, mut mind)| {
        let credit =
            Move::Credit { account: plain.account.to_string(), reference: "pay".to_owned(), amount: 1 << 40 };
        // Who is told of the refusal has it committed, and the budget with it.
        let watch = Move::Watch { account: plain.account.to_string(), low: vec![1] };
        [credit, watch].iter().for_each(|event| drop(database.apply(event, (1, 1))));
        let granted = turns
            .each_ref()
            .map(|new| matches!(way.go(database.conn(), &mut mind, (new, &end, new.now)), Ok(Ok(_))));
        assert_eq!(granted, [true, false, true], "{way:?}");
        rows(database.conn())
    });
    let long = left.next().expect("a way");
    assert!(long.iter().any(|row| row.starts_with("key_budget")));
    assert!(left.all(|other| other == long));
}
