//! Why a root is not there yet: the first of the twelve causes that holds, and misdirection in detail.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::v1::{AgentStatus, Cause, DeliverableStatus, SidecarStatus};

use super::{agent::Early, deliverable::DeliverableView};
use crate::{
    clock::Clock,
    io::Millis,
    plan::DeliverableId,
    state::{AgentState, State},
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

pub fn all(
    state: &State,
    views: &Views,
    early: &BTreeMap<String, Early>,
    holding: &BTreeSet<DeliverableId>,
    clock: &Clock,
) -> BTreeMap<DeliverableId, CauseView> {
    let misdirected: BTreeMap<&DeliverableId, CauseView> = views
        .iter()
        .filter(|(_, v)| v.workable)
        .filter_map(|(id, _)| Some((id, misdirection(state, id, holding, clock)?)))
        .collect();
    let roots = views.iter().filter(|(_, v)| v.workable);
    roots.map(|(id, view)| (id.clone(), one(state, id, view, &early[&id.agent], &misdirected, clock))).collect()
}

fn one(
    state: &State,
    id: &DeliverableId,
    view: &DeliverableView,
    early: &Early,
    misdirected: &BTreeMap<&DeliverableId, CauseView>,
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
        return told(Cause::Regressed, "was verified and fails now".into(), Some(state.deliverables[id].since));
    }
    if view.status == DeliverableStatus::Unknown {
        return told(Cause::EvidenceUnknown, "a required check cannot be observed".into(), None);
    }
    if early.waiting {
        let claim = owner.claim.as_ref().map_or("a person", |c| c.waiting_for.as_str());
        return told(Cause::OwnerWaiting, format!("{} waits for {claim}", id.agent), owner.waiting_since);
    }
    if let Some(pressure) = &owner.pressure {
        let by = pressure.process.as_ref().map(|p| format!(", caused by {} ({})", p.name, p.pid)).unwrap_or_default();
        return told(Cause::ResourcePressure, format!("{}{by}", pressure.what), Some(pressure.since));
    }
    let drifting = misdirected.keys().any(|d| d.agent == id.agent);
    if let Some(since) = stalled_since(owner, drifting) {
        let how = if owner.quiet_since.is_some() { "quiet" } else { "looping" };
        return told(Cause::OwnerStalled, format!("{} is {how}", id.agent), Some(since));
    }
    if let Some(found) = misdirected.get(id) {
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

/// Quiet, or looping where that is not misdirection. (The caller knows that there is workable work.)
pub fn stalled_since(owner: &AgentState, misdirected: bool) -> Option<Millis> {
    owner.quiet_since.or(if misdirected { None } else { owner.looping_since })
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
    let mut others = 0;
    let mut latest_other = None;
    for bucket in &state.agents[&id.agent].activity {
        let expired = || clock.reached(bucket.at + window, || format!("file activity leaves the window of {id}"));
        let own = bucket.deliverables.get(&id.name).copied().unwrap_or(0);
        if own > 0 && !expired() {
            return None;
        }
        let idle: u32 = bucket
            .deliverables
            .iter()
            .filter(|(name, _)| !holding.contains(&DeliverableId::new(&id.agent, name.as_str())))
            .map(|(_, n)| n)
            .sum();
        let other = idle.saturating_add(bucket.unattributed);
        if other > 0 && !expired() {
            others += other;
            latest_other = Some(bucket);
        }
    }
    let bucket = latest_other?;
    let example = bucket.examples.first().map(|e| format!(" (latest {e})")).unwrap_or_default();
    Some(CauseView {
        cause: Cause::Misdirected,
        detail: format!("{others} changes in {}, none on it{example}", text::duration(window)),
        since: Some(waited),
    })
}
