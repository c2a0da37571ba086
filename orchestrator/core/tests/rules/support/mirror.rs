//! A watcher: a snapshot and then changes, as a client's `Watch` sees them.
use std::collections::BTreeMap;

use pitwall_core::project::Project;
use pitwall_proto::v1;

pub struct Mirror {
    agents: BTreeMap<String, v1::Agent>,
    blockers: Vec<v1::Blocker>,
    findings: BTreeMap<u64, v1::Finding>,
    interventions: BTreeMap<String, v1::Intervention>,
    revision: u64,
    verified: f64,
}

impl Mirror {
    pub fn new(snapshot: v1::Situation) -> Self {
        Self {
            agents: snapshot.agents.into_iter().map(|a| (a.name.clone(), a)).collect(),
            blockers: snapshot.blockers,
            findings: snapshot.findings.into_iter().map(|f| (f.id, f)).collect(),
            interventions: snapshot.interventions.into_iter().map(|i| (i.id.clone(), i)).collect(),
            revision: snapshot.revision.unwrap().sequence,
            verified: snapshot.verified,
        }
    }

    pub fn apply(&mut self, change: &v1::Change) {
        let revision = change.revision.as_ref().unwrap().sequence;
        assert_eq!(change.events.last().map(|e| e.sequence), Some(revision));
        assert_eq!(change.events.first().map(|e| e.sequence), Some(self.revision + 1), "no revision is left out");
        self.revision = revision;
        self.verified = change.verified;
        self.agents.extend(change.agents.iter().map(|a| (a.name.clone(), a.clone())));
        for gone in &change.removed_agents {
            self.agents.remove(gone);
        }
        self.blockers.clone_from(&change.blockers);
        self.findings.extend(change.findings.iter().map(|f| (f.id, f.clone())));
        self.findings.retain(|_, f| f.closed_unix_ms.is_none());
        self.interventions.extend(change.interventions.iter().map(|i| (i.id.clone(), i.clone())));
    }

    /// What it was told adds up to what the project says now.
    pub fn compare(&self, project: &Project) {
        let mut now = project.situation(project.state().at);
        for agent in &mut now.agents {
            agent.readout = None;
        }
        let agents: Vec<_> = self.agents.values().cloned().collect();
        assert_eq!(agents, now.agents, "agents as watched");
        assert_eq!(self.blockers, now.blockers, "blockers as watched");
        assert_eq!(self.findings.values().cloned().collect::<Vec<_>>(), now.findings, "findings as watched");
        assert_eq!(self.verified, now.verified);
        for intervention in &now.interventions {
            assert_eq!(self.interventions.get(&intervention.id), Some(intervention), "interventions as watched");
        }
    }
}
