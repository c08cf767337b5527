//! How the server of a test is started.

use std::fs;
use std::process::Command;

use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use crate::app::{App, MODEL, PROVIDER_KEY};
use crate::upstream::Upstream;

/// How a server is started.
#[derive(Clone, Default)]
pub struct Setup {
    /// Its flags.
    pub(crate) args: Vec<String>,
    limits: bool,
    retries: bool,
    root: String,
    tail: String,
    provider_url: Option<String>,
    in_file: Option<Vec<String>>,
    /// Its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Options of a file system in memory.
    pub(crate) disk: Option<String>,
    /// The certificate that its clients trust.
    pub(crate) trusted: Option<CertificateDer<'static>>,
}

impl Setup {
    /// Adds an argument.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Keeps the server's own default limits.
    pub fn with_default_limits(mut self) -> Self {
        self.limits = true;
        self
    }

    /// Keeps the server's own default of retries; without it a failure is told at once.
    pub fn with_retries(mut self) -> Self {
        self.retries = true;
        self
    }

    /// Adds lines to the configuration file, before the providers of [`Self::in_file`]; perhaps whole providers.
    pub fn in_root(mut self, lines: &str) -> Self {
        self.root.push_str(lines);
        self.root.push('\n');
        self
    }

    /// Adds whole providers to the configuration file, after those of [`Self::in_file`].
    pub fn after(mut self, tables: &str) -> Self {
        self.tail.push_str(tables);
        self
    }

    /// Asks this provider instead of the scripted one.
    pub fn provider_url(mut self, url: &str) -> Self {
        self.provider_url = Some(url.to_owned());
        self
    }

    /// Names the provider in a configuration file instead of flags, with these further lines for it.
    pub fn in_file(mut self, lines: &str) -> Self {
        self.in_file.get_or_insert_default().push(lines.to_owned());
        self
    }

    /// Sets a variable of the server's environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts the data on a file system in memory with these mount options, as where it can be filled.
    pub fn disk(mut self, options: &str) -> Self {
        self.disk = Some(options.to_owned());
        self
    }

    /// Calls the server over TLS, trusting this certificate alone.
    pub fn trusting(mut self, certificate: &CertificateDer<'static>) -> Self {
        self.trusted = Some(certificate.clone());
        self
    }

    /// Starts the server and waits until it is ready.
    pub fn start(self) -> App {
        App::launch(self)
    }
}

/// The binary without anything of the caller's environment that could change what it does.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("OPENAI_") || name.starts_with("SWITCHBOARD_") {
            command.env_remove(name);
        }
    }
    command
}

/// The command that starts it.
pub fn command(setup: &Setup, upstream: &Upstream, dir: &TempDir, bootstrap: &str) -> Command {
    let mut command = binary();
    command.envs(setup.environment.iter().map(|(name, value)| (name, value)));
    let provider_url = setup.provider_url.clone().unwrap_or_else(|| upstream.url());
    command.current_dir(dir.path()).arg("serve").args([
        "--listen",
        "127.0.0.1:0",
        "--data",
        "data",
        "--bootstrap-json",
        bootstrap,
    ]);
    // Tests ask often for a failure in a row; those that are about the breaker set it for their provider.
    let mut text = format!("breaker = {{ min_calls = 1000000 }}\n{}", setup.root);
    if let Some(providers) = &setup.in_file {
        let tables = providers.iter().enumerate().map(|(number, lines)| {
            format!(
                "[[providers]]\nname = \"provider{number}\"\nbase_url = \"{provider_url}\"\n\
                 api_key = \"{PROVIDER_KEY}\"\nmodel = \"{MODEL}\"\n{lines}\n"
            )
        });
        text.extend(tables);
    } else {
        command.args(["--provider-url", &provider_url, "--provider-key", PROVIDER_KEY]);
        command.args(["--provider-model", MODEL]);
    }
    text.push_str(&setup.tail);
    let file = dir.path().join("switchboard.toml");
    fs::write(file, text).expect("the configuration file can be written");
    if !setup.retries {
        command.args(["--provider-retries", "0"]);
    }
    if !setup.limits {
        command.args(["--default-limits", "none"]);
    }
    // How fast this machine is, is not what is tested.
    if !setup.args.iter().any(|arg| arg.starts_with("--max-start-wait")) {
        command.args(["--max-start-wait", "600000"]);
    }
    command.args(&setup.args);
    command
}
