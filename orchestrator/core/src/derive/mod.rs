//! From state to situation: statuses, needs, roots, causes, blockers, critical path, findings.
//! A full recomputation behind one function. Nothing here is stored, and time is asked of [`Clock`] only,
//! so that every moment at which the result changes by itself is known.
mod agent;
mod blocker;
mod cause;
mod deliverable;
mod finding;
mod path;
mod policy;
mod restored;
mod root;

use std::collections::{BTreeMap, BTreeSet};

pub use agent::AgentView;
pub use blocker::BlockerView;
pub use cause::CauseView;
pub use deliverable::{CheckView, DeliverableView, Seen, effective_outcome};
pub use finding::FindingView;
use pitwall_proto::v1;
pub use root::Root;

use crate::{clock::Clock, io::Millis, plan::DeliverableId, state::State};

/// Everything that is derived from a state, as of the time of its last event.
#[derive(Clone, Debug)]
pub struct Derived {
    pub deliverables: BTreeMap<DeliverableId, DeliverableView>,
    pub agents: BTreeMap<String, AgentView>,
    /// For each waiting deliverable: where its chain of open needs ends.
    pub roots: BTreeMap<DeliverableId, Root>,
    /// For each deliverable that is not verified and has no open need.
    pub causes: BTreeMap<DeliverableId, CauseView>,
    pub blockers: Vec<BlockerView>,
    pub findings: Vec<FindingView>,
    /// Roots for which a started agent without workable work waits.
    pub waited_for: BTreeSet<DeliverableId>,
    /// On the longest remaining path, first to last, and its length where every estimate is known.
    pub critical_path: Vec<DeliverableId>,
    pub critical_path_ms: Option<i64>,
    pub next_deadline: Option<(Millis, String)>,
}

pub fn derive(state: &State) -> Derived {
    let clock = Clock::at(state.at);
    let mut deliverables = deliverable::all(state, &clock);
    let (critical_path, critical_path_ms) = path::critical(state, &deliverables);
    for id in &critical_path {
        if let Some(view) = deliverables.get_mut(id) {
            view.critical = true;
        }
    }
    let holding = cause::holding(&deliverables);
    let early = agent::early(state, &clock);
    let reachable = root::reachable(&deliverables);
    let waited_for = root::waited_for(state, &deliverables, &reachable);
    let misdirected = cause::misdirected(state, &deliverables, &holding, &clock);
    let stalled = cause::stalled(state, &deliverables, &misdirected, &clock);
    let causes = cause::all(state, &deliverables, &early, &misdirected, &stalled, &clock);
    let roots = root::all(&deliverables, &causes, &reachable);
    let agents = agent::all(state, &deliverables, &early, &stalled, &causes, &roots, &clock);
    let blockers = blocker::all(state, &deliverables, &agents, &causes, &roots);
    let findings = finding::all(state, &deliverables, &agents, &causes, &blockers, &clock);
    Derived {
        deliverables,
        agents,
        roots,
        causes,
        blockers,
        findings,
        waited_for,
        critical_path,
        critical_path_ms,
        next_deadline: clock.next_deadline(),
    }
}

/// Weighted mean of `(weight, value)`; 0 for nothing.
pub fn weighted(parts: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (weight, sum) = parts.fold((0.0, 0.0), |(w, s), (weight, value)| (w + weight, s + weight * value));
    if weight > 0.0 { sum / weight } else { 0.0 }
}

impl Derived {
    pub fn is_status(&self, agent: &str, status: v1::AgentStatus) -> bool {
        self.agents.get(agent).is_some_and(|a| a.status == status)
    }
}
