//! The head of an answer: what of it is of use here. Plain.

use awc::http::StatusCode;
use httparse::{EMPTY_HEADER, Header, ParserConfig, Response, Status};

use super::body::{Framing, Malformed};

/// The largest head, in bytes, interim answers before it included.
pub const MAX_HEAD: usize = 128 * 1_024;
/// The most headers of an answer.
const MAX_HEADERS: usize = 96;

/// What an answer says before its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// How long to wait, in seconds.
    pub retry_after: Option<u64>,
    /// How its body ends.
    pub framing: Framing,
    /// Whether its connection may be used again after it.
    pub keeps: bool,
}

/// The head that `bytes` begin with, and how long it is; `None` where it is not whole yet. Interim answers are skipped.
///
/// # Errors
/// When this will never be a head, or one that cannot be trusted to say where its body ends.
pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
    let mut at = 0;
    loop {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut answer = Response::new(&mut headers);
        let parsed = ParserConfig::default()
            .allow_spaces_after_header_name_in_responses(true)
            .parse_response(&mut answer, &bytes[at..])
            .map_err(|_| Malformed("the head of the answer is malformed"))?;
        let Status::Complete(length) = parsed else {
            return if bytes.len() < MAX_HEAD { Ok(None) } else { Err(Malformed("a head without end")) };
        };
        at += length;
        let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
        match status.ok_or(Malformed("the head of the answer is malformed"))? {
            StatusCode::SWITCHING_PROTOCOLS => return Err(Malformed("another protocol than was asked for")),
            interim if interim.is_informational() => {}
            status => {
                return head(status, answer.version == Some(1), answer.headers).map(|head| Some((head, at)));
            }
        }
    }
}

fn head(status: StatusCode, is_1_1: bool, headers: &[Header<'_>]) -> Result<Head, Malformed> {
    let (mut length, mut encoding, mut retry_after) = (None, None, None);
    let mut keeps = is_1_1;
    for header in headers {
        let value = header.value.trim_ascii();
        let named = |name: &str| header.name.eq_ignore_ascii_case(name);
        if named("content-length") {
            if length.replace(length_of(value)?).is_some() {
                return Err(Malformed("two lengths"));
            }
        } else if named("transfer-encoding") {
            if encoding.replace(is_chunked(value)?).is_some() {
                return Err(Malformed("two transfer encodings"));
            }
        } else if named("connection") {
            keeps &= !value
                .split(|byte| *byte == b',')
                .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
        } else if named("retry-after") && retry_after.is_none() {
            retry_after = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
        }
    }
    let framing = match (encoding, length) {
        (Some(_), Some(_)) => return Err(Malformed("both a length and a transfer encoding")),
        (Some(_), _) if !is_1_1 => return Err(Malformed("a transfer encoding in HTTP/1.0")),
        _ if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Framing::Length(0),
        (Some(true), None) => Framing::Chunked,
        (None, Some(length)) => Framing::Length(length),
        (None | Some(false), None) => Framing::UntilClose,
    };
    Ok(Head { status, retry_after, framing, keeps: keeps && framing != Framing::UntilClose })
}

fn length_of(value: &[u8]) -> Result<u64, Malformed> {
    let digits =
        std::str::from_utf8(value).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(Malformed("a length that is no number"))
}

fn is_chunked(value: &[u8]) -> Result<bool, Malformed> {
    match value {
        value if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        value if value.eq_ignore_ascii_case(b"identity") => Ok(false),
        _ => Err(Malformed("a transfer encoding that was not asked for")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(lines: &str) -> Result<Option<(Head, usize)>, Malformed> {
        parse(format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes())
    }

    fn taken(lines: &str) -> Head {
        whole(lines).unwrap_or_else(|cause| panic!("{lines}: {cause}")).expect("a whole head").0
    }

    #[test]
    fn a_head_says_how_its_body_ends_and_whether_its_connection_goes_on() {
        for (lines, framing, keeps) in [
            ("HTTP/1.1 200 OK\nContent-Length: 7", Framing::Length(7), true),
            ("HTTP/1.1 200 OK\nContent-Length: 0", Framing::Length(0), true),
            ("HTTP/1.1 200\ntransfer-encoding: Chunked", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nConnection: x, Close", Framing::Chunked, false),
            ("HTTP/1.1 200 OK\nTransfer-Encoding: identity", Framing::UntilClose, false),
            ("HTTP/1.1 200 OK\nConnection: keep-alive", Framing::UntilClose, false),
            ("HTTP/1.0 200 OK\nContent-Length: 7", Framing::Length(7), false),
            ("HTTP/1.0 200 OK\nServer: old", Framing::UntilClose, false),
            ("HTTP/1.1 204 No Content\nServer: x", Framing::Length(0), true),
            ("HTTP/1.1 304 Not Modified\nContent-Length: 9", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\nContent-Length : 7", Framing::Length(7), true),
        ] {
            let head = taken(lines);
            assert_eq!((head.framing, head.keeps), (framing, keeps), "{lines}");
        }
    }

    #[test]
    fn a_head_is_whole_at_its_last_byte_and_interim_answers_are_none() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
            HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}";
        let end = text.len() - 2;
        for upto in 0..end {
            assert_eq!(parse(&text.as_bytes()[..upto]), Ok(None), "whole after {upto} bytes");
        }
        let (head, length) = parse(text.as_bytes()).expect("a head").expect("a whole one");
        assert_eq!((head.status.as_u16(), head.retry_after, length), (429, Some(7), end));
        assert_eq!(taken("HTTP/1.1 503 No\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT").retry_after, None);
    }

    #[test]
    fn a_head_that_may_be_read_in_two_ways_is_refused() {
        for lines in [
            "HTTP/1.1 200 OK\nContent-Length: 7\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\nContent-Length: 7\nContent-Length: 8",
            "HTTP/1.1 200 OK\nContent-Length: 7\nContent-Length: 7",
            "HTTP/1.1 200 OK\nContent-Length: 7, 7",
            "HTTP/1.1 200 OK\nContent-Length: +7",
            "HTTP/1.1 200 OK\nContent-Length: -7",
            "HTTP/1.1 200 OK\nContent-Length: 0x7",
            "HTTP/1.1 200 OK\nContent-Length: ",
            "HTTP/1.1 200 OK\nContent-Length: 18446744073709551616",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked",
            "HTTP/1.0 200 OK\nTransfer-Encoding: chunked",
            "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket",
            "HTTP/2 200 OK",
            "HTTP/1.1 20 OK",
            "SSH-2.0-OpenSSH",
            "HTTP/1.1 200 OK\nno colon",
            "HTTP/1.1 200 OK\nA: b\n folded",
        ] {
            assert!(whole(lines).is_err(), "{lines:?} passes");
        }
    }

    #[test]
    fn a_head_has_bounds() {
        let many = "\nname: value".repeat(MAX_HEADERS + 1);
        assert!(whole(&format!("HTTP/1.1 200 OK{many}")).is_err());
        let long = format!("HTTP/1.1 200 OK\r\nname: {}", "x".repeat(MAX_HEAD));
        assert!(parse(long.as_bytes()).is_err());
        assert_eq!(parse(&long.as_bytes()[..MAX_HEAD - 1]), Ok(None));
    }
}
