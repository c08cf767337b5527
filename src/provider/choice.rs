//! Which of several providers of one model is asked first, and how many calls each may have at once. Plain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The heaviest weight of a provider.
pub const MAX_WEIGHT: u32 = 1_000;

/// How calls are spread over the providers of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// By weight.
    #[default]
    Weighted,
    /// To the one with the fewest running calls for its weight.
    LeastBusy,
}

impl Balance {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weighted => "weighted",
            Self::LeastBusy => "least_busy",
        }
    }
}

/// What is known of a provider when one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its share among the others; at least 1.
    pub weight: u32,
    /// Its running calls.
    pub running: usize,
}

/// The order in which to ask, as places in `loads`. `draw` is any number: the n-th of [`draw`] makes the shares of
/// weights come out exactly.
pub fn order(loads: &[Load], balance: Balance, draw: u64) -> Vec<usize> {
    let mut left: Vec<usize> = (0..loads.len()).collect();
    let mut order = Vec::with_capacity(left.len());
    let mut draw = draw;
    while !left.is_empty() {
        let at = match balance {
            Balance::Weighted => heaviest(loads, &left, draw),
            Balance::LeastBusy => idlest(loads, &left),
        };
        order.push(left.remove(at));
        draw = draw.rotate_left(32).wrapping_mul(STEP);
    }
    order
}

/// 2^64 divided by the golden ratio: multiples of it spread evenly over all numbers.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The n-th draw.
pub fn draw(n: u64) -> u64 {
    n.wrapping_mul(STEP)
}

fn heaviest(loads: &[Load], left: &[usize], draw: u64) -> usize {
    let weight = |place: &usize| u64::from(loads[*place].weight.max(1));
    let all: u64 = left.iter().map(weight).sum();
    let point = u64::try_from((u128::from(draw) * u128::from(all)) >> 64).unwrap_or(0);
    let mut passed = 0;
    let reached = left.iter().position(|place| {
        passed += weight(place);
        point < passed
    });
    reached.unwrap_or(0)
}

fn idlest(loads: &[Load], left: &[usize]) -> usize {
    let mut best = 0;
    for at in 1..left.len() {
        let (one, other) = (loads[left[at]], loads[left[best]]);
        // running / weight, without division.
        let busy = one.running as u64 * u64::from(other.weight.max(1));
        if busy < other.running as u64 * u64::from(one.weight.max(1)) {
            best = at;
        }
    }
    best
}

/// How many calls run, across all threads, and how many may.
#[derive(Debug)]
pub struct Gauge {
    running: AtomicUsize,
    limit: Option<usize>,
}

impl Gauge {
    /// Nothing runs.
    pub fn new(limit: Option<usize>) -> Self {
        Self { running: AtomicUsize::new(0), limit }
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// A place for one more; `None` if it is full.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let more = |running: usize| {
            let free = self.limit.is_none_or(|limit| running < limit);
            free.then_some(running + 1)
        };
        self.running.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok()?;
        Some(Place(self.clone()))
    }
}

/// A running call; gives its place back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Gauge>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(all: &[(u32, usize)]) -> Vec<Load> {
        all.iter().map(|(weight, running)| Load { weight: *weight, running: *running }).collect()
    }

    #[test]
    fn calls_are_shared_by_weight() {
        let loads = loads(&[(3, 0), (1, 0), (6, 0)]);
        let mut first = [0; 3];
        for n in 0..1_000 {
            first[order(&loads, Balance::Weighted, draw(n))[0]] += 1;
        }
        for (share, due) in first.into_iter().zip([300, 100, 600_i32]) {
            assert!((share - due).abs() <= 3, "{first:?}");
        }
    }

    #[test]
    fn the_second_choice_is_by_weight_too() {
        let loads = loads(&[(1, 0), (1, 0), (8, 0)]);
        let mut second = [0; 3];
        for n in 0..1_000 {
            let order = order(&loads, Balance::Weighted, draw(n));
            if order[0] == 0 {
                second[order[1]] += 1;
            }
        }
        assert!(second[2] > second[1] && second[1] > 0, "{second:?}");
    }

    #[test]
    fn everyone_has_a_place_in_the_order_once() {
        let loads = loads(&[(3, 9), (1, 2), (6, 0), (1, 1)]);
        for balance in [Balance::Weighted, Balance::LeastBusy] {
            for n in 0..50 {
                let mut order = order(&loads, balance, draw(n));
                order.sort_unstable();
                assert_eq!(order, [0, 1, 2, 3]);
            }
        }
    }

    #[test]
    fn the_idlest_for_its_weight_comes_first() {
        assert_eq!(order(&loads(&[(1, 2), (1, 1), (1, 3)]), Balance::LeastBusy, 7), [1, 0, 2]);
        assert_eq!(order(&loads(&[(4, 6), (1, 2)]), Balance::LeastBusy, 7), [0, 1]);
        assert_eq!(order(&loads(&[(1, 0), (9, 0)]), Balance::LeastBusy, 7), [0, 1], "the first of equals");
    }

    #[test]
    fn a_full_provider_takes_no_call_until_one_ends() {
        let gauge = Arc::new(Gauge::new(Some(2)));
        let first = gauge.enter().expect("a place");
        let _second = gauge.enter().expect("a place");
        assert!(gauge.enter().is_none());
        drop(first);
        assert_eq!(gauge.running(), 1);
        assert!(gauge.enter().is_some());
        assert_eq!(gauge.running(), 1, "a place that nobody keeps is free");
    }

    #[test]
    fn threads_never_exceed_the_limit_together() {
        let gauge = Arc::new(Gauge::new(Some(3)));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let place = gauge.enter();
                        assert!(gauge.running() <= 3);
                        drop(place);
                    }
                });
            }
        });
        assert_eq!(gauge.running(), 0);
    }
}
