//! Whatever OpenAI's clients can say reaches the provider byte for byte, streamed or not.

use serde_json::json;

use crate::app::{App, MODEL, Setup};
use crate::client::Answer;

/// Fields of a request, with blanks, orders and numbers that would not survive being written anew.
const FIELDS: &[(&str, &str)] = &[
    ("temperature", "0.70"),
    ("top_p", "0.30000000000000004"),
    ("presence_penalty", "-2.0"),
    ("frequency_penalty", "1E0"),
    ("n", "2"),
    ("stop", r#""END""#),
    ("stop", r#"["a", "\u0062","c","d"]"#),
    ("seed", "-9223372036854775808"),
    ("logit_bias", r#"{"50256": -100, "11":1.0}"#),
    ("logprobs", "true"),
    ("top_logprobs", "20"),
    (
        "tools",
        r#"[{"type":"function","function":{"name":"f","description":"\u00e9","parameters":{"type":"object","properties":{"z":{},"a":{}}, "required":["z"],"additionalProperties":false},"strict":true}}]"#,
    ),
    (
        "tools",
        r#"[{"type":"custom","custom":{"name":"sql","description":"d","format":{"type":"grammar","grammar":{"syntax":"lark","definition":"start: \"a\""}}}}, {"type":"custom","custom":{"name":"t","format":{"type":"text"}}}]"#,
    ),
    (
        "tools",
        r#"[{"function":{"name":"f","strict":null},"type":"function","cache_control":{"type":"ephemeral"}}]"#,
    ),
    ("tool_choice", r#""none""#),
    ("tool_choice", r#""auto""#),
    ("tool_choice", r#""required""#),
    ("tool_choice", r#"{"type":"function", "function":{"name":"f"}}"#),
    ("tool_choice", r#"{"type":"custom","custom":{"name":"sql"}}"#),
    (
        "tool_choice",
        r#"{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"f"}}]}}"#,
    ),
    ("parallel_tool_calls", "false"),
    ("functions", r#"[{"name":"old","parameters":{"type":"object","properties":{}}}]"#),
    ("function_call", r#""auto""#),
    ("function_call", r#"{"name": "old"}"#),
    ("response_format", r#"{"type":"text"}"#),
    ("response_format", r#"{"type":"json_object"}"#),
    (
        "response_format",
        r#"{"type":"json_schema","json_schema":{"name":"n","description":"d","schema":{"b":{"minimum":1.50},"a":18446744073709551616},"strict":true}}"#,
    ),
    ("reasoning_effort", r#""minimal""#),
    ("reasoning_effort", r#""beyond""#),
    ("verbosity", r#""low""#),
    ("modalities", r#"[ "text" ]"#),
    ("prediction", r#"{"type":"content","content":[{"type":"text","text":"was"}]}"#),
    ("moderation", r#"{"model":"omni","policy":{"block":true}}"#),
    ("service_tier", r#""auto""#),
    ("service_tier", r#""default""#),
    ("service_tier", r#""flex""#),
    ("store", "true"),
    ("metadata", r#"{"order":"7", "a":"b"}"#),
    ("prompt_cache_key", r#""tenant-1""#),
    ("prompt_cache_retention", r#""24h""#),
    ("prompt_cache_options", r#"{"mode":"auto","ttl":60}"#),
    ("safety_identifier", r#""hash-1""#),
    ("user", r#""ann""#),
    ("top_k", "40"),
    ("chat_template_kwargs", r#"{"enable_thinking":false}"#),
    ("guided_json", r#"{"type":"object"}"#),
    ("x_vendor", r#"[1, null,{"deep":[1e2]}]"#),
];

/// Messages in every role and with every kind of content, as they have to arrive.
const MESSAGES: &[&str] = &[
    r#"{"role":"user","content":"caf\u00e9 \ud83d\ude00 \"q\"\r\n\u2028"}"#,
    r#"{"content":[{"type":"text","text":"a"}, {"type":"text","text":"b","prompt_cache_breakpoint":true}],"role":"user","name":"ann"}"#,
    r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png","detail":"high"}},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}"#,
    r#"{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}}]}"#,
    r#"{"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}},{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBERi0="}}]}"#,
    r#"{"role":"assistant","content":null,"refusal":"I cannot."}"#,
    r#"{"role":"assistant","content":[{"type":"refusal","refusal":"No."}],"name":"bot"}"#,
    r#"{"role":"assistant","content":"spoken","audio":{"id":"audio_1"}}"#,
    r#"{"role":"assistant","content":null,"function_call":{"name":"old","arguments":"{\"a\": 1}"}}"#,
    r#"{"role":"function","name":"old","content":"7"}"#,
    r#"{"role":"function","name":"old","content":null}"#,
    r#"{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"broken\": "}},{"id":"c2","type":"custom","custom":{"name":"sql","input":"select 1"}}]}"#,
    r#"{"role":"tool","tool_call_id":"c1","content":"found"}"#,
    r#"{"role":"tool","tool_call_id":"c2","content":[{"type":"text","text":"1"}]}"#,
    r#"{"role":"assistant","content":"","tool_calls":[{"id":"c3","type":"function","function":{"name":"f","arguments":""}}],"reasoning_content":"hm","extra_content":{"google":{"thought_signature":"s"}}}"#,
    r#"{"role":"tool","tool_call_id":"c3","content":""}"#,
    r#"{"role":"assistant","content":"done","annotations":[],"audio":null,"function_call":null,"tool_calls":null,"parsed":{"a":1}}"#,
    r#"{"role":"developer","content":"Be brief."}"#,
    r#"{"role":"system","content":[{"type":"text","text":"Be kind."}],"name":"op"}"#,
    r#"{"role":"user","content":"last","x_vendor":{"b":1.0,"a":[null]}}"#,
];

fn send(app: &App, stream: bool, messages: &str, more: &str) -> Answer {
    let body = format!(r#"{{"model":"{}","stream":{stream},"messages":[{messages}]{more}}}"#, app.agent_id);
    let call = app.call("POST", "/v1/chat/completions").key(&app.account_key);
    call.body("application/json", body).send()
}

const HELLO: &str = r#"{"role":"user","content":"Hello"}"#;

#[test]
fn each_field_of_a_request_arrives_byte_for_byte() {
    let app = App::start();
    for stream in [false, true] {
        for (name, value) in FIELDS {
            let field = format!(r#""{name}":{value}"#);
            send(&app, stream, HELLO, &format!(",{field}")).is(200);
            let raw = app.upstream.last().raw;
            assert!(raw.contains(&field), "{field} arrives changed: {raw}");
        }
    }
    app.finish();
}

#[test]
fn the_options_of_a_stream_arrive_with_usage_asked_for() {
    let app = App::start();
    let options = r#","stream_options":{"include_obfuscation":false, "x_vendor":1.0}"#;
    send(&app, true, HELLO, options).is(200);
    let raw = app.upstream.last().raw;
    let sent = r#""stream_options":{"include_obfuscation":false,"x_vendor":1.0,"include_usage":true}"#;
    assert!(raw.contains(sent), "{raw}");
    app.finish();
}

#[test]
fn each_kind_of_message_arrives_byte_for_byte() {
    // A provider that knows the newer names: for others `developer` becomes `system`.
    let app = Setup::default().in_file("output_field = \"max_completion_tokens\"").start();
    let sent = MESSAGES.join(",");
    for stream in [false, true] {
        send(&app, stream, &sent, "").is(200);
        let raw = app.upstream.last().raw;
        for message in MESSAGES {
            assert!(raw.contains(message), "{message} arrives changed: {raw}");
        }
        assert!(raw.contains(&format!("{sent}]")), "the order has changed: {raw}");
    }
    app.finish();
}

#[test]
fn a_null_is_not_sent_on() {
    let app = App::start();
    let names: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    let ours =
        ["session_id", "agent_id", "max_tokens", "max_completion_tokens", "audio", "web_search_options"];
    let nulls: String = names.iter().chain(&ours).map(|name| format!(r#","{name}":null"#)).collect();
    for stream in [false, true] {
        send(&app, stream, HELLO, &format!(r#"{nulls},"stream_options":null"#)).is(200);
        let body = app.upstream.last().body;
        let mut sent: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
        sent.retain(|name| !name.starts_with("stream") && !name.starts_with("max_"));
        assert_eq!(sent, ["model", "messages"], "{body}");
        assert_eq!(body["model"], MODEL);
    }
    app.finish();
}

#[test]
fn what_has_no_price_is_400_and_named_and_costs_nothing() {
    let app = App::start();
    let before = app.balance();
    let refused = [
        ("service_tier", r#""priority""#),
        ("service_tier", r#""scale""#),
        ("service_tier", r#""fast""#),
        ("service_tier", "7"),
        ("web_search_options", r#"{"search_context_size":"low"}"#),
        ("audio", r#"{"voice":"alloy","format":"wav"}"#),
        ("modalities", r#"["audio"]"#),
        ("modalities", r#"["text","audio"]"#),
    ];
    for stream in [false, true] {
        for (name, value) in refused {
            let answer = send(&app, stream, HELLO, &format!(r#","{name}":{value}"#));
            let error = answer.refused(400, "invalid_request_error", "invalid_value");
            assert_eq!(error["param"], name, "{value}");
        }
    }
    assert!(app.upstream.requests().is_empty(), "the provider was asked all the same");
    assert_eq!(app.balance(), before);
    app.finish();
}

#[test]
fn an_agent_cannot_be_made_to_cost_more_than_its_price_either() {
    let app = App::start();
    let (agent, key) = app.agent(json!({"parameters": {"service_tier": "priority"}}));
    let body = json!({"model": agent, "messages": [{"role": "user", "content": "Hello"}]});
    let error =
        app.post(&key, "/v1/chat/completions", &body).refused(400, "invalid_request_error", "invalid_value");
    assert_eq!(error["param"], "service_tier");
    app.finish();
}
