//! The objects of OpenAI's dialect, for `/openapi.json`. What passes through is read and written as it came, so no
//! type holds all of it; these name what is known.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::wire::openai::chat::{MAX_N, MAX_OUTPUT};

/// A chat request. What is not listed goes to the provider as it came.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(missing_docs, reason = "the fields are OpenAI's, except where said")]
pub struct ChatCompletionRequest {
    /// The agent's id. Without it and without `agent_id`: the agent of an agent key.
    pub model: Option<String>,
    /// The agent's id, for native clients.
    pub agent_id: Option<String>,
    #[schemars(length(min = 1))]
    pub messages: Vec<ChatCompletionMessage>,
    /// Which conversation; without it, a new one.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.:-]{1,128}$"))]
    pub session_id: Option<String>,
    /// Whether the answer is streamed.
    pub stream: Option<bool>,
    /// The form of a stream; without it, `openai` if `model` is given, else `native`.
    pub stream_format: Option<StreamFormat>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    #[schemars(range(min = 0, max = 2))]
    pub temperature: Option<f64>,
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f64>,
    /// How many answers. All are charged, and the first is kept.
    #[schemars(range(min = 1, max = MAX_N))]
    pub n: Option<u64>,
    /// The bound of each answer.
    #[schemars(range(min = 1, max = MAX_OUTPUT))]
    pub max_completion_tokens: Option<u64>,
    /// The older name of `max_completion_tokens`.
    #[schemars(range(min = 1, max = MAX_OUTPUT))]
    pub max_tokens: Option<u64>,
    #[schemars(range(min = -2, max = 2))]
    pub presence_penalty: Option<f64>,
    #[schemars(range(min = -2, max = 2))]
    pub frequency_penalty: Option<f64>,
    pub logprobs: Option<bool>,
    #[schemars(range(min = 0, max = 20))]
    pub top_logprobs: Option<u64>,
    pub seed: Option<i64>,
    /// Where the answer ends: a text, or up to four.
    pub stop: Option<Value>,
    pub tools: Option<Vec<Map<String, Value>>>,
    /// `none`, `auto`, `required`, or an object that names a tool.
    pub tool_choice: Option<Value>,
    pub parallel_tool_calls: Option<bool>,
    pub response_format: Option<Map<String, Value>>,
    pub logit_bias: Option<Map<String, Value>>,
    pub reasoning_effort: Option<String>,
    pub metadata: Option<Map<String, Value>>,
    pub user: Option<String>,
}

/// A message of a request.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(missing_docs, reason = "the fields are OpenAI's")]
pub struct ChatCompletionMessage {
    pub role: ChatRole,
    /// Text, or content parts: `text`, `image_url`, `input_audio`, `file`, `refusal`.
    pub content: Option<MessageContent>,
    pub name: Option<String>,
    /// Of the assistant.
    pub tool_calls: Option<Vec<Map<String, Value>>>,
    /// Which call a message of the role `tool` answers.
    pub tool_call_id: Option<String>,
}

/// Who speaks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum ChatRole {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

/// What is said.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum MessageContent {
    Text(String),
    Parts(Vec<Map<String, Value>>),
}

/// Forms of a stream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum StreamFormat {
    OpenAi,
    Native,
}

/// What a stream tells beside the answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct StreamOptions {
    /// Whether a last chunk tells the usage.
    pub include_usage: Option<bool>,
}

/// An answer: OpenAI's object with the provider's extra fields, and some of ours.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(missing_docs, reason = "the fields are OpenAI's, except where said")]
pub struct ChatCompletion {
    pub id: String,
    pub object: String,
    /// In Unix seconds.
    pub created: i64,
    /// The agent's id.
    pub model: String,
    pub choices: Vec<ChatCompletionChoice>,
    pub usage: ChatCompletionUsage,
    /// The agent's id, for native clients.
    pub agent_id: String,
    /// The conversation that the answer belongs to.
    pub session_id: String,
    /// The text of the first choice.
    pub content: Option<String>,
}

/// One of the answers.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(missing_docs, reason = "the fields are OpenAI's")]
pub struct ChatCompletionChoice {
    pub index: u64,
    pub message: Map<String, Value>,
    pub logprobs: Option<Value>,
    pub finish_reason: Option<String>,
}

/// What was used.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct ChatCompletionUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
    /// What was charged, in USD; for keys that see money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// The balance after it, in USD; for keys that see money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
}

/// The answer to one message.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AgentReply {
    /// The text.
    pub response: Option<String>,
    /// The conversation that it belongs to.
    pub session_id: String,
    /// What was used.
    pub usage: AgentUsage,
}

/// What an answer to one message used.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AgentUsage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
    /// What was charged, in USD; for keys that see money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

/// An agent, as a model of OpenAI's.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Model {
    /// The agent's id.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// In Unix seconds.
    pub created: i64,
    /// The account.
    pub owned_by: String,
    /// The agent's name.
    pub name: String,
}

/// The agents that a key may use.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// Its models.
    pub data: Vec<Model>,
}
