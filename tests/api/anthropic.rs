//! A Claude model behind OpenAI's dialect: what it is asked, and what its answers become.

use serde_json::{Value, json};

use crate::app::{MODEL, PROVIDER_KEY, Setup, binary, merged};
use crate::claude::{Claude, answering, chunks, setup};
use crate::crash_load::{START, price};
use crate::database::Snapshot;
use crate::script::Script;

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}])
}

#[test]
fn a_chat_is_asked_in_claude_s_words_and_answered_in_openai_s() {
    let app = answering(Claude::says(&["Hel", "lo"]));
    let answer = app
        .say("Hi", json!({"temperature": 1.7, "stop": "end", "max_tokens": 100, "top_k": 3, "user": "ann"}));
    let sent = app.upstream.last();
    assert_eq!(sent.line, "POST /v1/messages HTTP/1.1");
    assert_eq!(sent.header("x-api-key"), Some(PROVIDER_KEY));
    assert_eq!(sent.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(sent.header("content-type"), Some("application/json"));
    assert_eq!(sent.header("authorization"), None);
    let expected = json!({
        "model": MODEL, "max_tokens": 100,
        "system": [text("You are a helpful assistant. Answer briefly.")],
        "messages": [{"role": "user", "content": [text("Hi")]}],
        "temperature": 1, "stop_sequences": ["end"], "top_k": 3, "metadata": {"user_id": "ann"},
    });
    assert_eq!(sent.body, expected);

    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")), "{answer}");
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!(app.agent_id)));
    assert!(answer["created"].is_u64(), "{answer}");
    let message = json!({"role": "assistant", "content": "Hello", "refusal": null});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    assert_eq!(answer["choices"], json!([choice]));
    assert_eq!(answer["usage"]["total_tokens"], 40);
    assert!(!answer.to_string().contains("upstream"), "the provider's names leak: {answer}");
    assert_eq!(START - app.balance().balance, price(25, 15));
    app.finish();
}

#[test]
fn a_bound_is_always_sent() {
    let app = answering(Claude::says(&["Hi"]));
    app.say("Hi", json!({}));
    assert_eq!(app.upstream.last().body["max_tokens"], 4_096);
    app.finish();
}

#[test]
fn instructions_of_agent_and_client_are_the_system_in_their_order() {
    let app = answering(Claude::says(&["Aye"]));
    let (agent, key) = app.agent(json!({"instructions": "You are a pirate."}));
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "developer", "content": [{"type": "text", "text": "No jokes."}]},
        {"role": "user", "content": "there"},
    ]);
    app.post(&key, "/v1/chat/completions", &json!({"model": agent, "messages": messages})).is(200);
    let sent = app.upstream.last().body;
    assert_eq!(sent["system"], json!([text("You are a pirate."), text("Be brief."), text("No jokes.")]));
    assert_eq!(sent["messages"], json!([{"role": "user", "content": [text("Hello"), text("there")]}]));
    app.finish();
}

#[test]
fn tools_go_round_in_a_session_and_the_whole_turn_is_sent_again() {
    let app = setup().start();
    let call = Claude::says(&["Let me see."]).and_calls("toolu_1", "weather", &["{\"city\":", "\"Oslo\"}"]);
    let answers = [call, Claude::says(&["Rain."]), Claude::says(&["You are welcome."])];
    let queued = |at: usize| app.upstream.next(Script::garbage(&answers[at].plain().to_string()));
    (0..3).for_each(queued);
    let asked =
        json!({"session_id": "s", "tools": tools(), "tool_choice": "required", "parallel_tool_calls": false});
    let answer = app.say("Weather in Oslo?", asked);
    let sent = app.upstream.last().body;
    assert_eq!(sent["tools"][0]["name"], "weather");
    assert_eq!(sent["tools"][0]["input_schema"], tools()[0]["function"]["parameters"]);
    assert_eq!(sent["tool_choice"], json!({"type": "any", "disable_parallel_tool_use": true}));
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "Let me see.");
    let function = json!({"name": "weather", "arguments": "{\"city\":\"Oslo\"}"});
    let calls = json!([{"id": "toolu_1", "type": "function", "function": function}]);
    assert_eq!(choice["message"]["tool_calls"], calls);

    let result = json!([{"role": "tool", "tool_call_id": "toolu_1", "content": "Rain, 7 degrees"}]);
    let body = json!({"model": app.agent_id, "session_id": "s", "tools": tools(), "messages": result});
    assert_eq!(app.chat(&body).ok()["content"], "Rain.");
    let so_far = json!([
        {"role": "user", "content": [text("Weather in Oslo?")]},
        {"role": "assistant", "content": [text("Let me see."),
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("Rain, 7 degrees")]}]},
    ]);
    assert_eq!(app.upstream.last().body["messages"], so_far);

    // Without tools the request still names what was called.
    app.say("Thanks", json!({"session_id": "s"}));
    let sent = app.upstream.last().body;
    assert_eq!(sent["messages"].as_array().map(Vec::len), Some(5));
    assert_eq!(sent["messages"][2], so_far[2]);
    assert_eq!(sent["tools"][0]["name"], "weather");
    assert_eq!(sent["tool_choice"], json!({"type": "none"}));
    assert_eq!(START - app.balance().balance, 3 * price(25, 15));
    app.finish();
}

#[test]
fn a_call_that_was_cut_in_the_middle_does_not_end_the_conversation() {
    let app = setup().start();
    app.upstream
        .next(Claude::calls("toolu_1", "weather", &["{\"city\":", "\"Os", "lo\"}"]).cut_before("lo\\"));
    let events = app.stream("Weather in Oslo?", json!({"session_id": "s", "tools": tools()})).rest();
    assert_eq!(events.last().expect("events").json()["error"]["code"], "upstream_invalid");
    app.upstream.always(Script::garbage(&Claude::says(&["Sorry."]).plain().to_string()));
    app.say("Never mind", json!({"session_id": "s"}));
    let sent = app.upstream.last().body;
    // Nobody can answer that call any more, so it is left out of the prompt.
    let said = json!([text("Weather in Oslo?"), text("Never mind")]);
    assert_eq!(sent["messages"], json!([{"role": "user", "content": said}]));
    app.finish();
}

#[test]
fn parallel_calls_are_streamed_side_by_side_and_their_results_go_back_together() {
    let app = setup().start();
    app.upstream.next(
        Claude::calls("toolu_1", "weather", &["", "{\"city\":", "\"Oslo\"}"])
            .and_calls("toolu_2", "time", &[""])
            .streamed(),
    );
    let chunks = chunks(&app.stream("Both", json!({"session_id": "s", "tools": tools()})).rest());
    let deltas: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]).collect();
    let opening = |index: u64, id: &str, name: &str| json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}});
    let piece = |index: u64, piece: &str| json!({"index": index, "function": {"arguments": piece}});
    let expected = [
        &Value::Null,
        &opening(0, "toolu_1", "weather"),
        &piece(0, "{\"city\":"),
        &piece(0, "\"Oslo\"}"),
        &opening(1, "toolu_2", "time"),
        &piece(1, "{}"),
        &Value::Null,
    ];
    assert_eq!(deltas, expected);
    assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "tool_calls");

    app.upstream.always(Script::garbage(&Claude::says(&["Done."]).plain().to_string()));
    let messages = json!([
        {"role": "tool", "tool_call_id": "toolu_2", "content": "noon"},
        {"role": "tool", "tool_call_id": "toolu_1", "content": [{"type": "text", "text": "rain"}]},
        {"role": "user", "content": "So?"},
    ]);
    app.chat(&json!({"model": app.agent_id, "session_id": "s", "tools": tools(), "messages": messages}))
        .is(200);
    let sent = app.upstream.last().body;
    assert_eq!(sent["messages"][1]["content"].as_array().map(Vec::len), Some(2), "{sent}");
    let results = json!([
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [text("noon")]},
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("rain")]},
        text("So?"),
    ]);
    assert_eq!(sent["messages"][2], json!({"role": "user", "content": results}));
    app.finish();
}

#[test]
fn pictures_and_documents_are_handed_over() {
    let app = answering(Claude::says(&["A cat."]));
    let content = json!([
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.jpg"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
        {"type": "text", "text": ""},
    ]);
    let messages = json!([{"role": "user", "content": content}]);
    app.chat(&json!({"model": app.agent_id, "messages": messages})).is(200);
    let inline = |kind: &str, data: &str| json!({"type": "base64", "media_type": kind, "data": data});
    let expected = json!([
        text("What is this?"),
        {"type": "image", "source": inline("image/png", "iVBORw0KGgo=")},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.jpg"}},
        {"type": "document", "source": inline("application/pdf", "JVBERi0="), "title": "a.pdf"},
    ]);
    assert_eq!(app.upstream.last().body["messages"][0]["content"], expected);
    app.finish();
}

#[test]
fn tokens_from_the_cache_are_charged_at_their_own_price() {
    let app = answering(Claude::says(&["Hi"]).usage([10, 70, 20], 333));
    let row = json!({"model": MODEL, "input": "3.00", "cached_input": "0.30", "output": "15.00"});
    app.post(&app.operator_token, "/admin/prices", &row).is(201);
    let cost = 30 * 3_000 + 70 * 300 + 333 * 15_000;
    let usage = app.say("Hi", json!({}))["usage"].clone();
    assert_eq!(usage["prompt_tokens"], 100);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 70);
    assert_eq!((&usage["completion_tokens"], &usage["total_tokens"]), (&json!(333), &json!(433)));
    assert_eq!(START - app.balance().balance, cost);
    app.stream("Hi", json!({})).rest();
    assert_eq!(START - app.balance().balance, 2 * cost);
    let holds = Snapshot::live(&app).holds;
    assert!(holds.values().all(|hold| hold.source.as_deref() == Some("upstream")), "{holds:?}");
    app.finish();
}

#[test]
fn a_document_of_many_pages_is_charged_as_it_was_counted() {
    let app = answering(Claude::says(&["Long."]).usage([90_000, 0, 0], 15));
    let file = json!({"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="});
    let messages = json!([{"role": "user", "content": [{"type": "file", "file": file}]}]);
    app.chat(&json!({"model": app.agent_id, "messages": messages})).is(200);
    let snapshot = Snapshot::live(&app);
    let hold = snapshot.only_hold();
    assert!(hold.amount >= price(90_000, 4_096), "the hold covers {} nano-dollars", hold.amount);
    assert_eq!(hold.charged, Some(price(90_000, 15)));
    app.finish();
}

#[test]
fn the_words_around_tools_are_held_too() {
    let app = answering(Claude::says(&["Hi"]).usage([400, 0, 0], 100));
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    app.say("Hi", json!({"tools": tools, "max_tokens": 100}));
    let snapshot = Snapshot::live(&app);
    let hold = snapshot.only_hold();
    assert!(hold.amount >= price(400, 100), "the hold covers {} nano-dollars", hold.amount);
    app.finish();
}

#[test]
fn each_reason_to_stop_has_its_word() {
    let app = setup().start();
    for (reason, expected) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
    ] {
        let claude = Claude::says(&["Hi"]).stops(reason);
        app.upstream.choose(move |asked| claude.answer(asked));
        assert_eq!(app.say("Hi", json!({}))["choices"][0]["finish_reason"], expected, "{reason}");
        let chunks = chunks(&app.stream("Hi", json!({})).rest());
        assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], expected, "{reason}");
    }
    app.finish();
}

#[test]
fn thoughts_are_handed_on_apart_and_do_not_go_back() {
    let app = answering(Claude::says(&["42"]).thinking(&["Let me ", "see."]));
    let fields =
        json!({"session_id": "s", "reasoning_effort": "low", "temperature": 0.2, "max_tokens": 8_000});
    let answer = app.say("Think", fields.clone());
    assert_eq!(answer["choices"][0]["message"]["reasoning_content"], "Let me see.");
    assert_eq!(answer["content"], "42");
    let sent = app.upstream.last().body;
    assert_eq!(sent["thinking"], json!({"type": "enabled", "budget_tokens": 2_048}));
    assert_eq!(sent.get("temperature"), None);
    let chunks = chunks(&app.stream("Again", fields).rest());
    let thoughts =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["reasoning_content"].as_str());
    assert_eq!(thoughts.collect::<String>(), "Let me see.");
    let sent = app.upstream.last().body;
    assert_eq!(sent["messages"][1], json!({"role": "assistant", "content": [text("42")]}));
    app.finish();
}

#[test]
fn what_claude_cannot_do_is_refused_by_name_before_anything_is_held() {
    let app = answering(Claude::says(&["Hi"]));
    let audio = json!([{"type": "text", "text": "a"}, {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]);
    let said = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let custom = json!([{"type": "custom", "custom": {"name": "c"}}]);
    for (fields, param) in [
        (said(audio), "messages[0].content[1]"),
        (
            said(json!([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}])),
            "messages[0].content[0]",
        ),
        (json!({"n": 2}), "n"),
        (json!({"logit_bias": {"1": 5}}), "logit_bias"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"presence_penalty": 0.5}), "presence_penalty"),
        (json!({"tools": custom}), "tools[0].type"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"service_tier": "priority"}), "service_tier"),
        (json!({"cache_control": {"type": "ephemeral"}}), "cache_control"),
    ] {
        for stream in [false, true] {
            let body = merged(app.saying("Hi", json!({ "stream": stream })), fields.clone());
            let error = app.chat(&body).refused(400, "invalid_request_error", "invalid_value");
            assert_eq!(error["param"], param, "{error}");
        }
    }
    assert_eq!(app.upstream.asked(), 0);
    assert!(Snapshot::live(&app).holds.is_empty());
    app.finish();
}

#[test]
fn a_history_that_claude_cannot_read_is_refused_and_nothing_is_held() {
    let app = Setup::default().in_file("kind = \"anthropic\"").in_file("").start();
    let (agent, key) = app.agent(json!({"model": format!("provider1/{MODEL}")}));
    let audio = json!([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]);
    let body = |content: Value| json!({"model": agent, "session_id": "s", "messages": [{"role": "user", "content": content}]});
    app.post(&key, "/v1/chat/completions", &body(audio)).is(200);
    let path = format!("/v2/agents/{agent}");
    app.patch(&app.account_key, &path, &json!({"model": format!("provider0/{MODEL}")})).is(200);
    for stream in [false, true] {
        let body = merged(body(json!("Hi")), json!({ "stream": stream }));
        let answer = app.post(&key, "/v1/chat/completions", &body);
        let error = answer.refused(400, "invalid_request_error", "invalid_value");
        assert_eq!(error["param"], "messages");
    }
    assert_eq!(app.upstream.asked(), 1);
    assert_eq!(app.balance().held, 0);
    assert_eq!(Snapshot::live(&app).in_state("released").count(), 2);
    app.finish();
}

#[test]
fn the_provider_is_shown_without_its_key() {
    let app = setup().start();
    let providers = app.get(&app.operator_token, "/admin/providers").ok();
    assert_eq!(providers["providers"][0]["kind"], "anthropic");
    assert!(!providers.to_string().contains(PROVIDER_KEY));
    app.finish();

    let dir = tempfile::tempdir().expect("a directory");
    let table =
        "[[providers]]\nname = \"claude\"\nkind = \"anthropic\"\napi_key_env = \"CLAUDE\"\nmodel = \"m\"\n";
    std::fs::write(dir.path().join("switchboard.toml"), table).expect("a file");
    let output = binary().current_dir(dir.path()).arg("config").env("CLAUDE", PROVIDER_KEY).output();
    let output = output.expect("the binary can be run");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("kind = \"anthropic\"") && shown.contains("api_key = \"***\""), "{shown}");
    assert!(shown.contains("base_url = \"https://api.anthropic.com/v1\""), "{shown}");
    assert!(!shown.contains(PROVIDER_KEY), "{shown}");
}

#[test]
fn a_schema_of_the_answer_is_asked_for() {
    let app = answering(Claude::says(&["{}"]));
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
    app.say("Hi", json!({ "response_format": format }));
    let expected = json!({"format": {"type": "json_schema", "schema": schema}});
    assert_eq!(app.upstream.last().body["output_config"], expected);
    app.finish();
}
