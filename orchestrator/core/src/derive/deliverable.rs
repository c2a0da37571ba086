//! One deliverable: its status from its checks, its needs, whether it can be worked on, when it should be done.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::v1::{DeliverableStatus, NeedState, Outcome, SidecarStatus};

use crate::{
    clock::Clock,
    io::Millis,
    plan::{self, DeliverableId},
    state::{CheckState, DeliverableState, State},
};

/// Until all its required checks pass, checks that pass count for at most so much.
const UNVERIFIED_MAX: f64 = 0.99;

#[derive(Clone, Debug, PartialEq)]
pub struct DeliverableView {
    pub status: DeliverableStatus,
    pub verified: f64,
    /// Share of its weight whose evidence is unknown.
    pub unknown: f64,
    pub claimed: Option<f64>,
    pub weight: f64,
    pub checks: Vec<CheckView>,
    pub needs: Vec<(DeliverableId, NeedState)>,
    pub workable: bool,
    /// Since when it can be worked on, while it can.
    pub workable_since: Option<Millis>,
    pub started: bool,
    pub critical: bool,
    pub failing_since: Option<Millis>,
    pub planned_finish: Option<Millis>,
    /// From now on, its own work and what it waits for.
    pub expected_finish: Option<Millis>,
    /// Own remaining work; absent without an estimate.
    pub remaining_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CheckView {
    pub id: String,
    pub outcome: Seen,
    pub required: bool,
    pub weight: f64,
}

/// What a check counts as now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Passed,
    /// Passed before, fails now, inside its hysteresis: still counts as passed.
    Failing(Millis),
    Failed,
    Unknown,
    /// Never made, and not for so long that this should worry anybody.
    NotYet,
}

impl DeliverableView {
    pub fn verified_now(&self) -> bool {
        self.status == DeliverableStatus::Verified
    }

    pub fn open_needs(&self) -> impl Iterator<Item = &DeliverableId> {
        self.needs.iter().filter(|(_, s)| *s == NeedState::Open).map(|(id, _)| id)
    }

    pub fn waiting(&self) -> bool {
        !self.verified_now() && self.open_needs().next().is_some()
    }
}

impl Seen {
    pub fn outcome(self) -> Outcome {
        match self {
            Seen::Passed | Seen::Failing(_) => Outcome::Passed,
            Seen::Failed => Outcome::Failed,
            Seen::Unknown | Seen::NotYet => Outcome::Unknown,
        }
    }

    fn passes(self) -> bool {
        matches!(self, Seen::Passed | Seen::Failing(_))
    }
}

/// What a check counts as: evidence that is stale, or whose sidecar is lost, is unknown, never green.
pub fn effective_outcome(
    state: &CheckState,
    rule: &plan::Check,
    sidecar: SidecarStatus,
    seen_at: Option<Millis>,
    clock: &Clock,
) -> Seen {
    let Some(verdict) = &state.verdict else {
        if state.replaced || sidecar == SidecarStatus::Lost {
            return Seen::Unknown;
        }
        let Some(seen_at) = seen_at else { return Seen::NotYet };
        let due = seen_at.max(state.added) + rule.fresh_for_ms as i64;
        let overdue = clock.reached(due, || format!("check {} was never made", rule.id));
        return if overdue { Seen::Unknown } else { Seen::NotYet };
    };
    if state.stale || sidecar == SidecarStatus::Lost {
        return Seen::Unknown;
    }
    match Outcome::try_from(verdict.outcome).unwrap_or_default() {
        Outcome::Passed => Seen::Passed,
        Outcome::Failed => match state.failing_since {
            Some(since) if !hysteresis_over(rule, since, clock) => Seen::Failing(since),
            Some(_) | None => Seen::Failed,
        },
        Outcome::Unknown | Outcome::Unspecified => Seen::Unknown,
    }
}

/// Its sidecar says so too, but may fall silent in the middle.
fn hysteresis_over(rule: &plan::Check, failing_since: Millis, clock: &Clock) -> bool {
    let until = failing_since + rule.hysteresis_ms as i64;
    clock.reached(until, || format!("check {} has failed for its hysteresis", rule.id))
}

pub fn all(state: &State, clock: &Clock) -> BTreeMap<DeliverableId, DeliverableView> {
    let mut views: BTreeMap<DeliverableId, DeliverableView> = BTreeMap::new();
    for (id, spec) in state.plan.deliverables() {
        let Some(now) = state.deliverables.get(&id) else { continue };
        views.insert(id.clone(), own(state, &id, spec, now, clock));
    }
    let met: BTreeSet<DeliverableId> =
        views.iter().filter(|(_, v)| v.verified_now()).map(|(id, _)| id.clone()).collect();
    for (id, spec) in state.plan.deliverables() {
        if let Some(view) = views.get_mut(&id) {
            let need = |n: &DeliverableId| if met.contains(n) { NeedState::Met } else { NeedState::Open };
            view.needs = spec.needs.iter().map(|n| (n.clone(), need(n))).collect();
            view.workable = !view.verified_now() && view.open_needs().next().is_none();
            view.workable_since = view.workable.then(|| workable_since(state, &id, spec));
        }
    }
    finishes(state, &mut views, clock);
    views
}

/// The latest of: it came into the plan, its last need was met, it lost its own verification.
fn workable_since(state: &State, id: &DeliverableId, spec: &plan::Deliverable) -> Millis {
    let Some(now) = state.deliverables.get(id) else { return state.at };
    let met = spec.needs.iter().filter_map(|need| state.deliverables.get(need)?.verified_at);
    met.chain(now.unverified_at).fold(now.added, Millis::max)
}

/// What follows from its own checks alone.
fn own(
    state: &State,
    id: &DeliverableId,
    spec: &plan::Deliverable,
    now: &DeliverableState,
    clock: &Clock,
) -> DeliverableView {
    let agent = &state.agents[&id.agent];
    let seen_at = agent.seen.as_ref().map(|s| s.at);
    let checks: Vec<CheckView> = spec
        .checks
        .iter()
        .filter_map(|rule| {
            let check = now.checks.get(&rule.id)?;
            let outcome = effective_outcome(check, rule, agent.sidecar_status(), seen_at, clock);
            Some(CheckView { id: rule.id.clone(), outcome, required: rule.required, weight: rule.weight })
        })
        .collect();
    // With no required check at all, every check is.
    let any_required = checks.iter().any(|c| c.required);
    let required: Vec<Seen> = checks.iter().filter(|c| c.required || !any_required).map(|c| c.outcome).collect();
    let some_pass = checks.iter().any(|c| c.outcome.passes());
    // A rule that never passed cannot have been lost: a new generation may have added or changed it.
    let regressed = checks.iter().any(|c| {
        (c.required || !any_required)
            && c.outcome == Seen::Failed
            && now.checks.get(&c.id).is_some_and(|check| check.passed_once)
    });
    let status = if !required.is_empty() && required.iter().all(|o| o.passes()) {
        DeliverableStatus::Verified
    } else if now.was_verified && regressed {
        DeliverableStatus::Regressed
    } else if seen_at.is_some() && required.contains(&Seen::Unknown) && !required.contains(&Seen::Failed) {
        DeliverableStatus::Unknown
    } else if some_pass {
        DeliverableStatus::Partial
    } else {
        DeliverableStatus::Pending
    };
    let verified = super::weighted(checks.iter().map(|c| (c.weight, f64::from(c.outcome.passes()))));
    let verified = if status == DeliverableStatus::Verified { 1.0 } else { verified.min(UNVERIFIED_MAX) };
    let unknown = super::weighted(
        checks.iter().map(|c| (c.weight, f64::from(matches!(c.outcome, Seen::Unknown | Seen::NotYet)))),
    );
    let claimed = agent.claim.as_ref().and_then(|c| c.deliverables.get(&id.name)).copied();
    let failing_since =
        checks.iter().filter_map(|c| if let Seen::Failing(since) = c.outcome { Some(since) } else { None }).min();
    DeliverableView {
        status,
        verified,
        unknown,
        claimed,
        weight: spec.weight,
        checks,
        needs: Vec::new(),
        workable: false,
        started: now.ever_passed || now.touched || claimed.is_some_and(|c| c > 0.0),
        critical: false,
        workable_since: None,
        failing_since,
        planned_finish: None,
        expected_finish: None,
        remaining_ms: spec.estimate_ms.map(|e| (e as f64 * (1.0 - verified)).round() as i64),
    }
}

/// Planned and expected finishes, needs first.
fn finishes(state: &State, views: &mut BTreeMap<DeliverableId, DeliverableView>, clock: &Clock) {
    for id in topological(views) {
        let Some(spec) = state.plan.deliverable(&id) else { continue };
        let added = state.deliverables[&id].added;
        let planned = spec.needs.iter().try_fold(added, |latest, need| {
            views.get(need).and_then(|v| v.planned_finish).map(|finish| latest.max(finish))
        });
        let planned = planned.zip(spec.estimate_ms).map(|(start, estimate)| start + estimate as i64);
        let view = &views[&id];
        let expected = if view.verified_now() {
            None
        } else {
            let start = view.open_needs().try_fold(clock.now(), |latest, need| {
                views.get(need).and_then(|v| v.expected_finish).map(|finish| latest.max(finish))
            });
            start.zip(view.remaining_ms).map(|(start, left)| start + left)
        };
        if let Some(view) = views.get_mut(&id) {
            (view.planned_finish, view.expected_finish) = (planned, expected);
        }
    }
}

/// Every deliverable after its needs. A plan has no cycles; what a broken one would hold comes in no order.
pub fn topological(views: &BTreeMap<DeliverableId, DeliverableView>) -> Vec<DeliverableId> {
    let mut left: BTreeMap<&DeliverableId, usize> = BTreeMap::new();
    let mut dependents: BTreeMap<&DeliverableId, Vec<&DeliverableId>> = BTreeMap::new();
    for (id, view) in views {
        left.insert(id, view.needs.iter().filter(|(n, _)| views.contains_key(n)).count());
        for (need, _) in &view.needs {
            dependents.entry(need).or_default().push(id);
        }
    }
    let mut ready: Vec<&DeliverableId> = left.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id).collect();
    let mut order = Vec::with_capacity(views.len());
    while let Some(id) = ready.pop() {
        order.push(id.clone());
        for dependent in dependents.get(id).into_iter().flatten() {
            if let Some(n) = left.get_mut(dependent) {
                *n -= 1;
                if *n == 0 {
                    ready.push(dependent);
                }
            }
        }
    }
    order
}
