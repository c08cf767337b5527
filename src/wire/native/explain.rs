//! The life of one charge, in words and numbers.

use schemars::JsonSchema;
use serde::Serialize;

use crate::billing::money::Nanos;
use crate::clock::rfc3339;
use crate::conversation::usage::Usage;
use crate::store::explain::Explained;
use crate::wire::native::ledger::Entry;
use crate::wire::native::objects::Price;
use crate::wire::native::values::{Time, Usd};

/// Everything that one provider call left behind.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ExplainedCharge")]
pub struct Charge {
    request_id: String,
    completion_id: String,
    account_id: String,
    key_id: String,
    agent_id: String,
    session_id: String,
    /// The model that served it, or the first one that is asked.
    model: String,
    /// The provider and model that served it, once that is known.
    served_by: Option<String>,
    /// Which of the request's calls this was, from 0.
    step: i64,
    price: Price,
    hold: Hold,
    usage: Option<Used>,
    entry: Option<Entry>,
    /// The same in sentences, in the order in which it happened.
    story: Vec<String>,
}

/// What was set aside.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Hold {
    id: String,
    amount: Usd,
    /// The model that is asked first.
    model: String,
    /// The row of the price list that the amount comes from: the dearest of all that may serve it.
    price_id: String,
    /// `open`, `settled` or `released`.
    state: String,
    reason: Option<String>,
    created_at: Time,
    closed_at: Option<Time>,
    marks: Marks,
}

/// What had been received for certain.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Marks {
    prompt_tokens: i64,
    output_tokens: i64,
}

/// What was used and charged.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Used {
    prompt_tokens: i64,
    cached_tokens: i64,
    output_tokens: i64,
    /// Who counted: `upstream`, `local` or `recovered`.
    source: String,
    cost: Usd,
    charged: Usd,
    written_off: Usd,
}

/// The charges of one request.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Explanation {
    /// One a provider call.
    pub charges: Vec<Charge>,
}

impl From<&Explained> for Charge {
    fn from(charge: &Explained) -> Self {
        let hold = &charge.hold;
        Self {
            request_id: hold.request_id.clone(),
            completion_id: hold.completion_id.clone(),
            account_id: hold.account_id.clone(),
            key_id: hold.key_id.clone(),
            agent_id: hold.agent_id.clone(),
            session_id: hold.session_id.clone(),
            model: charge.usage.as_ref().map_or(&hold.model, |usage| &usage.model).clone(),
            served_by: hold.served_by.clone(),
            step: hold.step.into(),
            price: (&charge.price).into(),
            hold: Hold {
                id: hold.id.clone(),
                amount: hold.amount.into(),
                model: hold.model.clone(),
                price_id: hold.price_id.clone(),
                state: hold.state.clone(),
                reason: hold.reason.clone(),
                created_at: hold.created_at.into(),
                closed_at: hold.closed_at.map(Time::from),
                marks: Marks { prompt_tokens: hold.mark_prompt, output_tokens: hold.mark_output },
            },
            usage: charge.usage.as_ref().map(|usage| Used {
                prompt_tokens: usage.prompt,
                cached_tokens: usage.cached,
                output_tokens: usage.output,
                source: usage.source.clone(),
                cost: usage.cost.into(),
                charged: usage.charged.into(),
                written_off: usage.written_off.into(),
            }),
            entry: charge.entry.as_ref().map(Entry::from),
            story: story(charge),
        }
    }
}

/// The same in sentences, in the order in which it happened.
fn story(charge: &Explained) -> Vec<String> {
    let (hold, price) = (&charge.hold, &charge.price);
    let dearest = match &charge.pinned.model {
        pinned if names(pinned, &hold.model) => String::new(),
        pinned => format!(", had {pinned} served it, the dearest that could"),
    };
    let mut story = vec![format!(
        "{}: {} USD were set aside, the most that this call to {} could cost{dearest}.",
        rfc3339(hold.created_at),
        Nanos(hold.amount),
        hold.model
    )];
    if hold.mark_output > 0 {
        story.push(format!(
            "While it ran, at least {} prompt tokens and {} output tokens were noted.",
            hold.mark_prompt, hold.mark_output
        ));
    }
    let closed = hold.closed_at.map(rfc3339).unwrap_or_default();
    let Some(usage) = &charge.usage else {
        story.push(match hold.state.as_str() {
            "open" => "The call is running.".to_owned(),
            _ => {
                let why = hold.reason.as_deref().unwrap_or("nothing was received");
                format!("{closed}: all of it was given back ({why}); nothing was charged.")
            }
        });
        return story;
    };
    let counted = match usage.source.as_str() {
        "upstream" => "the provider counted",
        "local" => "the provider told no usable count, so the text was counted here:",
        _ => "nobody saw the call end, so what had been noted counts:",
    };
    story.push(format!(
        "{closed}: {counted} {} prompt tokens ({} of them cached) and {} output tokens.",
        usage.prompt, usage.cached, usage.output
    ));
    if let Some(by) = &hold.served_by {
        let price = format!("the price of {} in force since {}", price.model, rfc3339(price.effective_from));
        story.push(format!("{by} served it; {price} counts."));
    }
    story.push(format!(
        "At {} USD, {} USD (cached) and {} USD per million and {} USD per request this is {} USD{}.",
        price.input,
        price.cached_input,
        price.output,
        price.per_request,
        Nanos(usage.cost),
        rounding(charge)
    ));
    if usage.written_off > 0 {
        story.push(format!(
            "The account could not pay {} USD of it; the operator bore that.",
            Nanos(usage.written_off)
        ));
    }
    let back = Nanos(hold.amount.saturating_sub(usage.charged).max(0));
    story.push(format!("{} USD were charged, {back} USD given back.", Nanos(usage.charged)));
    if let Some(entry) = &charge.entry {
        story.push(format!(
            "Entry {} of the account; balance after it {} USD.",
            entry.seq,
            Nanos(entry.balance_after)
        ));
    }
    story
}

/// Whether a row of the price list, `provider/model` or bare, is one of `model`.
fn names(listed: &str, model: &str) -> bool {
    listed == model || listed.strip_suffix(model).is_some_and(|before| before.ends_with('/'))
}

fn rounding(charge: &Explained) -> &'static str {
    let Some(usage) = &charge.usage else { return "" };
    let tokens = |count: i64| u64::try_from(count).unwrap_or(0);
    let used =
        Usage { prompt: tokens(usage.prompt), cached: tokens(usage.cached), output: tokens(usage.output) };
    if charge.price.is_exact(used) {
        ", without a remainder"
    } else {
        ", rounded up by less than a nano-dollar"
    }
}
