//! A stream in OpenAI's dialect: the provider's chunks with our ids in them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::json::{Object, ObjectWriter, Raw};
use crate::session::Ended;
use crate::wire::openai::chat::{Told, usage};

/// Writes the events of one stream.
pub struct ChunkWriter {
    told: Told,
    include_usage: bool,
    first: bool,
}

impl ChunkWriter {
    /// A writer for one stream.
    pub fn new(told: Told, include_usage: bool) -> Self {
        Self { told, include_usage, first: true }
    }

    /// A chunk of the answer.
    pub fn delta(&mut self, chunk: &Bytes, out: &mut BytesMut) {
        let usage = self.include_usage.then(|| Raw::trusted(&b"null"[..]));
        self.chunk(chunk, usage, out);
    }

    /// The end: why the answer ended, usage for who asked, `[DONE]`.
    pub fn ended(&mut self, ended: &Ended, out: &mut BytesMut) {
        for chunk in &ended.tail {
            self.delta(chunk, out);
        }
        if self.include_usage {
            let bare = Bytes::from_static(b"{\"choices\":[]}");
            self.chunk(ended.usage_chunk.as_ref().unwrap_or(&bare), Some(usage(&self.told, ended)), out);
        }
        event(b"[DONE]", out);
    }

    /// The provider's fields in their order; id, model and usage are ours.
    fn chunk(&mut self, chunk: &Bytes, usage: Option<Raw>, out: &mut BytesMut) {
        // What is no object was refused when it was read.
        let Ok(Object(fields)) = serde_json::from_slice::<Object<'_>>(chunk) else { return };
        let has = |name: &str| fields.iter().any(|(own, _)| own == name);
        let mut writer = ObjectWriter::with_capacity(chunk.len() + 160);
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
                name => writer.field(name, value.get().as_bytes()),
            }
        }
        if let Some(usage) = usage {
            writer.field("usage", usage.bytes());
        }
        if std::mem::take(&mut self.first) {
            writer.value("session_id", &self.told.session);
        }
        event(&writer.finish(), out);
    }
}

/// One event of one line.
pub fn event(data: &[u8], out: &mut BytesMut) {
    out.reserve(data.len() + 8);
    out.put_slice(b"data: ");
    out.put_slice(data);
    out.put_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn written(writer: &mut ChunkWriter, chunk: &'static str) -> String {
        let mut out = BytesMut::new();
        writer.delta(&Bytes::from_static(chunk.as_bytes()), &mut out);
        String::from_utf8(out.to_vec()).expect("text")
    }

    #[test]
    fn ids_are_ours_and_the_rest_is_untouched() {
        let mut writer = writer(false);
        let chunk = r#"{"id":"x","object":"chat.completion.chunk","created":1,"model":"real","choices":[ {"a":1.0} ],"usage":null,"v":{}}"#;
        let first = written(&mut writer, chunk);
        assert_eq!(
            first,
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"ag_1\",\
             \"choices\":[ {\"a\":1.0} ],\"v\":{},\"session_id\":\"sess_1\"}\n\n"
        );
        assert!(!written(&mut writer, chunk).contains("session_id"));
    }

    #[test]
    fn a_bare_chunk_gets_what_clients_need() {
        let text = written(&mut writer(true), r#"{"choices":[]}"#);
        for field in ["\"id\":", "\"object\":\"chat.completion.chunk\"", "\"created\":7", "\"usage\":null"] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }
}
