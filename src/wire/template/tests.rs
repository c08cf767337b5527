//! Chunks of a known shape against the same chunks each read with care: whatever comes, nobody can tell the difference.

use bytes::Bytes;

use crate::conversation::chunk::Completer;
use crate::conversation::reply::{Chunk, Reply};
use crate::json::carefully;
use crate::json::random::Random;
use crate::session::log::EventId;
use crate::wire::native::stream::DeltaWriter;
use crate::wire::openai::chat::Told;
use crate::wire::openai::stream::ChunkWriter;
use crate::wire::sse::Events;

/// Chunks as providers write them, with `TEXT`, `PAD` and `TIME` in the places of what changes.
const CHUNKS: [&str; 14] = [
    r#"{"id":"c","object":"chat.completion.chunk","created":TIME,"model":"m","choices":[{"index":0,"delta":{"content":"TEXT"},"logprobs":null,"finish_reason":null}]}"#,
    r#"{"id":"c","object":"chat.completion.chunk","created":TIME,"model":"m","service_tier":"default","choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":null}],"usage":null,"obfuscation":"PAD"}"#,
    r#"{ "choices": [ { "index": 0, "delta": { "content": "TEXT" }, "finish_reason": null } ], "created": TIME, "model": "m" }"#,
    r#"{"choices":[{"delta":{"content":"TEXT"}}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":""}],"created":TIME}"#,
    r#"{"created":TIME,"choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":"TEXT"},"finish_reason":null}]}"#,
    r#"{"created":TIME,"choices":[{"index":0,"delta":{"content":"","reasoning":"TEXT"},"finish_reason":null}]}"#,
    r#"{"created":TIME,"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call","type":"function","function":{"name":"f","arguments":"TEXT"}}]},"finish_reason":null}]}"#,
    r#"{"created":TIME,"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"TEXT"}}]},"finish_reason":null}]}"#,
    r#"{"created":TIME,"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"TEXT"}}]},"finish_reason":null}]}"#,
    r#"{"created":TIME,"choices":[{"index":1,"delta":{"content":"TEXT"},"finish_reason":null}]}"#,
    r#"{"created":TIME,"choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":null},{"index":1,"delta":{"content":"TEXT"},"finish_reason":null}]}"#,
    r#"{"created":TIME,"choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":null}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
    r#"{"content":"TEXT","created":TIME,"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":null}]}"#,
];
/// Chunks that are unlike all others.
const ODD: [&str; 6] = [
    r#"{"choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":"stop"}],"created":TIME}"#,
    r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"x":"TEXT"}}"#,
    r#"{"error":{"message":"TEXT"}}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"a","content":"TEXT","refusal":"TEXT"},"finish_reason":null}],"created":TIME}"#,
    r#"{"choices":[{"index":0,"delta":{"content":["TEXT"]},"finish_reason":null}],"created":TIME}"#,
    "TEXT",
];
/// What they say: letters, escapes, keys, and what is no string at all.
const TEXTS: [&[u8]; 30] = [
    b"a",
    b" the",
    b"",
    b"\\n",
    b"\\\"",
    b"\\\\",
    b"\\\\\"",
    b"\"",
    b"\\",
    b"\\u00e9",
    b"\\ud83d\\ude00",
    b"\\ud800",
    b"\\u00",
    b"\\x",
    "größer 日本".as_bytes(),
    b"\xff",
    b"\xc3",
    b"\n",
    b"\x00",
    b"created",
    b"\\\"created",
    b"index",
    b"\\\"choices",
    b"finish_reason",
    b"delta",
    b"tool_calls",
    b"error",
    b"x\",\"role\":\"y",
    b"null",
    b"this is where the text of a chunk goes",
];
const PADS: [&[u8]; 8] = [b"", b"x", b"abcXYZ019", b"created", b"\\n", b"\xff", b"\"", "é".as_bytes()];

fn filled(form: &str, random: &mut Random) -> Bytes {
    let mut chunk = form.as_bytes().to_vec();
    let time: &[u8] = if random.chance(90) { b"7" } else { random.of(&[&b"8"[..], b"7.0", b"null", b"77"]) };
    // Mostly what models say.
    let text: &[u8] = if random.chance(60) { random.of(&TEXTS[..6]) } else { random.of(&TEXTS) };
    for (mark, with) in [(&b"TEXT"[..], text), (b"PAD", random.of(&PADS)), (b"TIME", time)] {
        while let Some(at) = memchr::memmem::find(&chunk, mark) {
            chunk.splice(at..at + mark.len(), with.iter().copied());
        }
    }
    if random.chance(5) {
        let at = random.below(chunk.len() + 1);
        match random.below(3) {
            0 => chunk.truncate(at),
            1 => chunk.insert(at, *random.of(&[&b'"', &b'\\', &b'}', &b' ', &b'0', &0xff])),
            _ => drop(chunk.drain(at..chunk.len().min(at + 1))),
        }
    }
    chunk.into()
}

/// A stream that mostly goes on as it began.
fn stream(seed: u64) -> Vec<Bytes> {
    let mut random = Random(seed);
    let mut form = random.of(&CHUNKS);
    (0..30)
        .map(|_| {
            if random.chance(10) {
                form = random.of(&CHUNKS);
            }
            let odd = random.chance(5).then(|| random.of(&ODD));
            filled(odd.unwrap_or(form), &mut random)
        })
        .collect()
}

fn told() -> Told {
    Told {
        completion: "chatcmpl-1".into(),
        agent: "ag_1".into(),
        session: "sess_1".into(),
        created: 9,
        money: false,
    }
}

/// Everything that anybody can see of a stream, in the order in which it happens.
fn seen(chunks: &[Bytes], after: EventId) -> Vec<String> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let (mut completer, mut reply) = (Completer::default(), Reply::default());
    let (mut plain, mut counted) = (ChunkWriter::new(told(), false), ChunkWriter::new(told(), true));
    let mut native = DeltaWriter::default();
    let mut outs = [(); 3].map(|()| Events::after(after));
    let mut seen = Vec::new();
    let mut number = 0;
    for chunk in chunks {
        let chunk = completer.complete(chunk.clone());
        seen.push(text(&chunk));
        let kind = reply.absorb(&chunk);
        seen.push(format!("{kind:?}"));
        seen.push(format!(
            "{:?}",
            (
                reply.message(),
                reply.as_completion(),
                reply.usage(),
                reply.content(),
                reply.kept_bytes(),
                reply.received()
            )
        ));
        seen.push(format!("{:?}", (reply.estimated_output(), reply.output_floor(), reply.finish_reason())));
        if !matches!(kind, Ok(Chunk::Delta | Chunk::Mixed | Chunk::Finish)) {
            continue;
        }
        number += 1;
        outs.iter_mut().filter(|_| number > after.entries).for_each(|out| out.begin(number));
        if number > after.entries {
            plain.delta(&chunk, &mut outs[0]);
            counted.delta(&chunk, &mut outs[1]);
            native.delta(&chunk, &mut outs[2]);
            outs.iter_mut().for_each(Events::end);
        }
        for out in &mut outs {
            let sent: Vec<u8> = std::iter::from_fn(|| out.out().take()).flatten().collect();
            seen.push(text(&sent));
        }
    }
    seen
}

#[test]
fn whatever_comes_nobody_can_tell_a_known_shape_from_care() {
    for seed in 0..300 {
        let chunks = stream(seed);
        let after =
            EventId { again: false, entries: seed % 3, parts: u32::try_from(seed % 2).expect("small") };
        let expected = carefully::run(|| seen(&chunks, after));
        let got = seen(&chunks, after);
        for (got, expected) in got.iter().zip(&expected) {
            assert_eq!(got, expected, "seed {seed}");
        }
        assert_eq!(got.len(), expected.len());
    }
}
