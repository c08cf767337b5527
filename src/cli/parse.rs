//! Command-line values: what they look like, and what they become in a request.

use anyhow::Context;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Most decimal places that money has (nano-dollars).
const PLACES: usize = 9;

/// A JSON object in the making: what was not given is left out.
#[derive(Default)]
pub(super) struct Body(Map<String, Value>);

impl Body {
    pub fn set(mut self, field: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.0.insert(field.to_owned(), value.into());
        }
        self
    }

    /// Sets a list or an object, unless it is empty.
    pub fn set_all(self, field: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let empty = match &value {
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        self.set(field, (!empty).then_some(value))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Body> for Value {
    fn from(body: Body) -> Self {
        Self::Object(body.0)
    }
}

/// A value that `none` takes away again (JSON's null).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settable<T>(pub Option<T>);

impl<T: Into<Value>> From<Settable<T>> for Value {
    fn from(value: Settable<T>) -> Self {
        value.0.map_or(Self::Null, Into::into)
    }
}

fn settable<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Settable<T>, String> {
    if text == "none" { Ok(Settable(None)) } else { parse(text).map(|value| Settable(Some(value))) }
}

/// An identifier that becomes a part of a path, where an empty one would name something else.
pub(super) fn id(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("an id cannot be empty".into()),
        id => Ok(id.to_owned()),
    }
}

/// Money, as the decimal string that the API takes; a sign is allowed for corrections only.
pub(super) fn signed_amount(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !numeric(whole) || !numeric(fraction) || fraction.len() > PLACES {
        return Err(format!("expected USD like 5.00, with at most {PLACES} decimal places"));
    }
    Ok(text.to_owned())
}

/// Money that is not negative.
pub(super) fn amount(text: &str) -> Result<String, String> {
    match signed_amount(text)? {
        negative if negative.starts_with('-') => Err("expected an amount that is not negative".into()),
        amount => Ok(amount),
    }
}

/// `10.00/month`: the amount a key may spend, and the period after which it starts anew.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Budget {
    amount: String,
    period: String,
}

impl From<Budget> for Value {
    fn from(budget: Budget) -> Self {
        json!({ "amount": budget.amount, "period": budget.period })
    }
}

pub(super) fn budget(text: &str) -> Result<Settable<Budget>, String> {
    settable(text, |text| {
        let (spend, period) = text
            .split_once('/')
            .ok_or("expected AMOUNT/day, AMOUNT/month or AMOUNT/total, like 10.00/month")?;
        if !["day", "month", "total"].contains(&period) {
            return Err(format!("the period is day, month or total, not {period:?}"));
        }
        Ok(Budget { amount: amount(spend)?, period: period.to_owned() })
    })
}

/// A point in time; a bare date is its midnight in UTC.
pub(super) fn moment(text: &str) -> Result<String, String> {
    let text = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    OffsetDateTime::parse(&text, &Rfc3339)
        .map_err(|_| "expected a time like 2026-12-31T23:59:59Z, or a date like 2026-12-31")?;
    Ok(text)
}

pub(super) fn settable_moment(text: &str) -> Result<Settable<String>, String> {
    settable(text, moment)
}

pub(super) fn count(text: &str) -> Result<Settable<u64>, String> {
    settable(text, |text| text.parse().map_err(|_| "expected a whole number, or none".into()))
}

/// `name=value` where the value is JSON, or else a plain word.
pub(super) fn json_pair(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text_pair(text)?;
    match serde_json::from_str(&value) {
        Ok(json) => Ok((name, json)),
        Err(fault) if value.starts_with(['{', '[', '"']) => Err(format!("{name} is not valid JSON: {fault}")),
        Err(_) => Ok((name, Value::String(value))),
    }
}

/// `name=value`, both as they stand.
pub(super) fn text_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

/// Text given as such, or as `@FILE` (`@-`: standard input).
pub(super) fn text_or_file(given: &str) -> anyhow::Result<String> {
    match given.strip_prefix('@') {
        None => Ok(given.to_owned()),
        Some("-") => std::io::read_to_string(std::io::stdin()).context("cannot read standard input"),
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {path}")),
    }
}

/// How much an account or a key may do; what is not given is inherited.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Limits {
    /// Requests per minute, or none
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Limits")]
    limit_requests: Option<Settable<u64>>,
    /// Tokens per minute, or none
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Limits")]
    limit_tokens: Option<Settable<u64>>,
    /// Requests at once, or none
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Limits")]
    limit_concurrency: Option<Settable<u64>>,
    /// Management calls per minute, or none
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Limits")]
    limit_management: Option<Settable<u64>>,
}

impl Limits {
    pub fn body(self) -> Body {
        Body::default()
            .set("requests_per_minute", self.limit_requests)
            .set("tokens_per_minute", self.limit_tokens)
            .set("concurrency", self.limit_concurrency)
            .set("management_per_minute", self.limit_management)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_an_amount_and_a_period() {
        let month = budget("10.00/month").map(Value::from);
        assert_eq!(month, Ok(json!({ "amount": "10.00", "period": "month" })));
        assert_eq!(budget("none").map(Value::from), Ok(Value::Null));
        for wrong in ["10.00", "10.00/week", "-1/day", "/day", "1e3/day", "1.0000000001/day", "10/month/day"]
        {
            assert!(budget(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_correction_may_be_negative() {
        assert_eq!(signed_amount("-1.00").as_deref(), Ok("-1.00"));
        assert!(amount("-1.00").is_err());
        assert!(amount("5").is_ok() && amount("0.000000001").is_ok());
        for wrong in ["", ".", "5.", ".5", "+5", "--5", "5,00", "0.0000000001", "5 "] {
            assert!(signed_amount(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_date_is_its_midnight() {
        assert_eq!(moment("2026-01-31").as_deref(), Ok("2026-01-31T00:00:00Z"));
        assert!(moment("2026-01-31T10:00:00+02:00").is_ok());
        assert!(moment("2026-02-30").is_err() && moment("tomorrow").is_err());
        assert_eq!(settable_moment("none"), Ok(Settable(None)));
    }

    #[test]
    fn a_parameter_is_json_or_a_plain_word() {
        let value = |text: &str| json_pair(text).map(|(_, value)| value);
        assert_eq!(value("seed=7"), Ok(json!(7)));
        assert_eq!(value("stop=[\"a\"]"), Ok(json!(["a"])));
        assert_eq!(value("reasoning_effort=low"), Ok(json!("low")));
        assert!(value("stop=[a").is_err() && value("=1").is_err() && value("seed").is_err());
    }

    #[test]
    fn what_was_not_given_is_left_out() {
        let body = Body::default().set("a", Some(1)).set("b", None::<u64>).set_all("c", Vec::<String>::new());
        assert_eq!(Value::from(body), json!({ "a": 1 }));
        let cleared = Body::default().set("expires_at", settable_moment("none").ok());
        assert_eq!(Value::from(cleared), json!({ "expires_at": null }));
    }
}
