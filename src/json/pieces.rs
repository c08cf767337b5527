//! Text in pieces, of which long ones are shared with whoever has them, and not copied.

use std::io::{self, IoSlice};
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};

use super::Sink;

/// A piece that is shared is at least this long, in bytes: a shorter one costs less to copy than to write by itself.
pub const SHARED: usize = 2 * 1_024;

/// Text that is being written.
#[derive(Debug, Default)]
pub struct PiecesMut {
    done: Vec<Bytes>,
    tail: BytesMut,
}

impl PiecesMut {
    /// With room for so many bytes that are copied.
    pub fn with_capacity(copied: usize) -> Self {
        Self { done: Vec::new(), tail: BytesMut::with_capacity(copied) }
    }

    /// Adds text that may be shared.
    pub fn share(&mut self, text: &Bytes) {
        if text.len() < SHARED {
            return self.tail.extend_from_slice(text);
        }
        if !self.tail.is_empty() {
            self.done.push(self.tail.split().freeze());
        }
        self.done.push(text.clone());
    }

    /// All of it.
    pub fn finish(mut self) -> Pieces {
        if !self.tail.is_empty() {
            self.done.push(self.tail.freeze());
        }
        let left = self.done.iter().map(Bytes::len).sum();
        Pieces { all: self.done.into(), at: 0, read: 0, left }
    }
}

impl io::Write for PiecesMut {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.tail.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for PiecesMut {}

/// Text that was written, of which something may have been read. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pieces {
    all: Rc<[Bytes]>,
    /// The piece that is read next,
    at: usize,
    /// what was read of it,
    read: usize,
    /// and what is left of all, in bytes.
    left: usize,
}

impl From<Bytes> for Pieces {
    fn from(text: Bytes) -> Self {
        let left = text.len();
        Self { all: Rc::new([text]), at: 0, read: 0, left }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.all.get(self.at).map_or(&[], |piece| &piece[self.read..])
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let rest = self.all.get(self.at + 1..).unwrap_or_default();
        let left = std::iter::once(self.chunk()).chain(rest.iter().map(|piece| &piece[..]));
        let left = left.filter(|piece| !piece.is_empty());
        into.iter_mut().zip(left).map(|(place, piece)| *place = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.left, "no more is there");
        (self.left, self.read) = (self.left - count, self.read + count);
        while let Some(piece) = self.all.get(self.at).filter(|piece| piece.len() <= self.read) {
            (self.at, self.read) = (self.at + 1, self.read - piece.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn three(long: &Bytes) -> Pieces {
        let mut text = PiecesMut::with_capacity(8);
        write!(text, "before").expect("memory");
        text.share(&Bytes::from_static(b", short, "));
        text.share(long);
        text.share(long);
        text.byte(b'!');
        text.finish()
    }

    #[test]
    fn long_text_is_shared_and_short_text_is_copied() {
        let long = Bytes::from(vec![b'x'; SHARED]);
        let pieces = three(&long);
        assert_eq!(pieces.all.len(), 4);
        assert_eq!(pieces.all[1].as_ptr(), long.as_ptr());
        assert_eq!(&pieces.all[0][..], b"before, short, ");
        let whole = [b"before, short, ", &long[..], &long[..], b"!"].concat();
        assert_eq!(
            (pieces.remaining(), pieces.clone().copy_to_bytes(whole.len())),
            (whole.len(), whole.into())
        );
        assert_eq!(
            (PiecesMut::default().finish().remaining(), Pieces::from(Bytes::new()).chunk()),
            (0, &[][..])
        );
    }

    #[test]
    fn whatever_is_taken_at_once_all_of_it_is_read() {
        let long: Bytes = (0..SHARED + 3).map(|at| at.to_le_bytes()[0]).collect();
        let whole = three(&long).copy_to_bytes(2 * long.len() + 16);
        for taken in [1, 7, SHARED - 1, SHARED + 3, SHARED + 4, 3 * SHARED] {
            let (mut pieces, mut read) = (three(&long), Vec::new());
            while pieces.has_remaining() {
                let mut places = [IoSlice::new(&[]); 2];
                let count = pieces.chunks_vectored(&mut places);
                assert!(count > 0 && places[..count].iter().all(|place| !place.is_empty()));
                let seen = places[..count].iter().flat_map(|place| place.to_vec()).collect::<Vec<u8>>();
                let step = seen.len().min(taken);
                read.extend_from_slice(&seen[..step]);
                pieces.advance(step);
            }
            assert_eq!(read, whole, "{taken} at once");
        }
    }
}
