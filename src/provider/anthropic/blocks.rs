//! The blocks that Messages are made of, and how OpenAI's content parts become them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::Invalid;

/// Kinds of pictures that Claude looks at.
const IMAGE_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
/// The kind of files that Claude reads.
const PDF: &str = "application/pdf";

/// Text, borrowed unless it holds an escape.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// One block of a message.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block<'a> {
    /// Words.
    Text {
        /// What they are; never blank, which would be refused.
        text: Cow<'a, str>,
    },
    /// A picture.
    Image {
        /// Where it is.
        source: Source<'a>,
    },
    /// A file.
    Document {
        /// Where it is.
        source: Source<'a>,
        /// Its name.
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<Cow<'a, str>>,
    },
    /// The model calls a tool.
    ToolUse {
        /// The call's id.
        id: Cow<'a, str>,
        /// The tool's name.
        name: Cow<'a, str>,
        /// A JSON object.
        input: Box<RawValue>,
    },
    /// What came of it.
    ToolResult {
        /// The call's id.
        tool_use_id: Cow<'a, str>,
        /// What the tool said.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        content: Vec<Block<'a>>,
        /// Whether the call failed.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

/// Where a picture or a file is.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Source<'a> {
    /// Here.
    Base64 {
        /// What it is.
        media_type: &'static str,
        /// Its bytes.
        data: Cow<'a, str>,
    },
    /// In the web; the provider fetches it.
    Url {
        /// The address.
        url: Cow<'a, str>,
    },
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    image_url: Option<ImageUrl<'a>>,
    #[serde(borrow)]
    file: Option<File<'a>>,
}

#[derive(Deserialize)]
struct ImageUrl<'a> {
    #[serde(borrow)]
    url: Text<'a>,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    filename: Option<Text<'a>>,
    #[serde(borrow)]
    file_data: Option<Text<'a>>,
}

/// The blocks of a message's content, a string or a list of parts; `at` is the message's place in the list.
///
/// # Errors
/// Names the part that has no counterpart, and what was expected.
pub fn of_content(content: Option<&RawValue>, at: usize) -> Result<Vec<Block<'_>>, Invalid> {
    let path = format!("messages[{at}].content");
    let Some(content) = content.filter(|content| content.get() != "null") else { return Ok(Vec::new()) };
    if content.get().starts_with('"') {
        let Text(text) = serde_json::from_str(content.get())
            .map_err(|cause| Invalid::value(path, format_args!("expected text ({cause})")))?;
        return Ok(text_block(text).into_iter().collect());
    }
    let parts: Vec<&RawValue> = serde_json::from_str(content.get())
        .map_err(|_| Invalid::value(&path, "expected a string or a list of content parts"))?;
    let mut blocks = Vec::with_capacity(parts.len());
    for (number, part) in parts.into_iter().enumerate() {
        blocks.extend(of_part(part, &format!("{path}[{number}]"))?);
    }
    Ok(blocks)
}

/// Words, unless there are none: blank text is refused.
pub fn text_block(text: Cow<'_, str>) -> Option<Block<'_>> {
    (!text.trim().is_empty()).then_some(Block::Text { text })
}

fn of_part<'a>(part: &'a RawValue, path: &str) -> Result<Option<Block<'a>>, Invalid> {
    let wrong = |expected: &str| Invalid::value(path, expected);
    let read: Part<'a> = serde_json::from_str(part.get())
        .map_err(|cause| Invalid::value(path, format_args!("expected a content part ({cause})")))?;
    match read.kind.as_ref().map(|kind| &*kind.0) {
        Some("text") => Ok(read.text.and_then(|text| text_block(text.0))),
        Some("refusal") => Ok(read.refusal.and_then(|text| text_block(text.0))),
        Some("image_url") => {
            let Text(url) = read.image_url.ok_or_else(|| wrong("expected `image_url.url`"))?.url;
            let source = image(url).ok_or_else(|| {
                wrong("expected an http(s) URL, or a data URL in base64 of a JPEG, PNG, GIF or WebP image")
            })?;
            Ok(Some(Block::Image { source }))
        }
        Some("file") => {
            let file = read.file.ok_or_else(|| wrong("expected `file.file_data`"))?;
            let data = file.file_data.and_then(|data| inline(data.0, &[PDF]));
            let source = data
                .ok_or_else(|| wrong("expected `file.file_data`, a data URL in base64 of a PDF document"))?;
            Ok(Some(Block::Document { source, title: file.filename.map(|name| name.0) }))
        }
        _ => Err(wrong("this model reads text, image_url and file (PDF) parts")),
    }
}

fn image(url: Cow<'_, str>) -> Option<Source<'_>> {
    let scheme = url.get(..8).unwrap_or(&url).to_ascii_lowercase();
    if scheme.starts_with("https://") || scheme.starts_with("http://") {
        return Some(Source::Url { url });
    }
    inline(url, &IMAGE_TYPES)
}

/// The content of `data:TYPE;base64,…`, if it is one of these types.
fn inline<'a>(url: Cow<'a, str>, types: &[&'static str]) -> Option<Source<'a>> {
    let (head, data) = url.split_once(',')?;
    let head = head.strip_prefix("data:")?.strip_suffix(";base64")?;
    let named = head.split(';').next().unwrap_or_default().to_ascii_lowercase();
    let named = if named == "image/jpg" { "image/jpeg" } else { named.as_str() };
    let media_type = types.iter().find(|known| **known == named)?;
    let start = url.len() - data.len();
    let data = match url {
        Cow::Borrowed(url) => Cow::Borrowed(&url[start..]),
        Cow::Owned(url) => Cow::Owned(url[start..].to_owned()),
    };
    Some(Source::Base64 { media_type, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(content: &str) -> Result<String, Option<String>> {
        let raw = RawValue::from_string(content.to_owned()).expect("JSON");
        let blocks = of_content(Some(&raw), 2).map_err(|invalid| invalid.param)?;
        Ok(serde_json::to_string(&blocks).expect("JSON"))
    }

    #[test]
    fn text_is_one_block_and_blank_text_none() {
        assert_eq!(blocks(r#""h\u00e9\n""#).as_deref(), Ok(r#"[{"type":"text","text":"hé\n"}]"#));
        assert_eq!(blocks(r#"" \n""#).as_deref(), Ok("[]"));
        assert_eq!(blocks("null").as_deref(), Ok("[]"));
        let parts =
            r#"[{"type":"text","text":""},{"type":"text","text":"a"},{"type":"refusal","refusal":"b"}]"#;
        assert_eq!(
            blocks(parts).as_deref(),
            Ok(r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#)
        );
    }

    #[test]
    fn pictures_are_taken_from_the_web_or_from_the_request() {
        let image = |url: &str| blocks(&format!(r#"[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]"#));
        assert_eq!(
            image("https://example.com/a.png").as_deref(),
            Ok(r#"[{"type":"image","source":{"type":"url","url":"https://example.com/a.png"}}]"#)
        );
        let inline =
            r#"[{"type":"image","source":{"type":"base64","media_type":"image/jpeg","data":"/9j/4A=="}}]"#;
        for url in [
            "data:image/jpeg;base64,/9j/4A==",
            "data:IMAGE/JPG;q=1;base64,/9j/4A==",
            "data:image\\/jpeg;base64,\\/9j\\/4A==",
        ] {
            assert_eq!(image(url).as_deref(), Ok(inline), "{url}");
        }
        for url in [
            "data:image/jpeg,raw",
            "data:image/tiff;base64,AAAA",
            "ftp://example.com/a",
            "data:",
            "",
            "hé://",
        ] {
            assert_eq!(image(url), Err(Some("messages[2].content[0]".to_owned())), "{url}");
        }
    }

    #[test]
    fn files_are_pdf_documents() {
        let file =
            r#"[{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBE"}}]"#;
        let expected = r#"[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBE"},"title":"a.pdf"}]"#;
        assert_eq!(blocks(file).as_deref(), Ok(expected));
        for file in [r#"{"file_id":"file-1"}"#, r#"{"file_data":"data:text/csv;base64,YQ=="}"#, "null"] {
            let part = format!(r#"[{{"type":"text","text":"a"}},{{"type":"file","file":{file}}}]"#);
            assert_eq!(blocks(&part), Err(Some("messages[2].content[1]".to_owned())), "{file}");
        }
    }

    #[test]
    fn what_has_no_counterpart_is_named() {
        for part in [
            r#"{"type":"input_audio","input_audio":{"data":"","format":"wav"}}"#,
            r#"{"type":"new"}"#,
            "{}",
            "7",
        ] {
            assert_eq!(
                blocks(&format!("[{part}]")),
                Err(Some("messages[2].content[0]".to_owned())),
                "{part}"
            );
        }
        assert_eq!(blocks("{}"), Err(Some("messages[2].content".to_owned())));
        assert_eq!(blocks(r#""\ud800""#), Err(Some("messages[2].content".to_owned())));
    }
}
