//! What a client saw: one `Watch`, merged and remembered with the moment of each receipt. Pure, so that the report and
//! the judgement can be tried on recordings made by hand.
use std::collections::{BTreeMap, btree_map::Entry};

use pitwall_proto::v1::{
    self, AgentStatus, Cause, DeliverableStatus, FindingKind, ProcessIdentity, watch_response::Body,
};

use crate::cli::follow;

/// Milliseconds since the demo began.
pub type DemoMs = i64;

/// A finding as it was when it was first received.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub kind: FindingKind,
    pub subject: String,
    pub message: String,
    pub next: String,
    pub process: Option<ProcessIdentity>,
    pub limit: Option<f64>,
    pub used: Option<f64>,
    pub found_ms: DemoMs,
}

/// An agent's status from one moment on.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusSeen {
    pub agent: String,
    pub status: AgentStatus,
    pub reason: String,
    /// By the orchestrator.
    pub since_ms: DemoMs,
}

/// A wait, its root and why: one entry for each that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSeen {
    /// `agent/deliverable`, as all of these.
    pub waiting: String,
    pub root: String,
    pub chain: Vec<String>,
    pub cause: Cause,
    pub holds_agents: Vec<String>,
    pub since_ms: DemoMs,
}

#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Unix milliseconds of the demo's start.
    pub began_unix_ms: i64,
    pub situation: v1::Situation,
    /// By id, in the order in which they opened.
    pub findings: BTreeMap<u64, Found>,
    pub statuses: Vec<StatusSeen>,
    pub blocks: Vec<BlockSeen>,
    /// `agent/deliverable` and when the orchestrator first held it for verified.
    pub verified: BTreeMap<String, DemoMs>,
    pub interventions: BTreeMap<String, v1::Intervention>,
    pub commands: BTreeMap<String, v1::Command>,
}

impl Recording {
    pub fn new(began_unix_ms: i64) -> Self {
        Self { began_unix_ms, ..Self::default() }
    }

    /// Milliseconds since the demo began of a moment that the orchestrator told.
    pub fn demo_ms(&self, unix_ms: i64) -> DemoMs {
        unix_ms - self.began_unix_ms
    }

    /// Takes what was received at `now`. Returns the lines of what is new, for people.
    pub fn take(&mut self, now: DemoMs, body: Body) -> Vec<String> {
        let mut lines = Vec::new();
        match &body {
            Body::Snapshot(s) => self.note(now, (&s.agents, &s.findings, &s.blockers, &s.interventions), &mut lines),
            Body::Change(c) => {
                self.note(now, (&c.agents, &c.findings, &c.blockers, &c.interventions), &mut lines);
                c.commands.iter().for_each(|command| self.note_command(command.clone(), &mut lines));
            }
            Body::Readouts(_) => {}
        }
        follow::apply(&mut self.situation, body);
        lines
    }

    fn note(
        &mut self,
        now: DemoMs,
        (agents, findings, blockers, interventions): (
            &[v1::Agent],
            &[v1::Finding],
            &[v1::Blocker],
            &[v1::Intervention],
        ),
        lines: &mut Vec<String>,
    ) {
        agents.iter().for_each(|agent| self.note_agent(agent, lines));
        findings.iter().for_each(|finding| self.note_finding(now, finding, lines));
        self.note_blockers(blockers);
        interventions.iter().for_each(|intervention| self.note_intervention(intervention, lines));
    }

    fn note_agent(&mut self, agent: &v1::Agent, lines: &mut Vec<String>) {
        let last = self.statuses.iter().rev().find(|s| s.agent == agent.name);
        if last.is_none_or(|s| s.status != agent.status()) {
            let from_start = last.is_none();
            let seen = StatusSeen {
                agent: agent.name.clone(),
                status: agent.status(),
                reason: agent.reason.clone(),
                since_ms: self.demo_ms(agent.since_unix_ms),
            };
            if !from_start || seen.status != AgentStatus::Expected {
                let word = pitwall_core::text::agent_word(seen.status);
                lines.push(format!("{:<12} {word}: {}", seen.agent, seen.reason));
            }
            self.statuses.push(seen);
        }
        for deliverable in agent.deliverables.iter().filter(|d| d.status() == DeliverableStatus::Verified) {
            let id = format!("{}/{}", agent.name, deliverable.name);
            let at = self.demo_ms(deliverable.since_unix_ms);
            if let Entry::Vacant(first) = self.verified.entry(id) {
                lines.push(format!("{:<12} {} verified", agent.name, deliverable.name));
                first.insert(at);
            }
        }
    }

    fn note_finding(&mut self, now: DemoMs, finding: &v1::Finding, lines: &mut Vec<String>) {
        if self.findings.contains_key(&finding.id) {
            if finding.closed_unix_ms.is_some() {
                lines.push(format!("closed       #{} {} {}", finding.id, kind_word(finding.kind()), finding.subject));
            }
            return;
        }
        let next = if finding.next.is_empty() { String::new() } else { format!("; next: {}", finding.next) };
        lines.push(format!(
            "FOUND        #{} {} {}: {}{next}",
            finding.id,
            kind_word(finding.kind()),
            finding.subject,
            finding.message
        ));
        self.findings.insert(
            finding.id,
            Found {
                kind: finding.kind(),
                subject: finding.subject.clone(),
                message: finding.message.clone(),
                next: finding.next.clone(),
                process: finding.process.clone(),
                limit: finding.limit,
                used: finding.used,
                found_ms: now,
            },
        );
    }

    fn note_blockers(&mut self, blockers: &[v1::Blocker]) {
        for blocker in blockers {
            let seen = BlockSeen {
                waiting: reference(blocker.waiting.as_ref()),
                root: reference(blocker.root.as_ref()),
                chain: blocker.chain.iter().map(|r| reference(Some(r))).collect(),
                cause: blocker.cause(),
                holds_agents: blocker.holds_agents.clone(),
                since_ms: self.demo_ms(blocker.since_unix_ms),
            };
            let same = |b: &BlockSeen| {
                b.waiting == seen.waiting && b.root == seen.root && b.cause == seen.cause && b.since_ms == seen.since_ms
            };
            if !self.blocks.iter().any(same) {
                self.blocks.push(seen);
            }
        }
    }

    fn note_intervention(&mut self, intervention: &v1::Intervention, lines: &mut Vec<String>) {
        let before = self.interventions.insert(intervention.id.clone(), intervention.clone());
        if before.map(|b| b.outcome()) != Some(intervention.outcome())
            && intervention.outcome() != v1::InterventionOutcome::Undecided
        {
            let outcome = outcome_word(intervention.outcome()).to_uppercase();
            lines.push(format!(
                "{outcome:<12} {} {}: {}",
                intervention.kind, intervention.target, intervention.evidence
            ));
        }
    }

    fn note_command(&mut self, command: v1::Command, lines: &mut Vec<String>) {
        let before = self.commands.get(&command.id).map(v1::Command::state);
        if before != Some(command.state()) {
            let kind = command.spec.as_ref().map_or("nothing", pitwall_core::state::kind_name);
            let state = pitwall_core::text::state_word(command.state());
            let detail = if command.detail.is_empty() { String::new() } else { format!(": {}", command.detail) };
            lines.push(format!("{:<12} {kind} {} {state}{detail}", command.id, command.agent));
        }
        self.commands.insert(command.id.clone(), command);
    }

    /// The statuses that an agent went through, in order.
    pub fn course(&self, agent: &str) -> Vec<AgentStatus> {
        self.statuses.iter().filter(|s| s.agent == agent).map(|s| s.status).collect()
    }
}

pub fn reference(id: Option<&v1::DeliverableRef>) -> String {
    id.map(|r| format!("{}/{}", r.agent, r.deliverable)).unwrap_or_default()
}

/// `missing_deliverable`.
pub fn kind_word(kind: FindingKind) -> String {
    pitwall_core::text::finding_word(kind).to_lowercase()
}

/// `self_resolved`.
pub fn outcome_word(outcome: v1::InterventionOutcome) -> String {
    pitwall_core::text::outcome_word(outcome).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, status: AgentStatus) -> v1::Agent {
        v1::Agent { name: name.into(), status: status.into(), since_unix_ms: 1_500, ..Default::default() }
    }

    #[test]
    fn a_status_is_noted_when_it_changes_and_a_readout_survives_a_change() {
        let mut recording = Recording::new(1_000);
        let situation = v1::Situation { agents: vec![agent("a", AgentStatus::Expected)], ..Default::default() };
        recording.take(1, Body::Snapshot(situation));
        let readouts = v1::ReadoutUpdate {
            agents: [("a".to_owned(), v1::Readout { age_ms: 7, ..Default::default() })].into(),
            hosts: Vec::new(),
        };
        recording.take(2, Body::Readouts(readouts));
        for status in [AgentStatus::Active, AgentStatus::Active, AgentStatus::Blocked] {
            recording.take(3, Body::Change(v1::Change { agents: vec![agent("a", status)], ..Default::default() }));
        }
        assert_eq!(recording.course("a"), [AgentStatus::Expected, AgentStatus::Active, AgentStatus::Blocked]);
        assert_eq!(recording.situation.agents[0].readout.as_ref().map(|r| r.age_ms), Some(7));
        assert_eq!(recording.statuses[0].since_ms, 500);
    }

    #[test]
    fn a_finding_keeps_the_moment_of_its_first_receipt() {
        let mut recording = Recording::new(0);
        let finding = v1::Finding { id: 4, kind: FindingKind::Misdirected.into(), ..Default::default() };
        let change = |f: v1::Finding| Body::Change(v1::Change { findings: vec![f], ..Default::default() });
        recording.take(10, change(finding.clone()));
        assert_eq!(recording.situation.findings.len(), 1);
        recording.take(20, change(v1::Finding { closed_unix_ms: Some(20), ..finding }));
        assert_eq!(recording.findings[&4].found_ms, 10);
        assert!(recording.situation.findings.is_empty());
    }
}
