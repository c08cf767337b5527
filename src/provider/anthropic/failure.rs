//! Anthropic's errors: what they mean for the client.

use serde::Deserialize;

use crate::error::{UpstreamFailure, UpstreamKind};
use crate::provider::refusal::Secrets;

/// An error as Anthropic tells it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ErrorTold {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub message: String,
}

impl ErrorTold {
    /// An error that came without a status of its own: in a stream, or in the place of an answer.
    pub fn failure(&self, secrets: &Secrets, model: &str) -> UpstreamFailure {
        let kind = match &*self.kind {
            "invalid_request_error" | "request_too_large" => {
                UpstreamKind::BadRequest { code: None, param: None }
            }
            "authentication_error" | "permission_error" | "billing_error" => UpstreamKind::Auth,
            "rate_limit_error" | "overloaded_error" => UpstreamKind::Unavailable { retry_after: None },
            "timeout_error" => UpstreamKind::Timeout,
            _ => UpstreamKind::Refused,
        };
        let said = secrets.hidden(&format!("{}: {}", self.kind, self.message), "");
        let mut failure = UpstreamFailure::new(kind, "an error event").saying(said);
        if matches!(failure.kind, UpstreamKind::BadRequest { .. }) && !self.message.is_empty() {
            failure.message = secrets.hidden(&self.message, model);
        }
        of_the_operator(failure)
    }
}

/// Anthropic says with status 400 that the operator's account has no credit left, which no client can mend or should
/// be told.
pub fn of_the_operator(failure: UpstreamFailure) -> UpstreamFailure {
    if failure.message.contains("credit balance is too low") {
        let said = failure.said.map(String::from).unwrap_or_default();
        return UpstreamFailure::new(UpstreamKind::Auth, failure.cause).saying(said);
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: &str, message: &str) -> UpstreamFailure {
        let told = ErrorTold { kind: kind.to_owned(), message: message.to_owned() };
        told.failure(&Secrets::new(Some("key-1".to_owned().into())), "claude-real")
    }

    #[test]
    fn each_type_of_error_means_something_to_the_client() {
        let unavailable = UpstreamKind::Unavailable { retry_after: None };
        for (kind, expected) in [
            ("overloaded_error", unavailable.clone()),
            ("rate_limit_error", unavailable),
            ("api_error", UpstreamKind::Refused),
            ("not_found_error", UpstreamKind::Refused),
            ("", UpstreamKind::Refused),
            ("authentication_error", UpstreamKind::Auth),
            ("billing_error", UpstreamKind::Auth),
            ("timeout_error", UpstreamKind::Timeout),
            ("invalid_request_error", UpstreamKind::BadRequest { code: None, param: None }),
        ] {
            assert_eq!(failure(kind, "m").kind, expected, "{kind}");
        }
    }

    #[test]
    fn only_what_is_about_the_request_is_told_and_without_secrets() {
        let told = failure("invalid_request_error", "claude-real with key-1: too long");
        assert_eq!(told.message, "the model with ***: too long");
        let hidden = failure("api_error", "claude-real with key-1 broke");
        assert!(!hidden.message.contains("claude-real"), "{}", hidden.message);
        assert!(hidden.said.is_some_and(|said| said.contains("***") && !said.contains("key-1")));
        let credit = failure("invalid_request_error", "Your credit balance is too low to access the API.");
        assert_eq!(credit.kind, UpstreamKind::Auth);
        assert!(!credit.message.contains("credit"), "{}", credit.message);
    }
}
