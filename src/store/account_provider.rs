//! Queries on `account_provider`: what tenants brought to call providers with. The keys are sealed.

use diesel::prelude::*;
use serde_json::json;

use crate::error::{Error, Invalid};
use crate::store::audit_log::{Action, Deed};
use crate::store::schema::account_provider::dsl::*;
use crate::store::writer::WriteError;

/// Providers that an account may bring keys for.
pub const MAX_PROVIDERS: i64 = 32;

/// A tenant's access to a provider, as stored.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = crate::store::schema::account_provider, treat_none_as_null = true)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct OwnRow {
    pub account_id: String,
    pub name: String,
    pub base_url: Option<String>,
    pub sealed: Vec<u8>,
    pub last_four: String,
    pub created_at: i64,
}

impl OwnRow {
    /// What is done to it, for the audit log: of its key only that it is set.
    pub fn deed<'a>(&'a self, action: Action, before: Option<&Self>, after: Option<&Self>) -> Deed<'a> {
        let seen = |row: &Self| json!({"name": row.name, "base_url": row.base_url, "api_key": "set"});
        let (before, after) = (before.map(seen), after.map(seen));
        Deed { action, account: Some(&self.account_id), object: &self.name, before, after }
    }
}

/// The one of that name.
pub fn find(conn: &mut SqliteConnection, owner: &str, of_name: &str) -> QueryResult<Option<OwnRow>> {
    account_provider.find((owner, of_name)).select(OwnRow::as_select()).get_result(conn).optional()
}

/// All of an account, by name.
pub fn list(conn: &mut SqliteConnection, owner: &str) -> QueryResult<Vec<OwnRow>> {
    account_provider.filter(account_id.eq(owner)).order(name).select(OwnRow::as_select()).load(conn)
}

/// Whether anybody has one.
pub fn any(conn: &mut SqliteConnection) -> QueryResult<bool> {
    let first: Option<String> = account_provider.select(name).limit(1).get_result(conn).optional()?;
    Ok(first.is_some())
}

/// Everybody's.
pub fn all(conn: &mut SqliteConnection) -> QueryResult<Vec<OwnRow>> {
    account_provider.order((account_id, name)).select(OwnRow::as_select()).load(conn)
}

/// Sets one, in the place of what had its name; `true` if nothing had.
pub fn set(conn: &mut SqliteConnection, row: &OwnRow) -> Result<bool, WriteError> {
    let own = account_provider.find((&row.account_id, &row.name));
    if diesel::update(own).set(row).execute(conn)? == 1 {
        return Ok(false);
    }
    let count: i64 = account_provider.filter(account_id.eq(&row.account_id)).count().get_result(conn)?;
    if count >= MAX_PROVIDERS {
        let message = format!("an account may have keys for at most {MAX_PROVIDERS} providers");
        return Err(Error::from(Invalid { param: None, code: "too_many_providers", message }).into());
    }
    diesel::insert_into(account_provider).values(row).execute(conn)?;
    Ok(true)
}

/// Seals one anew, if it is still what it was.
pub fn reseal(conn: &mut SqliteConnection, row: &OwnRow, anew: &[u8]) -> QueryResult<()> {
    let own = account_provider.find((&row.account_id, &row.name)).filter(sealed.eq(&row.sealed));
    diesel::update(own).set(sealed.eq(anew)).execute(conn).map(drop)
}

/// Takes one away; whether it was there.
pub fn delete(conn: &mut SqliteConnection, owner: &str, of_name: &str) -> QueryResult<bool> {
    Ok(diesel::delete(account_provider.find((owner, of_name))).execute(conn)? == 1)
}

/// Takes all of an account's away.
pub fn delete_of_account(conn: &mut SqliteConnection, owner: &str) -> QueryResult<()> {
    diesel::delete(account_provider.filter(account_id.eq(owner))).execute(conn).map(drop)
}
