//! Makes one call with async-openai and tells as JSON what came of it, retries counted.
//!
//! Everything passes through the crate's own types on its way out and back, so what they do not take is an error.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use async_openai::middleware::retry::OpenAIRetryLayer;
use async_openai::types::chat::CreateChatCompletionRequest;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::Layer;

/// What to do, on the standard input.
#[derive(Deserialize)]
struct Task {
    base_url: String,
    api_key: String,
    session: Option<String>,
    max_retries: usize,
    /// The request of a chat; the models are listed if there is none.
    request: Option<CreateChatCompletionRequest>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let task: Task = serde_json::from_str(&text)?;
    let requests = Arc::new(AtomicUsize::new(0));
    let client = connect(&task, requests.clone())?;
    let mut told = match task.request {
        None => client.models().list().await.map(|models| json!({"models": models})),
        Some(request) if request.stream == Some(true) => streamed(&client, request).await,
        Some(request) => client.chat().create(request).await.map(|answer| json!({"answer": answer})),
    }
    .unwrap_or_else(|error| json!({"error": told(error)}));
    told["requests"] = requests.load(Ordering::Relaxed).into();
    println!("{told}");
    Ok(())
}

fn connect(task: &Task, requests: Arc<AtomicUsize>) -> Result<Client<OpenAIConfig>, OpenAIError> {
    let mut config = OpenAIConfig::new().with_api_base(&task.base_url).with_api_key(&task.api_key);
    if let Some(session) = &task.session {
        config = config.with_header("X-Session-Id", session.as_str())?;
    }
    let http = reqwest::Client::new();
    let counting = tower::service_fn(move |factory: HttpRequestFactory| {
        let (http, requests) = (http.clone(), requests.clone());
        async move {
            requests.fetch_add(1, Ordering::Relaxed);
            Ok::<_, OpenAIError>(http.execute(factory.build().await?).await?)
        }
    });
    let service = OpenAIRetryLayer::new(task.max_retries).layer(counting);
    Ok(Client::with_config(config).with_http_service(service))
}

/// The chunks that came, and the error that ended them, if one did.
async fn streamed(
    client: &Client<OpenAIConfig>,
    request: CreateChatCompletionRequest,
) -> Result<Value, OpenAIError> {
    let mut stream = client.chat().create_stream(request).await?;
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => chunks.push(json!(chunk)),
            Err(error) => return Ok(json!({"chunks": chunks, "error": told(error)})),
        }
    }
    Ok(json!({ "chunks": chunks }))
}

fn told(error: OpenAIError) -> Value {
    match error {
        OpenAIError::ApiError(answer) => {
            json!({"status": answer.status_code.as_u16(), "error": answer.api_error})
        }
        other => json!({"text": other.to_string()}),
    }
}
