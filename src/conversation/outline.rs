//! Where the parts of a whole answer stand, found while it is read: who writes it anew copies what is between.

use std::ops::Range;

use crate::json::{ObjectWriter, Scan, Sink};

/// An object of more fields is read with care.
const FIELDS: usize = 32;

/// What a field belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The answer itself.
    Answer,
    /// Its only choice.
    Choice,
    /// The message of that.
    Message,
    /// What the provider counted.
    Usage,
}

/// A field: where its name stands, which has no escapes, and its value.
#[derive(Clone, Debug)]
pub struct Part {
    of: Of,
    name: Range<usize>,
    value: Range<usize>,
}

impl Part {
    /// Its name.
    pub fn name<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.name.clone()).unwrap_or_default()
    }

    /// The text of its value.
    pub fn value<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.value.clone()).unwrap_or_default()
    }
}

/// The fields of an answer that has one choice and is written as most are, in their order.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    parts: Vec<Part>,
    /// Whether its choice has every key that OpenAI requires.
    pub complete: bool,
}

impl Outline {
    /// One that nothing was added to.
    pub fn new() -> Self {
        Self { parts: Vec::with_capacity(FIELDS), complete: false }
    }

    /// The fields of one object.
    pub fn of_object(text: &[u8], of: Of) -> Option<Self> {
        let mut outline = Self::new();
        Scan::of(text, |scan| {
            scan.object(|scan, name| outline.passing(scan, of, name, |_, scan| scan.value().map(drop)))
        })?;
        Some(outline)
    }

    /// Adds a field whose value `pass` passes, and maybe fields that are in it. `None` for a name that is there.
    pub fn passing<'a, T>(
        &mut self,
        scan: &mut Scan<'a>,
        of: Of,
        name: &str,
        pass: impl FnOnce(&mut Self, &mut Scan<'a>) -> Option<T>,
    ) -> Option<T> {
        let place = scan.place(name);
        let mut own = self.parts.iter().filter(|part| part.of == of && part.name.len() == name.len());
        let twice = own.any(|part| scan.at(&part.name) == Some(name));
        if twice || self.parts.len() >= 4 * FIELDS {
            return None;
        }
        let at = self.parts.len();
        self.parts.push(Part { of, name: place, value: 0..0 });
        let (value, passed) = scan.around(|scan| pass(self, scan))?;
        self.parts[at].value = scan.place(value);
        Some(passed)
    }

    /// The fields of one object.
    pub fn parts(&self, of: Of) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.of == of)
    }

    /// Whether there is a field of this name.
    pub fn has(&self, of: Of, name: &str, text: &[u8]) -> bool {
        self.parts(of).any(|part| part.name(text) == name.as_bytes())
    }
}

/// Copies fields: what stands together without blanks at once.
pub struct Copier<'a> {
    text: &'a [u8],
    waiting: Range<usize>,
}

impl<'a> Copier<'a> {
    /// Copies from `text`.
    pub fn of(text: &'a [u8]) -> Self {
        Self { text, waiting: 0..0 }
    }

    /// Copies a field, now or later.
    pub fn copy(&mut self, part: &Part, out: &mut ObjectWriter<impl Sink>) {
        let field = part.name.start.saturating_sub(1)..part.value.end;
        // Quotation mark and colon.
        let is_tight = part.value.start == part.name.end + 2;
        // All that can stand there is the comma.
        let follows = self.waiting.end + 1 == field.start;
        if is_tight && follows && !self.waiting.is_empty() {
            self.waiting.end = field.end;
            return;
        }
        self.flush(out);
        if is_tight {
            self.waiting = field;
        } else {
            out.plain(part.name(self.text), part.value(self.text));
        }
    }

    /// Copies all that waits, before something else is written.
    pub fn flush(&mut self, out: &mut ObjectWriter<impl Sink>) {
        let waiting = std::mem::take(&mut self.waiting);
        if let Some(fields) = self.text.get(waiting).filter(|fields| !fields.is_empty()) {
            out.fields(fields);
        }
    }
}
