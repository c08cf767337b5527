//! A chunk from the provider's bytes to the client's, through everything but the sockets.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use actix_web::HttpResponse;
use actix_web::body::MessageBody;
use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use switchboard::conversation::chunk::Completer;
use switchboard::conversation::reply::{Chunk, Reply};
use switchboard::conversation::turn::{Dialect, Form};
use switchboard::http::sse::{ReadWith, Writer, respond};
use switchboard::provider::openai::error_event;
use switchboard::provider::sse::EventReader;
use switchboard::session::TurnEvent;
use switchboard::session::log::{Budget, EventId, Log, weight};
use switchboard::wire::openai::chat::Told;

use crate::Scenario;

/// Chunks of a stream.
const CHUNKS: usize = 200;
/// Streams that are counted.
const STREAMS: usize = 5;
/// What is read from a provider's socket at once, in bytes.
const READ: usize = 8 * 1024;
/// Some of the text that the chunks say.
const WORDS: [&str; 8] = [" the", " of", " reservation", ",", " \\\"x\\\"", ".\\n\\n", " größer", " is"];

/// What is counted.
pub fn scenarios() -> anyhow::Result<Vec<Scenario>> {
    let openai = Form { dialect: Dialect::OpenAi, include_usage: false, created: 1_700_000_000 };
    let with_usage = Form { dialect: Dialect::OpenAi, include_usage: true, created: 1_700_000_000 };
    let native = Form { dialect: Dialect::Native, include_usage: false, created: 1_700_000_000 };
    [
        ("chunk_openai", openai, text as fn(usize) -> String),
        ("chunk_openai_padded", with_usage, padded),
        ("chunk_openai_tool_call", openai, tool_call),
        ("chunk_native", native, text),
    ]
    .into_iter()
    .map(|(name, form, chunk)| {
        let reads = reads(chunk);
        let expected = pass(&reads, form)?;
        let work = move || {
            for _ in 0..STREAMS {
                ensure!(pass(&reads, form)? == expected, "a stream came out otherwise");
            }
            Ok(())
        };
        Ok(Scenario { name, units: STREAMS * CHUNKS, work: Box::new(work), check: None })
    })
    .collect()
}

fn text(at: usize) -> String {
    let word = WORDS[at % WORDS.len()];
    format!(
        r#"{{"id":"chatcmpl-5c3a","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini","system_fingerprint":"fp_44709d6fcb","choices":[{{"index":0,"delta":{{"content":"{word}"}},"logprobs":null,"finish_reason":null}}]}}"#
    )
}

/// As OpenAI sends them: with something that hides how long the text is.
fn padded(at: usize) -> String {
    let (word, padding) = (WORDS[at % WORDS.len()], &"xK3vQ9aZ1bC7"[at % 7..]);
    format!(
        r#"{{"id":"chatcmpl-5c3a","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini","service_tier":"default","system_fingerprint":"fp_44709d6fcb","choices":[{{"index":0,"delta":{{"content":"{word}"}},"logprobs":null,"finish_reason":null}}],"usage":null,"obfuscation":"{padding}"}}"#
    )
}

fn tool_call(at: usize) -> String {
    let call = match at {
        0 => r#""id":"call_1","type":"function","function":{"name":"look","arguments":""}"#.to_owned(),
        _ => format!(r#""function":{{"arguments":"{}"}}"#, WORDS[at % WORDS.len()]),
    };
    format!(
        r#"{{"id":"chatcmpl-5c3a","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini","choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,{call}}}]}},"logprobs":null,"finish_reason":null}}]}}"#
    )
}

/// The bytes of a stream as they are read.
fn reads(chunk: fn(usize) -> String) -> Vec<Bytes> {
    let events: Vec<String> = (0..CHUNKS).map(|at| format!("data: {}\n\n", chunk(at))).collect();
    let all = Bytes::from(events.concat());
    (0..all.len()).step_by(READ).map(|at| all.slice(at..all.len().min(at + READ))).collect()
}

/// Passes a stream on; answers how many bytes the client gets, and how many pieces they come in.
fn pass(reads: &[Bytes], form: Form) -> anyhow::Result<(usize, usize)> {
    let log = Log::new(Arc::new(Budget::new(64 * 1024 * 1024)));
    let reader = log.read().ok().context("a new log has a start")?;
    let told = Told {
        completion: "chatcmpl-00000000aaaaaaaaaaaaaaaa".into(),
        agent: "ag_00000000_0000".into(),
        session: "sess_00000000000000000000".into(),
        created: 1_700_000_000,
        money: false,
    };
    let writer = Writer::new(told, form, EventId::default());
    let mut body = respond(HttpResponse::Ok(), reader, writer, ReadWith::Own).into_body();
    let (mut events, mut completer, mut reply) =
        (EventReader::default(), Completer::default(), Reply::default());
    let mut sent = (0, 0);
    for read in reads {
        ensure!(events.push(read).is_ok(), "too large an event");
        while let Some(data) = events.next_event() {
            ensure!(&data[..] != b"[DONE]" && error_event(&data).is_none(), "it ends early");
            let chunk = completer.complete(data);
            ensure!(reply.absorb(&chunk)? == Chunk::Delta, "no part of the answer");
            let event = TurnEvent::Delta(chunk);
            ensure!(log.has_room(weight(&event)), "nobody reads");
            log.push(event);
        }
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(piece) = Pin::new(&mut body).poll_next(&mut context) {
            let Some(Ok(piece)) = piece else { bail!("the body ends early") };
            sent = (sent.0 + piece.len(), sent.1 + 1);
        }
    }
    Ok(sent)
}
