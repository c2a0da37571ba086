//! A state as it is kept in the journal's file, and back. Both ways name every field, so that a new one cannot be
//! forgotten: what comes back and goes on is, byte for byte, what a replay from the beginning gives.
use std::collections::VecDeque;

use pitwall_proto::journal;
use prost::Message as _;

use super::{AgentState, FindingState, RestoredState, State, ledger, parts};
use crate::plan::{DeliverableId, Plan};

/// What this program writes, and the highest that it reads.
pub const SNAPSHOT_VERSION: u32 = 1;

/// Why a snapshot is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("it is no snapshot: {0}")]
    Unreadable(String),
    /// Not damaged: another program reads it.
    #[error("it has version {found}, this program knows {SNAPSHOT_VERSION}")]
    Version { found: u32 },
}

impl State {
    pub fn to_snapshot(&self) -> Vec<u8> {
        let Self {
            // Both are said by whoever reads it: a restored journal is another lineage.
            project: _,
            lineage: _,
            sequence,
            at,
            generation,
            // From `resolved_json`, to the last digit.
            plan: _,
            resolved_json,
            source_yaml,
            agents,
            deliverables,
            commands,
            ledger: cursors,
            unfinished,
            leased,
            next_cursor,
            findings,
            closed_findings,
            next_finding,
            mass_loss,
            host_pressures,
            restored,
        } = self;
        let plan = journal::PlanApplied {
            generation: *generation,
            resolved_json: resolved_json.clone(),
            source_yaml: source_yaml.clone(),
        };
        let snapshot = journal::Snapshot {
            version: SNAPSHOT_VERSION,
            sequence: *sequence,
            at_ms: *at,
            plan: (*generation > 0).then_some(plan),
            agents: agents.iter().map(|(name, agent)| agent.to_snapshot(name)).collect(),
            deliverables: deliverables.iter().map(|(id, d)| parts::deliverable(id, d)).collect(),
            commands: commands.values().map(ledger::command).collect(),
            ledger: cursors.clone(),
            unfinished: unfinished.iter().copied().collect(),
            leased: leased.iter().cloned().collect(),
            next_cursor: *next_cursor,
            findings: findings.values().map(finding).collect(),
            closed_findings: closed_findings.iter().map(finding).collect(),
            next_finding: *next_finding,
            mass_loss: mass_loss.as_ref().map(parts::happening),
            host_pressures: host_pressures.values().cloned().collect(),
            restored: restored.as_ref().map(|r| journal::RestoreSnapshot {
                restored: Some(r.restored.clone()),
                at_ms: r.at,
                waiting: r.waiting.iter().cloned().collect(),
            }),
        };
        snapshot.encode_to_vec()
    }

    pub fn from_snapshot(project: &str, lineage: &str, bytes: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot = journal::Snapshot::decode(bytes).map_err(|e| SnapshotError::Unreadable(e.to_string()))?;
        match snapshot.version {
            0 => return Err(SnapshotError::Unreadable("it names no version".into())),
            found if found > SNAPSHOT_VERSION => return Err(SnapshotError::Version { found }),
            _ => {}
        }
        let mut state = Self::new(project, lineage);
        if let Some(applied) = snapshot.plan {
            state.plan = serde_json::from_str::<Plan>(&applied.resolved_json)
                .map_err(|e| SnapshotError::Unreadable(format!("its plan: {e}")))?;
            (state.generation, state.resolved_json) = (applied.generation, applied.resolved_json);
            state.source_yaml = applied.source_yaml;
        }
        (state.sequence, state.at) = (snapshot.sequence, snapshot.at_ms);
        state.agents =
            snapshot.agents.into_iter().map(|agent| (agent.name.clone(), AgentState::from_snapshot(agent))).collect();
        state.deliverables = snapshot
            .deliverables
            .into_iter()
            .map(|d| (DeliverableId::new(d.agent.as_str(), d.name.as_str()), parts::deliverable_back(d)))
            .collect();
        state.commands = snapshot
            .commands
            .into_iter()
            .map(|command| {
                let command = ledger::command_back(command);
                (command.issued.id.clone(), command)
            })
            .collect();
        state.ledger = snapshot.ledger;
        state.unfinished = snapshot.unfinished.into_iter().collect();
        state.leased = snapshot.leased.into_iter().collect();
        state.next_cursor = snapshot.next_cursor;
        state.findings = snapshot.findings.into_iter().map(finding_back).map(|f| (f.opened.id, f)).collect();
        state.closed_findings = snapshot.closed_findings.into_iter().map(finding_back).collect::<VecDeque<_>>();
        state.next_finding = snapshot.next_finding;
        state.mass_loss = snapshot.mass_loss.map(parts::happening_back);
        state.host_pressures = snapshot.host_pressures.into_iter().map(|p| (p.boot_id.clone(), p)).collect();
        state.restored = snapshot.restored.map(|r| RestoredState {
            restored: r.restored.unwrap_or_default(),
            at: r.at_ms,
            waiting: r.waiting.into_iter().collect(),
        });
        Ok(state)
    }
}

fn finding(finding: &FindingState) -> journal::FindingSnapshot {
    let FindingState { opened, opened_at, closed_at } = finding;
    journal::FindingSnapshot { opened: Some(opened.clone()), opened_at_ms: *opened_at, closed_at_ms: *closed_at }
}

fn finding_back(snapshot: journal::FindingSnapshot) -> FindingState {
    FindingState {
        opened: snapshot.opened.unwrap_or_default(),
        opened_at: snapshot.opened_at_ms,
        closed_at: snapshot.closed_at_ms,
    }
}

/// A wire's number as the word for it; one that this version does not know as `_UNSPECIFIED`, as a replay reads it.
pub(super) fn word<T: TryFrom<i32> + Default>(number: i32) -> T {
    T::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_snapshot_or_of_a_later_program_is_told_apart() {
        let read = |bytes: &[u8]| State::from_snapshot("p", "l", bytes).unwrap_err();
        assert!(matches!(read(b"\xff\xff\xff"), SnapshotError::Unreadable(_)));
        assert!(matches!(read(b""), SnapshotError::Unreadable(_)), "an empty one is not an empty state");
        let later = journal::Snapshot { version: SNAPSHOT_VERSION + 1, ..Default::default() };
        assert_eq!(read(&later.encode_to_vec()), SnapshotError::Version { found: SNAPSHOT_VERSION + 1 });
        let plan = journal::PlanApplied { resolved_json: "{".into(), generation: 1, ..Default::default() };
        let torn = journal::Snapshot { version: 1, plan: Some(plan), ..Default::default() };
        assert!(matches!(read(&torn.encode_to_vec()), SnapshotError::Unreadable(_)));
    }

    #[test]
    fn an_empty_state_comes_back() {
        let state = State::new("p", "l");
        let back = State::from_snapshot("p", "l", &state.to_snapshot()).unwrap();
        assert_eq!(back.digest(), state.digest());
        assert_eq!(word::<pitwall_proto::v1::CommandState>(99), pitwall_proto::v1::CommandState::Unspecified);
    }
}
