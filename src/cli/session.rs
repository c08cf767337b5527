//! `switchboard session …`: conversations and what was said in them.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Call, Reply, encoded};
use super::parse::{self, Body};
use super::server::{Server, Who};
use super::{Plan, output};

const FIRST: &[&str] =
    &["id", "agent_id", "title", "status", "message_count", "metadata", "created_at", "updated_at"];
const OWN: &[&str] = &["id", "name", "retention_days", "session_count"];
/// How many sessions the server lists when it is not told.
const DEFAULT_LIMIT: u64 = 50;

/// Conversations and their messages.
#[derive(Args)]
#[command(after_help = "\
Examples:
  switchboard session list --agent ag_… --status active
  switchboard session messages sess_… --limit 20
  switchboard session archive sess_…
  switchboard session list --metadata user=42
  switchboard session fork sess_… --message msg_4
  switchboard session export > everything.jsonl

These commands need an account key.")]
pub struct Session {
    #[command(flatten)]
    pub(super) server: Server,
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Subcommand)]
pub(super) enum Action {
    /// List sessions, newest first
    List {
        /// Only those of this agent
        #[arg(long, value_name = "AGENT", value_parser = parse::id)]
        agent: Option<String>,
        /// Only those with this status
        #[arg(long)]
        status: Option<Status>,
        /// Only those with this note; may be given again
        #[arg(long, value_name = "NAME=VALUE", value_parser = parse::text_pair)]
        metadata: Vec<(String, String)>,
        /// How many to show, 1 to 100 [default: 50]
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// How many to skip, at most 10,000
        #[arg(long, value_name = "N", conflicts_with = "after")]
        offset: Option<u64>,
        /// Go on after this session, the last one seen
        #[arg(long, value_name = "SESSION", value_parser = parse::id)]
        after: Option<String>,
    },
    /// Make a session; one of that name that is there already is shown
    Create {
        /// The agent it is with
        #[arg(long, value_name = "AGENT", value_parser = parse::id)]
        agent: String,
        /// What to call it [default: a random name]
        #[arg(long, value_name = "SESSION", value_parser = parse::id)]
        name: Option<String>,
        #[command(flatten)]
        notes: Notes,
    },
    /// Show one session
    Show(Which),
    /// Change a session's title and notes
    Set {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        notes: Notes,
    },
    /// Make a session that has the beginning of another
    Fork {
        #[command(flatten)]
        which: Which,
        /// The last message that it has [default: all]
        #[arg(long, value_name = "MESSAGE", value_parser = parse::id)]
        message: Option<String>,
        /// What to call it [default: a random name]
        #[arg(long, value_name = "SESSION", value_parser = parse::id)]
        name: Option<String>,
        #[command(flatten)]
        notes: Notes,
    },
    /// Take back what came after a message; what was charged stays charged
    Truncate {
        #[command(flatten)]
        which: Which,
        /// The last message that stays
        #[arg(long, value_name = "MESSAGE", value_parser = parse::id, required_unless_present = "all")]
        after: Option<String>,
        /// Take everything back
        #[arg(long, conflicts_with = "after")]
        all: bool,
    },
    /// Print every message as a line of JSON: of one session, else of all
    Export {
        /// The session; all sessions if it is left out
        #[arg(value_parser = parse::id)]
        id: Option<String>,
        /// Only those of this agent
        #[arg(long, value_name = "AGENT", value_parser = parse::id)]
        agent: Option<String>,
    },
    /// Show or set after how many idle days sessions are deleted for good
    Retention {
        /// Days, or none to keep sessions for ever
        #[arg(value_parser = parse::count)]
        days: Option<parse::Settable<u64>>,
    },
    /// Show what was said, oldest message first; the newest page unless --before
    Messages {
        #[command(flatten)]
        which: Which,
        /// How many to show, 1 to 100 [default: 50]
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Only those before this message
        #[arg(long, value_name = "MESSAGE", value_parser = parse::id)]
        before: Option<String>,
    },
    /// Close a session; it can be opened again
    Archive(Which),
    /// Open an archived session again
    Reopen(Which),
    /// Delete a session and its messages; its billing records stay
    Delete(Which),
}

/// What people and programs know a session by.
#[derive(Args)]
#[group(skip)]
pub(super) struct Notes {
    /// Its title
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// A note of yours; may be given again. The given ones replace all former ones
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::text_pair)]
    metadata: Vec<(String, String)>,
}

impl Notes {
    fn put(self, body: Body) -> Body {
        let notes: serde_json::Map<String, Value> =
            self.metadata.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        body.set("title", self.title).set_all("metadata", notes)
    }
}

/// One session.
#[derive(Args)]
#[group(skip)]
pub(super) struct Which {
    /// The session (sess_…, or the name a client gave it)
    #[arg(value_parser = parse::id)]
    id: String,
    /// Its agent, where two agents have a session of that name
    #[arg(long, value_name = "AGENT", value_parser = parse::id)]
    agent: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Status {
    Active,
    Archived,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Archived => "archived",
        }
    }
}

impl Which {
    fn show(&self) -> Call {
        Call::get(Who::Account, &["v2", "sessions", &self.id]).query("agent_id", self.agent.as_deref())
    }

    /// Says which agent's session is meant.
    fn aim(&self, call: Call) -> Call {
        call.query("agent_id", self.agent.as_deref())
    }

    fn turn(&self, status: Status) -> Plan {
        let body = Body::default().set("status", Some(status.name()));
        let call = Call::patch(Who::Account, &["v2", "sessions", &self.id], body);
        Plan::new(call.query("agent_id", self.agent.as_deref()), show)
    }
}

impl Action {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::List { agent, status, metadata, limit, offset, after } => {
                let call = Call::get(Who::Account, &["v2", "sessions"])
                    .query("agent_id", agent)
                    .query("status", status.map(Status::name))
                    .query("limit", limit)
                    .query("offset", offset)
                    .query("after", after);
                let add = |call: Call, (name, value): (String, String)| {
                    call.query(&format!("metadata%5B{}%5D", encoded(&name)), Some(value))
                };
                let call = metadata.into_iter().fold(call, add);
                let page = limit.unwrap_or(DEFAULT_LIMIT);
                Plan::new(call, move |reply| list(reply, page))
            }
            Self::Create { agent, name, notes } => {
                let body = Body::default().set("agent_id", Some(agent)).set("session_id", name);
                Plan::new(Call::post(Who::Account, &["v2", "sessions"], notes.put(body)), show)
            }
            Self::Show(which) => Plan::new(which.show(), show),
            Self::Set { which, notes } => {
                let body = notes.put(Body::default());
                Plan::new(which.aim(Call::patch(Who::Account, &["v2", "sessions", &which.id], body)), show)
            }
            Self::Fork { which, message, name, notes } => {
                let body = Body::default().set("message_id", message).set("session_id", name);
                let path = ["v2", "sessions", &which.id, "fork"];
                Plan::new(which.aim(Call::post(Who::Account, &path, notes.put(body))), show)
            }
            Self::Truncate { which, after, all: _ } => {
                let body = Body::default().set("after", Some(parse::Settable(after)));
                let path = ["v2", "sessions", &which.id, "truncate"];
                Plan::new(which.aim(Call::post(Who::Account, &path, body)), show)
            }
            Self::Export { id, agent } => {
                let path: Vec<&str> =
                    ["v2", "sessions"].into_iter().chain(id.as_deref()).chain(["export"]).collect();
                Plan::as_it_comes(Call::get(Who::Account, &path).query("agent_id", agent))
            }
            Self::Retention { days: None } => Plan::new(Call::get(Who::Account, &["v2", "account"]), own),
            Self::Retention { days } => {
                let body = Body::default().set("retention_days", days);
                Plan::new(Call::patch(Who::Account, &["v2", "account"], body), own)
            }
            Self::Messages { which, limit, before } => {
                let call = Call::get(Who::Account, &["v2", "sessions", &which.id, "messages"])
                    .query("agent_id", which.agent)
                    .query("limit", limit)
                    .query("before", before);
                Plan::new(call, messages)
            }
            Self::Archive(which) => which.turn(Status::Archived),
            Self::Reopen(which) => which.turn(Status::Active),
            Self::Delete(which) => {
                let call = Call::delete(Who::Account, &["v2", "sessions", &which.id]);
                let id = which.id;
                Plan::new(call.query("agent_id", which.agent), move |_| format!("deleted {id}"))
            }
        }
    }
}

fn own(reply: &Reply) -> String {
    output::details(OWN, &reply.value)
}

fn show(reply: &Reply) -> String {
    output::details(FIRST, &reply.value)
}

/// The answer is a bare array, so a full page is the only sign that there may be more.
fn list(reply: &Reply, page: u64) -> String {
    let sessions = output::rows(&reply.value);
    let mut text = output::table(FIRST, sessions);
    if let Some(last) = sessions.last().filter(|_| sessions.len() as u64 >= page) {
        let last = output::text(&last["id"]);
        text.push_str(&format!("\n{} shown, there may be more: add --after {last}\n", sessions.len()));
    }
    text
}

fn messages(reply: &Reply) -> String {
    let messages = output::rows(&reply.value["messages"]);
    let mut page = String::new();
    if reply.value["has_more"] == Value::Bool(true) {
        let first = messages.first().map(|message| output::text(&message["id"])).unwrap_or_default();
        page.push_str(&format!("there are earlier ones: add --before {first}\n\n"));
    }
    for message in messages {
        page.push_str(&spoken(message));
    }
    if page.is_empty() { "(none)".to_owned() } else { page }
}

/// One message: a line on who, when and at what cost, then what was said, indented.
fn spoken(message: &Value) -> String {
    let mut head = vec![
        output::text(&message["role"]),
        output::text(&message["created_at"]),
        output::text(&message["id"]),
    ];
    head.extend(message["status"].as_str().filter(|status| *status != "complete").map(output::printable));
    head.extend(message["cost"].as_str().map(|cost| format!("cost {}", output::printable(cost))));
    let mut said = content(&message["content"]);
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let function = &call["function"];
        said.push(format!(
            "-> {}({})",
            output::text(&function["name"]),
            output::text(&function["arguments"])
        ));
    }
    let said = said.join("\n").replace('\n', "\n    ");
    format!("{}\n    {}\n\n", head.join("  "), said.trim_end())
}

/// A message's content: a string, or parts of which the texts are shown and the others named.
fn content(content: &Value) -> Vec<String> {
    match content {
        Value::Null => Vec::new(),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match part["text"].as_str() {
                Some(text) => output::printable(text),
                None => format!("[{}]", output::text(&part["type"])),
            })
            .collect(),
        other => vec![output::text(other)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_show_text_parts_and_tool_calls() {
        let call = json!({ "function": { "name": "lookup", "arguments": "{\"q\":1}" } });
        let reply = Reply::of(
            200,
            json!({ "has_more": true, "messages": [
                { "id": "m1", "role": "user", "created_at": "t", "content": [{ "type": "text", "text": "a\nb" }, { "type": "image_url" }] },
                { "id": "m2", "role": "assistant", "created_at": "t", "content": null, "tool_calls": [call], "cost": "0.1" },
            ]}),
        );
        let page = "there are earlier ones: add --before m1\n\nuser  t  m1\n    a\n    b\n    [image_url]\n\n\
                    assistant  t  m2  cost 0.1\n    -> lookup({\"q\":1})\n\n";
        assert_eq!(messages(&reply), page);
    }

    #[test]
    fn a_full_page_of_sessions_says_how_to_go_on() {
        let reply = Reply::of(200, json!([{ "id": "s2" }, { "id": "s1" }]));
        assert!(list(&reply, 2).contains("--after s1"));
        assert!(!list(&reply, 3).contains("--after"));
    }
}
