//! Lists of sessions, and queries on `session_metadata`, the notes that they are found by.

use diesel::prelude::*;
use serde_json::{Map, Value};

use crate::store::schema::{session, session_metadata};
use crate::store::session::SessionRow;

/// Notes as the session keeps them; `None` for none.
pub fn document(pairs: &[(String, String)]) -> Option<String> {
    let fields: Map<String, Value> =
        pairs.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    (!pairs.is_empty()).then(|| Value::Object(fields).to_string())
}

/// The notes in a document.
pub fn pairs(document: Option<&str>) -> Vec<(String, String)> {
    let fields: Map<String, Value> =
        document.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let one = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
    fields.into_iter().filter_map(one).collect()
}

/// Puts a session's notes in the place of those it had.
pub fn replace(
    conn: &mut SqliteConnection,
    owner: &str,
    of_session: i64,
    pairs: &[(String, String)],
) -> QueryResult<()> {
    let own = session_metadata::table.filter(session_metadata::session_id.eq(of_session));
    diesel::delete(own).execute(conn)?;
    for (name, value) in pairs {
        let row = (
            session_metadata::session_id.eq(of_session),
            session_metadata::account_id.eq(owner),
            session_metadata::name.eq(name),
            session_metadata::value.eq(value),
        );
        diesel::insert_into(session_metadata::table).values(row).execute(conn)?;
    }
    Ok(())
}

/// Which sessions a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// With this agent.
    pub agent: Option<String>,
    /// In this state.
    pub status: Option<String>,
    /// With all of these notes.
    pub metadata: Vec<(String, String)>,
    /// Made before the session with this rowid.
    pub before: Option<i64>,
    /// How many.
    pub limit: i64,
    /// How many to pass over.
    pub offset: i64,
}

/// An account's sessions, newest first.
pub fn list(conn: &mut SqliteConnection, owner: &str, filter: &Filter) -> QueryResult<Vec<SessionRow>> {
    let Some(((name, value), others)) = filter.metadata.split_first() else {
        return list_all(conn, owner, filter);
    };
    // The first note leads; it has an index in the order of the list.
    let mut query = session_metadata::table
        .inner_join(session::table.on(session::id.eq(session_metadata::session_id)))
        .filter(session_metadata::account_id.eq(owner))
        .filter(session_metadata::name.eq(name))
        .filter(session_metadata::value.eq(value))
        .order(session_metadata::session_id.desc())
        .select(SessionRow::as_select())
        .limit(filter.limit)
        .offset(filter.offset)
        .into_boxed();
    for (name, value) in others {
        let other = diesel::alias!(session_metadata as other);
        let has = other
            .filter(other.field(session_metadata::session_id).eq(session::id))
            .filter(other.field(session_metadata::name).eq(name))
            .filter(other.field(session_metadata::value).eq(value));
        query = query.filter(diesel::dsl::exists(has));
    }
    if let Some(of_agent) = &filter.agent {
        query = query.filter(session::agent_id.eq(of_agent));
    }
    if let Some(state) = &filter.status {
        query = query.filter(session::status.eq(state));
    }
    if let Some(before) = filter.before {
        query = query.filter(session_metadata::session_id.lt(before));
    }
    query.load(conn)
}

/// The session after the one with that rowid, in the order in which they were made.
pub fn next_after(
    conn: &mut SqliteConnection,
    owner: &str,
    of_agent: Option<&str>,
    after: i64,
) -> QueryResult<Option<SessionRow>> {
    let mut query = session::table
        .filter(session::account_id.eq(owner))
        .filter(session::id.gt(after))
        .select(SessionRow::as_select())
        .order(session::id)
        .limit(1)
        .into_boxed();
    if let Some(of_agent) = of_agent {
        query = query.filter(session::agent_id.eq(of_agent));
    }
    query.get_result(conn).optional()
}

/// A session that may have been idle for long: its number, when it was made and last used, and its messages.
pub type Candidate = (i64, i64, i64, i64);

/// The next sessions of an account after the one with that rowid.
pub fn candidates(
    conn: &mut SqliteConnection,
    owner: &str,
    after: i64,
    limit: i64,
) -> QueryResult<Vec<Candidate>> {
    session::table
        .filter(session::account_id.eq(owner))
        .filter(session::id.gt(after))
        .order(session::id)
        .limit(limit)
        .select((session::id, session::created_at, session::updated_at, session::head))
        .load(conn)
}

fn list_all(conn: &mut SqliteConnection, owner: &str, filter: &Filter) -> QueryResult<Vec<SessionRow>> {
    let mut query = session::table
        .filter(session::account_id.eq(owner))
        .select(SessionRow::as_select())
        .order(session::id.desc())
        .limit(filter.limit)
        .offset(filter.offset)
        .into_boxed();
    if let Some(of_agent) = &filter.agent {
        query = query.filter(session::agent_id.eq(of_agent));
    }
    if let Some(state) = &filter.status {
        query = query.filter(session::status.eq(state));
    }
    if let Some(before) = filter.before {
        query = query.filter(session::id.lt(before));
    }
    query.load(conn)
}
