//! Who leaves when there is no room. Plain.

use std::time::Instant;

/// How often a key is drawn before nobody is found who could leave.
const DRAWS: usize = 32;

/// Keys to draw from. One that is gone meanwhile is forgotten when it is drawn.
#[derive(Debug)]
pub struct Lot<K> {
    keys: Vec<K>,
    /// Marsaglia's xorshift, "Xorshift RNGs", 2003: never 0.
    dice: u64,
}

/// What has become of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not there any more.
    Gone,
    /// It cannot leave.
    Busy,
    /// It has rested since then.
    Resting(Instant),
}

impl<K> Default for Lot<K> {
    fn default() -> Self {
        Self { keys: Vec::new(), dice: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl<K> Lot<K> {
    /// Adds a key.
    pub fn add(&mut self, key: K) {
        self.keys.push(key);
    }

    /// Forgets keys.
    pub fn retain(&mut self, keep: impl FnMut(&K) -> bool) {
        self.keys.retain(keep);
    }

    /// Takes out the one of two that has rested for longer, drawn blindly: what is in use is seldom among them, and where
    /// more is used in turn than there is room for, most of it still stays, while always to let go of the oldest would let
    /// go of all of it just before it is used.
    pub fn draw(&mut self, state: impl Fn(&K) -> State) -> Option<K> {
        let mut found: Option<(usize, Instant)> = None;
        for _ in 0..DRAWS {
            let at = self.roll()?;
            match (state(&self.keys[at]), found) {
                // The last one takes its place, which may be the one that was found.
                (State::Gone, _) => {
                    self.keys.swap_remove(at);
                    found = found.map(|(own, since)| (if own == self.keys.len() { at } else { own }, since));
                }
                (State::Busy, _) => {}
                (State::Resting(since), None) => found = Some((at, since)),
                (State::Resting(since), Some((other, before))) => {
                    return Some(self.keys.swap_remove(if since < before { at } else { other }));
                }
            }
        }
        found.map(|(at, _)| self.keys.swap_remove(at))
    }

    fn roll(&mut self) -> Option<usize> {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let count = u64::try_from(self.keys.len()).ok().filter(|count| *count > 0)?;
        usize::try_from(self.dice % count).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    fn lot(keys: std::ops::Range<u64>) -> Lot<u64> {
        let mut lot = Lot::default();
        keys.for_each(|key| lot.add(key));
        lot
    }

    #[test]
    fn everybody_leaves_once_in_the_end_but_who_is_busy() {
        let start = Instant::now();
        let state = |key: &u64| match key % 10 {
            0 => State::Busy,
            1 => State::Gone,
            _ => State::Resting(start + Duration::from_secs(*key)),
        };
        let mut lot = lot(0..1_000);
        let mut left = HashSet::new();
        // With few left that can leave, all draws may meet those who cannot.
        (0..10_000).filter_map(|_| lot.draw(state)).for_each(|key| assert!(left.insert(key), "{key} twice"));
        assert_eq!(left, (0..1_000).filter(|key| key % 10 > 1).collect());
        assert!(lot.keys.iter().all(|key| key % 10 == 0), "who is gone is forgotten");
    }

    #[test]
    fn what_was_used_last_seldom_leaves() {
        let start = Instant::now();
        let mut lot = lot(0..1_000);
        let state = |key: &u64| State::Resting(start + Duration::from_secs(*key));
        let left: Vec<u64> = (0..500).filter_map(|_| lot.draw(state)).collect();
        let newest = left.iter().filter(|key| **key >= 900).count();
        assert!(left.len() == 500 && newest < 25, "{newest} of the newest hundred");
    }

    #[test]
    fn nobody_leaves_where_nobody_is() {
        assert_eq!(Lot::<u64>::default().draw(|_| State::Busy), None);
        assert_eq!(lot(0..3).draw(|_| State::Busy), None);
        assert_eq!(lot(0..3).draw(|_| State::Gone), None);
    }
}
