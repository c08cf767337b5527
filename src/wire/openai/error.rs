//! Errors as OpenAI's clients read them. The same body serves every client.

use schemars::JsonSchema;
use serde::Serialize;

use crate::wire::native::values::Usd;

/// The inner object.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// OpenAI's word for the kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// The path of the field that is wrong.
    pub param: Option<String>,
    /// A stable word for programs.
    pub code: String,
    /// What the worst case costs; beside `insufficient_balance`, for keys that see money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed: Option<Usd>,
    /// What may be spent; beside `needed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<Usd>,
}

/// The whole body: OpenAI's, and beside it what native clients look for.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorBody {
    error: ErrorObject,
    /// The message again.
    detail: String,
    /// The status again.
    status: u16,
}

impl ErrorBody {
    /// The body of `error`.
    pub fn new(error: ErrorObject, status: u16) -> Self {
        Self { detail: error.message.clone(), error, status }
    }
}
