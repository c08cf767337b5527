//! Where a request comes from, also where proxies stand in between.
//!
//! What a request says of itself is believed only as far as trusted proxies have written it: from the right, hop by
//! hop, up to the first address that is none of theirs.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use actix_web::http::header::{FORWARDED, HeaderMap, HeaderName};
use actix_web::{HttpRequest, web};

use crate::http::HttpSettings;

/// The most hops that are looked at.
const MAX_HOPS: usize = 32;

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    first: IpAddr,
    bits: u8,
}

impl Net {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let away = u32::from(first) ^ u32::from(address);
                self.bits == 0 || away >> (32 - u32::from(self.bits)) == 0
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let away = u128::from(first) ^ u128::from(address);
                self.bits == 0 || away >> (128 - u32::from(self.bits)) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Net {
    type Err = ();

    /// Reads `10.0.0.0/8`, `2001:db8::/32`, or one address.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(one, bits)| (one, Some(bits)));
        let first: IpAddr = address.parse().map_err(drop)?;
        let all = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), |bits| bits.parse().map_err(drop))?;
        if bits > all { Err(()) } else { Ok(Self { first, bits }) }
    }
}

impl Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// Which header a proxy writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, of RFC 7239.
    Forwarded,
}

impl Header {
    const NAMES: [(&'static str, Self); 2] =
        [("x-forwarded-for", Self::XForwardedFor), ("forwarded", Self::Forwarded)];

    /// The header of that name.
    pub fn named(word: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, header)| *header)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, own)| *own == self).map_or("", |(name, _)| name)
    }
}

/// The proxies in front of this server, and the one header that is believed of them.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Where they are.
    pub trusted: Vec<Net>,
    /// What they write. The other header may come from the client, through a proxy that does not know it.
    pub header: Header,
}

impl Proxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(address))
    }

    /// The right-most address that is no trusted proxy's; the header's lines are joined by commas.
    fn client(&self, peer: IpAddr, lines: &str) -> IpAddr {
        let mut nearest = peer;
        for hop in lines.rsplit(',').take(MAX_HOPS) {
            if !self.trusts(nearest) {
                break;
            }
            let address = match self.header {
                Header::XForwardedFor => address(hop),
                Header::Forwarded => forwarded_for(hop).and_then(address),
            };
            // A proxy that does not say where the request came from is as near as we get.
            let Some(address) = address else { break };
            nearest = address;
        }
        nearest
    }
}

/// The value of `for` in an element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<&str> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    Some(value.trim().trim_matches('"'))
}

/// An address, perhaps with a port: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => match text.split_once(':') {
            Some((one, port)) if !port.contains(':') => one,
            _ => text,
        },
    };
    bare.parse().ok().map(plain)
}

/// IPv4 as IPv4, also where it came over a socket of IPv6.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Where the request comes from.
pub fn client(request: &HttpRequest) -> Option<IpAddr> {
    let settings = request.app_data::<web::Data<HttpSettings>>()?;
    Some(client_of(request.peer_addr()?, request.headers(), &settings.proxies))
}

/// Where a request with these `headers` comes from, which came over a connection with `peer`.
pub fn client_of(peer: SocketAddr, headers: &HeaderMap, proxies: &Proxies) -> IpAddr {
    let peer = plain(peer.ip());
    if !proxies.trusts(peer) {
        return peer;
    }
    let name = match proxies.header {
        Header::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        Header::Forwarded => FORWARDED,
    };
    let lines: Vec<_> = headers.get_all(name).map(|line| line.to_str().unwrap_or("?")).collect();
    proxies.client(peer, &lines.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(header: Header, peer: &str, lines: &str) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"].map(|net| net.parse().expect("a net"));
        let proxies = Proxies { trusted: trusted.to_vec(), header };
        proxies.client(peer.parse().expect("an address"), lines).to_string()
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_s_is_the_client_s() {
        let seen = |peer, lines| seen(Header::XForwardedFor, peer, lines);
        assert_eq!(seen("203.0.113.9", "198.51.100.1"), "203.0.113.9", "nobody's proxy");
        assert_eq!(seen("10.1.2.3", "198.51.100.1"), "198.51.100.1");
        assert_eq!(seen("10.1.2.3", "1.1.1.1, 198.51.100.1, 10.9.9.9"), "198.51.100.1");
        assert_eq!(seen("10.1.2.3", "198.51.100.1:4711"), "198.51.100.1");
        assert_eq!(seen("2001:db8::5", "[2a00::1]:443"), "2a00::1");
        assert_eq!(seen("192.0.2.1", "2a00::1"), "2a00::1");
        assert_eq!(seen("192.0.2.2", "2a00::1"), "192.0.2.2");
        assert_eq!(seen("10.1.2.3", "10.0.0.7, 10.0.0.8"), "10.0.0.7", "all of them are ours");
    }

    #[test]
    fn a_hop_that_is_no_address_ends_the_search() {
        let seen = |lines| seen(Header::XForwardedFor, "10.1.2.3", lines);
        for lines in ["", "unknown", "1.1.1.1, _hidden", "1.1.1.1,", "1.1.1.1, ?"] {
            assert_eq!(seen(lines), "10.1.2.3", "{lines}");
        }
        assert_eq!(seen("1.1.1.1, nonsense, 10.0.0.4"), "10.0.0.4");
        let long = vec!["10.0.0.1"; 1_000].join(",");
        assert_eq!(seen(&format!("1.1.1.1,{long}")), "10.0.0.1");
    }

    #[test]
    fn the_standard_header_is_read_where_it_is_the_one_that_is_believed() {
        let seen = |lines| seen(Header::Forwarded, "10.1.2.3", lines);
        assert_eq!(seen("for=1.1.1.1, For=\"[2a00::1]:443\";proto=https;by=10.0.0.1"), "2a00::1");
        assert_eq!(seen("for=198.51.100.1;host=x, for=10.0.0.9"), "198.51.100.1");
        assert_eq!(seen("for=unknown"), "10.1.2.3");
        assert_eq!(seen("198.51.100.1"), "10.1.2.3", "no pair");
    }

    #[test]
    fn a_net_is_an_address_and_how_many_bits_count() {
        let net = |text: &str| text.parse::<Net>();
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/x", "example.com"] {
            assert!(net(wrong).is_err(), "{wrong}");
        }
        let contains = |text: &str, address: &str| {
            net(text).expect("a net").contains(address.parse().expect("an address"))
        };
        assert!(contains("0.0.0.0/0", "203.0.113.9") && contains("::/0", "2a00::1"));
        assert!(!contains("0.0.0.0/0", "2a00::1"));
        assert!(contains("10.1.0.0/16", "10.1.255.255") && !contains("10.1.0.0/16", "10.2.0.0"));
        assert!(
            contains("2001:db8::/33", "2001:db8:7fff::1") && !contains("2001:db8::/33", "2001:db8:8000::")
        );
        assert_eq!(net("10.0.0.0/8").expect("a net").to_string(), "10.0.0.0/8");
    }
}
