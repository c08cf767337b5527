//! A stream in OpenAI's dialect: the provider's chunks with our ids in them.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::json::{Fields, Object, ObjectWriter, Raw};
use crate::session::Ended;
use crate::wire::openai::chat::{Told, created, usage};

const OBJECT: &str = "chat.completion.chunk";

/// Writes the events of one stream.
pub struct ChunkWriter {
    told: Told,
    include_usage: bool,
    first: bool,
    /// The same on every chunk: some providers tell the time of each.
    created: Option<i64>,
}

impl ChunkWriter {
    /// A writer for one stream.
    pub fn new(told: Told, include_usage: bool) -> Self {
        Self { told, include_usage, first: true, created: None }
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
        let find = |name: &str| fields.iter().find(|(own, _)| own == name).map(|(_, value)| *value);
        let created = *self.created.get_or_insert_with(|| {
            let told = find("created").and_then(|value| created(&Raw::trusted(value.get().to_owned())));
            told.unwrap_or(self.told.created)
        });
        let mut writer = ObjectWriter::with_capacity(chunk.len() + 160);
        writer.value("id", &self.told.completion);
        if find("object").is_none() {
            writer.value("object", OBJECT);
        }
        if find("created").is_none() {
            writer.value("created", &created);
        }
        if find("model").is_none() {
            writer.value("model", &self.told.agent);
        }
        if find("choices").is_none() {
            writer.field("choices", b"[]");
        }
        for (name, value) in &fields {
            match &**name {
                "id" | "usage" | "session_id" => {}
                "object" => writer.value("object", OBJECT),
                "created" => writer.value("created", &created),
                "model" => writer.value("model", &self.told.agent),
                "choices" => writer.field("choices", with_required_keys(value.get()).as_bytes()),
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

/// The choices of a chunk with every key that OpenAI requires. Nearly all have them, so that is looked at first.
fn with_required_keys(choices: &str) -> Cow<'_, str> {
    let has = |key: &str| memmem::find(choices.as_bytes(), key.as_bytes()).is_some();
    if choices == "[]" || [r#""index""#, r#""delta""#, r#""finish_reason""#].into_iter().all(has) {
        return Cow::Borrowed(choices);
    }
    let complete = |(at, text): (usize, &&RawValue)| {
        let mut choice = Fields::parse(&Bytes::copy_from_slice(text.get().as_bytes())).ok()?;
        choice.set_if_absent("index", || Raw::of(&at));
        choice.set_if_absent("delta", || Raw::trusted(&b"{}"[..]));
        choice.set_if_absent("finish_reason", || Raw::of(&Value::Null));
        Some(choice.to_raw().text().into_owned())
    };
    let list: Vec<&RawValue> = serde_json::from_str(choices).unwrap_or_default();
    let written: Option<Vec<String>> = list.iter().enumerate().map(complete).collect();
    // What is no list of objects was refused when it was read; null stands for an empty list.
    Cow::Owned(format!("[{}]", written.unwrap_or_default().join(",")))
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
        let chunk = r#"{"id":"x","object":"chat.completion.chunk","created":1,"model":"real","choices":[ {"index":0,"delta":{"a":1.0},"finish_reason":null} ],"usage":null,"v":{}}"#;
        let first = written(&mut writer, chunk);
        assert_eq!(
            first,
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"ag_1\",\
             \"choices\":[ {\"index\":0,\"delta\":{\"a\":1.0},\"finish_reason\":null} ],\"v\":{},\"session_id\":\"sess_1\"}\n\n"
        );
        assert!(!written(&mut writer, chunk).contains("session_id"));
    }

    #[test]
    fn a_stream_was_made_at_one_time() {
        let mut writer = writer(true);
        assert!(written(&mut writer, r#"{"created":5,"choices":[]}"#).contains("\"created\":5,"));
        assert!(written(&mut writer, r#"{"choices":[],"created":6}"#).contains("\"created\":5,"));
        assert!(written(&mut writer, "{}").contains("\"created\":5,"));
    }

    #[test]
    fn a_choice_gets_the_keys_that_its_provider_left_out() {
        assert_eq!(
            with_required_keys(r#"[{"delta":{"content":"\"index\""}},{"index":7}]"#),
            r#"[{"delta":{"content":"\"index\""},"index":0,"finish_reason":null},{"index":7,"delta":{},"finish_reason":null}]"#
        );
        assert_eq!(with_required_keys("null"), "[]");
    }

    #[test]
    fn a_bare_chunk_gets_what_clients_need() {
        let text = written(&mut writer(true), r#"{"choices":[]}"#);
        for field in ["\"id\":", "\"object\":\"chat.completion.chunk\"", "\"created\":7", "\"usage\":null"] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }
}
