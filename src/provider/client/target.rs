//! Where a request goes, and how it begins.

use std::fmt::Write;
use std::rc::Rc;

use awc::http::Uri;
use awc::http::header::{HeaderName, HeaderValue};
use buf_list::BufList;
use bytes::{Buf, Bytes};
use secrecy::{ExposeSecret, SecretString};

use super::Unanswered;

/// What a URL says.
#[derive(Clone)]
pub struct Target {
    uri: Uri,
    secure: bool,
    /// What a connection to it may be used for: scheme, host and port.
    origin: Rc<str>,
}

/// A request as it is written.
pub struct Request {
    /// Up to and with the empty line.
    pub head: Bytes,
    /// What comes then.
    pub body: BufList,
}

impl Target {
    /// Reads a URL; `None` for one that no request can go to.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let origin = format!("{}://{host}:{port}", if secure { "https" } else { "http" }).into();
        Some(Self { uri, secure, origin })
    }

    /// The URL.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether it is called over TLS.
    pub fn secure(&self) -> bool {
        self.secure
    }

    /// What its connections are kept under.
    pub fn origin(&self) -> &Rc<str> {
        &self.origin
    }

    /// How POSTs with these headers begin, of which a later one takes the place of an earlier one of its name.
    ///
    /// # Errors
    /// When a header would not be one.
    pub fn post<'a>(&self, headers: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Post, Unanswered> {
        let mut lines: Vec<(HeaderName, &str)> = Vec::new();
        for (name, value) in headers {
            let known = HeaderName::from_bytes(name.as_bytes());
            let known = known.map_err(|_| Unanswered::Unsendable("a header whose name is none"))?;
            // What may be a secret is not told.
            HeaderValue::from_str(value)
                .map_err(|_| Unanswered::Unsendable("a header whose value is none"))?;
            match lines.iter_mut().find(|(other, _)| *other == known) {
                Some(line) => line.1 = value,
                None => lines.push((known, value)),
            }
        }
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let size: usize = lines.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let mut head = String::with_capacity(path.len() + self.origin.len() + size + 64);
        let mut add = |parts: &[&str]| parts.iter().for_each(|part| head.push_str(part));
        add(&["POST ", path, " HTTP/1.1\r\nhost: ", self.uri.host().unwrap_or_default()]);
        if let Some(port) = self.uri.port_u16().filter(|port| *port != if self.secure { 443 } else { 80 }) {
            add(&[":", &port.to_string()]);
        }
        add(&["\r\n"]);
        for (name, value) in lines {
            add(&[name.as_str(), ": ", value, "\r\n"]);
        }
        add(&["content-length: "]);
        Ok(Post(head.into()))
    }
}

/// How a POST begins, up to the length of its body. It may hold credentials.
pub struct Post(SecretString);

impl Post {
    /// The request with this body.
    pub fn with(&self, body: BufList) -> Request {
        let begun = self.0.expose_secret();
        let mut head = String::with_capacity(begun.len() + 24);
        head.push_str(begun);
        // Written to a string, which takes it.
        let _ = write!(head, "{}\r\n\r\n", body.remaining());
        Request { head: head.into(), body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(url: &str, headers: &[(&str, &str)]) -> Option<String> {
        let target = Target::parse(url).expect("a target");
        let request = target.post(headers.iter().copied()).ok()?.with(Bytes::from_static(b"{}").into());
        Some(String::from_utf8(request.head.to_vec()).expect("text"))
    }

    #[test]
    fn a_request_begins_with_its_place_and_its_headers() {
        let headers = [("X-One", "1"), ("authorization", "Bearer k"), ("x-one", "2")];
        assert_eq!(
            written("http://Example.com:8080/v1/chat?x=1", &headers).as_deref(),
            Some(
                "POST /v1/chat?x=1 HTTP/1.1\r\nhost: Example.com:8080\r\nx-one: 2\r\n\
                 authorization: Bearer k\r\ncontent-length: 2\r\n\r\n"
            )
        );
        for (url, host) in [
            ("https://example.com:443/", "example.com"),
            ("http://example.com:80", "example.com"),
            ("http://example.com:443", "example.com:443"),
            ("http://[::1]:9000/", "[::1]:9000"),
        ] {
            let head = written(url, &[]).expect("a request");
            assert!(head.starts_with(&format!("POST / HTTP/1.1\r\nhost: {host}\r\n")), "{url}: {head}");
        }
    }

    #[test]
    fn no_header_can_add_a_line() {
        for header in [("x", "a\r\ny: b"), ("x", "a\nb"), ("x", "a\0"), ("x y", "a"), ("x\r\ny", "a")] {
            assert_eq!(written("http://a/", &[header]), None, "{header:?}");
        }
    }

    #[test]
    fn a_connection_is_kept_for_one_scheme_host_and_port() {
        let origin = |url: &str| Target::parse(url).map(|target| target.origin().to_string());
        assert_eq!(origin("https://A.example/x"), origin("https://a.example:443/y?z"));
        for other in ["http://a.example/", "https://a.example:80/", "https://b.example/"] {
            assert_ne!(origin(other), origin("https://a.example/"), "{other}");
        }
        for none in ["", "/x", "a.example", "ftp://a.example/", "https://"] {
            assert_eq!(origin(none), None, "{none}");
        }
    }
}
