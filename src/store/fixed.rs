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
    /// What stands before, between and after its values. Cut when the program is built: diesel walks through it
    /// several times for each call.
    const PIECES: &'static [&'static str];
}

/// How many pieces a text has whose values stand at each `?`.
pub const fn pieces_of(text: &str) -> usize {
    let (mut count, mut rest) = (1, text.as_bytes());
    while let [first, others @ ..] = rest {
        if *first == b'?' {
            count += 1;
        }
        rest = others;
    }
    count
}

/// Those pieces.
pub const fn cut<const N: usize>(text: &'static str) -> [&'static str; N] {
    let mut pieces = [""; N];
    let (mut at, mut from, mut to) = (0, 0, 0);
    while to < text.len() {
        if text.as_bytes()[to] == b'?' {
            pieces[at] = between(text, from, to);
            (at, from) = (at + 1, to + 1);
        }
        to += 1;
    }
    pieces[at] = between(text, from, to);
    pieces
}

const fn between(text: &'static str, from: usize, to: usize) -> &'static str {
    text.split_at(to).0.split_at(from).1
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
            const PIECES: &'static [&'static str] =
                &$crate::store::fixed::cut::<{ $crate::store::fixed::pieces_of($text) }>($text);
        }
        $crate::store::fixed::Fixed::<Own, _>::new($values)
    }};
}
pub(crate) use fixed;

impl<'a, S: Statement, const N: usize> Fixed<'a, S, N> {
    /// With these values.
    pub fn new(values: [Value<'a>; N]) -> Self {
        const { assert!(S::PIECES.len() == N + 1, "a value for each placeholder") };
        Self { values, text: PhantomData }
    }

    /// Says of what types the columns are that its text returns.
    pub fn returning<ST>(self) -> Returning<'a, S, ST, N> {
        Returning(self, PhantomData)
    }
}

impl<S: Statement, const N: usize> QueryFragment<Sqlite> for Fixed<'_, S, N> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let Some((first, others)) = S::PIECES.split_first() else { return Ok(()) };
        out.push_sql(first);
        for (value, piece) in self.values.iter().zip(others) {
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

/// The number of the row that was inserted last.
pub fn last_rowid(conn: &mut SqliteConnection) -> QueryResult<i64> {
    fixed!("SELECT last_insert_rowid()", []).returning::<BigInt>().get_result(conn)
}

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
