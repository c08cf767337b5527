//! A conversation in the form that Messages demands: instructions apart, turns that alternate, each call of a tool
//! answered in the turn after it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::error::Invalid;
use crate::json::Raw;
use crate::provider::anthropic::blocks::{Block, Text, of_content, text_block};

/// What the user is taken to have said where the assistant speaks first, which Messages do not allow.
const OPENING: &str = "(The assistant begins.)";
/// What is said in the place of a result that never came.
const NO_RESULT: &str = "There is no result: the call was not carried out.";

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The user, or a tool.
    User,
    /// The model.
    Assistant,
}

/// Everything that one side says before the other one speaks.
#[derive(Debug, Serialize)]
pub struct Turn<'a> {
    role: Speaker,
    content: Vec<Block<'a>>,
}

/// A prompt.
#[derive(Debug, Default)]
pub struct Conversation<'a> {
    /// Instructions, wherever they stood, in order.
    pub system: Vec<Block<'a>>,
    /// What was said.
    pub turns: Vec<Turn<'a>>,
}

#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(borrow)]
    role: Text<'a>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_call_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<Text<'a>>,
}

impl<'a> Conversation<'a> {
    /// Reads messages, of which each is known to be one of OpenAI's.
    ///
    /// # Errors
    /// Names the part of a message that has no counterpart.
    pub fn read(messages: impl IntoIterator<Item = &'a Raw>) -> Result<Self, Invalid> {
        let mut conversation = Self::default();
        for (at, message) in messages.into_iter().enumerate() {
            conversation.take(message, at)?;
        }
        Ok(conversation)
    }

    fn take(&mut self, message: &'a Raw, at: usize) -> Result<(), Invalid> {
        let sent: Sent<'a> = message.peek().map_err(|cause| {
            Invalid::value(format!("messages[{at}]"), format_args!("expected a message ({cause})"))
        })?;
        match &*sent.role.0 {
            "system" | "developer" => {
                let blocks = of_content(sent.content, at)?;
                if blocks.iter().any(|block| !matches!(block, Block::Text { .. })) {
                    let path = format!("messages[{at}].content");
                    return Err(Invalid::value(path, "expected text: instructions hold nothing else"));
                }
                self.system.extend(blocks);
            }
            "user" => self.say(Speaker::User, of_content(sent.content, at)?),
            "assistant" => {
                let mut blocks = of_content(sent.content, at)?;
                blocks.extend(sent.refusal.and_then(|text| text_block(text.0)));
                if sent.function_call.is_some_and(|call| call.get() != "null") {
                    let path = format!("messages[{at}].function_call");
                    return Err(Invalid::value(path, "this model knows `tool_calls` alone"));
                }
                for (number, call) in sent.tool_calls.into_iter().flatten().enumerate() {
                    blocks.push(tool_use(call, at, number)?);
                }
                self.say(Speaker::Assistant, blocks);
            }
            "tool" => {
                let id = sent.tool_call_id.map_or(Cow::Borrowed(""), |id| id.0);
                let content = of_content(sent.content, at)?;
                self.answer(Block::ToolResult { tool_use_id: tool_id(id), content, is_error: false });
            }
            other => {
                let expected = format_args!("this model does not know the role `{other}`");
                return Err(Invalid::value(format!("messages[{at}].role"), expected));
            }
        }
        Ok(())
    }

    /// Adds to what `role` says.
    fn say(&mut self, role: Speaker, blocks: Vec<Block<'a>>) {
        match self.turns.last_mut() {
            _ if blocks.is_empty() => {}
            Some(last) if last.role == role => last.content.extend(blocks),
            _ => self.turns.push(Turn { role, content: blocks }),
        }
    }

    /// Adds the result of a tool: results stand before all else that a user says.
    fn answer(&mut self, result: Block<'a>) {
        match self.turns.last_mut() {
            Some(last) if last.role == Speaker::User => {
                let results = last.content.iter().take_while(|block| is_result(block)).count();
                last.content.insert(results, result);
            }
            _ => self.turns.push(Turn { role: Speaker::User, content: vec![result] }),
        }
    }

    /// Mends what Messages would refuse and OpenAI allows.
    ///
    /// # Errors
    /// When nothing was said.
    pub fn complete(mut self) -> Result<Self, Invalid> {
        self.answer_open_calls();
        match self.turns.first() {
            None => return Err(Invalid::value("messages", "expected a message that says something")),
            Some(first) if first.role == Speaker::Assistant => {
                let text = Cow::Borrowed(OPENING);
                self.turns.insert(0, Turn { role: Speaker::User, content: vec![Block::Text { text }] });
            }
            Some(_) => {}
        }
        // A last message of the assistant is the beginning of the answer; it must not end in blanks.
        if let Some(Turn { role: Speaker::Assistant, content }) = self.turns.last_mut()
            && let Some(Block::Text { text }) = content.last_mut()
        {
            *text = Cow::Owned(text.trim_end().to_owned());
        }
        Ok(self)
    }

    /// A turn that was cut in the middle of a call has no result, and the conversation has to go on.
    fn answer_open_calls(&mut self) {
        for at in 1..self.turns.len() {
            let (before, after) = self.turns.split_at_mut(at);
            let (Some(asked), Some(next)) = (before.last(), after.first_mut()) else { continue };
            let answered = |id: &str| {
                let own = |block: &Block<'_>| matches!(block, Block::ToolResult { tool_use_id, .. } if tool_use_id == id);
                next.content.iter().any(own)
            };
            let open = asked.content.iter().filter_map(|block| match block {
                Block::ToolUse { id, .. } if !answered(id) => Some(Block::ToolResult {
                    tool_use_id: id.clone(),
                    content: vec![Block::Text { text: Cow::Borrowed(NO_RESULT) }],
                    is_error: true,
                }),
                _ => None,
            });
            let open: Vec<_> = open.collect();
            next.content.splice(0..0, open);
        }
    }

    /// The names of the tools that were called.
    pub fn tools(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for block in self.turns.iter().flat_map(|turn| &turn.content) {
            if let Block::ToolUse { name, .. } = block
                && !names.contains(&&**name)
            {
                names.push(name);
            }
        }
        names
    }

    /// Whether the next answer goes on with one that called tools, or that the client began.
    pub fn goes_on(&self) -> bool {
        let last = self.turns.iter().rposition(|turn| turn.role == Speaker::Assistant);
        last.is_some_and(|at| {
            let calls = self.turns[at].content.iter().any(|block| matches!(block, Block::ToolUse { .. }));
            calls || at + 1 == self.turns.len()
        })
    }
}

fn is_result(block: &Block<'_>) -> bool {
    matches!(block, Block::ToolResult { .. })
}

fn tool_use<'a>(call: ToolCall<'a>, at: usize, number: usize) -> Result<Block<'a>, Invalid> {
    let path = format!("messages[{at}].tool_calls[{number}]");
    if call.kind.is_some_and(|kind| kind.0 != "function") {
        return Err(Invalid::value(format!("{path}.type"), "this model knows the type `function` alone"));
    }
    let function = call.function.ok_or_else(|| Invalid::missing(format!("{path}.function")))?;
    let id = call.id.map_or(Cow::Borrowed(""), |id| id.0);
    let arguments = function.arguments.map_or(Cow::Borrowed(""), |text| text.0);
    Ok(Block::ToolUse { id: tool_id(id), name: function.name.0, input: input(&arguments) })
}

/// The arguments of a call as an object. A model may have written what is none; then it reads its own words again.
fn input(arguments: &str) -> Box<RawValue> {
    let text = if arguments.trim().is_empty() { "{}" } else { arguments };
    match RawValue::from_string(text.to_owned()) {
        Ok(object) if object.get().starts_with('{') => object,
        _ => {
            let wrapped = json!({ "raw_arguments": arguments }).to_string();
            RawValue::from_string(wrapped).unwrap_or_default()
        }
    }
}

/// An id of the form that Messages demand; others become the same one in call and result.
fn tool_id(id: Cow<'_, str>) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if id.is_empty() {
        return Cow::Borrowed("call");
    }
    if id.chars().all(allowed) {
        return id;
    }
    Cow::Owned(id.chars().map(|c| if allowed(c) { c } else { '_' }).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn raws(messages: &Value) -> Vec<Raw> {
        messages.as_array().expect("a list").iter().map(Raw::of).collect()
    }

    fn turns(messages: &Value) -> Value {
        let raws = raws(messages);
        let read = Conversation::read(&raws).and_then(Conversation::complete).expect("a conversation");
        serde_json::to_value(&read.turns).expect("JSON")
    }

    fn text(text: &str) -> Value {
        json!({"type": "text", "text": text})
    }

    #[test]
    fn instructions_are_taken_out_wherever_they_stand() {
        let raws = raws(&json!([
            {"role": "system", "content": "a"},
            {"role": "user", "content": "hi"},
            {"role": "developer", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": " "}]},
            {"role": "user", "content": "there"},
        ]));
        let read = Conversation::read(&raws).expect("a conversation");
        assert_eq!(serde_json::to_value(&read.system).expect("JSON"), json!([text("a"), text("b")]));
        let said = json!([{"role": "user", "content": [text("hi"), text("there")]}]);
        assert_eq!(serde_json::to_value(&read.turns).expect("JSON"), said);
    }

    #[test]
    fn parallel_results_come_together_and_before_any_words() {
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"a\":1.50}"}});
        let said = turns(&json!([
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": "Well.", "tool_calls": [call("c1"), call("c2")]},
            {"role": "user", "content": "and?"},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": ""},
        ]));
        let uses = |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {"a": 1.5}});
        assert_eq!(said[1]["content"], json!([text("Well."), uses("c1"), uses("c2")]));
        let results = json!([
            {"type": "tool_result", "tool_use_id": "c1", "content": [text("one")]},
            {"type": "tool_result", "tool_use_id": "c2"},
            text("and?"),
        ]);
        assert_eq!(said[2], json!({"role": "user", "content": results}));
    }

    #[test]
    fn arguments_that_are_no_object_become_one() {
        for (arguments, expected) in [
            ("", json!({})),
            (" {\"a\": [1]} ", json!({"a": [1]})),
            ("{\"a\":", json!({"raw_arguments": "{\"a\":"})),
            ("[1]", json!({"raw_arguments": "[1]"})),
            ("\"x\"", json!({"raw_arguments": "\"x\""})),
        ] {
            let read: Value = serde_json::from_str(input(arguments).get()).expect("JSON");
            assert_eq!(read, expected, "{arguments}");
        }
    }

    #[test]
    fn ids_of_other_providers_are_written_as_messages_demand() {
        assert_eq!(tool_id("call_1-A".into()), "call_1-A");
        assert_eq!(tool_id("functions.f:0".into()), "functions_f_0");
        assert_eq!(tool_id("".into()), "call");
    }

    #[test]
    fn a_call_that_nobody_answered_is_answered() {
        let calls = json!([{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a"}}]);
        let said = turns(&json!([
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "user", "content": "stop that"},
        ]));
        let result = json!({"type": "tool_result", "tool_use_id": "c1", "content": [text(NO_RESULT)], "is_error": true});
        assert_eq!(said[2]["content"], json!([result, text("stop that")]));
    }

    #[test]
    fn the_user_speaks_first_and_a_begun_answer_ends_in_no_blank() {
        let said = turns(&json!([{"role": "assistant", "content": "Hello \n"}]));
        assert_eq!(said[0], json!({"role": "user", "content": [text(OPENING)]}));
        assert_eq!(said[1], json!({"role": "assistant", "content": [text("Hello")]}));
        let blank = raws(&json!([{"role": "user", "content": " "}]));
        let nothing = Conversation::read(&blank).and_then(Conversation::complete).expect_err("nothing said");
        assert_eq!(nothing.param.as_deref(), Some("messages"));
    }

    #[test]
    fn what_has_no_counterpart_is_named() {
        let param = |message: Value| {
            let messages = raws(&json!([{"role": "user", "content": "a"}, message]));
            Conversation::read(&messages).expect_err("refused").param.unwrap_or_default()
        };
        let custom = json!([{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}]);
        let image = json!([{"type": "image_url", "image_url": {"url": "https://example.com/a"}}]);
        let old = json!({"name": "f", "arguments": "{}"});
        assert_eq!(param(json!({"role": "function", "name": "f", "content": "x"})), "messages[1].role");
        assert_eq!(
            param(json!({"role": "assistant", "tool_calls": custom})),
            "messages[1].tool_calls[0].type"
        );
        assert_eq!(
            param(json!({"role": "assistant", "tool_calls": [{}]})),
            "messages[1].tool_calls[0].function"
        );
        assert_eq!(param(json!({"role": "assistant", "function_call": old})), "messages[1].function_call");
        assert_eq!(param(json!({"role": "system", "content": image})), "messages[1].content");
    }
}
