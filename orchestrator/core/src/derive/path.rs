//! The critical path: the longest remaining work, counted towards the sink.
use std::collections::BTreeMap;

use super::deliverable::{DeliverableView, topological};
use crate::{plan::DeliverableId, state::State};

/// The path from the first deliverable to the last, and its length where every estimate on it is known.
/// A missing estimate counts as no work: it cannot make a path critical.
pub fn critical(_state: &State, views: &BTreeMap<DeliverableId, DeliverableView>) -> (Vec<DeliverableId>, Option<i64>) {
    let mut best: BTreeMap<DeliverableId, (i64, Option<DeliverableId>)> = BTreeMap::new();
    let mut dependents: BTreeMap<&DeliverableId, Vec<&DeliverableId>> = BTreeMap::new();
    for (id, view) in views.iter().filter(|(_, v)| !v.verified_now()) {
        for need in view.open_needs() {
            dependents.entry(need).or_default().push(id);
        }
    }
    for id in topological(views).into_iter().rev() {
        let view = &views[&id];
        if view.verified_now() {
            continue;
        }
        let mut after: Option<(i64, DeliverableId)> = None;
        for dependent in dependents.get(&id).into_iter().flatten() {
            let length = best.get(*dependent).map_or(0, |(n, _)| *n);
            let longer = after.as_ref().is_none_or(|(n, other)| length > *n || (length == *n && *dependent < other));
            if longer {
                after = Some((length, (*dependent).clone()));
            }
        }
        let own = view.remaining_ms.unwrap_or(0);
        let (tail, next) = after.map_or((0, None), |(n, id)| (n, Some(id)));
        best.insert(id, (own + tail, next));
    }
    let start = best
        .iter()
        .filter(|(id, _)| views[*id].open_needs().next().is_none())
        .max_by(|a, b| a.1.0.cmp(&b.1.0).then(b.0.cmp(a.0)));
    let Some((first, (length, _))) = start.filter(|(_, (length, _))| *length > 0) else { return (Vec::new(), None) };
    let mut path = vec![first.clone()];
    while let Some((_, Some(next))) = path.last().and_then(|id| best.get(id)) {
        path.push(next.clone());
    }
    let known = path.iter().all(|id| views[id].remaining_ms.is_some());
    (path, known.then_some(*length))
}
