//! The configuration: a TOML file, then the environment, then flags. Read and checked once, all faults at once.

mod args;
mod detect;
mod file;
mod intake;
mod providers;
mod terms;

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

pub use args::ServeArgs;
use file::Table;
pub use intake::Intake;
use secrecy::SecretString;

use crate::auth::vault::{MAX_OLD, Vault};
use crate::bookcheck;
use crate::http::peer::{Header, Proxies};
use crate::provider::breaker::Settings;
use crate::provider::retry::MAX_RETRIES;
use crate::provider::{DEFAULT_RETRIES, OWN, Policy, ProviderConfig, ProviderKind, Terms};
use crate::rate_limit::limits::{Limits, ResolvedLimits};
use crate::session::DEFAULT_SESSION_MEMORY;
use crate::session::turns::DEFAULT_REPLAY;
use crate::tls::TlsFiles;
use crate::webhook::Delivery;

/// The file that is read where none is named, if it is there.
pub const DEFAULT_FILE: &str = "switchboard.toml";
/// Turns that run or wait at once.
const DEFAULT_MAX_TURNS: u64 = 10_000;
/// Failed logins of one address in a minute.
const DEFAULT_FAILED_LOGINS: u64 = 60;

/// Everything that a server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The server's own certificate; without one it speaks plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Where the database and the keys of the first start lie.
    pub data: PathBuf,
    /// Who answers; at least one.
    pub providers: Vec<ProviderConfig>,
    /// How calls are spread over them, and where tenants' own ones may lie.
    pub policy: Policy,
    /// What seals tenants' own keys of providers.
    pub vault: Option<Vault>,
    /// How the providers were chosen, for people.
    pub provider_origin: String,
    /// The proxies in front of the server.
    pub proxies: Proxies,
    /// Origins whose pages may call.
    pub cors_origins: Vec<String>,
    /// What of clients is taken, and for how long it is waited for.
    pub intake: Intake,
    /// How long running turns may go on after a signal to stop.
    pub shutdown_timeout: Duration,
    /// How long an idle session stays in memory.
    pub session_idle: Duration,
    /// The most that conversations take up in memory between their turns, all together, in bytes.
    pub session_memory: usize,
    /// The most that streams keep for readers that come back, all together, in bytes.
    pub replay_buffer: usize,
    /// How often the books are checked.
    pub verify_interval: Duration,
    /// How webhooks are delivered.
    pub webhooks: Delivery,
    /// Whether the metrics may be read without the operator's token.
    pub metrics_public: bool,
    /// Limits of accounts without their own.
    pub default_limits: ResolvedLimits,
    /// Turns of all accounts that run or wait at once.
    pub max_turns: u64,
    /// Failed logins of one address in a minute; 0 for any number.
    pub failed_logins: u64,
    /// Whether the operator's token is to be replaced.
    pub new_operator_token: bool,
    /// Where ids and secrets of the first start are written for programs.
    pub bootstrap_json: Option<PathBuf>,
}

/// What is wrong with a configuration, all of it.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} fault(s):{}", .0.len(), list(.0))]
pub struct Faults(pub Vec<String>);

fn list(faults: &[String]) -> String {
    faults.iter().fold(String::new(), |mut text, fault| {
        let _ = write!(text, "\n  - {fault}");
        text
    })
}

impl Config {
    /// Reads file, environment and flags. Looks for a local Ollama if nothing names a provider.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn read(args: &ServeArgs) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut file = file::read(args.config.as_deref(), &mut faults);
        let defaults = ResolvedLimits::DEFAULT;
        let listen = args.listen.clone().or(file.text("listen", &mut faults));
        let listen = listen.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
        let resolved = listen.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        let listen = resolved.unwrap_or_else(|| {
            faults.push(format!("listen: expected an address such as 127.0.0.1:8080, found `{listen}`"));
            SocketAddr::from(([127, 0, 0, 1], 0))
        });
        let tls = tls(args, &mut file, &mut faults);
        let data = args.data.clone().or(file.text("data", &mut faults).map(PathBuf::from));
        let intake = Intake::read(args, &mut file, &mut faults);
        let in_file = file.number("max_turns", &mut faults);
        let max_turns = number(args.max_turns.as_ref(), in_file, "max_turns", &mut faults);
        if max_turns == Some(0) {
            faults.push("max_turns: expected at least 1".to_owned());
        }
        let in_file = file.number("failed_logins_per_minute", &mut faults);
        let failed_logins =
            number(args.failed_logins_per_minute.as_ref(), in_file, "failed_logins_per_minute", &mut faults);
        let in_file = file.number("shutdown_timeout_s", &mut faults);
        let shutdown = number(args.shutdown_timeout.as_ref(), in_file, "shutdown_timeout_s", &mut faults);
        let in_file = file.number("session_idle_s", &mut faults);
        let idle = number(args.session_idle.as_ref(), in_file, "session_idle_s", &mut faults);
        if idle == Some(0) {
            faults.push("session_idle_s: expected at least 1".to_owned());
        }
        let in_file = file.number("session_memory_bytes", &mut faults);
        let memory = number(args.session_memory_bytes.as_ref(), in_file, "session_memory_bytes", &mut faults);
        let in_file = file.number("replay_buffer_bytes", &mut faults);
        let replay = number(args.replay_buffer_bytes.as_ref(), in_file, "replay_buffer_bytes", &mut faults);
        let in_file = file.number("verify_interval_s", &mut faults);
        let verify = number(args.verify_interval.as_ref(), in_file, "verify_interval_s", &mut faults);
        if verify == Some(0) {
            faults.push("verify_interval_s: expected at least 1".to_owned());
        }
        let in_file = file.number("webhook_retry_s", &mut faults);
        let retry = number(args.webhook_retry.as_ref(), in_file, "webhook_retry_s", &mut faults);
        if retry == Some(0) {
            faults.push("webhook_retry_s: expected at least 1".to_owned());
        }
        let allow_private = file.flag("allow_private_webhooks", &mut faults).unwrap_or(false);
        let metrics_public = file.flag("metrics_public", &mut faults).unwrap_or(false);
        let default_limits = match &args.default_limits {
            Some(text) => limits_from_flag(text, &defaults, &mut faults),
            None => file.limits("default_limits", &defaults, &mut faults),
        };
        let listed = file.list("cors_origins", &mut faults);
        let cors_origins = if args.cors_origin.is_empty() { listed } else { args.cors_origin.clone() };
        for origin in cors_origins.iter().filter(|origin| !is_origin(origin)) {
            faults.push(format!(
                "cors_origins: expected an origin such as https://example.com, found `{origin}`"
            ));
        }
        let proxies = proxies(args, &mut file, &mut faults);
        let policy = Policy {
            balance: terms::balance(&mut file, &mut faults),
            allow_private: file.flag("allow_private_providers", &mut faults).unwrap_or(false)
                || args.allow_private_providers,
        };
        let vault = vault(args, &mut file, &mut faults);
        let in_file = file.number("provider_retries", &mut faults);
        let retries = number(args.provider_retries.as_ref(), in_file, "provider_retries", &mut faults);
        if retries.is_some_and(|retries| retries > u64::from(MAX_RETRIES)) {
            faults.push(format!("provider_retries: expected 0 to {MAX_RETRIES}"));
        }
        let retries = retries.and_then(|retries| u32::try_from(retries).ok()).unwrap_or(DEFAULT_RETRIES);
        let breaker = terms::breaker(&mut file, Settings::DEFAULT, &mut faults);
        let default_terms = Terms { retries, breaker, ..Terms::default() };
        let mut providers = providers::from_flags(args, &default_terms, &mut faults);
        let flagged = !providers.is_empty();
        providers.extend(file.tables("providers", &mut faults).into_iter().filter_map(|mut table| {
            let provider = providers::from_file(&mut table, &default_terms, &mut faults);
            faults.extend(table.unknown());
            provider
        }));
        faults.extend(file.unknown());
        for (at, provider) in providers.iter().enumerate() {
            if provider.name.is_empty() || provider.name.contains('/') || provider.name == OWN {
                faults.push(format!(
                    "providers: expected a name without a slash that is not `{OWN}`, found `{}`",
                    provider.name
                ));
            }
            if providers[..at].iter().any(|earlier| earlier.name == provider.name) {
                faults.push(format!("providers: two are called `{}`", provider.name));
            }
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let (providers, provider_origin) = if providers.is_empty() {
            let (provider, origin) = detect::provider(args.provider_model.as_deref(), default_terms);
            if matches!(provider.kind, ProviderKind::Demo) && args.provider_model.is_some() {
                let needs =
                    "--provider-model: needs --provider-url, OPENAI_API_KEY or a running Ollama beside it";
                return Err(Faults(vec![needs.to_owned()]));
            }
            (vec![provider], origin)
        } else {
            (
                providers,
                if flagged { "from the command line" } else { "from the configuration file" }.to_owned(),
            )
        };
        Ok(Self {
            listen,
            tls,
            data: data.unwrap_or_else(|| PathBuf::from("./data")),
            providers,
            policy,
            vault,
            provider_origin,
            proxies,
            cors_origins,
            intake,
            shutdown_timeout: Duration::from_secs(shutdown.unwrap_or(20)),
            session_idle: Duration::from_secs(idle.unwrap_or(300)),
            session_memory: memory
                .map_or(DEFAULT_SESSION_MEMORY, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            replay_buffer: replay
                .map_or(DEFAULT_REPLAY, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            verify_interval: verify.map_or(bookcheck::DEFAULT_INTERVAL, Duration::from_secs),
            webhooks: Delivery {
                allow_private: args.allow_private_webhooks || allow_private,
                first_retry: Duration::from_secs(retry.unwrap_or(5)),
            },
            metrics_public: args.metrics_public || metrics_public,
            default_limits,
            max_turns: max_turns.unwrap_or(DEFAULT_MAX_TURNS),
            failed_logins: failed_logins.unwrap_or(DEFAULT_FAILED_LOGINS),
            new_operator_token: args.new_operator_token,
            bootstrap_json: args.bootstrap_json.clone(),
        })
    }

    /// The configuration as a file would say it, with secrets masked.
    pub fn to_toml(&self) -> String {
        let mut root = toml::Table::new();
        let whole = |number: u64| toml::Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        root.insert("listen".into(), self.listen.to_string().into());
        if let Some(tls) = &self.tls {
            root.insert("tls_cert".into(), tls.cert.display().to_string().into());
            root.insert("tls_key".into(), tls.key.display().to_string().into());
            root.insert("http2".into(), tls.http2.into());
        }
        root.insert("data".into(), self.data.display().to_string().into());
        for (name, number) in self.intake.named() {
            root.insert(name.into(), whole(number));
        }
        root.insert("max_turns".into(), whole(self.max_turns));
        root.insert("failed_logins_per_minute".into(), whole(self.failed_logins));
        root.insert("shutdown_timeout_s".into(), whole(self.shutdown_timeout.as_secs()));
        root.insert("session_idle_s".into(), whole(self.session_idle.as_secs()));
        root.insert("session_memory_bytes".into(), whole(self.session_memory as u64));
        root.insert("replay_buffer_bytes".into(), whole(self.replay_buffer as u64));
        root.insert("verify_interval_s".into(), whole(self.verify_interval.as_secs()));
        root.insert("webhook_retry_s".into(), whole(self.webhooks.first_retry.as_secs()));
        root.insert("allow_private_webhooks".into(), self.webhooks.allow_private.into());
        root.insert("metrics_public".into(), self.metrics_public.into());
        root.insert("balance".into(), self.policy.balance.as_str().into());
        root.insert("allow_private_providers".into(), self.policy.allow_private.into());
        if self.vault.is_some() {
            root.insert("secrets_key".into(), "***".into());
        }
        let trusted: Vec<_> = self.proxies.trusted.iter().map(ToString::to_string).collect();
        root.insert("trusted_proxies".into(), trusted.into());
        root.insert("proxy_header".into(), self.proxies.header.as_str().into());
        root.insert("cors_origins".into(), self.cors_origins.clone().into());
        let limits = &self.default_limits;
        let all = [
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.concurrency,
            limits.management_per_minute,
        ];
        let set = Limits::NAMES.iter().zip(all);
        let set = set.map(|(name, limit)| ((*name).to_owned(), limit.map_or_else(|| "none".into(), whole)));
        root.insert("default_limits".into(), toml::Value::Table(set.collect()));
        let providers = self.providers.iter().map(providers::to_table).collect::<Vec<_>>();
        root.insert("providers".into(), providers.into());
        toml::to_string(&root).unwrap_or_default()
    }
}

/// Who stands in front of the server.
fn proxies(args: &ServeArgs, file: &mut Table, faults: &mut Vec<String>) -> Proxies {
    let listed = file.list("trusted_proxies", faults);
    let listed = if args.trusted_proxy.is_empty() { listed } else { args.trusted_proxy.clone() };
    let mut trusted = Vec::new();
    for net in listed {
        match net.trim().parse() {
            Ok(net) => trusted.push(net),
            Err(()) => {
                let expected = "expected an address or a network such as 10.0.0.0/8";
                faults.push(format!("trusted_proxies: {expected}, found `{net}`"));
            }
        }
    }
    let word = args.proxy_header.clone().or(file.text("proxy_header", faults));
    let header = word.map_or(Some(Header::default()), |word| Header::named(&word));
    if header.is_none() {
        faults.push("proxy_header: expected x-forwarded-for or forwarded".to_owned());
    }
    Proxies { trusted, header: header.unwrap_or_default() }
}

/// The server's certificate. It is read here too, so that a check of the configuration tells what is wrong with it.
fn tls(args: &ServeArgs, file: &mut Table, faults: &mut Vec<String>) -> Option<TlsFiles> {
    let cert = args.tls_cert.clone().or(file.text("tls_cert", faults).map(PathBuf::from));
    let key = args.tls_key.clone().or(file.text("tls_key", faults).map(PathBuf::from));
    let http2 = file.flag("http2", faults).unwrap_or(false) || args.http2;
    let files = match (cert, key) {
        (Some(cert), Some(key)) => TlsFiles { cert, key, http2 },
        (None, None) => {
            if http2 {
                faults.push("http2: needs tls_cert and tls_key beside it".to_owned());
            }
            return None;
        }
        (Some(_), None) => {
            faults.push("tls_cert: needs tls_key beside it".to_owned());
            return None;
        }
        (None, Some(_)) => {
            faults.push("tls_key: needs tls_cert beside it".to_owned());
            return None;
        }
    };
    match files.load() {
        Ok(_) => Some(files),
        Err(fault) => {
            faults.push(fault);
            None
        }
    }
}

/// A number as the command line has it, else as the file has it.
fn number(given: Option<&String>, in_file: Option<u64>, name: &str, faults: &mut Vec<String>) -> Option<u64> {
    let Some(text) = given else { return in_file };
    let number = text.parse().ok();
    if number.is_none() {
        faults.push(format!("{name}: expected a whole number, found `{text}`"));
    }
    number
}

/// What seals tenants' keys: the newest key, then those that sealed before it.
fn vault(args: &ServeArgs, file: &mut Table, faults: &mut Vec<String>) -> Option<Vault> {
    let in_file = file.text("secrets_key", faults);
    let newest = args.secrets_key.clone().or(in_file).filter(|key| !key.is_empty());
    let listed = file.list("secrets_keys_old", faults);
    let old = if args.secrets_key_old.is_empty() { listed } else { args.secrets_key_old.clone() };
    let old: Vec<_> = old.into_iter().filter(|key| !key.is_empty()).collect();
    if old.len() > MAX_OLD {
        faults.push(format!("secrets_keys_old: expected at most {MAX_OLD} keys"));
    }
    let Some(newest) = newest else {
        if !old.is_empty() {
            faults.push("secrets_keys_old: needs secrets_key beside it".to_owned());
        }
        return None;
    };
    let keys: Vec<SecretString> = std::iter::once(newest).chain(old).map(Into::into).collect();
    // The faulty key itself is a secret, perhaps a whole one with a stray letter.
    let fault = |at: usize| match at {
        0 => "secrets_key: expected 32 bytes in base64".to_owned(),
        at => format!("secrets_keys_old[{}]: expected 32 bytes in base64", at - 1),
    };
    Vault::new(&keys).map_err(|at| faults.push(fault(at))).ok()
}

fn is_origin(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    rest.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', ' ']))
}

/// `none`, or `name=number` pairs with commas between them.
fn limits_from_flag(text: &str, defaults: &ResolvedLimits, faults: &mut Vec<String>) -> ResolvedLimits {
    if text == "none" {
        return ResolvedLimits::NONE;
    }
    let mut fields = serde_json::Map::new();
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = match value.trim() {
            "none" => serde_json::Value::Null,
            text => text.parse::<u64>().map_or_else(|_| text.into(), Into::into),
        };
        fields.insert(name.trim().to_owned(), value);
    }
    match Limits::parse(&fields.into(), "default_limits") {
        Ok(limits) => limits.over(defaults),
        Err(invalid) => {
            faults.push(format!("--default-limits: {}", invalid.message));
            *defaults
        }
    }
}
