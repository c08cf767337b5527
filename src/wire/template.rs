//! What is written for chunks that differ in nothing but what they say: the same bytes around the same letters.

use bytes::Bytes;
use memchr::memmem;

use crate::conversation::shape::Known;
use crate::wire::sse::Events;

/// Stands in a chunk for its text, while it is found out what is written around it.
const TEXT: &[u8] = b"this is where the text of a chunk goes";
/// The same for its padding.
const PADDING: &[u8] = b"this-is-where-the-padding-of-a-chunk-goes";

/// How the last chunk was written, for the next ones of its shape.
#[derive(Default)]
pub struct Template(Known<Parts>);

/// What is around text and padding. The padding is not always written.
struct Parts {
    before: Box<[u8]>,
    after: Box<[u8]>,
    end: Option<Box<[u8]>>,
}

impl Template {
    /// Writes a chunk as one before it was, as an event of its own; `false` if it is of another shape.
    pub fn write(&mut self, chunk: &[u8], out: &mut Events) -> bool {
        let Some((said, parts)) = self.0.said(chunk) else { return false };
        // In a field that nobody reads it may be no text, and then nothing is written.
        if !said.plain && std::str::from_utf8(said.text).is_err() {
            return false;
        }
        if let Some(out) = out.event() {
            out.put(&parts.before);
            out.put(said.text);
            out.put(&parts.after);
            if let Some(end) = &parts.end {
                out.put(said.padding);
                out.put(end);
            }
        }
        true
    }

    /// Learns how a chunk is written, if that is one event: `written` tells it of any chunk.
    pub fn learn(&mut self, chunk: &[u8], written: impl FnOnce(&Bytes) -> Option<Vec<u8>>) {
        self.0.learn(chunk, |shape, _| {
            let written = written(&shape.saying(TEXT, PADDING).into())?;
            let (before, rest) = cut(&written, TEXT)?;
            let (after, end) = cut(rest, PADDING).map_or((rest, None), |(after, end)| (after, Some(end)));
            let twice = [TEXT, PADDING].into_iter().any(|mark| {
                [before, after, end.unwrap_or_default()]
                    .into_iter()
                    .any(|part| memmem::find(part, mark).is_some())
            });
            (!twice).then(|| Parts { before: before.into(), after: after.into(), end: end.map(Box::from) })
        });
    }
}

fn cut<'a>(text: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memmem::find(text, mark)?;
    Some((&text[..at], &text[at + mark.len()..]))
}

#[cfg(test)]
mod tests;
