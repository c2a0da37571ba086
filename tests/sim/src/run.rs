//! One seed, and many.
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    flows::Flows,
    matrix::{Fault, Matrix},
    model::{Tally, Violation},
    world::{Swarm, World},
};

#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub steps: u64,
    pub hash: u64,
    pub violations: Vec<Violation>,
    pub matrix: Matrix,
    pub tally: Tally,
    pub flows: Flows,
}

/// What goes wrong in a run.
#[derive(Clone, Debug)]
pub enum Faults {
    /// As the seed says.
    Drawn,
    None,
    Only(Vec<Fault>, u64),
}

pub fn run(seed: u64, faults: &Faults, tell: bool) -> Outcome {
    let swarm = match faults {
        Faults::Drawn => Swarm::draw(seed),
        Faults::None => Swarm::none(),
        Faults::Only(faults, one_in) => Swarm::only(faults, *one_in),
    };
    let mut world = World::new(seed, swarm, tell);
    world.run();
    Outcome {
        seed,
        steps: world.story.steps,
        hash: world.story.hash(),
        violations: world.model.violations,
        matrix: world.matrix,
        tally: world.model.tally,
        flows: world.flows,
    }
}

#[derive(Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub steps: u64,
    pub matrix: Matrix,
    pub tally: Tally,
    pub flows: Flows,
    /// The first of each invariant's, and how many in all.
    pub failed: Vec<Outcome>,
}

/// Seeds `first .. first + count`, on so many threads; `until_first`: no more after a violation.
pub fn many(first: u64, count: u64, jobs: usize, faults: &Faults, until_first: bool) -> Summary {
    let next = AtomicU64::new(first);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let outcome = run(seed, faults, false);
                    let mut sum = summary.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.seeds += 1;
                    sum.steps += outcome.steps;
                    sum.matrix.add(&outcome.matrix);
                    sum.tally.add(&outcome.tally);
                    sum.flows.add(&outcome.flows);
                    if !outcome.violations.is_empty() {
                        sum.failed.push(outcome);
                        if until_first {
                            next.store(first + count, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.failed.sort_by_key(|o| o.seed);
    summary
}
