//! Public identifiers: what they are called and how they are made.
//!
//! All are text, random and unguessable where that matters; their shapes stand in the API documentation.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use crate::clock;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Random bytes that a thread asks for at a time: a turn needs some hundred, in several ids.
const POOL: usize = 1_024;

thread_local! {
    /// Random bytes, and how many of them are left. Each is given out once.
    static RANDOM: RefCell<([u8; POOL], usize)> = const { RefCell::new(([0; POOL], 0)) };
}

/// Characters of what is made [in order](Draft::in_order) that tell when, to the millisecond until the year 2081.
const WHEN: usize = 7;
/// Characters of what is made [in groups](Draft::in_groups) that tell when.
const ROUGHLY: usize = 3;
/// How long what is made in groups begins alike: about as long as a page of an index takes to fill under load.
const ALIKE_MS: u64 = 64;

/// The most characters of a [`Draft`].
const LONGEST: usize = 48;

/// A short text that is put together where it takes no memory.
struct Draft {
    text: [u8; LONGEST],
    len: usize,
}

impl Draft {
    /// A text that begins so.
    fn of(prefix: &str) -> Self {
        let mut text = [b'0'; LONGEST];
        text[..prefix.len()].copy_from_slice(prefix.as_bytes());
        Self { text, len: prefix.len() }
    }

    /// Adds the last `width` digits of `number` in base62, padded with zeros.
    fn number(mut self, mut number: u64, width: usize) -> Self {
        for digit in self.text[self.len..self.len + width].iter_mut().rev() {
            *digit = BASE62[(number % 62) as usize];
            number /= 62;
        }
        self.len += width;
        self
    }

    /// Adds `count` random characters of base62 (5.95 bits each).
    fn random(mut self, count: usize) -> Self {
        let end = self.len + count;
        RANDOM.with_borrow_mut(|(pool, left)| {
            while self.len < end {
                if *left == 0 {
                    fill_random(pool);
                    *left = POOL;
                }
                *left -= 1;
                let byte = std::mem::take(&mut pool[*left]);
                // Bytes of 248 and above would make the first characters likelier than the others.
                if byte < 248 {
                    self.text[self.len] = BASE62[usize::from(byte % 62)];
                    self.len += 1;
                }
            }
        });
        self
    }

    /// Adds `count` characters that begin with the time in milliseconds, so that what is made later sorts behind.
    ///
    /// Rows that are made together then lie together in their indexes. At random places each of them would have a page
    /// of its own written, in the log and in the database.
    fn in_order(self, count: usize) -> Self {
        self.number(now(), WHEN).random(count - WHEN)
    }

    /// The same for short ids that nobody may guess: what is made at the same time begins alike, and so does what is
    /// made every four hours. All but three characters are random.
    fn in_groups(self, count: usize) -> Self {
        self.number(now() / ALIKE_MS, ROUGHLY).random(count - ROUGHLY)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).expect("ASCII is text")
    }
}

/// `len` random characters of base62 (5.95 bits each).
pub fn base62(len: usize) -> String {
    Draft::of("").random(len).as_str().to_owned()
}

/// Whether `text` is the last digits of `number` in base62, padded with zeros.
pub fn is_base62(text: &str, number: u64) -> bool {
    text.len() <= LONGEST && Draft::of("").number(number, text.len()).as_str() == text
}

/// The last `width` digits of `number` in base62, padded with zeros.
pub fn base62_number(number: u64, width: usize) -> String {
    Draft::of("").number(number, width).as_str().to_owned()
}

fn now() -> u64 {
    u64::try_from(clock::now_ms()).unwrap_or(0)
}

/// Random bytes of the operating system.
pub(crate) fn fill_random(buffer: &mut [u8]) {
    // Without a source of randomness no key or id can be made safely; there is nothing to go on with.
    getrandom::fill(buffer).expect("the operating system gives random bytes");
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<Draft> for $name {
            fn from(draft: Draft) -> Self {
                draft.as_str().into()
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// A tenant: `acct_` and 16 characters.
    AccountId;
    /// An agent: `ag_`, 8 and 4 hexadecimal digits.
    AgentId;
    /// An API key's id (not its secret): `key_` and 16 characters.
    KeyId;
    /// The name of a session: `sess_` and 20 characters, 17 of them random, or what the client chose.
    SessionName;
    /// One turn's answer: `chatcmpl-` and 24 characters, the first 7 of them the time.
    CompletionId;
    /// One HTTP request: `req_` and 24 characters, the first 7 of them the time.
    RequestId;
    /// A reservation of money: `hold_` and 20 characters, the first 7 of them the time.
    HoldId;
    /// A row of the price list: `price_` and 16 characters.
    PriceId;
    /// A webhook: `wh_` and 16 characters.
    WebhookId;
    /// What a webhook tells: `evt_` and 20 characters.
    EventId;
}

impl AccountId {
    /// A new, random id.
    pub fn random() -> Self {
        Draft::of("acct_").random(16).into()
    }
}

impl AgentId {
    /// A new, random id.
    pub fn random() -> Self {
        let mut bytes = [0u8; 6];
        fill_random(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("ag_{}_{}", &hex[..8], &hex[8..]).into()
    }
}

impl KeyId {
    /// A new, random id.
    pub fn random() -> Self {
        Draft::of("key_").random(16).into()
    }
}

impl SessionName {
    /// The longest name a client may choose, in bytes.
    pub const MAX_LEN: usize = 128;

    /// A new, random name.
    pub fn random() -> Self {
        Draft::of("sess_").in_groups(20).into()
    }

    /// A name of the client's: 1 to 128 of `A-Za-z0-9_.:-`.
    pub fn chosen(text: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte));
        (fits && plain).then(|| text.into())
    }
}

impl CompletionId {
    /// A new, random id.
    pub fn random() -> Self {
        Draft::of("chatcmpl-").in_order(24).into()
    }
}

impl RequestId {
    /// A new, random id.
    pub fn random() -> Self {
        Draft::of("req_").in_order(24).into()
    }
}

impl HoldId {
    /// A new, random id.
    pub fn random() -> Self {
        Draft::of("hold_").in_order(20).into()
    }
}

impl PriceId {
    /// A new, random id.
    pub fn random() -> Self {
        Draft::of("price_").random(16).into()
    }
}

impl WebhookId {
    /// A new, random id.
    pub fn random() -> Self {
        Draft::of("wh_").random(16).into()
    }
}

impl EventId {
    /// A new, random id.
    pub fn random() -> Self {
        Draft::of("evt_").random(20).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_documented_shape() {
        let agent = AgentId::random();
        let (front, back) = agent.as_str()[3..].split_once('_').expect("two parts");
        assert_eq!((front.len(), back.len()), (8, 4));
        assert!(agent.as_str().starts_with("ag_"));
        assert_eq!(AccountId::random().as_str().len(), 21);
        assert_eq!(SessionName::random().as_str().len(), 25);
    }

    #[test]
    fn what_is_made_later_sorts_behind() {
        let first = HoldId::random();
        let made = clock::now_ms();
        while clock::now_ms() == made {
            std::hint::spin_loop();
        }
        let second = HoldId::random();
        assert!(first < second, "{first} {second}");
        assert_eq!((first.as_str().len(), CompletionId::random().as_str().len()), (25, 33));
    }

    #[test]
    fn names_of_sessions_that_are_made_together_begin_alike_and_differ() {
        let group = |name: &SessionName| name.as_str()[..8].to_owned();
        // Two groups may be met at a border, and not a third.
        let (one, other, third) = (SessionName::random(), SessionName::random(), SessionName::random());
        assert!(group(&one) == group(&other) || group(&other) == group(&third), "{one} {other} {third}");
        assert_ne!(one, other);
    }

    #[test]
    fn a_session_name_is_plain_and_short() {
        assert!(SessionName::chosen("user:42.thread-1").is_some());
        assert!(SessionName::chosen("").is_none());
        assert!(SessionName::chosen("a/b").is_none());
        assert!(SessionName::chosen(&"a".repeat(128)).is_some());
        assert!(SessionName::chosen(&"a".repeat(129)).is_none());
    }

    #[test]
    fn a_number_is_padded() {
        assert_eq!(base62_number(0, 6), "000000");
        assert_eq!(base62_number(61, 6), "00000z");
        assert_eq!(base62_number(62, 6), "000010");
        assert_eq!(base62_number(u32::MAX.into(), 6).len(), 6);
        assert_eq!(base62_number(62 * 62 + 1, 2), "01");
        assert!(is_base62("000010", 62) && !is_base62("000010", 63) && !is_base62(&"0".repeat(100), 0));
    }
}
