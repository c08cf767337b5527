//! Sessions, also in the form of the chats API.

use actix_web::http::StatusCode;
use serde_json::json;

use crate::http::endpoint::{Endpoint, Keys, Parameter, delete, get, patch, post, query};
use crate::http::manage::sessions;
use crate::http::query::{limit, offset};
use crate::wire::native::messages::{Chat, ChatList, MessageList};
use crate::wire::native::objects::Session;
use crate::wire::native::requests::{NewSession, SessionChange};

const OK: StatusCode = StatusCode::OK;

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        post("/v2/sessions", sessions::create, "Begin a session")
            .about("Chats make sessions by themselves; this one has an id before its first turn.")
            .by(Keys::Account)
            .takes::<NewSession>(json!({"agent_id": "ag_5d2678fd_e556"}))
            .answers::<Session>(StatusCode::CREATED, "The session.")
            .fails(&[404]),
        get("/v2/sessions", sessions::list, "List sessions")
            .about(READING)
            .by(Keys::AgentOrAccount)
            .with(filters())
            .answers::<Vec<Session>>(OK, "A page of sessions, the newest first.")
            .fails(&[404]),
        get("/v2/sessions/{id}", sessions::show, "Show a session")
            .about(READING)
            .by(Keys::AgentOrAccount)
            .with([whose()])
            .answers::<Session>(OK, "The session."),
        patch("/v2/sessions/{id}", sessions::update, "Archive a session, or open it again")
            .by(Keys::Account)
            .with([whose()])
            .takes::<SessionChange>(json!({"status": "archived"}))
            .answers::<Session>(OK, "The session as it is now."),
        delete("/v2/sessions/{id}", sessions::delete, "Delete a session")
            .about("Ends its running turn. Billing records stay.")
            .by(Keys::Account)
            .with([whose()])
            .nothing(StatusCode::NO_CONTENT, "It is gone."),
        get("/v2/sessions/{id}/messages", sessions::messages, "Read what was said")
            .about(READING)
            .by(Keys::AgentOrAccount)
            .with([whose(), limit(), before()])
            .answers::<MessageList>(OK, "The newest page, the oldest message first within it."),
        get("/v2/chats", sessions::list_chats, "List sessions with their messages")
            .about("With the newest 100 messages of each. It takes an account key, or `sessions:read`.")
            .by(Keys::AgentOrAccount)
            .with(filters())
            .answers::<ChatList>(OK, "A page of sessions, the newest first.")
            .fails(&[404]),
        get("/v2/chats/{id}", sessions::show_chat, "Show a session with its messages")
            .about("With the newest 1,000 messages. It takes an account key, or `sessions:read`.")
            .by(Keys::AgentOrAccount)
            .with([whose()])
            .answers::<Chat>(OK, "The session."),
        delete("/v2/chats/{id}", sessions::delete, "Delete a session, under another path")
            .by(Keys::Account)
            .with([whose()])
            .nothing(StatusCode::NO_CONTENT, "It is gone."),
    ]
}

const READING: &str = "It takes an account key, or a key with the scope `sessions:read`, which for an agent's key means \
its own agent's sessions.";

fn whose() -> Parameter {
    query("agent_id", "Whose session, where two agents have one of the name.", json!({"type": "string"}))
}

fn before() -> Parameter {
    let schema = json!({"type": "string", "pattern": "^msg_[1-9][0-9]{0,17}$", "examples": ["msg_12"]});
    query("before", "Only messages before this one.", schema)
}

fn filters() -> [Parameter; 5] {
    [
        query("agent_id", "Only this agent's.", json!({"type": "string"})),
        query(
            "status",
            "Only those in this state.",
            json!({"type": "string", "enum": ["active", "archived"]}),
        ),
        query("after", "Only those that are listed after this session.", json!({"type": "string"})),
        limit(),
        offset(),
    ]
}
