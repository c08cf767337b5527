//! Random JSON, and what is nearly JSON, for tests that compare two ways to read it.

/// Random numbers that are the same each time.
pub struct Random(pub u64);

impl Random {
    /// One below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("small") % bound
    }

    /// `true` in so many cases of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of a list.
    pub fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

/// Insides of strings as they are mostly written.
const TEXTS: [&str; 8] =
    ["", "a", "stop", "It is that.", r"two\nlines", r#"a \"word\""#, "größer 日本", r"back\\slash"];
/// The same as they may be written too, and some that are none.
const ODD_TEXTS: [&str; 13] = [
    r"caf\u00e9",
    r"\/",
    r"\u001f\b\f\r\t",
    r"\u002F",
    r"\ud83d\ude00",
    r"\ud83d",
    r"\uDE00",
    r"\u00g0",
    r"\x",
    "\n",
    "\u{1}",
    "\u{7f}",
    r#"","content":"b"#,
];
const NUMBERS: [&str; 6] = ["0", "7", "-1", "1700000000", "0.25", "12345678901234567890"];
/// Numbers that hardly anybody writes, and some that are none.
const ODD_NUMBERS: [&str; 12] = [
    "-0",
    "1e3",
    "1E-2",
    "1e999",
    "1.0e+30",
    "01",
    "1.",
    ".5",
    "-",
    "+1",
    "1e",
    "99999999999999999999999999",
];
const BLANKS: [&str; 5] = ["", " ", "\n", "\r\n\t", "  "];

/// How odd a text shall be.
#[derive(Clone, Copy)]
pub struct Oddness {
    /// Blanks between everything.
    pub blank: bool,
    /// In percent: what is unusual, but for the greater part JSON.
    pub odd: usize,
}

impl Oddness {
    /// One of all.
    pub fn any(random: &mut Random) -> Self {
        Self { blank: random.chance(20), odd: random.of(&[&0, &0, &3, &20]).to_owned() }
    }
}

impl Random {
    /// A blank or nothing.
    pub fn blank(&mut self, how: Oddness) -> &'static str {
        if how.blank { self.of(&BLANKS) } else { "" }
    }

    /// The inside of a string.
    pub fn inside(&mut self, how: Oddness) -> String {
        let count = self.below(3);
        (0..count).map(|_| if self.chance(how.odd) { self.of(&ODD_TEXTS) } else { self.of(&TEXTS) }).collect()
    }

    /// A number, mostly.
    pub fn number(&mut self, how: Oddness) -> &'static str {
        if self.chance(how.odd) { self.of(&ODD_NUMBERS) } else { self.of(&NUMBERS) }
    }

    /// A value of any kind, not very deep.
    pub fn value(&mut self, depth: usize, how: Oddness) -> String {
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0 | 1 => format!("\"{}\"", self.inside(how)),
            2 => self.number(how).to_owned(),
            3 => self.of(&["null", "true", "false", "[]", "{}"]).to_owned(),
            4 if self.chance(how.odd) => {
                self.of(&["nul", "True", "", "'a'", "[1,]", "{\"a\"}", "[1 2]"]).to_owned()
            }
            4 => "null".to_owned(),
            5 | 6 => {
                let count = self.below(4);
                let names = ["id", "index", "content", "role", "message", "name", "type", "x", "choices"];
                let fields: Vec<_> =
                    (0..count).map(|_| (self.of(&names).to_owned(), self.value(depth - 1, how))).collect();
                self.object(&fields, how)
            }
            _ => {
                let count = self.below(4);
                let items: Vec<String> = (0..count).map(|_| self.value(depth - 1, how)).collect();
                self.array(&items, how)
            }
        }
    }

    /// An object of these fields; an odd one has a name twice, or one that is written with an escape, or both.
    pub fn object(&mut self, fields: &[(String, String)], how: Oddness) -> String {
        let mut written = Vec::new();
        for (name, value) in fields {
            let name = match name.char_indices().nth(1) {
                Some((at, letter)) if self.chance(how.odd / 2) => {
                    format!("{}\\u{:04x}{}", &name[..at], u32::from(letter), &name[at + letter.len_utf8()..])
                }
                _ => name.clone(),
            };
            let [a, b, c, d] = [(); 4].map(|()| self.blank(how));
            written.push(format!("{a}\"{name}\"{b}:{c}{value}{d}"));
            if self.chance(how.odd / 2) {
                let other = self.value(1, how);
                written.push(format!("\"{name}\":{other}"));
            }
        }
        format!("{{{}{}}}", written.join(","), self.blank(how))
    }

    /// An array of these values.
    pub fn array(&mut self, items: &[String], how: Oddness) -> String {
        let items: Vec<String> =
            items.iter().map(|item| format!("{}{item}{}", self.blank(how), self.blank(how))).collect();
        format!("[{}{}]", items.join(","), self.blank(how))
    }

    /// A text with a byte more or less, or cut.
    pub fn damaged(&mut self, text: &str) -> Vec<u8> {
        let mut text = text.as_bytes().to_vec();
        let at = self.below(text.len() + 1);
        match self.below(3) {
            0 => text.truncate(at),
            1 => {
                let bytes =
                    [&b'"', &b'\\', &b'}', &b'{', &b']', &b',', &b':', &b' ', &b'0', &0xff, &0xc3, &0];
                text.insert(at, *self.of(&bytes));
            }
            _ => drop(text.drain(at..text.len().min(at + 1))),
        }
        text
    }
}
