//! The names of headers that are ours, or OpenAI's.

use actix_web::http::header::HeaderName;

macro_rules! names {
    ($($name:ident = $text:literal;)*) => {$(
        #[doc = concat!("`", $text, "`")]
        pub const $name: HeaderName = HeaderName::from_static($text);
    )*};
}

names! {
    CLIENT_REQUEST_ID = "x-client-request-id";
    COMPLETION_ID = "x-completion-id";
    CONTEXT_DROPPED = "x-context-dropped";
    HISTORY_MATCHED = "x-history-matched";
    IDEMPOTENCY_KEY = "idempotency-key";
    IDEMPOTENT_REPLAYED = "idempotent-replayed";
    LIMIT = "x-ratelimit-limit";
    LIMIT_REQUESTS = "x-ratelimit-limit-requests";
    LIMIT_TOKENS = "x-ratelimit-limit-tokens";
    MAX_COMPLETION_TOKENS = "x-max-completion-tokens";
    ON_DISCONNECT = "x-on-disconnect";
    PROCESSING_MS = "openai-processing-ms";
    REMAINING = "x-ratelimit-remaining";
    REMAINING_REQUESTS = "x-ratelimit-remaining-requests";
    REMAINING_TOKENS = "x-ratelimit-remaining-tokens";
    REQUEST_ID = "x-request-id";
    RESET = "x-ratelimit-reset";
    RESET_REQUESTS = "x-ratelimit-reset-requests";
    RESET_TOKENS = "x-ratelimit-reset-tokens";
    RETRY_COUNT = "x-stainless-retry-count";
    SERVED_MODEL = "x-served-model";
    SESSION_CONFLICT = "x-session-conflict";
    SESSION_ID = "x-session-id";
}
