//! Is the agent well? Each health check is made at its pace while the agent lives; after so many failures in a row it is
//! unhealthy, after so many successes healthy again. While it starts, failures do not count, until it was well once. What
//! could not be observed is neither.
use std::collections::BTreeMap;

use pitwall_proto::v1::{self, OnUnhealthy, Outcome};

use crate::io::Observation;

/// However short a plan's pace.
const EVERY_MIN_MS: u64 = 50;
const EVERY_MS: u64 = 10_000;
/// A try that says nothing for so long beyond twice its own limit is given up.
const LOST_AFTER_MS: u64 = 10_000;
const DETAIL_BYTES: usize = 300;

#[derive(Debug)]
struct State {
    due: u64,
    flight: Option<u64>,
    /// Once since the agent began.
    was_well: bool,
    failures: u32,
    successes: u32,
    /// `None`: not known yet.
    healthy: Option<bool>,
}

impl State {
    fn new(now: u64, healthy: Option<bool>) -> Self {
        Self { due: now, flight: None, was_well: false, failures: 0, successes: 0, healthy }
    }
}

/// What an observation came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub fact: v1::HealthFact,
    pub restart: bool,
}

#[derive(Debug, Default)]
pub struct Health {
    /// When the agent's present life began; `None`: it does not live.
    began: Option<u64>,
    all: BTreeMap<String, State>,
    /// As told last, also by an earlier life of the sidecar.
    told: BTreeMap<String, bool>,
}

impl Health {
    pub fn told_before<'a>(&mut self, facts: impl IntoIterator<Item = &'a v1::HealthFact>) {
        self.told.extend(facts.into_iter().map(|f| (f.name.clone(), f.healthy)));
    }

    /// A life of the agent began, or ended: all is judged anew.
    pub fn lives(&mut self, began: Option<u64>) {
        self.began = began;
        self.all.clear();
    }

    /// Probes to be made now. Those that the plan does not have any more are forgotten; what was told unhealthy of one
    /// is taken back.
    pub fn start_due(&mut self, now: u64, plan: &[v1::HealthCheck]) -> (Vec<v1::Check>, Vec<v1::HealthFact>) {
        let has = |name: &String| plan.iter().any(|c| c.name == *name);
        self.all.retain(|name, _| has(name));
        let mut gone = Vec::new();
        self.told.retain(|name, healthy| {
            let kept = has(name);
            if !kept && !*healthy {
                let detail = "the plan has this check no more".into();
                gone.push(v1::HealthFact { name: name.clone(), healthy: true, detail });
            }
            kept
        });
        if self.began.is_none() {
            return (Vec::new(), gone);
        }
        let mut probes = Vec::new();
        for check in plan {
            let Some(probe) = &check.probe else { continue };
            let told = self.told.get(&check.name).copied();
            let state = self.all.entry(check.name.clone()).or_insert_with(|| State::new(now, told));
            let limit = 2 * u64::from(probe.timeout_ms) + LOST_AFTER_MS;
            state.flight = state.flight.filter(|began| now.saturating_sub(*began) < limit);
            if state.flight.is_none() && state.due <= now {
                state.flight = Some(now);
                state.due = now + every(probe);
                probes.push(v1::Check { id: check.name.clone(), ..probe.clone() });
            }
        }
        (probes, gone)
    }

    pub fn deadline(&self) -> Option<u64> {
        self.began?;
        self.all.values().filter(|s| s.flight.is_none()).map(|s| s.due).min()
    }

    pub fn observed(&mut self, now: u64, plan: &[v1::HealthCheck], seen: &Observation) -> Option<Change> {
        let check = plan.iter().find(|c| c.name == seen.check_id)?;
        let began = self.began?;
        let state = self.all.get_mut(&check.name)?;
        state.flight = None;
        let starting = !state.was_well && now.saturating_sub(began) < u64::from(check.startup_within_ms);
        match seen.outcome {
            Outcome::Passed => {
                state.was_well = true;
                state.failures = 0;
                state.successes = state.successes.saturating_add(1);
            }
            Outcome::Failed => {
                state.successes = 0;
                state.failures = if starting { 0 } else { state.failures.saturating_add(1) };
            }
            Outcome::Unknown | Outcome::Unspecified => {}
        }
        // The first success is enough to know; from unhealthy it takes as many as the plan says.
        let needed = if state.healthy == Some(false) { check.successes.max(1) } else { 1 };
        let healthy = match state.healthy {
            _ if state.failures >= check.failures.max(1) => Some(false),
            _ if state.successes >= needed => Some(true),
            before => before,
        };
        let unhealthy_again = healthy == Some(false) && state.failures >= check.failures.max(1);
        state.healthy = healthy;
        let healthy = healthy?;
        let restart = unhealthy_again && check.on_failure() == OnUnhealthy::Restart;
        if unhealthy_again {
            // Should it stay so, the count begins anew: another restart, where one is wanted.
            state.failures = 0;
        }
        let changed = self.told.insert(check.name.clone(), healthy) != Some(healthy);
        if !changed && !restart {
            return None;
        }
        let mut detail = seen.evidence.summary.clone();
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES));
        Some(Change { fact: v1::HealthFact { name: check.name.clone(), healthy, detail }, restart })
    }
}

fn every(probe: &v1::Check) -> u64 {
    if probe.every_ms == 0 { EVERY_MS } else { u64::from(probe.every_ms).max(EVERY_MIN_MS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(startup_within_ms: u32, failures: u32, successes: u32) -> Vec<v1::HealthCheck> {
        vec![v1::HealthCheck {
            name: "web".into(),
            probe: Some(v1::Check { every_ms: 1_000, timeout_ms: 500, ..Default::default() }),
            startup_within_ms,
            failures,
            successes,
            on_failure: OnUnhealthy::Restart as i32,
        }]
    }

    fn seen(outcome: Outcome) -> Observation {
        Observation {
            deliverable: String::new(),
            check_id: "web".into(),
            check_digest: String::new(),
            outcome,
            evidence: v1::Evidence { summary: "refused".into(), ..Default::default() },
        }
    }

    /// `+` passed, `-` failed, `?` unknown, one each second; told at which second, healthy or not, and with a restart.
    fn run(health: &mut Health, plan: &[v1::HealthCheck], row: &str) -> Vec<(u64, bool, bool)> {
        let mut told = Vec::new();
        for (n, c) in row.chars().enumerate() {
            let now = (n as u64 + 1) * 1_000;
            assert_eq!(health.start_due(now, plan).0.len(), 1, "at {now}");
            let outcome = match c {
                '+' => Outcome::Passed,
                '-' => Outcome::Failed,
                _ => Outcome::Unknown,
            };
            let change = health.observed(now, plan, &seen(outcome));
            told.extend(change.map(|c| (n as u64 + 1, c.fact.healthy, c.restart)));
        }
        told
    }

    fn begun() -> Health {
        let mut health = Health::default();
        health.lives(Some(0));
        health
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_successes_healthy_again() {
        let plan = plan(0, 3, 2);
        assert_eq!(run(&mut begun(), &plan, "+--+---+-++"), [(1, true, false), (7, false, true), (11, true, false)]);
        assert_eq!(run(&mut begun(), &plan, "--?-"), [(4, false, true)], "what is not known changes nothing");
    }

    #[test]
    fn while_it_starts_failures_do_not_count() {
        let plan = plan(5_000, 2, 1);
        assert_eq!(run(&mut begun(), &plan, "----+"), [(5, true, false)]);
        // The time to start is over: seconds 5 and 6 count.
        assert_eq!(run(&mut begun(), &plan, "------"), [(6, false, true)]);
        // It was well once: from then on they count, whatever time is left.
        assert_eq!(run(&mut begun(), &plan, "+--"), [(1, true, false), (3, false, true)]);
    }

    #[test]
    fn it_asks_for_a_restart_again_while_it_stays_unhealthy() {
        let told = run(&mut begun(), &plan(0, 2, 1), "------");
        assert_eq!(told, [(2, false, true), (4, false, true), (6, false, true)]);
    }

    #[test]
    fn a_new_life_of_the_agent_starts_anew_and_is_told_when_it_is_well() {
        let plan = plan(3_000, 1, 1);
        let mut health = begun();
        assert_eq!(run(&mut health, &plan, "+-"), [(1, true, false), (2, false, true)]);
        health.lives(None);
        assert!(health.start_due(9_000, &plan).0.is_empty(), "nobody is there");
        assert_eq!(health.observed(9_000, &plan, &seen(Outcome::Failed)), None, "of the life before");
        health.lives(Some(10_000));
        health.start_due(10_000, &plan);
        assert_eq!(health.observed(11_000, &plan, &seen(Outcome::Failed)), None, "it starts");
        let well = health.observed(12_000, &plan, &seen(Outcome::Passed)).expect("told");
        assert!(well.fact.healthy && !well.restart);
    }

    #[test]
    fn a_check_that_left_the_plan_is_not_unhealthy() {
        let plan = plan(0, 1, 1);
        let mut health = begun();
        run(&mut health, &plan, "-");
        let gone = health.start_due(5_000, &[]).1;
        assert_eq!(gone.iter().map(|f| f.healthy).collect::<Vec<_>>(), [true]);
    }
}
