//! Errors as OpenAI's clients read them. The same body serves every client.

use serde_json::{Value, json};

/// The inner object.
pub fn object(message: &str, kind: &str, param: Option<&str>, code: &str) -> Value {
    json!({"message": message, "type": kind, "param": param, "code": code})
}

/// The whole body: OpenAI's, and beside it what native clients look for.
pub fn body(error: Value, status: u16) -> Value {
    let detail = error["message"].clone();
    json!({"error": error, "detail": detail, "status": status})
}
