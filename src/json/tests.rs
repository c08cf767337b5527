//! Objects, strings and depths.

use super::*;

#[test]
fn an_object_keeps_its_order_and_its_unknown_fields() {
    let text = Bytes::from_static(br#"{ "b" : 1.50, "a\n":{"x": [1, 2]}, "b":"last" }"#);
    let mut fields = Fields::parse(&text).expect("an object");
    assert_eq!(&fields.get("b").expect("b").bytes()[..], b"\"last\"");
    fields.set("c", Raw::of(&true));
    assert_eq!(&fields.to_raw().bytes()[..], br#"{"b":"last","a\n":{"x": [1, 2]},"c":true}"#);
    fields.remove("b");
    assert_eq!(&fields.to_raw().bytes()[..], br#"{"a\n":{"x": [1, 2]},"c":true}"#);
}

#[test]
fn a_string_is_written_as_serde_writes_it() {
    let controls: String = (0..=0x1f).chain(0x7e..=0xa1).filter_map(char::from_u32).collect();
    for text in ["", "a", "a \"word\" and \\ and / and größer\n", "日本\u{2028}\u{1f600}", &controls] {
        let mut written = Vec::new();
        write_string(&mut written, text);
        assert_eq!(written, serde_json::to_vec(text).expect("JSON"), "{text:?}");
    }
}

#[test]
fn an_object_is_the_same_however_it_is_read() {
    let mut scanned = 0;
    for seed in 0..20_000 {
        let mut random = random::Random(seed);
        let how = random::Oddness::any(&mut random);
        let text = random.value(3, how);
        let text = if random.chance(10) { random.damaged(&text) } else { text.into_bytes() };
        let text = Bytes::from(text);
        let shown = |fields: serde_json::Result<Fields>| {
            fields.map(|fields| format!("{fields:?}")).map_err(|cause| cause.to_string())
        };
        let careful = carefully::run(|| shown(Fields::parse(&text)));
        assert_eq!(shown(Fields::parse(&text)), careful, "{}", text.escape_ascii());
        scanned += u32::from(Fields::scanned(&text).is_some());
    }
    assert!(scanned > 2_000, "{scanned}");
    let many = |count: usize| Bytes::from(format!("{{{}}}", vec!["\"a\":1"; count].join(",")));
    assert!(Fields::parse(&many(MAX_FIELDS)).is_ok());
    assert!(Fields::parse(&many(MAX_FIELDS + 1)).is_err());
}

#[test]
fn null_is_there_but_not_given() {
    let fields = Fields::parse(&Bytes::from_static(b"{\"a\":null}")).expect("an object");
    assert!(fields.get("a").is_some());
    assert!(fields.given("a").is_none());
    let mut fields = fields;
    fields.drop_nulls();
    assert!(fields.get("a").is_none());
}

#[test]
fn half_of_a_letter_is_no_unicode() {
    for text in [r#""a""#, r#""\\ud800""#, r#"{"a":"\ud83d\uDE00"}"#, r#""\u0000""#] {
        assert!(is_unicode(text.as_bytes()), "{text}");
    }
    for text in [r#""\ud800""#, r#"{"\uDC00":1}"#, r#"["\udc00\ud800"]"#] {
        assert!(!is_unicode(text.as_bytes()), "{text}");
    }
}

#[test]
fn depth_is_counted_outside_of_strings() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(is_shallow(nested(MAX_DEPTH).as_bytes()));
    assert!(!is_shallow(nested(MAX_DEPTH + 1).as_bytes()));
    assert!(!is_shallow("{\"a\":".repeat(1_000_000).as_bytes()));
    assert!(is_shallow(format!("[{}]", nested(MAX_DEPTH - 1).repeat(50)).as_bytes()));
    assert!(is_shallow(format!("{{\"a\\\"{}\":\"{}\\\\\"}}", nested(300), nested(300)).as_bytes()));
    assert!(!is_shallow(format!("[\"\\\\\",{}]", nested(MAX_DEPTH)).as_bytes()));
    assert!(is_shallow(b"\"\\") && is_shallow(b"\"") && is_shallow(b""));
}

#[test]
fn what_is_no_object_is_refused() {
    for text in ["", "[]", "1", "{", "{\"a\":}", "{} x"] {
        assert!(Fields::parse(&Bytes::from_static(text.as_bytes())).is_err(), "{text}");
    }
}
