//! A turn from the head of its session's queue to the provider's first event.

use std::rc::Rc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::auth::api_key::KeyKind;
use crate::billing::catalogue::{DEFAULT_MAX_OUTPUT, LEAST_MAX_OUTPUT};
use crate::billing::{Circumstances, HOLD_LIFE_MS, Hold};
use crate::budget::Share;
use crate::clock;
use crate::conversation::history::{History, Summary};
use crate::conversation::message::Message;
use crate::conversation::turn::{NamedBy, OnDisconnect, Turn};
use crate::error::{Error, Stop};
use crate::id::HoldId;
use crate::pressure::Starting;
use crate::rate_limit::{Permit, TokenDebit};
use crate::session::attempt::{self, Asked, Candidate};
use crate::session::log::Log;
use crate::session::messages::RunTurn;
use crate::session::prompt::Prompt;
use crate::session::relay::{self, Stored};
use crate::session::summary;
use crate::session::turns::Entered;
use crate::session::{LocalRooms, Running, SessionKey, TurnEvent};
use crate::store::hold::{self, NewHold};
use crate::store::turn::Found;

/// A session's stored state, as its actor holds it between turns.
#[derive(Default)]
pub struct Conversation {
    /// Whether there is a row in the store.
    pub stored: bool,
    /// Whether its name is one of ours.
    pub named_by_server: bool,
    /// Whether it takes no more turns.
    pub archived: bool,
    /// When the last turn ended, in epoch milliseconds.
    pub updated_at: clock::EpochMs,
    /// Where its last turn has left it in the store, as far as that is known.
    pub place: Option<Found>,
    /// What was said.
    pub history: History,
    /// The memory that it takes up.
    #[expect(dead_code, reason = "dropping it gives that back")]
    pub share: Option<Share>,
}

/// A turn whose provider has begun to answer. Boxed on its way, since each turn's task would have room for it twice.
pub struct Opened {
    pub asked: Asked,
    pub hold: Hold,
    pub debit: TokenDebit,
    pub prompt: Prompt,
    /// Bound of all answers together.
    pub ceiling: u64,
}

/// Runs a turn to its end; answers the conversation as it is then.
pub async fn conduct(
    local: Rc<LocalRooms>,
    key: SessionKey,
    known: Option<Conversation>,
    run: RunTurn,
) -> Option<Conversation> {
    let RunTurn { turn, permit, mut reply, starting } = run;
    let started = Instant::now();
    let Some((mut entered, mut stop)) = local.rooms.turns.enter(&turn) else {
        drop(permit);
        let _ = reply.send(Err(Error::Draining));
        return known;
    };
    let mut conversation = match known {
        Some(conversation) => conversation,
        None => match load(&local, key, turn.named_by).await {
            Ok(conversation) => conversation,
            Err(error) => {
                refuse(&mut entered, (reply, permit), error);
                return None;
            }
        },
    };
    if conversation.named_by_server && turn.named_by == NamedBy::Client {
        entered.named_by_server();
    }
    let log = entered.log().clone();
    let opened = tokio::select! {
        biased;
        // Whatever was reserved gives itself back; the tokens of the rate limit do not.
        () = given_up(&mut reply, &turn, &log) => {
            permit.give_up();
            entered.write(TurnEvent::Failed(Box::new(Error::Stopped(Stop::Cancelled))));
            return Some(conversation.after_turn());
        }
        Ok(why) = &mut stop => Err(Error::Stopped(why)),
        // In a box: what it needs is given back when the answer begins, and not kept as long as that takes.
        opened = Box::pin(open(&local, &mut conversation, &turn, &permit, starting)) => opened,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            refuse(&mut entered, (reply, permit), error);
            return Some(conversation.after_turn());
        }
    };
    let Ok(events) = entered.log().read() else {
        let error = Error::Internal("a new log has no start".to_owned());
        refuse(&mut entered, (reply, permit), error);
        return Some(conversation.after_turn());
    };
    let running = Running {
        completion: turn.completion.clone(),
        session: turn.session.clone(),
        matched: opened.prompt.matched,
        dropped: opened.prompt.dropped,
        max_output: turn.max_output.is_none().then_some(opened.asked.max_output),
        served: (turn.caller.kind == KeyKind::Account).then(|| opened.asked.shown.clone()),
        replayed: false,
        tokens: opened.debit.status,
        events,
    };
    // Who gets the answer as a whole hears of it when it is settled: before, there is nothing to wake him for. The reader
    // of a client that has left goes with what he is sent, which the relay sees.
    let mut told_after = None;
    match opened.asked.first.is_whole() {
        true => told_after = Some(Box::new((reply, running))),
        false => drop(reply.send(Ok(running))),
    }
    conversation.stored = true;
    let stored = relay::relay(&turn, opened, permit, &mut entered, stop, started).await;
    if let Some(told) = told_after {
        let (reply, running) = *told;
        drop(reply.send(Ok(running)));
    }
    match stored {
        Stored::Nothing => {}
        // The store may have it or get it yet: the next turn asks the store.
        Stored::Unknown => return None,
        Stored::Turn(messages, at, place) => {
            (conversation.updated_at, conversation.place) = (at, place);
            conversation.history.push_turn(messages.into_iter().map(Message::alone));
        }
    }
    Some(conversation.after_turn())
}

impl Conversation {
    /// As it is after a turn: what memory was taken for that is given back.
    fn after_turn(self) -> Self {
        Self { share: None, ..self }
    }
}

/// Ends a turn before its first event: for the client, and for who reads along. Its place among its key's calls is free
/// before.
fn refuse(
    entered: &mut Entered,
    (reply, permit): (oneshot::Sender<Result<Running, Error>>, Permit),
    error: Error,
) {
    drop(permit);
    entered.write(TurnEvent::Failed(Box::new(error.clone())));
    // The client may be gone; then nobody is there to be told.
    let _ = reply.send(Err(error));
}

/// Resolves when the client has left and nobody reads along or will come back for the answer.
///
/// A plain call with an idempotency key goes on: its client's next try gets the answer.
async fn given_up(reply: &mut oneshot::Sender<Result<Running, Error>>, turn: &Turn, log: &Log) {
    let awaited = turn.idempotency.is_some() && !turn.stream;
    if awaited || turn.on_disconnect == OnDisconnect::Continue {
        std::future::pending::<()>().await;
    }
    reply.closed().await;
    log.abandoned().await;
}

async fn load(local: &LocalRooms, key: SessionKey, named_by: NamedBy) -> Result<Conversation, Error> {
    if named_by == NamedBy::Nobody {
        return Ok(Conversation {
            named_by_server: true,
            updated_at: clock::now_ms(),
            ..Conversation::default()
        });
    }
    let found = local.rooms.store.read(move |conn| {
        use crate::store::{message, session, session_summary};
        let found = session::find(conn, key.account.as_str(), key.agent.as_str(), key.name.as_str())?;
        Ok(match found {
            Some(row) => Some((message::bodies(conn, &row)?, session_summary::find(conn, row.id)?, row)),
            None => None,
        })
    });
    let Some((bodies, summary, row)) = found.await? else {
        return Ok(Conversation { updated_at: clock::now_ms(), ..Conversation::default() });
    };
    let mut history = History::default();
    let mut turn: (i64, Vec<Message>) = (0, Vec::new());
    for (at, (turn_seq, body)) in bodies.into_iter().enumerate() {
        let damaged =
            |cause: String| Error::Internal(format!("session {} message {}: {cause}", row.id, at + 1));
        let message = Message::restored(body).map_err(|cause| damaged(cause.to_string()))?;
        if turn_seq != turn.0 && !turn.1.is_empty() {
            history.push_turn(std::mem::take(&mut turn.1));
        }
        turn.0 = turn_seq;
        turn.1.push(message);
    }
    if !turn.1.is_empty() {
        history.push_turn(turn.1);
    }
    if let Some(summary) = summary {
        let upto = usize::try_from(summary.upto).unwrap_or(usize::MAX);
        history.sum_up(Summary { upto, text: summary.body.into() });
    }
    let share = local.rooms.bodies.take(history.size()).ok_or(Error::Overloaded)?;
    Ok(Conversation {
        share: Some(share),
        stored: true,
        named_by_server: row.named_by == "server",
        archived: row.status == "archived",
        updated_at: row.updated_at,
        place: Some(Found { id: row.id, head: row.head }),
        history,
    })
}

/// Session rules, tokens, money, provider: in this order, and all of it before the first byte to the client.
async fn open(
    local: &LocalRooms,
    conversation: &mut Conversation,
    turn: &Turn,
    permit: &Permit,
    mut starting: Starting,
) -> Result<Box<Opened>, Error> {
    check_session(conversation, turn)?;
    let candidates = attempt::candidates(local, turn).await?;
    let scale = candidates.first().map(|first| local.rooms.ratios.of(&first.route.model)).unwrap_or_default();
    let summed_up = summary::keep_up(local, &mut conversation.history, turn, permit, &candidates).await;
    if summed_up {
        starting.waits();
    }
    let prompt = Prompt::assemble(turn, &conversation.history, scale);
    // The provider's request is a copy, or keeps what it is made of, for as long as it is on its way.
    let _sent = local.rooms.bodies.take(prompt.size(turn)).ok_or(Error::Overloaded)?;
    // Whoever serves it in the end, the hold covers the prompt as that one may count it.
    let prompt_max = candidates.iter().map(|candidate| prompt.most_tokens(&candidate.route.model)).max();
    let default_output = candidates.first().map_or(DEFAULT_MAX_OUTPUT, Candidate::default_output);
    let wanted = turn.max_output.unwrap_or(default_output);
    let least = turn.max_output.unwrap_or(LEAST_MAX_OUTPUT.min(default_output));
    let debit = permit.debit(prompt.likely_tokens() + turn.n * wanted)?;
    let mut new = new_hold(local, turn, &candidates, prompt_max.unwrap_or(0), wanted, least);
    (new.step, new.place) = (i32::from(summed_up), conversation.place);
    let current = local.rooms.keyring.is_current(&turn.caller);
    let under = Circumstances { current, whole: !turn.stream, starting: Some(starting) };
    let mut hold = match local.rooms.billing.reserve(new, under).await {
        Ok(hold) => hold,
        Err(error) => {
            debit.used(0);
            return Err(error);
        }
    };
    crate::failpoint::hit("reserve committed");
    match attempt::ask(local, turn, &prompt, &candidates, &mut hold).await {
        Ok(asked) => {
            crate::failpoint::hit("provider answers");
            // Nothing reaches a client before the money for it is safe. A plain answer waits for its charge anyway.
            if turn.stream
                && let Err(error) = hold.durable().await
            {
                debit.used(0);
                return Err(error);
            }
            let ceiling = turn.n.saturating_mul(asked.max_output);
            Ok(Box::new(Opened { asked, hold, debit, prompt, ceiling }))
        }
        Err(error) => {
            // Nothing was received: nothing is charged, and nothing counts against the limit of tokens.
            hold.release("upstream").await?;
            debit.used(0);
            Err(error)
        }
    }
}

fn check_session(conversation: &Conversation, turn: &Turn) -> Result<(), Error> {
    // A name can be guessed: a key that stands in a web page goes on only with names that we made.
    if turn.caller.public && !conversation.named_by_server {
        return Err(Error::SessionNotFound);
    }
    let idle_ms = clock::now_ms() - conversation.updated_at;
    let idle_limit =
        turn.agent.definition.expires_after.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    let expired = conversation.stored && idle_limit.is_some_and(|limit| idle_ms / 1_000 >= limit);
    if conversation.archived || expired { Err(Error::SessionClosed) } else { Ok(()) }
}

fn priced(candidate: &Candidate) -> hold::Candidate {
    hold::Candidate { model: candidate.route.counted_as.clone(), price: candidate.price.clone() }
}

/// What a call of a turn reserves, its first one unless said otherwise.
pub fn new_hold(
    local: &LocalRooms,
    turn: &Turn,
    candidates: &[Candidate],
    prompt_max: u64,
    wanted_output: u64,
    least_output: u64,
) -> NewHold {
    let now = clock::now_ms();
    NewHold {
        id: HoldId::random(),
        account: turn.agent.account.clone(),
        key: turn.caller.key.clone(),
        budget: turn.caller.budget.map(|budget| (budget.cap, budget.period.number(now))),
        agent: turn.agent.id.clone(),
        session: turn.session.clone(),
        session_by_server: turn.named_by == NamedBy::Nobody,
        place: None,
        completion: turn.completion.clone(),
        candidates: candidates.iter().map(priced).collect(),
        request: turn.request.clone(),
        idempotency: turn.idempotency.clone(),
        step: 0,
        prompt_max,
        n: turn.n,
        wanted_output,
        least_output,
        epoch: local.rooms.billing.epoch(),
        now,
        expires_at: now + HOLD_LIFE_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most that a turn's task may take beside what it reads, in bytes.
    const TASK: usize = 5 * 1_024;

    fn size_of_future<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_turn_is_small() {
        let size = size_of_future(conduct);
        assert!(size <= TASK, "{size} bytes");
    }
}
