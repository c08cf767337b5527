//! A write and what has to follow it in memory are one thing, whether or not the client waits for the answer.
//!
//! When a client leaves, the future of its request is dropped where it waits. A write that is queued is committed all
//! the same; what the handler would have done next would be left out until a restart.

use actix_web::rt;

use crate::error::Error;

/// Runs `work` to its end, even if the request that waits for it is given up.
///
/// # Errors
/// What the work itself answers; [`Error::Internal`] when it panics.
pub async fn whole<T: 'static>(work: impl Future<Output = Result<T, Error>> + 'static) -> Result<T, Error> {
    rt::spawn(work).await.map_err(|cause| Error::Internal(format!("work without an end: {cause}")))?
}
