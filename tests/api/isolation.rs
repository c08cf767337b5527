//! Every call with every kind of key on what is another's: no answer tells whether it is there, and nothing happens to it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::app::App;
use crate::client::Answer;

/// Headers that differ from answer to answer, whatever it says.
const OF_THE_MOMENT: [&str; 3] = ["x-request-id", "openai-processing-ms", "date"];

/// The ids of one tenant's things, by the part of a path.
type Things = BTreeMap<&'static str, String>;

struct Tenant {
    account_key: String,
    /// May do all that an agent key can.
    agent_key: String,
    things: Things,
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// An agent with a session, a key, and an answer that can be read again.
fn agent(app: &App, account_key: &str) -> (String, Things) {
    let made = app.agent_of(account_key, json!({})).0;
    let reading = json!({"scopes": ["chat", "sessions:read"]});
    let key = app.new_key(account_key, &made, reading);
    let session = format!("session-of-{made}");
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let body = json!({"model": made, "session_id": session, "messages": messages, "stream": true});
    let mut stream = app.call("POST", "/v1/chat/completions").key(account_key).json(&body).open().ok();
    let completion = stream.headers.required("x-completion-id").to_owned();
    stream.rest();
    let things = Things::from([
        ("agents/{id}", made.clone()),
        ("agents/{agent_id}", made.clone()),
        ("models/{id}", made),
        ("agents/{id}/api-keys/{key_id}", text(&key["id"])),
        ("sessions/{id}", session.clone()),
        ("chats/{id}", session.clone()),
        ("completions/{id}", completion),
    ]);
    (text(&key["key"]), things)
}

fn tenant(app: &App) -> Tenant {
    let (id, account_key) = app.account("5.00");
    let (agent_key, mut things) = agent(app, &account_key);
    let made = |path: &str, body: Value| text(&app.post(&account_key, path, &body).is(201).json()["id"]);
    let own = json!({"api_key": "tenant-key", "base_url": "https://models.example.com/v1"});
    let provider = format!("mine-{}", things["agents/{id}"].to_lowercase().replace('_', "-"));
    app.call("PUT", &format!("/v2/account/providers/{provider}")).key(&account_key).json(&own).send().is(201);
    things.extend([
        ("account/api-keys/{key_id}", made("/v2/account/api-keys", json!({"name": "another"}))),
        ("webhooks/{id}", made("/v2/webhooks", json!({"url": "https://example.com/hook"}))),
        ("providers/{name}", provider),
        ("accounts/{id}", id),
    ]);
    Tenant { account_key, agent_key, things }
}

/// Ids of the same form that nobody has.
fn missing(things: &Things) -> Things {
    let other = |id: &String| {
        let (front, back) = id.split_at(id.len() - 4);
        let swapped = back.chars().map(|own| if own == '0' { '1' } else { '0' });
        front.chars().chain(swapped).collect()
    };
    things.iter().map(|(name, id)| (*name, other(id))).collect()
}

/// A path with the ids in it, in its longest parts first.
fn filled(template: &str, things: &Things) -> String {
    let mut names: Vec<_> = things.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let mut path = template.to_owned();
    for name in names {
        let (front, part) = name.rsplit_once('{').expect("a part");
        if let Some(at) = path.find(name) {
            let from = at + front.len();
            path.replace_range(from..=from + part.len(), &things[name]);
        }
    }
    assert!(!path.contains('{'), "no id is known for {path}");
    path
}

/// An answer without the moment, and without the ids that the call named.
fn told(answer: &Answer, things: &Things) -> (u16, Vec<(String, String)>, String) {
    let blank = |text: &str| things.values().fold(text.to_owned(), |text, id| text.replace(id, "ID"));
    let headers = answer.headers.all().filter(|(name, _)| !OF_THE_MOMENT.contains(&name.as_str()));
    let mut headers: Vec<_> = headers.map(|(name, value)| (name.clone(), blank(value))).collect();
    headers.sort();
    (answer.status, headers, blank(&answer.text()))
}

/// All that a tenant can see of what is his.
fn seen(app: &App, tenant: &Tenant) -> Vec<Value> {
    let lists = [
        "/v2/agents",
        "/v2/account/api-keys",
        "/v2/sessions",
        "/v2/webhooks",
        "/v2/account/providers",
        "/v2/account",
    ];
    let keys = format!("/v2/agents/{}/api-keys", tenant.things["agents/{id}"]);
    lists.into_iter().chain([keys.as_str()]).map(|path| app.get(&tenant.account_key, path).ok()).collect()
}

#[test]
fn what_is_anothers_is_answered_as_what_is_not_there() {
    let app = crate::own_providers::setup().start();
    let (own, other) = (tenant(&app), tenant(&app));
    // Another agent of the same account.
    let (sibling_key, _) = agent(&app, &own.account_key);
    let (before, none) = (seen(&app, &own), missing(&own.things));
    let document = app.call("GET", "/openapi.json").send().ok();
    let paths = document["paths"].as_object().expect("paths");
    let (mut compared, mut found) = (0, 0);
    for (path, calls) in paths.iter().filter(|(path, _)| path.contains('{') && !path.starts_with("/admin")) {
        // What is put under a name is the caller's own, whatever others have under it.
        for (method, call) in calls.as_object().expect("calls").iter().filter(|(method, _)| *method != "put")
        {
            let method = method.to_uppercase();
            let example = call.pointer("/requestBody/content/application~1json/example");
            let send = |key: &str, path: &str| {
                let request = app.call(&method, path).key(key);
                match example {
                    Some(body) => request.json(body).send(),
                    None => request.send(),
                }
            };
            let mut twisted = vec![(own.things.clone(), none.clone())];
            if path.contains("{id}/api-keys/{key_id}") {
                // His own agent, and the key of another's.
                let agent = ("agents/{id}", other.things["agents/{id}"].clone());
                let with = |things: &Things| things.clone().into_iter().chain([agent.clone()]).collect();
                twisted.push((with(&own.things), with(&none)));
            }
            for (things, none) in &twisted {
                for (who, key) in
                    [("account", &other.account_key), ("agent", &other.agent_key), ("sibling", &sibling_key)]
                {
                    let foreign = send(key, &filled(path, things));
                    let absent = send(key, &filled(path, none));
                    let named = format!("{method} {path} with the key of another {who}");
                    assert_eq!(told(&foreign, things), told(&absent, none), "{named}");
                    assert!(
                        matches!(foreign.status, 403 | 404),
                        "{named}: {} {}",
                        foreign.status,
                        foreign.text()
                    );
                    assert!(who != "account" || foreign.status == 404, "{named}: {}", foreign.text());
                    compared += 1;
                }
            }
            if method == "GET" {
                let answer = send(&own.account_key, &filled(path, &own.things));
                assert_eq!(answer.status, 200, "{method} {path} with his own key: {}", answer.text());
                found += 1;
            }
        }
    }
    assert!(compared > 60 && found > 7, "{compared} {found}");
    assert_eq!(seen(&app, &own), before, "something happened to what is another's");
    app.finish();
}

#[test]
fn an_agent_that_is_anothers_is_one_that_is_not_there_wherever_it_is_named() {
    let app = crate::own_providers::setup().start();
    let (own, other) = (tenant(&app), tenant(&app));
    let (sibling_key, _) = agent(&app, &own.account_key);
    let (foreign, absent) = (&own.things["agents/{id}"], &missing(&own.things)["agents/{id}"]);
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let bodies = |agent: &str| {
        [
            ("/v1/chat/completions", json!({"model": agent, "messages": messages})),
            ("/v1/chat/completions", json!({"agent_id": agent, "messages": messages, "stream": true})),
            ("/v2/sessions", json!({"agent_id": agent})),
        ]
    };
    for key in [&other.account_key, &other.agent_key, &sibling_key] {
        for ((path, one), (_, two)) in bodies(foreign).into_iter().zip(bodies(absent)) {
            let answers = [(foreign, one), (absent, two)].map(|(agent, body)| {
                let answer = app.post(key, path, &body);
                told(&answer, &Things::from([("agents/{id}", agent.clone())]))
            });
            assert_eq!(answers[0], answers[1], "{path}");
            assert!(matches!(answers[0].0, 403 | 404), "{path}: {answers:?}");
        }
        for path in ["/v2/sessions?agent_id=", "/v2/chats?agent_id=", "/v2/sessions/export?agent_id="] {
            let answers = [foreign, absent].map(|agent| {
                let answer = app.get(key, &format!("{path}{agent}"));
                told(&answer, &Things::from([("agents/{id}", agent.clone())]))
            });
            assert_eq!(answers[0], answers[1], "{path}");
        }
    }
    app.finish();
}

#[test]
fn unknown_revoked_and_expired_keys_are_answered_alike() {
    let app = App::start();
    let made = app.new_key(&app.account_key, &app.agent_id, json!({}));
    let revoked = text(&made["key"]);
    app.get(&revoked, "/v1/models").is(200);
    let path = format!("/v2/agents/{}/api-keys/{}", app.agent_id, text(&made["id"]));
    assert_eq!(app.delete(&app.account_key, &path).status, 204);
    let unknown = crate::crowds::stranger("ak_", 5);
    let nothing = Things::new();
    for path in ["/v1/models", "/v2/sessions", "/v2/agents", "/admin/accounts"] {
        let (one, two) = (app.get(&revoked, path), app.get(&unknown, path));
        assert_eq!((one.status, told(&one, &nothing)), (401, told(&two, &nothing)), "{path}");
    }
    app.finish();
}
