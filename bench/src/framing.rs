//! Where an answer's body ends: by length, or in chunks.

use anyhow::{Result, bail};

/// The longest line that tells the size of a chunk.
const SIZE_LINE: usize = 64;

/// How the rest of a body is told from what comes after it.
#[derive(Debug)]
pub enum Framing {
    /// So many bytes are left.
    Length(usize),
    /// HTTP/1.1 chunks.
    Chunks(Chunks),
}

impl Framing {
    /// Moves what `input` holds of the body to `body`; `true` once the body is whole.
    pub fn take(&mut self, input: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<bool> {
        match self {
            Self::Length(left) => {
                let some = input.len().min(*left);
                body.extend(input.drain(..some));
                *left -= some;
                Ok(*left == 0)
            }
            Self::Chunks(chunks) => chunks.take(input, body),
        }
    }
}

/// A body in chunks, as far as it was read.
#[derive(Debug, Default)]
pub struct Chunks {
    /// Bytes left of the chunk that is being read, its line end included.
    left: usize,
    /// Whether the last chunk has come, so that only trailers may follow.
    last: bool,
}

impl Chunks {
    fn take(&mut self, input: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<bool> {
        let mut at = 0;
        let whole = self.walk(input, &mut at, body);
        input.drain(..at);
        whole
    }

    fn walk(&mut self, input: &[u8], at: &mut usize, body: &mut Vec<u8>) -> Result<bool> {
        loop {
            let rest = &input[*at..];
            if self.left > 0 {
                let some = rest.len().min(self.left);
                // The line end after the chunk counts as left, but is not of the body.
                let of_body = some.min(self.left.saturating_sub(2));
                body.extend_from_slice(&rest[..of_body]);
                self.left -= some;
                *at += some;
                if self.left > 0 {
                    return Ok(false);
                }
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', rest) else {
                if rest.len() > SIZE_LINE {
                    bail!("a chunk's size line of more than {SIZE_LINE} bytes");
                }
                return Ok(false);
            };
            let line = rest[..end].trim_ascii();
            *at += end + 1;
            if self.last {
                if line.is_empty() {
                    return Ok(true);
                }
                continue;
            }
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let size = std::str::from_utf8(digits).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
            match size {
                Some(0) => self.last = true,
                Some(size) => self.left = size + 2,
                None => bail!("{:?} is not the size of a chunk", String::from_utf8_lossy(line)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunks, Framing};

    fn read(framing: &mut Framing, pieces: &[&[u8]]) -> (Vec<u8>, bool, Vec<u8>) {
        let (mut input, mut body, mut whole) = (Vec::new(), Vec::new(), false);
        for piece in pieces {
            input.extend_from_slice(piece);
            whole = framing.take(&mut input, &mut body).expect("a sound body");
        }
        (body, whole, input)
    }

    #[test]
    fn chunks_are_read_wherever_they_are_cut() {
        let wire = b"5\r\nhello\r\n1;note=x\r\n!\r\n0\r\n\r\nHTTP";
        for cut in 0..wire.len() - 4 {
            let mut framing = Framing::Chunks(Chunks::default());
            let (front, back) = wire.split_at(cut);
            let (body, whole, rest) = read(&mut framing, &[front, back]);
            assert_eq!(
                (body.as_slice(), whole, rest.as_slice()),
                (b"hello!".as_slice(), true, b"HTTP".as_slice())
            );
        }
    }

    #[test]
    fn a_body_with_a_length_ends_there() {
        let (body, whole, rest) = read(&mut Framing::Length(3), &[b"ab", b"cd"]);
        assert_eq!((body.as_slice(), whole, rest.as_slice()), (b"abc".as_slice(), true, b"d".as_slice()));
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        let mut framing = Framing::Chunks(Chunks::default());
        assert!(framing.take(&mut b"zz\r\n".to_vec(), &mut Vec::new()).is_err());
    }
}
