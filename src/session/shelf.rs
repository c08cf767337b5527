//! Turns that have ended, for those who ask again: how they ended, and for a while their streams. Plain: time is an
//! argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::id::CompletionId;
use crate::session::log::Log;
use crate::session::turns::{Outcome, TurnInfo};

/// How long the stream of a turn that has ended can be read again.
pub const STREAM_LIFE: Duration = Duration::from_secs(5 * 60);
/// How long it is known how a turn ended.
const OUTCOME_LIFE: Duration = Duration::from_secs(60 * 60);
/// Of how many turns it is known at most.
const MAX_OUTCOMES: usize = 10_000;

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
    /// When each ended. One that was forgotten is still named here until its time is over.
    by_age: VecDeque<(CompletionId, Instant)>,
    /// The same for those whose stream is kept.
    streams: VecDeque<(CompletionId, Instant)>,
}

impl Shelf {
    /// Puts a turn on the shelf; answers the streams for which the time or the room is over.
    pub fn put(&mut self, turn: EndedTurn, now: Instant) -> Vec<Log> {
        let id = turn.info.completion.clone();
        self.by_age.push_back((id.clone(), now));
        if turn.log.is_some() {
            self.streams.push_back((id.clone(), now));
        }
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
        let old = |since: Instant, life: Duration| now.saturating_duration_since(since) >= life;
        let mut gone = Vec::new();
        while self.streams.front().is_some_and(|(_, ended)| old(*ended, STREAM_LIFE)) {
            gone.extend(self.pop_streams());
        }
        while self
            .by_age
            .front()
            .is_some_and(|(_, ended)| self.by_age.len() > MAX_OUTCOMES || old(*ended, OUTCOME_LIFE))
        {
            let turn = self.by_age.pop_front().and_then(|(id, _)| self.turns.remove(&id));
            gone.extend(turn.into_iter().flat_map(|turn| [turn.log, turn.again]).flatten());
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
        let turn = self.streams.pop_front().and_then(|(id, _)| self.turns.get_mut(&id));
        turn.into_iter().flat_map(|turn| [turn.log.take(), turn.again.take()]).flatten().collect()
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
}
