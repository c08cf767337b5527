//! Turns that have ended, for those who ask again: how they ended, and for a while their streams. Plain: time is an
//! argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use foldhash::HashMap;

use crate::id::CompletionId;
use crate::session::log::Log;
use crate::session::turns::{Outcome, TurnInfo};

/// How long the stream of a turn that has ended can be read again.
pub const STREAM_LIFE: Duration = Duration::from_secs(5 * 60);
/// How long it is known how a turn ended.
const OUTCOME_LIFE: Duration = Duration::from_secs(60 * 60);
/// Of how many turns without a stream it is known at most: as many that had one, and as many that had none.
const MAX_OUTCOMES: usize = 10_000;
/// The most turns whose streams are kept. Their bytes have a bound of their own.
const MAX_STREAMS: usize = 50_000;

/// A turn that has ended.
#[derive(Clone)]
pub struct EndedTurn {
    /// Which one.
    pub info: TurnInfo,
    /// How.
    pub outcome: Outcome,
    /// Its stream, while it is kept.
    pub log: Option<Log>,
    /// The stream of its answer as it was given again, while it is kept.
    pub again: Option<Log>,
}

/// The turns that have ended, oldest first.
#[derive(Default)]
pub struct Shelf {
    turns: HashMap<CompletionId, EndedTurn>,
    /// Those whose streams are kept, and when each ended. One that was forgotten is still named until its time is over.
    streams: Notes,
    /// The same for those whose streams were let go: who asks for one is told so.
    tombs: Notes,
    /// The same for those that had no stream.
    plain: Notes,
}

type Notes = VecDeque<(CompletionId, Instant)>;

impl Shelf {
    /// Puts a turn on the shelf; answers the streams for which the time or the room is over.
    pub fn put(&mut self, turn: EndedTurn, now: Instant) -> Vec<Log> {
        let id = turn.info.completion.clone();
        let notes = if turn.log.is_some() { &mut self.streams } else { &mut self.plain };
        notes.push_back((id.clone(), now));
        self.turns.insert(id, turn);
        self.expire(now)
    }

    /// Keeps the stream of an answer that was given again, in the place of an earlier one; answers what is let go.
    pub fn put_again(&mut self, turn: EndedTurn, log: Log, now: Instant) -> Vec<Log> {
        let id = turn.info.completion.clone();
        let mut gone = match self.turns.contains_key(&id) {
            true => Vec::new(),
            false => self.put(turn, now),
        };
        gone.extend(self.turns.get_mut(&id).and_then(|turn| turn.again.replace(log)));
        self.streams.push_back((id, now));
        gone
    }

    /// Lets go what is too old; answers the streams among it.
    pub fn expire(&mut self, now: Instant) -> Vec<Log> {
        let mut gone = Vec::new();
        while is_due(&self.streams, MAX_STREAMS, STREAM_LIFE, now) {
            gone.extend(self.pop_streams());
        }
        for notes in [&mut self.tombs, &mut self.plain] {
            while is_due(notes, MAX_OUTCOMES, OUTCOME_LIFE, now) {
                let Some((id, _)) = notes.pop_front() else { break };
                // One with a stream has a note among those too.
                if self.turns.get(&id).is_some_and(|turn| turn.log.is_none() && turn.again.is_none()) {
                    self.turns.remove(&id);
                }
            }
        }
        gone
    }

    /// Takes the streams of the turn that ended first; none, if none are left.
    pub fn take_oldest_streams(&mut self) -> Vec<Log> {
        while !self.streams.is_empty() {
            let gone = self.pop_streams();
            if !gone.is_empty() {
                return gone;
            }
        }
        Vec::new()
    }

    /// The streams of the oldest note, if they are still there.
    fn pop_streams(&mut self) -> Vec<Log> {
        let Some((id, ended)) = self.streams.pop_front() else { return Vec::new() };
        let turn = self.turns.get_mut(&id);
        let gone: Vec<_> =
            turn.into_iter().flat_map(|turn| [turn.log.take(), turn.again.take()]).flatten().collect();
        if !gone.is_empty() {
            self.tombs.push_back((id, ended));
        }
        gone
    }

    /// A turn that is known.
    pub fn find(&self, id: &CompletionId) -> Option<&EndedTurn> {
        self.turns.get(id)
    }

    /// Forgets every turn that `chosen` names; answers their streams.
    pub fn forget(&mut self, chosen: impl Fn(&TurnInfo) -> bool) -> Vec<Log> {
        let gone = self.turns.extract_if(|_, turn| chosen(&turn.info));
        gone.flat_map(|(_, turn)| [turn.log, turn.again]).flatten().collect()
    }
}

/// Whether the first of these has to go.
fn is_due(notes: &Notes, most: usize, life: Duration, now: Instant) -> bool {
    let old = |ended: Instant| now.saturating_duration_since(ended) >= life;
    notes.front().is_some_and(|(_, ended)| notes.len() > most || old(*ended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::turns::TurnInfo;

    fn log() -> Log {
        Log::new(std::sync::Arc::new(crate::session::log::Budget::new(0)))
    }

    fn ended(name: &str, kept: bool) -> EndedTurn {
        let log = kept.then(log);
        EndedTurn { info: TurnInfo::example(name), outcome: Outcome::Completed, log, again: None }
    }

    fn has_stream(shelf: &Shelf, name: &str) -> Option<bool> {
        shelf.find(&name.into()).map(|turn| turn.log.is_some())
    }

    #[test]
    fn a_stream_is_kept_for_its_time_and_its_end_is_known_for_longer() {
        let (mut shelf, start) = (Shelf::default(), Instant::now());
        shelf.put(ended("a", true), start);
        shelf.put(ended("b", true), start + STREAM_LIFE / 2);
        assert_eq!(shelf.expire(start + STREAM_LIFE).len(), 1);
        assert_eq!((has_stream(&shelf, "a"), has_stream(&shelf, "b")), (Some(false), Some(true)));
        assert!(shelf.expire(start + OUTCOME_LIFE).len() == 1);
        assert_eq!((has_stream(&shelf, "a"), has_stream(&shelf, "b")), (None, Some(false)));
    }

    #[test]
    fn the_oldest_stream_goes_first() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        for (name, kept) in [("a", true), ("plain", false), ("b", true), ("c", true)] {
            shelf.put(ended(name, kept), now);
        }
        shelf.forget(|info| info.completion.as_str() == "a");
        assert_eq!(shelf.take_oldest_streams().len(), 1);
        let left = ["a", "plain", "b", "c"].map(|name| has_stream(&shelf, name));
        assert_eq!(left, [None, Some(false), Some(false), Some(true)]);
        assert_eq!((shelf.take_oldest_streams().len(), shelf.take_oldest_streams().len()), (1, 0));
    }

    #[test]
    fn an_answer_that_is_given_again_is_kept_beside_the_first() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        shelf.put(ended("a", true), now);
        assert!(shelf.put_again(ended("a", false), log(), now).is_empty());
        assert_eq!(shelf.put_again(ended("a", false), log(), now).len(), 1, "the earlier one");
        assert!(shelf.put_again(ended("b", false), log(), now).is_empty());
        assert_eq!(shelf.take_oldest_streams().len(), 2);
        assert!(shelf.find(&"b".into()).is_some_and(|turn| turn.again.is_some()));
    }

    #[test]
    fn not_more_are_known_than_the_bound() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        for number in 0..=MAX_OUTCOMES {
            shelf.put(ended(&number.to_string(), false), now);
        }
        assert_eq!((has_stream(&shelf, "0"), has_stream(&shelf, "1")), (None, Some(false)));
        assert_eq!(shelf.turns.len(), MAX_OUTCOMES);
    }

    #[test]
    fn plain_turns_however_many_push_out_no_stream_and_no_word_of_one_that_has_gone() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        shelf.put(ended("gone", true), now);
        shelf.put(ended("kept", true), now);
        shelf.put(ended("again", false), now);
        assert!(shelf.put_again(ended("again", false), log(), now).is_empty());
        assert_eq!(shelf.take_oldest_streams().len(), 1);
        for number in 0..=MAX_OUTCOMES {
            assert!(shelf.put(ended(&number.to_string(), false), now).is_empty());
        }
        assert_eq!((has_stream(&shelf, "gone"), has_stream(&shelf, "kept")), (Some(false), Some(true)));
        assert!(shelf.find(&"again".into()).is_some_and(|turn| turn.again.is_some()));
    }

    #[test]
    fn of_more_streams_than_the_bound_the_oldest_goes_and_leaves_word() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        let gone = (0..=MAX_STREAMS).map(|number| shelf.put(ended(&number.to_string(), true), now).len());
        assert_eq!(gone.sum::<usize>(), 1);
        assert_eq!((has_stream(&shelf, "0"), has_stream(&shelf, "1")), (Some(false), Some(true)));
    }
}
