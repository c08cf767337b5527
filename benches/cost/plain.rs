//! What a turn asks of the plain core: reading the request, the limiter, the prompt, the provider's request, money.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use diesel::prelude::*;
use serde_json::json;
use switchboard::auth::api_key::KeyKind;
use switchboard::auth::caller::{Caller, Scopes};
use switchboard::billing::money::Nanos;
use switchboard::billing::price::Price;
use switchboard::conversation::agent::{Agent, Definition};
use switchboard::conversation::history::History;
use switchboard::conversation::message::Message;
use switchboard::conversation::tokens::Ratios;
use switchboard::conversation::turn::{Completeness, Conflict, Dialect, Form, NamedBy, OnDisconnect, Turn};
use switchboard::conversation::usage::{Usage, UsageSource};
use switchboard::json::Raw;
use switchboard::provider::openai::request_body;
use switchboard::provider::{Call, OutputField};
use switchboard::rate_limit::limits::ResolvedLimits;
use switchboard::rate_limit::table::{Class, Table};
use switchboard::session::prompt::Prompt;
use switchboard::store::account::{self, AccountRow};
use switchboard::store::hold::{self, Candidate, Closed, Memory, NewHold, Settlement};
use switchboard::store::ledger_entry::{self, NewEntry};
use switchboard::store::turn::StoredTurn;
use switchboard::store::writer::WriteError;
use switchboard::store::{agent, connection, price, verify};
use switchboard::wire::openai::chat::ChatRequest;

use crate::Scenario;

/// How often each is done.
const ROUNDS: usize = 200;
/// Turns that were said before.
const TURNS: usize = 20;
const ACCOUNT: &str = "acct_bench";
const AGENT: &str = "ag_bench";
pub const MODEL: &str = "bench/model";
/// When everything happens, in milliseconds.
const NOW: i64 = 1_700_000_000_000;

/// What is counted; the database lies in `directory`.
pub fn scenarios(directory: &Path) -> anyhow::Result<Vec<Scenario>> {
    Ok(vec![
        chat_request()?,
        limits(),
        prompt()?,
        provider_request()?,
        money(directory)?,
        money_at_once(directory)?,
    ])
}

pub fn scenario(name: &'static str, mut work: impl FnMut() -> anyhow::Result<()> + 'static) -> Scenario {
    let rounds = move || (0..ROUNDS).try_for_each(|_| work());
    Scenario { name, units: ROUNDS, work: Box::new(rounds), check: None }
}

fn definition() -> Definition {
    let instructions = Some("Answer in one sentence, and say what you do not know. ".repeat(8));
    Definition { name: "bench".to_owned(), instructions, temperature: Some(0.3), ..Definition::default() }
}

pub fn agent() -> Agent {
    Agent {
        id: AGENT.into(),
        account: ACCOUNT.into(),
        definition: definition(),
        created_at: 0,
        updated_at: 0,
    }
}

fn caller() -> Caller {
    let limits = ResolvedLimits {
        requests_per_minute: Some(600_000),
        tokens_per_minute: Some(1_000_000_000),
        concurrency: Some(100_000),
        management_per_minute: Some(600_000),
    };
    Caller {
        key: "key_bench".into(),
        kind: KeyKind::Agent,
        account: ACCOUNT.into(),
        agent: Some(AGENT.into()),
        scopes: Scopes::default(),
        public: false,
        suspended: false,
        expires_at: None,
        key_limits: limits,
        account_limits: limits,
        budget: None,
        as_of: 0,
    }
}

/// A conversation of so many turns, with one more question.
pub fn conversation(turns: usize) -> Vec<serde_json::Value> {
    let question =
        |at: usize| json!({"role": "user", "content": format!("{at}: {}", "What is it? ".repeat(12))});
    let answer =
        |at: usize| json!({"role": "assistant", "content": format!("{at}: {}", "It is that. ".repeat(30))});
    (0..turns).flat_map(|at| [question(at), answer(at)]).chain([question(turns)]).collect()
}

fn messages(turns: usize) -> anyhow::Result<Vec<Message>> {
    let all = conversation(turns);
    let parsed = all.iter().enumerate().map(|(at, one)| Message::parse(Raw::of(one), at));
    parsed.collect::<Result<_, _>>().map_err(|cause| anyhow!("{cause:?}"))
}

fn chat_request() -> anyhow::Result<Scenario> {
    let body = json!({"model": AGENT, "messages": conversation(TURNS), "stream": true, "temperature": 0.7,
        "stream_options": {"include_usage": true}, "max_tokens": 500, "user": "somebody"});
    let (body, agent) = (Bytes::from(serde_json::to_vec(&body)?), agent());
    Ok(scenario("chat_request", move || {
        let request = ChatRequest::read(&body)?.with_defaults(&agent)?;
        ensure!(request.messages.len() == 2 * TURNS + 1, "it was read otherwise");
        Ok(())
    }))
}

fn limits() -> Scenario {
    let (mut table, caller, mut now) = (Table::new(1_000), caller(), 0);
    scenario("limits", move || {
        now += 1_000_000;
        table.admit(&caller, Class::Chat, now).map_err(|refusal| anyhow!("{refusal:?}"))?;
        table.debit(&caller, 1_000, now)?;
        table.give_back(&caller, 300, now);
        table.leave(&caller, false, now);
        black_box(table.status(&caller, Class::Chat, now));
        Ok(())
    })
}

pub fn turn() -> anyhow::Result<Turn> {
    Ok(Turn {
        caller: Arc::new(caller()),
        agent: Arc::new(agent()),
        session: "sess_bench".into(),
        named_by: NamedBy::Client,
        completion: "chatcmpl-bench".into(),
        request: "req_bench".into(),
        messages: messages(0)?,
        metadata: None,
        fields: Default::default(),
        stream: true,
        form: Form { dialect: Dialect::OpenAi, include_usage: true, created: NOW / 1_000 },
        n: 1,
        max_output: Some(500),
        idempotency: None,
        conflict: Conflict::default(),
        on_disconnect: OnDisconnect::default(),
    })
}

fn history() -> anyhow::Result<History> {
    let mut history = History::default();
    let mut said = messages(TURNS)?;
    said.truncate(2 * TURNS);
    said.chunks(2).for_each(|turn| history.push_turn(turn.to_vec()));
    Ok(history)
}

fn prompt() -> anyhow::Result<Scenario> {
    let (turn, history, ratios) = (turn()?, history()?, Ratios::default());
    Ok(scenario("prompt", move || {
        let prompt = Prompt::assemble(&turn, &history, ratios.of(MODEL));
        ensure!(prompt.messages.count() == 2 * TURNS + 2, "it was put together otherwise");
        black_box(prompt.most_tokens(MODEL));
        Ok(())
    }))
}

fn provider_request() -> anyhow::Result<Scenario> {
    let prompt = Prompt::assemble(&turn()?, &history()?, Ratios::default().of(MODEL));
    Ok(scenario("provider_request", move || {
        let call = Call {
            model: MODEL.into(),
            messages: prompt.messages.clone(),
            newer_names: prompt.newer_names(),
            fields: Default::default(),
            max_output: 500,
            stream: true,
            own: None,
        };
        black_box(request_body(&call, OutputField::MaxTokens));
        Ok(())
    }))
}

/// A hold and its charge, with the turn that is stored, each in a transaction of its own.
fn money(directory: &Path) -> anyhow::Result<Scenario> {
    in_a_database("reserve_settle", directory, |conn, memory, new, settlement| {
        conn.immediate_transaction(|conn| hold::reserve(conn, memory, new))?;
        conn.immediate_transaction(|conn| hold::settle(conn, new.id.as_str(), settlement, None, new.now))
    })
}

/// The same in one step.
fn money_at_once(directory: &Path) -> anyhow::Result<Scenario> {
    in_a_database("charge_at_once", directory, |conn, memory, new, settlement| {
        let charge = |conn: &mut _| hold::charge_at_once(conn, memory, new, settlement, new.now);
        Ok(conn.immediate_transaction(charge)?.1)
    })
}

fn in_a_database(
    name: &'static str,
    directory: &Path,
    pay: impl Fn(&mut SqliteConnection, &mut Memory, &NewHold, &Settlement) -> Result<Closed, WriteError>
    + 'static,
) -> anyhow::Result<Scenario> {
    let file = directory.join(name);
    let mut conn = connection::open_writer(&file)?;
    let price = prepare(&mut conn).map_err(|cause| anyhow!("filling the database: {cause:?}"))?;
    let (mut number, mut memory, mut place) = (0, Memory::default(), None);
    let work = move || {
        number += 1;
        let new = NewHold { place, ..new_hold(number, &price) };
        let closed = pay(&mut conn, &mut memory, &new, &settlement());
        let closed = closed.map_err(|cause| anyhow!("{cause:?}"))?;
        place = closed.place;
        ensure!(closed.written_off == Nanos::ZERO, "the account has enough");
        Ok(())
    };
    let check = move || {
        let report = verify::run(&mut connection::open_reader(&file).context("reading the books")?)?;
        ensure!(report.ok, "the books are wrong: {:?}", report.checks);
        Ok(())
    };
    Ok(Scenario { check: Some(Box::new(check)), ..scenario(name, work) })
}

fn prepare(conn: &mut SqliteConnection) -> Result<Arc<Price>, WriteError> {
    let of_price = Price {
        id: "price_bench".into(),
        model: MODEL.to_owned(),
        effective_from: 0,
        input: Nanos(150_000_000),
        cached_input: Nanos(75_000_000),
        output: Nanos(600_000_000),
        per_request: Nanos(0),
    };
    let row = AccountRow {
        account_id: ACCOUNT.to_owned(),
        name: "bench".to_owned(),
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
    let topup = NewEntry {
        account: ACCOUNT,
        kind: "topup",
        external_ref: Some("bench"),
        delta: 1_000_000 * Nanos::DOLLAR.0,
        actor: "bench",
        ..NewEntry::default()
    };
    conn.immediate_transaction(|conn| {
        price::insert(conn, &of_price)?;
        account::insert(conn, &row)?;
        ledger_entry::post(conn, &topup)?;
        agent::insert(conn, &agent())?;
        Ok::<_, WriteError>(())
    })?;
    Ok(Arc::new(of_price))
}

fn new_hold(number: i64, price: &Arc<Price>) -> NewHold {
    NewHold {
        id: format!("hold_{number:020}").into(),
        account: ACCOUNT.into(),
        key: "key_bench".into(),
        budget: None,
        agent: AGENT.into(),
        session: "sess_bench".into(),
        place: None,
        session_by_server: false,
        completion: format!("chatcmpl-{number:024}").into(),
        request: format!("req_{number:024}").into(),
        idempotency: None,
        step: 1,
        candidates: vec![Candidate { model: MODEL.into(), price: price.clone() }],
        prompt_max: 1_000,
        n: 1,
        wanted_output: 500,
        least_output: 500,
        epoch: 1,
        now: NOW + number,
        expires_at: NOW + number + 600_000,
    }
}

fn settlement() -> Settlement {
    Settlement {
        usage: Usage { prompt: 700, cached: 100, output: 300 },
        source: UsageSource::Upstream,
        served: None,
        turn: Some(StoredTurn {
            messages: vec![format!(r#"{{"role":"user","content":"{}"}}"#, "ask ".repeat(60))],
            reply: format!(r#"{{"role":"assistant","content":"{}"}}"#, "say ".repeat(120)),
            completeness: Completeness::Complete,
            metadata: None,
            opening: None,
        }),
        summary: None,
        answer: None,
    }
}
