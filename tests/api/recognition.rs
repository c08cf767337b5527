//! Conversations with tools: kept whole, and recognised in whatever form clients send them again.

use serde_json::{Value, json};

use crate::app::App;
use crate::script::{Fault, Reply, Script};

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
        let app = App::answering(Script::garbage(&body.to_string()));
        ask(&app, false, &[question()]);
        let again = json!({"role": "user", "content": "Why?"});
        assert_eq!(ask(&app, false, &[question(), form, again]), Some(2));
        app.finish();
    }
}

#[test]
fn an_answer_in_a_form_of_its_own_is_remembered() {
    let parts = json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hi"}]);
    let messages = [json!({"content": "Hi"}), json!({"role": "assistant", "content": parts}), json!({})];
    for message in messages {
        let mut app = App::start();
        let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
        app.upstream.next(Script::garbage(&body.to_string()));
        ask(&app, false, &[question()]);
        for _ in 0..2 {
            ask(&app, false, &[json!({"role": "user", "content": "And?"})]);
            let came = seen(&app);
            assert_eq!(came[0], question());
            if message["content"].is_null() {
                assert_eq!(came[1]["role"], "user", "an answer of nothing is sent back");
            } else {
                assert_eq!(came[1], json!({"role": "assistant", "content": message["content"]}));
            }
            // The same from the store as from memory.
            app.restart();
        }
        app.finish();
    }
}

#[test]
fn a_streamed_answer_in_parts_is_remembered() {
    let app = App::start();
    let chunks = [json!([{"type": "thinking", "thinking": "hm"}]), json!([{"type": "text", "text": "Hi"}])]
        .map(|content| {
            let choice = json!({"index": 0, "delta": {"content": content}, "finish_reason": null});
            format!("data: {}\n\n", json!({"choices": [choice]}))
        });
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let headers = vec![("Content-Type".to_owned(), "text/event-stream".to_owned())];
    app.upstream.next(Script::Raw {
        status: 200,
        headers,
        body: format!("{}data: {end}\n\ndata: [DONE]\n\n", chunks.concat()),
    });
    ask(&app, true, &[question()]);
    ask(&app, true, &[json!({"role": "user", "content": "And?"})]);
    let parts = json!([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}]);
    assert_eq!(seen(&app)[1], json!({"role": "assistant", "content": parts}));
    app.finish();
}

#[test]
fn a_call_that_nobody_answered_does_not_spoil_the_session() {
    let cut = Reply::says(&["Let me look. "])
        .and_calls("call_1", "lookup", &["{\"q\": ", "\"tea\"}"])
        .fault_after(3, Fault::HangUp);
    let given_up = Reply::calls("call_1", "lookup", &["{}"]);
    for (reply, left) in [(cut, Some("Let me look. ")), (given_up, None)] {
        let app = App::start();
        app.upstream.next(reply);
        let body = app.saying("Tea?", json!({"session_id": "mine", "stream": true}));
        app.chat_call(&body).open().ok().rest();
        app.settled();
        let never_mind = json!({"role": "user", "content": "Never mind."});
        ask(&app, false, std::slice::from_ref(&never_mind));
        let said = left.map(|text| json!({"role": "assistant", "content": text}));
        let expected: Vec<Value> = [question()].into_iter().chain(said).chain([never_mind]).collect();
        assert_eq!(seen(&app), expected);
        app.finish();
    }
}
