//! A summary in the place of turns that do not fit into a prompt any more: a provider call of its own, before the
//! turn's, paid for by itself.

use std::time::Duration;

use tokio::time::timeout;

use crate::billing::Circumstances;
use crate::conversation::agent::Context;
use crate::conversation::history::{History, Summary};
use crate::conversation::summary;
use crate::conversation::turn::{Conflict, Dialect, Form, OnDisconnect, Turn, split_new};
use crate::error::Error;
use crate::json::Fields;
use crate::rate_limit::Permit;
use crate::session::LocalRooms;
use crate::session::attempt::{self, Asked, Candidate};
use crate::session::conduct::new_hold;
use crate::session::prompt::Prompt;
use crate::session::relay::{self, COMMIT_WAIT};
use crate::store::hold::Settlement;
use crate::store::session_summary::NewSummary;

/// How long a turn waits for its summary.
const WAIT: Duration = Duration::from_secs(60);

/// Brings the summary of a history up to date, where its agent wants one and the turn needs it; whether it tried.
///
/// A turn does not fail for the want of a summary: without one, what it would have stood for is left out of the prompt.
pub async fn keep_up(
    local: &LocalRooms,
    history: &mut History,
    turn: &Turn,
    permit: &Permit,
    candidates: &[Candidate],
) -> bool {
    let definition = &turn.agent.definition;
    let (Context::Summarize, Some(window)) = (definition.context, definition.context_tokens) else {
        return false;
    };
    let (_, new) = split_new(&turn.messages, history.matched(&turn.spoken()));
    let scale = candidates.first().map(|first| local.rooms.ratios.of(&first.route.model)).unwrap_or_default();
    let Some(due) = history.due(window, &new, scale.ratio) else { return false };
    let upto = due.upto;
    let prompt = Prompt::of(&summary::asked(&due, window, scale.ratio), scale);
    let made = make(local, turn, permit, candidates, (prompt, upto, summary::most_tokens(window)));
    match timeout(WAIT, made).await.unwrap_or(Err(Error::Overloaded)) {
        Ok(Some(text)) => history.sum_up(Summary { upto, text: text.into() }),
        Ok(None) => tracing::warn!(request = %turn.request, "the model answered no summary"),
        Err(error) => tracing::warn!(request = %turn.request, %error, "no summary could be made"),
    }
    true
}

/// Asks for a summary and stores it together with its charge; `None` if the answer holds no text.
async fn make(
    local: &LocalRooms,
    turn: &Turn,
    permit: &Permit,
    candidates: &[Candidate],
    (prompt, upto, most): (Prompt, usize, u64),
) -> Result<Option<String>, Error> {
    let call = aside(turn, most);
    let prompt_max = candidates.iter().map(|candidate| prompt.most_tokens(&candidate.route.model)).max();
    let debit = permit.debit(prompt.likely_tokens() + most)?;
    let new = new_hold(local, &call, candidates, prompt_max.unwrap_or(0), most, most);
    let current = local.rooms.keyring.is_current(&turn.caller);
    let under = Circumstances { current, whole: true, starting: None };
    let mut hold = match local.rooms.billing.reserve(new, under).await {
        Ok(hold) => hold,
        Err(error) => {
            debit.used(0);
            return Err(error);
        }
    };
    let asked = match attempt::ask(local, &call, &prompt, candidates, &mut hold).await {
        Ok(asked) => asked,
        Err(error) => {
            hold.release("upstream").await?;
            debit.used(0);
            return Err(error);
        }
    };
    let Asked { first, ticket, mut meter, max_output, .. } = asked;
    meter.answered();
    drop((meter, ticket));
    let (usage, source) = relay::count(first.reply(), &prompt, hold.prompt_max(), max_output);
    debit.used(usage.total());
    let text = first.reply().content().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let summary = text.clone().map(|body| NewSummary { upto: i64::try_from(upto).unwrap_or(i64::MAX), body });
    let served = hold.served().cloned();
    let settlement = Settlement { usage, source, served, turn: None, summary, answer: None };
    hold.settle(settlement, COMMIT_WAIT).await?;
    Ok(text)
}

/// A turn's plain call beside the one that it is about: nothing of what the client wants of its answer holds for it.
fn aside(turn: &Turn, max_output: u64) -> Turn {
    Turn {
        caller: turn.caller.clone(),
        agent: turn.agent.clone(),
        session: turn.session.clone(),
        named_by: turn.named_by,
        completion: turn.completion.clone(),
        request: turn.request.clone(),
        messages: Vec::new(),
        metadata: None,
        fields: Fields::default(),
        stream: false,
        form: Form { dialect: Dialect::OpenAi, include_usage: false, created: turn.form.created },
        n: 1,
        max_output: Some(max_output),
        idempotency: None,
        conflict: Conflict::default(),
        on_disconnect: OnDisconnect::default(),
    }
}
