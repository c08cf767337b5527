//! `/v2/sessions/export` and `/v2/sessions/{id}/export`: everything that was said, a line of JSON a message.
//!
//! Read page by page as the client takes it, so that its memory is bounded whatever the length.

use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use serde_json::json;

use crate::error::Error;
use crate::http::access::SessionReader;
use crate::http::error::ApiError;
use crate::http::manage::sessions::{chosen_agent, damaged, find};
use crate::http::query::Query;
use crate::json::Raw;
use crate::store::Store;
use crate::store::export::{Cursor, Part};
use crate::wire::native::messages::{ExportedMessage, message_id};

type Answer = Result<HttpResponse, ApiError>;

struct Export {
    store: Store,
    money: bool,
    cursor: Cursor,
}

/// `GET /v2/sessions/{id}/export`.
pub async fn one(
    reader: SessionReader,
    id: web::Path<String>,
    query: Query,
    store: web::Data<Store>,
) -> Answer {
    let row = find(&reader, &id, &query, &store).await?;
    let cursor = Cursor::of(&row);
    respond(Export { store: store.get_ref().clone(), money: reader.sees_money(), cursor }).await
}

/// `GET /v2/sessions/export`: all sessions of an account, or of an agent, oldest first.
pub async fn all(reader: SessionReader, query: Query, store: web::Data<Store>) -> Answer {
    let (owner, agent) = (reader.account.to_string(), chosen_agent(&reader, &query)?);
    let cursor = Cursor::of_all(owner, agent);
    respond(Export { store: store.get_ref().clone(), money: reader.sees_money(), cursor }).await
}

/// The first page is made before the status is sent, so that what fails at once is a proper answer. What fails later
/// cuts the answer off, which the client sees.
async fn respond(mut export: Export) -> Answer {
    let first = export.next().await?;
    let pages = stream::try_unfold((first, export), |(page, mut export)| async move {
        let Some(page) = page else { return Ok(None) };
        Ok::<_, Error>(Some((page, (export.next().await?, export))))
    });
    let told = pages.inspect_err(|cause| tracing::error!(?cause, "an export broke off"));
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(told))
}

impl Export {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let mut cursor = self.cursor.clone();
            let (parts, cursor) = self.store.read(move |conn| Ok((cursor.read(conn)?, cursor))).await?;
            self.cursor = cursor;
            let mut page = Vec::new();
            for part in &parts {
                self.write(&mut page, part)?;
            }
            if !page.is_empty() {
                return Ok(Some(page.into()));
            }
            if parts.is_empty() {
                return Ok(None);
            }
        }
    }

    fn write(&self, page: &mut Vec<u8>, (row, messages): &Part) -> Result<(), Error> {
        for message in messages {
            match ExportedMessage::new(row, message, self.money) {
                Ok(line) => page.extend_from_slice(Raw::of(&line).bytes()),
                // One session by itself fails; among others it says what is missing.
                Err(cause) if self.cursor.is_of_one() => return Err(damaged(row.id, &cause)),
                Err(cause) => {
                    tracing::error!(session = row.id, %cause, "a stored session is damaged");
                    let id = message_id(message.seq);
                    let line =
                        json!({"session_id": row.name, "agent_id": row.agent_id, "id": id, "damaged": true});
                    page.extend_from_slice(line.to_string().as_bytes());
                }
            }
            page.push(b'\n');
        }
        Ok(())
    }
}
