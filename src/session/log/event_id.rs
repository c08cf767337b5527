//! Where a client stands in a stream: the `id` of an event.

use std::fmt::{self, Write as _};
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

impl EventId {
    /// The longest that is written, in bytes.
    pub const MAX_LEN: usize = AGAIN.len() + 20 + 1 + 10;

    /// Its text, for which there is room. It stands at each event; what formats anything takes longer than the rest.
    pub fn write(self, room: &mut [u8; Self::MAX_LEN]) -> &[u8] {
        let mut begin = room.len();
        if self.parts > 0 {
            begin = digits(room, begin, self.parts.into()) - 1;
            room[begin] = b'.';
        }
        begin = digits(room, begin, self.entries);
        if self.again {
            begin -= AGAIN.len();
            room[begin..begin + AGAIN.len()].copy_from_slice(AGAIN.as_bytes());
        }
        &room[begin..]
    }
}

/// Writes a number so that it ends before `end`; answers where it begins.
fn digits(room: &mut [u8], end: usize, mut number: u64) -> usize {
    let mut begin = end;
    loop {
        begin -= 1;
        room[begin] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return begin;
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut room = [0; Self::MAX_LEN];
        self.write(&mut room).iter().try_for_each(|byte| out.write_char(char::from(*byte)))
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
        let longest = "r18446744073709551614.4294967295";
        assert_eq!(longest.len(), EventId::MAX_LEN);
        for text in ["0", "1", "12", "0.1", "12.34", "r0", "r2", "r1.3", "18446744073709551614", longest] {
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
