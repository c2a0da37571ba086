//! Where a wait comes from: the chain of open needs down to what has none.
use std::collections::{BTreeMap, BTreeSet};

use super::{
    cause::CauseView,
    deliverable::{DeliverableView, topological},
};
use crate::{io::Millis, plan::DeliverableId, state::State};

/// For one waiting deliverable: the binding chain and its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Root {
    /// From the binding need to the root.
    pub chain: Vec<DeliverableId>,
    /// All roots that it reaches, the binding one among them.
    pub all: BTreeSet<DeliverableId>,
}

impl Root {
    pub fn id(&self) -> &DeliverableId {
        self.chain.last().expect("a chain holds at least the need that it began with")
    }
}

type Views = BTreeMap<DeliverableId, DeliverableView>;

/// Every root that a waiting deliverable reaches through any open need.
pub fn reachable(views: &Views) -> BTreeMap<DeliverableId, BTreeSet<DeliverableId>> {
    let mut reach: BTreeMap<DeliverableId, BTreeSet<DeliverableId>> = BTreeMap::new();
    for id in topological(views) {
        if !views[&id].waiting() {
            continue;
        }
        let mut roots = BTreeSet::new();
        for need in views[&id].open_needs() {
            match reach.get(need) {
                Some(further) => roots.extend(further.iter().cloned()),
                None => {
                    roots.insert(need.clone());
                }
            }
        }
        reach.insert(id, roots);
    }
    reach
}

/// Roots for which a started agent without workable work waits. Any root that it reaches counts, not only the
/// binding one: which one binds depends on causes, and a cause depends on this.
pub fn waited_for(
    state: &State,
    views: &Views,
    reachable: &BTreeMap<DeliverableId, BTreeSet<DeliverableId>>,
) -> BTreeSet<DeliverableId> {
    let mut waited = BTreeSet::new();
    for name in state.agents.keys() {
        let own: Vec<_> = views.iter().filter(|(id, _)| id.agent == *name).collect();
        if own.iter().any(|(_, v)| v.workable) || !own.iter().any(|(_, v)| v.started) {
            continue;
        }
        for (id, _) in own {
            waited.extend(reachable.get(id).into_iter().flatten().cloned());
        }
    }
    waited
}

/// How late a need is: causes 1 to 9 are latest, no estimate comes next, else by expected finish.
fn lateness(
    need: &DeliverableId,
    views: &Views,
    causes: &BTreeMap<DeliverableId, CauseView>,
    root: &DeliverableId,
) -> (u8, Millis) {
    if causes.get(root).is_some_and(CauseView::is_trouble) {
        return (2, 0);
    }
    match views.get(need).and_then(|v| v.expected_finish) {
        None => (1, 0),
        Some(finish) => (0, finish),
    }
}

pub fn all(
    views: &Views,
    causes: &BTreeMap<DeliverableId, CauseView>,
    reachable: &BTreeMap<DeliverableId, BTreeSet<DeliverableId>>,
) -> BTreeMap<DeliverableId, Root> {
    let mut roots: BTreeMap<DeliverableId, Root> = BTreeMap::new();
    for id in topological(views) {
        if !views[&id].waiting() {
            continue;
        }
        let mut binding: Option<((u8, Millis), &DeliverableId)> = None;
        for need in views[&id].open_needs() {
            let end = roots.get(need).map_or(need, Root::id);
            let late = lateness(need, views, causes, end);
            // Ties by id: the smaller one binds.
            if binding.as_ref().is_none_or(|(latest, other)| late > *latest || (late == *latest && need < *other)) {
                binding = Some((late, need));
            }
        }
        let Some((_, need)) = binding else { continue };
        let mut chain = vec![need.clone()];
        if let Some(further) = roots.get(need) {
            chain.extend(further.chain.iter().cloned());
        }
        let all = reachable.get(&id).cloned().unwrap_or_default();
        roots.insert(id, Root { chain, all });
    }
    roots
}
