//! Query strings of lists.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::future::{Ready, ready};
use serde_json::json;

use crate::clock::{self, EpochMs};
use crate::error::Invalid;
use crate::http::endpoint::{Parameter, query as parameter};
use crate::http::error::ApiError;

/// How many items a page has.
pub const LIMIT: RangeInclusive<i64> = 1..=100;
/// How many items may be passed over.
pub const OFFSET: RangeInclusive<i64> = 0..=10_000;
const DEFAULT_LIMIT: i64 = 50;

/// What `/openapi.json` tells of [`Query::limit`].
pub fn limit() -> Parameter {
    let (least, most) = LIMIT.into_inner();
    let schema = json!({"type": "integer", "minimum": least, "maximum": most, "default": DEFAULT_LIMIT});
    parameter("limit", "How many.", schema)
}

/// What `/openapi.json` tells of [`Query::offset`].
pub fn offset() -> Parameter {
    let (least, most) = OFFSET.into_inner();
    let schema = json!({"type": "integer", "minimum": least, "maximum": most, "default": 0});
    parameter("offset", "How many to pass over.", schema)
}

/// The parameters of a list.
pub struct Query(HashMap<String, String>);

impl FromRequest for Query {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let read = web::Query::<HashMap<String, String>>::from_query(request.query_string());
        let malformed =
            || Invalid { param: None, code: "invalid_value", message: "the query cannot be read".into() };
        ready(read.map(|query| Self(query.into_inner())).map_err(|_| malformed().into()))
    }
}

impl Query {
    /// A parameter's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// The parameters of the form `name[key]=value`, in the order of their keys.
    pub fn pairs(&self, name: &str) -> Vec<(String, String)> {
        let key =
            |full: &str| Some(full.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?.to_owned());
        let mut pairs: Vec<_> =
            self.0.iter().filter_map(|(full, value)| Some((key(full)?, value.clone()))).collect();
        pairs.sort();
        pairs
    }

    /// A whole number within `range`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Invalid> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let expected = format!("expected a whole number from {} to {}", range.start(), range.end());
                Err(Invalid::value(name, expected))
            }
        }
    }

    /// How many items.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn limit(&self) -> Result<i64, Invalid> {
        Ok(self.number("limit", LIMIT)?.unwrap_or(DEFAULT_LIMIT))
    }

    /// How many to pass over.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn offset(&self) -> Result<i64, Invalid> {
        Ok(self.number("offset", OFFSET)?.unwrap_or(0))
    }

    /// A moment: RFC 3339, or a day.
    ///
    /// # Errors
    /// When it is neither.
    pub fn time(&self, name: &str) -> Result<Option<EpochMs>, Invalid> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let read = clock::parse_rfc3339(text).or_else(|| clock::parse_rfc3339(&format!("{text}T00:00:00Z")));
        let expected = "expected a time such as 2030-01-31T12:00:00Z, or a day such as 2030-01-31";
        read.map(Some).ok_or_else(|| Invalid::value(name, expected))
    }
}
