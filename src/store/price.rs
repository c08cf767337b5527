//! Queries on `price`. Rows are added and never changed.

use diesel::prelude::*;
use serde_json::json;

use crate::billing::money::Nanos;
use crate::billing::price::Price;
use crate::clock;
use crate::store::audit_log::{Action, Deed};
use crate::store::schema::price::dsl::*;

type Row = (String, String, i64, i64, i64, i64, i64);

fn read((row_id, of_model, from, input_, cached, output_, fee): Row) -> Price {
    Price {
        id: row_id.into(),
        model: of_model,
        effective_from: from,
        input: Nanos(input_),
        cached_input: Nanos(cached),
        output: Nanos(output_),
        per_request: Nanos(fee),
    }
}

/// Every row.
pub fn all(conn: &mut SqliteConnection) -> QueryResult<Vec<Price>> {
    Ok(price.load::<Row>(conn)?.into_iter().map(read).collect())
}

/// The row of that id.
pub fn find(conn: &mut SqliteConnection, row_id: &str) -> QueryResult<Price> {
    price.find(row_id).get_result::<Row>(conn).map(read)
}

impl Price {
    /// That it was added, for the audit log.
    pub fn deed(&self) -> Deed<'_> {
        let after = json!({
            "id": self.id.as_str(),
            "model": self.model,
            "input": self.input.to_string(),
            "cached_input": self.cached_input.to_string(),
            "output": self.output.to_string(),
            "per_request": self.per_request.to_string(),
            "effective_from": clock::rfc3339(self.effective_from),
        });
        let (action, object) = (Action::PriceCreate, self.id.as_str());
        Deed { action, account: None, object, before: None, after: Some(after) }
    }
}

/// Adds a row; `false` if the model has one from that moment on.
pub fn insert(conn: &mut SqliteConnection, new: &Price) -> QueryResult<bool> {
    let row = (
        id.eq(new.id.as_str()),
        model.eq(&new.model),
        effective_from.eq(new.effective_from),
        input.eq(new.input.0),
        cached_input.eq(new.cached_input.0),
        output.eq(new.output.0),
        per_request.eq(new.per_request.0),
    );
    let added = diesel::insert_into(price).values(row).on_conflict_do_nothing().execute(conn)?;
    Ok(added == 1)
}
