//! What watchers are told: the difference between what was published last and what holds now.
use std::collections::BTreeMap;

use pitwall_proto::v1;

use super::Project;
use crate::{tell, view};

/// As last published.
#[derive(Debug, Default)]
pub(super) struct Published {
    agents: BTreeMap<String, v1::Agent>,
    findings: BTreeMap<u64, v1::Finding>,
    commands: BTreeMap<String, v1::Command>,
    interventions: BTreeMap<String, v1::Intervention>,
}

impl Project {
    pub(super) fn snapshot_published(&self) -> Published {
        let findings = self.state.findings.values().chain(&self.state.closed_findings);
        Published {
            agents: self.published_agents(),
            findings: findings.map(|f| (f.opened.id, view::finding(f))).collect(),
            commands: self.state.commands.iter().map(|(id, c)| (id.clone(), view::command(c))).collect(),
            interventions: self
                .state
                .commands
                .iter()
                .filter(|(_, c)| c.intervenes())
                .map(|(id, c)| (id.clone(), view::intervention(c)))
                .collect(),
        }
    }

    fn published_agents(&self) -> BTreeMap<String, v1::Agent> {
        let at = self.state.at;
        self.state.agents.keys().map(|name| (name.clone(), view::agent(&self.state, &self.derived, name, at))).collect()
    }

    /// The state after this batch, as far as it differs from what was told before.
    pub(super) fn change(&mut self) -> Option<v1::Change> {
        if self.batch.is_empty() {
            return None;
        }
        let before = std::mem::take(&mut self.published);
        let now = self.snapshot_published();
        let project = view::totals(&self.derived, &self.state);
        let change = v1::Change {
            revision: Some(self.state.revision()),
            at_unix_ms: self.state.at,
            events: self.batch.iter().map(tell::event).collect(),
            agents: changed(&before.agents, &now.agents),
            removed_agents: before.agents.keys().filter(|name| !now.agents.contains_key(*name)).cloned().collect(),
            blockers: view::blockers(&self.state, &self.derived),
            findings: changed(&before.findings, &now.findings),
            commands: changed(&before.commands, &now.commands),
            interventions: changed(&before.interventions, &now.interventions),
            verified: project.verified,
            claimed: project.claimed,
            unknown: project.unknown,
            generation: self.state.generation,
        };
        self.published = now;
        Some(change)
    }
}

/// Those that are new or differ.
fn changed<K: Ord, V: PartialEq + Clone>(before: &BTreeMap<K, V>, now: &BTreeMap<K, V>) -> Vec<V> {
    now.iter().filter(|(key, value)| before.get(key) != Some(value)).map(|(_, value)| value.clone()).collect()
}
