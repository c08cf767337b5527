//! The flags of the server.

use std::path::PathBuf;

/// How the server is started. What is not said here comes from the environment, then from the file.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Configuration file (TOML). Without it, switchboard.toml is read if it is there
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", env = "SWITCHBOARD_LISTEN")]
    pub listen: Option<String>,
    /// The server's certificate with those between it and its root, in PEM; needs --tls-key
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Let clients speak HTTP/2 over TLS; streams that they leave are then noticed late
    #[arg(long, env = "SWITCHBOARD_HTTP2", value_parser = clap::builder::FalseyValueParser::new())]
    pub http2: bool,
    /// Directory of the database and of the first keys [default: ./data]
    #[arg(long, value_name = "DIR", env = "SWITCHBOARD_DATA")]
    pub data: Option<PathBuf>,
    /// Base URL of an OpenAI-compatible provider, such as https://api.openai.com/v1
    #[arg(long, value_name = "URL", env = "SWITCHBOARD_PROVIDER_URL")]
    pub provider_url: Option<String>,
    /// The provider's API key
    #[arg(long, value_name = "KEY", env = "SWITCHBOARD_PROVIDER_KEY", hide_env_values = true)]
    pub provider_key: Option<String>,
    /// The provider's model, which agents use that name none
    #[arg(long, value_name = "MODEL", env = "SWITCHBOARD_PROVIDER_MODEL")]
    pub provider_model: Option<String>,
    /// How often a provider that does not answer is asked once more, 0 to 2 [default: 1]
    #[arg(long, value_name = "N", env = "SWITCHBOARD_PROVIDER_RETRIES")]
    pub provider_retries: Option<String>,
    /// Let tenants' own providers lie at addresses that are not of the public internet
    #[arg(long, env = "SWITCHBOARD_ALLOW_PRIVATE_PROVIDERS", value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_private_providers: bool,
    /// What seals tenants' own keys of providers: 32 bytes in base64, as `openssl rand -base64 32` makes them
    #[arg(long, value_name = "KEY", env = "SWITCHBOARD_SECRETS_KEY", hide_env_values = true)]
    pub secrets_key: Option<String>,
    /// Keys that sealed them before; may be repeated
    #[arg(
        long,
        value_name = "KEY",
        env = "SWITCHBOARD_SECRETS_KEYS_OLD",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub secrets_key_old: Vec<String>,
    /// Address or network (10.0.0.0/8) of a proxy whose word on the client's address counts; may be repeated
    #[arg(long, value_name = "NET", env = "SWITCHBOARD_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxy: Vec<String>,
    /// The header in which it says so: x-forwarded-for or forwarded [default: x-forwarded-for]
    #[arg(long, value_name = "HEADER", env = "SWITCHBOARD_PROXY_HEADER")]
    pub proxy_header: Option<String>,
    /// Origin whose pages may call this server; may be repeated
    #[arg(long, value_name = "ORIGIN", env = "SWITCHBOARD_CORS_ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,
    /// Limits of accounts without their own: none, or pairs such as requests_per_minute=600,concurrency=50
    #[arg(long, value_name = "LIMITS", env = "SWITCHBOARD_DEFAULT_LIMITS")]
    pub default_limits: Option<String>,
    /// Turns of all accounts that run or wait at once [default: 10000]
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MAX_TURNS")]
    pub max_turns: Option<String>,
    /// Failed logins of one address in a minute, 0 for any number [default: 60]
    #[arg(long, value_name = "N", env = "SWITCHBOARD_FAILED_LOGINS_PER_MINUTE")]
    pub failed_logins_per_minute: Option<String>,
    /// Largest body of a chat request, in bytes [default: 20000000]
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_BODY_BYTES")]
    pub max_body_bytes: Option<String>,
    /// What all request bodies in memory may come to, in bytes; beyond it requests are 503 [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_BODY_MEMORY_BYTES")]
    pub body_memory_bytes: Option<String>,
    /// How long a request body may take, in seconds, beside one second for each 16 KiB of it [default: 30]
    #[arg(long, value_name = "SECONDS", env = "SWITCHBOARD_BODY_TIMEOUT")]
    pub body_timeout: Option<String>,
    /// How long the head of a request may take, in seconds [default: 10]
    #[arg(long, value_name = "SECONDS", env = "SWITCHBOARD_HEAD_TIMEOUT")]
    pub head_timeout: Option<String>,
    /// How long a connection may stay without a request, in seconds [default: 75]
    #[arg(long, value_name = "SECONDS", env = "SWITCHBOARD_KEEP_ALIVE")]
    pub keep_alive: Option<String>,
    /// How long a client may take nothing of its answer, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", env = "SWITCHBOARD_STALL_TIMEOUT")]
    pub stall_timeout: Option<String>,
    /// Connections at the same time; one more is answered 503 and closed [default: 10000]
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MAX_CONNECTIONS")]
    pub max_connections: Option<String>,
    /// How long turns may take to begin, in milliseconds, before others are 503 [default: 250]
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_MAX_START_WAIT")]
    pub max_start_wait: Option<String>,
    /// How long running answers may go on after SIGTERM, in seconds [default: 20]
    #[arg(long, value_name = "SECONDS", env = "SWITCHBOARD_SHUTDOWN_TIMEOUT")]
    pub shutdown_timeout: Option<String>,
    /// How long an idle session stays in memory, in seconds [default: 300]
    #[arg(long, value_name = "SECONDS", env = "SWITCHBOARD_SESSION_IDLE")]
    pub session_idle: Option<String>,
    /// Most that conversations take up in memory between their turns, all together, in bytes [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_SESSION_MEMORY_BYTES")]
    pub session_memory_bytes: Option<String>,
    /// Most that streams keep for readers that come back, all together, in bytes [default: 67108864]
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_REPLAY_BUFFER_BYTES")]
    pub replay_buffer_bytes: Option<String>,
    /// How often the books are checked while the server runs, in seconds [default: 3600]
    #[arg(long, value_name = "SECONDS", env = "SWITCHBOARD_VERIFY_INTERVAL")]
    pub verify_interval: Option<String>,
    /// Wait after the first failed try to call a webhook, in seconds [default: 5]
    #[arg(long, value_name = "SECONDS", env = "SWITCHBOARD_WEBHOOK_RETRY")]
    pub webhook_retry: Option<String>,
    /// Let webhooks go to addresses that are not of the public internet
    #[arg(long, env = "SWITCHBOARD_ALLOW_PRIVATE_WEBHOOKS", value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_private_webhooks: bool,
    /// Let /metrics be read without the operator's token
    #[arg(long, env = "SWITCHBOARD_METRICS_PUBLIC", value_parser = clap::builder::FalseyValueParser::new())]
    pub metrics_public: bool,
    /// Write URL, ids and, on the first start, secrets to this file as JSON once the server is ready
    #[arg(long, value_name = "FILE")]
    pub bootstrap_json: Option<PathBuf>,
    /// Make a new operator token, kept in the data directory; the ones before it end at once
    #[arg(long)]
    pub new_operator_token: bool,
    /// What to log: error, warn, info, debug, or a filter such as switchboard=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "SWITCHBOARD_LOG")]
    pub log: Option<String>,
    /// Log what providers say when they fail as they say it, though they may quote conversations
    #[arg(long, env = "SWITCHBOARD_LOG_CONTENT", value_parser = clap::builder::FalseyValueParser::new())]
    pub log_content: bool,
    /// Log lines as JSON
    #[arg(long, env = "SWITCHBOARD_LOG_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    pub log_json: bool,
    /// Only check the configuration; exits 0 if it is sound
    #[arg(long)]
    pub check: bool,
}
