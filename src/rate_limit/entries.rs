//! What is remembered of keys and accounts, so that a million of them take little room. Plain.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::rate_limit::bucket::{Bucket, Ticks};
use crate::rate_limit::table::Class;

/// A key or an account: a keyed digest of its id, so that a million of them take little room. Two of them that meet,
/// which happens once in 2^64 pairs, share their buckets.
pub type Subject = u64;

/// What is known of a key or an account.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    pub chat: Bucket,
    pub management: Bucket,
    pub tokens: Bucket,
    pub running: u32,
}

/// A subject is a digest already.
#[derive(Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not used: subjects are numbers.
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// By subject.
pub type Map<T> = HashMap<Subject, T, BuildHasherDefault<AsItIs>>;

/// Parts of [`Entries`].
const PARTS: usize = 16;

/// What is known of subjects, in parts that grow one after the other: to grow takes a part's time, and a part's room.
#[derive(Clone, Default)]
pub struct Entries {
    parts: [Map<Entry>; PARTS],
    pub len: usize,
}

impl Entries {
    /// Maps go by the lowest and the highest bits.
    fn part(subject: Subject) -> usize {
        usize::try_from(subject >> 40).unwrap_or(0) % PARTS
    }

    pub fn get(&self, subject: Subject) -> Option<&Entry> {
        self.parts[Self::part(subject)].get(&subject)
    }

    pub fn get_mut(&mut self, subject: Subject) -> Option<&mut Entry> {
        self.parts[Self::part(subject)].get_mut(&subject)
    }

    pub fn put(&mut self, subject: Subject, entry: Entry) {
        self.len += usize::from(self.parts[Self::part(subject)].insert(subject, entry).is_none());
    }

    pub fn values(&self) -> impl Iterator<Item = &Entry> {
        self.parts.iter().flat_map(Map::values)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) {
        for part in &mut self.parts {
            part.retain(|_, entry| keep(entry));
            if part.capacity() > 4 * part.len().max(256) {
                part.shrink_to(2 * part.len());
            }
        }
        self.len = self.parts.iter().map(Map::len).sum();
    }
}

impl Entry {
    /// The bucket of a class of calls.
    pub fn requests(&mut self, class: Class) -> &mut Bucket {
        match class {
            Class::Chat => &mut self.chat,
            Class::Management => &mut self.management,
        }
    }

    /// When the last of its buckets will be full again, or was.
    pub fn latest(&self) -> Ticks {
        self.chat.tat().max(self.management.tat()).max(self.tokens.tat())
    }
}
