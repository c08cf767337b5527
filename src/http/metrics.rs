//! `GET /metrics`.

use crate::error::Error;
use crate::http::access::Operator;
use crate::http::error::ApiError;

/// Not built yet.
pub async fn show(_: Operator) -> Result<&'static str, ApiError> {
    Err(Error::NotImplemented("GET /metrics").into())
}
