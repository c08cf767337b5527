//! Answers that are only passed over against the same answers read with care: whatever comes, nobody can tell the
//! difference.

use super::*;
use crate::billing::money::Nanos;
use crate::conversation::message::Message;
use crate::conversation::reply::Reply;
use crate::json::carefully;
use crate::json::random::{Oddness, Random};
use crate::provider::openai::in_place_of_answer;

type Field = (String, String);

/// Some of these fields, mostly in their order.
fn fields(random: &mut Random, all: Vec<Field>, kept: usize) -> Vec<Field> {
    let mut fields: Vec<Field> = all.into_iter().filter(|_| random.chance(kept)).collect();
    if fields.len() > 1 && random.chance(30) {
        let (a, b) = (random.below(fields.len()), random.below(fields.len()));
        fields.swap(a, b);
    }
    fields
}

fn field(name: &str, value: impl Into<String>) -> Field {
    (name.to_owned(), value.into())
}

/// The usual value, or now and then any.
fn mostly(random: &mut Random, usual: impl Into<String>, how: Oddness) -> String {
    if random.chance(how.odd) { random.value(2, how) } else { usual.into() }
}

fn message(random: &mut Random, how: Oddness) -> String {
    let content = format!("\"{}\"", random.inside(how));
    let call = r#"[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"message\": 1}"}}]"#;
    let mut all = vec![
        field("role", mostly(random, "\"assistant\"", how)),
        field("content", if random.chance(15) { "null".to_owned() } else { mostly(random, content, how) }),
    ];
    for (name, chance) in [("refusal", 40), ("annotations", 20), ("reasoning_content", 20), ("x", 15)] {
        if random.chance(chance) {
            let usual = random.of(&["null", "[]", "\"No.\""]);
            all.push(field(name, mostly(random, usual, how)));
        }
    }
    if random.chance(20) {
        all.push(field("tool_calls", mostly(random, call, how)));
    }
    let all = fields(random, all, 92);
    random.object(&all, how)
}

fn choice(random: &mut Random, at: usize, how: Oddness) -> String {
    let message = message(random, how);
    let mut all = vec![
        field("index", mostly(random, at.to_string(), how)),
        field("message", mostly(random, message, how)),
    ];
    if random.chance(50) {
        all.push(field("logprobs", mostly(random, "null", how)));
    }
    let reason = random.of(&["\"stop\"", "\"length\"", "null"]);
    all.push(field("finish_reason", mostly(random, reason, how)));
    if random.chance(how.odd) {
        all.push(field("delta", random.value(2, how)));
    }
    let all = fields(random, all, 95);
    random.object(&all, how)
}

fn usage_object(random: &mut Random, how: Oddness) -> String {
    let mut all = vec![
        field("prompt_tokens", mostly(random, "41", how)),
        field("completion_tokens", mostly(random, "37", how)),
        field("total_tokens", mostly(random, "78", how)),
        field("prompt_tokens_details", mostly(random, r#"{"cached_tokens":3}"#, how)),
    ];
    for name in ["cost", "balance", "upstream_cost_usd", "cos", "x"] {
        if random.chance(10) {
            all.push(field(name, random.value(1, how)));
        }
    }
    let all = fields(random, all, 90);
    random.object(&all, how)
}

/// An answer as providers write them, and as they do not.
fn answer(random: &mut Random) -> Bytes {
    let how = Oddness::any(random);
    let count = *random.of(&[&1, &1, &1, &1, &1, &2, &3, &0]);
    let choices: Vec<String> = (0..count).map(|at| choice(random, at, how)).collect();
    let choices = random.array(&choices, how);
    let usage = usage_object(random, how);
    let created = random.of(&["1700000000", "1700000000", "0", "-5", "null", "1.5", "\"7\""]);
    let mut all = vec![
        field("id", mostly(random, "\"chatcmpl-5\"", how)),
        field("object", mostly(random, "\"chat.completion\"", how)),
        field("created", mostly(random, created, how)),
        field("model", mostly(random, "\"real\"", how)),
        field("choices", mostly(random, choices, how)),
        field("usage", mostly(random, usage, how)),
    ];
    for name in
        ["service_tier", "system_fingerprint", "content", "agent_id", "session_id", "error", "message"]
    {
        if random.chance(8) {
            all.push(field(name, random.value(2, how)));
        }
    }
    let all = fields(random, all, 93);
    let text = random.object(&all, how);
    if random.chance(8) { random.damaged(&text).into() } else { text.into() }
}

fn ended(whole: &Bytes, reply: Option<&Reply>, usage_raw: Option<Raw>) -> Ended {
    Ended {
        tail: vec![whole.clone()],
        outline: None,
        plain: true,
        usage_chunk: None,
        usage: reply.and_then(Reply::usage).unwrap_or_default(),
        usage_raw,
        charged: Nanos(1_234_567),
        balance: Nanos(-5),
        finish_reason: reply.and_then(Reply::finish_reason).map(str::to_owned),
        content: reply.and_then(Reply::content).map(str::to_owned),
        ttft_ms: 1,
        duration_ms: 2,
    }
}

fn told(money: bool) -> Told {
    Told {
        completion: "chatcmpl-1".into(),
        agent: "ag_1".into(),
        session: "a \"session\"".into(),
        created: 9,
        money,
    }
}

/// Everything that anybody can see of an answer.
fn seen(text: &Bytes) -> Vec<String> {
    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut reply = Reply::whole(text);
    let outline = reply.as_mut().ok().and_then(Reply::take_outline);
    let mut seen = vec![format!("{:?}", in_place_of_answer(text))];
    match &reply {
        Ok(reply) => {
            let stored = Message::stored(reply.message());
            seen.push(format!("{:?}", (reply.message(), reply.usage(), reply.usage_raw(), reply.content())));
            seen.push(format!("{:?}", (reply.finish_reason(), reply.finished(), reply.received())));
            seen.push(format!("{:?}", (reply.estimated_output(), reply.output_floor(), reply.kept_bytes())));
            seen.push(format!("{:?}", (reply.as_completion(), &stored, stored.fingerprint())));
            seen.push(format!("{:?}", stored.for_prompt()));
        }
        Err(cause) => seen.push(cause.to_string()),
    }
    let reply = reply.as_ref().ok();
    // What a client is told of usage is not always what stands in the answer.
    let other = Raw::parse(text.clone()).ok();
    let told_usage = reply.and_then(Reply::usage_raw).cloned();
    for (money, usage) in [(true, told_usage.clone()), (false, told_usage), (true, None), (false, other)] {
        let mut ended = ended(text, reply, usage);
        seen.push(whole(&told(money), &ended).map_or_else(String::new, |answer| shown(&answer)));
        ended.outline = outline.clone();
        seen.push(whole(&told(money), &ended).map_or_else(String::new, |answer| shown(&answer)));
        seen.push(format!("{:?}", super::usage(&told(money), &ended)));
    }
    seen
}

#[test]
fn whatever_a_provider_answers_nobody_can_tell_whether_it_was_read_with_care() {
    let (mut spliced_answers, mut refused) = (0, 0);
    for seed in 0..3_000 {
        let text = answer(&mut Random(seed));
        let (got, careful) = (seen(&text), carefully::run(|| seen(&text)));
        assert_eq!(got.len(), careful.len(), "seed {seed}");
        for (got, careful) in got.iter().zip(&careful) {
            assert_eq!(got, careful, "seed {seed}: {}", text.escape_ascii());
        }
        let error = Fields::parse(&text)
            .ok()
            .and_then(|fields| fields.given("error").filter(|_| fields.given("choices").is_none()).cloned());
        assert_eq!(in_place_of_answer(&text), error, "seed {seed}");
        spliced_answers += u32::from(spliced(&told(true), &ended(&text, None, None), &text).is_some());
        refused += u32::from(Reply::whole(&text).is_err());
    }
    assert!(spliced_answers > 700 && refused > 100, "{spliced_answers} spliced, {refused} refused");
}

/// Written out, for who reads this: what is ours is put in, what is missing is added, the rest is untouched.
#[test]
fn an_answer_gets_what_is_ours_and_the_keys_that_its_provider_left_out() {
    let text =
        r#"{ "id" : "x", "choices": [ {"message": {"content":"a \"b\""} } ], "created":5, "v":{ "a": 1.0 }}"#;
    let text = Bytes::from_static(text.as_bytes());
    let reply = Reply::whole(&text).expect("an answer");
    let usage = Raw::trusted(&br#"{"prompt_tokens":1,"cost":7}"#[..]);
    let written = whole(&told(true), &ended(&text, Some(&reply), Some(usage))).expect("an object");
    let expected = concat!(
        r#"{"id":"chatcmpl-1","choices":[{"message":{"content":"a \"b\"","role":"assistant","refusal":null},"#,
        r#""index":0,"logprobs":null,"finish_reason":null}],"created":5,"v":{ "a": 1.0 },"#,
        r#""object":"chat.completion","model":"ag_1","usage":{"prompt_tokens":1,"completion_tokens":0,"#,
        r#""total_tokens":0,"cost":"0.001234567","balance":"-0.000000005"},"agent_id":"ag_1","#,
        r#""session_id":"a \"session\"","content":"a \"b\""}"#
    );
    assert_eq!(std::str::from_utf8(&written).expect("text"), expected);
}
