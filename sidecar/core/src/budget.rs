//! The sidecar's own CPU use, held to what its owner allows: above it for a window it measures half as often, again and
//! again down to once in [`EVERY_MAX_MS`]; below half of it for a window twice as often, up to the plan's pace. Between
//! the two nothing changes, so that it does not swing.
use crate::window::Window;

/// Long enough that one burst of checks is none.
const WINDOW_MS: u64 = 30_000;
/// A window counts when so much of it was measured.
const MEASURED: f64 = 0.9;
pub const EVERY_MAX_MS: u32 = 10_000;
/// Use may come back below this share of the budget.
const BACK_BELOW: f64 = 0.5;

#[derive(Debug)]
pub struct Budget {
    /// Of one core; `None`: whatever it takes.
    cores: Option<f64>,
    used: Window,
    /// Since the last change, as what was before it says nothing of the new pace.
    since: Option<u64>,
    slower: u32,
}

/// The pace changed: what to say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub every_ms: u32,
    pub used: f64,
    pub budget: f64,
}

impl Change {
    pub fn told(&self, over: bool) -> String {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let every = f64::from(self.every_ms) / 1_000.0;
        let (used, budget) = (percent(self.used), percent(self.budget));
        if over {
            format!("samples every {every} s, over its CPU budget: uses {used} of a core, may use {budget}")
        } else {
            format!("samples every {every} s again: uses {used} of a core, may use {budget}")
        }
    }
}

impl Budget {
    pub fn new(cores: Option<f64>) -> Self {
        let cores = cores.filter(|c| c.is_finite() && *c > 0.0);
        Self { cores, used: Window::default(), since: None, slower: 1 }
    }

    pub fn cores(&self) -> Option<f64> {
        self.cores
    }

    /// It samples less often than the plan says.
    pub fn is_over(&self) -> bool {
        self.slower > 1
    }

    /// The pace, where the plan says `plan_ms`.
    pub fn every_ms(&self, plan_ms: u32) -> u32 {
        plan_ms.saturating_mul(self.slower).min(EVERY_MAX_MS.max(plan_ms))
    }

    /// `used`: cores of this process over the `interval` before `now`, both in milliseconds.
    pub fn sampled(&mut self, now: u64, interval: u64, used: Option<f64>, plan_ms: u32) -> Option<Change> {
        let budget = self.cores?;
        let since = *self.since.get_or_insert(now.saturating_sub(interval));
        self.used.add(now, interval, used?, WINDOW_MS);
        // A pace that makes few samples in a window needs a longer one.
        let window = WINDOW_MS.max(u64::from(self.every_ms(plan_ms)) * 2);
        if now.saturating_sub(since) < window {
            return None;
        }
        let used = self.used.mean(now.saturating_sub(WINDOW_MS), now, MEASURED)?;
        let before = self.every_ms(plan_ms);
        if used > budget && before < EVERY_MAX_MS {
            self.slower = self.slower.saturating_mul(2);
        } else if used < budget * BACK_BELOW && self.slower > 1 {
            self.slower /= 2;
        } else {
            return None;
        }
        self.since = Some(now);
        self.used.clear();
        Some(Change { every_ms: self.every_ms(plan_ms), used, budget })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAN_MS: u32 = 1_000;
    /// A host that is up for a while.
    const BEGIN: u64 = 1_000_000;

    /// Lives for so many seconds: each sample costs `cost` core seconds. When the pace changed, and to what.
    fn live(budget: &mut Budget, seconds: u64, cost: f64) -> Vec<(u64, u32)> {
        let mut changes = Vec::new();
        let mut now = BEGIN;
        while now < BEGIN + seconds * 1_000 {
            let interval = u64::from(budget.every_ms(PLAN_MS));
            now += interval;
            let used = cost * 1_000.0 / interval as f64;
            if let Some(change) = budget.sampled(now, interval, Some(used), PLAN_MS) {
                changes.push(((now - BEGIN) / 1_000, change.every_ms));
            }
        }
        changes
    }

    #[test]
    fn within_it_or_without_one_nothing_changes() {
        assert!(live(&mut Budget::new(Some(0.005)), 600, 0.004).is_empty());
        assert!(live(&mut Budget::new(None), 600, 9.0).is_empty());
        assert!(live(&mut Budget::new(Some(f64::NAN)), 600, 9.0).is_empty());
    }

    #[test]
    fn over_it_the_pace_is_halved_until_it_fits() {
        let mut budget = Budget::new(Some(0.005));
        assert_eq!(live(&mut budget, 300, 0.012), [(30, 2_000), (60, 4_000)]);
        assert!(budget.is_over());
        // However dear: once in ten seconds.
        let mut budget = Budget::new(Some(0.005));
        let told = live(&mut budget, 900, 1.0);
        assert_eq!(told.last().map(|t| t.1), Some(EVERY_MAX_MS), "{told:?}");
        assert_eq!(told.len(), 4, "{told:?}");
    }

    #[test]
    fn below_half_of_it_the_pace_comes_back_step_by_step() {
        let mut budget = Budget::new(Some(0.005));
        live(&mut budget, 120, 0.012);
        assert_eq!(budget.every_ms(PLAN_MS), 4_000);
        let back: Vec<u32> = live(&mut budget, 300, 0.002).into_iter().map(|c| c.1).collect();
        assert_eq!(back, [2_000, 1_000]);
        assert!(!budget.is_over());
    }

    #[test]
    fn a_plan_that_is_slower_already_stays_as_it_is() {
        let mut budget = Budget::new(Some(0.0001));
        for n in 1..200 {
            assert_eq!(budget.sampled(BEGIN + n * 20_000, 20_000, Some(1.0), 20_000), None);
        }
        assert_eq!(budget.every_ms(20_000), 20_000);
    }

    #[test]
    fn what_is_said_names_the_pace_the_use_and_the_budget() {
        let change = Change { every_ms: 4_000, used: 0.0081, budget: 0.005 };
        let told = "samples every 4 s, over its CPU budget: uses 0.81 % of a core, may use 0.50 %";
        assert_eq!(change.told(true), told);
    }

    proptest! {
        #[test]
        fn the_pace_stays_within_its_bounds(uses in proptest::collection::vec((0.0..2.0_f64, 1_u64..40_000), 0..300)) {
            let mut budget = Budget::new(Some(0.01));
            let mut now = BEGIN;
            for (used, interval) in uses {
                now += interval;
                budget.sampled(now, interval, Some(used), PLAN_MS);
                let every = budget.every_ms(PLAN_MS);
                prop_assert!((PLAN_MS..=EVERY_MAX_MS).contains(&every));
            }
        }
    }
}
