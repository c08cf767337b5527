//! Agents by id, from memory where possible.

use std::sync::Arc;

use crate::conversation::agent::Agent;
use crate::error::Error;
use crate::id::AgentId;
use crate::read_through::ReadThrough;
use crate::store::Store;

/// The handle to all agents. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    known: ReadThrough<AgentId, Arc<Agent>>,
    store: Store,
}

impl Agents {
    /// Agents of a store.
    pub fn new(store: Store) -> Self {
        Self { known: ReadThrough::default(), store }
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
