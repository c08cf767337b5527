//! Conversations with tools: kept whole, and recognised in whatever form clients send them again.

use serde_json::{Value, json};

use crate::app::App;
use crate::script::Reply;

const ARGUMENTS: [&str; 2] = ["{\"q\": \"caf\u{e9}\", ", "\"n\": 1.0}"];

/// An app whose model calls two tools at once, and then says what they said.
fn calling() -> App {
    let app = App::start();
    app.upstream.choose(|request| match request.conversation().last() {
        Some(last) if last["role"] == "tool" => Reply::says(&["It is ", "green."]).usage(9, 2).into(),
        Some(last) if last["content"] == "Tea?" => Reply::calls("call_1", "lookup", &ARGUMENTS)
            .and_calls("call_2", "clock", &[""])
            .thinking(&["Let me ", "see."])
            .into(),
        _ => Reply::says(&["You are ", "welcome."]).usage(9, 2).into(),
    });
    app
}

fn question() -> Value {
    json!({"role": "user", "content": "Tea?"})
}

fn results() -> [Value; 2] {
    [
        json!({"role": "tool", "tool_call_id": "call_1", "content": "green"}),
        json!({"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "noon"}]}),
    ]
}

/// The model's message as the provider has to get it again.
fn called() -> Value {
    let function = |name: &str, arguments: &str| json!({"name": name, "arguments": arguments});
    json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "call_1", "type": "function", "function": function("lookup", &ARGUMENTS.concat())},
        {"id": "call_2", "type": "function", "function": function("clock", "")},
    ]})
}

fn ask(app: &App, stream: bool, messages: &[Value]) -> Option<u64> {
    let body = json!({"model": app.agent_id, "session_id": "mine", "stream": stream, "messages": messages});
    let answer = app.chat(&body).is(200);
    answer.headers.find("x-history-matched").and_then(|count| count.parse().ok())
}

/// What the provider saw last, without the vendor's note.
fn seen(app: &App) -> Vec<Value> {
    let mut messages = app.upstream.last().conversation();
    for fields in messages.iter_mut().filter_map(Value::as_object_mut) {
        fields.remove("x_vendor_note");
    }
    messages
}

#[test]
fn parallel_calls_and_their_results_stay_whole_in_the_history() {
    for stream in [false, true] {
        let app = calling();
        ask(&app, stream, &[question()]);
        ask(&app, stream, &results());
        let mut call = called();
        call["reasoning_content"] = json!("Let me see.");
        let [one, two] = results();
        assert_eq!(seen(&app), [question(), call.clone(), one.clone(), two.clone()], "streamed: {stream}");
        let thanks = json!({"role": "user", "content": "Thanks"});
        ask(&app, stream, std::slice::from_ref(&thanks));
        let said = json!({"role": "assistant", "content": "It is green."});
        assert_eq!(seen(&app), [question(), call, one, two, said, thanks], "streamed: {stream}");
        app.finish();
    }
}

/// The model's message as clients are known to send it again.
fn forms() -> Vec<(&'static str, Value)> {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut message = called();
        change(&mut message);
        message
    };
    vec![
        ("as it came", called()),
        ("content is empty text", with(&|message| message["content"] = json!(""))),
        ("content is no parts", with(&|message| message["content"] = json!([]))),
        (
            "content is left out",
            with(&|message| drop(message.as_object_mut().map(|fields| fields.remove("content")))),
        ),
        (
            "every field that an answer has, most of them null",
            with(&|message| {
                for name in ["refusal", "audio", "function_call", "name", "annotations", "parsed"] {
                    message[name] = Value::Null;
                }
            }),
        ),
        (
            "the index of each call, and its arguments read",
            with(&|message| {
                for at in 0..2 {
                    message["tool_calls"][at]["index"] = json!(at);
                    message["tool_calls"][at]["function"]["parsed_arguments"] = json!({"q": "caf\u{e9}"});
                }
            }),
        ),
        (
            "arguments written anew by Python",
            with(&|message| {
                message["tool_calls"][0]["function"]["arguments"] =
                    json!("{\"q\": \"caf\\u00e9\", \"n\": 1.0}");
                message["tool_calls"][1]["function"]["arguments"] = json!("{}");
            }),
        ),
        (
            "arguments written anew by JavaScript",
            with(&|message| {
                message["tool_calls"][0]["function"]["arguments"] = json!("{\"q\":\"caf\u{e9}\",\"n\":1}");
                message["tool_calls"][1]["function"]["arguments"] = json!("{}");
            }),
        ),
        (
            "without a type",
            with(&|message| {
                message["tool_calls"][0] =
                    json!({"function": message["tool_calls"][0]["function"], "id": "call_1"});
            }),
        ),
    ]
}

#[test]
fn a_tool_conversation_is_recognised_in_every_form_that_clients_send() {
    for stream in [false, true] {
        for (name, form) in forms() {
            let app = calling();
            ask(&app, stream, &[question()]);
            let [one, two] = results();
            let asked = json!({"role": "user", "content": [{"type": "text", "text": "Tea?"}]});
            let matched = ask(&app, stream, &[asked.clone(), form.clone(), one.clone(), two.clone()]);
            assert_eq!(matched, Some(2), "{name}, streamed: {stream}");
            assert_eq!(seen(&app).len(), 4, "{name}, streamed: {stream}");
            let said = json!({"role": "assistant", "content": [{"type": "text", "text": "It is green."}]});
            let parts = json!({"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "green"}]});
            let thanks = json!({"role": "user", "content": "Thanks"});
            let matched = ask(&app, stream, &[asked, form, parts, two, said, thanks]);
            assert_eq!(matched, Some(5), "{name}, streamed: {stream}");
            assert_eq!(seen(&app).len(), 6, "{name}, streamed: {stream}");
            app.finish();
        }
    }
}

#[test]
fn another_call_is_not_taken_for_the_one_that_was_made() {
    let app = calling();
    ask(&app, false, &[question()]);
    let mut other = called();
    other["tool_calls"][0]["function"]["arguments"] = json!("{\"q\": \"coffee\", \"n\": 1}");
    let [one, two] = results();
    assert_eq!(ask(&app, false, &[question(), other, one, two]), None);
    app.finish();
}

#[test]
fn an_answer_with_nothing_but_a_refusal_is_recognised() {
    let message = json!({"role": "assistant", "content": null, "refusal": "No."});
    let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
    let forms = [
        message,
        json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}),
        json!({"role": "assistant", "content": "", "refusal": null}),
    ];
    for form in forms {
        let app = App::answering(crate::script::Script::garbage(&body.to_string()));
        ask(&app, false, &[question()]);
        let again = json!({"role": "user", "content": "Why?"});
        assert_eq!(ask(&app, false, &[question(), form, again]), Some(2));
        app.finish();
    }
}
