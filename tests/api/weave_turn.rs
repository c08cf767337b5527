//! One turn of the weave: how it is asked for, who reads it, and what it may come to.

use std::net::TcpStream;

use serde_json::{Value, json};

use crate::client::{Event, Stream};
use crate::random::Random;
use crate::script::{Counts, Reply};
use crate::upstream::{Leash, Recorded};

/// How a turn ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Completed,
    Cancelled,
    Interrupted,
    Failed,
}

impl Outcome {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

/// How a turn is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Whether the answer is streamed.
    pub stream: bool,
    /// The dialect of its stream.
    pub native: bool,
    /// Whether the usage is asked for.
    pub usage: bool,
    /// Whether it goes on without its client.
    pub goes_on: bool,
    /// Whether the provider counts on every chunk, or at the end alone.
    pub counts_each: bool,
}

impl Way {
    /// Any.
    pub fn any(random: &mut Random) -> Self {
        Self {
            stream: random.chance(75),
            native: random.chance(40),
            usage: random.chance(40),
            goes_on: random.chance(35),
            counts_each: random.chance(50),
        }
    }
}

/// Somebody who reads a stream, and how many of its events he has had.
pub struct Reader {
    stream: Stream,
    /// The number of events.
    pub at: usize,
}

/// Who asked.
pub enum Client {
    /// No byte of the answer was read yet.
    Unread(TcpStream),
    /// A stream that has begun.
    Reading(Reader),
    /// It has left.
    Gone,
}

/// Where a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Running,
    Over,
}

/// A turn.
pub struct Turn {
    pub number: usize,
    pub session: String,
    pub way: Way,
    pub state: State,
    /// What the provider says.
    pub pieces: Vec<String>,
    /// What the provider says in the end that it took.
    pub told: (i64, i64),
    /// What the prompt is taken for where the provider does not say it.
    pub guessed: i64,
    /// Leads the provider. Its first step is the role, each other one a piece.
    pub leash: Leash,
    /// Steps that the provider was let go.
    pub sent: usize,
    /// Steps that the server has surely taken in.
    pub sure: usize,
    /// Whether the provider was told to end whole.
    pub ending: bool,
    /// Which of the provider's requests it is.
    pub request: Option<usize>,
    pub completion: Option<String>,
    pub client: Client,
    pub readers: Vec<Reader>,
    /// Every event that anybody has read: the same for all.
    pub events: Vec<Event>,
    /// Whether it was ended from outside, or surely read: then it is known after its end.
    pub known: bool,
    pub outcome: Option<Outcome>,
}

impl Reader {
    /// Somebody who has had `at` events already.
    pub fn new(stream: Stream, at: usize) -> Self {
        Self { stream, at }
    }

    /// Reads one event, which is the next one that anybody else gets here, too; `false` at the end.
    pub fn read(&mut self, events: &mut Vec<Event>) -> bool {
        let Some(event) = self.stream.event() else {
            assert_eq!(self.at, events.len(), "a stream ends before its end");
            assert!(events.last().is_some_and(is_last), "a stream ends without a last event: {events:?}");
            return false;
        };
        match events.get(self.at) {
            Some(known) => assert_eq!(event, *known, "event {} is another one for another reader", self.at),
            None => {
                let before = events.last().map(place);
                assert!(before < Some(place(&event)), "{event:?} comes after {before:?}");
                events.push(event);
            }
        }
        self.at += 1;
        true
    }

    /// Reads everything up to the end.
    pub fn finish(mut self, events: &mut Vec<Event>) {
        while self.read(events) {}
    }
}

/// The order of an event's id.
fn place(event: &Event) -> (u64, u32) {
    let (entries, parts) = event.id().split_once('.').unwrap_or((event.id(), "0"));
    (entries.parse().expect("a number"), parts.parse().expect("a number"))
}

/// The text that an event brings, in either dialect.
fn text(event: &Event) -> String {
    let value = event.json_or_null();
    let text =
        if value["type"] == "content" { &value["data"] } else { &value["choices"][0]["delta"]["content"] };
    text.as_str().unwrap_or_default().to_owned()
}

/// How many pieces the events bring.
fn count(events: &[Event]) -> usize {
    events.iter().filter(|event| !text(event).is_empty()).count()
}

fn is_last(event: &Event) -> bool {
    let value = event.json_or_null();
    event.is_done() || value["type"] == "done" || !value["error"].is_null()
}

impl Turn {
    /// A turn that nobody has asked for yet.
    pub fn new(number: usize, session: &str, leash: Leash, random: &mut Random) -> Self {
        let way = Way::any(random);
        let pieces: Vec<String> =
            (0..=random.below(6)).map(|piece| format!("answer {number}.{piece} ")).collect();
        // A count at the end that is not what was counted on the way shows which of them is charged.
        let more = if way.counts_each { 0 } else { 7 };
        let told = (random.between(5, 60), pieces.len() as i64 + more);
        Self {
            number,
            session: session.to_owned(),
            way,
            state: State::Waiting,
            pieces,
            told,
            guessed: 0,
            leash,
            sent: 0,
            sure: 0,
            ending: false,
            request: None,
            completion: None,
            client: Client::Gone,
            readers: Vec::new(),
            events: Vec::new(),
            known: false,
            outcome: None,
        }
    }

    /// What its client says.
    pub fn said(&self) -> String {
        format!("say {}", self.number)
    }

    /// The fields of its request beside what is said.
    pub fn fields(&self) -> Value {
        let Way { stream, native, usage, .. } = self.way;
        let mut fields = json!({"session_id": self.session, "max_tokens": 100, "stream": stream});
        if stream {
            fields["stream_format"] = json!(if native { "native" } else { "openai" });
            if usage {
                fields["stream_options"] = json!({"include_usage": true});
            }
        }
        fields
    }

    /// What the provider answers.
    pub fn reply(&self) -> Reply {
        let counts = if self.way.counts_each { Counts::OnEveryChunk } else { Counts::AtTheEnd };
        let reply = Reply { pieces: self.pieces.clone(), ..Reply::says(&[]) };
        reply.usage(self.told.0, self.told.1).counts(counts)
    }

    /// The id of its answer.
    pub fn id(&self) -> &str {
        self.completion.as_deref().expect("a turn that has begun")
    }

    /// Takes in what the provider was asked.
    pub fn asked(&mut self, request: usize, recorded: &Recorded) {
        let messages = recorded.body["messages"].as_array().expect("messages");
        let bytes: usize =
            messages.iter().filter_map(|message| message["content"].as_str()).map(str::len).sum();
        self.guessed = (bytes.div_ceil(4) + messages.len()) as i64;
        self.request = Some(request);
        self.state = State::Running;
    }

    /// How many read it now, as the server counts.
    pub fn present(&self) -> usize {
        let first = !matches!(self.client, Client::Gone) && self.way.stream && self.sent > 0;
        self.readers.len() + usize::from(first)
    }

    /// How many of those there are whose leaving is noticed: those who read, and who asked.
    pub fn audience(&self) -> usize {
        self.readers.len() + usize::from(!matches!(self.client, Client::Gone))
    }

    /// Steps to the end of what the provider says.
    pub fn steps(&self) -> usize {
        1 + self.pieces.len()
    }

    /// The head of a stream comes with the provider's first event.
    pub fn read_head(&mut self) {
        if let Client::Unread(_) = &self.client
            && let Client::Unread(connection) = std::mem::replace(&mut self.client, Client::Gone)
        {
            let stream = Stream::read(connection).expect("a head").ok();
            assert_eq!(stream.headers.required("x-completion-id"), self.id());
            assert_eq!(stream.headers.required("x-session-id"), self.session);
            self.client = Client::Reading(Reader::new(stream, 0));
        }
    }

    /// Someone reads up to the piece of this number.
    pub fn read_to(&mut self, who: usize, pieces: usize) {
        let reader = match &mut self.client {
            Client::Reading(reader) if who >= self.readers.len() => reader,
            _ => &mut self.readers[who],
        };
        while count(&self.events[..reader.at]) < pieces {
            assert!(reader.read(&mut self.events), "a stream ends before piece {pieces}");
        }
        self.sure = self.sure.max(1 + pieces);
    }

    /// How many can read now.
    pub fn reading(&self) -> usize {
        self.readers.len() + usize::from(matches!(self.client, Client::Reading(_)))
    }

    /// The text up to this piece.
    pub fn content(&self, pieces: usize) -> String {
        self.pieces[..pieces].concat()
    }

    /// How many pieces a turn that was cut may have come to.
    pub fn may_have_come_to(&self) -> std::ops::RangeInclusive<usize> {
        self.sure.saturating_sub(1)..=self.sent.saturating_sub(1)
    }

    /// Whether one that was cut may have come to nothing at all: no word, and no count.
    pub fn may_be_nothing(&self) -> bool {
        self.sure <= usize::from(!self.way.counts_each)
    }

    /// Whether one that was cut may have come to so many pieces, and be stored.
    pub fn may_be_stored(&self, pieces: usize) -> bool {
        let counted = self.way.counts_each && self.sent > 0;
        self.may_have_come_to().contains(&pieces) && (pieces > 0 || counted)
    }

    /// The tokens that are charged for so many pieces of a cut turn.
    pub fn tokens(&self, pieces: usize) -> (i64, i64) {
        match self.way.counts_each {
            true => (self.told.0, pieces as i64),
            false => (self.guessed, self.content(pieces).len().div_ceil(4) as i64),
        }
    }

    /// Checks the stream of a turn that is over, if anybody has read it to its end.
    pub fn check_events(&self, outcome: Outcome) {
        let said = self.events.iter().map(text).collect::<String>();
        let Some(last) = self.events.last().filter(|event| is_last(event)) else { return };
        let ends = self.events.iter().filter(|event| is_last(event)).count();
        let finished = |event: &&Event| {
            let value = event.json_or_null();
            let reason = [&value["choices"][0]["finish_reason"], &value["metrics"]["finish_reason"]];
            reason.iter().any(|reason| !reason.is_null())
        };
        let finished = self.events.iter().filter(finished).count();
        assert_eq!(ends, 1, "{:?}", self.events);
        let told = last.json_or_null()["error"].clone();
        match outcome {
            Outcome::Completed => {
                assert_eq!((said, finished), (self.content(self.pieces.len()), 1), "{:?}", self.events);
                assert!(told.is_null(), "{told}");
                assert!(!self.way.stream || count(&self.events) == self.pieces.len(), "{:?}", self.events);
            }
            cut => {
                let pieces = count(&self.events);
                assert_eq!((said, finished), (self.content(pieces), 0), "{:?}", self.events);
                assert!(
                    self.may_have_come_to().contains(&pieces),
                    "{pieces} pieces were read of a turn that was cut"
                );
                let code = told["code"].as_str().unwrap_or_default();
                assert!(cut == Outcome::Failed || code == cut.word(), "{told} ends a turn that was {cut:?}");
            }
        }
    }

    /// How many pieces its readers have had.
    pub fn pieces_read(&self) -> usize {
        count(&self.events)
    }
}
