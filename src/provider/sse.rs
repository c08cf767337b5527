//! Reading server-sent events, whatever line ends and packets they come in.
//!
//! WHATWG HTML, section 9.2: lines end in LF, CRLF or CR; a line that begins with a colon is a comment; the
//! `data` lines of an event are joined by LF; an empty line ends the event.

use bytes::{Buf, Bytes, BytesMut};

/// The largest event that is read, in bytes. A larger one ends the call.
pub const MAX_EVENT: usize = 16 * 1024 * 1024;
/// A line above this many bytes does not share its memory with what comes after it.
const LARGE_LINE: usize = 64 * 1024;

/// Cuts a stream of bytes into the data of events.
#[derive(Default)]
pub struct EventReader {
    buffer: BytesMut,
    /// How much of it is known to have no line end.
    searched: usize,
    data: Option<BytesMut>,
    single: Option<Bytes>,
    started: bool,
    after_cr: bool,
}

/// An event was larger than [`MAX_EVENT`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

impl EventReader {
    /// Takes in what arrived.
    ///
    /// # Errors
    /// When an unfinished event outgrows its bound.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        self.buffer.extend_from_slice(bytes);
        let collected =
            self.data.as_ref().map_or(0, BytesMut::len) + self.single.as_ref().map_or(0, Bytes::len);
        if self.buffer.len() + collected > MAX_EVENT { Err(TooLarge) } else { Ok(()) }
    }

    /// The data of the next whole event.
    pub fn next_event(&mut self) -> Option<Bytes> {
        if let Some(data) = self.next_simple() {
            return Some(data);
        }
        while let Some(line) = self.next_line() {
            if !line.is_empty() {
                self.take_line(line);
            } else if let Some(data) = self.finish_event() {
                return Some(data);
            }
        }
        None
    }

    /// The data of an event that the end of the stream cut off before its empty line.
    pub fn finish(&mut self) -> Option<Bytes> {
        if !self.buffer.is_empty() {
            self.searched = 0;
            let line = self.buffer.split().freeze();
            self.take_line(line);
        }
        self.finish_event()
    }

    /// An event that is there as nearly all are written: one line of data and an empty one, both ending in LF.
    fn next_simple(&mut self) -> Option<Bytes> {
        const DATA: &[u8] = b"data: ";
        let in_between = self.after_cr || self.searched > 0 || self.data.is_some() || self.single.is_some();
        if in_between || !self.buffer.starts_with(DATA) {
            return None;
        }
        let end = memchr::memchr2(b'\n', b'\r', &self.buffer)?;
        if end >= LARGE_LINE || !self.buffer[end..].starts_with(b"\n\n") {
            return None;
        }
        self.started = true;
        let mut event = self.buffer.split_to(end + 2);
        event.truncate(end);
        event.advance(DATA.len());
        Some(event.freeze())
    }

    fn finish_event(&mut self) -> Option<Bytes> {
        self.data.take().map(BytesMut::freeze).or(self.single.take())
    }

    fn next_line(&mut self) -> Option<Bytes> {
        if self.after_cr && !self.buffer.is_empty() {
            self.after_cr = false;
            if self.buffer[0] == b'\n' {
                let _ = self.buffer.split_to(1);
            }
        }
        if !self.started && !self.buffer.is_empty() {
            const BOM: &[u8] = b"\xef\xbb\xbf";
            if self.buffer.len() < BOM.len() && BOM.starts_with(&self.buffer) {
                return None;
            }
            self.started = true;
            if self.buffer.starts_with(BOM) {
                let _ = self.buffer.split_to(BOM.len());
            }
        }
        // A long line comes in many pieces: what was searched is not searched again.
        let Some(end) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.searched..]) else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = std::mem::take(&mut self.searched) + end;
        let mut line = self.buffer.split_to(end + 1);
        if line.len() > LARGE_LINE {
            // Else a small event would hold the memory of a large one for as long as it is kept.
            // Nor is it made from the rest: memory that it asks for later would be as large as that.
            let rest = std::mem::take(&mut self.buffer);
            self.buffer.extend_from_slice(&rest);
        }
        if line[end] == b'\r' {
            // The LF of a CRLF may still be on its way; it is dropped when it comes.
            self.after_cr = true;
        }
        line.truncate(end);
        Some(line.freeze())
    }

    fn take_line(&mut self, line: Bytes) {
        let Some(rest) = line.strip_prefix(b"data") else { return };
        let value = match rest {
            [] => rest,
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            _ => return,
        };
        let value = line.slice_ref(value);
        match (&mut self.data, self.single.take()) {
            (Some(data), _) => {
                data.extend_from_slice(b"\n");
                data.extend_from_slice(&value);
            }
            (None, Some(first)) => {
                let mut data = BytesMut::from(&first[..]);
                data.extend_from_slice(b"\n");
                data.extend_from_slice(&value);
                self.data = Some(data);
            }
            // Nearly every event has one line: its bytes are not copied again.
            (None, None) => self.single = Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = EventReader::default();
        let mut events = Vec::new();
        for piece in pieces {
            reader.push(piece).expect("small");
            events.extend(std::iter::from_fn(|| reader.next_event()));
        }
        events.extend(reader.finish());
        events.into_iter().map(|event| String::from_utf8(event.to_vec()).expect("text")).collect()
    }

    const STREAM: &[u8] =
        "\u{feff}: hello\r\n\r\ndata: {\"a\":\"é\"}\r\n\r\nevent: x\ndata:1\ndata: 2\n\ndata: [DONE]\r\r"
            .as_bytes();

    #[test]
    fn all_line_ends_are_known() {
        assert_eq!(read(&[STREAM]), ["{\"a\":\"é\"}", "1\n2", "[DONE]"]);
    }

    #[test]
    fn events_survive_any_cut() {
        let whole = read(&[STREAM]);
        for cut in 0..STREAM.len() {
            let (front, back) = STREAM.split_at(cut);
            assert_eq!(read(&[front, back]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(read(&bytes), whole);
    }

    #[test]
    fn an_event_without_its_empty_line_is_still_read() {
        assert_eq!(read(&[b"data: a\n\ndata: b"]), ["a", "b"]);
        assert_eq!(read(&[b"data\n\n"]), [""]);
        assert_eq!(read(&[b"database: x\n\n"]), [""; 0]);
    }

    #[test]
    fn an_event_that_comes_alone_has_no_more_memory_than_it_needs() {
        let event = |size: usize| format!("data: {}\n\n", "x".repeat(size)).into_bytes();
        let mut reader = EventReader::default();
        let mut kept = Vec::new();
        reader.push(&[event(2 * LARGE_LINE), event(LARGE_LINE + 1), event(3_000)].concat()).expect("small");
        kept.extend(std::iter::from_fn(|| reader.next_event()));
        for _ in 0..50 {
            reader.push(&event(200)).expect("small");
            kept.extend(std::iter::from_fn(|| reader.next_event()));
            assert!(reader.buffer.capacity() < 100, "{} bytes are left", reader.buffer.capacity());
        }
        assert_eq!(kept.len(), 53);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut reader = EventReader::default();
        let piece = vec![b'x'; 1024 * 1024];
        let refused = (0..32).find(|_| reader.push(&piece).is_err());
        assert_eq!(refused, Some(16));
    }
}
