//! The operator's providers, from flags or from the file.

use std::time::Duration;

use crate::config::file::Table;
use crate::config::{ServeArgs, terms};
use crate::provider::{OutputField, ProviderConfig, ProviderKind, Terms, Timeouts, anthropic};

/// As the file would say it, with its secrets masked.
pub fn to_table(provider: &ProviderConfig) -> toml::Table {
    let mut table = toml::Table::new();
    table.insert("name".into(), provider.name.clone().into());
    match &provider.kind {
        ProviderKind::Demo => {
            table.insert("kind".into(), "demo".into());
        }
        ProviderKind::OpenAi { base_url, api_key, output_field } => {
            table.insert("kind".into(), "openai".into());
            table.insert("base_url".into(), base_url.clone().into());
            if api_key.is_some() {
                table.insert("api_key".into(), "***".into());
            }
            table.insert("output_field".into(), output_field.as_str().into());
        }
        ProviderKind::Anthropic { base_url, api_key } => {
            table.insert("kind".into(), "anthropic".into());
            table.insert("base_url".into(), base_url.clone().into());
            if api_key.is_some() {
                table.insert("api_key".into(), "***".into());
            }
        }
    }
    table.insert("model".into(), provider.model.clone().into());
    let timeouts = provider.timeouts;
    for (name, time) in [
        ("connect_timeout_s", timeouts.connect),
        ("first_byte_timeout_s", timeouts.first_byte),
        ("chunk_timeout_s", timeouts.between),
        ("total_timeout_s", timeouts.total),
    ] {
        table.insert(name.into(), i64::try_from(time.as_secs()).unwrap_or(i64::MAX).into());
    }
    terms::to_table(&provider.terms, &mut table);
    table
}

/// The one that flags name.
pub fn from_flags(args: &ServeArgs, terms: &Terms, faults: &mut Vec<String>) -> Vec<ProviderConfig> {
    let Some(url) = &args.provider_url else {
        if args.provider_key.is_some() {
            faults.push("--provider-key: needs --provider-url beside it".to_owned());
        }
        return Vec::new();
    };
    check_url("--provider-url", url, faults);
    if args.provider_model.is_none() {
        faults.push("--provider-url: needs --provider-model beside it".to_owned());
    }
    vec![ProviderConfig {
        name: "provider".to_owned(),
        kind: openai_kind(url, args.provider_key.as_deref(), None),
        model: args.provider_model.clone().unwrap_or_default(),
        timeouts: Timeouts::DEFAULT,
        terms: terms.clone(),
    }]
}

/// One that the file names.
pub fn from_file(table: &mut Table, usual: &Terms, faults: &mut Vec<String>) -> Option<ProviderConfig> {
    let name = table.text("name", faults);
    let model = table.text("model", faults);
    let seconds = |table: &mut Table, key: &str, default: Duration, faults: &mut Vec<String>| match table
        .number(key, faults)
    {
        Some(0) => {
            faults.push(format!("{}.{key}: expected at least 1", table.at()));
            default
        }
        number => number.map_or(default, Duration::from_secs),
    };
    let defaults = Timeouts::DEFAULT;
    let timeouts = Timeouts {
        connect: seconds(table, "connect_timeout_s", defaults.connect, faults),
        first_byte: seconds(table, "first_byte_timeout_s", defaults.first_byte, faults),
        between: seconds(table, "chunk_timeout_s", defaults.between, faults),
        total: seconds(table, "total_timeout_s", defaults.total, faults),
    };
    let terms = terms::from_file(table, usual, faults);
    let at = table.at().to_owned();
    let kind = table.text("kind", faults);
    let kind = match kind.as_deref() {
        Some("demo") => ProviderKind::Demo,
        None | Some("openai") => {
            let url = base_url(table, None, faults);
            let key = api_key(table, faults);
            let field = match table.text("output_field", faults).as_deref() {
                None => None,
                Some("max_tokens") => Some(OutputField::MaxTokens),
                Some("max_completion_tokens") => Some(OutputField::MaxCompletionTokens),
                Some(other) => {
                    let expected = "expected max_tokens or max_completion_tokens";
                    faults.push(format!("{at}.output_field: {expected}, found `{other}`"));
                    None
                }
            };
            openai_kind(&url, key.as_deref(), field)
        }
        Some("anthropic") => {
            let base_url =
                base_url(table, Some(anthropic::BASE_URL), faults).trim_end_matches('/').to_owned();
            let api_key = api_key(table, faults).filter(|key| !key.is_empty()).map(Into::into);
            ProviderKind::Anthropic { base_url, api_key }
        }
        Some(other) => {
            faults.push(format!("{at}.kind: expected openai, anthropic or demo, found `{other}`"));
            return None;
        }
    };
    if name.is_none() {
        faults.push(format!("{at}.name: is required"));
    }
    let model = model.or_else(|| matches!(kind, ProviderKind::Demo).then(|| "demo".to_owned()));
    let model = model.or_else(|| terms.models.first().cloned());
    if model.is_none() {
        faults.push(format!("{at}.model: is required (the model of agents that name none)"));
    }
    Some(ProviderConfig { name: name?, kind, model: model?, timeouts, terms })
}

/// Where a provider is; the `usual` place where the file does not say.
fn base_url(table: &mut Table, usual: Option<&str>, faults: &mut Vec<String>) -> String {
    let at = format!("{}.base_url", table.at());
    let Some(url) = table.text("base_url", faults) else {
        if usual.is_none() {
            faults.push(format!("{at}: is required"));
        }
        return usual.unwrap_or_default().to_owned();
    };
    check_url(&at, &url, faults);
    url
}

/// A provider's key, from the file itself or from a variable that it names.
fn api_key(table: &mut Table, faults: &mut Vec<String>) -> Option<String> {
    if let Some(key) = table.text("api_key", faults) {
        return Some(key);
    }
    let variable = table.text("api_key_env", faults)?;
    std::env::var(&variable).ok().filter(|key| !key.is_empty()).or_else(|| {
        faults.push(format!("{}.api_key_env: the environment has no `{variable}`", table.at()));
        None
    })
}

/// A provider that speaks OpenAI's protocol.
pub fn openai_kind(url: &str, key: Option<&str>, field: Option<OutputField>) -> ProviderKind {
    ProviderKind::OpenAi {
        base_url: url.trim_end_matches('/').to_owned(),
        api_key: key.filter(|key| !key.is_empty()).map(|key| key.to_owned().into()),
        output_field: field.unwrap_or_else(|| OutputField::fitting(url)),
    }
}

fn check_url(name: &str, url: &str, faults: &mut Vec<String>) {
    let parsed: Option<awc::http::Uri> = url.parse().ok();
    let http =
        |uri: &awc::http::Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if !parsed.as_ref().is_some_and(http) {
        faults.push(format!("{name}: expected a URL such as https://api.openai.com/v1, found `{url}`"));
    } else if url.contains('@') || url.contains('?') {
        faults.push(format!("{name}: credentials and queries have no place in the URL"));
    }
}
