//! `GET /docs`: a page that shows `/openapi.json`. It is all in the program and asks no other server.

use actix_web::HttpResponse;
use actix_web::http::header;

const PAGE: &str = include_str!("docs/page.html");
const STYLE: &str = include_str!("docs/page.css");
const SCRIPT: &str = include_str!("docs/page.js");

/// The call itself.
pub async fn show() -> HttpResponse {
    let page = PAGE.replace("/*style*/", STYLE).replace("/*script*/", SCRIPT);
    HttpResponse::Ok()
        .insert_header((header::CONTENT_SECURITY_POLICY, policy()))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::X_FRAME_OPTIONS, "DENY"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .content_type("text/html; charset=utf-8")
        .body(page)
}

/// Only the page's own style and script, by their digests; requests to this server alone.
fn policy() -> String {
    use base64::Engine as _;
    use sha2::{Digest as _, Sha256};
    let digest = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest(STYLE),
        digest(SCRIPT)
    )
}
