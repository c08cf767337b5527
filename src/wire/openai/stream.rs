//! A stream in OpenAI's dialect: the provider's chunks with our ids in them.

use bytes::Bytes;

use crate::json::{Object, ObjectWriter, Raw};
use crate::session::Ended;
use crate::wire::openai::answer::usage;
use crate::wire::openai::chat::Told;
use crate::wire::sse::{Events, Slices};
use crate::wire::template::Template;

/// Writes the events of one stream.
pub struct ChunkWriter {
    told: Told,
    include_usage: bool,
    template: Template,
}

impl ChunkWriter {
    /// A writer for one stream.
    pub fn new(told: Told, include_usage: bool) -> Self {
        Self { told, include_usage, template: Template::default() }
    }

    /// A chunk of the answer.
    pub fn delta(&mut self, chunk: &Bytes, out: &mut Events) {
        // The first one tells the session, too.
        let first = out.at_start();
        if !first && self.template.write(chunk, out) {
            return;
        }
        let usage = self.include_usage.then(|| Raw::trusted(&b"null"[..]));
        self.chunk(chunk, usage.as_ref(), out);
        if !first {
            let told = &self.told;
            self.template.learn(chunk, |chunk| {
                let mut text = Vec::new();
                write(told, &fields(chunk)?, chunk, usage.as_ref(), false, &mut text);
                Some(text)
            });
        }
    }

    /// The end: why the answer ended, usage for who asked, `[DONE]`.
    pub fn ended(&mut self, ended: &Ended, tail: &[Bytes], out: &mut Events) {
        for chunk in tail {
            self.delta(chunk, out);
        }
        if self.include_usage {
            let bare = Bytes::from_static(b"{\"choices\":[]}");
            let usage = usage(&self.told, ended);
            self.chunk(ended.usage_chunk.as_ref().unwrap_or(&bare), Some(&usage), out);
        }
        out.last(b"[DONE]");
    }

    fn chunk(&self, chunk: &Bytes, usage: Option<&Raw>, out: &mut Events) {
        let Some(fields) = fields(chunk) else { return };
        let first = out.at_start();
        let Some(out) = out.event() else { return };
        write(&self.told, &fields, chunk, usage, first, out);
    }
}

/// The fields of a chunk. What is no object was refused when it was read.
fn fields(chunk: &[u8]) -> Option<Object<'_>> {
    serde_json::from_slice(chunk).ok()
}

/// The provider's fields in their order; id, model and usage are ours.
fn write(
    told: &Told,
    Object(fields): &Object<'_>,
    chunk: &Bytes,
    usage: Option<&Raw>,
    first: bool,
    out: &mut impl Slices,
) {
    let has = |name: &str| fields.iter().any(|(own, _)| own == name);
    let mut writer = ObjectWriter::into(out);
    writer.string("id", told.completion.as_str());
    if !has("object") {
        writer.value("object", "chat.completion.chunk");
    }
    if !has("created") {
        writer.value("created", &told.created);
    }
    if !has("model") {
        writer.string("model", told.agent.as_str());
    }
    for (name, value) in fields {
        match &**name {
            "id" | "usage" => {}
            "model" => writer.string("model", told.agent.as_str()),
            name => writer.slice(name, value, chunk),
        }
    }
    if let Some(usage) = usage {
        writer.field("usage", usage.bytes());
    }
    if first {
        writer.string("session_id", told.session.as_str());
    }
    writer.close();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::log::EventId;

    fn writer(include_usage: bool) -> ChunkWriter {
        let told = Told {
            completion: "chatcmpl-1".into(),
            agent: "ag_1".into(),
            session: "sess_1".into(),
            created: 7,
            money: false,
        };
        ChunkWriter::new(told, include_usage)
    }

    fn written(writer: &mut ChunkWriter, number: u64, chunk: &'static str) -> String {
        let mut events = Events::after(EventId::default());
        events.begin(number);
        writer.delta(&Bytes::from_static(chunk.as_bytes()), &mut events);
        events.end();
        let all: Vec<u8> = std::iter::from_fn(|| events.out().take()).flatten().collect();
        String::from_utf8(all).expect("text")
    }

    #[test]
    fn ids_are_ours_and_the_rest_is_untouched() {
        let mut writer = writer(false);
        let chunk = r#"{"id":"x","object":"chat.completion.chunk","created":1,"model":"real","choices":[ {"a":1.0} ],"usage":null,"v":{}}"#;
        let first = written(&mut writer, 1, chunk);
        assert_eq!(
            first,
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"ag_1\",\
             \"choices\":[ {\"a\":1.0} ],\"v\":{},\"session_id\":\"sess_1\"}\nid: 1\n\n"
        );
        assert!(!written(&mut writer, 2, chunk).contains("session_id"));
    }

    #[test]
    fn a_bare_chunk_gets_what_clients_need() {
        let text = written(&mut writer(true), 1, r#"{"choices":[]}"#);
        for field in ["\"id\":", "\"object\":\"chat.completion.chunk\"", "\"created\":7", "\"usage\":null"] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }
}
