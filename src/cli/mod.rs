//! The command line's management commands: a thin client of the HTTP management API.
//!
//! Each noun's file turns its arguments into one `Call` and says how the answer reads; this
//! file makes the call and prints. Nothing here touches the database, save `ledger verify --offline`.

mod account;
mod agent;
mod audit;
mod client;
mod credit;
mod key;
mod ledger;
mod output;
mod own_provider;
mod parse;
mod price;
mod provider;
mod server;
mod session;
mod webhook;

use std::process::ExitCode;

use client::{Call, Refusal, Reply};
pub use server::Server;

/// What `switchboard <noun> …` can do: each a call of the management API.
#[derive(clap::Subcommand)]
pub enum Manage {
    /// Tenants: create them, suspend them, set their limits (operator)
    Account(account::Account),
    /// Agents: the configured assistants that clients name as `model` (account key)
    Agent(agent::Agent),
    /// API keys of agents and of the account (account key)
    Key(key::Key),
    /// Money: add it (operator), see what is left of it (account key)
    Credit(credit::Credit),
    /// What models cost (operator)
    Price(price::Price),
    /// Who answers, and how they do (operator)
    Provider(provider::Provider),
    /// Conversations and their messages (account key)
    Session(session::Session),
    /// The books: prove them (operator), read them (account key)
    Ledger(ledger::Ledger),
    /// Where an account is told that its money runs out (account key)
    Webhook(webhook::Webhook),
    /// Who changed what (account key; operator for all accounts)
    Audit(audit::Audit),
}

/// One command made ready: what to ask the server, and how its answer reads.
struct Plan {
    call: Call,
    view: Box<dyn Fn(&Reply) -> String>,
    /// Whether the answer is good news; if not, the exit code is 1.
    good: fn(&Reply) -> bool,
    /// Whether the answer is printed as it comes, however long it is.
    as_it_comes: bool,
}

impl Plan {
    fn new(call: Call, view: impl Fn(&Reply) -> String + 'static) -> Self {
        Self { call, view: Box::new(view), good: |_| true, as_it_comes: false }
    }

    /// What the server sends is printed as it comes.
    fn as_it_comes(call: Call) -> Self {
        Self { as_it_comes: true, ..Self::new(call, Reply::raw) }
    }
}

/// Runs one command against the server and prints its answer. What goes wrong is told on stderr, with exit code 1.
pub fn run(command: Manage) -> anyhow::Result<ExitCode> {
    let (json, done) = match command {
        Manage::Account(noun) => perform(noun.server, noun.action.plan()),
        Manage::Agent(noun) => perform(noun.server, noun.action.plan()),
        Manage::Key(noun) => perform(noun.server, noun.action.plan()),
        Manage::Credit(noun) => perform(noun.server, Ok(noun.action.plan())),
        Manage::Price(noun) => perform(noun.server, noun.action.plan()),
        Manage::Provider(noun) => perform(noun.server, Ok(noun.action.plan())),
        Manage::Session(noun) => perform(noun.server, Ok(noun.action.plan())),
        Manage::Ledger(noun) if noun.is_offline() => (false, ledger::verify_offline(&noun.server)),
        Manage::Ledger(noun) => perform(noun.server, Ok(noun.action.plan())),
        Manage::Webhook(noun) => perform(noun.server, Ok(noun.action.plan())),
        Manage::Audit(noun) => perform(noun.server, Ok(noun.wanted.plan())),
    };
    // Told here and not by `main`, which would add a trace that helps no operator.
    Ok(done.unwrap_or_else(|error| {
        match error.downcast_ref::<Refusal>().and_then(|refusal| refusal.body.as_deref()) {
            Some(body) if json => eprintln!("{}", body.trim_end()),
            _ => eprintln!("error: {}", output::printable(&format!("{error:#}"))),
        }
        ExitCode::FAILURE
    }))
}

/// Makes the call of a plan and prints the answer. Beside the outcome: whether JSON was asked for.
fn perform(server: Server, plan: anyhow::Result<Plan>) -> (bool, anyhow::Result<ExitCode>) {
    let done = plan.and_then(|plan| {
        if plan.as_it_comes {
            server.copy(&plan.call, &mut std::io::stdout().lock())?;
            return Ok(ExitCode::SUCCESS);
        }
        let reply = server.call(&plan.call)?;
        output::print(&if server.json { reply.raw() } else { (plan.view)(&reply) })?;
        Ok(if (plan.good)(&reply) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    });
    (server.json, done)
}

#[cfg(test)]
mod tests;
