//! Queries on `agent`.

use diesel::prelude::*;

use crate::conversation::agent::{Agent, Definition};
use crate::store::schema::agent::dsl::*;
use crate::store::{account, api_key};

type Row = (String, String, String, i64, i64);

fn columns() -> (agent_id, account_id, definition, created_at, updated_at) {
    (agent_id, account_id, definition, created_at, updated_at)
}

fn read((public_id, owner, document, created, updated): Row) -> QueryResult<Agent> {
    let read: Definition = serde_json::from_str(&document)
        .map_err(|cause| diesel::result::Error::DeserializationError(Box::new(cause)))?;
    Ok(Agent {
        id: public_id.into(),
        account: owner.into(),
        definition: read,
        created_at: created,
        updated_at: updated,
    })
}

/// The agent of that id.
pub fn find(conn: &mut SqliteConnection, sought: &str) -> QueryResult<Option<Agent>> {
    let row: Option<Row> = agent.filter(agent_id.eq(sought)).select(columns()).get_result(conn).optional()?;
    row.map(read).transpose()
}

/// An account's agents, newest first.
pub fn list(conn: &mut SqliteConnection, owner: &str, limit: i64, offset: i64) -> QueryResult<Vec<Agent>> {
    let rows: Vec<Row> = agent
        .filter(account_id.eq(owner))
        .order(id.desc())
        .select(columns())
        .limit(limit)
        .offset(offset)
        .load(conn)?;
    rows.into_iter().map(read).collect()
}

/// The agent that was made first.
pub fn first(conn: &mut SqliteConnection) -> QueryResult<Option<Agent>> {
    let row: Option<Row> = agent.order(id).select(columns()).first(conn).optional()?;
    row.map(read).transpose()
}

/// Adds an agent.
pub fn insert(conn: &mut SqliteConnection, new: &Agent) -> QueryResult<()> {
    let row = (
        agent_id.eq(new.id.as_str()),
        account_id.eq(new.account.as_str()),
        definition.eq(document(&new.definition)),
        created_at.eq(new.created_at),
        updated_at.eq(new.updated_at),
    );
    diesel::insert_into(agent).values(row).execute(conn)?;
    account::count(conn, new.account.as_str(), 1, 0)
}

/// Changes an agent; `false` if it is gone.
pub fn update(conn: &mut SqliteConnection, new: &Agent) -> QueryResult<bool> {
    let changed = (definition.eq(document(&new.definition)), updated_at.eq(new.updated_at));
    let own = agent.filter(agent_id.eq(new.id.as_str()));
    Ok(diesel::update(own).set(changed).execute(conn)? == 1)
}

/// Deletes an agent with its keys; its sessions go after it, holds and usage stay. `false` if it is gone.
pub fn delete(conn: &mut SqliteConnection, owner: &str, gone: &str) -> QueryResult<bool> {
    let own = agent.filter(agent_id.eq(gone)).filter(account_id.eq(owner));
    if diesel::delete(own).execute(conn)? == 0 {
        return Ok(false);
    }
    api_key::delete_of_agent(conn, gone)?;
    account::count(conn, owner, -1, 0)?;
    Ok(true)
}

/// Deletes an account's agents, but not their keys; answers which they were.
pub fn delete_of_account(conn: &mut SqliteConnection, owner: &str) -> QueryResult<Vec<String>> {
    let gone: Vec<String> =
        diesel::delete(agent.filter(account_id.eq(owner))).returning(agent_id).get_results(conn)?;
    account::count(conn, owner, -i64::try_from(gone.len()).unwrap_or(i64::MAX), 0)?;
    Ok(gone)
}

fn document(new: &Definition) -> String {
    serde_json::to_string(new).expect("plain data can be written as JSON")
}
