//! All chance of a run comes from here, and this from the seed.
use fastrand::Rng;

#[derive(Clone, Debug)]
pub struct Dice(Rng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// Both ends included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0.u64(least..=most.max(least))
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.0.u64(0..n) == 0
    }

    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.0.usize(0..n) }
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())).cloned() }
    }

    pub fn any(&mut self) -> u64 {
        self.0.u64(..)
    }
}
