//! The numbers that a limit is made of, and how they are inherited.

use serde_json::{Map, Value};

use crate::error::Invalid;

/// The highest number that a limit may have.
pub const MAX_LIMIT: u64 = 1_000_000_000;

/// Limits as somebody set them: each a number, none (`null`), or inherited (absent).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    requests_per_minute: Option<Option<u64>>,
    tokens_per_minute: Option<Option<u64>>,
    concurrency: Option<Option<u64>>,
    management_per_minute: Option<Option<u64>>,
}

/// Limits as they apply; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolvedLimits {
    /// Requests of chat in a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens of chat in a minute.
    pub tokens_per_minute: Option<u64>,
    /// Turns at the same time.
    pub concurrency: Option<u64>,
    /// Requests of everything else in a minute.
    pub management_per_minute: Option<u64>,
}

impl ResolvedLimits {
    /// What holds where nothing was configured: 60 requests a minute on chat, 120 elsewhere.
    pub const DEFAULT: Self = Self {
        requests_per_minute: Some(60),
        tokens_per_minute: None,
        concurrency: None,
        management_per_minute: Some(120),
    };
    /// No limits at all.
    pub const NONE: Self = Self {
        requests_per_minute: None,
        tokens_per_minute: None,
        concurrency: None,
        management_per_minute: None,
    };
}

impl Limits {
    /// The names on the wire and in the database.
    pub const NAMES: [&'static str; 4] =
        ["requests_per_minute", "tokens_per_minute", "concurrency", "management_per_minute"];

    /// Reads an object of limits; `at` is its path in the request.
    ///
    /// # Errors
    /// Names the field that is wrong and what was expected.
    pub fn parse(value: &Value, at: &str) -> Result<Self, Invalid> {
        let fields = match value {
            Value::Null => return Ok(Self::default()),
            Value::Object(fields) => fields,
            _ => return Err(Invalid::value(at, "expected an object of limits")),
        };
        let mut limits = Self::default();
        for (name, value) in fields {
            let path = format!("{at}.{name}");
            let Some(place) = limits.place(name) else {
                let known = Self::NAMES.join(", ");
                return Err(Invalid::value(path, format_args!("expected one of {known}")));
            };
            *place = match value {
                Value::Null => Some(None),
                value => match value.as_u64() {
                    Some(number @ 1..=MAX_LIMIT) => Some(Some(number)),
                    _ => {
                        let expected =
                            format!("expected a whole number from 1 to {MAX_LIMIT}, or null for none");
                        return Err(Invalid::value(path, expected));
                    }
                },
            };
        }
        Ok(limits)
    }

    /// What was stored.
    pub fn stored(text: &str) -> Self {
        let value = serde_json::from_str(text).unwrap_or(Value::Null);
        Self::parse(&value, "limits").unwrap_or_default()
    }

    /// The form on the wire and in the database: only what was set.
    pub fn to_json(self) -> Value {
        let all =
            [self.requests_per_minute, self.tokens_per_minute, self.concurrency, self.management_per_minute];
        let set =
            Self::NAMES.iter().zip(all).filter_map(|(name, limit)| Some(((*name).to_owned(), limit?.into())));
        Value::Object(set.collect::<Map<_, _>>())
    }

    /// These limits, and `base` where they say nothing.
    pub fn over(&self, base: &ResolvedLimits) -> ResolvedLimits {
        ResolvedLimits {
            requests_per_minute: self.requests_per_minute.unwrap_or(base.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.unwrap_or(base.tokens_per_minute),
            concurrency: self.concurrency.unwrap_or(base.concurrency),
            management_per_minute: self.management_per_minute.unwrap_or(base.management_per_minute),
        }
    }

    fn place(&mut self, name: &str) -> Option<&mut Option<Option<u64>>> {
        match name {
            "requests_per_minute" => Some(&mut self.requests_per_minute),
            "tokens_per_minute" => Some(&mut self.tokens_per_minute),
            "concurrency" => Some(&mut self.concurrency),
            "management_per_minute" => Some(&mut self.management_per_minute),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_is_inherited_and_null_is_none() {
        let limits =
            Limits::parse(&json!({"requests_per_minute": null, "concurrency": 3}), "limits").expect("valid");
        let base = ResolvedLimits { tokens_per_minute: Some(9), ..ResolvedLimits::DEFAULT };
        let applied = limits.over(&base);
        assert_eq!(applied.requests_per_minute, None);
        assert_eq!(applied.tokens_per_minute, Some(9));
        assert_eq!(applied.concurrency, Some(3));
        assert_eq!(Limits::stored(&limits.to_json().to_string()), limits);
    }

    #[test]
    fn a_wrong_limit_is_named() {
        for (value, path) in [
            (json!({"concurrency": 0}), "limits.concurrency"),
            (json!({"concurrency": -1}), "limits.concurrency"),
            (json!({"speed": 1}), "limits.speed"),
            (json!(7), "limits"),
        ] {
            let invalid = Limits::parse(&value, "limits").expect_err("refused");
            assert_eq!(invalid.param.as_deref(), Some(path));
        }
    }
}
