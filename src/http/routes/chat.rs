//! Chat and the models to chat with.

use actix_web::http::StatusCode;
use serde_json::{Value, json};

use crate::http::endpoint::{Endpoint, Keys, Parameter, get, header, post, query};
use crate::http::{native, openai, streams};
use crate::wire::native::objects::CancelledTurn;
use crate::wire::native::requests::AgentMessage;
use crate::wire::openai::describe::{AgentReply, ChatCompletion, ChatCompletionRequest, Model, ModelList};

const OPENAI_STREAM: &str = r#"data: {"id":"chatcmpl-Zq","object":"chat.completion.chunk","created":1795387312,"model":"ag_5d2678fd_e556","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}],"session_id":"ada:1"}
id: 1

data: {"id":"chatcmpl-Zq","object":"chat.completion.chunk","created":1795387312,"model":"ag_5d2678fd_e556","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}
id: 1.1

id: 2
data: [DONE]

"#;
const NATIVE_STREAM: &str = r#"data: {"type":"content","data":"Hi"}
id: 1

id: 2
data: {"type":"done","session_id":"ada:1","metrics":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,"ttft_ms":212,"duration_ms":840,"finish_reason":"stop"}}

"#;
const CHAT_ABOUT: &str = "The agent's instructions and the stored turns go before the new messages; a client that \
re-sends the conversation is recognised. Without `stream` the answer is one object; with it, server-sent events: \
`chat.completion.chunk` objects and `data: [DONE]`, or the native dialect. No status is sent before the provider's \
first event; after it an error is the stream's last event.";
const RESUME_ABOUT: &str = "The events after the one that was seen last, live or for 5 minutes after the end; it costs \
nothing, and several may read at once. The dialect is that of the request.";
const CANCEL_ABOUT: &str = "Ends the turn: what was received is charged and stored, its readers get an error event. \
Answers when it has ended; asking again changes nothing.";
/// What answers of chat may tell beside what every answer tells.
const CHAT_HEADERS: &[&str] = &[
    "x-completion-id",
    "x-session-id",
    "x-history-matched",
    "x-context-dropped",
    "x-max-completion-tokens",
    "idempotent-replayed",
];

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        completion("/v1/chat/completions", "Chat with an agent"),
        completion("/v2/chats/openai", "Chat with an agent, under another path"),
        post("/v1/agents/{id}/chat", native::chat, "Say one thing to an agent")
            .about("For websites and scripts. Streams are in the native dialect.")
            .by(Keys::AgentOrAccount)
            .with(chat_parameters())
            .takes::<AgentMessage>(json!({"message": "Hello!", "session_id": "ada:1"}))
            .answers::<AgentReply>(StatusCode::OK, "The answer, whole or streamed.")
            .example(json!({
                "response": "Hi",
                "session_id": "ada:1",
                "usage": {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11},
            }))
            .text(StatusCode::OK, "", "text/event-stream", NATIVE_STREAM)
            .tells(CHAT_HEADERS)
            .fails(CHAT_ERRORS),
        get("/v1/models", openai::models, "List the agents that the key may use")
            .about("As OpenAI's model objects, with the agent's name in addition.")
            .by(Keys::AgentOrAccount)
            .answers::<ModelList>(StatusCode::OK, "The agents.")
            .example(json!({"object": "list", "data": [model()]})),
        get("/v1/models/{id:.*}", openai::model, "Show an agent that the key may use")
            .by(Keys::AgentOrAccount)
            .answers::<Model>(StatusCode::OK, "The agent.")
            .example(model()),
        get("/v1/chat/completions/{id}/stream", streams::resume, "Take up a broken stream")
            .about(RESUME_ABOUT)
            .by(Keys::AgentOrAccount)
            .with(resume_parameters())
            .text(
                StatusCode::OK,
                "The events that the client has not seen.",
                "text/event-stream",
                OPENAI_STREAM,
            )
            .tells(&["x-completion-id", "x-session-id"])
            .fails(&[404, 410]),
        post("/v1/chat/completions/{id}/cancel", streams::cancel, "Cancel a running answer")
            .about(CANCEL_ABOUT)
            .by(Keys::AgentOrAccount)
            .answers::<CancelledTurn>(StatusCode::OK, "How the turn ended.")
            .example(json!({
                "id": "chatcmpl-Zq",
                "object": "chat.completion",
                "status": "cancelled",
                "agent_id": "ag_5d2678fd_e556",
                "session_id": "ada:1",
            }))
            .fails(&[404]),
    ]
}

/// What chat may answer beside what follows from its body and its key.
const CHAT_ERRORS: &[u16] = &[402, 404, 409, 410, 422, 502, 504];

fn completion(path: &'static str, summary: &'static str) -> Endpoint {
    let example = json!({
        "model": "ag_5d2678fd_e556",
        "session_id": "ada:1",
        "messages": [{"role": "user", "content": "Hello!"}],
    });
    post(path, openai::create, summary)
        .about(CHAT_ABOUT)
        .by(Keys::AgentOrAccount)
        .with(chat_parameters())
        .takes::<ChatCompletionRequest>(example)
        .answers::<ChatCompletion>(StatusCode::OK, "The answer, whole or streamed.")
        .example(answer())
        .text(StatusCode::OK, "", "text/event-stream", OPENAI_STREAM)
        .tells(CHAT_HEADERS)
        .fails(CHAT_ERRORS)
}

fn chat_parameters() -> [Parameter; 4] {
    let session = json!({"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$", "examples": ["ada:1"]});
    let conflict = json!({"type": "string", "enum": ["queue", "reject", "interrupt"], "default": "queue"});
    let disconnect = json!({"type": "string", "enum": ["cancel", "continue"], "default": "cancel"});
    let key = json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"});
    [
        header(
            "X-Session-Id",
            "Which conversation, for clients that cannot add a field to the body.",
            session,
        ),
        header("X-Session-Conflict", "What to do while another turn of the conversation runs.", conflict),
        header("X-On-Disconnect", "What becomes of the turn when nobody reads it any more.", disconnect),
        header(
            "Idempotency-Key",
            "The same key with the same body gets the same answer again, for one charge and for 24 hours.",
            key,
        ),
    ]
}

fn resume_parameters() -> [Parameter; 3] {
    let id = json!({"type": "string", "pattern": "^r?(0|[1-9][0-9]{0,17})([.][1-9][0-9]{0,8})?$", "examples": ["12", "12.1"]});
    let dialect = json!({"type": "string", "enum": ["openai", "native"]});
    [
        header(
            "Last-Event-ID",
            "The `id` of the last event that was seen; without it, from the start.",
            id.clone(),
        ),
        query("last_event_id", "The same, for clients that cannot send the header, which wins.", id),
        query("stream_format", "Another dialect than that of the request.", dialect),
    ]
}

fn answer() -> Value {
    json!({
        "id": "chatcmpl-Zq",
        "object": "chat.completion",
        "created": 1_795_387_312,
        "model": "ag_5d2678fd_e556",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "Hi", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "total_tokens": 11,
            "cost": "0.000004100",
            "balance": "4.999995900",
        },
        "agent_id": "ag_5d2678fd_e556",
        "session_id": "ada:1",
        "content": "Hi",
    })
}

fn model() -> Value {
    json!({
        "id": "ag_5d2678fd_e556",
        "object": "model",
        "created": 1_795_387_312,
        "owned_by": "acct_1",
        "name": "Clerk",
    })
}
