//! Addresses that try keys, and accounts that crowd the server.

use serde_json::json;

use crate::app::Setup;
use crate::client::Stream;
use crate::script::Reply;

/// A key of the right form that nobody has.
pub fn stranger(prefix: &str, at: usize) -> String {
    let front = format!("{prefix}{at:034}");
    let mut sum = crc32fast::hash(front.as_bytes());
    let mut digits = [0_u8; 6];
    let all = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for digit in digits.iter_mut().rev() {
        *digit = all[(sum % 62) as usize];
        sum /= 62;
    }
    front + std::str::from_utf8(&digits).expect("letters")
}

#[test]
fn an_address_that_comes_with_wrong_keys_again_and_again_has_to_wait() {
    let app = Setup::default().environment("SWITCHBOARD_FAILED_LOGINS_PER_MINUTE", "4").start();
    let models = |key: &str| app.get(key, "/v1/models");
    models(&app.account_key).is(200);
    app.verify_ledger();
    let fresh = app.new_key(&app.account_key, &app.agent_id, json!({"name": "fresh"}));
    for at in 0..2 {
        models(&stranger("sk_", at)).refused(401, "invalid_request_error", "invalid_api_key");
        models("sk_nonsense").refused(401, "invalid_request_error", "invalid_api_key");
    }
    for key in [stranger("sk_", 7), "sk_nonsense".to_owned(), String::new()] {
        let refused = models(&key);
        refused.refused(429, "requests", "rate_limit_exceeded");
        assert!((1..=15).contains(&refused.headers.number("retry-after")), "{}", refused.text());
    }
    models(&app.account_key).is(200);
    let fresh = fresh["key"].as_str().expect("a secret");
    models(fresh).refused(429, "requests", "rate_limit_exceeded");
    app.finish();
}

#[test]
fn without_a_limit_wrong_keys_are_just_wrong() {
    let app = Setup::default().environment("SWITCHBOARD_FAILED_LOGINS_PER_MINUTE", "0").start();
    for at in 0..200 {
        assert_eq!(app.get(&stranger("sk_", at), "/v1/models").status, 401);
    }
    app.finish();
}

#[test]
fn when_places_run_short_an_account_has_no_more_than_its_share() {
    let app = Setup::default().environment("SWITCHBOARD_MAX_TURNS", "40").start();
    let gate = app.upstream.gate();
    app.upstream.always(Reply::says(&["Hel", "lo"]).pause_after(1, &gate));
    let agent_of = |key: &str| app.agent_of(key, json!({}));
    let greedy = app.account("5.00").1;
    let others: Vec<String> = (0..3).map(|_| app.account("5.00").1).collect();
    let start = |(agent, key): &(String, String), most: usize| -> Vec<Stream> {
        let messages = json!([{"role": "user", "content": "Hello"}]);
        let body = json!({"model": agent, "messages": messages, "stream": true, "max_tokens": 5});
        let call = app.call("POST", "/v1/chat/completions").key(key).json(&body);
        (0..most).map(|_| call.open()).take_while(|stream| stream.status == 200).collect()
    };
    let (greedy, others): (_, Vec<_>) = (agent_of(&greedy), others.iter().map(|key| agent_of(key)).collect());
    let mut running = start(&greedy, 23);
    assert_eq!(running.len(), 23, "nobody else is there");
    for other in &others {
        let own = start(other, 3);
        assert_eq!(own.len(), 3);
        running.extend(own);
    }
    // 32 of 40 places are used by four accounts: each may have 20, and the first one has 23.
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let body = json!({"model": greedy.0, "messages": messages});
    let refused = app.call("POST", "/v1/chat/completions").key(&greedy.1).json(&body).send();
    refused.refused(429, "concurrency", "rate_limit_exceeded");
    assert_eq!(refused.headers.number("retry-after"), 1);
    let own = start(&others[0], 40);
    assert_eq!(own.len(), 8, "all that is left");
    running.extend(own);
    gate.open();
    for stream in &mut running {
        assert!(stream.rest().iter().any(|event| event.is_done()));
    }
    app.upstream.always(Reply::says(&["Hello"]));
    app.call("POST", "/v1/chat/completions").key(&greedy.1).json(&body).send().is(200);
    app.finish();
}
