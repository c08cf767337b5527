//! `GET /openapi.json`: the table of routes as an OpenAPI 3.1 document.

use std::sync::LazyLock;

use actix_web::http::header::{CACHE_CONTROL, ETAG, EntityTag, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use schemars::generate::{Contract, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::http::endpoint::{Answer, Content, Endpoint, Keys, Parameter};
use crate::http::routes;
use crate::wire::openai::error::ErrorBody;

/// The document and its tag: it is the same as long as the program is.
static DOCUMENT: LazyLock<(Bytes, String)> = LazyLock::new(|| {
    let text = document().to_string();
    let tag = EntityTag::new_strong(blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()).to_string();
    (text.into(), tag)
});

/// The call itself.
pub async fn show(request: HttpRequest) -> HttpResponse {
    let (text, tag) = &*DOCUMENT;
    let known = request.headers().get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let known = known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag));
    let mut answer = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    answer.insert_header((ETAG, tag.as_str())).insert_header((CACHE_CONTROL, "no-cache"));
    if known { answer.finish() } else { answer.content_type("application/json").body(text.clone()) }
}

/// Headers that answers may have: name, what it tells, whether it is a number.
const HEADERS: [(&str, &str, bool); 20] = [
    ("x-request-id", "The request's id, which stands in the server's log.", false),
    ("openai-processing-ms", "How long it took to the answer's head, in milliseconds.", true),
    ("x-completion-id", "The answer's id.", false),
    ("x-session-id", "The conversation's id.", false),
    ("x-history-matched", "How many of the sent messages were known.", true),
    ("x-context-dropped", "How many turns were left out of the prompt.", true),
    ("x-max-completion-tokens", "The bound of the answer, where nobody named one.", true),
    ("idempotent-replayed", "`true` if this answer was given before.", false),
    ("x-ratelimit-limit-requests", "Calls in a minute.", true),
    ("x-ratelimit-remaining-requests", "Calls that may be sent at once.", true),
    ("x-ratelimit-reset-requests", "When the bucket is full again, such as `6m0s`.", false),
    ("x-ratelimit-limit-tokens", "Tokens in a minute.", true),
    ("x-ratelimit-remaining-tokens", "Tokens that may be used at once.", true),
    ("x-ratelimit-reset-tokens", "When the bucket is full again.", false),
    ("x-ratelimit-limit", "As `x-ratelimit-limit-requests`.", true),
    ("x-ratelimit-remaining", "As `x-ratelimit-remaining-requests`.", true),
    ("x-ratelimit-reset", "When the bucket is full again, in Unix seconds.", true),
    ("retry-after", "When to try again, in seconds; at most 60.", true),
    ("x-should-retry", "`false` where trying again cannot help.", false),
    ("www-authenticate", "How keys are sent: `Bearer`.", false),
];
/// Those that every answer has.
const ALWAYS: [&str; 2] = ["x-request-id", "openai-processing-ms"];

/// What each status of an error means, and its headers.
const ERRORS: [(u16, &str, &[&str]); 17] = [
    (400, "The request is wrong; the message names the field and what was expected.", &[]),
    (401, "No key, or one that is malformed, unknown, expired or revoked.", &["www-authenticate"]),
    (402, "The balance or the key's budget does not cover the most that this may cost.", &["x-should-retry"]),
    (403, "The key is good, but not for this call, or its account is suspended.", &[]),
    (404, "It does not exist, or the key may not see it.", &[]),
    (405, "The path does not take that method.", &[]),
    (408, "The body came too slowly.", &[]),
    (409, "Another request of the session, or one with the same key, is running.", &["retry-after"]),
    (410, "The session is closed, or what comes next in the stream is not kept any more.", &[]),
    (413, "The body is too large.", &[]),
    (415, "The content type is not application/json, or the body is compressed.", &[]),
    (422, "The same reference or key was used for something else.", &[]),
    (429, "Too many requests, tokens or calls at once.", &["retry-after"]),
    (500, "A defect of the server; the request id helps to find its cause.", &[]),
    (502, "The provider failed.", &[]),
    (503, "The server or the provider is not available now.", &["retry-after", "x-should-retry"]),
    (504, "The provider took too long.", &["retry-after"]),
];

/// The whole document.
pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths: Map<String, Value> = Map::new();
    let mut tags = Vec::new();
    for group in routes::table() {
        tags.push(json!({"name": group.name, "description": group.about}));
        for endpoint in group.endpoints {
            let path = paths.entry(endpoint.template()).or_insert_with(|| json!({}));
            path[endpoint.method.as_str().to_ascii_lowercase()] = schemas.operation(group.name, &endpoint);
        }
    }
    let error = schemas.answered.subschema_for::<ErrorBody>();
    let responses: Map<String, Value> =
        ERRORS.iter().map(|known| error_response(known, error.as_value())).collect();
    let headers: Map<String, Value> = HEADERS.iter().map(header_component).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Switchboard",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "description": ABOUT,
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.definitions(),
            "responses": responses,
            "headers": headers,
            "securitySchemes": {
                "agentKey": bearer("An agent key, `ak_…`: chat with one agent."),
                "accountKey": bearer("An account key, `sk_…`: everything of one account."),
                "operatorToken": bearer("The operator's token, `op_…`: `/admin` and nothing else."),
            },
        },
    })
}

const ABOUT: &str = "Requests and answers are JSON. Money is a decimal string in USD, times are RFC 3339 in UTC; OpenAI's \
objects have Unix seconds. What a key may not see does not exist for it. Errors have one body everywhere. Paths work \
with and without a slash at the end.";

fn bearer(about: &str) -> Value {
    json!({"type": "http", "scheme": "bearer", "description": about})
}

fn header_component((name, about, number): &(&str, &str, bool)) -> (String, Value) {
    let kind = if *number { "integer" } else { "string" };
    let header = json!({"description": about, "required": ALWAYS.contains(name), "schema": {"type": kind}});
    ((*name).to_owned(), header)
}

fn header_references<'a>(names: impl IntoIterator<Item = &'a &'a str>) -> Value {
    let reference =
        |name: &&str| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
    Value::Object(ALWAYS.iter().chain(names).map(reference).collect())
}

fn error_response((status, about, headers): &(u16, &str, &[&str]), body: &Value) -> (String, Value) {
    let response = json!({
        "description": about,
        "headers": header_references(*headers),
        "content": {"application/json": {"schema": body}},
    });
    (format!("Error{status}"), response)
}

/// The schemas of everything that is taken and answered. A field that may be left out of a request may yet be in
/// every answer, so each direction has a generator.
struct Schemas {
    taken: SchemaGenerator,
    answered: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let generator = |contract| {
            let settings = SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.contract = contract;
                settings.meta_schema = None;
            });
            settings.with_transform(RecursiveTransform(without_empty_default)).into_generator()
        };
        Self { taken: generator(Contract::Deserialize), answered: generator(Contract::Serialize) }
    }

    fn definitions(&mut self) -> Map<String, Value> {
        let mut all = self.taken.take_definitions(true);
        all.extend(self.answered.take_definitions(true));
        all.sort_keys();
        all
    }

    fn operation(&mut self, tag: &str, endpoint: &Endpoint) -> Value {
        let mut operation = json!({
            "tags": [tag],
            "operationId": operation_id(endpoint),
            "summary": endpoint.summary,
        });
        if !endpoint.about.is_empty() {
            operation["description"] = endpoint.about.into();
        }
        operation["security"] = security(endpoint.keys);
        let in_path = endpoint.path_names().into_iter().map(|name| path_parameter(endpoint, &name));
        let parameters: Vec<Value> = in_path.chain(endpoint.parameters.iter().map(parameter)).collect();
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some((describe, example)) = &endpoint.body {
            let schema = describe(&mut self.taken).to_value();
            let schema = match endpoint.required {
                [] => schema,
                required => json!({"allOf": [schema, {"required": required}]}),
            };
            let content = json!({"application/json": {"schema": schema, "example": example}});
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        let limited = matches!(endpoint.keys, Keys::AgentOrAccount | Keys::Account);
        let mut responses: Map<String, Value> = Map::new();
        for answer in &endpoint.answers {
            responses.insert(answer.status.as_str().to_owned(), self.response(answer, limited));
        }
        for status in endpoint.all_errors() {
            let reference = json!({"$ref": format!("#/components/responses/Error{status}")});
            responses.entry(status.to_string()).or_insert(reference);
        }
        operation["responses"] = responses.into();
        operation
    }

    fn response(&mut self, answer: &Answer, limited: bool) -> Value {
        let rates =
            HEADERS.iter().map(|(name, ..)| name).filter(|name| limited && name.starts_with("x-ratelimit-"));
        let mut response = json!({
            "description": answer.about,
            "headers": header_references(rates.chain(answer.headers)),
        });
        for content in &answer.contents {
            let (kind, described) = match content {
                Content::Json(describe, example) => {
                    let mut described = json!({"schema": describe(&mut self.answered)});
                    if let Some(example) = example {
                        described["example"] = example.clone();
                    }
                    ("application/json", described)
                }
                // OpenAPI 3.1 does not say whether a schema is of a stream or of its events.
                Content::Text(kind @ "text/event-stream", example) => (*kind, json!({"example": example})),
                Content::Text(kind, example) => {
                    (*kind, json!({"schema": {"type": "string"}, "example": example}))
                }
            };
            response["content"][kind] = described;
        }
        response
    }
}

/// That a field is empty when it is absent needs no telling, and an empty name is no valid one.
fn without_empty_default(schema: &mut Schema) {
    let empty = match schema.get("default") {
        Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        _ => false,
    };
    if empty {
        schema.remove("default");
    }
}

/// A name for programs: the method and the words of the path, `get_v2_agents_id`.
fn operation_id(endpoint: &Endpoint) -> String {
    let template = endpoint.template();
    let words =
        template.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let method = endpoint.method.as_str().to_ascii_lowercase();
    words.fold(method, |id, word| id + "_" + word)
}

fn security(keys: Keys) -> Value {
    match keys {
        Keys::None => json!([]),
        Keys::AgentOrAccount => json!([{"agentKey": []}, {"accountKey": []}]),
        Keys::Account => json!([{"accountKey": []}]),
        Keys::Operator => json!([{"operatorToken": []}]),
    }
}

fn parameter(parameter: &Parameter) -> Value {
    json!({
        "name": parameter.name,
        "in": if parameter.header { "header" } else { "query" },
        "description": parameter.about,
        "schema": parameter.schema,
    })
}

/// A part of the path, by what stands before it.
fn path_parameter(endpoint: &Endpoint, name: &str) -> Value {
    let template = endpoint.template();
    let before = template.split_once(&format!("/{{{name}}}")).map_or("", |(before, _)| before);
    let about = match before.rsplit('/').next().unwrap_or_default() {
        "agents" | "models" => "The agent's id.",
        "api-keys" => "The key's id.",
        "sessions" | "chats" => "The session's id.",
        "accounts" => "The account's id.",
        "webhooks" => "The webhook's id.",
        "completions" => "The completion's id.",
        _ => "The id.",
    };
    json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": about,
        "schema": {"type": "string", "minLength": 1},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference in the document, with what it stands in.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100);
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("a reference inside the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn a_type_that_is_taken_and_answered_is_described_alike() {
        let mut schemas = Schemas::new();
        for endpoint in routes::table().iter().flat_map(|group| &group.endpoints) {
            schemas.operation("", endpoint);
        }
        let (taken, answered) =
            (schemas.taken.take_definitions(true), schemas.answered.take_definitions(true));
        for (name, schema) in &taken {
            assert!(answered.get(name).is_none_or(|other| other == schema), "{name} is two things");
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_an_answer() {
        let mut names = std::collections::HashSet::new();
        for endpoint in routes::table().iter().flat_map(|group| &group.endpoints) {
            assert!(names.insert(operation_id(endpoint)), "{} {}", endpoint.method, endpoint.path);
            let answers = endpoint.answers.len() + endpoint.all_errors().len();
            assert!(answers > 0 && !endpoint.summary.is_empty(), "{} {}", endpoint.method, endpoint.path);
        }
    }
}
