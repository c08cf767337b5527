//! A turn from the provider's first event to its settlement: copies the answer to the client and charges for it.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::sleep_until;

use crate::billing::money::Nanos;
use crate::clock::{self, EpochMs};
use crate::conversation::message::Message;
use crate::conversation::reply::Reply;
use crate::conversation::turn::{Completeness, OnDisconnect, Turn};
use crate::conversation::usage::{Usage, UsageSource};
use crate::error::{Error, Stop, UpstreamFailure, UpstreamKind};
use crate::json::Raw;
use crate::metrics;
use crate::provider::Event;
use crate::rate_limit::Permit;
use crate::session::attempt::Asked;
use crate::session::conduct::Opened;
use crate::session::first::{Chunks, First};
use crate::session::log::{Log, weight};
use crate::session::prompt::Prompt;
use crate::session::replay::Kept;
use crate::session::turns::Entered;
use crate::session::{Ended, TurnEvent};
use crate::store::hold::Settlement;
use crate::store::turn::{Found, StoredTurn};

/// How often a long call writes down how far it has come.
const CHECKPOINT: Duration = Duration::from_secs(2);
/// Checkpoints fall on multiples of this, so that those of many streams are one commit.
const TOGETHER_MS: EpochMs = 100;
/// How long the final frames wait for the commit.
pub const COMMIT_WAIT: Duration = Duration::from_secs(5);
/// How long a call is read on whose client has left.
const DRAIN: Duration = Duration::from_secs(120);
/// A provider's count beyond this many times its ceiling is nonsense.
const ABSURD: u64 = 4;

/// Why the reading of the provider ended.
enum End {
    Complete,
    /// The provider went on beyond the bound it was given.
    Ceiling,
    ClientGone,
    Stopped(Stop),
    Failed(UpstreamFailure),
}

/// What the store has of a turn that is over.
pub enum Stored {
    Nothing,
    /// These messages, since then; and where they have left the session, if that is known.
    Turn(Vec<Message>, EpochMs, Option<Found>),
    /// The commit is late.
    Unknown,
}

/// Copies a reply from the provider to the turn's log and settles what was consumed; answers what was stored. The turn's
/// place among its key's calls is free before anybody hears of the end.
pub async fn relay(
    turn: &Turn,
    opened: Box<Opened>,
    permit: Permit,
    events: &mut Entered,
    mut stop: oneshot::Receiver<Stop>,
    started: Instant,
) -> Stored {
    let Opened { asked, mut hold, debit, prompt, ceiling } = unboxed(opened);
    let Asked { mut first, mut ticket, mut meter, shown, drains, between, deadline, .. } = asked;
    let ttft = started.elapsed();
    let end = match first.chunks.take() {
        None => End::Complete,
        Some(mut chunks) => {
            // A first chunk is at most one delta.
            let waiting = first.pending.pop().map(TurnEvent::Delta);
            let mut reading = Reading {
                first: &mut first,
                hold: &mut hold,
                prompt: &prompt,
                ceiling,
                waiting,
                goes_on: turn.on_disconnect == OnDisconnect::Continue,
                heard: tokio::time::Instant::now(),
                blocked: false,
                between,
                deadline,
            };
            // The stream is dropped here: whatever ended the reading, the provider's call ends with it.
            match reading.run(&mut chunks, events, &mut stop).await {
                End::ClientGone if reading.first.reply.received() => match drains.and_then(|all| all.enter())
                {
                    Some(_place) => reading.drain(&mut chunks, events, &mut stop).await,
                    None => End::ClientGone,
                },
                end => end,
            }
        }
    };
    match &end {
        End::Complete | End::Ceiling => meter.answered(),
        End::Stopped(why) => meter.stopped(*why),
        End::Failed(failure) => {
            meter.failed(&failure.kind);
            ticket.failed(&failure.kind);
        }
        End::ClientGone => {}
    }
    drop((meter, ticket));
    if !first.reply.received() && !matches!(end, End::Complete) {
        let released = hold.release("nothing received").await;
        if !matches!(end, End::ClientGone) {
            debit.used(0);
        }
        if let Some(error) = failure(end).or(released.err()) {
            drop(permit);
            events.write(TurnEvent::Failed(Box::new(error)));
        }
        return Stored::Nothing;
    }
    let complete = matches!(end, End::Complete | End::Ceiling);
    let (usage, source) = count(&first.reply, &prompt, hold.prompt_max(), ceiling);
    let reply = first.reply.message();
    let stored = StoredTurn {
        messages: prompt.new.iter().map(|message| message.raw.text().into_owned()).collect(),
        reply: reply.text().into_owned(),
        metadata: turn.metadata.as_ref().map(|raw| raw.text().into_owned()),
        completeness: if complete { Completeness::Complete } else { Completeness::Incomplete },
        opening: prompt.opening(turn, &reply),
    };
    debit.used(usage.total());
    // The last frames say that the turn was charged, so they wait for the commit. If it is late, the ledger goes
    // on trying; what the client is told is that the end is not known.
    let answer =
        (complete && turn.idempotency.is_some()).then(|| kept(turn, &first, &prompt, shown, (ttft, started)));
    let served = hold.served().cloned();
    let settlement = Settlement { usage, source, served, turn: Some(stored), summary: None, answer };
    crate::failpoint::hit("all received");
    // In a box: it is as large as all the rest, and soon over.
    let settled = Box::pin(hold.settle(settlement, COMMIT_WAIT)).await;
    let (committed, place) = (settled.is_ok(), settled.as_ref().ok().and_then(|closed| closed.place));
    metrics::turn_ended(turn.stream.then_some(ttft), started.elapsed());
    crate::failpoint::hit("settle committed");
    let last = match (settled, failure(end)) {
        (Err(error), _) | (Ok(_), Some(error)) => TurnEvent::Failed(Box::new(error)),
        (Ok(closed), None) => TurnEvent::Ended(Arc::new(Ended {
            tail: first.take_tail(),
            outline: first.reply.take_outline(),
            plain: !turn.stream,
            usage_chunk: Some(first.take_usage_chunk()),
            usage: closed.usage,
            usage_raw: first.reply.usage_raw().filter(|_| source == UsageSource::Upstream).map(Raw::alone),
            charged: Nanos(closed.charged.0.saturating_add(closed.earlier.0)),
            balance: closed.balance,
            finish_reason: first.reply.finish_reason().map(str::to_owned),
            content: first.reply.content().filter(|_| !turn.stream).map(str::to_owned),
            ttft_ms: millis(ttft),
            duration_ms: millis(started.elapsed()),
        })),
    };
    // Before anybody hears of the end: who does may be a while ahead already.
    let now = clock::now_ms();
    drop(permit);
    events.write(last);
    crate::failpoint::hit("final frame handed over");
    if !committed {
        return Stored::Unknown;
    }
    Stored::Turn(prompt.new.into_iter().chain([Message::stored(reply)]).collect(), now, place)
}

/// Moves a value out; its box is gone then, and not kept by who goes on with the value.
#[expect(clippy::boxed_local, reason = "it ends the box, which would stay as long as a variable that had it")]
fn unboxed<T>(boxed: Box<T>) -> T {
    *boxed
}

/// The whole answer, for being given again.
fn kept(
    turn: &Turn,
    first: &First,
    prompt: &Prompt,
    served: Arc<str>,
    (ttft, started): (Duration, Instant),
) -> String {
    let raw = |raw: &Raw| RawValue::from_string(raw.text().into_owned()).ok();
    let body =
        if turn.stream { first.reply.as_completion() } else { first.tail.first().cloned().map(Raw::trusted) };
    let kept = Kept {
        completion: turn.completion.to_string(),
        session: turn.session.to_string(),
        matched: prompt.matched,
        dropped: prompt.dropped,
        served: Some(served.to_string()),
        body: body.as_ref().and_then(raw).unwrap_or_default(),
        usage: first.reply.usage_raw().and_then(raw),
        finish_reason: first.reply.finish_reason().map(str::to_owned),
        content: first.reply.content().map(str::to_owned),
        ttft_ms: millis(ttft),
        duration_ms: millis(started.elapsed()),
        created: Some(first.completer.created().unwrap_or(turn.form.created)),
    };
    Raw::of(&kept).text().into_owned()
}

struct Reading<'a> {
    first: &'a mut First,
    hold: &'a mut crate::billing::Hold,
    prompt: &'a Prompt,
    ceiling: u64,
    /// The event that waits for room in the log.
    waiting: Option<TurnEvent>,
    /// Whether the turn goes on when nobody reads it any more.
    goes_on: bool,
    /// When the provider was last heard of, or first read again after a wait for room.
    heard: tokio::time::Instant,
    /// Whether it is not read, since the readers have enough to take.
    blocked: bool,
    between: Duration,
    deadline: tokio::time::Instant,
}

/// What a turn does next.
enum Step {
    /// There is room for the event that waits for it.
    Write(TurnEvent),
    /// What the provider sent.
    Take(Option<Result<Event, UpstreamFailure>>),
}

impl Reading<'_> {
    /// Reads on to the usage: the provider bills all of it anyway. What goes wrong then is nobody's news.
    async fn drain(
        &mut self,
        chunks: &mut Chunks,
        events: &mut Entered,
        stop: &mut oneshot::Receiver<Stop>,
    ) -> End {
        self.goes_on = true;
        self.deadline = self.deadline.min(tokio::time::Instant::now() + DRAIN);
        match self.run(chunks, events, stop).await {
            End::Failed(_) => End::ClientGone,
            end => end,
        }
    }

    async fn run(
        &mut self,
        chunks: &mut Chunks,
        events: &mut Entered,
        stop: &mut oneshot::Receiver<Stop>,
    ) -> End {
        let log = events.log().clone();
        let mut checkpoint = next_checkpoint(tokio::time::Instant::now());
        // One timer for all that may be due. It is not moved at each chunk: when it rings, it is asked what for.
        let mut timer = pin!(sleep_until(checkpoint.min(self.limit())));
        let mut noted = false;
        loop {
            self.mark();
            let step = tokio::select! {
                biased;
                () = log.abandoned(), if !self.goes_on => return End::ClientGone,
                Ok(why) = &mut *stop => return End::Stopped(why),
                () = &mut timer => {
                    let now = tokio::time::Instant::now();
                    if now >= checkpoint {
                        let received = self.first.reply.received();
                        self.hold.checkpoint((received && !noted).then(|| self.prompt.said()));
                        noted |= received;
                        log.sweep();
                        checkpoint = next_checkpoint(now);
                    }
                    if now >= self.limit() {
                        return End::Failed(UpstreamFailure::new(UpstreamKind::Timeout, "a stalled stream"));
                    }
                    timer.as_mut().reset(checkpoint.min(self.limit()));
                    continue;
                }
                step = self.step(&log, chunks) => step,
            };
            let item = match step {
                Step::Write(event) => {
                    events.write(event);
                    crate::failpoint::hit("delta passed on");
                    continue;
                }
                Step::Take(item) => item,
            };
            let chunk = match item {
                Some(Ok(Event::Chunk(chunk))) => chunk,
                Some(Ok(Event::Alive)) => continue,
                // Some providers leave out the protocol's end, but a whole answer always says why it ended.
                Some(Ok(Event::Done)) | None if self.first.reply.finished() => return End::Complete,
                Some(Ok(Event::Done)) | None => {
                    let failure = UpstreamFailure::new(UpstreamKind::Invalid, "the stream ended early");
                    return End::Failed(failure);
                }
                Some(Err(failure)) => return End::Failed(failure),
            };
            match self.first.take(chunk) {
                Ok(_) if !self.first.reply.finished() && self.first.reply.output_floor() > self.ceiling => {
                    let cut = br#"[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]"#;
                    let cut = self.first.completer.chunk_of(cut);
                    self.first.tail.push(cut);
                    return End::Ceiling;
                }
                Ok(None) => {}
                Ok(Some(delta)) => {
                    let event = TurnEvent::Delta(delta);
                    if log.has_room(weight(&event)) {
                        events.write(event);
                        crate::failpoint::hit("delta passed on");
                    } else {
                        self.waiting = Some(event);
                    }
                }
                Err(failure) => return End::Failed(failure),
            }
        }
    }

    /// Waits for room for the event that waits for it; without one, for the provider, once there is any room. So what
    /// the readers do not take is at most one event of the provider's beyond the log's bound.
    ///
    /// Loses nothing when it is dropped.
    async fn step(&mut self, log: &Log, chunks: &mut Chunks) -> Step {
        let needed = self.waiting.as_ref().map_or(0, weight);
        self.blocked = !log.has_room(needed);
        if self.blocked {
            log.room(needed).await;
            self.blocked = false;
            self.heard = tokio::time::Instant::now();
        }
        if let Some(event) = self.waiting.take() {
            return Step::Write(event);
        }
        let item = chunks.next().await;
        self.heard = tokio::time::Instant::now();
        Step::Take(item)
    }

    /// When the provider is late: with its next chunk, or with all of them. One that is not read is not slow.
    fn limit(&self) -> tokio::time::Instant {
        if self.blocked { self.deadline } else { self.deadline.min(self.heard + self.between) }
    }

    /// Keeps the hold's marks up to date, so that a crash or a panic charges no more than was received.
    fn mark(&mut self) {
        if self.first.reply.received() {
            let output = self.first.reply.output_floor();
            self.hold.mark(Usage { prompt: self.prompt.floor_tokens(), cached: 0, output });
        }
    }
}

/// When a stream's marks are written down next.
fn next_checkpoint(now: tokio::time::Instant) -> tokio::time::Instant {
    let ahead = TOGETHER_MS - clock::now_ms().rem_euclid(TOGETHER_MS);
    now + CHECKPOINT + Duration::from_millis(ahead.unsigned_abs())
}

/// What the client is told of an end that was none.
fn failure(end: End) -> Option<Error> {
    match end {
        End::Complete | End::Ceiling => None,
        // For a reader that comes back.
        End::ClientGone => Some(Error::Stopped(Stop::Cancelled)),
        End::Stopped(why) => Some(Error::Stopped(why)),
        End::Failed(failure) => {
            let (kind, cause, said) = (failure.kind.word(), &failure.cause, failure.told());
            tracing::warn!(kind, %cause, said, "the provider failed in mid-stream");
            Some(failure.into())
        }
    }
}

/// The provider's count, or ours where it told none or nonsense; ours never exceeds what the hold covers. Of an answer
/// that was cut the provider may have told the prompt, which then need not be guessed.
pub fn count(reply: &Reply, prompt: &Prompt, prompt_max: u64, ceiling: u64) -> (Usage, UsageSource) {
    let sane = |usage: &Usage| {
        usage.prompt <= prompt_max.saturating_mul(ABSURD) && usage.output <= ceiling.saturating_mul(ABSURD)
    };
    match reply.usage() {
        Some(usage) if sane(&usage) => {
            prompt.counted(usage.prompt);
            return (usage, UsageSource::Upstream);
        }
        Some(usage) => tracing::error!(?usage, "the provider's usage is absurd; counted here instead"),
        None => {}
    }
    if !reply.received() {
        return (Usage::default(), UsageSource::Local);
    }
    let guessed = Usage { prompt: prompt.likely_tokens(), cached: 0, output: 0 };
    let told = reply.prompt_told().filter(sane).unwrap_or(guessed);
    let usage = Usage {
        prompt: told.prompt.min(prompt_max),
        cached: told.cached.min(prompt_max),
        output: reply.estimated_output().min(ceiling),
    };
    (usage, UsageSource::Local)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
