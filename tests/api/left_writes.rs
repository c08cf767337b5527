//! Clients that leave while what they asked for is being written: it holds at once all the same, with no restart.

use std::io::Read as _;
use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};

use crate::app::{App, eventually};
use crate::client::{Call, PATIENCE};
use crate::database::{WriteLock, number};
use crate::metrics::{read, value};
use crate::own_providers::setup;
use crate::resume::{completion_of, watching};

/// The most calls that it takes until one waits behind another.
const MOST: usize = 20;
const WAITING: &str = "switchboard_writer_queue_length{lane=\"open\"}";

/// Sends calls, one client each, while nothing can be written, until the work of one of them waits behind that of
/// another. Then all clients leave, and when the server has noticed that, writing goes on.
fn leave_while_it_is_written(app: &App, call: impl Fn(usize) -> Call) {
    // The operator's token is known before the database is locked.
    read(app);
    let lock = WriteLock::take(app);
    let mut clients: Vec<TcpStream> = Vec::new();
    while value(&read(app), WAITING) == Some(0.0) {
        assert!(clients.len() < MOST, "nothing waits to be written");
        clients.push(call(clients.len()).connect().expect("a connection"));
    }
    for mut client in clients {
        client.set_read_timeout(Some(PATIENCE)).expect("a time");
        client.shutdown(Shutdown::Write).expect("a client can leave");
        // The server closes the connection when it has given the request up.
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty(), "answered before the commit: {}", String::from_utf8_lossy(&answer));
    }
    drop(lock);
    // This write comes after whatever was queued before it.
    app.account("1");
}

#[test]
fn a_price_whose_sender_has_left_is_used() {
    let app = App::start();
    leave_while_it_is_written(&app, |at| {
        let price = json!({"model": format!("left-{at}"), "input": "1", "output": "1"});
        app.call("POST", "/admin/prices").key(&app.operator_token).json(&price)
    });
    eventually("each price that is stored is listed", || {
        let stored = number(&app, "SELECT COUNT(*) FROM price WHERE model LIKE 'left-%'");
        assert!(stored > 0, "nothing was written");
        let list = app.get(&app.operator_token, "/admin/prices").ok();
        let left = |price: &&Value| price["model"].as_str().is_some_and(|model| model.starts_with("left-"));
        let listed = list["prices"].as_array().expect("a list").iter().filter(left).count();
        (i64::try_from(listed) == Ok(stored)).then_some(())
    });
    app.finish();
}

#[test]
fn a_key_whose_revoker_has_left_is_refused() {
    let app = App::start();
    let keys: Vec<Value> =
        (0..MOST).map(|_| app.new_key(&app.account_key, &app.agent_id, json!({}))).collect();
    let ask = |key: &Value| app.get(key["key"].as_str().expect("a key"), "/v1/models").status;
    assert!(keys.iter().all(|key| ask(key) == 200));
    leave_while_it_is_written(&app, |at| {
        let id = keys[at]["id"].as_str().expect("an id");
        app.call("DELETE", &format!("/v2/agents/{}/api-keys/{id}", app.agent_id)).key(&app.account_key)
    });
    eventually("each key that is revoked is refused", || {
        let revoked = number(&app, "SELECT COUNT(*) FROM api_key WHERE revoked_at IS NOT NULL");
        assert!(revoked > 0, "nothing was written");
        let refused = keys.iter().filter(|key| ask(key) == 401).count();
        (i64::try_from(refused) == Ok(revoked)).then_some(())
    });
    app.finish();
}

#[test]
fn a_first_own_key_whose_sender_has_left_is_used() {
    let app = setup().start();
    app.say("Hello", json!({}));
    leave_while_it_is_written(&app, |_| {
        let body = json!({"api_key": "tenant-key-of-their-own-9417"});
        app.call("PUT", "/v2/account/providers/provider").key(&app.account_key).json(&body)
    });
    assert_eq!(number(&app, "SELECT COUNT(*) FROM account_provider"), 1);
    // It has no price yet: that is how its use shows.
    eventually("the key is used", || (app.chat(&app.saying("Hello", json!({}))).status == 400).then_some(()));
    app.finish();
}

#[test]
fn the_stream_of_a_session_whose_deleter_has_left_is_gone() {
    let app = App::start();
    let completions: Vec<String> = (0..MOST)
        .map(|at| {
            let mut stream = app.stream("Hello", json!({"session_id": format!("left-{at}")}));
            stream.rest();
            completion_of(&stream)
        })
        .collect();
    leave_while_it_is_written(&app, |at| {
        app.call("DELETE", &format!("/v2/sessions/left-{at}")).key(&app.account_key)
    });
    eventually("each stream of a session that is deleted is gone", || {
        let left = number(&app, "SELECT COUNT(*) FROM session");
        assert!(usize::try_from(left).is_ok_and(|left| left < MOST), "nothing was written");
        let is_there = |id: &&String| watching(&app, &app.account_key, id, None).send().status == 200;
        let there = completions.iter().filter(is_there).count();
        (i64::try_from(there) == Ok(left)).then_some(())
    });
    app.finish();
}
