//! Where the server is, and which secret it takes: the flags that every command has.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use awc::http::Uri;

/// Where a server keeps its data when it is not told otherwise.
const DATA: &str = "./data";

/// How to reach the server; each command takes these.
#[derive(clap::Args)]
#[command(next_help_heading = "Server")]
pub struct Server {
    /// Where the server listens
    #[arg(
        long, global = true, env = "SWITCHBOARD_URL", value_name = "URL",
        default_value = "http://127.0.0.1:8080", value_parser = base_url
    )]
    url: String,
    /// Operator token (op_…) or account key (sk_…), as the command needs
    ///
    /// Other users of the machine can see a command line, so prefer the environment variable. Without
    /// either, the file operator.token or account.key of the data directory is read.
    #[arg(long, global = true, env = "SWITCHBOARD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Data directory of a local server, where its tokens lie [default: ./data]
    ///
    /// The tokens in ./data are only ever sent to this machine; to send those of a data directory to
    /// another one, name the directory.
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// What the certificate of an https server is checked against, in PEM [default: the public roots]
    #[arg(long, global = true, env = "SWITCHBOARD_CA_CERT", value_name = "FILE")]
    pub(super) ca_cert: Option<PathBuf>,
    /// Print the server's JSON as it came
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// Whose secret a route takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Who {
    Operator,
    Account,
}

impl Who {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Operator => "op_",
            Self::Account => "sk_",
        }
    }

    pub const fn secret(self) -> &'static str {
        match self {
            Self::Operator => "operator token (op_…)",
            Self::Account => "account key (sk_…)",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Operator => "operator.token",
            Self::Account => "account.key",
        }
    }
}

/// A secret, and where it was found.
pub(super) struct Token {
    pub secret: String,
    pub origin: String,
}

impl Server {
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The data directory on this machine.
    pub(super) fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| DATA.into())
    }

    /// The secret for this kind of route: as given, else from the data directory.
    pub(super) fn token(&self, who: Who) -> anyhow::Result<Token> {
        let given = self.token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        let token = match given {
            Some(token) => {
                Token { secret: token.to_owned(), origin: "--token or SWITCHBOARD_TOKEN".to_owned() }
            }
            None => self.token_file(who)?,
        };
        let other = ["op_", "sk_", "ak_"].iter().find(|prefix| token.secret.starts_with(**prefix));
        if let Some(other) = other.filter(|prefix| **prefix != who.prefix()) {
            let (origin, secret) = (token.origin, who.secret());
            bail!("this command needs an {secret}, but {origin} holds one that starts with {other}");
        }
        if token.secret.is_empty() || !token.secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            bail!("{} holds no {}", token.origin, who.secret());
        }
        Ok(token)
    }

    fn token_file(&self, who: Who) -> anyhow::Result<Token> {
        let secret = who.secret();
        if self.data.is_none() && !is_local(&self.url) {
            bail!(
                "this command needs an {secret}: give it with --token or SWITCHBOARD_TOKEN\n{} is another machine, so \
                 the tokens in {DATA} stay here unless --data names them",
                self.url
            );
        }
        let path = self.data().join(who.file());
        let found = std::fs::read_to_string(&path).map_err(|fault| {
            anyhow!(
                "this command needs an {secret}: give it with --token or SWITCHBOARD_TOKEN, or name a local server's \
                 data directory with --data\n{}: {fault}",
                path.display()
            )
        })?;
        Ok(Token { secret: found.trim().to_owned(), origin: path.display().to_string() })
    }
}

/// Checks and trims a server's URL.
fn base_url(text: &str) -> Result<String, String> {
    let trimmed = text.trim().trim_end_matches('/');
    let uri: Uri = trimmed.parse().unwrap_or_default();
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) if uri.query().is_none() => Ok(trimmed.to_owned()),
        _ => Err("expected a URL like http://127.0.0.1:8080".to_owned()),
    }
}

/// Whether a URL leads to this very machine.
fn is_local(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, token: Option<&str>, data: Option<PathBuf>) -> Server {
        Server { url: url.to_owned(), token: token.map(str::to_owned), data, ca_cert: None, json: false }
    }

    fn fault(server: &Server, who: Who) -> String {
        server.token(who).err().map(|fault| fault.to_string()).unwrap_or_default()
    }

    #[test]
    fn each_kind_of_route_reads_its_own_token_file() {
        let data = tempfile::tempdir().expect("a directory");
        std::fs::write(data.path().join("operator.token"), "op_x\n").expect("a file");
        let server = server("http://127.0.0.1:1", None, Some(data.path().to_owned()));
        assert_eq!(server.token(Who::Operator).expect("the file's").secret, "op_x");
        assert!(fault(&server, Who::Account).contains("SWITCHBOARD_TOKEN"));
    }

    #[test]
    fn a_secret_of_the_wrong_kind_is_told_before_it_is_sent() {
        let wrong = fault(&server("http://127.0.0.1:1", Some("sk_x"), None), Who::Operator);
        assert!(wrong.contains("operator token") && wrong.contains("sk_"), "{wrong}");
        assert!(!fault(&server("http://127.0.0.1:1", Some("op_\u{7}"), None), Who::Operator).is_empty());
    }

    #[test]
    fn local_tokens_do_not_leave_the_machine_unasked() {
        assert!(fault(&server("https://example.com", None, None), Who::Operator).contains("another machine"));
        for url in ["http://localhost:8080", "http://127.0.0.2", "http://[::1]:80"] {
            assert!(is_local(url), "{url}");
        }
        assert!(!is_local("http://127.0.0.1.example.com") && !is_local("http://10.0.0.1"));
    }

    #[test]
    fn a_url_needs_a_scheme() {
        assert_eq!(base_url("http://localhost:8080/").as_deref(), Ok("http://localhost:8080"));
        assert!(
            base_url("localhost:8080").is_err() && base_url("ftp://host").is_err() && base_url("").is_err()
        );
    }
}
