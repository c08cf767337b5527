//! The messages of a prompt, as they go to a provider.

use std::borrow::Cow;

use buf_list::BufList;
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::json::Raw;

/// From this size on, in bytes, a piece goes to a provider from where it is: smaller ones are copied sooner than listed.
const LARGE: usize = 2 * 1_024;

/// Messages in order, as JSON. What never changes of a conversation is joined once and not again for each turn.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    pieces: Vec<Piece>,
    count: usize,
}

/// Some messages in a row, with a comma between each.
#[derive(Clone, Debug)]
struct Piece {
    text: Raw,
    messages: usize,
}

impl Piece {
    fn is_large(&self) -> bool {
        self.text.bytes().len() >= LARGE
    }
}

impl Transcript {
    /// An empty one with room for so many pieces.
    pub fn with_capacity(pieces: usize) -> Self {
        Self { pieces: Vec::with_capacity(pieces), count: 0 }
    }

    /// Adds a message.
    pub fn push(&mut self, message: Raw) {
        self.push_joined(message, 1);
    }

    /// Adds messages that are joined already.
    pub fn push_joined(&mut self, text: Raw, messages: usize) {
        self.pieces.push(Piece { text, messages });
        self.count += messages;
    }

    /// How many messages there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// In how many pieces they are.
    #[cfg(test)]
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// How long the list is about, in bytes.
    pub fn size(&self) -> usize {
        self.pieces.iter().map(|piece| piece.text.bytes().len() + 1).sum()
    }

    /// How much of it [`Self::write`] writes, about, in bytes.
    pub fn size_of_small(&self) -> usize {
        let size = |piece: &Piece| if piece.is_large() { 1 } else { piece.text.bytes().len() + 1 };
        self.pieces.iter().map(size).sum()
    }

    /// Writes the messages behind each other, with a comma between each; of large pieces, which stay where they are, it
    /// tells where in `out` they belong.
    pub fn write(&self, out: &mut Vec<u8>) -> Vec<(usize, Bytes)> {
        let mut large = Vec::new();
        for (at, piece) in self.pieces.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            match piece.is_large() {
                true => large.push((out.len(), piece.text.bytes().clone())),
                false => out.extend_from_slice(piece.text.bytes()),
            }
        }
        large
    }

    /// All of it, as it is written.
    #[cfg(test)]
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        let large = self.write(&mut out);
        let whole: Vec<u8> = spliced(out.into(), large).into_iter().flatten().collect();
        String::from_utf8(whole).expect("text")
    }

    /// The same of what `tell` makes of each message, all of it written.
    pub fn write_each(&self, out: &mut Vec<u8>, tell: impl for<'a> Fn(&'a Raw) -> Cow<'a, Raw>) {
        for (at, message) in self.messages().iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(tell(message).bytes());
        }
    }

    /// Each message alone, for providers that do not get them as they are.
    pub fn messages(&self) -> Vec<Raw> {
        let mut alone = Vec::with_capacity(self.count);
        for Piece { text, messages } in &self.pieces {
            match messages {
                1 => alone.push(text.clone()),
                _ => alone.extend(parted(text)),
            }
        }
        alone
    }
}

impl FromIterator<Raw> for Transcript {
    fn from_iter<I: IntoIterator<Item = Raw>>(messages: I) -> Self {
        let mut all = Self::default();
        messages.into_iter().for_each(|message| all.push(message));
        all
    }
}

/// `text` with each of the `large` pieces where it belongs there.
pub fn spliced(text: Bytes, large: Vec<(usize, Bytes)>) -> BufList {
    if large.is_empty() {
        return text.into();
    }
    let mut whole = BufList::with_capacity(2 * large.len() + 1);
    let mut from = 0;
    for (at, piece) in large {
        whole.push_chunk(text.slice(from..at));
        whole.push_chunk(piece);
        from = at;
    }
    whole.push_chunk(text.slice(from..));
    whole
}

/// The messages of a piece.
fn parted(joined: &Raw) -> Vec<Raw> {
    let list = Bytes::from([b"[", &joined.bytes()[..], b"]"].concat());
    let parts: Vec<&RawValue> = serde_json::from_slice(&list).unwrap_or_default();
    parts.into_iter().map(|part| Raw::trusted(list.slice_ref(part.get().as_bytes()))).collect()
}

/// Joins messages, and says where each of them stands then.
pub fn join<'a>(messages: impl ExactSizeIterator<Item = &'a Raw> + Clone) -> (Raw, Vec<Raw>) {
    let size = messages.clone().map(|message| message.bytes().len() + 1).sum();
    let mut text = Vec::with_capacity(size);
    let mut places = Vec::with_capacity(messages.len());
    for message in messages {
        if !text.is_empty() {
            text.push(b',');
        }
        let from = text.len();
        text.extend_from_slice(message.bytes());
        places.push(from..text.len());
    }
    let joined = Bytes::from(text);
    let parts = places.into_iter().map(|place| Raw::trusted(joined.slice(place))).collect();
    (Raw::trusted(joined), parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_piece_is_not_copied_and_stands_where_it_would_if_it_were() {
        let said = |size: usize| Raw::of(&serde_json::json!({"content": "x".repeat(size)}));
        let sizes = [[0, LARGE, LARGE, 0], [LARGE, 0, 0, LARGE], [LARGE; 4], [0; 4]];
        for said in sizes.map(|sizes| sizes.map(said)) {
            let texts: Vec<_> = said.iter().map(Raw::text).collect();
            let transcript: Transcript = said.iter().cloned().collect();
            assert_eq!(transcript.text(), texts.join(","));
            let large = transcript.write(&mut Vec::new());
            let own = said.iter().filter(|message| message.bytes().len() >= LARGE);
            assert!(
                large.iter().map(|(_, piece)| piece.as_ptr()).eq(own.map(|message| message.bytes().as_ptr()))
            );
        }
    }

    #[test]
    fn joined_messages_are_written_and_parted_as_if_they_were_not() {
        let said = [r#"{"role":"user","content":"a, b"}"#, r#"{ "content" : [{}], "role":"user" }"#, "{}"];
        let said: Vec<Raw> = said.into_iter().map(Raw::trusted).collect();
        let alone: Transcript = said.iter().cloned().collect();
        let (joined, parts) = join(said.iter());
        assert_eq!(parts, said);
        let mut whole = Transcript::with_capacity(2);
        whole.push_joined(joined, said.len());
        whole.push(said[0].clone());
        let all = [said.as_slice(), &said[..1]].concat();
        assert_eq!((whole.count(), whole.messages()), (4, all.clone()));
        assert_eq!(whole.text(), all.into_iter().collect::<Transcript>().text());
        assert_eq!(format!("{},{}", alone.text(), said[0].text()), whole.text());
    }
}
