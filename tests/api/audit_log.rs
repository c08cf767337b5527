//! The audit log: each management call that changes something leaves one record, in the same transaction.

use diesel::prelude::*;
use serde_json::{Value, json};

use crate::app::{App, Setup, binary};

/// Every record of the server, newest first.
fn records(app: &App) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all.last().map(|record| format!("&after={}", record["id"])).unwrap_or_default();
        let page = app.get(&app.operator_token, &format!("/admin/audit-log?limit=100{after}")).ok();
        all.extend(page["records"].as_array().expect("records").iter().cloned());
        if page["has_more"] == false {
            return all;
        }
    }
}

/// The records that a call adds.
struct Watch<'a> {
    app: &'a App,
    seen: usize,
}

impl<'a> Watch<'a> {
    fn new(app: &'a App) -> Self {
        Self { app, seen: records(app).len() }
    }

    fn added(&mut self) -> Vec<Value> {
        let all = records(self.app);
        let new = all[..all.len() - self.seen].to_vec();
        self.seen = all.len();
        new
    }
}

/// Things to do something to, each made anew for the call that needs it.
struct World<'a>(&'a App);

impl World<'_> {
    fn id(value: &Value) -> String {
        value["id"].as_str().expect("an id").to_owned()
    }

    fn agent(&self) -> String {
        self.0.agent(json!({})).0
    }

    fn session(&self) -> String {
        let body = json!({"agent_id": self.0.agent_id, "metadata": {"user": "note-of-ada"}});
        Self::id(&self.0.post(&self.0.account_key, "/v2/sessions", &body).is(201).json())
    }

    fn key_of_agent(&self) -> String {
        Self::id(&self.0.new_key(&self.0.account_key, &self.0.agent_id, json!({})))
    }

    fn key_of_account(&self) -> String {
        let body = json!({"name": "another"});
        Self::id(&self.0.post(&self.0.account_key, "/v2/account/api-keys", &body).is(201).json())
    }

    fn webhook(&self) -> String {
        let body = json!({"url": "https://hooks.example.com/secret-path-of-hook"});
        Self::id(&self.0.post(&self.0.account_key, "/v2/webhooks", &body).is(201).json())
    }

    fn provider(&self, name: &str) -> String {
        let body = json!({"api_key": "tenant-provider-key", "base_url": "https://models.example.com/v1"});
        let path = format!("/v2/account/providers/{name}");
        let answer = self.0.call("PUT", &path).key(&self.0.account_key).json(&body).send();
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        name.to_owned()
    }

    /// The path of a call, its ids those of things that are there.
    fn path(&self, method: &str, template: &str) -> String {
        let app = self.0;
        let put = |name: &str, id: &str| template.replace(name, id);
        match template {
            "/v2/agents/{id}/api-keys/{key_id}" => {
                put("{key_id}", &self.key_of_agent()).replace("{id}", &app.agent_id)
            }
            "/v2/account/api-keys/{key_id}" => put("{key_id}", &self.key_of_account()),
            "/v2/agents/{id}" if method == "DELETE" => put("{id}", &self.agent()),
            path if path.starts_with("/v2/agents/{id}") => put("{id}", &app.agent_id),
            path if path.starts_with("/admin/accounts/{id}") => put("{id}", &app.account("2.00").0),
            "/v2/webhooks/{id}" => put("{id}", &self.webhook()),
            "/v2/account/providers/{name}" if method == "DELETE" => put("{name}", &self.provider("gone")),
            "/v2/account/providers/{name}" => put("{name}", "mine"),
            path if path.starts_with("/v2/sessions/{id}") || path.starts_with("/v2/chats/{id}") => {
                put("{id}", &self.session())
            }
            path => {
                assert!(!path.contains('{'), "{method} {path}: say here what it is called for");
                path.to_owned()
            }
        }
    }

    /// What a call sends: the example of its description, where nothing else has to stand there.
    fn body(&self, template: &str, call: &Value) -> Option<Value> {
        if template.ends_with("/fork") {
            return Some(json!({}));
        }
        if template.ends_with("/truncate") {
            return Some(json!({"after": null}));
        }
        let example = call.pointer("/requestBody/content/application~1json/example")?;
        let text = example.to_string().replace("ag_5d2678fd_e556", &self.0.agent_id);
        serde_json::from_str(&text).ok()
    }
}

/// Every call that changes something of what is managed: of chats only what is no chat.
fn changing(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let calls = paths.iter().flat_map(|(path, calls)| {
        let calls = calls.as_object().expect("calls").iter();
        calls.map(|(method, call)| (method.to_uppercase(), path.clone(), call.clone()))
    });
    calls
        .filter(|(method, path, _)| {
            let managed = path.starts_with("/v2/") || path.starts_with("/admin/");
            managed && method != "GET" && path != "/v2/chats/openai"
        })
        .collect()
}

/// The action that a call is, where its object was not there before it, or is not there after it.
fn expected(method: &str, template: &str) -> (&'static str, bool, bool) {
    match (method, template) {
        ("POST", "/v2/agents") => ("agent.create", false, true),
        ("PATCH", "/v2/agents/{id}") => ("agent.update", true, true),
        ("DELETE", "/v2/agents/{id}") => ("agent.delete", true, false),
        ("POST", "/v2/agents/{id}/api-keys" | "/v2/account/api-keys") => ("key.create", false, true),
        ("PATCH", "/v2/agents/{id}/api-keys/{key_id}") => ("key.update", true, true),
        ("DELETE", "/v2/agents/{id}/api-keys/{key_id}" | "/v2/account/api-keys/{key_id}") => {
            ("key.revoke", true, false)
        }
        ("PATCH", "/v2/account" | "/admin/accounts/{id}") => ("account.update", true, true),
        ("PUT", "/v2/account/providers/{name}") => ("provider.set", false, true),
        ("DELETE", "/v2/account/providers/{name}") => ("provider.delete", true, false),
        ("POST", "/v2/webhooks") => ("webhook.create", false, true),
        ("DELETE", "/v2/webhooks/{id}") => ("webhook.delete", true, false),
        ("POST", "/v2/sessions") => ("session.create", false, true),
        ("PATCH", "/v2/sessions/{id}") => ("session.update", true, true),
        ("DELETE", "/v2/sessions/{id}" | "/v2/chats/{id}") => ("session.delete", true, false),
        ("POST", "/v2/sessions/{id}/fork") => ("session.fork", true, true),
        ("POST", "/v2/sessions/{id}/truncate") => ("session.truncate", true, true),
        ("POST", "/admin/accounts") => ("account.create", false, true),
        ("POST", "/admin/accounts/{id}/credit") => ("account.credit", true, true),
        ("POST", "/admin/accounts/{id}/adjust") => ("account.adjust", true, true),
        ("DELETE", "/admin/accounts/{id}") => ("account.close", true, false),
        ("POST", "/admin/prices") => ("price.create", false, true),
        _ => panic!("{method} {template} changes something: say here what its record is"),
    }
}

#[test]
fn every_call_that_changes_something_leaves_exactly_one_record_of_who_did_what() {
    let app = crate::own_providers::setup().start();
    let world = World(&app);
    let mut watch = Watch::new(&app);
    let calls = changing(&app.call("GET", "/openapi.json").send().ok());
    assert!(calls.len() > 20, "{}", calls.len());
    let own_key = records(&app)
        .iter()
        .find_map(|record| record["after"]["first_key"]["id"].as_str().map(str::to_owned));
    let own_key = own_key.expect("the first key");
    for (method, template, call) in calls {
        let path = world.path(&method, &template);
        let body = world.body(&template, &call);
        watch.added();
        let by_operator = template.starts_with("/admin/");
        let key = if by_operator { &app.operator_token } else { &app.account_key };
        let request = app.call(&method, &path).key(key);
        let answer = match &body {
            Some(body) => request.json(body).send(),
            None => request.send(),
        };
        let label = format!("{method} {path}");
        assert!(answer.status < 300, "{label}: {}", answer.text());
        let added = watch.added();
        let [record] = added.as_slice() else { panic!("{label} left {} records: {added:?}", added.len()) };
        let (action, was, is) = expected(&method, &template);
        assert_eq!(record["action"], action, "{label}");
        assert_eq!(record["object"]["kind"], action.split('.').next().unwrap_or_default(), "{label}");
        assert_eq!(record["before"].is_object(), was, "{label}: {record}");
        assert_eq!(record["after"].is_object(), is, "{label}: {record}");
        assert_eq!(record["request_id"], answer.headers.required("x-request-id"), "{label}");
        assert_eq!(record["remote_address"], "127.0.0.1", "{label}");
        assert_eq!(record["actor"]["kind"], if by_operator { "operator" } else { "account" }, "{label}");
        if !by_operator {
            assert_eq!(record["actor"]["key_id"], own_key.as_str(), "{label}");
            assert_eq!(record["account_id"], app.account_id.as_str(), "{label}");
        }
        object_is_named(&path, &method, &answer.text(), record);
        assert_same_or_changed(&label, action, record);
    }
    nothing_secret(&app);
    app.finish();
}

/// The record's object is that of the path, or that of the answer.
fn object_is_named(path: &str, method: &str, answer: &str, record: &Value) {
    let object = record["object"]["id"].as_str().expect("an object");
    let made: Value = serde_json::from_str(answer).unwrap_or_default();
    let named = path.split('/').any(|part| part == object) && method != "POST";
    let answered = ["id", "name", "account_id"].iter().any(|name| made[*name] == object);
    assert!(named || answered, "{method} {path}: {record} {answer}");
}

fn assert_same_or_changed(label: &str, action: &str, record: &Value) {
    let field = match action {
        "agent.update" => "temperature",
        "key.update" => "limits",
        "session.update" => "status",
        "account.update" if record["actor"]["kind"] == "operator" => "status",
        "account.update" => "retention_days",
        _ => return,
    };
    assert_ne!(record["before"][field], record["after"][field], "{label}: {record}");
    let others = record["before"].as_object().expect("an object").iter();
    for (name, value) in others.filter(|(name, _)| *name != field && *name != "updated_at") {
        assert_eq!(*value, record["after"][name], "{label} {name}");
    }
}

/// No record has a secret, nor what a deleted session must not leave behind.
fn nothing_secret(app: &App) {
    let all = Value::from(records(app)).to_string();
    let secrets = [
        app.account_key.as_str(),
        &app.agent_key,
        &app.operator_token,
        "tenant-provider-key",
        "sk-example-0123456789",
        "secret-path-of-hook",
        "whsec_",
        "note-of-ada",
    ];
    for secret in secrets {
        assert!(!all.contains(secret), "{secret} is in the audit log");
    }
}

#[test]
fn what_is_refused_or_changes_nothing_leaves_no_record() {
    let app = crate::own_providers::setup().start();
    let credit = json!({"amount": "1.00", "external_ref": "payment-1"});
    let path = format!("/admin/accounts/{}/credit", app.account_id);
    app.post(&app.operator_token, &path, &credit).is(201);
    let session = json!({"agent_id": app.agent_id, "session_id": "ada:1"});
    app.post(&app.account_key, "/v2/sessions", &session).is(201);
    let mut watch = Watch::new(&app);
    app.post(&app.operator_token, &path, &credit).is(200);
    app.post(&app.account_key, "/v2/sessions", &session).is(200);
    app.post(&app.operator_token, &path, &json!({"amount": "2.00", "external_ref": "payment-1"})).is(422);
    app.post(&app.account_key, "/v2/agents", &json!({"name": "x", "temperature": 9})).is(400);
    app.patch(&app.account_key, "/v2/agents/ag_none", &json!({"name": "x"})).is(404);
    app.delete(&app.account_key, "/v2/webhooks/wh_none").is(404);
    app.delete(&app.account_key, "/v2/account/providers/none").is(404);
    app.patch(&app.operator_token, "/admin/accounts/acct_none", &json!({"status": "suspended"})).is(404);
    app.post(&app.agent_key, "/v2/agents", &json!({"name": "x"})).is(403);
    let prices = json!({"prices": [
        {"model": "a", "input": "1", "output": "1", "effective_from": "2040-01-01T00:00:00Z"},
        {"model": "a", "input": "2", "output": "2", "effective_from": "2040-01-01T00:00:00Z"},
    ]});
    app.post(&app.operator_token, "/admin/prices", &prices).is(400);
    assert_eq!(watch.added(), Vec::<Value>::new());
    app.finish();
}

#[test]
fn a_change_that_cannot_be_recorded_is_not_made() {
    let app = App::start();
    let file = app.data().join("switchboard.db");
    let mut conn = SqliteConnection::establish(file.to_str().expect("a path of text")).expect("the database");
    diesel::sql_query("PRAGMA busy_timeout = 10000").execute(&mut conn).expect("a setting");
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON audit_record WHEN NEW.action <> 'account.credit' \
                  BEGIN SELECT RAISE(ABORT, 'no record today'); END";
    diesel::sql_query(refuse).execute(&mut conn).expect("a trigger");
    let body = json!({"name": "Clerk", "model": crate::app::MODEL});
    assert!(app.post(&app.account_key, "/v2/agents", &body).status >= 500);
    assert!(app.delete(&app.account_key, &format!("/v2/agents/{}", app.agent_id)).status >= 500);
    let adjust = json!({"amount": "1.00", "note": "x"});
    let path = format!("/admin/accounts/{}/adjust", app.account_id);
    assert!(app.post(&app.operator_token, &path, &adjust).status >= 500);
    let agents = app.get(&app.account_key, "/v2/agents").ok();
    assert_eq!((agents["total"].as_i64(), &agents["agents"][0]["id"]), (Some(1), &json!(app.agent_id)));
    assert_eq!(app.transactions().len(), 1);
    diesel::sql_query("DROP TRIGGER refuse").execute(&mut conn).expect("no trigger");
    app.post(&app.account_key, "/v2/agents", &body).is(201);
    app.finish();
}

#[test]
fn records_are_neither_changed_nor_deleted() {
    let app = App::start();
    let file = app.data().join("switchboard.db");
    let mut conn = SqliteConnection::establish(file.to_str().expect("a path of text")).expect("the database");
    for statement in ["UPDATE audit_record SET actor_kind = 'server'", "DELETE FROM audit_record"] {
        let refused = diesel::sql_query(statement).execute(&mut conn).expect_err("append-only");
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
    app.finish();
}

#[test]
fn an_account_reads_its_own_records_alone_and_nothing_of_the_operator_s() {
    let app = App::start();
    let (other, other_key) = app.account("1.00");
    let agent = json!({"name": "Theirs", "model": crate::app::MODEL});
    let agent = app.post(&other_key, "/v2/agents", &agent).is(201).json()["id"].clone();
    let limits = json!({"limits": {"requests_per_minute": 7}});
    app.patch(&app.operator_token, &format!("/admin/accounts/{other}"), &limits).is(200);
    let own = app.get(&other_key, "/v2/account/audit-log").ok();
    let seen: Vec<_> = own["records"].as_array().expect("records").iter().map(|one| &one["action"]).collect();
    assert_eq!(seen, ["account.update", "agent.create", "account.create"]);
    for record in own["records"].as_array().expect("records") {
        assert_eq!(record["account_id"], other.as_str());
        let by_operator = record["actor"]["kind"] == "operator";
        assert_eq!(record["actor"]["key_id"].is_null(), by_operator, "{record}");
        assert_eq!(record["remote_address"].is_null(), by_operator, "{record}");
    }
    assert_eq!(own["records"][0]["after"]["limits"]["requests_per_minute"], 7);
    let demo = app.get(&app.account_key, "/v2/account/audit-log").ok().to_string();
    assert!(!demo.contains(&other) && !demo.contains(agent.as_str().expect("an id")), "{demo}");
    let reader = json!({"name": "reads", "scopes": ["usage:read", "sessions:read", "chat"]});
    let reader = app.post(&app.account_key, "/v2/account/api-keys", &reader).is(201).json();
    let narrow = reader["key"].as_str().expect("a key");
    app.get(narrow, "/v2/account/audit-log").refused(403, "permission_error", "key_scope");
    app.get(&app.account_key, "/admin/audit-log").refused(403, "permission_error", "key_scope");
    app.finish();
}

#[test]
fn records_are_found_by_object_action_time_and_account_page_by_page() {
    let app = App::start();
    let (other, _) = app.account("1.00");
    let (agent, _) = app.agent(json!({}));
    for number in 0..4 {
        let body = json!({"name": format!("name {number}")});
        app.patch(&app.account_key, &format!("/v2/agents/{agent}"), &body).is(200);
    }
    let find = |query: &str| app.get(&app.operator_token, &format!("/admin/audit-log?{query}")).ok();
    let count = |query: &str| find(query)["records"].as_array().expect("records").len();
    assert_eq!(count(&format!("object={agent}")), 5);
    assert_eq!(count(&format!("object={agent}&action=agent.update")), 4);
    assert_eq!(count("object=price"), 1);
    assert_eq!(count(&format!("account={other}")), 1);
    assert_eq!(count("until=2020-01-01"), 0);
    assert_eq!(count("since=2020-01-01&object=agent"), 6);
    assert_eq!(count("since=2099-01-01"), 0);
    let first = find(&format!("object={agent}&limit=2"));
    assert_eq!(
        (first["has_more"].as_bool(), &first["records"][0]["after"]["name"]),
        (Some(true), &json!("name 3"))
    );
    let last = &first["records"][1]["id"];
    let second = find(&format!("object={agent}&limit=3&after={last}"));
    assert_eq!(
        (second["has_more"].as_bool(), &second["records"][2]["action"]),
        (Some(false), &json!("agent.create"))
    );
    for wrong in ["action=agent.paint", "since=soon", "limit=0", "after=x"] {
        app.get(&app.operator_token, &format!("/admin/audit-log?{wrong}")).is(400);
    }
    app.finish();
}

#[test]
fn what_the_server_does_by_itself_is_recorded_as_its_own() {
    let mut app = Setup::default().start();
    let actions = |app: &App| -> Vec<String> {
        let own = records(app).into_iter().filter(|record| record["actor"]["kind"] == "server");
        own.map(|record| record["action"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let first = ["key.create", "key.create", "agent.create", "account.create", "price.create"];
    assert_eq!(actions(&app), first);
    app.terminate();
    assert_eq!(app.wait_for_exit().code(), Some(0));
    app.add_argument("--new-operator-token");
    app.start_again();
    app.operator_token =
        std::fs::read_to_string(app.data().join("operator.token")).expect("the token").trim().to_owned();
    assert_eq!(actions(&app)[..2], ["key.create", "key.revoke"]);
    app.finish();
}

#[test]
fn the_command_line_shows_the_log_and_what_it_did_stands_in_it() {
    let app = App::start();
    let run = |words: &[&str]| {
        let mut command = binary();
        command.args(words).arg("--url").arg(format!("http://{}", app.addr)).arg("--data").arg(app.data());
        let done = command.output().expect("the command line");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    run(&["agent", "update", &app.agent_id, "--name", "Clerk"]);
    let own = run(&["audit", "--object", &app.agent_id]);
    let line = own.lines().nth(1).expect("a record");
    assert!(line.contains("agent.update") && line.contains("name"), "{own}");
    let all = run(&["audit", "--all", "--action", "price.create"]);
    assert!(all.contains("price.create") && all.contains("server"), "{all}");
    app.finish();
}
