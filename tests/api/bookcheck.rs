//! Books that were tampered with: noticed while the server runs, and nothing more is reserved.

use diesel::prelude::*;
use serde_json::json;

use crate::app::{App, Setup, eventually};

fn tamper(app: &App, statement: &str) {
    let file = app.data().join("switchboard.db");
    let mut conn = SqliteConnection::establish(file.to_str().expect("a path of text")).expect("the database");
    diesel::sql_query("PRAGMA busy_timeout = 10000").execute(&mut conn).expect("a setting");
    diesel::sql_query(statement).execute(&mut conn).expect("a change");
}

#[test]
fn an_account_whose_books_are_wrong_is_suspended_until_the_operator_has_looked() {
    let app = Setup::default().arg("--verify-interval").arg("1").start();
    let (_, other) = app.account("1.00");
    app.say("Hello", json!({}));
    tamper(
        &app,
        &format!("UPDATE account SET available = available + 1 WHERE account_id = '{}'", app.account_id),
    );
    let account = format!("/admin/accounts/{}", app.account_id);
    eventually("the account is suspended", || {
        let status = app.get(&app.operator_token, &account).ok()["status"].clone();
        (status == "suspended").then_some(())
    });
    app.chat(&app.saying("Hello", json!({}))).refused(403, "permission_error", "account_suspended");
    let report = app.get(&app.operator_token, "/admin/ledger/verify").ok();
    assert_eq!(report["ok"], false);
    assert_eq!(report["invariants"]["I1 balance = sum of entries"]["rows"][0], json!(app.account_id));
    assert!(app.log().contains("the books are wrong"));
    assert_eq!(app.balance_of(&other).balance, 1_000_000_000, "another account goes on");
    tamper(
        &app,
        &format!("UPDATE account SET available = available - 1 WHERE account_id = '{}'", app.account_id),
    );
    app.patch(
        &app.operator_token,
        &format!("/admin/accounts/{}", app.account_id),
        &json!({"status": "active"}),
    )
    .is(200);
    app.say("Hello", json!({}));
    app.finish();
}
