//! When something is to be done about a use that stays above a hard limit: after `for` above it without a gap, not
//! while an earlier remedy is in hand, and not again before its cooldown is over. An act ends its episode: the next one
//! needs `for` above the limit anew. What is done, and whether it may be, is the core's matter.
use std::collections::BTreeMap;

use pitwall_proto::v1;

use crate::quota::{ENDS_BELOW, Scope, Target};

/// A use of which nothing was known for longer is not known to have stayed above; nor for longer than so many samples,
/// where these are far apart.
const GAP_MAX_MS: u64 = 10_000;
const GAP_SAMPLES: u64 = 3;
/// A throttle goes when the use has stayed below for so long, at least.
const CALM_MS: u64 = 10_000;

#[derive(Debug, Default)]
struct Episode {
    above_since: Option<u64>,
    calm_since: Option<u64>,
    /// When its use was known last.
    known_at: u64,
    acted_at: Option<u64>,
}

/// Something is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    pub target: Target,
    pub quota: v1::Quota,
    pub used: f64,
}

#[derive(Debug, Default)]
pub struct Remedies {
    episodes: BTreeMap<Target, Episode>,
}

impl Remedies {
    /// Something was done or tried: the cooldown begins.
    pub fn acted(&mut self, now: u64, target: &Target) {
        let episode = self.episodes.entry(target.clone()).or_default();
        episode.above_since = None;
        episode.acted_at = episode.acted_at.max(Some(now));
    }

    /// `busy`: an earlier remedy for this limit is in hand.
    pub fn sampled(&mut self, now: u64, scopes: &[Scope<'_>], busy: impl Fn(&Target) -> bool) -> Vec<Due> {
        let all = || scopes.iter().flat_map(|s| s.quotas.iter().map(move |q| (s, q)));
        let acts = |q: &v1::Quota| !q.soft && !matches!(q.on_exceed(), v1::OnExceed::Unspecified | v1::OnExceed::Warn);
        self.episodes.retain(|target, _| all().any(|(s, q)| Target::of(s.named, q) == *target && acts(q)));
        let mut due = Vec::new();
        for (scope, quota) in all().filter(|(_, q)| acts(q)) {
            let target = Target::of(scope.named, quota);
            let busy = busy(&target);
            let episode = self.episodes.entry(target.clone()).or_default();
            let Some(used) = scope.used(quota.resource()) else { continue };
            if episode.judge(now, quota, used, scope.since(now, quota.resource()), busy, scope.interval_ms) {
                due.push(Due { target, quota: *quota, used });
            }
        }
        due
    }

    /// The use has stayed below long enough for a limit to go; so it has where the plan has no such quota any more.
    pub fn is_calm(&self, now: u64, target: &Target, for_ms: u64) -> bool {
        let Some(episode) = self.episodes.get(target) else { return true };
        episode.calm_since.is_some_and(|since| now.saturating_sub(since) >= for_ms.max(CALM_MS))
    }
}

impl Episode {
    fn judge(&mut self, now: u64, quota: &v1::Quota, used: f64, since: u64, busy: bool, interval_ms: u32) -> bool {
        if now.saturating_sub(self.known_at) > GAP_MAX_MS.max(GAP_SAMPLES * u64::from(interval_ms)) {
            (self.above_since, self.calm_since) = (None, None);
        }
        self.known_at = now;
        if used < quota.limit * ENDS_BELOW {
            self.calm_since.get_or_insert(now);
        } else {
            self.calm_since = None;
        }
        if used <= quota.limit || busy {
            self.above_since = None;
            return false;
        }
        // What it used before the last act is no reason for another.
        let since = since.max(self.acted_at.unwrap_or(0));
        let above_for = now.saturating_sub(*self.above_since.get_or_insert(since));
        let cooled = self.acted_at.is_none_or(|at| now.saturating_sub(at) >= u64::from(quota.cooldown_ms));
        above_for >= u64::from(quota.for_ms) && cooled
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use v1::{OnExceed, Resource};

    use super::*;

    fn quota(on_exceed: OnExceed, for_ms: u32, cooldown_ms: u32) -> v1::Quota {
        v1::Quota {
            resource: Resource::Memory as i32,
            limit: 100.0,
            for_ms,
            on_exceed: on_exceed as i32,
            cooldown_ms,
            soft: false,
        }
    }

    fn scope(quotas: &[v1::Quota], used: Option<u64>) -> Scope<'_> {
        let usage = v1::Usage { memory_bytes: used, ..Default::default() };
        Scope { quotas, usage, interval_ms: 1_000, ..Scope::default() }
    }

    #[test]
    fn samples_that_are_far_apart_are_no_gap() {
        let quotas = [quota(OnExceed::Throttle, 30_000, 0)];
        let every = |seconds: u64, interval_ms: u32| {
            let mut remedies = Remedies::default();
            (1..8).any(|n| {
                let scope = Scope { interval_ms, ..scope(&quotas, Some(200)) };
                !remedies.sampled(n * seconds * 1_000, &[scope], |_| false).is_empty()
            })
        };
        assert!(every(12, 12_000), "above for longer than 30 s, looked at every 12 s");
        assert!(!every(12, 1_000), "what happened between was not looked at");
    }

    /// Seconds at which something was due, each done at once.
    fn run(quota: v1::Quota, row: &[Option<u64>]) -> Vec<u64> {
        let (mut remedies, mut acted) = (Remedies::default(), Vec::new());
        for (n, used) in row.iter().enumerate() {
            let now = (n as u64 + 1) * 1_000;
            for due in remedies.sampled(now, &[scope(&[quota], *used)], |_| false) {
                remedies.acted(now, &due.target);
                acted.push(n as u64 + 1);
            }
        }
        acted
    }

    #[test]
    fn after_its_time_and_after_the_cooldown_anew() {
        let kill = quota(OnExceed::KillProcess, 3_000, 10_000);
        assert_eq!(run(kill, &[Some(200); 20]), [4, 14], "3 s above from second 1 on, then the cooldown of 10 s");
        let short = quota(OnExceed::KillProcess, 3_000, 1_000);
        assert_eq!(run(short, &[Some(200); 12]), [4, 8, 12], "an act ends its episode: `for` begins anew");
        let at_once = quota(OnExceed::KillProcess, 0, 5_000);
        assert_eq!(run(at_once, &[Some(100), Some(101), Some(101)]), [2]);
    }

    #[test]
    fn a_dip_or_a_gap_begins_the_time_anew() {
        let kill = quota(OnExceed::KillProcess, 3_000, 0);
        let dip = [Some(200), Some(200), Some(200), Some(100), Some(200), Some(200), Some(200)];
        assert!(run(kill, &dip).is_empty());
        let mut gap = vec![Some(200), Some(200)];
        gap.extend([None; 12]);
        gap.extend([Some(200), Some(200)]);
        assert!(run(kill, &gap).is_empty(), "nobody knows what it used meanwhile");
        // One missed figure is no gap.
        assert_eq!(run(kill, &[Some(200), None, Some(200), Some(200)]), [4]);
    }

    #[test]
    fn a_soft_limit_and_one_that_only_warns_act_never() {
        assert!(run(quota(OnExceed::Warn, 0, 0), &[Some(200); 5]).is_empty());
        assert!(run(quota(OnExceed::Unspecified, 0, 0), &[Some(200); 5]).is_empty());
        assert!(run(v1::Quota { soft: true, ..quota(OnExceed::Freeze, 0, 0) }, &[Some(200); 5]).is_empty());
    }

    #[test]
    fn a_throttle_goes_when_the_use_stays_below() {
        let throttle = [quota(OnExceed::Throttle, 0, 0)];
        let (mut remedies, target) = (Remedies::default(), Target::of("", &throttle[0]));
        for (second, used, calm) in [(1, 101, false), (2, 98, false), (3, 50, false), (12, 50, false), (13, 50, true)] {
            remedies.sampled(second * 1_000, &[scope(&throttle, Some(used))], |_| true);
            assert_eq!(remedies.is_calm(second * 1_000, &target, 5_000), calm, "second {second}");
        }
        remedies.sampled(14_000, &[scope(&[], None)], |_| false);
        assert!(remedies.is_calm(14_000, &target, 5_000), "the plan has it no more");
    }

    proptest! {
        #[test]
        fn nothing_is_done_without_the_time_above_nor_within_the_cooldown(
            row in proptest::collection::vec((proptest::option::of(0..200_u64), any::<bool>(), 1..4_000_u64), 1..200),
            for_ms in 0..8_000_u32,
            cooldown_ms in 0..20_000_u32,
        ) {
            let quotas = [quota(OnExceed::KillProcess, for_ms, cooldown_ms)];
            let (mut remedies, mut now) = (Remedies::default(), 100_000);
            // Since when every known figure was above and nothing was in hand.
            let (mut above, mut last): (Option<u64>, Option<u64>) = (None, None);
            for (used, busy, step) in row {
                now += step;
                match used {
                    Some(used) if used > 100 && !busy => { above.get_or_insert(now); }
                    Some(_) => above = None,
                    None => {}
                }
                let due = remedies.sampled(now, &[scope(&quotas, used)], |_| busy);
                if !due.is_empty() {
                    prop_assert!(!busy && used > Some(100));
                    prop_assert!(above.is_some_and(|since| now - since >= u64::from(for_ms)));
                    prop_assert!(last.is_none_or(|at| now - at >= u64::from(cooldown_ms)));
                    remedies.acted(now, &due[0].target);
                    (above, last) = (None, Some(now));
                }
            }
        }
    }
}
