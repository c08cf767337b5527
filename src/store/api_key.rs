//! Queries on `api_key`. A revoked key keeps its row until its agent goes; it is found by nobody.

use diesel::prelude::*;

use crate::store::schema::api_key::dsl::*;
use crate::store::schema::{account, key_budget};

/// Keys that one statement deletes; SQLite takes 32,766 values in one.
const DELETED_AT_ONCE: usize = 1_000;

/// A key, as stored: never its secret.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = crate::store::schema::api_key)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct KeyRow {
    pub key_id: String,
    pub kind: String,
    pub account_id: Option<String>,
    pub agent_id: Option<String>,
    pub name: String,
    pub digest: Vec<u8>,
    pub last_four: String,
    pub scopes: String,
    pub limits: String,
    pub budget: Option<String>,
    pub public: bool,
    pub created_at: i64,
    pub expires_at: Option<i64>,
    pub revoked_at: Option<i64>,
}

/// Status and limits of a key's account; the operator's keys have none.
pub type Owner = Option<(String, String)>;

/// The key of that digest with its account's status and limits, unless it was revoked.
pub fn find(conn: &mut SqliteConnection, sought: &[u8]) -> QueryResult<Option<(KeyRow, Owner)>> {
    let row: Option<KeyRow> = api_key
        .filter(digest.eq(sought))
        .filter(revoked_at.is_null())
        .select(KeyRow::as_select())
        .get_result(conn)
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let owner = match &row.account_id {
        Some(owner) => account::table
            .find(owner)
            .select((account::status, account::limits))
            .get_result(conn)
            .optional()?,
        None => None,
    };
    Ok(Some((row, owner)))
}

/// The key of that id, unless it was revoked.
pub fn by_id(conn: &mut SqliteConnection, id: &str) -> QueryResult<Option<KeyRow>> {
    let own = api_key.find(id).filter(revoked_at.is_null());
    own.select(KeyRow::as_select()).get_result(conn).optional()
}

/// Adds a key.
pub fn insert(conn: &mut SqliteConnection, row: &KeyRow) -> QueryResult<()> {
    diesel::insert_into(api_key).values(row).execute(conn).map(drop)
}

/// The keys of an agent, newest first.
pub fn list_of_agent(conn: &mut SqliteConnection, owner: &str, of_agent: &str) -> QueryResult<Vec<KeyRow>> {
    api_key
        .filter(agent_id.eq(of_agent))
        .filter(account_id.eq(owner))
        .filter(revoked_at.is_null())
        .order((created_at.desc(), key_id))
        .select(KeyRow::as_select())
        .load(conn)
}

/// The account's own keys, newest first.
pub fn list_of_account(conn: &mut SqliteConnection, owner: &str) -> QueryResult<Vec<KeyRow>> {
    api_key
        .filter(account_id.eq(owner))
        .filter(kind.eq("account"))
        .filter(revoked_at.is_null())
        .order((created_at.desc(), key_id))
        .select(KeyRow::as_select())
        .load(conn)
}

/// Writes a key's changeable fields.
pub fn update(conn: &mut SqliteConnection, row: &KeyRow) -> QueryResult<bool> {
    let changed = (
        name.eq(&row.name),
        scopes.eq(&row.scopes),
        limits.eq(&row.limits),
        budget.eq(&row.budget),
        public.eq(row.public),
        expires_at.eq(row.expires_at),
    );
    let own = api_key.find(&row.key_id).filter(revoked_at.is_null());
    Ok(diesel::update(own).set(changed).execute(conn)? == 1)
}

/// Revokes a key; `false` if it is not there.
pub fn revoke(conn: &mut SqliteConnection, id: &str, now: i64) -> QueryResult<bool> {
    let own = api_key.find(id).filter(revoked_at.is_null());
    Ok(diesel::update(own).set(revoked_at.eq(Some(now))).execute(conn)? == 1)
}

/// Revokes every operator token; those that were in force.
pub fn revoke_operators(conn: &mut SqliteConnection, now: i64) -> QueryResult<Vec<KeyRow>> {
    let all = || api_key.filter(kind.eq("operator")).filter(revoked_at.is_null());
    let rows = all().select(KeyRow::as_select()).load(conn)?;
    diesel::update(all()).set(revoked_at.eq(Some(now))).execute(conn)?;
    Ok(rows)
}

/// Deletes the keys of an agent that goes.
pub fn delete_of_agent(conn: &mut SqliteConnection, of_agent: &str) -> QueryResult<()> {
    let own: Vec<String> = api_key.filter(agent_id.eq(of_agent)).select(key_id).load(conn)?;
    delete(conn, &own)
}

/// Deletes all keys of an account that goes.
pub fn delete_of_account(conn: &mut SqliteConnection, owner: &str) -> QueryResult<()> {
    let own: Vec<String> = api_key.filter(account_id.eq(owner)).select(key_id).load(conn)?;
    delete(conn, &own)
}

fn delete(conn: &mut SqliteConnection, gone: &[String]) -> QueryResult<()> {
    for gone in gone.chunks(DELETED_AT_ONCE) {
        // A budget with money still held keeps its row, so that the hold can be closed.
        let idle = key_budget::table.filter(key_budget::key_id.eq_any(gone)).filter(key_budget::held.eq(0));
        diesel::delete(idle).execute(conn)?;
        diesel::delete(api_key.filter(key_id.eq_any(gone))).execute(conn)?;
    }
    Ok(())
}
