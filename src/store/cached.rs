//! Statements that are prepared once on a connection and kept.
//!
//! diesel prepares every UPDATE and every upsert anew, since the text of one may differ from call to call. On
//! SQLite that costs more than running it. What diesel keeps is found by its text, so keeping these too is safe.

use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sqlite::Sqlite;

/// A statement that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Cached<Q>(Q);

/// Any statement can be kept.
pub trait Cache: Sized {
    /// Prepares the statement the first time alone. For those that are run again and again.
    fn cached(self) -> Cached<Self> {
        Cached(self)
    }
}

impl<Q: QueryFragment<Sqlite>> Cache for Q {}

impl<Q: QueryFragment<Sqlite>> QueryFragment<Sqlite> for Cached<Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _: &Sqlite) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<Q> QueryId for Cached<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: Query> Query for Cached<Q> {
    type SqlType = Q::SqlType;
}

impl<Q> RunQueryDsl<SqliteConnection> for Cached<Q> {}
