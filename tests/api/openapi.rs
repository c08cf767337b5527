//! `/openapi.json` against the server that it describes.

use serde_json::{Value, json};

use crate::app::App;
use crate::client::Answer;

const METHODS: [&str; 5] = ["GET", "POST", "PATCH", "DELETE", "PUT"];

fn document(app: &App) -> Value {
    app.call("GET", "/openapi.json").send().ok()
}

/// Every call: method, path as it is described, description.
fn calls(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let calls = paths.iter().flat_map(|(path, calls)| {
        let calls = calls.as_object().expect("calls");
        calls.iter().map(|(method, call)| (method.to_uppercase(), path.clone(), call.clone()))
    });
    calls.collect()
}

/// Ids that exist, for the parts of paths.
struct Known {
    agent: String,
    agent_key: String,
    account_key: String,
    account: String,
    webhook: String,
}

impl Known {
    fn make(app: &App) -> Self {
        let id = |value: Value| value["id"].as_str().expect("an id").to_owned();
        let (agent, _) = app.agent(json!({}));
        app.say("Hello", json!({"session_id": "ada:1"}));
        let name = json!({"name": "another"});
        let webhook = json!({"url": "https://example.com/hook"});
        let own = json!({"api_key": "tenant-key", "base_url": "https://models.example.com/v1"});
        app.call("PUT", "/v2/account/providers/mine").key(&app.account_key).json(&own).send().is(201);
        Self {
            agent_key: id(app.new_key(&app.account_key, &agent, json!({}))),
            account_key: id(app.post(&app.account_key, "/v2/account/api-keys", &name).is(201).json()),
            account: app.account("1.50").0,
            webhook: id(app.post(&app.account_key, "/v2/webhooks", &webhook).is(201).json()),
            agent,
        }
    }

    /// A path to something that exists.
    fn path(&self, template: &str) -> String {
        let (account, agent) = (self.account.as_str(), self.agent.as_str());
        [
            ("agents/{id}", format!("agents/{agent}")),
            ("models/{id}", format!("models/{agent}")),
            ("account/api-keys/{key_id}", format!("account/api-keys/{}", self.account_key)),
            ("api-keys/{key_id}", format!("api-keys/{}", self.agent_key)),
            ("sessions/{id}", "sessions/ada:1".to_owned()),
            ("chats/{id}", "chats/ada:1".to_owned()),
            ("accounts/{id}", format!("accounts/{account}")),
            ("providers/{name}", "providers/mine".to_owned()),
            ("webhooks/{id}", format!("webhooks/{}", self.webhook)),
        ]
        .iter()
        .fold(template.to_owned(), |path, (from, to)| path.replace(from, to))
    }
}

/// The key that a call takes.
fn key<'a>(app: &'a App, call: &Value) -> &'a str {
    let takes = |name: &str| {
        call["security"].as_array().is_some_and(|all| all.iter().any(|one| one[name].is_array()))
    };
    if takes("operatorToken") { &app.operator_token } else { &app.account_key }
}

fn send(app: &App, known: &Known, method: &str, path: &str, call: &Value, body: Option<&Value>) -> Answer {
    let request = app.call(method, &known.path(path)).key(key(app, call));
    match body {
        Some(body) => request.json(body).send(),
        None => request.send(),
    }
}

fn example(call: &Value) -> Option<&Value> {
    call.pointer("/requestBody/content/application~1json/example")
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect("a schema"),
        None => schema,
    }
}

#[test]
fn every_call_that_is_described_is_there_and_no_other() {
    let app = crate::own_providers::setup().start();
    let document = document(&app);
    let calls = calls(&document);
    assert!(calls.len() > 50, "{}", calls.len());
    for path in document["paths"].as_object().expect("paths").keys() {
        for method in METHODS {
            let described = calls.iter().any(|(own, at, _)| own == method && at == path);
            let answer = app.call(method, &path.replace(['{', '}'], "")).send();
            let unknown = answer.status == 405 || answer.text().contains("this path does not exist");
            assert_ne!(described, unknown, "{method} {path}: {} {}", answer.status, answer.text());
        }
    }
    app.finish();
}

#[test]
fn every_call_takes_the_keys_that_are_described_and_no_other() {
    let app = crate::own_providers::setup().start();
    let known = Known::make(&app);
    let keys = [
        ("agentKey", &app.agent_key),
        ("accountKey", &app.account_key),
        ("operatorToken", &app.operator_token),
    ];
    for (method, path, call) in calls(&document(&app)) {
        let takes = call["security"].as_array().expect("keys");
        let path = known.path(&path);
        if takes.is_empty() {
            assert_ne!(app.call(&method, &path).send().status, 401, "{method} {path}");
            continue;
        }
        app.call(&method, &path).send().is(401);
        for (name, key) in keys {
            // Without a body, and with a query that is refused: nothing is changed or deleted.
            let answer = app
                .call(&method, &format!("{path}?limit=0&agent_id=none"))
                .key(key)
                .body("text/plain", "x")
                .send();
            let scoped = answer.status == 403 && !answer.text().contains("sessions:read");
            let expected = takes.iter().any(|one| one[name].is_array());
            if method != "DELETE" || !expected {
                assert_eq!(!scoped, expected, "{method} {path} with {name}: {}", answer.text());
            }
        }
    }
    app.finish();
}

#[test]
fn every_example_of_a_body_is_taken_and_answered_as_described() {
    let app = crate::own_providers::setup().start();
    let known = Known::make(&app);
    let mut sent = 0;
    for (method, path, call) in calls(&document(&app)) {
        let Some(example) = example(&call) else { continue };
        let text = example.to_string().replace("ag_5d2678fd_e556", &app.agent_id);
        let example: Value = serde_json::from_str(&text).expect("an example");
        if path == "/v2/sessions/{id}" {
            continue; // archives what the next calls need; below
        }
        // The examples of chats have made one of that name with another agent.
        let whose = if path.starts_with("/v2/sessions/{id}") { "?agent_id={agent}" } else { "" };
        let path = format!("{path}{}", whose.replace("{agent}", &app.agent_id));
        let answer = send(&app, &known, &method, &path, &call, Some(&example));
        assert!(matches!(answer.status, 200 | 201), "{method} {path}: {}", answer.text());
        let described = &call["responses"][answer.status.to_string()];
        assert!(described["content"]["application/json"].is_object(), "{method} {path}");
        sent += 1;
    }
    assert!(sent > 14, "{sent}");
    app.patch(&app.account_key, "/v2/sessions/ada:1?agent_id=none", &json!({"status": "archived"})).is(404);
    app.finish();
}

/// A field that is described and not read is found here; one that is read and not described cannot be.
#[test]
fn every_field_that_is_described_is_read_and_no_other_is_taken() {
    let app = crate::own_providers::setup().start();
    let known = Known::make(&app);
    let document = document(&app);
    let mut fields = 0;
    for (method, path, call) in calls(&document) {
        let Some(example) = example(&call) else { continue };
        let schema = &call["requestBody"]["content"]["application/json"]["schema"];
        let schema = schema["allOf"].as_array().map_or(schema, |parts| &parts[0]);
        let schema = resolved(&document, schema);
        if schema["additionalProperties"] == true {
            continue;
        }
        let text = example.to_string().replace("ag_5d2678fd_e556", &known.agent);
        let with = |name: &str, value: Value| {
            let mut body: Value = serde_json::from_str(&text).expect("an example");
            body[name] = value;
            send(&app, &known, &method, &path, &call, Some(&body))
        };
        let refused = with("no_such_field", json!(1)).is(400).json();
        assert_eq!(refused["error"]["code"], "unknown_field", "{method} {path}: {refused}");
        for name in schema["properties"].as_object().into_iter().flat_map(|all| all.keys()) {
            // A value that no field takes, save those that are objects of anybody's.
            let answer = with(name, json!({"no_such_field": [[]]}));
            assert!(!answer.text().contains("unknown_field"), "{method} {path} {name}: {}", answer.text());
            fields += 1;
        }
    }
    assert!(fields > 40, "{fields}");
    app.finish();
}

#[test]
fn the_document_is_public_and_known_by_its_tag() {
    let app = crate::own_providers::setup().start();
    let answer = app.call("GET", "/openapi.json").send().is(200);
    assert_eq!(answer.headers.required("content-type"), "application/json");
    assert_eq!(answer.json()["info"]["version"], env!("CARGO_PKG_VERSION"));
    let tag = answer.headers.required("etag");
    let again = app.call("GET", "/openapi.json").header("If-None-Match", tag).send().is(304);
    assert_eq!(again.text(), "");
    app.call("GET", "/openapi.json").header("If-None-Match", "\"another\"").send().is(200);
    app.finish();
}
