//! Whether the database says what the model says.
//!
//! Both are turned into lines of text. A glance holds every balance, budget and session, every open hold and the
//! state of the others, the amount of every entry and every charge; it is cheap enough for each step. The books
//! hold every column.

use std::fmt::Display;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use switchboard::store::verify;

use crate::model::{Account, Budget, Entry, Hold, Kept, Model, Request, Session, State, Used};
use crate::moves::{Price, SessionKey};

diesel::table! { books (line) { line -> Text, } }
diesel::table! { glance (line) { line -> Text, } }

/// What a line is made of: its name, the columns behind it, where they come from.
type Line = (&'static str, &'static str, &'static str);

const BOOKS: [Line; 12] = [
    (
        "account",
        "account_id, status, available, held, last_seq, agent_count, session_count, exhausted_at, created_at",
        "account",
    ),
    (
        "entry",
        "account_id, seq, kind, hold_id, external_ref, delta, balance_after, actor, created_at",
        "ledger_entry",
    ),
    (
        "hold",
        "id, account_id, agent_id, session_id, key_id, completion_id, model, request_id, step, amount, price_id, \
         state, reason, owner_epoch, mark_prompt, mark_output, pending, created_at, expires_at, closed_at, \
         served_by, served_model, served_price_id",
        "hold",
    ),
    (
        "usage",
        "hold_id, account_id, agent_id, session_id, key_id, completion_id, model, price_id, prompt, cached, output, \
         source, cost, charged, written_off, created_at",
        "usage_record",
    ),
    ("budget", "key_id, period, cap, spent, held, told_period", "key_budget"),
    ("price", "id, model, effective_from, input, cached_input, output, per_request", "price"),
    ("epoch", "epoch, seen_at, ended_at", "node_epoch"),
    ("session", "account_id, agent_id, name, named_by, head, created_at, updated_at", "session"),
    (
        "turn",
        "w.account_id, w.agent_id, w.name, t.seq, t.completion_id, t.hold_id, t.status, t.metadata, t.created_at",
        "way w JOIN message t ON t.id = w.message_id AND t.completion_id IS NOT NULL",
    ),
    (
        "message",
        "w.account_id, w.agent_id, w.name, m.seq, m.turn_seq, m.body",
        "way w JOIN message m ON m.id = w.message_id",
    ),
    (
        "request",
        "account_id, key_id, idem_key, fingerprint, request_id, state, answer, created_at",
        "request_key",
    ),
    (
        "notice",
        "w.account_id, d.kind, d.created_at",
        "webhook_delivery d JOIN webhook w ON w.id = d.webhook_id",
    ),
];

/// The same, much shortened; what is put together follows the order in which rows were added.
const GLANCE: [Line; 11] = [
    (
        "account",
        "account_id, status, available, held, last_seq, agent_count, session_count, exhausted_at",
        "account",
    ),
    (
        "entries",
        "account_id, group_concat(delta || '=' || balance_after || ' ','')",
        "ledger_entry GROUP BY account_id",
    ),
    ("holds", "group_concat(substr(state,1,1),'')", "hold NOT INDEXED"),
    ("open", "id, amount, mark_prompt, mark_output, expires_at", "hold WHERE state = 'open'"),
    (
        "charges",
        "group_concat(cost || '=' || charged || '+' || written_off || ' ','')",
        "hold NOT INDEXED WHERE cost IS NOT NULL",
    ),
    ("budget", "key_id, period, cap, spent, held, told_period", "key_budget"),
    ("session", "account_id, agent_id, name, head", "session"),
    ("prices", "count(*)", "price"),
    ("epoch", "count(*), count(*) - count(ended_at)", "node_epoch"),
    ("requests", "count(*), count(answer)", "request_key"),
    ("notices", "count(*)", "webhook_delivery"),
];

/// The messages of each session.
const WAY: &str = "CREATE VIEW way AS WITH RECURSIVE w AS (SELECT account_id, agent_id, name, message_id FROM session \
    UNION ALL SELECT account_id, agent_id, name, previous_id FROM w JOIN message m ON m.id = w.message_id) SELECT * FROM w";

/// Prepares a database for being compared.
pub fn prepare(conn: &mut SqliteConnection) {
    conn.batch_execute(WAY).expect("the database takes a view");
    for (name, lines) in [("books", &BOOKS[..]), ("glance", &GLANCE[..])] {
        let one = |(name, columns, from): &Line| {
            let blanks = vec!["%s"; columns.split(", ").count()].join("|");
            format!("SELECT printf('{name}|{blanks}', {columns}) AS line FROM {from}")
        };
        let lines: Vec<_> = lines.iter().map(one).collect();
        let view = format!("CREATE VIEW {name} AS {}", lines.join(" UNION ALL "));
        conn.batch_execute(&view).expect("the database takes a view");
    }
}

/// Every invariant of the server's own check, the chain of hashes included.
pub fn invariants(conn: &mut SqliteConnection) {
    let report = verify::run(conn).expect("the database can be checked");
    let broken: Vec<_> = report.checks.iter().filter(|check| check.violations > 0).collect();
    assert!(report.ok, "an invariant is broken: {broken:?}");
}

/// Every figure: cheap enough for each step.
pub fn figures(conn: &mut SqliteConnection, model: &Model) {
    let found = glance::table.select(glance::line).load(conn).expect("the database can be read");
    same(found, model_glance(model));
}

/// Every column of every row.
pub fn columns(conn: &mut SqliteConnection, model: &Model) {
    let found = books::table.select(books::line).load(conn).expect("the database can be read");
    same(found, model_books(model));
}

fn same(mut found: Vec<String>, mut expected: Vec<String>) {
    found.sort_unstable();
    expected.sort_unstable();
    if found != expected {
        let only = |of: &[String], other: &[String]| -> String {
            of.iter().filter(|line| !other.contains(line)).map(|line| format!("    {line}\n")).collect()
        };
        let (stored, modelled) = (only(&found, &expected), only(&expected, &found));
        panic!("the database differs\n  it says\n{stored}  the model says\n{modelled}");
    }
}

fn or_blank<T: Display>(field: Option<T>) -> String {
    field.map_or_else(String::new, |field| field.to_string())
}

fn account_line(id: &str, own: &Account) -> String {
    let status = if own.active { "active" } else { "suspended" };
    let Account { available, held, agents, sessions, entries, .. } = own;
    let (seq, told) = (entries.len(), or_blank(own.exhausted));
    format!("account|{id}|{status}|{available}|{held}|{seq}|{agents}|{sessions}|{told}")
}

fn budget_line(key: &str, Budget { period, cap, spent, held, told }: &Budget) -> String {
    format!("budget|{key}|{period}|{cap}|{spent}|{held}|{}", or_blank(*told))
}

fn at_line(SessionKey { account, agent, name }: &SessionKey) -> String {
    format!("{account}|{agent}|{name}")
}

fn model_glance(model: &Model) -> Vec<String> {
    let mut lines: Vec<_> = model.accounts.iter().map(|(id, own)| account_line(id, own)).collect();
    let posted = model.accounts.iter().filter(|(_, own)| !own.entries.is_empty());
    lines.extend(posted.map(|(id, own)| format!("entries|{id}|{}", own.glance)));
    let states: String = model.holds.iter().map(|hold| &state(hold)[..1]).collect();
    lines.push(format!("holds|{states}"));
    lines.extend(model.holds.iter().filter(|hold| hold.state == State::Open).map(open_line));
    let used = model.holds.iter().filter_map(|hold| hold.usage.as_ref());
    let charges: String = used.map(charge_glance).collect();
    lines.push(format!("charges|{charges}"));
    lines.extend(model.budgets.iter().map(|(key, own)| budget_line(key, own)));
    let session =
        |(at, own): (&SessionKey, &Session)| format!("session|{}|{}", at_line(at), own.messages.len());
    lines.extend(model.sessions.iter().map(session));
    lines.push(format!("prices|{}", model.prices.len()));
    let live = model.epochs.iter().filter(|(_, _, ended)| ended.is_none()).count();
    lines.push(format!("epoch|{}|{live}", model.epochs.len()));
    let answered = model.requests.values().filter(|kept| kept.answer.is_some()).count();
    lines.push(format!("requests|{}|{answered}", model.requests.len()));
    let notices: usize = model.accounts.values().map(|own| own.notices.len()).sum();
    lines.push(format!("notices|{notices}"));
    lines
}

fn model_books(model: &Model) -> Vec<String> {
    let mut lines = Vec::new();
    for (id, own) in &model.accounts {
        lines.push(format!("{}|{}", account_line(id, own), own.created));
        lines.extend(own.notices.iter().map(|(kind, at)| format!("notice|{id}|{kind}|{at}")));
        for (entry, seq) in own.entries.iter().zip(1..) {
            let Entry { kind, hold, reference, delta, balance_after, actor, at } = entry;
            let (hold, reference) = (or_blank(hold.as_ref()), or_blank(reference.as_ref()));
            lines.push(format!(
                "entry|{id}|{seq}|{kind}|{hold}|{reference}|{delta}|{balance_after}|{actor}|{at}"
            ));
        }
    }
    lines.extend(model.holds.iter().map(|hold| hold_line(hold, &model.prices)));
    let charged = model.charged.iter().map(|at| &model.holds[*at]);
    lines.extend(charged.map(|hold| usage_line(hold, &model.prices)));
    lines.extend(model.budgets.iter().map(|(key, own)| budget_line(key, own)));
    for Price { id, model, from, input, cached, output, fee } in &model.prices {
        lines.push(format!("price|{id}|{model}|{from}|{input}|{cached}|{output}|{fee}"));
    }
    for (epoch, began, ended) in &model.epochs {
        lines.push(format!("epoch|{epoch}|{began}|{}", or_blank(*ended)));
    }
    for (at, own) in &model.sessions {
        let Session { created, updated, messages, turns, .. } = own;
        let (of, by) = (at_line(at), if own.by_server { "server" } else { "client" });
        lines.push(format!("session|{of}|{by}|{}|{created}|{updated}", messages.len()));
        for Kept { seq, completion, hold, complete, metadata, at } in turns {
            let status = if *complete { "complete" } else { "incomplete" };
            let metadata = or_blank(metadata.as_ref());
            lines.push(format!("turn|{of}|{seq}|{completion}|{hold}|{status}|{metadata}|{at}"));
        }
        for ((turn, body), seq) in messages.iter().zip(1..) {
            lines.push(format!("message|{of}|{seq}|{turn}|{body}"));
        }
    }
    for ((account, key, name), own) in &model.requests {
        let state = if own.answer.is_some() { "done" } else { "running" };
        let Request { fingerprint, request, answer, at } = own;
        let answer = or_blank(answer.as_ref());
        lines.push(format!("request|{account}|{key}|{name}|{fingerprint}|{request}|{state}|{answer}|{at}"));
    }
    lines
}

fn state(hold: &Hold) -> &'static str {
    match hold.state {
        State::Open => "open",
        State::Settled => "settled",
        State::Released => "released",
    }
}

fn charge_glance(Used { cost, charged, written_off, .. }: &Used) -> String {
    format!("{cost}={charged}+{written_off} ")
}

fn open_line(Hold { id, amount, marks: (prompt, output), expires, .. }: &Hold) -> String {
    format!("open|{id}|{amount}|{prompt}|{output}|{expires}")
}

/// What a hold and its usage record both begin with.
fn call_line(hold: &Hold, model: &str) -> String {
    let Hold { id, key, completion, .. } = hold;
    format!("{id}|{}|{key}|{completion}|{model}", at_line(&hold.at))
}

fn hold_line(hold: &Hold, prices: &[Price]) -> String {
    let Hold { request, step, amount, epoch, marks: (prompt, output), created, expires, .. } = hold;
    let (call, state) = (call_line(hold, &prices[hold.prices[0]].model), state(hold));
    let price = &prices[hold.price].id;
    let served = hold.served.map(|at| &prices[at]);
    let served = served.map_or("||".to_owned(), |Price { id, model, .. }| format!("p/{model}|{model}|{id}"));
    let (reason, closed) = (or_blank(hold.reason), or_blank(hold.closed));
    let said = or_blank(hold.pending.as_ref().map(|said| format!("[{}]", said.join(","))));
    let made = format!("{request}|{step}|{amount}|{price}|{state}|{reason}|{epoch}");
    format!("hold|{call}|{made}|{prompt}|{output}|{said}|{created}|{expires}|{closed}|{served}")
}

fn usage_line(hold: &Hold, prices: &[Price]) -> String {
    let used = hold.usage.as_ref().expect("it was charged");
    let Used { prompt, cached, output, source, cost, charged, written_off, at, .. } = used;
    let (price, model) = (&prices[used.price].id, &prices[used.named].model);
    let call = call_line(hold, model);
    format!("usage|{call}|{price}|{prompt}|{cached}|{output}|{source}|{cost}|{charged}|{written_off}|{at}")
}
