//! Statements whose text never changes, prepared once on a connection and kept.
//!
//! diesel prepares every UPDATE and every upsert anew, which on SQLite costs more than running it. The statements of
//! a turn are few, so their texts stand here and there in this room, beside the typed queries that are asked less.

use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::sqlite::Sqlite;

/// A value for a `?`.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Int(i64),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    MaybeBlob(Option<&'a [u8]>),
}

/// A statement with a value for each `?` in its text, which holds no other `?`.
#[derive(Clone, Copy, Debug)]
pub struct Fixed<'a, const N: usize> {
    text: &'static str,
    values: [Value<'a>; N],
}

/// Makes a statement.
pub fn fixed<'a, const N: usize>(text: &'static str, values: [Value<'a>; N]) -> Fixed<'a, N> {
    debug_assert_eq!(text.matches('?').count(), N, "a value for each placeholder of {text}");
    Fixed { text, values }
}

impl<const N: usize> QueryFragment<Sqlite> for Fixed<'_, N> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let mut pieces = self.text.split('?');
        out.push_sql(pieces.next().unwrap_or_default());
        for (value, piece) in self.values.iter().zip(pieces) {
            match value {
                Value::Int(number) => out.push_bind_param::<BigInt, _>(number)?,
                Value::Text(text) => out.push_bind_param::<Text, _>(text)?,
                Value::MaybeText(text) => out.push_bind_param::<Nullable<Text>, _>(text)?,
                Value::MaybeBlob(bytes) => out.push_bind_param::<Nullable<Binary>, _>(bytes)?,
            }
            out.push_sql(piece);
        }
        Ok(())
    }
}

impl<const N: usize> QueryId for Fixed<'_, N> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<const N: usize> RunQueryDsl<SqliteConnection> for Fixed<'_, N> {}

/// A statement that answers rows of these types.
#[derive(Clone, Copy, Debug)]
pub struct Returning<'a, ST, const N: usize>(Fixed<'a, N>, std::marker::PhantomData<ST>);

impl<'a, const N: usize> Fixed<'a, N> {
    /// Says of what types the columns are that its text returns.
    pub fn returning<ST>(self) -> Returning<'a, ST, N> {
        Returning(self, std::marker::PhantomData)
    }
}

impl<ST, const N: usize> QueryFragment<Sqlite> for Returning<'_, ST, N> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }
}

impl<ST, const N: usize> QueryId for Returning<'_, ST, N> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<ST, const N: usize> diesel::query_builder::Query for Returning<'_, ST, N> {
    type SqlType = ST;
}

impl<ST, const N: usize> RunQueryDsl<SqliteConnection> for Returning<'_, ST, N> {}
