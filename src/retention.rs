//! Sessions that nobody has used for longer than their account keeps them are deleted for good.
//!
//! Looked for on a reading connection, page by page; deleted by the writer in small batches, so that no turn waits
//! long for one. Billing records stay.

use std::time::Duration;

use crate::clock::{self, EpochMs};
use crate::error::Error;
use crate::session::{SessionKey, Sessions};
use crate::store::session_list::Candidate;
use crate::store::{self, Store};

/// How often idle sessions are looked for, after the first time at the start.
const EVERY: Duration = Duration::from_secs(3_600);
/// Sessions that are looked at together.
const PAGE: usize = 1_000;
/// Sessions that are deleted in one transaction, at most.
pub const BATCH: usize = 64;
/// Messages that are deleted in one transaction, at most, unless a single session has more.
pub const BATCH_MESSAGES: i64 = 2_000;
const DAY_MS: EpochMs = 24 * 60 * 60 * 1_000;

/// Deletes what has to go, again and again, until dropped.
pub async fn watch(store: Store, sessions: Sessions) {
    loop {
        match sweep(&store, &sessions, clock::now_ms()).await {
            Ok(0) => {}
            Ok(gone) => tracing::info!(
                sessions = gone,
                "sessions were deleted for good: idle ones, as their accounts wish, or of agents that are gone"
            ),
            Err(cause) => tracing::error!(?cause, "idle sessions could not be deleted; they are tried again"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Deletes once what has to go at that time; how many sessions there were.
async fn sweep(store: &Store, sessions: &Sessions, now: EpochMs) -> Result<i64, Error> {
    let mut gone = 0;
    for (account, days) in store.read(store::account::with_retention).await? {
        let idle_since = now.saturating_sub(days.saturating_mul(DAY_MS));
        gone += sweep_account(store, sessions, &account, idle_since).await?;
    }
    // Left by a stop in the middle of deleting an agent.
    for (account, agent) in store.read(store::session::orphaned).await? {
        gone += delete_sessions_of(store, &account, &agent).await?;
    }
    Ok(gone)
}

async fn sweep_account(
    store: &Store,
    sessions: &Sessions,
    account: &str,
    idle_since: EpochMs,
) -> Result<i64, Error> {
    let (mut gone, mut after) = (0, 0);
    loop {
        let owner = account.to_owned();
        let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
        let page =
            store.read(move |conn| store::session_list::candidates(conn, &owner, after, limit)).await?;
        for batch in batches(&page, idle_since) {
            let owner = account.to_owned();
            let deleted = store.write(move |conn| {
                let keys = store::session::keys(conn, &batch)?;
                Ok((store::session::delete_idle(conn, &owner, &batch, idle_since)?, keys))
            });
            let (deleted, keys) = deleted.await?;
            gone += deleted;
            for (agent, name) in keys {
                let key = SessionKey { account: account.into(), agent: agent.into(), name: name.into() };
                sessions.reload(&key);
            }
        }
        // They come in the order in which they were made: behind these there are none that old.
        let too_young = page.iter().all(|(_, created, ..)| *created > idle_since);
        match page.last() {
            Some((last, ..)) if !too_young && page.len() == PAGE => after = *last,
            _ => return Ok(gone),
        }
    }
}

/// Those of the candidates that have to go, in batches that one transaction can take.
fn batches(page: &[Candidate], idle_since: EpochMs) -> Vec<Vec<i64>> {
    let (mut batches, mut batch, mut messages) = (Vec::new(), Vec::new(), 0);
    for (id, _, _, head) in page.iter().filter(|(_, _, used, _)| *used <= idle_since) {
        if batch.len() >= BATCH || (!batch.is_empty() && messages + head > BATCH_MESSAGES) {
            batches.push(std::mem::take(&mut batch));
            messages = 0;
        }
        batch.push(*id);
        messages += head;
    }
    batches.extend(Some(batch).filter(|batch| !batch.is_empty()));
    batches
}

/// Deletes the sessions of an agent that is gone, batch by batch.
///
/// # Errors
/// When the store cannot be written. Asking again goes on.
pub async fn delete_sessions_of(store: &Store, account: &str, agent: &str) -> Result<i64, Error> {
    let most = i64::try_from(BATCH).unwrap_or(i64::MAX);
    let mut gone = 0;
    loop {
        let (owner, agent) = (account.to_owned(), agent.to_owned());
        let deleted =
            store.write(move |conn| Ok(store::session::delete_of_agent(conn, &owner, &agent, most)?)).await?;
        if deleted == 0 {
            return Ok(gone);
        }
        gone += deleted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(heads: &[i64]) -> Vec<Candidate> {
        (1..).zip(heads).map(|(id, head)| (id, 0, 0, *head)).collect()
    }

    #[test]
    fn a_batch_is_bounded_by_its_sessions_and_by_their_messages() {
        let sizes = |heads: &[i64]| batches(&page(heads), 0).iter().map(Vec::len).collect::<Vec<_>>();
        assert!(sizes(&[]).is_empty());
        assert_eq!(sizes(&[2; BATCH + 1]), [BATCH, 1]);
        assert_eq!(sizes(&[BATCH_MESSAGES / 2; 3]), [2, 1]);
        assert_eq!(sizes(&[1, BATCH_MESSAGES * 9, 1]), [1, 1, 1]);
    }

    #[test]
    fn only_idle_sessions_have_to_go() {
        let used = [5, 6, 7].map(|used| (used, 0, used, 2));
        assert_eq!(batches(&used, 6), [vec![5, 6]]);
    }
}
