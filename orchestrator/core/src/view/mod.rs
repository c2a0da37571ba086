//! State and what is derived from it, in the wire's words. No rule lives here.
mod agent;
mod blocker;
mod command;
mod host;

pub use agent::agent;
pub use blocker::{advice, blockers, finding};
pub use command::{command, intervention};
use pitwall_proto::{journal, v1};

use crate::{
    derive::{self, Derived},
    io::Millis,
    plan::DeliverableId,
    project::Project,
    state::State,
};

/// Decided interventions that a situation still shows.
const INTERVENTIONS_SHOWN: usize = 20;

pub struct Totals {
    pub verified: f64,
    pub claimed: Option<f64>,
    pub unknown: f64,
}

/// Over all agents, by the weight of their deliverables.
pub fn totals(derived: &Derived, state: &State) -> Totals {
    let weight = |name: &String| -> f64 {
        state.plan.agents.get(name).map_or(0.0, |a| a.deliverables.values().map(|d| d.weight).sum())
    };
    let over = |value: &dyn Fn(&derive::AgentView) -> f64| {
        derive::weighted(derived.agents.iter().map(|(name, a)| (weight(name), value(a))))
    };
    let anyone = derived.agents.values().any(|a| a.claimed.is_some());
    Totals {
        verified: over(&|a| a.verified),
        claimed: anyone.then(|| over(&|a| a.claimed.unwrap_or(a.verified))),
        unknown: over(&|a| a.unknown),
    }
}

pub fn reference(id: &DeliverableId) -> v1::DeliverableRef {
    v1::DeliverableRef { agent: id.agent.clone(), deliverable: id.name.clone() }
}

pub fn process(process: &journal::Process) -> v1::ProcessIdentity {
    v1::ProcessIdentity { pid: process.pid, start_ticks: process.start_ticks, name: process.name.clone() }
}

impl Project {
    pub fn situation(&self, now: Millis) -> v1::Situation {
        let (state, derived) = (&self.state, &self.derived);
        let now = now.max(state.at);
        let totals = totals(derived, state);
        let readouts = self.readouts(now);
        let agents = state.agents.keys().map(|name| {
            let mut agent = agent(state, derived, name, now);
            agent.readout = readouts.agents.get(name).cloned();
            agent
        });
        let mut interventions = self.interventions();
        let open = v1::InterventionOutcome::Undecided as i32;
        let mut decided = 0;
        interventions.retain(|i| {
            decided += usize::from(i.outcome != open);
            i.outcome == open || decided <= INTERVENTIONS_SHOWN
        });
        let deadline = self.next_deadline();
        v1::Situation {
            project: state.project.clone(),
            revision: Some(state.revision()),
            at_unix_ms: state.at,
            generation: state.generation,
            verified: totals.verified,
            claimed: totals.claimed,
            unknown: totals.unknown,
            agents: agents.collect(),
            blockers: blockers(state, derived),
            findings: self.findings(false),
            hosts: readouts.hosts,
            critical_path: derived.critical_path.iter().map(reference).collect(),
            critical_path_ms: derived.critical_path_ms,
            interventions,
            next_deadline_unix_ms: deadline.as_ref().map(|(at, _)| *at),
            next_deadline_why: deadline.map(|(_, why)| why).unwrap_or_default(),
        }
    }

    /// Newest first.
    pub fn commands(&self, agent: &str, id: &str, limit: usize) -> Vec<v1::Command> {
        let all = self.state.ledger.values().rev().filter_map(|id| self.state.commands.get(id));
        all.filter(|c| agent.is_empty() || c.issued.agent == agent)
            .filter(|c| id.is_empty() || c.issued.id == id)
            .take(limit)
            .map(command)
            .collect()
    }

    /// Newest first.
    pub fn interventions(&self) -> Vec<v1::Intervention> {
        let all = self.state.ledger.values().rev().filter_map(|id| self.state.commands.get(id));
        all.filter(|c| c.intervenes()).map(intervention).collect()
    }

    /// Open ones by age; then the closed ones, latest first.
    pub fn findings(&self, include_closed: bool) -> Vec<v1::Finding> {
        let open = self.state.findings.values();
        let closed = self.state.closed_findings.iter().filter(|_| include_closed);
        open.chain(closed).map(finding).collect()
    }
}
