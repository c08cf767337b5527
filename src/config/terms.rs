//! On which terms a provider is called: the part of its table that every kind of provider has.

use std::time::Duration;

use awc::http::header::{HeaderName, HeaderValue};

use crate::billing::money::Nanos;
use crate::config::file::Table;
use crate::provider::breaker::Settings;
use crate::provider::choice::{Balance, MAX_WEIGHT};
use crate::provider::retry::MAX_RETRIES;
use crate::provider::{OnDisconnect, StartingPrice, Terms};

/// Headers that are ours to set.
const RESERVED: [&str; 14] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-request-id",
];
/// The most calls at once that a provider can be given.
const MAX_CONCURRENCY: u64 = 1_000_000;
/// The longest time of a circuit, in seconds.
const MAX_BREAKER_S: u64 = 3_600;

/// Reads the terms of a provider's table; retries and breaker are those of `defaults` where it names none.
pub fn from_file(table: &mut Table, defaults: &Terms, faults: &mut Vec<String>) -> Terms {
    let at = table.at().to_owned();
    let max_concurrency = table.number("max_concurrency", faults);
    let within = |name: &str, number: u64, range: std::ops::RangeInclusive<u64>, faults: &mut Vec<String>| {
        if !range.contains(&number) {
            faults.push(format!(
                "{at}.{name}: expected {} to {}, found {number}",
                range.start(),
                range.end()
            ));
        }
    };
    if let Some(most) = max_concurrency {
        within("max_concurrency", most, 1..=MAX_CONCURRENCY, faults);
    }
    let weight = table.number("weight", faults).unwrap_or(1);
    within("weight", weight, 1..=u64::from(MAX_WEIGHT), faults);
    let retries = table.number("retries", faults).unwrap_or(u64::from(defaults.retries));
    within("retries", retries, 0..=u64::from(MAX_RETRIES), faults);
    let on_disconnect = match table.text("on_disconnect", faults).as_deref() {
        None | Some("cancel") => OnDisconnect::Cancel,
        Some("drain") => OnDisconnect::Drain,
        Some(other) => {
            faults.push(format!("{at}.on_disconnect: expected cancel or drain, found `{other}`"));
            OnDisconnect::Cancel
        }
    };
    Terms {
        models: models(table, faults),
        max_concurrency: max_concurrency.and_then(|most| usize::try_from(most).ok()),
        headers: headers(table, faults),
        prices: prices(table, faults),
        weight: u32::try_from(weight).unwrap_or(1),
        on_disconnect,
        retries: u32::try_from(retries).unwrap_or(0),
        breaker: breaker(table, defaults.breaker, faults),
    }
}

/// Reads how calls are spread.
pub fn balance(file: &mut Table, faults: &mut Vec<String>) -> Balance {
    match file.text("balance", faults).as_deref() {
        None | Some("weighted") => Balance::Weighted,
        Some("least_busy") => Balance::LeastBusy,
        Some(other) => {
            faults.push(format!("balance: expected weighted or least_busy, found `{other}`"));
            Balance::Weighted
        }
    }
}

fn models(table: &mut Table, faults: &mut Vec<String>) -> Vec<String> {
    let models = table.list("models", faults);
    for (at, model) in models.iter().enumerate() {
        if model.is_empty() {
            faults.push(format!("{}.models[{at}]: expected the name of a model", table.at()));
        }
        if models[..at].contains(model) {
            faults.push(format!("{}.models[{at}]: `{model}` is listed twice", table.at()));
        }
    }
    models
}

fn headers(table: &mut Table, faults: &mut Vec<String>) -> Vec<(String, secrecy::SecretString)> {
    let Some(mut given) = table.table("headers", faults) else { return Vec::new() };
    let mut headers = Vec::new();
    for name in given.names() {
        let at = format!("{}.{name}", given.at());
        let Some(value) = given.text(&name, faults) else { continue };
        let known = HeaderName::from_bytes(name.as_bytes());
        if known.as_ref().is_ok_and(|known| RESERVED.contains(&known.as_str())) {
            faults.push(format!("{at}: this header is set by the server"));
        } else if known.is_err() || HeaderValue::from_str(&value).is_err() {
            faults.push(format!("{at}: expected a header's name and its value"));
        } else {
            headers.push((name, value.into()));
        }
    }
    headers
}

fn prices(table: &mut Table, faults: &mut Vec<String>) -> Vec<StartingPrice> {
    let Some(mut given) = table.table("prices", faults) else { return Vec::new() };
    let models = given.names();
    let one = |model: String| {
        let mut price = given.table(&model, faults)?;
        let mut money = |name: &str, faults: &mut Vec<String>| {
            let text = price.text(name, faults)?;
            let amount = Nanos::parse(&text).map_err(|cause| cause.to_string());
            match amount {
                Ok(amount) if amount >= Nanos::ZERO => Some(amount),
                Ok(_) => {
                    faults.push(format!("{}.{name}: expected nothing or more", price.at()));
                    None
                }
                Err(cause) => {
                    faults.push(format!("{}.{name}: {cause}, found `{text}`", price.at()));
                    None
                }
            }
        };
        let before = faults.len();
        let (input, output) = (money("input", faults), money("output", faults));
        let (cached_input, per_request) = (money("cached_input", faults), money("per_request", faults));
        faults.extend(price.unknown());
        if faults.len() == before {
            for (name, amount) in [("input", input), ("output", output)] {
                if amount.is_none() {
                    faults.push(format!("{}.{name}: is required, such as \"0.50\"", price.at()));
                }
            }
        }
        let (input, output) = (input?, output?);
        let cached_input = cached_input.unwrap_or(input);
        Some(StartingPrice {
            model,
            input,
            cached_input,
            output,
            per_request: per_request.unwrap_or_default(),
        })
    };
    models.into_iter().filter_map(one).collect()
}

/// Reads when a provider is left alone; what is not named is as in `defaults`.
pub fn breaker(table: &mut Table, defaults: Settings, faults: &mut Vec<String>) -> Settings {
    let Some(mut given) = table.table("breaker", faults) else { return defaults };
    let mut number = |name: &str, default: u64, most: u64| match given.number(name, faults) {
        Some(number) if (1..=most).contains(&number) => number,
        Some(number) => {
            faults.push(format!("{}.{name}: expected 1 to {most}, found {number}", given.at()));
            default
        }
        None => default,
    };
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let settings = Settings {
        window: Duration::from_secs(number("window_s", defaults.window.as_secs(), MAX_BREAKER_S)),
        min_calls: small(number("min_calls", u64::from(defaults.min_calls), 1_000_000)),
        failure_percent: small(number("failure_percent", u64::from(defaults.failure_percent), 100)),
        open_for: Duration::from_secs(number("open_s", defaults.open_for.as_secs(), MAX_BREAKER_S)),
        probes: small(number("probes", u64::from(defaults.probes), 1_000)),
    };
    faults.extend(given.unknown());
    settings
}

/// The terms as a file would say them, with secrets masked.
pub fn to_table(terms: &Terms, table: &mut toml::Table) {
    let whole = |number: u64| toml::Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    if !terms.models.is_empty() {
        table.insert("models".into(), terms.models.clone().into());
    }
    if let Some(most) = terms.max_concurrency {
        table.insert("max_concurrency".into(), whole(most as u64));
    }
    table.insert("weight".into(), whole(terms.weight.into()));
    table.insert("retries".into(), whole(terms.retries.into()));
    table.insert("on_disconnect".into(), terms.on_disconnect.as_str().into());
    if !terms.headers.is_empty() {
        let masked = terms.headers.iter().map(|(name, _)| (name.clone(), "***".into()));
        table.insert("headers".into(), toml::Value::Table(masked.collect()));
    }
    if !terms.prices.is_empty() {
        let priced = terms.prices.iter().map(|price| {
            let named = [
                ("input", price.input),
                ("cached_input", price.cached_input),
                ("output", price.output),
                ("per_request", price.per_request),
            ];
            let named = named.into_iter().map(|(name, amount)| (name.to_owned(), amount.to_string().into()));
            (price.model.clone(), toml::Value::Table(named.collect()))
        });
        table.insert("prices".into(), toml::Value::Table(priced.collect()));
    }
    let Settings { window, min_calls, failure_percent, open_for, probes } = terms.breaker;
    let breaker = [
        ("window_s", window.as_secs()),
        ("min_calls", min_calls.into()),
        ("failure_percent", failure_percent.into()),
        ("open_s", open_for.as_secs()),
        ("probes", probes.into()),
    ];
    let breaker = breaker.into_iter().map(|(name, number)| (name.to_owned(), whole(number)));
    table.insert("breaker".into(), toml::Value::Table(breaker.collect()));
}
