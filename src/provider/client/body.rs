//! Where the body of an answer begins and ends on its connection (RFC 9112, sections 6 and 7). Plain: bytes in, slices of
//! them out, whatever packets they come in.

/// How much may stand after a chunk's size on its line, in bytes.
const MAX_EXTENSION: u16 = 4 * 1_024;
/// How much may come after the last chunk, in bytes.
const MAX_TRAILERS: u16 = 16 * 1_024;
/// Digits of a chunk's size: more would be no number that fits.
const MAX_DIGITS: u8 = 16;

/// What a head says about how its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// Where the connection ends.
    UntilClose,
}

/// What came is not HTTP/1.1 as it is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Finds a body in what comes on its connection.
#[derive(Clone, Debug)]
pub struct Decoder(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of a body with a length are left.
    Length(u64),
    UntilClose,
    Size {
        so_far: u64,
        digits: u8,
    },
    /// White space after a size.
    Gap {
        size: u64,
    },
    Extension {
        size: u64,
        taken: u16,
    },
    SizeLf {
        size: u64,
    },
    /// So many bytes of a chunk are left.
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    /// At the beginning of a line after the last chunk.
    TrailerStart {
        taken: u16,
    },
    Trailer {
        taken: u16,
    },
    TrailerLf {
        taken: u16,
    },
    EndLf,
    Ended,
}

const SIZE: State = State::Size { so_far: 0, digits: 0 };

impl Decoder {
    /// For a body that ends so.
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(0) => State::Ended,
            Framing::Length(left) => State::Length(left),
            Framing::Chunked => SIZE,
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Whether the end of the body has come.
    pub fn ended(&self) -> bool {
        self.0 == State::Ended
    }

    /// The next bytes of the body in `input`, which is moved on; `None` where none are left in it. What comes after the
    /// body stays there.
    ///
    /// # Errors
    /// When the chunks are none.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        while let Some((&first, rest)) = input.split_first() {
            match self.0 {
                State::Ended => return Ok(None),
                State::UntilClose => return Ok(Some(std::mem::take(input))),
                State::Length(left) => {
                    let (piece, left) = split(input, left);
                    self.0 = if left == 0 { State::Ended } else { State::Length(left) };
                    return Ok(Some(piece));
                }
                State::Chunk(left) => {
                    let (piece, left) = split(input, left);
                    self.0 = if left == 0 { State::ChunkCr } else { State::Chunk(left) };
                    return Ok(Some(piece));
                }
                state => self.0 = framed(state, first)?,
            }
            *input = rest;
        }
        Ok(None)
    }

    /// The connection has ended; tells whether that is the end of the body, and not in its middle.
    pub fn close(&mut self) -> bool {
        if self.0 == State::UntilClose {
            self.0 = State::Ended;
        }
        self.ended()
    }
}

/// At most `left` bytes of the input, which is moved on, and how many are left then.
fn split<'a>(input: &mut &'a [u8], left: u64) -> (&'a [u8], u64) {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    let (piece, rest) = input.split_at(here);
    *input = rest;
    (piece, left - here as u64)
}

/// What follows a byte that is no part of the body itself.
fn framed(state: State, byte: u8) -> Result<State, Malformed> {
    Ok(match (state, byte) {
        (State::Size { so_far, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < MAX_DIGITS => {
            let digit = char::from(byte).to_digit(16).unwrap_or_default();
            State::Size { so_far: so_far << 4 | u64::from(digit), digits: digits + 1 }
        }
        (State::Size { so_far: size, digits: 1.. }, b';') => State::Extension { size, taken: 0 },
        (State::Size { so_far: size, digits: 1.. }, b'\r') => State::SizeLf { size },
        (State::Size { so_far: size, digits: 1.. }, b' ' | b'\t') => State::Gap { size },
        (State::Gap { size }, b' ' | b'\t') => State::Gap { size },
        (State::Gap { size }, b';') => State::Extension { size, taken: 0 },
        (State::Gap { size } | State::Extension { size, .. }, b'\r') => State::SizeLf { size },
        (State::Extension { size, taken }, byte) if byte != b'\n' && taken < MAX_EXTENSION => {
            State::Extension { size, taken: taken + 1 }
        }
        (State::SizeLf { size: 0 }, b'\n') => State::TrailerStart { taken: 0 },
        (State::SizeLf { size }, b'\n') => State::Chunk(size),
        (State::ChunkCr, b'\r') => State::ChunkLf,
        (State::ChunkLf, b'\n') => SIZE,
        (State::TrailerStart { .. }, b'\r') => State::EndLf,
        (State::TrailerStart { taken } | State::Trailer { taken }, byte)
            if byte != b'\n' && taken < MAX_TRAILERS =>
        {
            if byte == b'\r' {
                State::TrailerLf { taken: taken + 1 }
            } else {
                State::Trailer { taken: taken + 1 }
            }
        }
        (State::TrailerLf { taken }, b'\n') => State::TrailerStart { taken },
        (State::EndLf, b'\n') => State::Ended,
        _ => return Err(Malformed("the chunks of the body are malformed")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body in these packets, how it ended, and how much came after it.
    fn read(framing: Framing, packets: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let mut decoder = Decoder::new(framing);
        let (mut body, mut stray) = (Vec::new(), 0);
        for packet in packets {
            let mut input = *packet;
            while let Some(piece) = decoder.next(&mut input)? {
                body.extend_from_slice(piece);
            }
            assert!(input.is_empty() || decoder.ended(), "bytes are left in the middle");
            stray += input.len();
        }
        Ok((body, decoder.ended(), stray))
    }

    const CHUNKS: &[u8] = b"5\r\nhello\r\n0A;name=\"value\"\r\n, all of y\r\n3 \t;a\r\nou!\r\n\
        000\r\nexpires: never\r\nx: y\r\n\r\n";

    #[test]
    fn chunks_are_joined_wherever_packets_cut_them() {
        let whole = (b"hello, all of you!".to_vec(), true, 0);
        for first in 0..=CHUNKS.len() {
            for second in first..=CHUNKS.len() {
                let packets = [&CHUNKS[..first], &CHUNKS[first..second], &CHUNKS[second..]];
                assert_eq!(
                    read(Framing::Chunked, &packets),
                    Ok(whole.clone()),
                    "cut at {first} and {second}"
                );
            }
        }
        let bytes: Vec<&[u8]> = CHUNKS.chunks(1).collect();
        assert_eq!(read(Framing::Chunked, &bytes), Ok(whole));
    }

    #[test]
    fn no_part_of_a_body_in_chunks_is_whole() {
        for upto in 0..CHUNKS.len() {
            let mut decoder = Decoder::new(Framing::Chunked);
            let mut input = &CHUNKS[..upto];
            while decoder.next(&mut input).expect("well-formed so far").is_some() {}
            assert!(!decoder.ended(), "ended after {upto} bytes");
            assert!(!decoder.close(), "a cut after {upto} bytes passes");
        }
    }

    #[test]
    fn a_length_ends_a_body_and_what_comes_after_it_is_seen() {
        assert_eq!(read(Framing::Length(5), &[b"he", b"llo"]), Ok((b"hello".to_vec(), true, 0)));
        assert_eq!(read(Framing::Length(5), &[b"hel"]), Ok((b"hel".to_vec(), false, 0)));
        assert_eq!(read(Framing::Length(2), &[b"hello", b"!"]), Ok((b"he".to_vec(), true, 4)));
        assert_eq!(read(Framing::Length(0), &[b"x"]), Ok((Vec::new(), true, 1)));
        assert_eq!(read(Framing::Chunked, &[b"0\r\n\r\nHTTP"]), Ok((Vec::new(), true, 4)));
        assert!(!Decoder::new(Framing::Length(1)).close());
    }

    #[test]
    fn without_length_or_chunks_a_body_ends_with_its_connection() {
        let mut decoder = Decoder::new(Framing::UntilClose);
        let mut input = &b"all of it"[..];
        assert_eq!(decoder.next(&mut input), Ok(Some(&b"all of it"[..])));
        assert!(!decoder.ended());
        assert!(decoder.close() && decoder.ended());
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        let mut long = b"1;".to_vec();
        long.resize(usize::from(MAX_EXTENSION) + 10, b'x');
        let mut trailers = b"0\r\n".to_vec();
        (0..1_000).for_each(|_| trailers.extend_from_slice(b"name: some value\r\n"));
        for wrong in [
            &b"\r\n"[..],
            b";x\r\n",
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b"1\n",
            b"1\rx",
            b" 1\r\n",
            b"1 1\r\n",
            b"1;a\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"1\r\na\rb",
            b"0\r\n\n",
            b"0\r\n\rx",
            b"0\r\nname: value\n",
            b"00000000000000001\r\n",
            &long,
            &trailers,
        ] {
            let packets: Vec<&[u8]> = wrong.chunks(1).collect();
            let said = String::from_utf8_lossy(wrong).chars().take(40).collect::<String>();
            assert!(read(Framing::Chunked, &packets).is_err(), "{said:?} passes, byte by byte");
            assert!(read(Framing::Chunked, &[wrong]).is_err(), "{said:?} passes");
        }
        let most = read(Framing::Chunked, &[b"ffffffffffffffff\r\nabc"]);
        assert_eq!(most, Ok((b"abc".to_vec(), false, 0)), "the largest size");
    }
}
