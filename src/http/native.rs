//! `POST /v1/agents/{agent_id}/chat`: one message in, one text out.

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde_json::json;

use crate::error::{Error, Invalid};
use crate::http::access::Authenticated;
use crate::http::error::ApiError;
use crate::http::openai::{Rooms, chat_headers, idempotency, into_turn, whole};
use crate::http::{body, sse};
use crate::json::{Fields, ObjectWriter, Raw, is_unicode};
use crate::session::log::EventId;
use crate::wire::openai::chat::{ChatRequest, Told};
use crate::wire::openai::describe::{AgentReply, AgentUsage};

/// The call itself.
///
/// # Errors
/// Everything that can be refused before the first byte.
pub async fn chat(
    request: HttpRequest,
    caller: Authenticated,
    agent: web::Path<String>,
    payload: web::Payload,
    rooms: Rooms,
) -> Result<HttpResponse, ApiError> {
    let (caller, permit) = caller.chat(&request).await?;
    let money = caller.sees_money();
    let answered = async {
        let body = body::read(&request, payload, rooms.settings()).await?;
        let (completion, metadata) = as_completion(&body)?;
        let chat = ChatRequest::read(&completion)?;
        let agent = rooms.agent(&caller, Some(agent.into_inner())).await?;
        let stream = chat.stream;
        let (mut turn, _) = into_turn(&request, &caller, agent, chat)?;
        rooms.check(&turn).await?;
        let form = turn.form;
        turn.metadata = metadata;
        turn.idempotency = idempotency(&request, &body)?;
        let agent = turn.agent.id.clone();
        let running = rooms.sessions().run(turn, permit).await?;
        let told = Told {
            completion: running.completion.clone(),
            agent,
            session: running.session.clone(),
            created: form.created,
            money,
        };
        let mut answer = HttpResponse::Ok();
        chat_headers(&request, &running, &mut answer);
        if stream {
            let seen = EventId { again: running.replayed, ..EventId::default() };
            let writer = sse::Writer::new(told, form, seen);
            return Ok(sse::respond(answer, running.events, writer, sse::ReadWith::Own));
        }
        let ended = whole(running).await?;
        let usage = AgentUsage {
            input_tokens: ended.usage.prompt,
            output_tokens: ended.usage.output,
            total_tokens: ended.usage.total(),
            cost: money.then(|| ended.charged.to_string()),
        };
        Ok(answer.json(AgentReply {
            response: ended.content.clone(),
            session_id: told.session.to_string(),
            usage,
        }))
    };
    answered.await.map_err(|error: Error| ApiError::told(error, money))
}

/// The same request as a chat completion, and the client's own notes on it.
fn as_completion(body: &Bytes) -> Result<(Bytes, Option<Raw>), Error> {
    let mut fields = Fields::parse(body)
        .map_err(|cause| Invalid::json(format!("the body is not a JSON object: {cause}")))?;
    let message = fields.remove("message").filter(|message| !message.is_null());
    let message = message.ok_or_else(|| Invalid::missing("message"))?;
    let text: String = message.read().map_err(|_| Invalid::value("message", "expected a string"))?;
    if text.is_empty() {
        return Err(Invalid::value("message", "expected a text that is not empty").into());
    }
    let mut completion = ObjectWriter::with_capacity(body.len() + 64);
    completion.field("messages", Raw::of(&json!([{"role": "user", "content": text}])).bytes());
    for name in ["session_id", "stream"] {
        if let Some(value) = fields.remove(name) {
            completion.field(name, value.bytes());
        }
    }
    let metadata = fields.remove("metadata").filter(|metadata| !metadata.is_null());
    let is_object = |metadata: &Raw| Fields::parse(metadata.bytes()).is_ok() && is_unicode(metadata.bytes());
    if !metadata.as_ref().is_none_or(is_object) {
        return Err(Invalid::value("metadata", "expected an object").into());
    }
    match fields.iter().next() {
        Some((name, _)) => Err(body::unknown_field(name).into()),
        None => Ok((completion.finish(), metadata)),
    }
}
