//! Sessions, also in the form of the chats API.

use actix_web::http::StatusCode;
use serde_json::json;

use crate::http::endpoint::{Endpoint, Keys, Parameter, delete, get, patch, post, query};
use crate::http::manage::{branches, export, sessions};
use crate::http::query::{limit, offset};
use crate::wire::native::messages::{Chat, ChatList, MessageList, WholeSession};
use crate::wire::native::objects::Session;
use crate::wire::native::requests::{NewSession, SessionChange, SessionCut, SessionFork};

const OK: StatusCode = StatusCode::OK;

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        post("/v2/sessions", sessions::create, "Begin a session")
            .about("Chats make sessions by themselves; this one has an id before its first turn.")
            .by(Keys::Account)
            .takes::<NewSession>(json!({"agent_id": "ag_5d2678fd_e556", "metadata": {"user": "42"}}))
            .answers::<Session>(StatusCode::CREATED, "The session.")
            .answers::<Session>(OK, "The session of that name that the agent has already, as it is.")
            .fails(&[404]),
        get("/v2/sessions", sessions::list, "List sessions")
            .about(READING)
            .by(Keys::AgentOrAccount)
            .with(filters())
            .answers::<Vec<Session>>(OK, "A page of sessions, the newest first.")
            .fails(&[404]),
        get("/v2/sessions/export", export::all, "Export all messages")
            .about(READING)
            .by(Keys::AgentOrAccount)
            .with([query("agent_id", "Only this agent's.", json!({"type": "string"}))])
            .text(OK, LINES, NDJSON, LINE)
            .fails(&[404]),
        get("/v2/sessions/{id}", sessions::show, "Show a session")
            .about(READING)
            .by(Keys::AgentOrAccount)
            .with([whose()])
            .answers::<WholeSession>(OK, "The session."),
        patch(
            "/v2/sessions/{id}",
            sessions::update,
            "Archive a session or open it again, change its title and notes",
        )
        .by(Keys::Account)
        .with([whose()])
        .takes::<SessionChange>(json!({"status": "archived"}))
        .answers::<Session>(OK, "The session as it is now."),
        delete("/v2/sessions/{id}", sessions::delete, "Delete a session")
            .about("Ends its turns first. Billing records stay.")
            .by(Keys::Account)
            .with([whose()])
            .nothing(StatusCode::NO_CONTENT, "It is gone."),
        get("/v2/sessions/{id}/messages", sessions::messages, "Read what was said")
            .about(READING)
            .by(Keys::AgentOrAccount)
            .with([whose(), limit(), before()])
            .answers::<MessageList>(OK, "The newest page, the oldest message first within it."),
        get("/v2/sessions/{id}/export", export::one, "Export the messages of a session")
            .about(READING)
            .by(Keys::AgentOrAccount)
            .with([whose()])
            .text(OK, LINES, NDJSON, LINE),
        post("/v2/sessions/{id}/fork", branches::fork, "Begin a session with the beginning of another")
            .about("No message is copied.")
            .by(Keys::Account)
            .with([whose()])
            .takes::<SessionFork>(json!({"message_id": "msg_2"}))
            .answers::<Session>(StatusCode::CREATED, "The new session."),
        post("/v2/sessions/{id}/truncate", branches::truncate, "Take back what was said last")
            .about("What was charged stays charged. Not while a turn runs.")
            .by(Keys::Account)
            .with([whose()])
            .takes::<SessionCut>(json!({"after": "msg_2"}))
            .answers::<Session>(OK, "The session as it is now.")
            .fails(&[409]),
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

const NDJSON: &str = "application/x-ndjson";
const LINES: &str = "A line of JSON a message, the oldest first.";
const LINE: &str = r#"{"session_id":"ada:1","agent_id":"ag_5d2678fd_e556","id":"msg_1","role":"user","content":"Hello","created_at":"2030-01-31T12:00:00.000Z"}
"#;

const READING: &str = "It takes an account key, or a key with the scope `sessions:read`, which for an agent's key means \
its own agent's sessions.";

fn whose() -> Parameter {
    query("agent_id", "Whose session, where two agents have one of the name.", json!({"type": "string"}))
}

fn before() -> Parameter {
    let schema = json!({"type": "string", "pattern": "^msg_[1-9][0-9]{0,17}$", "examples": ["msg_12"]});
    query("before", "Only messages before this one.", schema)
}

fn filters() -> [Parameter; 6] {
    [
        query("agent_id", "Only this agent's.", json!({"type": "string"})),
        query(
            "status",
            "Only those in this state.",
            json!({"type": "string", "enum": ["active", "archived"]}),
        ),
        query(
            "metadata[name]",
            "Only those whose note of that name is this; may be given for several names.",
            json!({"type": "string"}),
        ),
        query("after", "Only those that are listed after this session.", json!({"type": "string"})),
        limit(),
        offset(),
    ]
}
