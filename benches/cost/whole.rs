//! A plain call: its request, what the provider is asked, the answer as it is read, stored and written.

use std::hint::black_box;

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use serde_json::json;
use switchboard::billing::money::Nanos;
use switchboard::conversation::history::History;
use switchboard::conversation::message::Message;
use switchboard::conversation::reply::Reply;
use switchboard::conversation::tokens::Ratios;
use switchboard::conversation::turn::{NamedBy, Turn};
use switchboard::json::Raw;
use switchboard::provider::openai::{in_place_of_answer, request_body};
use switchboard::provider::{Call, OutputField};
use switchboard::session::Ended;
use switchboard::session::prompt::Prompt;
use switchboard::wire::openai::answer;
use switchboard::wire::openai::chat::{ChatRequest, Told};

use crate::Scenario;
use crate::plain::{self, MODEL, scenario};

/// What a provider answers that tells all that it may.
const ANSWER: &str = r#"{"id":"chatcmpl-5c3a","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"A reservation is an agreement to keep something for somebody.\n\nIt is *held* until it is used, or given back: \"held\" means that nobody else can have it.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":41,"completion_tokens":37,"total_tokens":78,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_44709d6fcb"}"#;
/// What one answers that leaves out what it can.
const BARE: &str = r#"{"id": "x", "object": "chat.completion", "created": 1700000000, "model": "local", "choices": [{"index": 0, "message": {"role": "assistant", "content": "It is an agreement."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 41, "completion_tokens": 5, "total_tokens": 46}}"#;

/// What is counted.
pub fn scenarios() -> anyhow::Result<Vec<Scenario>> {
    Ok(vec![request()?, prompt()?, answer("answer_openai", ANSWER), answer("answer_bare", BARE), opening()?])
}

fn request() -> anyhow::Result<Scenario> {
    let body = json!({"model": "ag_bench", "messages": plain::conversation(0), "temperature": 0.7,
        "max_tokens": 500, "user": "somebody"});
    let (body, agent) = (Bytes::from(serde_json::to_vec(&body)?), plain::agent());
    Ok(scenario("plain_request", move || {
        let request = ChatRequest::read(&body)?.with_defaults(&agent)?;
        ensure!(request.messages.len() == 1, "it was read otherwise");
        Ok(())
    }))
}

fn turn() -> anyhow::Result<Turn> {
    let mut turn = plain::turn()?;
    (turn.stream, turn.named_by) = (false, NamedBy::Nobody);
    Ok(turn)
}

fn prompt() -> anyhow::Result<Scenario> {
    let (turn, history, ratios) = (turn()?, History::default(), Ratios::default());
    Ok(scenario("plain_prompt", move || {
        let prompt = Prompt::assemble(&turn, &history, ratios.of(MODEL));
        let call = Call {
            model: MODEL.into(),
            messages: prompt.messages.clone(),
            newer_names: prompt.newer_names(),
            fields: turn.fields.clone(),
            max_output: 500,
            stream: false,
            own: None,
        };
        black_box(request_body(&call, OutputField::MaxTokens));
        Ok(())
    }))
}

fn answer(name: &'static str, text: &'static str) -> Scenario {
    let told = Told {
        completion: "chatcmpl-00000000aaaaaaaaaaaaaaaa".into(),
        agent: "ag_00000000_0000".into(),
        session: "sess_00000000000000000000".into(),
        created: 1_700_000_000,
        money: true,
    };
    let bytes = Bytes::from_static(text.as_bytes());
    scenario(name, move || {
        ensure!(in_place_of_answer(&bytes).is_none(), "it is an error");
        let mut reply = Reply::whole(&bytes)?;
        black_box(Message::stored(reply.message()));
        let ended = Ended {
            tail: vec![bytes.clone()],
            outline: reply.take_outline(),
            plain: true,
            usage_chunk: None,
            usage: reply.usage().ok_or_else(|| anyhow!("usage was told"))?,
            usage_raw: reply.usage_raw().cloned(),
            charged: Nanos(1_234_567),
            balance: Nanos(987_654_321),
            finish_reason: reply.finish_reason().map(str::to_owned),
            content: reply.content().map(str::to_owned),
            ttft_ms: 0,
            duration_ms: 0,
        };
        let written = answer::whole(&told, &ended).ok_or_else(|| anyhow!("it is no answer"))?;
        ensure!(written.len() > bytes.len(), "something is missing");
        Ok(())
    })
}

fn opening() -> anyhow::Result<Scenario> {
    let turn = turn()?;
    let prompt = Prompt::assemble(&turn, &History::default(), Ratios::default().of(MODEL));
    let reply: Raw = Reply::whole(&Bytes::from_static(ANSWER.as_bytes()))?.message();
    Ok(scenario("opening", move || {
        let opening = prompt.opening(&turn, &reply).ok_or_else(|| anyhow!("it is the first turn"))?;
        ensure!(opening.chains.len() == 2, "it was read otherwise");
        Ok(())
    }))
}
