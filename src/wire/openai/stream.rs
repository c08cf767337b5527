//! A stream in OpenAI's dialect: the provider's chunks with our ids in them.

use bytes::Bytes;

use crate::json::{Object, ObjectWriter, Raw};
use crate::session::Ended;
use crate::wire::openai::chat::{Told, usage};
use crate::wire::sse::Events;

/// Writes the events of one stream.
pub struct ChunkWriter {
    told: Told,
    include_usage: bool,
}

impl ChunkWriter {
    /// A writer for one stream.
    pub fn new(told: Told, include_usage: bool) -> Self {
        Self { told, include_usage }
    }

    /// A chunk of the answer.
    pub fn delta(&self, chunk: &Bytes, out: &mut Events) {
        let usage = self.include_usage.then(|| Raw::trusted(&b"null"[..]));
        self.chunk(chunk, usage, out);
    }

    /// The end: why the answer ended, usage for who asked, `[DONE]`.
    pub fn ended(&self, ended: &Ended, tail: &[Bytes], out: &mut Events) {
        for chunk in tail {
            self.delta(chunk, out);
        }
        if self.include_usage {
            let bare = Bytes::from_static(b"{\"choices\":[]}");
            self.chunk(ended.usage_chunk.as_ref().unwrap_or(&bare), Some(usage(&self.told, ended)), out);
        }
        out.last(b"[DONE]");
    }

    /// The provider's fields in their order; id, model and usage are ours.
    fn chunk(&self, chunk: &Bytes, usage: Option<Raw>, out: &mut Events) {
        // What is no object was refused when it was read.
        let Ok(Object(fields)) = serde_json::from_slice::<Object<'_>>(chunk) else { return };
        let first = out.at_start();
        let Some(out) = out.event() else { return };
        let has = |name: &str| fields.iter().any(|(own, _)| own == name);
        let mut writer = ObjectWriter::into(out);
        writer.value("id", &self.told.completion);
        if !has("object") {
            writer.value("object", "chat.completion.chunk");
        }
        if !has("created") {
            writer.value("created", &self.told.created);
        }
        if !has("model") {
            writer.value("model", &self.told.agent);
        }
        for (name, value) in &fields {
            match &**name {
                "id" | "usage" => {}
                "model" => writer.value("model", &self.told.agent),
                name => writer.slice(name, value, chunk),
            }
        }
        if let Some(usage) = usage {
            writer.field("usage", usage.bytes());
        }
        if first {
            writer.value("session_id", &self.told.session);
        }
        writer.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::log::EventId;

    fn writer(include_usage: bool) -> ChunkWriter {
        let told = Told {
            completion: "chatcmpl-1".to_owned(),
            agent: "ag_1".to_owned(),
            session: "sess_1".to_owned(),
            created: 7,
            money: false,
        };
        ChunkWriter::new(told, include_usage)
    }

    fn written(writer: &ChunkWriter, number: u64, chunk: &'static str) -> String {
        let mut events = Events::after(EventId::default());
        events.begin(number);
        writer.delta(&Bytes::from_static(chunk.as_bytes()), &mut events);
        events.end();
        let all: Vec<u8> = std::iter::from_fn(|| events.out().take()).flatten().collect();
        String::from_utf8(all).expect("text")
    }

    #[test]
    fn ids_are_ours_and_the_rest_is_untouched() {
        let writer = writer(false);
        let chunk = r#"{"id":"x","object":"chat.completion.chunk","created":1,"model":"real","choices":[ {"a":1.0} ],"usage":null,"v":{}}"#;
        let first = written(&writer, 1, chunk);
        assert_eq!(
            first,
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"ag_1\",\
             \"choices\":[ {\"a\":1.0} ],\"v\":{},\"session_id\":\"sess_1\"}\nid: 1\n\n"
        );
        assert!(!written(&writer, 2, chunk).contains("session_id"));
    }

    #[test]
    fn a_bare_chunk_gets_what_clients_need() {
        let text = written(&writer(true), 1, r#"{"choices":[]}"#);
        for field in ["\"id\":", "\"object\":\"chat.completion.chunk\"", "\"created\":7", "\"usage\":null"] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }
}
