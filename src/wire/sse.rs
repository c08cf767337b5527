//! Server-sent events on their way to a client: numbered, and in pieces that hold little memory of their own.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

use crate::json::{ObjectWriter, Sink};
use crate::session::log::EventId;

/// The most that goes out in one piece, in bytes.
const PIECE: usize = 16 * 1024;

/// Text that is collected, and large slices of other texts, which are not copied.
#[derive(Default)]
pub struct Pieces {
    ready: VecDeque<Bytes>,
    text: BytesMut,
    len: usize,
}

impl Pieces {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for text of that size, which else is made little by little.
    pub fn reserve(&mut self, size: usize) {
        self.text.reserve(size);
    }

    /// Takes out the first of them, up to [`PIECE`] bytes.
    pub fn take(&mut self) -> Option<Bytes> {
        let mut front = match self.ready.pop_front() {
            Some(front) => front,
            None if self.text.is_empty() => return None,
            None => self.text.split().freeze(),
        };
        if front.len() > PIECE {
            let rest = front.split_off(PIECE);
            self.ready.push_front(rest);
        }
        self.len -= front.len();
        Some(front)
    }

    /// Adds a copy of `text`.
    pub fn put(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
        self.len += text.len();
    }

    /// Adds a slice of `whole`, without a copy if it is large.
    fn share(&mut self, slice: &[u8], whole: &Bytes) {
        if slice.len() < PIECE {
            return self.put(slice);
        }
        if !self.text.is_empty() {
            self.ready.push_back(self.text.split().freeze());
        }
        self.ready.push_back(whole.slice_ref(slice));
        self.len += slice.len();
    }
}

impl io::Write for Pieces {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Pieces {}

/// Takes text, and what it can of other texts without a copy.
pub trait Slices: Sink {
    /// Adds a slice of `whole`.
    fn slice(&mut self, slice: &[u8], whole: &Bytes);
}

impl Slices for Pieces {
    fn slice(&mut self, slice: &[u8], whole: &Bytes) {
        self.share(slice, whole);
    }
}

impl Slices for Vec<u8> {
    fn slice(&mut self, slice: &[u8], _: &Bytes) {
        self.extend_from_slice(slice);
    }
}

impl<S: Slices> ObjectWriter<&mut S> {
    /// Adds a field whose value is a part of `whole`.
    pub fn slice(&mut self, name: &str, value: &RawValue, whole: &Bytes) {
        self.name(name).out().slice(value.get().as_bytes(), whole);
    }
}

/// Writes the events of one stream for a client that has seen part of it.
///
/// An event's id stands after its data: a client that got only half of the event has not seen the id. Only with the
/// last one it stands before, since there are clients that look for `data: [DONE]` at the end of the body.
pub struct Events {
    out: Pieces,
    /// The number of the log's entry whose events are written.
    entry: u64,
    /// How many of its events there were.
    parts: u32,
    /// How many of them the client has seen already.
    seen: u32,
    /// The kind of ids.
    again: bool,
    /// Whether the id of the last event is still to be written.
    open: bool,
}

impl Events {
    /// For a client that stands at `id`.
    pub fn after(id: EventId) -> Self {
        Self { out: Pieces::default(), entry: 0, parts: 0, seen: id.parts, again: id.again, open: false }
    }

    /// What is to go out.
    pub fn out(&mut self) -> &mut Pieces {
        &mut self.out
    }

    /// Begins the events of an entry of the log.
    pub fn begin(&mut self, entry: u64) {
        (self.entry, self.parts) = (entry, 0);
    }

    /// Ends the events of the entry: the last one says that it was seen whole.
    pub fn end(&mut self) {
        self.close(self.entry, 0);
        self.seen = 0;
    }

    /// Whether the next event is the first one of the stream.
    pub fn at_start(&self) -> bool {
        self.entry <= 1 && self.parts == 0
    }

    /// Begins an event; `None` if the client has seen it.
    pub fn event(&mut self) -> Option<&mut Pieces> {
        self.close(self.entry.saturating_sub(1), self.parts);
        self.parts += 1;
        if self.parts <= self.seen {
            return None;
        }
        self.open = true;
        self.out.put(b"data: ");
        Some(&mut self.out)
    }

    /// Writes the event that ends the stream.
    pub fn last(&mut self, data: &[u8]) {
        self.close(self.entry.saturating_sub(1), self.parts);
        self.parts += 1;
        if self.parts > self.seen {
            let id = EventId { again: self.again, entries: self.entry, parts: 0 };
            self.out.put(format!("id: {id}\n").as_bytes());
            self.aside(data);
        }
    }

    /// Writes an event that is no part of the stream, and so has no id.
    pub fn aside(&mut self, data: &[u8]) {
        self.out.put(b"data: ");
        self.out.put(data);
        self.out.put(b"\n\n");
    }

    fn close(&mut self, entries: u64, parts: u32) {
        if std::mem::take(&mut self.open) {
            let mut room = [0; EventId::MAX_LEN];
            let id = EventId { again: self.again, entries, parts };
            self.out.put(b"\nid: ");
            self.out.put(id.write(&mut room));
            self.out.put(b"\n\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pieces: &mut Pieces) -> String {
        let all: Vec<u8> = std::iter::from_fn(|| pieces.take()).flatten().collect();
        String::from_utf8(all).expect("text")
    }

    fn written(after: &str) -> String {
        let id: EventId = after.parse().expect("an id");
        let mut events = Events::after(id);
        for (entry, parts) in [(1, vec!["a"]), (2, vec!["b", "c", "d"]), (3, vec![]), (4, vec!["e", "f"])] {
            if entry > id.entries {
                events.begin(entry);
                for part in parts {
                    if let Some(out) = events.event() {
                        out.put(part.as_bytes());
                    }
                }
                events.end();
            }
        }
        if id.entries < 5 {
            events.begin(5);
            events.last(b"g");
            events.end();
        }
        text(events.out())
    }

    #[test]
    fn whoever_stands_anywhere_gets_the_rest_and_nothing_twice() {
        let ids = ["1", "1.1", "1.2", "2", "3.1", "4", "5"];
        let mut whole: Vec<String> =
            "abcdef".chars().zip(ids).map(|(data, id)| format!("data: {data}\nid: {id}\n\n")).collect();
        whole.push("id: 5\ndata: g\n\n".to_owned());
        assert_eq!(written("0"), whole.concat());
        for (at, id) in ids.into_iter().enumerate() {
            assert_eq!(written(id), whole[at + 1..].concat(), "after {id}");
        }
        assert_eq!(written("3"), whole[4..].concat());
    }

    #[test]
    fn a_large_value_is_not_copied_and_goes_out_in_small_pieces() {
        let whole = Bytes::from(format!("{{\"a\":\"{}\"}}", "x".repeat(5 * PIECE)));
        let value: Box<RawValue> = serde_json::from_slice(&whole[5..whole.len() - 1]).expect("a value");
        let mut pieces = Pieces::default();
        let mut object = ObjectWriter::into(&mut pieces);
        object.value("b", &1);
        // The same place in `whole`, not the copy that was parsed.
        let inside =
            serde_json::from_slice::<std::collections::HashMap<&str, &RawValue>>(&whole).expect("JSON");
        assert_eq!(inside["a"].get(), value.get());
        object.slice("a", inside["a"], &whole);
        object.close();
        assert_eq!(pieces.len(), value.get().len() + 12);
        assert_eq!(pieces.ready.len(), 2);
        let mut pieces_taken = Vec::new();
        while let Some(piece) = pieces.take() {
            assert!(piece.len() <= PIECE);
            pieces_taken.extend_from_slice(&piece);
        }
        assert!(pieces.is_empty());
        assert_eq!(pieces_taken, format!("{{\"b\":1,\"a\":{}}}", value.get()).as_bytes());
    }
}
