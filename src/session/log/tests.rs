//! The log against a plain model of it, and its waking of those who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::packed::{BLOCK, LARGE};
use super::tape::{AHEAD, BATCH, ENTRY, KEPT, Read, STALL_LIMIT, Tape};
use super::*;
use crate::error::{Error, Stop};

/// Random numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Mostly tokens, now and then something as large as an image.
    fn size(&mut self) -> usize {
        let bound = match self.below(40) {
            0..30 => 300,
            30..36 => 20_000,
            36..39 => AHEAD as u64,
            _ => 2 * KEPT as u64,
        };
        usize::try_from(self.below(bound)).expect("small")
    }
}

fn delta(number: usize, size: usize) -> TurnEvent {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(size.max(8), b'x');
    TurnEvent::Delta(bytes.into())
}

/// A chunk like most of them.
fn saying(text: &str) -> TurnEvent {
    let around = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":{"content":"TEXT"},"logprobs":null,"finish_reason":null}]}"#;
    TurnEvent::Delta(around.replace("TEXT", text).into())
}

fn bytes_of(event: &TurnEvent) -> Option<&Bytes> {
    match event {
        TurnEvent::Delta(bytes) => Some(bytes),
        TurnEvent::Ended(_) | TurnEvent::Failed(_) => None,
    }
}

fn number_in(event: &TurnEvent) -> Option<usize> {
    match event {
        TurnEvent::Delta(bytes) => Some(usize::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))),
        TurnEvent::Ended(_) | TurnEvent::Failed(_) => None,
    }
}

fn cancelled() -> TurnEvent {
    TurnEvent::Failed(Box::new(Error::Stopped(Stop::Cancelled)))
}

/// What a tape should do, said as plainly as possible: every event ever written stays here.
#[derive(Default)]
struct Model {
    events: Vec<TurnEvent>,
    weights: Vec<usize>,
    /// How many of the oldest are not kept any more.
    dropped: usize,
    limit: usize,
    ended: bool,
    readers: Vec<ModelReader>,
}

struct ModelReader {
    key: tape::Key,
    got: usize,
    passed: usize,
    busy_since: Option<Instant>,
    stalled: bool,
    lost: bool,
}

impl Model {
    fn present(&self) -> impl Iterator<Item = &ModelReader> {
        self.readers.iter().filter(|reader| !reader.stalled && !reader.lost)
    }

    fn passed(&self) -> usize {
        self.present().map(|reader| reader.passed).max().unwrap_or(self.weights.len())
    }

    fn has_room(&self, weight: usize) -> bool {
        let ahead: usize = self.weights[self.passed()..].iter().sum();
        ahead == 0 || ahead + weight <= AHEAD
    }

    /// Takes note that the oldest ones are not kept any more, of which only so much had to go that `kept` is left.
    fn drop_until(&mut self, dropped: usize, kept: usize) {
        if dropped == self.dropped {
            return;
        }
        assert!(self.dropped < dropped && dropped <= self.passed(), "what nobody has passed on is dropped");
        // Blocks and large chunks go as a whole.
        let one = self.weights[dropped - 1].max(LARGE + BLOCK);
        assert!(kept + one > self.limit, "dropped for nothing");
        // Who needed the first of them is lost then, and what he needed goes as well.
        if let Some(got) = self.present().map(|reader| reader.got).filter(|got| *got < dropped).min() {
            let since: usize = self.weights[got..dropped].iter().sum();
            assert!(kept + since + one > AHEAD, "what a reader needs is dropped");
        }
        self.dropped = dropped;
        self.readers.iter_mut().for_each(|reader| reader.lost |= reader.got < dropped);
    }
}

struct Play {
    random: Random,
    tape: Tape,
    model: Model,
    now: Instant,
}

impl Play {
    fn new(seed: u64) -> Self {
        let model = Model { limit: KEPT, ..Model::default() };
        Self { random: Random(seed), tape: Tape::new(), model, now: Instant::now() }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => self.push(),
            40..80 => self.read(),
            80..88 => self.join(),
            88..92 => self.leave(),
            92..96 => self.now += STALL_LIMIT / 4,
            96..98 => self.sweep(),
            98 => self.keep(),
            _ => {
                if self.random.chance(5) && !self.model.ended {
                    self.write(cancelled());
                }
            }
        }
        self.model.drop_until(usize::try_from(self.tape.first() - 1).expect("small"), self.tape.kept());
        self.agree();
    }

    fn push(&mut self) {
        if self.model.ended {
            return;
        }
        let event = match self.random.below(4) {
            0 => delta(self.model.weights.len(), self.random.size()),
            1 => saying(&"\\n".repeat(usize::try_from(self.random.below(100)).expect("small"))),
            _ => saying(&self.model.weights.len().to_string()),
        };
        // A turn without readers, or one that does not care, writes whatever the room.
        if self.tape.has_room(weight(&event)) || self.random.chance(10) {
            self.write(event);
        }
    }

    fn write(&mut self, event: TurnEvent) {
        self.model.ended = bytes_of(&event).is_none();
        self.model.events.push(event.clone());
        self.model.weights.push(weight(&event));
        for reader in &mut self.model.readers {
            reader.busy_since.get_or_insert(self.now);
        }
        self.tape.push(event, || self.now, Waker::wake);
    }

    fn any_reader(&mut self) -> Option<usize> {
        let count = self.model.readers.len() as u64;
        (count > 0).then(|| usize::try_from(self.random.below(count)).expect("small"))
    }

    fn read(&mut self) {
        let Some(at) = self.any_reader() else { return };
        let (written, ended) = (self.model.weights.len(), self.model.ended);
        let reader = &mut self.model.readers[at];
        let read = self.tape.read(reader.key, self.now, Waker::noop());
        if reader.lost {
            assert!(matches!(read, Read::Lost), "a reader that has fallen out reads on: {read:?}");
            return;
        }
        (reader.passed, reader.stalled) = (reader.got, false);
        match read {
            Read::Event(number, event) => {
                assert_eq!(number, reader.got as u64 + 1, "a gap, or something twice");
                assert_eq!(bytes_of(&event), bytes_of(&self.model.events[reader.got]), "another event");
                reader.got += 1;
                reader.busy_since = Some(self.now);
            }
            Read::Wait => {
                assert!(reader.got == written && !ended, "waits in vain");
                reader.busy_since = None;
            }
            Read::End => {
                assert!(reader.got == written && ended, "ends early");
                reader.busy_since = None;
            }
            Read::Lost => panic!("lost what is kept"),
        }
    }

    fn join(&mut self) {
        let written = self.model.weights.len();
        let entries = self.random.below(written as u64 + 3);
        let parts = u32::from(self.random.chance(20));
        let at = usize::try_from(entries).expect("small");
        let expected = match at {
            _ if at > written || (parts > 0 && at == written) => Err(&Refused::Beyond),
            _ if at < self.model.dropped => Err(&Refused::Gone),
            _ => Ok(()),
        };
        let joined = self.tape.join(EventId { again: false, entries, parts }, self.now);
        assert_eq!(joined.as_ref().map(drop), expected, "at {at} of {written}");
        if let Ok(key) = joined {
            let busy_since = (at < written).then_some(self.now);
            let reader = ModelReader { key, got: at, passed: at, busy_since, stalled: false, lost: false };
            self.model.readers.push(reader);
        }
    }

    fn leave(&mut self) {
        let Some(at) = self.any_reader() else { return };
        let reader = self.model.readers.remove(at);
        self.tape.leave(reader.key);
    }

    fn sweep(&mut self) {
        for reader in &mut self.model.readers {
            reader.stalled |= reader.busy_since.is_some_and(|since| self.now - since >= STALL_LIMIT);
        }
        self.tape.sweep(self.now);
    }

    fn keep(&mut self) {
        self.model.limit = [0, 1_000, KEPT][usize::try_from(self.random.below(3)).expect("small")];
        self.tape.keep(self.model.limit);
    }

    fn agree(&mut self) {
        let model = &self.model;
        assert_eq!(self.tape.present(), model.present().count(), "who is there");
        assert_eq!(self.tape.has_ended(), model.ended);
        assert_eq!(self.tape.is_whole(), model.dropped == 0);
        for weight in [0, 1, 300, AHEAD, 2 * AHEAD] {
            assert_eq!(self.tape.has_room(weight), model.has_room(weight), "room for {weight}");
        }
        let kept = self.tape.kept();
        let as_it_came: usize = model.weights[model.dropped..].iter().sum();
        assert!(kept <= as_it_came + LARGE, "what is packed takes {kept}, as it came {as_it_came}");
        if let Some((last, _)) = self.tape.oldest().filter(|_| kept > model.limit) {
            let needed = model.present().any(|reader| (reader.got as u64) < last);
            assert!((model.passed() as u64) < last || (needed && kept <= AHEAD), "too much is kept");
        }
    }
}

#[test]
fn any_order_of_chunks_and_readers_does_what_the_model_does() {
    for seed in 0..100 {
        let mut play = Play::new(seed);
        for _ in 0..500 {
            play.step();
        }
    }
}

#[test]
fn a_writer_that_waits_for_room_is_never_more_ahead_than_the_bound() {
    let mut tape = Tape::new();
    let now = Instant::now();
    tape.join(EventId::default(), now).expect("a new log");
    let event = || TurnEvent::Delta(Bytes::from_static(&[b'x'; 200]));
    let mut written = 0;
    while tape.has_room(weight(&event())) {
        tape.push(event(), || now, Waker::wake);
        written += 1;
    }
    assert_eq!(written, AHEAD / (200 + ENTRY));
}

#[test]
fn a_slow_reader_loses_its_place_and_a_fast_one_nothing() {
    let mut tape = Tape::new();
    let now = Instant::now();
    let [slow, fast] = [(); 2].map(|()| tape.join(EventId::default(), now).expect("a new log"));
    assert!(matches!(tape.read(slow, now, Waker::noop()), Read::Wait));
    for number in 0..10_000 {
        let event = delta(number, 300);
        assert!(tape.has_room(weight(&event)));
        tape.push(event, || now, Waker::wake);
        let Read::Event(_, event) = tape.read(fast, now, Waker::noop()) else { panic!("no event") };
        assert_eq!(number_in(&event), Some(number));
        assert!(tape.kept() <= KEPT + 400);
    }
    assert!(matches!(tape.read(slow, now, Waker::noop()), Read::Lost));
}

#[test]
fn a_reader_that_takes_nothing_counts_as_gone_and_may_come_back() {
    let mut tape = Tape::new();
    let now = Instant::now();
    let key = tape.join(EventId::default(), now).expect("a new log");
    tape.sweep(now + STALL_LIMIT * 2);
    assert_eq!(tape.present(), 1, "there was nothing to take");
    tape.push(delta(0, AHEAD), || now, Waker::wake);
    tape.sweep(now + STALL_LIMIT - Duration::from_millis(1));
    assert_eq!((tape.present(), tape.has_room(1)), (1, false));
    tape.sweep(now + STALL_LIMIT);
    assert_eq!((tape.present(), tape.has_room(1)), (0, true));
    assert!(matches!(tape.read(key, now, Waker::noop()), Read::Event(1, _)));
    assert_eq!((tape.present(), tape.has_room(1)), (1, false));
}

#[test]
fn what_is_there_is_taken_at_once_up_to_a_weight() {
    let log = Log::new(Arc::new(Budget::new(usize::MAX)));
    let mut reader = log.read().expect("a new log");
    let mut context = Context::from_waker(Waker::noop());
    let mut some = |most: usize| {
        let mut into = VecDeque::new();
        let read = reader.poll_some(&mut context, most, &mut into);
        (read, into.into_iter().map(|(number, _)| number).collect::<Vec<_>>())
    };
    assert_eq!(some(1_000), (Poll::Pending, vec![]));
    (0..5).for_each(|number| log.push(delta(number, 100)));
    let one = 100 + ENTRY;
    assert_eq!(some(1), (Poll::Ready(Some(Ok(()))), vec![1]));
    assert_eq!(some(one + 1), (Poll::Ready(Some(Ok(()))), vec![2, 3]));
    assert_eq!(some(1_000), (Poll::Ready(Some(Ok(()))), vec![4, 5]));
    assert_eq!(some(1_000), (Poll::Pending, vec![]));
    log.push(cancelled());
    assert_eq!(some(1_000), (Poll::Ready(Some(Ok(()))), vec![6]));
    assert_eq!(some(1_000), (Poll::Ready(None), vec![]));
}

#[test]
fn what_is_kept_of_a_stream_is_little_more_than_its_text() {
    assert!(size_of::<TurnEvent>() <= 40, "an event takes {}", size_of::<TurnEvent>());
    let log = Log::new(Arc::new(Budget::new(usize::MAX)));
    let mut reader = log.read().expect("a new log");
    let mut context = Context::from_waker(Waker::noop());
    for number in 0..200 {
        assert!(reader.poll_next(&mut context).is_pending());
        log.push(saying(&format!("{number:04}")));
        assert!(reader.poll_next(&mut context).is_ready());
        let waiting = BATCH * weight(&saying("0000"));
        assert!(log.load().1 <= waiting + BLOCK + 100, "{number}: {}", log.load().1);
    }
    log.push(cancelled());
    drop(reader);
    assert!(log.load().1 <= 200 * 7 + 2 * ENTRY + 200, "{}", log.load().1);
    let mut again = log.read().expect("all of it");
    for number in 0..200 {
        let Poll::Ready(Some(Ok((_, event)))) = again.poll_next(&mut context) else { panic!("no event") };
        assert_eq!(bytes_of(&event), bytes_of(&saying(&format!("{number:04}"))));
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_chunk_wakes_its_reader_once_and_the_turn_never() {
    let budget = Arc::new(Budget::new(KEPT));
    let log = Log::new(budget.clone());
    let mut reader = log.read().expect("a new log");
    let (turn, client) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let (turn_waker, client_waker) = (turn.clone().into(), client.clone().into());
    let mut abandoned = Box::pin(log.abandoned());
    assert!(abandoned.as_mut().poll(&mut Context::from_waker(&turn_waker)).is_pending());
    let mut context = Context::from_waker(&client_waker);
    for number in 0..100 {
        assert!(reader.poll_next(&mut context).is_pending());
        log.push(delta(number, 100));
        assert!(reader.poll_next(&mut context).is_ready());
    }
    assert_eq!(client.0.load(Ordering::Relaxed), 100);
    assert_eq!(turn.0.load(Ordering::Relaxed), 0);
    let used = budget.used.load(Ordering::Relaxed);
    assert!(used == log.load().1 && used < 100 * (100 + ENTRY), "{used}");
    drop(reader);
    assert_eq!(turn.0.load(Ordering::Relaxed), 1);
    assert!(abandoned.as_mut().poll(&mut Context::from_waker(&turn_waker)).is_ready());
    drop(abandoned);
    drop(log);
    assert_eq!(budget.used.load(Ordering::Relaxed), 0, "what is gone is not counted any more");
}

/// Reads from where it stands, leaves now and then, and comes back.
async fn wander(log: Log, mut random: Random, count: usize) {
    let mut seen = EventId::default();
    let mut got = Vec::new();
    'again: loop {
        let mut reader = log.read_after(seen).expect("little enough to be kept");
        loop {
            let Some(read) = reader.next().await else { break 'again };
            let (number, event) = read.expect("little enough to be kept");
            seen.entries = number;
            got.extend(number_in(&event));
            if random.chance(10) {
                tokio::task::yield_now().await;
            }
            if random.chance(5) {
                continue 'again;
            }
        }
    }
    assert_eq!(got, (0..count).collect::<Vec<_>>());
}

fn on_its_own_thread<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let done = async { tokio::time::timeout(Duration::from_secs(60), work()).await };
        runtime.block_on(done).expect("somebody sleeps");
    })
}

#[test]
fn nobody_sleeps_while_there_is_something_to_do() {
    const COUNT: usize = 300;
    for seed in 0..100 {
        let mut random = Random(seed);
        let log = Log::new(Arc::new(Budget::new(usize::MAX)));
        let first = log.read().expect("a new log");
        let mut threads: Vec<_> = (0..=seed % 3)
            .map(|at| {
                let log = log.clone();
                on_its_own_thread(move || wander(log, Random(seed * 7 + at), COUNT))
            })
            .collect();
        threads.push(on_its_own_thread(move || async move {
            // Large enough that the turn has to wait for its readers, small enough that all of it is kept.
            for number in 0..COUNT {
                let event = delta(number, 500 + usize::try_from(random.below(2_500)).expect("small"));
                log.room(weight(&event)).await;
                log.push(event);
            }
            log.push(cancelled());
        }));
        drop(first);
        threads.into_iter().for_each(|thread| thread.join().expect("a thread ends well"));
    }
}
