//! JSON kept as the bytes it came in.
//!
//! What passes through is not parsed further than needed: an object is an ordered list of names and raw
//! values, so unknown fields reach the other side untouched.

#[cfg(test)]
pub mod random;
mod scan;

use std::borrow::Cow;
use std::fmt;
use std::io;

use bytes::Bytes;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

pub use scan::{Scan, once};

/// The most fields that an object of a request may have at its top level.
pub const MAX_FIELDS: usize = 512;

/// How deep arrays and objects of a request may lie in each other. What reads them further on recurses.
pub const MAX_DEPTH: usize = 100;

/// Whether no array or object in `text` lies deeper than [`MAX_DEPTH`], if it is JSON at all. Uses no stack.
pub fn is_shallow(text: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = end_of_string(text, at + 1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return false;
        }
        at += 1;
    }
    true
}

/// Where the quotation mark stands that ends a string which begins at `at`.
pub(crate) fn end_of_string(text: &[u8], mut at: usize) -> usize {
    loop {
        match memchr::memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) {
            Some(found) if text[at + found] == b'\\' => at += found + 2,
            Some(found) => return at + found,
            None => return text.len(),
        }
    }
}

/// Whether every string in `text`, which is JSON, is Unicode: an escape can also be half of a letter.
pub fn is_unicode(text: &[u8]) -> bool {
    let escapes = |of: &[u8]| memchr::memmem::find(text, of).is_some();
    if !escapes(b"\\ud") && !escapes(b"\\uD") {
        return true;
    }
    serde_json::from_slice::<serde_json::Value>(text).is_ok()
}

/// JSON text that was checked, as the bytes it came in. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Raw(Bytes);

impl Raw {
    /// `value` as JSON.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        // Only maps with keys that are no strings, and failing `Serialize`s, cannot be written; we have none.
        Self(serde_json::to_vec(value).expect("plain data can be written as JSON").into())
    }

    /// Takes text that is known to be JSON.
    pub fn trusted(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// Checks that `text` is JSON and takes it.
    pub fn parse(text: impl Into<Bytes>) -> serde_json::Result<Self> {
        let text = text.into();
        serde_json::from_slice::<serde::de::IgnoredAny>(&text)?;
        Ok(Self(text))
    }

    /// The text.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The same in memory of its own: a slice of a request would keep all of it.
    pub fn alone(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// The text, for a column of the database.
    pub fn text(&self) -> Cow<'_, str> {
        // It is text, and seen to be so faster than where it is mended.
        match std::str::from_utf8(&self.0) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(&self.0),
        }
    }

    /// Reads the value as a `T` that owns what it holds.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.0)
    }

    /// Reads the value as a `T` that borrows from it.
    pub fn peek<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.0)
    }

    /// Whether the value is `null`.
    pub fn is_null(&self) -> bool {
        &self.0[..] == b"null"
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text())
    }
}

/// An object's fields in order, borrowed from its text. A name that stands twice is kept twice.
pub struct Object<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(12);
                while let Some(Key(name)) = map.next_key()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Fields).map(Object)
    }
}

/// A name of a field, borrowed unless it holds an escape.
#[derive(Deserialize)]
pub struct Key<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// An object's fields in order, each a slice of its text. A name stands once; what came last counts.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<(Box<str>, Raw)>);

impl Fields {
    /// Reads an object.
    ///
    /// # Errors
    /// When `text` is not a JSON object, or has more than [`MAX_FIELDS`] fields.
    pub fn parse(text: &Bytes) -> serde_json::Result<Self> {
        if let Some(fields) = Self::scanned(text) {
            return Ok(fields);
        }
        let Object(list) = serde_json::from_slice(text)?;
        if list.len() > MAX_FIELDS {
            return Err(serde::de::Error::custom(format!("an object with more than {MAX_FIELDS} fields")));
        }
        let mut fields = Self(Vec::with_capacity(list.len() + 4));
        for (name, value) in list {
            fields.set(&name, Raw(text.slice_ref(value.get().as_bytes())));
        }
        Ok(fields)
    }

    /// The same, if the object is written as most are.
    fn scanned(text: &Bytes) -> Option<Self> {
        let mut fields = Self(Vec::with_capacity(16));
        let mut count = 0;
        Scan::of(text, |scan| {
            scan.object(|scan, name| {
                count += 1;
                fields.set(name, Raw(text.slice_ref(scan.value()?.as_bytes())));
                (count <= MAX_FIELDS).then_some(())
            })
        })?;
        Some(fields)
    }

    /// The value of `name`, if it is there.
    pub fn get(&self, name: &str) -> Option<&Raw> {
        self.0.iter().find(|(own, _)| **own == *name).map(|(_, value)| value)
    }

    /// The value of `name`, if it is there and not `null`.
    pub fn given(&self, name: &str) -> Option<&Raw> {
        self.get(name).filter(|value| !value.is_null())
    }

    /// Puts `value` in the place of `name`, or at the end.
    pub fn set(&mut self, name: &str, value: Raw) {
        match self.0.iter_mut().find(|(own, _)| **own == *name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// Takes `name` out.
    pub fn remove(&mut self, name: &str) -> Option<Raw> {
        let at = self.0.iter().position(|(own, _)| **own == *name)?;
        Some(self.0.remove(at).1)
    }

    /// Puts a value at the end where `name` is not there yet; tells whether it did.
    pub fn set_if_absent(&mut self, name: &str, value: impl FnOnce() -> Raw) -> bool {
        let absent = self.get(name).is_none();
        if absent {
            self.0.push((name.into(), value()));
        }
        absent
    }

    /// Keeps the fields whose name `keep` agrees to.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// Takes out every field whose value is `null`.
    pub fn drop_nulls(&mut self) {
        self.0.retain(|(_, value)| !value.is_null());
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Raw)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// The object's text.
    pub fn to_raw(&self) -> Raw {
        let size: usize = self.0.iter().map(|(name, value)| name.len() + value.0.len() + 4).sum();
        let mut out = ObjectWriter::with_capacity(size + 2);
        for (name, value) in self.iter() {
            out.field(name, value.bytes());
        }
        Raw(out.finish())
    }
}

/// Writes an object field by field from text that is JSON already.
pub struct ObjectWriter<W = Vec<u8>> {
    out: W,
    empty: bool,
}

impl ObjectWriter {
    /// Starts an object of about `size` bytes.
    pub fn with_capacity(size: usize) -> Self {
        Self::into(Vec::with_capacity(size))
    }

    /// The object's text.
    pub fn finish(self) -> Bytes {
        self.close().into()
    }
}

/// Takes text, which it never refuses.
pub trait Sink: io::Write {
    /// Adds one byte of ASCII.
    fn byte(&mut self, byte: u8) {
        self.write_all(&[byte]).expect("memory takes everything");
    }
}

impl Sink for Vec<u8> {
    fn byte(&mut self, byte: u8) {
        self.push(byte);
    }
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn byte(&mut self, byte: u8) {
        (**self).byte(byte);
    }
}

impl<W: Sink> ObjectWriter<W> {
    /// Starts an object at the end of `out`, which takes everything.
    pub fn into(out: W) -> Self {
        let mut writer = Self { out, empty: true };
        writer.out.byte(b'{');
        writer
    }

    /// Adds a field whose value is JSON text.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        self.name(name).text(value);
    }

    /// Adds a field whose name has nothing that would be escaped.
    pub fn plain(&mut self, name: &[u8], value: &[u8]) {
        self.fields(b"\"");
        self.text(name);
        self.text(b"\":");
        self.text(value);
    }

    /// Adds fields that are written as they would be here, without blanks around them.
    pub fn fields(&mut self, fields: &[u8]) {
        if !std::mem::take(&mut self.empty) {
            self.out.byte(b',');
        }
        self.text(fields);
    }

    /// Adds a field whose value is a string.
    pub fn string(&mut self, name: &str, value: &str) {
        self.name(name);
        write_string(&mut self.out, value);
    }

    /// Adds a field whose value is written as JSON.
    pub fn value<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.name(name).write(value);
    }

    /// Starts a field, whose value the caller writes to [`Self::out`].
    pub fn name(&mut self, name: &str) -> &mut Self {
        if !std::mem::take(&mut self.empty) {
            self.out.byte(b',');
        }
        write_string(&mut self.out, name);
        self.out.byte(b':');
        self
    }

    /// Where the object goes.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Ends the object.
    pub fn close(mut self) -> W {
        self.out.byte(b'}');
        self.out
    }

    fn text(&mut self, text: &[u8]) {
        self.out.write_all(text).expect("memory takes everything");
    }

    fn write<T: Serialize + ?Sized>(&mut self, value: &T) {
        serde_json::to_writer(&mut self.out, value).expect("plain data can be written as JSON");
    }
}

/// Writes a string as serde does, which takes longer to see that there is nothing to be escaped.
pub fn write_string(out: &mut impl Sink, text: &str) {
    let mut rest = text.as_bytes();
    out.byte(b'"');
    loop {
        let (letters, others) = rest.split_at(scan::letters(rest));
        out.write_all(letters).expect("memory takes everything");
        let Some((other, after)) = others.split_first() else { break };
        let letter = match other {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            b'"' | b'\\' => *other,
            control => {
                write!(out, "\\u{control:04x}").expect("memory takes everything");
                rest = after;
                continue;
            }
        };
        out.byte(b'\\');
        out.byte(letter);
        rest = after;
    }
    out.byte(b'"');
}

/// What is wrong with a text that is no such JSON, without the text itself, which serde's own words quote.
pub fn where_it_went_wrong(cause: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let what = match cause.classify() {
        Category::Io => "it cannot be read",
        Category::Syntax => "it is not JSON",
        Category::Data => "a value is of another type, or missing",
        Category::Eof => "it ends too early",
    };
    format!("{what} (line {}, column {})", cause.line(), cause.column())
}

/// For tests that compare what comes of a text when all of it is read with care, and nothing of it only looked at.
#[cfg(test)]
pub mod carefully {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether it is now.
    pub fn is_on() -> bool {
        ON.get()
    }

    /// What `work` comes to with care.
    pub fn run<T>(work: impl FnOnce() -> T) -> T {
        ON.set(true);
        let done = work();
        ON.set(false);
        done
    }
}

#[cfg(test)]
mod tests;
