//! Where a client stands in a stream: the `id` of an event.

use std::fmt;
use std::str::FromStr;

/// Everything up to and with an event of the log, and so many parts of the one after it.
///
/// One event of the log may be several for a client; all but the last of them are named by the parts. An answer that
/// is given again under its idempotency key comes in other events than at first, so its ids are of another kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// Whether it is of an answer that was given again.
    pub again: bool,
    /// How many events of the log were seen whole.
    pub entries: u64,
    /// How many parts of the next one were seen.
    pub parts: u32,
}

/// What ids of an answer that was given again begin with.
const AGAIN: &str = "r";

/// The text is no id of an event.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for EventId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.again { AGAIN } else { "" };
        match self.parts {
            0 => write!(out, "{kind}{}", self.entries),
            parts => write!(out, "{kind}{}.{parts}", self.entries),
        }
    }
}

impl FromStr for EventId {
    type Err = Malformed;

    /// Takes what [`EventId`] writes, and nothing else.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let number = text.strip_prefix(AGAIN);
        let (entries, parts) =
            number.unwrap_or(text).split_once('.').unwrap_or((number.unwrap_or(text), "0"));
        let id = Self {
            again: number.is_some(),
            entries: entries.parse().map_err(|_| Malformed)?,
            parts: parts.parse().map_err(|_| Malformed)?,
        };
        if id.entries < u64::MAX && id.to_string() == text { Ok(id) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written_and_in_no_other_form() {
        for text in ["0", "1", "12", "0.1", "12.34", "r0", "r2", "r1.3", "18446744073709551614"] {
            assert_eq!(text.parse::<EventId>().map(|id| id.to_string()).as_deref(), Ok(text));
        }
        let wrong = [
            "",
            " ",
            "a",
            "-1",
            "+1",
            "01",
            "1.",
            ".1",
            "1.0",
            "1.01",
            "1.+1",
            "1.1.1",
            "1,1",
            "1 ",
            " 1",
            "1e3",
            "0x1",
            "1.5f",
            "18446744073709551615",
            "99999999999999999999",
            "1.4294967296",
            "r",
            "rr1",
            "R1",
            "r01",
            "-r1",
            "\u{0661}",
            "null",
        ];
        for text in wrong {
            assert_eq!(text.parse::<EventId>(), Err(Malformed), "{text:?}");
        }
    }
}
