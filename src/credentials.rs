//! What tenants brought to call providers with, from memory where possible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::auth::vault::{Belongs, Vault};
use crate::error::Error;
use crate::id::AccountId;
use crate::provider::own::Own;
use crate::read_through::ReadThrough;
use crate::store::account_provider::{self, OwnRow};
use crate::store::{self, Store};

/// All of one account.
pub type Owned = Arc<Vec<Arc<Own>>>;

/// The handle to all credentials of tenants. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    known: ReadThrough<AccountId, Owned>,
    /// Whether anybody has any: where nobody does, nobody looks.
    any: Arc<AtomicBool>,
    nothing: Owned,
    store: Store,
    vault: Option<Vault>,
}

impl Credentials {
    /// Credentials of a store; what an older key sealed is sealed anew.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn load(store: Store, vault: Option<Vault>) -> Result<Self, Error> {
        let any = store.read(account_provider::any).await?;
        let known = ReadThrough::default();
        let loaded =
            Self { known, any: Arc::new(AtomicBool::new(any)), nothing: Arc::default(), store, vault };
        if any {
            loaded.reseal().await?;
        }
        Ok(loaded)
    }

    /// What seals a tenant's key; `None` if the operator has not set it up.
    pub fn vault(&self) -> Option<&Vault> {
        self.vault.as_ref()
    }

    /// What an account brought.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of(&self, account: &AccountId) -> Result<Owned, Error> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(self.nothing.clone());
        }
        let read = || async {
            let sought = account.clone();
            let rows = self.store.read(move |conn| account_provider::list(conn, sought.as_str())).await?;
            Ok(Some(Arc::new(rows.into_iter().map(|row| Arc::new(self.opened(row))).collect())))
        };
        Ok(self.known.find(account, read).await?.unwrap_or_else(|| self.nothing.clone()))
    }

    /// After an account's credentials have changed: they are looked up anew.
    pub fn forget(&self, account: &AccountId) {
        self.any.store(true, Ordering::Release);
        self.known.forget(account);
    }

    fn opened(&self, row: OwnRow) -> Own {
        let opened = self.vault.as_ref().and_then(|vault| vault.open(belongs(&row), &row.sealed));
        if opened.is_none() {
            tracing::error!(account = %row.account_id, name = %row.name, "no secrets_key opens a tenant's key");
        }
        Own {
            account: row.account_id.as_str().into(),
            api_key: opened.map(|opened| opened.secret),
            name: row.name,
            base_url: row.base_url,
            since: row.created_at,
        }
    }

    /// Seals anew what an older key sealed, so that the older key can go.
    async fn reseal(&self) -> Result<(), Error> {
        let Some(vault) = &self.vault else {
            tracing::warn!(
                "tenants have keys of their own, and without secrets_key none of them can be used"
            );
            return Ok(());
        };
        let rows = self.store.read(account_provider::all).await?;
        let stale = |row: OwnRow| {
            let opened = vault.open(belongs(&row), &row.sealed).filter(|opened| opened.stale)?;
            let anew = vault.seal(belongs(&row), &opened.secret)?;
            Some((row, anew))
        };
        let stale: Vec<_> = rows.into_iter().filter_map(stale).collect();
        let count = stale.len();
        if count > 0 {
            let write = move |conn: &mut _| {
                for (row, anew) in &stale {
                    store::account_provider::reseal(conn, row, anew)?;
                }
                Ok(())
            };
            self.store.write(write).await?;
            tracing::info!(
                count,
                "keys of tenants were sealed anew; the older secrets keys are not needed any more"
            );
        }
        Ok(())
    }
}

/// What a row's key belongs to.
pub fn belongs(row: &OwnRow) -> Belongs<'_> {
    Belongs { account: &row.account_id, name: &row.name, base_url: row.base_url.as_deref() }
}
