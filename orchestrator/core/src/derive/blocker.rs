//! Blockers: one per waiting deliverable that somebody should know of, ranked by what clearing its root frees.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::v1::AgentStatus;

use super::{agent::AgentView, cause::CauseView, deliverable::DeliverableView, root::Root};
use crate::{io::Millis, plan::DeliverableId, state::State};

#[derive(Clone, Debug, PartialEq)]
pub struct BlockerView {
    pub waiting: DeliverableId,
    pub root: Root,
    pub cause: CauseView,
    pub since: Millis,
    pub holds_agents: BTreeSet<String>,
    pub holds_deliverables: usize,
    pub critical: bool,
    pub expected_clear: Option<Millis>,
    /// 1 is what to clear first; blockers of one root share it.
    pub rank: u32,
}

/// What one root holds up.
#[derive(Default)]
struct Impact {
    agents: BTreeSet<String>,
    deliverables: usize,
    /// Agents that could go on at once.
    freed: BTreeSet<String>,
    critical_weight: f64,
}

pub fn all(
    state: &State,
    views: &BTreeMap<DeliverableId, DeliverableView>,
    agents: &BTreeMap<String, AgentView>,
    causes: &BTreeMap<DeliverableId, CauseView>,
    roots: &BTreeMap<DeliverableId, Root>,
) -> Vec<BlockerView> {
    let mut impacts: BTreeMap<&DeliverableId, Impact> = BTreeMap::new();
    for (id, root) in roots {
        let blocked = agents[&id.agent].status == AgentStatus::Blocked;
        // Every root that it reaches holds it up, not only the binding one.
        for held_by in &root.all {
            let impact = impacts.entry(held_by).or_default();
            impact.agents.insert(id.agent.clone());
            impact.deliverables += 1;
            if blocked && views[id].open_needs().eq([held_by]) {
                impact.freed.insert(id.agent.clone());
            }
            if views[id].critical {
                impact.critical_weight += views[id].weight;
            }
        }
    }
    let mut blockers: Vec<BlockerView> = Vec::new();
    for (id, root) in roots {
        let shown = match agents[&id.agent].status {
            AgentStatus::Blocked => true,
            AgentStatus::Active => views[id].critical,
            AgentStatus::Unspecified
            | AgentStatus::Expected
            | AgentStatus::Missing
            | AgentStatus::Lost
            | AgentStatus::Done
            | AgentStatus::Exited
            | AgentStatus::Waiting
            | AgentStatus::Stalled
            | AgentStatus::Idle => false,
        };
        let Some(cause) = causes.get(root.id()).filter(|_| shown) else { continue };
        let impact = &impacts[root.id()];
        let agent = &state.agents[&id.agent];
        let added = state.deliverables[id].added;
        let since = if agent.status == AgentStatus::Blocked { agent.since.max(added) } else { added };
        blockers.push(BlockerView {
            waiting: id.clone(),
            root: root.clone(),
            cause: cause.clone(),
            since,
            holds_agents: impact.agents.clone(),
            holds_deliverables: impact.deliverables,
            critical: views[root.id()].critical,
            expected_clear: views[root.id()].expected_finish,
            rank: 0,
        });
    }
    let weight = |b: &BlockerView| impacts[b.root.id()].critical_weight;
    let freed = |b: &BlockerView| impacts[b.root.id()].freed.len();
    blockers.sort_by(|a, b| {
        freed(b)
            .cmp(&freed(a))
            .then(weight(b).total_cmp(&weight(a)))
            .then(b.holds_deliverables.cmp(&a.holds_deliverables))
            .then(a.root.id().cmp(b.root.id()))
            .then(a.waiting.cmp(&b.waiting))
    });
    let mut rank = 0;
    let mut last: Option<DeliverableId> = None;
    for blocker in &mut blockers {
        if last.as_ref() != Some(blocker.root.id()) {
            rank += 1;
            last = Some(blocker.root.id().clone());
        }
        blocker.rank = rank;
    }
    blockers
}
