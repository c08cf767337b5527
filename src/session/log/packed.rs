//! Chunks that have been read, kept small for readers that come back.
//!
//! Chunks of one stream differ in little but what they say ([`shape`](crate::conversation::shape)): where one is kept as
//! it came, those like it behind it are kept as their text alone. They lie in blocks, each of which can be read without
//! the others and goes as a whole.
//!
//! A block is a row of records. Each begins with a byte: the number of a model in its upper two bits, and the length of a
//! text in the others, which are the text and the padding of a chunk like that model (the latter behind its length, a
//! byte, if the model has any). A text of [`LONG`] bytes or more has its length in two bytes of its own. Without a text
//! it is a chunk as it came, behind its length in two bytes: [`WHOLE`], or [`MODEL`], then behind where its text and its
//! padding are, too. A block has as many as [`MODELS`]; the next one takes the place of the oldest.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::conversation::shape::Holes;

/// The size of a block, in bytes, unless one chunk takes more.
pub const BLOCK: usize = 2 * 1024;
/// From this size on, in bytes, a chunk is kept in the memory that it came in.
pub const LARGE: usize = 4 * 1024;
/// Chunks of a block that others are compared with.
const MODELS: usize = 4;
/// So many chunks in a row that are like no other, and no more is made of them than bytes.
const TRIES: u8 = 16;
/// The first byte of a chunk that no other is like.
const WHOLE: u8 = 0;
/// The first byte of one that others may be like.
const MODEL: u8 = 1 << TEXT_BITS;
/// Bits of the first byte for the length of a text.
const TEXT_BITS: u32 = 6;
/// What stands there for the length of a text that is this long or longer.
const LONG: u8 = (1 << TEXT_BITS) - 1;
/// The bytes before a chunk that is a model: the first one and five numbers.
const MODEL_HEAD: usize = 1 + 5 * 2;
/// The most that there is beside the text and the padding of a chunk that is like a model.
const LIKE_HEAD: usize = 1 + 2 + 1;
/// What a block takes beside its bytes.
const BLOCK_HEAD: usize = size_of::<Block>();

/// The chunks, in blocks.
#[derive(Default)]
pub struct Packed {
    blocks: VecDeque<Block>,
    /// The models of the newest block.
    models: Models,
    /// The one that was of use last.
    recent: usize,
    /// Chunks in a row that were like no other.
    tries: u8,
    /// The number after the newest event.
    next: u64,
    /// The weight of all events before that, as they came.
    end: u64,
    /// What all blocks take.
    taken: usize,
}

struct Block {
    /// The number of its first event.
    first: u64,
    /// The weight of all events before it, as they came.
    before: u64,
    chunks: Chunks,
}

enum Chunks {
    Rows(Vec<u8>),
    Large(Bytes),
}

impl Block {
    fn taken(&self) -> usize {
        BLOCK_HEAD
            + match &self.chunks {
                Chunks::Rows(rows) => rows.capacity(),
                Chunks::Large(chunk) => chunk.len(),
            }
    }
}

/// A chunk of a block that others are compared with, by where it is there.
#[derive(Clone, Copy, Default)]
struct Model {
    chunk: u16,
    length: u16,
    text: u16,
    text_end: u16,
    padding: u16,
    padding_end: u16,
}

impl Model {
    /// The one whose record begins there.
    fn at(rows: &[u8], at: usize) -> Self {
        let [length, text, text_end, padding, padding_end] =
            [0, 1, 2, 3, 4].map(|number| two_at(rows, at + 1 + 2 * number));
        let chunk = u16::from_le_bytes(two(at + MODEL_HEAD));
        Self { chunk, length, text, text_end, padding, padding_end }
    }

    /// What is around its text.
    fn around<'a>(&self, rows: &'a [u8]) -> Around<'a> {
        let chunk = &rows[usize::from(self.chunk)..][..usize::from(self.length)];
        Around {
            before: &chunk[..usize::from(self.text)],
            after: &chunk[usize::from(self.text_end)..usize::from(self.padding)],
            end: &chunk[usize::from(self.padding_end)..],
        }
    }
}

/// The models of a block.
#[derive(Clone, Copy, Default)]
struct Models {
    list: [Model; MODELS],
    /// How many there were.
    count: usize,
}

impl Models {
    fn add(&mut self, model: Model) {
        self.list[self.count % MODELS] = model;
        self.count += 1;
    }
}

/// The bytes of a chunk around its text and, where there is one, its padding: then there is an end.
#[derive(Clone, Copy)]
struct Around<'a> {
    before: &'a [u8],
    after: &'a [u8],
    end: &'a [u8],
}

impl Around<'_> {
    /// The text and the padding with which this becomes `chunk`. What they are is of no concern here.
    fn parts<'a>(&self, chunk: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let rest = chunk.strip_prefix(self.before)?;
        if self.end.is_empty() {
            return Some((rest.strip_suffix(self.after)?, b""));
        }
        let rest = rest.strip_suffix(self.end)?;
        let (front, padding) = rest.split_at(memchr::memrchr(b'"', rest)? + 1);
        Some((front.strip_suffix(self.after)?, padding))
    }
}

/// Where a reader stands.
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// The event that it reads next, and where that begins in its block.
    number: u64,
    at: usize,
    models: Models,
}

/// A chunk as it is kept.
enum Row<'a> {
    Whole(&'a [u8]),
    Like { around: Around<'a>, text: &'a [u8], padding: &'a [u8] },
}

impl Row<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Whole(chunk) => chunk.len(),
            Self::Like { around, text, padding } => {
                let around = around.before.len() + around.after.len() + around.end.len();
                around + text.len() + padding.len()
            }
        }
    }

    fn chunk(&self) -> Bytes {
        match self {
            Self::Whole(chunk) => Bytes::copy_from_slice(chunk),
            Self::Like { around, text, padding } => {
                [around.before, text, around.after, padding, around.end].concat().into()
            }
        }
    }
}

impl Place {
    /// The chunk at this place, which is the next one's then.
    fn step<'a>(&mut self, rows: &'a [u8]) -> Row<'a> {
        let head = rows[self.at];
        let begin = self.at + 1;
        self.number += 1;
        if head == WHOLE || head == MODEL {
            let chunk = if head == MODEL { self.at + MODEL_HEAD } else { begin + 2 };
            if head == MODEL {
                self.models.add(Model::at(rows, self.at));
            }
            self.at = chunk + number_at(rows, begin);
            return Row::Whole(&rows[chunk..self.at]);
        }
        let around = self.models.list[usize::from(head >> TEXT_BITS)].around(rows);
        let (length, begin) = match head & LONG {
            LONG => (number_at(rows, begin), begin + 2),
            short => (usize::from(short), begin),
        };
        let (text, rest) = rows[begin..].split_at(length);
        let padding = match rest {
            [length, rest @ ..] if !around.end.is_empty() => &rest[..usize::from(*length)],
            _ => &[],
        };
        self.at = begin + length + padding.len() + usize::from(!around.end.is_empty());
        Row::Like { around, text, padding }
    }
}

impl Packed {
    /// Adds event `number`, a chunk; the weights are those of all events before it and with it.
    pub fn push(&mut self, number: u64, before: u64, end: u64, chunk: &Bytes) {
        (self.next, self.end) = (number + 1, end);
        if chunk.len() >= LARGE {
            self.close();
            self.begin(Block { first: number, before, chunks: Chunks::Large(chunk.clone()) });
        } else if !self.push_like(chunk) {
            self.push_whole(number, before, chunk);
        }
    }

    fn begin(&mut self, block: Block) {
        self.taken += block.taken();
        self.blocks.push_back(block);
        (self.models, self.recent) = (Models::default(), 0);
    }

    fn rows(&mut self) -> Option<&mut Vec<u8>> {
        match &mut self.blocks.back_mut()?.chunks {
            Chunks::Rows(rows) => Some(rows),
            Chunks::Large(_) => None,
        }
    }

    /// Adds a chunk like one that is there, if there is one and room for it.
    fn push_like(&mut self, chunk: &[u8]) -> bool {
        let known = self.models.count.min(MODELS);
        // Nearly always it is like the one before it.
        if known == 0 || self.push_like_model(self.recent, chunk) {
            return known > 0;
        }
        (0..known).any(|model| model != self.recent && self.push_like_model(model, chunk))
    }

    fn push_like_model(&mut self, number: usize, chunk: &[u8]) -> bool {
        let model = self.models.list[number];
        let Some(rows) = self.rows() else { return false };
        let around = model.around(rows);
        let Some((text, padding)) = around.parts(chunk) else { return false };
        let padded = !around.end.is_empty();
        let Ok(padding_length) = u8::try_from(padding.len()) else { return false };
        if text.is_empty() || rows.len() + LIKE_HEAD + text.len() + padding.len() > rows.capacity() {
            return false;
        }
        let [model_bits, ..] = (number << TEXT_BITS).to_le_bytes();
        match u8::try_from(text.len()) {
            Ok(short) if short < LONG => rows.push(model_bits | short),
            _ => {
                rows.push(model_bits | LONG);
                rows.extend_from_slice(&two(text.len()));
            }
        }
        rows.extend_from_slice(text);
        if padded {
            rows.push(padding_length);
            rows.extend_from_slice(padding);
        }
        (self.recent, self.tries) = (number, 0);
        true
    }

    /// Adds a chunk as it is; others may be like it.
    fn push_whole(&mut self, number: u64, before: u64, chunk: &[u8]) {
        let holes = (self.tries < TRIES).then(|| Holes::of(chunk)).flatten();
        self.tries = self.tries.saturating_add(1);
        let needed = MODEL_HEAD + chunk.len();
        if self.rows().is_none_or(|rows| rows.len() + needed > rows.capacity()) {
            self.close();
            let rows = Vec::with_capacity(BLOCK.max(needed));
            self.begin(Block { first: number, before, chunks: Chunks::Rows(rows) });
        }
        let Some(rows) = self.rows() else { return };
        let at = rows.len();
        rows.push(if holes.is_some() { MODEL } else { WHOLE });
        rows.extend_from_slice(&two(chunk.len()));
        if let Some(Holes { text, padding }) = &holes {
            [text.start, text.end, padding.start, padding.end]
                .iter()
                .for_each(|number| rows.extend_from_slice(&two(*number)));
        }
        rows.extend_from_slice(chunk);
        if holes.is_some() {
            self.recent = self.models.count % MODELS;
            let model = self.rows().map(|rows| Model::at(rows, at));
            model.into_iter().for_each(|model| self.models.add(model));
        }
    }

    /// Gives back the room that the newest block does not need.
    pub fn close(&mut self) {
        let Some(rows) = self.rows() else { return };
        let before = rows.capacity();
        rows.shrink_to_fit();
        self.taken -= before - rows.capacity();
    }

    /// Event `number`, if it is here. A reader that reads on finds it from where it stands.
    pub fn get(&self, number: u64, place: &mut Place) -> Option<Bytes> {
        let block = self.block(number)?;
        let rows = match &block.chunks {
            Chunks::Large(chunk) => return Some(chunk.clone()),
            Chunks::Rows(rows) => rows,
        };
        if place.number != number || number == block.first {
            *place = Place { number: block.first, ..Place::default() };
        }
        while place.number < number {
            place.step(rows);
        }
        Some(place.step(rows).chunk())
    }

    /// The weight of all events before `number`, which is here, as they came.
    pub fn before(&self, number: u64, weight: impl Fn(usize) -> usize) -> u64 {
        let Some(block) = self.block(number) else { return self.end };
        let mut place = Place { number: block.first, ..Place::default() };
        let mut before = block.before;
        if let Chunks::Rows(rows) = &block.chunks {
            while place.number < number {
                before += weight(place.step(rows).length()) as u64;
            }
        }
        before
    }

    fn block(&self, number: u64) -> Option<&Block> {
        let after = self.blocks.partition_point(|block| block.first <= number);
        self.blocks.get(after.checked_sub(1)?).filter(|_| number < self.next)
    }

    /// The number of the oldest event.
    pub fn first(&self) -> Option<u64> {
        self.blocks.front().map(|block| block.first)
    }

    /// The number of the last event of the oldest block, and the weight of all up to and with it, as they came.
    pub fn oldest(&self) -> Option<(u64, u64)> {
        self.blocks.front()?;
        Some(self.blocks.get(1).map_or((self.next - 1, self.end), |second| (second.first - 1, second.before)))
    }

    /// Drops the oldest block, if there is one.
    pub fn drop_oldest(&mut self) -> bool {
        let dropped = self.blocks.pop_front();
        self.taken -= dropped.as_ref().map_or(0, Block::taken);
        dropped.is_some()
    }

    /// What all of it takes, in bytes.
    pub fn taken(&self) -> usize {
        self.taken
    }
}

/// A number below 64 Ki, as it is written.
fn two(number: usize) -> [u8; 2] {
    let [low, high, ..] = number.to_le_bytes();
    [low, high]
}

fn two_at(rows: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([rows[at], rows[at + 1]])
}

fn number_at(rows: &[u8], at: usize) -> usize {
    usize::from(two_at(rows, at))
}

#[cfg(test)]
mod tests;
