//! What is packed is read back byte for byte, and takes little.

use super::*;

/// Random numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("small") % bound
    }
}

const FORMS: [&str; 6] = [
    r#"{"id":"c","created":7,"choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":null}]}"#,
    r#"{"id":"c","created":7,"choices":[{"index":1,"delta":{"content":"TEXT"}}],"obfuscation":"PAD"}"#,
    r#"{"id":"c","choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"TEXT"}}]}}]}"#,
    r#"{"id":"c","choices":[{"delta":{"reasoning":"TEXT","content":null}}],"obfuscation":"PAD","z":1}"#,
    r#"{"id":"d","choices":[{"delta":{"content":"TEXT"}}],"again":{"content":"TEXT"}}"#,
    "TEXT",
];
const SAID: [&[u8]; 12] = [
    b"a",
    b" the",
    b"",
    b"\\n",
    b"\\\"",
    b"\\\\",
    b"\"",
    b"\\",
    b"\\ud8",
    b"\xff",
    b"\x00",
    "größer".as_bytes(),
];

fn filled(form: &str, random: &mut Random) -> Vec<u8> {
    let mut chunk = form.as_bytes().to_vec();
    let long = [[62, 63, 64, 255, 256, 700][random.below(6)], 0][usize::from(random.below(10) > 0)];
    let text = [SAID[random.below(SAID.len())], &b"x".repeat(long)].concat();
    let padding = b"p".repeat([0, 1, 5, 254, 255, 256][random.below(6)]);
    for (mark, with) in [(&b"TEXT"[..], text), (b"PAD", padding)] {
        while let Some(at) = memchr::memmem::find(&chunk, mark) {
            chunk.splice(at..at + mark.len(), with.iter().copied());
        }
    }
    if random.below(20) == 0 {
        let at = random.below(chunk.len() + 1);
        match random.below(3) {
            0 => chunk.truncate(at),
            1 => chunk.insert(at, b"\"\\}x\xff"[random.below(5)]),
            _ => drop(chunk.drain(at..chunk.len().min(at + 1))),
        }
    }
    if random.below(50) == 0 {
        chunk.resize([BLOCK, LARGE - 1, LARGE, 3 * LARGE][random.below(4)], b' ');
    }
    chunk
}

/// A stream that mostly goes on as it began.
fn stream(seed: u64) -> Vec<Bytes> {
    let mut random = Random(seed);
    let mut form = 0;
    (0..200)
        .map(|_| {
            // Of some streams, two or three kinds of chunks come in turns.
            if random.below(if seed.is_multiple_of(2) { 20 } else { 2 }) == 0 {
                form = random.below(FORMS.len());
            }
            filled(FORMS[form], &mut random).into()
        })
        .collect()
}

fn pack(chunks: &[Bytes]) -> Packed {
    let mut packed = Packed::default();
    let mut before = 0;
    for (number, chunk) in (1..).zip(chunks) {
        let end = before + chunk.len() as u64;
        packed.push(number, before, end, chunk);
        before = end;
        let taken: usize = packed.blocks.iter().map(Block::taken).sum();
        assert_eq!(packed.taken(), taken, "what it takes");
    }
    packed
}

#[test]
fn what_is_packed_is_read_back_byte_for_byte() {
    for seed in 0..300 {
        let chunks = stream(seed);
        let mut packed = pack(&chunks);
        let mut random = Random(seed);
        let mut place = Place::default();
        for (number, chunk) in (1..).zip(&chunks) {
            assert_eq!(packed.get(number, &mut place).as_ref(), Some(chunk), "seed {seed}, in a row");
            let any = random.below(chunks.len());
            let (number, mut other) = (any as u64 + 1, Place::default());
            assert_eq!(packed.get(number, &mut other).as_ref(), Some(&chunks[any]), "seed {seed}, at {any}");
            let before: usize = chunks[..any].iter().map(Bytes::len).sum();
            assert_eq!(packed.before(number, |length| length), before as u64, "seed {seed}, before {any}");
        }
        assert_eq!(packed.get(chunks.len() as u64 + 1, &mut place), None);
        packed.close();
        while let Some((last, end)) = packed.oldest() {
            let upto: usize = chunks[..usize::try_from(last).expect("small")].iter().map(Bytes::len).sum();
            assert_eq!(end, upto as u64, "seed {seed}");
            assert!(packed.drop_oldest());
            assert_eq!(packed.get(last, &mut Place::default()), None);
            assert_eq!(packed.first().unwrap_or(chunks.len() as u64 + 1), last + 1);
        }
        assert_eq!(packed.taken(), 0);
    }
}

fn taken(chunk: impl Fn(usize) -> String) -> usize {
    let chunks: Vec<Bytes> = (0..200).map(|number| chunk(number).into()).collect();
    let mut packed = pack(&chunks);
    packed.close();
    packed.taken() / chunks.len()
}

#[test]
fn a_chunk_takes_little_more_than_its_text() {
    let around = "x".repeat(200);
    let by = |text: &str, more: &str| format!(r#"{{"id":"{around}","content":"{text}"{more}}}"#);
    assert_eq!(taken(|_| by("abcd", "")), 6);
    let padded = taken(|number| by("abcd", &format!(r#","obfuscation":"{}""#, "p".repeat(number % 8))));
    assert!(padded <= 13, "{padded}");
    let in_turns = taken(|number| by("abcd", &format!(r#","index":{}"#, number % 3)));
    assert!(in_turns <= 10, "{in_turns}");
    let each_second = taken(|number| by("abcd", &format!(r#","created":{}"#, number / 20)));
    assert!(each_second <= 20, "{each_second}");
    let unlike = taken(|number| by("abcd", &format!(r#","number":{number}"#)));
    assert!(unlike <= 290, "{unlike}");
}
