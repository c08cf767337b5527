//! Agents by id, from memory where possible.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use crate::conversation::agent::Agent;
use crate::error::Error;
use crate::id::AgentId;
use crate::store::Store;

/// Agents that are remembered.
const REMEMBERED: u64 = 100_000;
/// How long; a change made here acts at once all the same.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// The handle to all agents. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    known: Cache<AgentId, Arc<Agent>>,
    changes: Arc<AtomicU64>,
    store: Store,
}

impl Agents {
    /// Agents of a store.
    pub fn new(store: Store) -> Self {
        let known = Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build();
        Self { known, changes: Arc::default(), store }
    }

    /// The agent of that id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find(&self, id: &AgentId) -> Result<Option<Arc<Agent>>, Error> {
        if let Some(agent) = self.known.get(id) {
            return Ok(Some(agent));
        }
        let before = self.changes.load(Ordering::Acquire);
        let sought = id.clone();
        let found = self.store.read(move |conn| crate::store::agent::find(conn, sought.as_str())).await?;
        let found = found.map(Arc::new);
        // What was read before a change is not remembered after it.
        if let Some(agent) = &found
            && self.changes.load(Ordering::Acquire) == before
        {
            self.known.insert(id.clone(), agent.clone());
        }
        Ok(found)
    }

    /// After an agent has changed: it is looked up anew.
    pub fn forget(&self, id: &AgentId) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.known.invalidate(id);
    }
}
