//! How often an agent is started again by itself: with a wait that doubles, at most so many times in a row, and from the
//! beginning once it has lived long enough. Whoever wants a restart asks here first.
use pitwall_proto::v1::{self, RestartOn};

const BACKOFF_MS: u64 = 1_000;
const BACKOFF_MAX_MS: u64 = 300_000;
const STABLE_AFTER_MS: u64 = 600_000;
const MAX: u32 = 5;

/// As the plan has it; each part that it does not say has its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub on: RestartOn,
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
    pub stable_after_ms: u64,
    pub max: u32,
}

impl Policy {
    pub fn of(plan: Option<&v1::RestartPolicy>) -> Self {
        let said = plan.copied().unwrap_or_default();
        let or = |value: u32, default| if value == 0 { default } else { u64::from(value) };
        Self {
            on: said.on(),
            backoff_ms: or(said.backoff_ms, BACKOFF_MS),
            backoff_max_ms: or(said.backoff_max_ms, BACKOFF_MAX_MS),
            stable_after_ms: or(said.stable_after_ms, STABLE_AFTER_MS),
            max: if said.max == 0 { MAX } else { said.max },
        }
    }

    /// Does such an end ask for a restart? Where nobody knows how it ended, it counts as failed.
    pub fn wants(&self, code: Option<i32>, signal: Option<i32>) -> bool {
        match self.on {
            RestartOn::Always => true,
            RestartOn::Failure => signal.is_some() || code != Some(0),
            RestartOn::Unspecified | RestartOn::Never => false,
        }
    }
}

/// What was used up of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Restarts in a row.
    pub restarts: u32,
    /// When the last one began.
    pub last: Option<u64>,
    pub gave_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// After so long; which one in a row it will be.
    After { wait_ms: u64, attempt: u32 },
    /// Too many in a row.
    GaveUp,
}

impl Budget {
    /// It has lived long enough since the last one: the count begins anew.
    pub fn is_stable(&self, now: u64, policy: &Policy) -> bool {
        self.last.is_some_and(|last| now.saturating_sub(last) >= policy.stable_after_ms)
    }

    pub fn ask(&mut self, now: u64, policy: &Policy) -> Answer {
        // Given up, only an operator begins anew: what lives on and is ended for its health or use has not lived well.
        if self.is_stable(now, policy) && !self.gave_up {
            *self = Self::default();
        }
        if self.gave_up || self.restarts >= policy.max {
            self.gave_up = true;
            return Answer::GaveUp;
        }
        let wait_ms = policy.backoff_ms.saturating_mul(1 << self.restarts.min(40)).min(policy.backoff_max_ms);
        Answer::After { wait_ms, attempt: self.restarts + 1 }
    }

    /// One begins now.
    pub fn began(&mut self, now: u64) {
        self.restarts = self.restarts.saturating_add(1);
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_then_it_gives_up() {
        let policy = Policy { max: 12, ..Policy::of(None) };
        let (mut budget, mut now, mut waits) = (Budget::default(), 1_000_000, Vec::new());
        while let Answer::After { wait_ms, attempt } = budget.ask(now, &policy) {
            waits.push(wait_ms / 1_000);
            assert_eq!(attempt as usize, waits.len());
            now += wait_ms;
            budget.began(now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert!(budget.gave_up);
        assert_eq!(budget.ask(now + policy.stable_after_ms - 1, &policy), Answer::GaveUp);
    }

    #[test]
    fn a_stable_life_begins_the_count_anew() {
        let policy = Policy::of(None);
        let mut budget = Budget { restarts: 4, last: Some(50_000), gave_up: false };
        assert!(matches!(budget.ask(60_000, &policy), Answer::After { wait_ms: 16_000, attempt: 5 }));
        assert!(matches!(budget.ask(650_000, &policy), Answer::After { wait_ms: 1_000, attempt: 1 }));
        let mut given_up = Budget { restarts: 5, last: Some(50_000), gave_up: true };
        assert_eq!(given_up.ask(60_000, &policy), Answer::GaveUp);
        assert_eq!(given_up.ask(650_000, &policy), Answer::GaveUp, "only an operator begins anew");
    }

    #[test]
    fn which_ends_ask_for_a_restart() {
        let with = |on: RestartOn| Policy { on, ..Policy::of(None) };
        for (code, signal, failure) in
            [(Some(0), None, false), (Some(3), None, true), (None, Some(9), true), (None, None, true)]
        {
            assert_eq!(with(RestartOn::Failure).wants(code, signal), failure, "{code:?} {signal:?}");
            assert!(with(RestartOn::Always).wants(code, signal) && !with(RestartOn::Never).wants(code, signal));
            assert!(!Policy::of(None).wants(code, signal));
        }
    }

    proptest! {
        #[test]
        fn never_more_in_a_row_than_the_plan_says(
            max in 1..8_u32,
            steps in proptest::collection::vec(0..400_000_u64, 1..100),
        ) {
            let policy = Policy { max, ..Policy::of(None) };
            let (mut budget, mut now) = (Budget::default(), 1_000_000);
            let mut begun: Vec<u64> = Vec::new();
            for step in steps {
                now += step;
                if let Answer::After { wait_ms, .. } = budget.ask(now, &policy) {
                    prop_assert!(wait_ms <= policy.backoff_max_ms);
                    now += wait_ms;
                    budget.began(now);
                    begun.push(now);
                }
            }
            // Of any more than `max` that follow each other, two lie a stable time apart.
            for row in begun.windows(max as usize + 1) {
                prop_assert!(row.windows(2).any(|w| w[1] - w[0] >= policy.stable_after_ms));
            }
        }
    }
}
