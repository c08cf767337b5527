//! What reads bytes of strangers, fuzzed: whatever comes, nothing panics, and what is taken means what it says.
//!
//! Each test runs its corpus (`__fuzz__/NAME/corpus`) and random inputs. A real fuzzer runs the same tests:
//! `cargo bolero test --test parsers chat_request` (needs `cargo install cargo-bolero` and a nightly toolchain).

use bolero::check;
use bytes::Bytes;
use switchboard::auth::api_key::{self, KeyKind};
use switchboard::conversation::history::History;
use switchboard::conversation::message::Message;
use switchboard::error::Error;
use switchboard::json::Raw;
use switchboard::provider::client::body::{Decoder, Framing, Malformed};
use switchboard::provider::client::head;
use switchboard::provider::sse::EventReader;
use switchboard::wire::openai::chat::ChatRequest;

/// A request is taken or refused by name; what is taken comes out of it again as it went in.
#[test]
fn chat_request() {
    check!().for_each(|input: &[u8]| {
        let body = Bytes::copy_from_slice(input);
        match ChatRequest::read(&body) {
            Ok(request) => {
                assert!((1..=128).contains(&request.n));
                assert!(!request.messages.is_empty());
                for (at, message) in request.messages.iter().enumerate() {
                    let text = message.raw.bytes().clone();
                    serde_json::from_slice::<serde_json::Value>(&text).expect("a message is JSON");
                    let again = Message::parse(Raw::trusted(text), at).expect("it was taken before");
                    assert_eq!(again.fingerprint(), message.fingerprint());
                }
                serde_json::from_slice::<serde_json::Value>(request.fields.to_raw().bytes()).expect("JSON");
            }
            Err(Error::Invalid(invalid)) => assert!(!invalid.message.is_empty()),
            Err(other) => panic!("a request is refused as {other:?}"),
        }
    });
}

fn events(pieces: &[&[u8]]) -> Vec<Bytes> {
    let mut reader = EventReader::default();
    let mut events = Vec::new();
    for piece in pieces {
        reader.push(piece).expect("little");
        events.extend(std::iter::from_fn(|| reader.next_event()));
    }
    events.extend(reader.finish());
    events
}

/// Events are the same however the network cuts them.
#[test]
fn event_stream() {
    check!().for_each(|input: &[u8]| {
        let Some((cuts, stream)) = input.split_first() else { return };
        let whole = events(&[stream]);
        let size = usize::from(*cuts) % 7 + 1;
        let pieces: Vec<&[u8]> = stream.chunks(size).collect();
        assert_eq!(events(&pieces), whole, "cut each {size} bytes");
        let at = usize::from(*cuts) * stream.len() / 256;
        assert_eq!(events(&[&stream[..at], &stream[at..]]), whole, "cut at {at}");
    });
}

/// The body in these packets, whether it ended, and what comes after it.
fn body_in(framing: Framing, packets: &[&[u8]]) -> Result<(Vec<u8>, bool, Vec<u8>), Malformed> {
    let mut decoder = Decoder::new(framing);
    let (mut body, mut after) = (Vec::new(), Vec::new());
    for mut packet in packets.iter().copied() {
        while let Some(piece) = decoder.next(&mut packet)? {
            body.extend_from_slice(piece);
        }
        assert!(packet.is_empty() || decoder.ended());
        after.extend_from_slice(packet);
    }
    Ok((body, decoder.ended(), after))
}

/// A provider's answer is the same however the network cuts it, and no byte of it is lost or made up.
#[test]
fn answer() {
    check!().for_each(|input: &[u8]| {
        let Some((cuts, bytes)) = input.split_first() else { return };
        let whole = head::parse(bytes);
        let at = usize::from(*cuts) * bytes.len() / 256;
        if let Ok(Some((_, length))) = &whole {
            assert!((1..=bytes.len()).contains(length));
            assert_eq!(head::parse(&bytes[..*length]), whole, "what comes after a head changes it");
            assert_eq!(head::parse(&bytes[..at.min(length - 1)]), Ok(None), "a part of it is a whole one");
        }
        for framing in [Framing::Chunked, Framing::Length(u64::from(*cuts)), Framing::UntilClose] {
            let whole = body_in(framing, &[bytes]);
            let size = usize::from(*cuts) % 7 + 1;
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(body_in(framing, &pieces), whole, "cut each {size} bytes");
            assert_eq!(body_in(framing, &[&bytes[..at], &bytes[at..]]), whole, "cut at {at}");
            if let Ok((body, _, after)) = whole {
                assert!(bytes.ends_with(&after) && body.len() + after.len() <= bytes.len());
            }
        }
    });
}

fn conversation(input: &[u8]) -> Vec<Message> {
    let one = |(at, byte): (usize, &u8)| {
        let (role, text) = (if byte & 1 == 0 { "user" } else { "assistant" }, byte >> 1 & 3);
        let object = serde_json::json!({"role": role, "content": text.to_string()});
        Message::parse(Raw::of(&object), at).expect("a message")
    };
    input.iter().enumerate().map(one).collect()
}

/// The longest end of the history with which the sent messages begin, found by trying all.
fn matched_slowly(stored: &[Message], sent: &[&Message]) -> usize {
    let role = |message: &Message| message.role == switchboard::conversation::message::Role::Assistant;
    if !stored.last().is_some_and(role) {
        return 0;
    }
    let same = |len: &usize| {
        let end = &stored[stored.len() - len..];
        end.iter().zip(sent).all(|(one, other)| one.fingerprint() == other.fingerprint())
    };
    (1..=stored.len().min(sent.len())).rev().find(same).unwrap_or(0)
}

/// What a client repeats is recognised as trying every length would.
#[test]
fn repeated_history() {
    check!().for_each(|input: &[u8]| {
        let Some((cut, bytes)) = input.split_first() else { return };
        let (stored, sent) = bytes.split_at(usize::from(*cut).min(bytes.len()));
        let stored = conversation(stored);
        let mut history = History::default();
        history.push_turn(stored.clone());
        let sent = conversation(sent);
        let sent: Vec<&Message> = sent.iter().collect();
        assert_eq!(history.matched(&sent), matched_slowly(&stored, &sent));
    });
}

/// Nothing but a key of ours passes for one, and an error never shows what was sent.
#[test]
fn key() {
    let real = [KeyKind::Agent, KeyKind::Account, KeyKind::Operator].map(api_key::generate);
    check!().for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        if let Some(digest) = api_key::check(&text) {
            assert_eq!(digest, api_key::digest(&text));
            assert_eq!(text.len(), 43);
        }
        assert!(api_key::masked(&text).len() <= 8, "{}", api_key::masked(&text));
        for real in &real {
            assert!(api_key::check(real).is_some());
            let (at, to) =
                (usize::from(*input.first().unwrap_or(&3)) % real.len(), input.get(1).unwrap_or(&b'0'));
            let mut broken = real.clone().into_bytes();
            if broken[at] != *to {
                broken[at] = *to;
                assert_eq!(api_key::check(&String::from_utf8_lossy(&broken)), None, "a typo passes");
            }
        }
    });
}
