//! Clients whose server dies under them, and what has to be true of the books afterwards.

use std::collections::HashMap;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::app::{App, nanos};
use crate::client::Call;
use crate::database::{Hold, Snapshot};
use crate::script::{Reply, Script};
use crate::upstream::Recorded;

/// What the demo account starts with.
pub const START: i64 = 5_000_000_000;

/// By contract a crash costs the operator about two seconds of tokens; the rest is for slow machines.
const MOST_LOST: Duration = Duration::from_secs(2 + 5);

/// What so many tokens cost at the price of the scripted model.
pub fn price(prompt: i64, output: i64) -> i64 {
    prompt * 1_000 + output * 2_000
}

/// What the scripted provider says that a prompt is: a quarter of its bytes.
pub fn prompt_told(request: &Recorded) -> i64 {
    i64::try_from(request.raw.len() / 4).unwrap_or(i64::MAX)
}

/// An answer that says the request's text again in so many pieces, each of at least one token.
pub fn echo(request: &Recorded, pieces: usize) -> Reply {
    let reply = Reply { pieces: vec![request.last_text(); pieces], ..Reply::says(&[]) };
    reply.usage(prompt_told(request), pieces as i64)
}

/// One turn, as its client knows it.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The session.
    pub session: String,
    /// What the client said.
    pub text: String,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// The id of the answer, if its head was seen.
    pub completion: Option<String>,
    /// How many pieces of it were seen.
    pub pieces: usize,
    /// Whether the end of it was seen.
    pub whole: bool,
    /// Whether it was an answer that had been given before.
    pub replayed: bool,
}

impl Turn {
    /// A turn that is still to be run.
    pub fn new(session: &str, text: &str, stream: bool) -> Self {
        Self {
            session: session.to_owned(),
            text: text.to_owned(),
            stream,
            completion: None,
            pieces: 0,
            whole: false,
            replayed: false,
        }
    }

    /// The request, always with the same idempotency key.
    pub fn call(&self, app: &App) -> Call {
        let more = json!({"session_id": self.session, "stream": self.stream, "max_tokens": 2_000});
        app.chat_call(&app.saying(&self.text, more)).header("Idempotency-Key", self.text.trim())
    }

    /// Runs it to its end or to the end of the server; tells `events` of each event.
    pub fn run(&mut self, app: &App, events: &Sender<()>) {
        let Ok(mut stream) = self.call(app).try_open() else { return };
        let head = |name: &str| stream.headers.find(name).map(str::to_owned);
        assert_eq!(stream.status, 200, "{self:?}");
        self.completion = head("x-completion-id");
        self.replayed = head("idempotent-replayed").is_some();
        if !self.stream {
            self.whole = stream.into_answer().is_ok();
            let _ = events.send(());
            return;
        }
        while let Ok(Some(event)) = stream.try_event() {
            self.whole = event.is_done();
            self.pieces += usize::from(event.data.contains(self.text.trim()));
            let _ = events.send(());
        }
    }

    /// Runs it once more, with the key that it had.
    pub fn again(&self, app: &App) -> Self {
        let mut again = Self::new(&self.session, &self.text, self.stream);
        again.run(app, &std::sync::mpsc::channel().0);
        assert!(again.whole, "{self:?} is not answered after the restart");
        again
    }
}

/// How much is asked at once, and for how long.
#[derive(Clone, Copy)]
pub struct Load {
    /// Clients at once, each in a session of its own.
    pub clients: usize,
    /// The turns that each of them runs, one after the other.
    pub turns: usize,
}

impl Load {
    /// Runs until all is said or the server is gone, doing `meanwhile` beside it. The last turn of a client may
    /// be unfinished.
    pub fn run(self, app: &App, name: &str, events: Sender<()>, meanwhile: impl FnOnce()) -> Vec<Turn> {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|client| {
                    let (session, events) = (format!("{name}-{client}"), events.clone());
                    scope.spawn(move || self.client(app, client, &session, &events))
                })
                .collect();
            // Else whoever listens would wait for more when all clients are done.
            drop(events);
            meanwhile();
            clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
        })
    }

    fn client(self, app: &App, client: usize, session: &str, events: &Sender<()>) -> Vec<Turn> {
        let mut ran = Vec::new();
        for number in 0..self.turns {
            let stream = !(client + number).is_multiple_of(3);
            let mut turn = Turn::new(session, &format!("{session}-{number} "), stream);
            turn.run(app, events);
            let whole = turn.whole;
            ran.push(turn);
            if !whole {
                break;
            }
        }
        ran
    }
}

/// What crashes cost and how often they came.
#[derive(Default)]
pub struct Tally {
    /// Turns that clients began.
    pub turns: usize,
    /// Those that they saw the end of.
    pub whole: usize,
    /// Holds that a crash left open, without and with a checkpoint.
    pub released: usize,
    /// As above.
    pub recovered: usize,
    /// Answers that were asked again and given again.
    pub replayed: usize,
    /// The most tokens that one call cost the operator.
    pub most_lost: usize,
}

/// Everything that has to be true after a crash. `before` is what the dead server left, `ran` what its clients saw;
/// the server runs again. Every turn that was not answered is asked again.
pub fn check(app: &App, before: &Snapshot, ran: &[Turn], died: Instant, tally: &mut Tally) {
    let after = Snapshot::live(app);
    assert_eq!(after.held, 0, "money stays held");
    app.verify_ledger();
    assert_eq!(app.balance().held, 0);
    let requests = app.upstream.requests();
    for hold in before.holds.values() {
        let now = &after.holds[&hold.id];
        if hold.state != "open" {
            assert_eq!(now, hold, "a hold that was closed is changed by the restart");
            continue;
        }
        let unfinished = ran.iter().find(|turn| turn.session == hold.session && !turn.whole);
        let sent = unfinished.map(|turn| pieces_sent(app, &requests, turn)).unwrap_or_default();
        recovered_as_marked(hold, now, &sent, died);
        tally.released += usize::from(hold.mark_prompt == 0);
        tally.recovered += usize::from(hold.mark_prompt > 0);
        tally.most_lost = tally.most_lost.max(sent.len() - usize::try_from(hold.mark_output).unwrap_or(0));
    }
    assert_eq!(after.holds.len(), before.holds.len(), "the restart made a hold");
    let newly = before.in_state("open").filter(|hold| hold.mark_prompt > 0).count();
    assert_eq!(after.entries.len(), before.entries.len() + newly);
    assert!(before.entries.iter().all(|entry| after.entries.contains(entry)), "an entry is changed or lost");
    finished_turns_are_charged(before, ran, &requests);
    tally.turns += ran.len();
    tally.whole += ran.iter().filter(|turn| turn.whole).count();
    let unfinished: Vec<&Turn> = ran.iter().filter(|turn| !turn.whole).collect();
    let again: Vec<Turn> = thread::scope(|scope| {
        let tries: Vec<_> = unfinished.iter().map(|turn| scope.spawn(|| turn.again(app))).collect();
        tries.into_iter().map(|again| again.join().expect("an answer after the restart")).collect()
    });
    for (turn, again) in unfinished.into_iter().zip(again) {
        // A turn that ended without its client's knowing is given again, any other is a new one.
        let whole = ran.iter().filter(|other| other.session == turn.session && other.whole).count();
        let settled = before.in_state("settled").filter(|hold| hold.session == turn.session).count();
        assert!(settled <= whole + 1, "{turn:?} is charged more than once");
        assert_eq!(again.replayed, settled == whole + 1, "{again:?} after {turn:?}");
        if again.replayed && turn.completion.is_some() {
            assert_eq!(again.completion, turn.completion);
        }
        tally.replayed += usize::from(again.replayed);
    }
    each_answer_is_charged_once(app);
}

/// When the pieces of a streamed answer were sent.
fn pieces_sent(app: &App, requests: &[Recorded], turn: &Turn) -> Vec<Instant> {
    let asked = requests.iter().rposition(|request| request.last_text() == turn.text);
    asked.map(|at| app.upstream.sent(at)).unwrap_or_default()
}

fn recovered_as_marked(before: &Hold, after: &Hold, sent: &[Instant], died: Instant) {
    assert_eq!(after.reason.as_deref(), Some("crash"), "{after:?}");
    if before.mark_prompt == 0 {
        assert_eq!((after.state.as_str(), after.charged), ("released", None), "{after:?}");
    } else {
        assert_eq!(after.state, "settled", "{after:?}");
        assert_eq!((after.prompt, after.output), (Some(before.mark_prompt), Some(before.mark_output)));
        assert_eq!(after.source.as_deref(), Some("recovered"));
        assert_eq!(after.charged, Some(price(before.mark_prompt, before.mark_output)));
        assert_eq!(after.written_off, Some(0));
    }
    let marked = usize::try_from(before.mark_output).expect("a count");
    assert!(marked <= sent.len(), "{marked} tokens are charged, and {} were sent: {after:?}", sent.len());
    let long_ago = sent.iter().filter(|sent| died.saturating_duration_since(**sent) > MOST_LOST).count();
    assert!(marked >= long_ago, "{long_ago} tokens are older than {MOST_LOST:?}, {marked} are charged");
}

/// Whoever saw the end of an answer was charged for it before the crash, and for nothing else.
fn finished_turns_are_charged(before: &Snapshot, ran: &[Turn], requests: &[Recorded]) {
    let by_completion: HashMap<&str, &Hold> =
        before.in_state("settled").map(|hold| (hold.completion.as_str(), hold)).collect();
    for turn in ran.iter().filter(|turn| turn.whole && !turn.replayed) {
        let id = turn.completion.as_deref().expect("a whole answer has an id");
        let hold =
            by_completion.get(id).unwrap_or_else(|| panic!("the end of {id} was seen before its charge"));
        let asked: Vec<_> = requests.iter().filter(|request| request.last_text() == turn.text).collect();
        assert_eq!(asked.len(), 1, "the provider was asked again for {}", turn.text);
        assert_eq!(hold.prompt, Some(prompt_told(asked[0])));
        let output = hold.output.expect("a settled hold has a usage record");
        assert!(!turn.stream || output == turn.pieces as i64, "{turn:?} is charged for {output} pieces");
        assert_eq!(hold.charged, Some(price(prompt_told(asked[0]), output)));
    }
}

/// No answer has two charges, and the balance is what the charges leave.
pub fn each_answer_is_charged_once(app: &App) {
    let now = Snapshot::live(app);
    let mut charged: HashMap<&str, usize> = HashMap::new();
    for entry in now.charges() {
        let hold = &now.holds[entry.hold.as_deref().expect("a charge has a hold")];
        assert_eq!(hold.charged, Some(-entry.delta));
        *charged.entry(hold.completion.as_str()).or_default() += 1;
    }
    assert!(charged.values().all(|times| *times == 1), "an answer is charged twice: {charged:?}");
    let spent: i64 = now.charges().iter().map(|entry| entry.delta).sum();
    let body = app.get(&app.account_key, "/v2/billing/balance").ok();
    assert_eq!(nanos(&body["balance"]), START + spent);
}

/// Quick echoes.
pub fn quick(pieces: usize, gap: Duration) -> impl Fn(&Recorded) -> Script + Send + Sync + 'static {
    move |request| echo(request, pieces).gap(gap).into()
}
