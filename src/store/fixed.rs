//! Statements whose text never changes, prepared once on a connection and kept.
//!
//! diesel prepares every UPDATE, every upsert and every INSERT that leaves a column out anew, which on SQLite costs more
//! than running it, and builds the text of most others each time to find what it has prepared. The statements of
//! a turn are few, so their texts stand here and there in this room, beside the typed queries that are asked less.

use std::marker::PhantomData;

use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::sqlite::Sqlite;

/// A value for a `?`.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Int(i64),
    MaybeInt(Option<i64>),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    MaybeBlob(Option<&'a [u8]>),
}

/// A statement's text, as a type of its own: what is prepared is found by it.
pub trait Statement: 'static {
    /// Each `?` in it stands for a value.
    const TEXT: &'static str;
}

/// A statement with a value for each `?` in its text.
#[derive(Clone, Copy, Debug)]
pub struct Fixed<'a, S, const N: usize> {
    values: [Value<'a>; N],
    text: PhantomData<S>,
}

/// Makes a statement of a constant text and its values.
macro_rules! fixed {
    ($text:expr, $values:expr) => {{
        struct Own;
        impl $crate::store::fixed::Statement for Own {
            const TEXT: &'static str = $text;
        }
        $crate::store::fixed::Fixed::<Own, _>::new($values)
    }};
}
pub(crate) use fixed;

impl<'a, S: Statement, const N: usize> Fixed<'a, S, N> {
    /// With these values.
    pub fn new(values: [Value<'a>; N]) -> Self {
        debug_assert_eq!(S::TEXT.matches('?').count(), N, "a value for each placeholder of {}", S::TEXT);
        Self { values, text: PhantomData }
    }

    /// Says of what types the columns are that its text returns.
    pub fn returning<ST>(self) -> Returning<'a, S, ST, N> {
        Returning(self, PhantomData)
    }
}

impl<S: Statement, const N: usize> QueryFragment<Sqlite> for Fixed<'_, S, N> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let mut pieces = S::TEXT.split('?');
        out.push_sql(pieces.next().unwrap_or_default());
        for (value, piece) in self.values.iter().zip(pieces) {
            match value {
                Value::Int(number) => out.push_bind_param::<BigInt, _>(number)?,
                Value::MaybeInt(number) => out.push_bind_param::<Nullable<BigInt>, _>(number)?,
                Value::Text(text) => out.push_bind_param::<Text, _>(text)?,
                Value::MaybeText(text) => out.push_bind_param::<Nullable<Text>, _>(text)?,
                Value::MaybeBlob(bytes) => out.push_bind_param::<Nullable<Binary>, _>(bytes)?,
            }
            out.push_sql(piece);
        }
        Ok(())
    }
}

impl<S: Statement, const N: usize> QueryId for Fixed<'_, S, N> {
    type QueryId = S;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<S: Statement, const N: usize> RunQueryDsl<SqliteConnection> for Fixed<'_, S, N> {}

/// A statement that answers rows of these types.
#[derive(Clone, Copy, Debug)]
pub struct Returning<'a, S, ST, const N: usize>(Fixed<'a, S, N>, PhantomData<ST>);

impl<S: Statement, ST, const N: usize> QueryFragment<Sqlite> for Returning<'_, S, ST, N> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }
}

impl<S: Statement, ST, const N: usize> QueryId for Returning<'_, S, ST, N> {
    type QueryId = S;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<S: Statement, ST, const N: usize> Query for Returning<'_, S, ST, N> {
    type SqlType = ST;
}

impl<S: Statement, ST, const N: usize> RunQueryDsl<SqliteConnection> for Returning<'_, S, ST, N> {}
