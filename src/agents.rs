//! Agents by id, from memory where possible.

use std::sync::Arc;
use std::time::Duration;

use crate::conversation::agent::Agent;
use crate::error::Error;
use crate::id::AgentId;
use crate::read_through::ReadThrough;
use crate::store::Store;

/// Agents that are remembered.
const REMEMBERED: u64 = 100_000;
/// How long; a change made here acts at once all the same.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// The handle to all agents. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    known: ReadThrough<AgentId, Arc<Agent>>,
    store: Store,
}

impl Agents {
    /// Agents of a store.
    pub fn new(store: Store) -> Self {
        Self { known: ReadThrough::new(REMEMBERED, REMEMBERED_FOR), store }
    }

    /// The agent of that id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find(&self, id: &AgentId) -> Result<Option<Arc<Agent>>, Error> {
        let read = || async {
            let sought = id.clone();
            let found = self.store.read(move |conn| crate::store::agent::find(conn, sought.as_str())).await?;
            Ok(found.map(Arc::new))
        };
        self.known.find(id, read).await
    }

    /// After an agent has changed: it is looked up anew.
    pub fn forget(&self, id: &AgentId) {
        self.known.forget(id);
    }
}
