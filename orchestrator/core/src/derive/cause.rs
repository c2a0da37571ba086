//! Why a root is not there yet: the first of the twelve causes that holds, and misdirection in detail.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::v1::{AgentStatus, Cause, DeliverableStatus, SidecarStatus};

use super::{
    agent::Early,
    deliverable::{DeliverableView, Seen},
};
use crate::{
    clock::Clock,
    io::Millis,
    plan::DeliverableId,
    state::{ActivityBucket, DeliverableState, State},
    text,
};

type Views = BTreeMap<DeliverableId, DeliverableView>;

#[derive(Clone, Debug, PartialEq)]
pub struct CauseView {
    pub cause: Cause,
    pub detail: String,
    pub since: Option<Millis>,
}

impl CauseView {
    /// Causes 1 to 9: something is wrong, it is not merely taking its time.
    pub fn is_trouble(&self) -> bool {
        !matches!(self.cause, Cause::Unspecified | Cause::Overdue | Cause::NotStarted | Cause::InProgress)
    }
}

/// Deliverables on which some open need rests.
pub fn holding(views: &Views) -> BTreeSet<DeliverableId> {
    views.values().filter(|v| !v.verified_now()).flat_map(|v| v.open_needs().cloned()).collect()
}

/// Where misdirection holds, whether or not another cause is told before it.
pub fn misdirected(
    state: &State,
    views: &Views,
    holding: &BTreeSet<DeliverableId>,
    clock: &Clock,
) -> BTreeMap<DeliverableId, CauseView> {
    views
        .iter()
        .filter(|(_, v)| v.workable)
        .filter_map(|(id, _)| Some((id.clone(), misdirection(state, id, holding, clock)?)))
        .collect()
}

pub fn all(
    state: &State,
    views: &Views,
    early: &BTreeMap<String, Early>,
    misdirected: &BTreeMap<DeliverableId, CauseView>,
    stalled: &BTreeMap<String, Stall>,
    clock: &Clock,
) -> BTreeMap<DeliverableId, CauseView> {
    let roots = views.iter().filter(|(_, v)| v.workable);
    roots
        .map(|(id, view)| {
            let stall = stalled.get(&id.agent);
            (id.clone(), one(state, id, view, &early[&id.agent], misdirected.get(id), stall, clock))
        })
        .collect()
}

fn one(
    state: &State,
    id: &DeliverableId,
    view: &DeliverableView,
    early: &Early,
    misdirected: Option<&CauseView>,
    stalled: Option<&Stall>,
    clock: &Clock,
) -> CauseView {
    let owner = &state.agents[&id.agent];
    let told = |cause, detail: String, since| CauseView { cause, detail, since };
    if early.status == Some(AgentStatus::Missing) {
        return told(Cause::OwnerMissing, early.reason.clone(), Some(early.due));
    }
    if owner.sidecar_status() == SidecarStatus::Lost {
        let since = owner.sidecar.as_ref().map(|s| s.since);
        return told(Cause::OwnerLost, format!("the sidecar of {} is lost", id.agent), since);
    }
    if let Some(exit) = &owner.exited {
        return told(Cause::OwnerExited, format!("{} exited{}", id.agent, text::exit(exit)), Some(exit.at));
    }
    if view.status == DeliverableStatus::Regressed {
        let failed = view.checks.iter().find(|c| c.outcome == Seen::Failed).map_or("a check", |c| c.id.as_str());
        let detail = format!("was verified, now {failed} fails");
        return told(Cause::Regressed, detail, Some(state.deliverables[id].since));
    }
    if view.status == DeliverableStatus::Unknown {
        return told(Cause::EvidenceUnknown, unseen(&state.deliverables[id], view), Some(state.deliverables[id].since));
    }
    if early.waiting {
        let claim = owner.claim.as_ref().map_or("a person", |c| c.waiting_for.as_str());
        return told(Cause::OwnerWaiting, format!("{} waits for {claim}", id.agent), owner.waiting_since);
    }
    if let Some(pressure) = &owner.pressure {
        let of = if pressure.by_agent.is_empty() { String::new() } else { format!(" of {}", pressure.by_agent) };
        let by = pressure.process.as_ref().map(|p| format!(", caused by {} ({}){of}", p.name, p.pid));
        let by = by.unwrap_or_default();
        return told(Cause::ResourcePressure, format!("{}{by}", pressure.what), Some(pressure.since));
    }
    if let Some(stall) = stalled {
        let how = if stall.quiet { "quiet" } else { "looping" };
        return told(Cause::OwnerStalled, format!("{} is {how}", id.agent), Some(stall.since));
    }
    if let Some(found) = misdirected {
        return found.clone();
    }
    if let Some(planned) = view.planned_finish
        && clock.reached(planned, || format!("{id} is overdue"))
    {
        return told(Cause::Overdue, "planned finish has passed".into(), Some(planned));
    }
    if view.started {
        return told(Cause::InProgress, format!("{} verified", text::percent(view.verified)), None);
    }
    told(Cause::NotStarted, "no check passed, no file of its own changed".into(), None)
}

/// Which evidence is unknown, and why.
fn unseen(state: &DeliverableState, view: &DeliverableView) -> String {
    let unknown = view.checks.iter().find(|c| c.outcome == Seen::Unknown);
    let Some((check, now)) = unknown.and_then(|c| Some((c, state.checks.get(&c.id)?))) else {
        return "a required check cannot be observed".into();
    };
    match &now.verdict {
        Some(_) if now.stale => format!("evidence of {} is too old", check.id),
        Some(verdict) => {
            let summary = verdict.evidence.as_ref().map_or("", |e| e.summary.as_str());
            format!("{} cannot be observed: {summary}", check.id)
        }
        None if now.replaced => format!("{} was changed by the plan and not made since", check.id),
        None => format!("{} was never made", check.id),
    }
}

/// An agent with workable work that does not move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    pub since: Millis,
    /// Without activity; else looping: busy, and nothing changes.
    pub quiet: bool,
}

/// Windows in a row without a change of evidence that make a loop.
const LOOP_WINDOWS: i64 = 3;

/// Quiet, or looping where that is not misdirection, for as long as there has been workable work: an agent that
/// was rightly quiet while it waited gets the whole window from the moment at which its work became workable.
pub fn stalled(
    state: &State,
    views: &Views,
    misdirected: &BTreeMap<DeliverableId, CauseView>,
    clock: &Clock,
) -> BTreeMap<String, Stall> {
    let mut stalled = BTreeMap::new();
    for (name, agent) in state.agents.iter().filter(|(_, a)| a.quiet_since.is_some() || a.looping_since.is_some()) {
        let own = views.iter().filter(|(id, _)| id.agent == *name);
        let Some(workable) = own.filter_map(|(_, v)| v.workable_since).min() else { continue };
        let window = state.plan.agents[name].windows.stall_after_ms as i64;
        let drifting = misdirected.keys().any(|id| id.agent == *name);
        let over = |windows| {
            clock.reached(workable + windows * window, || format!("{name} has had workable work for its window"))
        };
        if let Some(since) = agent.quiet_since.filter(|_| over(1)) {
            stalled.insert(name.clone(), Stall { since: since.max(workable), quiet: true });
        } else if let Some(since) = agent.looping_since.filter(|_| !drifting && over(LOOP_WINDOWS)) {
            stalled.insert(name.clone(), Stall { since: since.max(workable), quiet: false });
        }
    }
    stalled
}

/// Inside the window its owner changes other things that hold nobody up, and nothing that belongs to this,
/// while a started agent without workable work waits for it as root.
fn misdirection(
    state: &State,
    id: &DeliverableId,
    holding: &BTreeSet<DeliverableId>,
    clock: &Clock,
) -> Option<CauseView> {
    let waited = state.deliverables[id].waited_since?;
    let window = state.plan.agents[&id.agent].windows.misdirected_after_ms as i64;
    if !clock.reached(waited + window, || format!("{id} may be misdirected")) {
        return None;
    }
    let buckets = &state.agents[&id.agent].activity;
    let inside = |bucket: &ActivityBucket| {
        !clock.reached(bucket.at + window, || format!("file activity leaves the window of {id}"))
    };
    let own = |bucket: &&ActivityBucket| bucket.deliverables.get(&id.name).is_some_and(|n| *n > 0);
    // The latest of each kind decides; asking for every bucket would make each of them a deadline.
    if buckets.iter().filter(own).max_by_key(|b| b.at).is_some_and(inside) {
        return None;
    }
    let others = |bucket: &ActivityBucket| {
        let idle = |name: &str| !holding.contains(&DeliverableId::new(&id.agent, name));
        let known = bucket.deliverables.iter().filter(|(name, _)| idle(name));
        known.fold(bucket.unattributed, |sum, (_, n)| sum.saturating_add(*n))
    };
    let latest = buckets.iter().filter(|b| others(b) > 0).max_by_key(|b| b.at)?;
    if !inside(latest) {
        return None;
    }
    let in_window = buckets.iter().filter(|b| b.at + window > clock.now());
    let count = in_window.fold(0u32, |sum, b| sum.saturating_add(others(b)));
    let example = latest.examples.first().map(|e| format!(" (latest {e})")).unwrap_or_default();
    Some(CauseView {
        cause: Cause::Misdirected,
        detail: format!("{count} changes in {}, none on it{example}", text::duration(window)),
        since: Some(waited),
    })
}
