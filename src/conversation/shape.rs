//! Chunks of one stream that differ in nothing but what they say.
//!
//! A stream is hundreds of chunks with the same bytes before and after a few letters. Whoever has read one of them with
//! care knows the next one by those bytes, as long as what is between them is the inside of one string: then nothing
//! else about it can be different. Whatever does not fit is read with care again.

use std::ops::Range;

use memchr::memmem;

use crate::json::end_of_string;

/// Keys of what is said piece by piece; the first of them that is a text counts.
const SAID: [&str; 4] = ["\"content\"", "\"reasoning_content\"", "\"reasoning\"", "\"arguments\""];
/// The key of what hides how long a text is; it is another at each chunk.
const PADDING: &str = "\"obfuscation\"";
/// The largest chunk that is taken for one like others, in bytes.
const LARGEST: usize = 4 * 1024;
/// So many letters are looked at one by one.
const SHORT: usize = 32;
/// So many chunks in a row of which none fits, and no more is learnt in this stream.
const TRIES: u8 = 16;

/// Where the inside of a chunk's text is and, where there is one, that of its padding, which else is empty at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holes {
    /// The text.
    pub text: Range<usize>,
    /// What hides how long it is.
    pub padding: Range<usize>,
}

impl Holes {
    /// Those of a chunk that says something.
    pub fn of(chunk: &[u8]) -> Option<Self> {
        let begin = SAID.iter().find_map(|key| string_of(chunk, key, 0))?;
        let end = end_of_string(chunk, begin);
        let padding = string_of(chunk, PADDING, end);
        let padding = padding.map_or(chunk.len()..chunk.len(), |at| at..end_of_string(chunk, at));
        Some(Self { text: begin..end, padding })
    }
}

/// The bytes around a text and, where there is one, around its padding.
#[derive(Debug)]
pub struct Shape {
    before: Box<[u8]>,
    after: Box<[u8]>,
    /// What comes after the padding; nothing where there is none.
    end: Box<[u8]>,
}

/// What a chunk has of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// The string as it stands there, with its quotation marks. Not empty.
    pub quoted: &'a [u8],
    /// The same without them.
    pub text: &'a [u8],
    /// Whether it is ASCII that stands for itself. Else nobody has looked whether its escapes and letters are such.
    pub plain: bool,
    /// What hides its length: ASCII that stands for itself.
    pub padding: &'a [u8],
}

impl Shape {
    /// The shape of a chunk that says something.
    fn of(chunk: &[u8]) -> Option<Self> {
        let Holes { text, padding } = Holes::of(chunk)?;
        let (before, after, end) =
            (&chunk[..text.start], &chunk[text.end..padding.start], &chunk[padding.end..]);
        Some(Self { before: before.into(), after: after.into(), end: end.into() })
    }

    /// What a chunk of this shape says.
    fn said<'a>(&self, chunk: &'a [u8]) -> Option<Said<'a>> {
        let rest = chunk.strip_prefix(&*self.before)?;
        // Most texts are a few letters, for which a search by vectors takes longer to begin than this to end.
        let letters = rest.iter().take(SHORT).take_while(|byte| is_plain(**byte)).count();
        let plain = rest.get(letters) == Some(&b'"');
        let end = if plain { letters } else { end_of_string(rest, letters) };
        let (text, rest) = rest.split_at(end);
        let rest = rest.strip_prefix(&*self.after)?;
        let (padding, rest) = match self.end.is_empty() {
            true => rest.split_at(0),
            false => rest.split_at(end_of_string(rest, 0)),
        };
        let fits = *rest == *self.end && !text.is_empty() && padding.iter().all(|byte| is_plain(*byte));
        let begin = self.before.len();
        fits.then(|| Said { quoted: &chunk[begin - 1..=begin + text.len()], text, plain, padding })
    }

    /// A chunk of this shape.
    pub fn saying(&self, text: &[u8], padding: &[u8]) -> Vec<u8> {
        let padding = if self.end.is_empty() { &b""[..] } else { padding };
        [&self.before, text, &self.after, padding, &self.end].concat()
    }
}

/// Whether a byte of a string is a letter of ASCII that stands for itself.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Where the inside of the first string of that key begins, behind `from`. As quotation marks are escaped inside of
/// strings, nothing there is taken for a key.
fn string_of(chunk: &[u8], key: &str, from: usize) -> Option<usize> {
    let at = from + memmem::find(&chunk[from..], key.as_bytes())? + key.len();
    let rest = chunk[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let begin = chunk.len() - rest.strip_prefix(b"\"")?.len();
    let said = end_of_string(chunk, begin);
    (said > begin && said < chunk.len()).then_some(begin)
}

/// The shape that a stream's chunks had last, and what it means to who reads them.
#[derive(Debug)]
pub struct Known<T> {
    last: Option<(Shape, T)>,
    /// How many chunks were learnt from since one fitted.
    tries: u8,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { last: None, tries: 0 }
    }
}

impl<T> Known<T> {
    /// What a chunk says whose shape is known, and what the shape means.
    pub fn said<'a>(&mut self, chunk: &'a [u8]) -> Option<(Said<'a>, &mut T)> {
        let (shape, means) = self.last.as_mut().filter(|_| chunk.len() <= LARGEST)?;
        let said = shape.said(chunk)?;
        self.tries = 0;
        Some((said, means))
    }

    /// Learns from a chunk that was read with care, if its shape means something.
    pub fn learn(&mut self, chunk: &[u8], means: impl FnOnce(&Shape, Said<'_>) -> Option<T>) {
        if self.tries == TRIES || chunk.len() > LARGEST {
            return;
        }
        #[cfg(test)]
        if crate::json::carefully::is_on() {
            return;
        }
        self.tries += 1;
        if let Some(shape) = Shape::of(chunk)
            && let Some(said) = shape.said(chunk)
            && let Some(means) = means(&shape, said)
        {
            self.last = Some((shape, means));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(of: &str, chunk: &str) -> Option<(String, String)> {
        let said = Shape::of(of.as_bytes())?.said(chunk.as_bytes())?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        assert_eq!(text(said.quoted), format!("\"{}\"", text(said.text)));
        Some((text(said.text), text(said.padding)))
    }

    #[test]
    fn a_chunk_fits_if_it_differs_in_its_text_alone() {
        let of = r#"{"a":1,"content": "x","b":"content"}"#;
        for text in ["y", "a longer one", r#"\""#, r#"\\"#, r"\u00e9", "é", r#"\\\""#] {
            let chunk = format!(r#"{{"a":1,"content": "{text}","b":"content"}}"#);
            assert_eq!(fits(of, &chunk), Some((text.to_owned(), String::new())), "{text}");
        }
        for text in ["", r#"y","content":"z"#, r#"\"#, r#"\\""#, "\""] {
            let chunk = format!(r#"{{"a":1,"content": "{text}","b":"content"}}"#);
            assert_eq!(fits(of, &chunk), None, "{text}");
        }
        for cut in 0..of.len() {
            assert_eq!(fits(of, &of[..cut]), None, "{cut}");
        }
        assert_eq!(fits(of, &of.replace('1', "2")), None);
        assert_eq!(fits(of, &format!("{of} ")), None);
    }

    #[test]
    fn padding_may_be_another_each_time() {
        let of = r#"{"delta":{"content":"x"},"obfuscation":"abc","z":1}"#;
        let with = |padding: &str| of.replace("abc", padding);
        for padding in ["", "q", "0123456789abcdef"] {
            assert_eq!(fits(of, &with(padding)), Some(("x".to_owned(), padding.to_owned())));
        }
        for padding in ["é", r"\n", r#"","content":"y"#, "\t"] {
            assert_eq!(fits(of, &with(padding)), None, "{padding}");
        }
        let shape = Shape::of(of.as_bytes()).expect("a shape");
        assert_eq!(shape.saying(b"x", b"abc"), of.as_bytes());
    }

    #[test]
    fn what_says_nothing_has_no_shape() {
        for chunk in [
            "",
            "{}",
            r#"{"content":"#,
            r#"{"content":""#,
            r#"{"content":"x"#,
            r#"{"content":"x\"#,
            r#"{"content":""}"#,
            r#"{"content":null}"#,
            r#"{"content" "x"}"#,
            r#"{"discontent":"x"}"#,
            r#"{"a":"\"content\":\"x\""}"#,
        ] {
            assert!(Shape::of(chunk.as_bytes()).is_none(), "{chunk}");
        }
        assert!(Shape::of(br#"{"content":null,"reasoning":"x"}"#).is_some());
    }

    #[test]
    fn who_learns_in_vain_gives_it_up() {
        let mut known = Known::default();
        let chunk = |at: u8| format!(r#"{{"id":{at},"content":"x"}}"#).into_bytes();
        let mut learnt = 0;
        for at in 0..TRIES + 5 {
            known.learn(&chunk(at), |_, _| {
                learnt += 1;
                Some(())
            });
        }
        assert_eq!(learnt, TRIES);
        assert!(known.said(&chunk(TRIES - 1)).is_some());
        known.learn(&chunk(0), |_, _| Some(()));
        assert!(known.said(&chunk(0)).is_some());
    }
}
