//! Queries on `ledger_entry`: the only place where a balance changes, append-only and chained by hash.

use diesel::prelude::*;

use crate::billing::money::Nanos;
use crate::error::{Error, Invalid};
use crate::store::account::{self as accounts, Standing};
use crate::store::fixed::Value::{Int, MaybeText, Text};
use crate::store::fixed::fixed;
use crate::store::schema::ledger_entry::dsl::*;
use crate::store::schema::{hold, usage_record};
use crate::store::webhook;
use crate::store::writer::WriteError;

/// The key of a movement that no key pays for.
const NO_KEY: &str = "";

/// An entry, as stored.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = crate::store::schema::ledger_entry)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct EntryRow {
    pub account_id: String,
    pub seq: i64,
    pub kind: String,
    pub hold_id: Option<String>,
    pub external_ref: Option<String>,
    pub delta: i64,
    pub balance_after: i64,
    pub actor: String,
    pub note: Option<String>,
    pub created_at: i64,
    pub hash: String,
}

impl EntryRow {
    /// The hash of the entry after the one whose hash is `previous`.
    pub fn chained(&self, previous: &str) -> String {
        let new = NewEntry {
            account: &self.account_id,
            kind: &self.kind,
            hold: self.hold_id.as_deref(),
            external_ref: self.external_ref.as_deref(),
            delta: self.delta,
            actor: &self.actor,
            note: self.note.as_deref(),
            now: self.created_at,
        };
        Entry { new: &new, seq: self.seq, balance_after: self.balance_after }.chained(previous)
    }
}

/// All of an entry but its hash.
struct Entry<'a> {
    new: &'a NewEntry<'a>,
    seq: i64,
    balance_after: i64,
}

impl Entry<'_> {
    fn chained(&self, previous: &str) -> String {
        let Self { new, seq: number, balance_after: balance } = self;
        let mut hasher = blake3::Hasher::new();
        let mut add = |field: Option<&[u8]>| match field {
            // The length in front keeps neighbouring fields apart; absent differs from empty.
            Some(bytes) => {
                hasher.update(&(bytes.len() as u64 + 1).to_le_bytes());
                hasher.update(bytes);
            }
            None => drop(hasher.update(&0u64.to_le_bytes())),
        };
        add(Some(previous.as_bytes()));
        add(Some(new.account.as_bytes()));
        add(Some(&number.to_le_bytes()));
        add(Some(new.kind.as_bytes()));
        add(new.hold.map(str::as_bytes));
        add(new.external_ref.map(str::as_bytes));
        add(Some(&new.delta.to_le_bytes()));
        add(Some(&balance.to_le_bytes()));
        add(Some(new.actor.as_bytes()));
        add(new.note.map(str::as_bytes));
        add(Some(&new.now.to_le_bytes()));
        hasher.finalize().to_hex().to_string()
    }
}

/// What an entry is about.
#[derive(Clone, Debug, Default)]
pub struct NewEntry<'a> {
    /// The account.
    pub account: &'a str,
    /// `topup`, `charge`, `refund`, `adjust`, `grant` or `expire`.
    pub kind: &'a str,
    /// The hold that a charge settles.
    pub hold: Option<&'a str>,
    /// What a payment is called elsewhere.
    pub external_ref: Option<&'a str>,
    /// The movement, in nano-dollars.
    pub delta: i64,
    /// Who did it.
    pub actor: &'a str,
    /// Why.
    pub note: Option<&'a str>,
    /// When.
    pub now: i64,
}

/// Adds the entry of a movement after which the account stands so, whose last entry it is then.
pub fn append(conn: &mut SqliteConnection, new: &NewEntry<'_>, after: &mut Standing) -> QueryResult<()> {
    // The first one is chained to nothing.
    let previous = match &after.last {
        None if after.seq == 1 => "",
        None => return Err(diesel::result::Error::NotFound),
        Some(last) => last,
    };
    let entry = Entry { new, seq: after.seq, balance_after: after.available + after.held };
    let own_hash = entry.chained(previous);
    insert(conn, &entry, &own_hash)?;
    after.last = Some(own_hash);
    if new.delta > 0 {
        webhook::replenished(conn, new.account)?;
    } else if new.delta < 0 && after.watched {
        let balance = entry.balance_after.saturating_sub(new.delta)..entry.balance_after;
        webhook::balance_fell(conn, new.account, balance, Nanos(after.available), new.now)?;
    }
    Ok(())
}

fn insert(conn: &mut SqliteConnection, entry: &Entry<'_>, own_hash: &str) -> QueryResult<()> {
    const ADD: &str = "INSERT INTO ledger_entry (account_id, seq, kind, hold_id, external_ref, delta, balance_after, \
                       actor, note, created_at, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    const CHARGE: &str = "INSERT INTO ledger_entry (account_id, seq, kind, hold_id, delta, balance_after, actor, \
                          created_at, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let Entry { new, seq: number, balance_after: balance } = *entry;
    let (whose, which, of_hold) = (Text(new.account), Text(new.kind), MaybeText(new.hold));
    let (by, at, chain) = (Text(new.actor), Int(new.now), Text(own_hash));
    let (by_how_much, to) = (Int(new.delta), Int(balance));
    match (new.external_ref, new.note) {
        (None, None) => {
            let values = [whose, Int(number), which, of_hold, by_how_much, to, by, at, chain];
            fixed!(CHARGE, values).execute(conn)
        }
        (reference, why) => {
            let (reference, why) = (MaybeText(reference), MaybeText(why));
            let values = [whose, Int(number), which, of_hold, reference, by_how_much, to, by, why, at, chain];
            fixed!(ADD, values).execute(conn)
        }
    }
    .map(drop)
}

/// The entry of that kind and reference.
pub fn by_reference(
    conn: &mut SqliteConnection,
    of_kind: &str,
    reference: &str,
) -> QueryResult<Option<EntryRow>> {
    ledger_entry
        .filter(kind.eq(of_kind))
        .filter(external_ref.eq(reference))
        .select(EntryRow::as_select())
        .get_result(conn)
        .optional()
}

/// What a charge was for.
#[derive(Clone, Debug, Queryable)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct ChargeRow {
    pub request_id: String,
    pub completion_id: String,
    pub session_id: String,
    pub agent_id: String,
    pub key_id: String,
    pub model: String,
    pub prompt: i64,
    pub cached: i64,
    pub output: i64,
}

/// An account's entries before `before` (all, if `None`), newest first.
pub fn list(
    conn: &mut SqliteConnection,
    owner: &str,
    before: Option<i64>,
    limit: i64,
) -> QueryResult<Vec<(EntryRow, Option<ChargeRow>)>> {
    let rows: Vec<EntryRow> = ledger_entry
        .filter(account_id.eq(owner))
        .filter(seq.lt(before.unwrap_or(i64::MAX)))
        .order(seq.desc())
        .limit(limit)
        .select(EntryRow::as_select())
        .load(conn)?;
    rows.into_iter()
        .map(|row| {
            let charge = match &row.hold_id {
                Some(of_hold) => charge(conn, of_hold)?,
                None => None,
            };
            Ok((row, charge))
        })
        .collect()
}

fn charge(conn: &mut SqliteConnection, of_hold: &str) -> QueryResult<Option<ChargeRow>> {
    hold::table
        .inner_join(usage_record::table.on(usage_record::hold_id.eq(hold::id)))
        .filter(hold::id.eq(of_hold))
        .select((
            hold::request_id,
            hold::completion_id,
            hold::session_id,
            hold::agent_id,
            hold::key_id,
            usage_record::model,
            usage_record::prompt,
            usage_record::cached,
            usage_record::output,
        ))
        .get_result(conn)
        .optional()
}

/// Moves money that no hold is about, by one entry; the balance may not fall below what is held.
pub fn post(conn: &mut SqliteConnection, new: &NewEntry<'_>) -> Result<EntryRow, WriteError> {
    let before = accounts::standing(conn, (new.account, NO_KEY)).optional()?;
    let before = before.ok_or(Error::NotFound("the account"))?;
    let available = before.available;
    let after = available.checked_add(new.delta);
    if after.is_none_or(|after| after < 0) {
        let expected = format!("this would leave less than nothing: {} USD are available", Nanos(available));
        return Err(Error::from(Invalid::value("amount", expected)).into());
    }
    let after = accounts::post(conn, new.account, before, (0, new.delta))?;
    let mut after = after.ok_or(diesel::result::Error::NotFound)?;
    append(conn, new, &mut after)?;
    Ok(ledger_entry.find((new.account, after.seq)).select(EntryRow::as_select()).get_result(conn)?)
}
