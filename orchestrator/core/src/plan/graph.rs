//! Needs among deliverables: unknown ones, and cycles.
use std::collections::{BTreeMap, BTreeSet};

use super::{
    mistake::{Mistakes, nearest},
    node::Place,
    types::{DeliverableId, Plan},
};

/// Where each need stands in the text.
pub type Needs = BTreeMap<DeliverableId, Vec<(String, Place)>>;

/// Puts the needs into the plan, and tells those that name nothing.
pub fn connect(plan: &mut Plan, needs: &Needs, mistakes: &mut Mistakes) {
    let known: BTreeSet<String> = plan.deliverables().map(|(id, _)| id.to_string()).collect();
    for (id, wanted) in needs {
        let mut found: Vec<DeliverableId> = Vec::new();
        for (text, place) in wanted {
            // A name alone is one of the agent's own.
            let full = if text.contains('/') { text.clone() } else { format!("{}/{text}", id.agent) };
            if !known.contains(&full) {
                let help = match nearest(&full, known.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "a need is written agent/deliverable, and both are in this plan".to_string(),
                };
                mistakes.add(*place, format!("nobody owes `{text}`"), help);
                continue;
            }
            let Some((agent, name)) = full.split_once('/') else { continue };
            let need = DeliverableId::new(agent, name);
            if need == *id {
                mistakes.add(*place, format!("{id} needs itself"), "remove this need");
            } else if found.contains(&need) {
                mistakes.add(*place, format!("`{text}` is needed twice"), "remove one of the two");
            } else {
                found.push(need);
            }
        }
        if let Some(deliverable) = plan.agents.get_mut(&id.agent).and_then(|a| a.deliverables.get_mut(&id.name)) {
            deliverable.needs = found;
        }
    }
}

/// Tells every cycle once, at the first need of it.
pub fn cycles(plan: &Plan, needs: &Needs, mistakes: &mut Mistakes) {
    let mut done: BTreeSet<DeliverableId> = BTreeSet::new();
    for (start, _) in plan.deliverables() {
        if done.contains(&start) {
            continue;
        }
        // Depth first without recursion: a chain may be as long as the plan.
        let mut path: Vec<(DeliverableId, usize)> = vec![(start, 0)];
        while let Some((id, next)) = path.last().cloned() {
            let of = plan.deliverable(&id).map_or(&[][..], |d| d.needs.as_slice());
            let Some(need) = of.get(next) else {
                done.insert(id);
                path.pop();
                continue;
            };
            if let Some((_, index)) = path.last_mut() {
                *index += 1;
            }
            if let Some(from) = path.iter().position(|(on_path, _)| on_path == need) {
                tell(&path[from..], needs, mistakes);
            } else if !done.contains(need) {
                path.push((need.clone(), 0));
            }
        }
    }
}

fn tell(cycle: &[(DeliverableId, usize)], needs: &Needs, mistakes: &mut Mistakes) {
    let Some((first, taken)) = cycle.first() else { return };
    let names: Vec<String> = cycle.iter().map(|(id, _)| id.to_string()).chain([first.to_string()]).collect();
    let place = needs.get(first).and_then(|n| n.get(taken.saturating_sub(1))).map_or(Place::START, |(_, at)| *at);
    mistakes.add(place, format!("needs go in a circle: {}", names.join(" -> ")), "remove one of these needs");
}
