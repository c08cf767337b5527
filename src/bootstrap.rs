//! The first start: an account, an agent and keys to try the server with.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::auth::api_key::KeyKind;
use crate::billing::Billing;
use crate::billing::catalogue;
use crate::billing::money::Nanos;
use crate::billing::price::Price;
use crate::clock;
use crate::conversation::agent::{Agent, Definition};
use crate::error::Error;
use crate::http::manage::agents;
use crate::http::manage::keys::{self, new_key};
use crate::http::manage::operator::made_with;
use crate::id::{AccountId, AgentId, PriceId};
use crate::provider::Routes;
use crate::store::account::AccountRow;
use crate::store::audit_log::{self, Action, By, state};
use crate::store::ledger_entry::{self, NewEntry};
use crate::store::{self, Store};
use crate::wire::native::objects;

/// What the demo account starts with.
const OPENING_BALANCE: Nanos = Nanos(5_000_000_000);
/// Who a set-up by the server itself is booked to.
const ACTOR: &str = "bootstrap";
/// Where the operator's token is kept for the command line.
pub const OPERATOR_FILE: &str = "operator.token";
/// Where the account's key is kept for the command line.
pub const ACCOUNT_FILE: &str = "account.key";

/// What there is to start with.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The first account, if there is one.
    pub account: Option<String>,
    /// The first agent, if there is one.
    pub agent: Option<String>,
    /// Secrets that were made just now.
    pub secrets: Option<Secrets>,
}

/// The secrets of the first start.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Chat with the agent.
    pub agent_key: String,
    /// Everything of the account.
    pub account_key: String,
    /// Everything of the server.
    pub operator_token: String,
}

/// Gives each provider's own model a price if it has none; what was chosen, for people.
///
/// # Errors
/// When the store cannot be written.
pub async fn price_models(store: &Store, billing: &Billing, routes: &Routes) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    for provider in routes.providers() {
        for given in &provider.terms.prices {
            let model = format!("{}/{}", provider.name, given.model);
            if is_priced(billing, routes, &model) {
                continue;
            }
            let price = Price {
                id: PriceId::random(),
                model,
                effective_from: clock::now_ms(),
                input: given.input,
                cached_input: given.cached_input,
                output: given.output,
                per_request: given.per_request,
            };
            told.push(begin(store, billing, price, "from the configuration").await?);
        }
    }
    for (at, provider) in routes.providers().iter().enumerate() {
        // The first one's models go by their bare names.
        let model =
            if at == 0 { provider.model.clone() } else { format!("{}/{}", provider.name, provider.model) };
        told.extend(price_model(store, billing, routes, &model).await?);
    }
    Ok(told)
}

async fn price_model(
    store: &Store,
    billing: &Billing,
    routes: &Routes,
    model: &str,
) -> Result<Option<String>, Error> {
    if is_priced(billing, routes, model) {
        return Ok(None);
    }
    let (price, known) = catalogue::starting_price(model, clock::now_ms());
    let from = if known { "from the catalogue" } else { "not in the catalogue, so a guess" };
    begin(store, billing, price, from).await.map(Some)
}

/// Whether whoever is asked first for `model` has a price for it.
fn is_priced(billing: &Billing, routes: &Routes, model: &str) -> bool {
    let (routes, now) = (routes.all(model, &[]), clock::now_ms());
    let mut names = routes.first().into_iter().flat_map(|route| &route.priced_as);
    names.any(|name| billing.prices().current(name, now).is_some())
}

/// Adds a row to the price list; says so, for people.
async fn begin(store: &Store, billing: &Billing, price: Price, from: &str) -> Result<String, Error> {
    let new = price.clone();
    let insert = move |conn: &mut _| {
        if store::price::insert(conn, &new)? {
            audit_log::record(conn, &By::server(), &new.deed())?;
        }
        Ok(())
    };
    store.write(insert).await?;
    let told = format!(
        "{} costs {} USD in and {} USD out per million tokens ({from}; change it with `switchboard price set`)",
        price.model,
        short(price.input),
        short(price.output)
    );
    billing.prices().add(price);
    Ok(told)
}

fn short(amount: Nanos) -> String {
    let text = amount.to_string();
    let text = text.trim_end_matches('0');
    if text.ends_with('.') { format!("{text}00") } else { text.to_owned() }
}

/// Sets up the demo account on an empty database; else tells what is there.
///
/// # Errors
/// When the store cannot be written or the token files cannot be made.
pub async fn run(store: &Store, data: &Path) -> anyhow::Result<Bootstrap> {
    if !store.read(store::account::none).await? {
        let (account, agent) =
            store.read(|conn| Ok((store::account::first(conn)?, store::agent::first(conn)?))).await?;
        return Ok(Bootstrap {
            account: account.map(|row| row.account_id),
            agent: agent.map(|agent| agent.id.to_string()),
            secrets: None,
        });
    }
    let now = clock::now_ms();
    let account = AccountRow {
        account_id: AccountId::random().to_string(),
        name: "demo".to_owned(),
        status: "active".to_owned(),
        limits: "{}".to_owned(),
        last_seq: 0,
        available: 0,
        held: 0,
        agent_count: 0,
        session_count: 0,
        created_at: now,
        retention_days: None,
        closed_at: None,
    };
    let agent = Agent {
        id: AgentId::random(),
        account: account.account_id.as_str().into(),
        definition: Definition {
            name: "Demo agent".to_owned(),
            // No model of its own: the agent goes on answering when another provider is configured.
            instructions: Some("You are a helpful assistant. Answer briefly.".to_owned()),
            ..Definition::default()
        },
        created_at: now,
        updated_at: now,
    };
    let named = |name: &str| json!({"name": name}).into();
    let owner = agent.account.clone();
    let (operator_row, operator_token) =
        new_key(KeyKind::Operator, None, None, named("first operator token")).map_err(Error::from)?;
    let (account_row, account_key) =
        new_key(KeyKind::Account, Some(&owner), None, named("first account key")).map_err(Error::from)?;
    let (agent_row, agent_key) =
        new_key(KeyKind::Agent, Some(&owner), Some(&agent.id), named("first agent key"))
            .map_err(Error::from)?;
    // First the files: a crash in between leaves tokens that nobody knows yet, not an operator without one.
    write_secret(&data.join(OPERATOR_FILE), &operator_token)?;
    write_secret(&data.join(ACCOUNT_FILE), &account_key)?;
    let (account_id, agent_id) = (account.account_id.clone(), agent.id.to_string());
    store
        .write(move |conn| {
            store::account::insert(conn, &account)?;
            for row in [&operator_row, &account_row, &agent_row] {
                store::api_key::insert(conn, row)?;
            }
            store::agent::insert(conn, &agent)?;
            let opening = NewEntry {
                account: &account.account_id,
                kind: "grant",
                delta: OPENING_BALANCE.0,
                actor: ACTOR,
                note: Some("opening balance"),
                now,
                ..NewEntry::default()
            };
            ledger_entry::post(conn, &opening)?;
            let made = store::account::find(conn, &account.account_id)?;
            let made = made.ok_or_else(|| Error::Internal("the first account is not there".to_owned()))?;
            let by = By::server();
            audit_log::record(conn, &by, &made_with(&made, &account_row))?;
            audit_log::record(
                conn,
                &by,
                &agents::deed(Action::AgentCreate, &agent, None, state(objects::Agent::from(&agent))),
            )?;
            for row in [&operator_row, &agent_row] {
                keys::record(conn, &by, Action::KeyCreate, None, Some(row))?;
            }
            Ok(())
        })
        .await?;
    Ok(Bootstrap {
        account: Some(account_id),
        agent: Some(agent_id),
        secrets: Some(Secrets { agent_key, account_key, operator_token }),
    })
}

/// Replaces the operator's token: whoever may write the data directory is the operator.
///
/// # Errors
/// When the store or the file cannot be written.
pub async fn renew_operator(store: &Store, data: &Path) -> anyhow::Result<()> {
    let named = json!({"name": "operator token"}).into();
    let (row, token) = new_key(KeyKind::Operator, None, None, named).map_err(Error::from)?;
    write_secret(&data.join(OPERATOR_FILE), &token)?;
    store
        .write(move |conn| {
            let by = By::server();
            for gone in store::api_key::revoke_operators(conn, row.created_at)? {
                keys::record(conn, &by, Action::KeyRevoke, Some(&gone), None)?;
            }
            store::api_key::insert(conn, &row)?;
            keys::record(conn, &by, Action::KeyCreate, None, Some(&row))
        })
        .await?;
    Ok(())
}

/// Writes a file that only its owner reads.
pub(crate) fn write_secret(file: &Path, secret: &str) -> anyhow::Result<()> {
    write_whole(file, &format!("{secret}\n"))
}

/// Writes a file whole or not at all, readable by its owner alone.
fn write_whole(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let write = || -> std::io::Result<()> {
        let mut draft_file = options.open(&draft)?;
        draft_file.write_all(text.as_bytes())?;
        draft_file.sync_all()?;
        fs::rename(&draft, file)
    };
    write().with_context(|| format!("writing {}", file.display()))
}

impl Bootstrap {
    /// Tells programs where the server is and how to call it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, file: &Path, url: &str) -> anyhow::Result<()> {
        let mut object = Map::new();
        let mut put = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                object.insert(name.to_owned(), Value::from(value));
            }
        };
        put("url", Some(url));
        put("account_id", self.account.as_deref());
        put("agent_id", self.agent.as_deref());
        if let Some(secrets) = &self.secrets {
            put("agent_key", Some(&secrets.agent_key));
            put("account_key", Some(&secrets.account_key));
            put("operator_token", Some(&secrets.operator_token));
        }
        write_whole(file, &format!("{}\n", Value::Object(object)))
    }

    /// What a newcomer reads on the first start.
    pub fn welcome(&self, url: &str, data: &Path) -> Option<String> {
        let Secrets { agent_key, account_key, operator_token } = self.secrets.as_ref()?;
        let agent = self.agent.as_deref()?;
        let data = data.display();
        Some(format!(
            r#"
First start: an account with 5.00 USD and an agent were set up. The secrets are shown this once.
  agent           {agent}
  agent key       {agent_key}
  account key     {account_key}  (kept in {data}/{ACCOUNT_FILE})
  operator token  {operator_token}  (kept in {data}/{OPERATOR_FILE})

Try it with curl:

curl -N {url}/v1/chat/completions -H "Authorization: Bearer {agent_key}" -H "Content-Type: application/json" -d '{{"model":"{agent}","stream":true,"messages":[{{"role":"user","content":"Hello!"}}]}}'

or in Python (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{agent_key}")
stream = client.chat.completions.create(model="{agent}", messages=[{{"role": "user", "content": "Hello!"}}], stream=True)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
"#
        ))
    }
}
