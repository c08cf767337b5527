//! JSON text passed over once, to find the parts of it that somebody wants.
//!
//! serde knows all that JSON can be, and takes its time for it. What is passed over here is checked as strictly, but it is
//! given up where it is unusual: escapes in a name that is asked for, arrays and objects that lie deeper than anybody
//! writes them. Who is told `None` reads the text with serde, which also knows what is wrong with it.

use std::borrow::Cow;
use std::ops::Range;

use crate::json::Key;

/// How deep arrays and objects that are passed over may lie in each other. Less than serde reads.
const DEPTH: usize = 64;
/// A number of more digits may be beyond what can be read.
const DIGITS: usize = 100;

/// A place in a text. What a method answers was JSON as far as that place.
pub struct Scan<'a> {
    text: &'a str,
    at: usize,
    readable: bool,
}

impl<'a> Scan<'a> {
    /// What `read` makes of a text that holds one value, which it has to pass to its end.
    pub fn of<T>(text: &'a [u8], read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        #[cfg(test)]
        if super::carefully::is_on() {
            return None;
        }
        let mut scan = Self { text: std::str::from_utf8(text).ok()?, at: 0, readable: true };
        let read = read(&mut scan)?;
        scan.next().is_none().then_some(read)
    }

    /// Whether serde can also read what was passed so far into numbers and texts, and not only pass it: there may be
    /// half of a letter in it, or a number beyond all that a computer counts. `false` if that is not certain.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// The first byte of the value that comes.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        self.next()
    }

    /// Passes an object. `field` is given each name and passes its value.
    pub fn object(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        self.list(b'}', |scan| {
            let name = scan.plain()?;
            scan.take(b':')?;
            field(scan, name)
        })
    }

    /// Passes an array. `item` passes each value.
    pub fn array(&mut self, item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(b'[')?;
        self.list(b']', item)
    }

    /// Passes any value; answers its text.
    pub fn value(&mut self) -> Option<&'a str> {
        self.around(|scan| scan.pass(DEPTH)).map(|(text, ())| text)
    }

    /// The text of the value that `read` passes, and what it makes of it.
    #[inline]
    pub fn around<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<(&'a str, T)> {
        self.next()?;
        let from = self.at;
        let read = read(self)?;
        Some((self.text.get(from..self.at)?, read))
    }

    /// Where a part of the text stands that was answered.
    #[inline]
    pub fn place(&self, part: &str) -> Range<usize> {
        let from = part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        from..from + part.len()
    }

    /// The text that stands there.
    pub fn at(&self, place: &Range<usize>) -> Option<&'a str> {
        self.text.get(place.clone())
    }

    /// Passes a number that is whole and not negative, as digits alone.
    pub fn count(&mut self) -> Option<u64> {
        self.value()?.parse().ok()
    }

    /// Passes a string without escapes; answers what it says.
    #[inline]
    pub fn plain(&mut self) -> Option<&'a str> {
        let (inside, escapes) = self.string()?;
        (!escapes).then_some(inside)
    }

    /// Passes a string; answers what it says.
    pub fn text(&mut self) -> Option<Cow<'a, str>> {
        match self.around(Self::string)? {
            (_, (inside, false)) => Some(Cow::Borrowed(inside)),
            (quoted, (inside, true)) => {
                let text = unescaped(inside).map(Cow::Owned);
                text.or_else(|| serde_json::from_str(quoted).ok().map(|Key(text)| text))
            }
        }
    }

    /// Passes `null`, if that comes.
    pub fn null(&mut self) -> bool {
        self.next() == Some(b'n') && self.word("null").is_some()
    }

    /// The first byte that is no blank. It is not passed.
    #[inline]
    fn next(&mut self) -> Option<u8> {
        loop {
            match *self.text.as_bytes().get(self.at)? {
                b' ' | b'\n' | b'\t' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    #[inline]
    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then(|| self.at += 1)
    }

    /// What `one` passes, with commas between, up to and with `close`.
    fn list(&mut self, close: u8, mut one: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        if self.next()? == close {
            self.at += 1;
            return Some(());
        }
        loop {
            one(self)?;
            let next = self.next()?;
            self.at += 1;
            match next {
                b',' => {}
                next if next == close => return Some(()),
                _ => return None,
            }
        }
    }

    fn pass(&mut self, depth: usize) -> Option<()> {
        match self.next()? {
            b'"' => self.string().map(drop),
            b'{' => {
                self.at += 1;
                let depth = depth.checked_sub(1)?;
                self.list(b'}', |scan| {
                    scan.string()?;
                    scan.take(b':')?;
                    scan.pass(depth)
                })
            }
            b'[' => {
                self.at += 1;
                let depth = depth.checked_sub(1)?;
                self.list(b']', |scan| scan.pass(depth))
            }
            b'n' => self.word("null"),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let there = self.text.as_bytes().get(self.at..)?.starts_with(word.as_bytes());
        there.then(|| self.at += word.len())
    }

    /// Passes a string; answers what is between its quotation marks, and whether there are escapes in it.
    fn string(&mut self) -> Option<(&'a str, bool)> {
        self.take(b'"')?;
        let (text, from) = (self.text.as_bytes(), self.at);
        let mut escapes = false;
        loop {
            self.at += letters(text.get(self.at..)?);
            match text.get(self.at)? {
                b'"' => break,
                b'\\' => self.escape()?,
                _ => return None,
            }
            escapes = true;
        }
        self.at += 1;
        Some((self.text.get(from..self.at - 1)?, escapes))
    }

    fn escape(&mut self) -> Option<()> {
        let rest = self.text.as_bytes().get(self.at + 1..)?;
        match rest.first()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
            b'u' => {
                let digits = rest.get(1..5)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                self.readable &= !matches!(digits[0], b'd' | b'D');
                self.at += 6;
            }
            _ => return None,
        }
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let from = self.at;
        self.at += usize::from(self.is(b'-'));
        match self.is(b'0') {
            true => self.at += 1,
            false => self.digits()?,
        }
        if self.is(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if self.is(b'e') || self.is(b'E') {
            self.at += 1;
            self.at += usize::from(self.is(b'+') || self.is(b'-'));
            self.digits()?;
            self.readable = false;
        }
        self.readable &= self.at - from <= DIGITS;
        Some(())
    }

    #[inline]
    fn is(&self, byte: u8) -> bool {
        self.text.as_bytes().get(self.at) == Some(&byte)
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }
}

/// What the inside of a string says whose escapes are all of one letter.
fn unescaped(inside: &str) -> Option<String> {
    let mut text = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        text.push_str(&rest[..at]);
        text.push(match rest.as_bytes().get(at + 1)? {
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            letter @ (b'"' | b'\\' | b'/') => char::from(*letter),
            _ => return None,
        });
        rest = &rest[at + 2..];
    }
    text.push_str(rest);
    Some(text)
}

/// Puts a value where there is none yet: a name that stands twice is for who reads with care.
pub fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// How many bytes stand for themselves in a string before one that does not: a quotation mark, an escape, a control.
#[inline]
pub(super) fn letters(text: &[u8]) -> usize {
    // Most names and values end in the first word.
    if let Some(word) = text.first_chunk() {
        let found = others(u64::from_le_bytes(*word));
        if found != 0 {
            return (found.trailing_zeros() / 8) as usize;
        }
    }
    let (words, rest) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let found = others(u64::from_le_bytes(*word));
        if found != 0 {
            return at * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let letter = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    words.len() * 8 + rest.iter().take_while(|byte| letter(byte)).count()
}

/// The high bit of the first byte of a word that does not stand for itself; bits of bytes after it may be set too.
fn others(word: u64) -> u64 {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    let below = |word: u64, bound: u8| word.wrapping_sub(EACH * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    (below(word, b' ') | is(b'"') | is(b'\\')) & HIGH
}

#[cfg(test)]
mod tests;
