//! Where requests may go that tenants name the target of: not into the operator's own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, ConnectorService, ResolverService};
use awc::http::Uri;
use tokio::net::TcpStream;

/// The longest URL, in bytes.
pub const MAX_URL: usize = 2_048;

/// How far a client reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Wherever the operator says.
    Anywhere,
    /// The public internet alone.
    Public,
}

/// Connects to what a name stands for only after a look at it, so that no other answer of the name's server comes
/// between.
///
/// # Errors
/// When nothing is there, or nothing that may be reached.
pub async fn connect(
    mut to: ConnectInfo<Uri>,
    reach: Reach,
) -> Result<Connection<Uri, TcpStream>, ConnectError> {
    if reach == Reach::Public {
        to = ResolverService::default().call(to).await?;
        let public: Vec<_> = to.take_addrs().filter(|address| is_public(address.ip())).collect();
        if public.is_empty() {
            let refused = std::io::Error::other("the target is not in the public internet");
            return Err(ConnectError::Io(refused));
        }
        to = to.set_addrs(public);
    }
    ConnectorService::default().call(to).await
}

/// Whether an address is one of the public internet.
///
/// All else is refused: loopback, private, shared (carrier-grade NAT), link-local with the metadata services of
/// clouds, unique-local, multicast, unspecified, reserved, and the IPv6 forms that lead to such an IPv4 address.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        [0 | 10 | 127, ..] | [224..=255, ..] => true,
        [100, second, ..] => second & 0xc0 == 64,
        [169, 254, ..] | [192, 168, ..] => true,
        [172, second, ..] => second & 0xf0 == 16,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] => true,
        [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // Translation (NAT64) and 6to4 lead to an IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        // Teredo and other protocol assignments, documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Whether a URL can be called at all, and what was expected if not.
///
/// A name is looked up at each connection; only an address that stands in the URL itself is judged here.
///
/// # Errors
/// What was expected.
pub fn check(url: &str, allow_private: bool) -> Result<(), String> {
    let expected = || "expected an http or https URL such as https://example.com/path".to_owned();
    if url.len() > MAX_URL {
        return Err(format!("expected at most {MAX_URL} bytes"));
    }
    let uri: Uri = url.parse().map_err(|_| expected())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(expected());
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(expected)?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("credentials have no place in the URL".to_owned());
    }
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if !allow_private && literal.is_ok_and(|address| !is_public(address)) {
        return Err("this address is not one of the public internet".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(text: &str) -> bool {
        is_public(text.parse().unwrap_or_else(|_| panic!("{text} is an address")))
    }

    #[test]
    fn only_the_public_internet_is_a_target() {
        for inside in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!public(inside), "{inside}");
        }
        for outside in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(public(outside), "{outside}");
        }
    }

    #[test]
    fn a_url_is_http_without_credentials() {
        assert_eq!(check("https://example.com/hook?a=1", false), Ok(()));
        assert_eq!(check("http://localhost:9000", false), Ok(()), "a name is judged when it is resolved");
        assert_eq!(check("http://10.0.0.1/hook", true), Ok(()));
        for wrong in [
            "",
            "/hook",
            "example.com",
            "ftp://example.com",
            "https://",
            "https://a:b@example.com",
            "http://127.0.0.1",
            "http://[::1]:80/",
            "http://[::ffff:10.0.0.1]/",
        ] {
            assert!(check(wrong, false).is_err(), "{wrong}");
        }
    }
}
