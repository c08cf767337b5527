//! What chunks of every kind come to.

use super::*;

fn absorb(reply: &mut Reply, chunk: &str) -> Chunk {
    reply.absorb(&Bytes::from(chunk.to_owned())).expect("a chunk")
}

#[test]
fn text_is_joined_and_a_role_alone_is_nothing() {
    let mut reply = Reply::default();
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null}}]}"#;
    assert_eq!(absorb(&mut reply, role), Chunk::Delta);
    assert!(!reply.received());
    absorb(&mut reply, r#"{"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}"#);
    absorb(&mut reply, r#"{"choices":[{"index":0,"delta":{"content":"lo"}}]}"#);
    assert_eq!(absorb(&mut reply, r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#), Chunk::Finish);
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,
        "prompt_tokens_details":{"cached_tokens":3}}}"#;
    assert_eq!(absorb(&mut reply, usage), Chunk::Usage);
    assert_eq!(reply.usage(), Some(Usage { prompt: 5, cached: 3, output: 2 }));
    assert_eq!(&reply.message().bytes()[..], br#"{"role":"assistant","content":"Hello"}"#);
    assert!(reply.finished() && reply.received());
}

#[test]
fn an_empty_reason_is_none() {
    let mut reply = Reply::default();
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":""}]}"#;
    assert_eq!(absorb(&mut reply, chunk), Chunk::Delta);
    assert!(!reply.finished());
}

#[test]
fn choices_and_calls_beyond_all_measure_are_refused() {
    let refused = |chunk: String| Reply::default().absorb(&Bytes::from(chunk)).is_err();
    assert!(refused(r#"{"choices":[{"index":128,"delta":{"content":"a"}}]}"#.to_owned()));
    let many = vec![r#"{"index":0,"delta":{}}"#; 129].join(",");
    assert!(refused(format!(r#"{{"choices":[{many}]}}"#)));
    let mut reply = Reply::default();
    let call = |at: usize| {
        format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":{at},"id":"c"}}]}}}}]}}"#)
    };
    let last = (0..).find(|at| reply.absorb(&Bytes::from(call(*at))).is_err());
    assert_eq!(last, Some(MAX_ITEMS));
}

#[test]
fn parallel_tool_calls_are_put_together() {
    let mut reply = Reply::default();
    for delta in [
        r#"{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":""}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}"#,
        r#"{"tool_calls":[{"index":1,"id":"c2","type":"function","function":{"name":"g","arguments":"{}"}}]}"#,
        r#"{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"arguments":"1}"}}]}"#,
    ] {
        absorb(&mut reply, &format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#));
    }
    let message: Value = reply.message().read().expect("JSON");
    assert_eq!(message["content"], Value::Null);
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], r#"{"a":1}"#);
    assert_eq!(message["tool_calls"][0]["id"], "c1");
    assert_eq!(message["tool_calls"][0]["type"], "function");
    assert_eq!(message["tool_calls"][1]["function"]["name"], "g");
    assert!(message["tool_calls"][0].get("index").is_none());
}

#[test]
fn content_in_parts_is_kept() {
    let mut reply = Reply::default();
    for content in [r#"[{"type":"thinking","thinking":"hm"}]"#, r#"[{"type":"text","text":"Hi"}]"#] {
        absorb(&mut reply, &format!(r#"{{"choices":[{{"index":0,"delta":{{"content":{content}}}}}]}}"#));
    }
    let message: Value = reply.message().read().expect("JSON");
    assert_eq!(message["content"][1]["text"], "Hi");
    assert!(reply.received() && reply.estimated_output() > 0);
}

#[test]
fn a_chunk_may_end_one_choice_and_go_on_with_another() {
    let mut reply = Reply::default();
    let end = r#"{"index":0,"delta":{},"finish_reason":"stop"}"#;
    let more = r#"{"index":1,"delta":{"content":"x"},"finish_reason":null}"#;
    assert_eq!(absorb(&mut reply, &format!(r#"{{"choices":[{end},{more}]}}"#)), Chunk::Mixed);
    assert_eq!(absorb(&mut reply, &format!(r#"{{"choices":[{end}]}}"#)), Chunk::Finish);
}

#[test]
fn nonsense_usage_counts_as_missing() {
    for usage in ["-1", "1.5", "\"3\"", "null"] {
        let chunk = format!(r#"{{"choices":[],"usage":{{"prompt_tokens":{usage},"completion_tokens":1}}}}"#);
        let mut reply = Reply::default();
        absorb(&mut reply, &chunk);
        assert_eq!(reply.usage(), None, "{usage}");
    }
}

#[test]
fn a_count_of_the_prompt_alone_is_nothing_received() {
    let mut reply = Reply::default();
    absorb(
        &mut reply,
        r#"{"choices":[{"delta":{"role":"assistant","content":""}}],"usage":{"prompt_tokens":9,"completion_tokens":null}}"#,
    );
    assert_eq!(reply.prompt_told(), Some(Usage { prompt: 9, cached: 0, output: 0 }));
    assert_eq!(reply.usage(), None);
    assert!(!reply.received());
}

#[test]
fn an_error_in_the_place_of_a_chunk_is_seen() {
    let mut reply = Reply::default();
    let chunk = absorb(&mut reply, r#"{"error":{"message":"overloaded"}}"#);
    assert_eq!(chunk, Chunk::Error(Raw::trusted(&br#"{"message":"overloaded"}"#[..])));
}

#[test]
fn a_whole_answer_is_kept_as_it_came() {
    let answer = br#"{"choices":[{"index":0,"message":{"role":"assistant", "content":"hi","x":1},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":0,"completion_tokens":0}}"#;
    let reply = Reply::whole(&Bytes::from_static(answer)).expect("an answer");
    assert_eq!(&reply.message().bytes()[..], br#"{"role":"assistant", "content":"hi","x":1}"#);
    assert_eq!(reply.usage(), Some(Usage::default()));
    assert!(Reply::whole(&Bytes::from_static(b"{\"choices\":[]}")).is_err());
    assert!(Reply::whole(&Bytes::from_static(b"{}")).is_err());
}
