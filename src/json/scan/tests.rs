//! What is passed over against what serde says of it.

use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::json::Object;
use crate::json::random::{Oddness, Random};

/// Any value, with what is before and after it.
fn value_of(text: &[u8]) -> Option<&str> {
    Scan::of(text, Scan::value)
}

fn fields_of(text: &[u8]) -> Option<Vec<(&str, &str)>> {
    Scan::of(text, |scan| {
        let mut fields = Vec::new();
        scan.object(|scan, name| {
            fields.push((name, scan.value()?));
            Some(())
        })?;
        Some(fields)
    })
}

/// Texts of every kind.
fn texts(seeds: std::ops::Range<u64>) -> impl Iterator<Item = Vec<u8>> {
    seeds.map(|seed| {
        let mut random = Random(seed);
        let how = Oddness::any(&mut random);
        let value = random.value(3, how);
        let text = format!("{}{value}{}", random.blank(how), random.blank(how));
        if random.chance(15) { random.damaged(&text) } else { text.into_bytes() }
    })
}

#[test]
fn what_is_passed_over_is_what_serde_takes_and_in_the_same_places() {
    let (mut passed, mut given_up) = (0, 0);
    for text in texts(0..60_000) {
        let shown = text.escape_ascii();
        let serde = serde_json::from_slice::<&RawValue>(&text).ok().map(RawValue::get);
        let ours = value_of(&text);
        assert!(ours.is_none() || ours == serde, "{shown}: {ours:?}, but {serde:?}");
        passed += u32::from(ours.is_some());
        given_up += u32::from(serde.is_some() && ours.is_none());
        let Some(fields) = fields_of(&text) else { continue };
        let Object(theirs) = serde_json::from_slice(&text).expect("an object");
        let theirs: Vec<_> = theirs.iter().map(|(name, value)| (&**name, value.get())).collect();
        assert_eq!(fields, theirs, "{shown}");
    }
    assert!(passed > 30_000 && given_up == 0, "{passed} passed, {given_up} given up");
}

#[test]
fn what_is_called_readable_can_be_read() {
    let mut unreadable = 0;
    for text in texts(0..60_000) {
        let readable = Scan::of(&text, |scan| scan.value().map(|_| scan.is_readable()));
        let Some(readable) = readable else { continue };
        let read = serde_json::from_slice::<Value>(&text);
        assert!(!readable || read.is_ok(), "{}: {read:?}", text.escape_ascii());
        unreadable += u32::from(read.is_err());
    }
    assert!(unreadable > 20, "{unreadable}");
}

#[test]
fn a_string_says_what_serde_reads_of_it() {
    for text in texts(0..60_000) {
        let said = Scan::of(&text, Scan::text);
        let serde = serde_json::from_slice::<String>(&text).ok();
        assert!(said.as_deref() == serde.as_deref(), "{}: {said:?}, but {serde:?}", text.escape_ascii());
        assert!(Scan::of(&text, Scan::plain).is_none_or(|said| Some(said) == serde.as_deref()));
    }
}

#[test]
fn a_count_is_what_serde_counts() {
    for text in texts(0..60_000) {
        let counted = Scan::of(&text, Scan::count);
        let serde = serde_json::from_slice::<u64>(&text).ok();
        assert!(counted == serde, "{}: {counted:?}, but {serde:?}", text.escape_ascii());
    }
}

#[test]
fn what_lies_deep_is_given_up() {
    let nested = |depth: usize| format!("{}{}", "[{\"a\":".repeat(depth / 2) + "1", "}]".repeat(depth / 2));
    assert!(value_of(nested(DEPTH).as_bytes()).is_some());
    assert!(value_of(nested(DEPTH + 2).as_bytes()).is_none());
    assert!(value_of("[".repeat(1_000_000).as_bytes()).is_none());
}

#[test]
fn letters_are_counted_up_to_each_byte_that_is_none() {
    for byte in 0..=255_u8 {
        for at in 0..20 {
            let mut text = [b'a'; 20];
            text[at] = byte;
            let stands = byte >= b' ' && byte != b'"' && byte != b'\\';
            assert_eq!(letters(&text), if stands { 20 } else { at }, "{byte} at {at}");
        }
    }
    assert_eq!(letters(b"\x21\x20\x1f\"\\\x01\x00"), 2);
}
