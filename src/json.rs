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
        String::from_utf8_lossy(&self.0)
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

impl<W: io::Write> ObjectWriter<W> {
    /// Starts an object at the end of `out`, which takes everything.
    pub fn into(out: W) -> Self {
        let mut writer = Self { out, empty: true };
        writer.text(b"{");
        writer
    }

    /// Adds a field whose value is JSON text.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        self.name(name).text(value);
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
            self.text(b",");
        }
        write_string(&mut self.out, name);
        self.text(b":");
        self
    }

    /// Where the object goes.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Ends the object.
    pub fn close(mut self) -> W {
        self.text(b"}");
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
pub fn write_string(out: &mut impl io::Write, text: &str) {
    let mut put = |text: &[u8]| out.write_all(text).expect("memory takes everything");
    let mut rest = text.as_bytes();
    put(b"\"");
    loop {
        let (letters, others) = rest.split_at(scan::letters(rest));
        put(letters);
        let Some((other, after)) = others.split_first() else { break };
        match other {
            b'"' => put(b"\\\""),
            b'\\' => put(b"\\\\"),
            b'\n' => put(b"\\n"),
            b'\r' => put(b"\\r"),
            b'\t' => put(b"\\t"),
            0x08 => put(b"\\b"),
            0x0c => put(b"\\f"),
            control => put(format!("\\u{control:04x}").as_bytes()),
        }
        rest = after;
    }
    put(b"\"");
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
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_its_order_and_its_unknown_fields() {
        let text = Bytes::from_static(br#"{ "b" : 1.50, "a\n":{"x": [1, 2]}, "b":"last" }"#);
        let mut fields = Fields::parse(&text).expect("an object");
        assert_eq!(&fields.get("b").expect("b").bytes()[..], b"\"last\"");
        fields.set("c", Raw::of(&true));
        assert_eq!(&fields.to_raw().bytes()[..], br#"{"b":"last","a\n":{"x": [1, 2]},"c":true}"#);
        fields.remove("b");
        assert_eq!(&fields.to_raw().bytes()[..], br#"{"a\n":{"x": [1, 2]},"c":true}"#);
    }

    #[test]
    fn a_string_is_written_as_serde_writes_it() {
        let controls: String = (0..=0x1f).chain(0x7e..=0xa1).filter_map(char::from_u32).collect();
        for text in ["", "a", "a \"word\" and \\ and / and größer\n", "日本\u{2028}\u{1f600}", &controls]
        {
            let mut written = Vec::new();
            write_string(&mut written, text);
            assert_eq!(written, serde_json::to_vec(text).expect("JSON"), "{text:?}");
        }
    }

    #[test]
    fn an_object_is_the_same_however_it_is_read() {
        let mut scanned = 0;
        for seed in 0..20_000 {
            let mut random = random::Random(seed);
            let how = random::Oddness::any(&mut random);
            let text = random.value(3, how);
            let text = if random.chance(10) { random.damaged(&text) } else { text.into_bytes() };
            let text = Bytes::from(text);
            let shown = |fields: serde_json::Result<Fields>| {
                fields.map(|fields| format!("{fields:?}")).map_err(|cause| cause.to_string())
            };
            let careful = carefully::run(|| shown(Fields::parse(&text)));
            assert_eq!(shown(Fields::parse(&text)), careful, "{}", text.escape_ascii());
            scanned += u32::from(Fields::scanned(&text).is_some());
        }
        assert!(scanned > 2_000, "{scanned}");
        let many = |count: usize| Bytes::from(format!("{{{}}}", vec!["\"a\":1"; count].join(",")));
        assert!(Fields::parse(&many(MAX_FIELDS)).is_ok());
        assert!(Fields::parse(&many(MAX_FIELDS + 1)).is_err());
    }

    #[test]
    fn null_is_there_but_not_given() {
        let fields = Fields::parse(&Bytes::from_static(b"{\"a\":null}")).expect("an object");
        assert!(fields.get("a").is_some());
        assert!(fields.given("a").is_none());
        let mut fields = fields;
        fields.drop_nulls();
        assert!(fields.get("a").is_none());
    }

    #[test]
    fn half_of_a_letter_is_no_unicode() {
        for text in [r#""a""#, r#""\\ud800""#, r#"{"a":"\ud83d\uDE00"}"#, r#""\u0000""#] {
            assert!(is_unicode(text.as_bytes()), "{text}");
        }
        for text in [r#""\ud800""#, r#"{"\uDC00":1}"#, r#"["\udc00\ud800"]"#] {
            assert!(!is_unicode(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_shallow(nested(MAX_DEPTH).as_bytes()));
        assert!(!is_shallow(nested(MAX_DEPTH + 1).as_bytes()));
        assert!(!is_shallow("{\"a\":".repeat(1_000_000).as_bytes()));
        assert!(is_shallow(format!("[{}]", nested(MAX_DEPTH - 1).repeat(50)).as_bytes()));
        assert!(is_shallow(format!("{{\"a\\\"{}\":\"{}\\\\\"}}", nested(300), nested(300)).as_bytes()));
        assert!(!is_shallow(format!("[\"\\\\\",{}]", nested(MAX_DEPTH)).as_bytes()));
        assert!(is_shallow(b"\"\\") && is_shallow(b"\"") && is_shallow(b""));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "1", "{", "{\"a\":}", "{} x"] {
            assert!(Fields::parse(&Bytes::from_static(text.as_bytes())).is_err(), "{text}");
        }
    }
}
