//! `switchboard account provider …`: what a tenant brings to call providers with.

use clap::Subcommand;

use super::client::Call;
use super::parse::{self, Body};
use super::server::Who;
use super::{Plan, output};

const FIELDS: &[&str] = &["name", "base_url", "last4", "created_at"];

/// A tenant's own keys for providers.
#[derive(Subcommand)]
pub(super) enum OwnProvider {
    /// Use a key of your own at a provider, in the place of the operator's or at a place of your own
    ///
    /// Models of it are `name/model`. What they cost here is the price of own/NAME/MODEL, own/MODEL or own/*.
    Set {
        /// What agents put in front of a model's name
        name: String,
        /// The provider's key
        ///
        /// Other users of the machine can see a command line, so prefer the environment variable.
        #[arg(long, env = "SWITCHBOARD_OWN_PROVIDER_KEY", hide_env_values = true, value_name = "KEY")]
        api_key: String,
        /// Where it is, up to and with the version [default: the operator's provider of that name]
        #[arg(long, value_name = "URL")]
        base_url: Option<String>,
    },
    /// List your own providers, without their keys
    List,
    /// Take one away; its models are refused from now on
    Remove {
        /// Its name
        #[arg(value_parser = parse::id)]
        name: String,
    },
}

impl OwnProvider {
    pub(super) fn plan(self) -> Plan {
        const PATH: [&str; 3] = ["v2", "account", "providers"];
        match self {
            Self::Set { name, api_key, base_url } => {
                let body = Body::default().set("api_key", Some(api_key)).set("base_url", base_url);
                let call = Call::put(Who::Account, &[PATH[0], PATH[1], PATH[2], &name], body);
                Plan::new(call, |reply| output::details(FIELDS, &reply.value))
            }
            Self::List => Plan::new(Call::get(Who::Account, &PATH), |reply| {
                output::table(FIELDS, output::rows(&reply.value))
            }),
            Self::Remove { name } => {
                let call = Call::delete(Who::Account, &[PATH[0], PATH[1], PATH[2], &name]);
                Plan::new(call, move |_| format!("removed {name}"))
            }
        }
    }
}
