//! The books are checked while the server runs: what does not add up is told, and pays for nothing more.

use std::time::Duration;

use serde_json::json;

use crate::auth::keyring::Keyring;
use crate::store::audit_log::{self, Action, By, Deed};
use crate::store::verify::{self, Report};
use crate::store::writer::WriteError;
use crate::store::{self, Conn, Store};

/// How often the books are checked where nothing is said.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(3_600);

/// Checks the books again and again, until dropped.
///
/// A violated invariant is never repaired silently: it is logged as an error, and the accounts it names are
/// suspended, so that nothing more is reserved for them until the operator has looked.
pub async fn watch(store: Store, keyring: Keyring, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        match store.read(verify::run).await {
            Ok(report) if report.ok => tracing::debug!("the books are right"),
            Ok(report) => suspend(&store, &keyring, &report).await,
            Err(cause) => tracing::error!(?cause, "the books could not be checked"),
        }
    }
}

async fn suspend(store: &Store, keyring: &Keyring, report: &Report) {
    for check in report.checks.iter().filter(|check| check.violations > 0) {
        let (name, violations) = (&check.name, check.violations);
        tracing::error!(invariant = %name, violations, rows = ?check.rows, "the books are wrong; see `switchboard ledger verify`");
    }
    for account in accounts(report) {
        let named = account.clone();
        let suspended = store.write(move |conn| suspend_one(conn, &named)).await;
        match suspended {
            Ok(_) => tracing::error!(%account, "suspended, since its books are wrong"),
            Err(cause) => tracing::error!(%account, ?cause, "could not be suspended"),
        }
    }
    keyring.forget();
}

fn suspend_one(conn: &mut Conn, account: &str) -> Result<(), WriteError> {
    let Some(row) = store::account::find(conn, account)? else { return Ok(()) };
    if row.status == "suspended" {
        return Ok(());
    }
    store::account::update(conn, account, Some("suspended"), None)?;
    let (before, after) = (json!({"status": row.status}), json!({"status": "suspended"}));
    let deed = Deed {
        action: Action::AccountUpdate,
        account: Some(account),
        object: account,
        before: Some(before),
        after: Some(after),
    };
    Ok(audit_log::record(conn, &By::server(), &deed)?)
}

/// The accounts that the offending rows name; a row begins with its account where it has one.
fn accounts(report: &Report) -> Vec<String> {
    let rows = report.checks.iter().flat_map(|check| &check.rows);
    let named = rows.filter_map(|row| row.split(' ').next()).filter(|word| word.starts_with("acct_"));
    let mut accounts: Vec<String> = named.map(str::to_owned).collect();
    accounts.sort();
    accounts.dedup();
    accounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::verify::Check;

    #[test]
    fn the_accounts_of_offending_rows_are_found_once() {
        let check = |rows: &[&str]| Check {
            name: "x".to_owned(),
            violations: rows.len() as u64,
            rows: rows.iter().map(|row| (*row).to_owned()).collect(),
        };
        let report =
            Report { ok: false, checks: vec![check(&["acct_b 3", "hold_1"]), check(&["acct_a", "acct_b"])] };
        assert_eq!(accounts(&report), ["acct_a", "acct_b"]);
    }
}
