//! What messages are, and which of them are the same.

use super::*;

fn message(text: &str) -> Result<Message, Invalid> {
    Message::parse(Raw::parse(text.to_owned()).expect("JSON"), 3)
}

fn print(text: &str) -> Fingerprint {
    message(text).expect("a message").fingerprint()
}

#[test]
fn string_and_parts_are_the_same_message() {
    let string = print(r#"{"role":"user","content":"hello"}"#);
    assert_eq!(string, print(r#"{"content":[{"type":"text","text":"hello"}],"role":"user","name":null}"#));
    assert_ne!(string, print(r#"{"role":"assistant","content":"hello"}"#));
    assert_ne!(string, print(r#"{"role":"user","content":"hello!"}"#));
}

#[test]
fn an_answer_is_recognised_without_the_extras() {
    let sent = r#"{"role":"assistant","content":null,"refusal":null,"annotations":[],
        "tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]}"#;
    let back = r#"{"role":"assistant","content":"",
        "tool_calls":[{"id":"c1","function":{"arguments":"{}","name":"f"},"type":"function"}]}"#;
    assert_eq!(print(sent), print(back));
}

#[test]
fn a_tool_call_is_recognised_however_its_arguments_are_written() {
    let call = |arguments: &str| {
        let call = serde_json::json!({"id": "c", "function": {"name": "f", "arguments": arguments}});
        print(&serde_json::json!({"role": "assistant", "tool_calls": [call]}).to_string())
    };
    let made = call("{\"b\": [1.0, \"caf\u{e9}\"],\n \"a\":1e2}");
    assert_eq!(made, call(r#"{"a":100,"b":[1,"caf\u00e9"]}"#));
    assert_ne!(made, call(r#"{"a":101,"b":[1,"caf\u00e9"]}"#));
    assert_eq!(call(""), call("{}"));
    assert_eq!(call("{\"broken\": "), call("{\"broken\":"));
    assert_ne!(call("{\"broken\": "), call("{\"other\": "));
}

#[test]
fn a_refusal_is_recognised_in_every_form() {
    let field = print(r#"{"role":"assistant","content":null,"refusal":"No."}"#);
    let part = r#"{"role":"assistant","content":[{"type":"refusal","refusal":"No."}]}"#;
    assert_eq!(field, print(part));
    assert_eq!(field, print(r#"{"role":"assistant","content":""}"#));
}

#[test]
fn a_wrong_field_is_named() {
    let param = |text| message(text).expect_err("refused").param;
    assert_eq!(param("{}").as_deref(), Some("messages[3].role"));
    assert_eq!(param(r#"{"role":"robot","content":"x"}"#).as_deref(), Some("messages[3].role"));
    assert_eq!(param(r#"{"role":"user"}"#).as_deref(), Some("messages[3].content"));
    assert_eq!(param(r#"{"role":"user","content":7}"#).as_deref(), Some("messages[3].content"));
    let hologram = r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"hologram"}]}"#;
    assert_eq!(param(hologram).as_deref(), Some("messages[3].content[1].type"));
}

#[test]
fn what_only_answers_hold_does_not_go_back() {
    let back = |text| {
        let sent = message(text).expect("a message").for_prompt();
        (sent.raw.text().into_owned(), sent.text_bytes)
    };
    let answer = r#"{"role":"assistant","content":"a","refusal":null,"tool_calls":[],
        "annotations":[],"reasoning_content":"hm","x":1}"#;
    assert_eq!(back(answer), (r#"{"role":"assistant","content":"a","x":1}"#.to_owned(), 1));
    let call = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c"}],"reasoning_content":"hm"}"#;
    assert_eq!(back(call), (call.to_owned(), r#"[{"id":"c"}]"hm""#.len()));
    let user = r#"{"role":"user","content":"a","name":null}"#;
    assert_eq!(back(user), (user.to_owned(), 1));
}

#[test]
fn what_a_provider_answered_is_taken_whatever_it_holds() {
    for odd in [r#"{"content":[{"type":"thinking"}]}"#, r#"{"role":"assistant","name":7}"#, "{}"] {
        let stored = Message::stored(Raw::parse(odd).expect("JSON"));
        assert_eq!((stored.role, stored.text_bytes), (Role::Assistant, odd.len()), "{odd}");
    }
    let tool = Message::stored(Raw::parse(r#"{"role":"tool","content":[{"type":"x"}]}"#).expect("JSON"));
    assert_eq!(tool.role, Role::Tool);
}

#[test]
fn a_message_that_is_kept_does_not_keep_its_request() {
    let body =
        bytes::Bytes::from(format!("[{{\"role\":\"user\",\"content\":\"a\"}},{}]", "0,".repeat(5_000)));
    let sent = Message::parse(Raw::trusted(body.slice(1..30)), 0).expect("a message");
    let kept = sent.clone().alone();
    assert_eq!(kept.raw, sent.raw);
    assert!(!body.is_unique());
    drop(sent);
    assert!(body.is_unique());
}

#[test]
fn a_text_is_as_long_as_what_it_says() {
    for text in ["", "a", r"\n", r#"\"\\\\\"a"#, r"h\u00e9\n", "größer", r"\u005c\u005c", r"\/\b\f\t"] {
        let quoted = format!("\"{text}\"");
        let said: String = serde_json::from_str(&quoted).expect("JSON");
        assert_eq!(length(&quoted), said.len(), "{text}");
    }
    assert_eq!(length(r#""\ud800""#), r#""\ud800""#.len(), "as it is written");
}

#[test]
fn text_is_weighed_in_bytes() {
    let two = message(r#"{"role":"user","content":"h\u00e9"}"#).expect("a message");
    assert_eq!(two.text_bytes, 3);
    let parts =
        r#"{"role":"user","content":[{"type":"text","text":"abc"},{"type":"image_url","image_url":{}}]}"#;
    let parts = message(parts).expect("a message");
    assert_eq!((parts.text_bytes, parts.media), (3, 1));
    let file = message(r#"{"role":"user","content":[{"type":"file","file":{"file_data":""}}]}"#);
    assert_eq!(file.expect("a message").media, MEDIA_PER_FILE);
}
