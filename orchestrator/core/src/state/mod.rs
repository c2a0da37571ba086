//! What a project's journal adds up to. Changed by [`State::apply`] only, which decides nothing:
//! replaying the same events gives the same state, byte for byte.
mod agent;
mod apply;
mod command;
mod ledger;
mod parts;
mod snapshot;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
};

pub use agent::{
    ActivityBucket, AgentState, ClaimState, Exit, PressureState, QuotaKey, QuotaState, Seen, SidecarState,
};
pub use command::{CommandRecord, Promise, is_terminal, kind_name};
use pitwall_proto::{journal, v1};
pub use snapshot::{SNAPSHOT_VERSION, SnapshotError};

use crate::{
    io::Millis,
    plan::{DeliverableId, Plan},
};

/// Closed findings that are kept for people; older ones are in the journal.
const CLOSED_FINDINGS_KEPT: usize = 1_000;
/// Ended commands that are kept; older ones are in the journal.
pub const ENDED_COMMANDS_KEPT: usize = 2_000;

#[derive(Clone, Debug)]
pub struct State {
    pub project: String,
    pub lineage: String,
    pub sequence: u64,
    /// Project time of the last event: everything derived holds as of then.
    pub at: Millis,
    pub generation: u64,
    pub plan: Plan,
    /// The plan as it was journaled.
    pub resolved_json: String,
    pub source_yaml: String,
    pub agents: BTreeMap<String, AgentState>,
    pub deliverables: BTreeMap<DeliverableId, DeliverableState>,
    pub commands: BTreeMap<String, CommandRecord>,
    /// Command ids in ledger order.
    pub ledger: BTreeMap<u64, String>,
    /// Cursors of those that have no terminal result.
    pub unfinished: BTreeSet<u64>,
    /// Commands whose lease is in effect.
    pub leased: BTreeSet<String>,
    pub next_cursor: u64,
    pub findings: BTreeMap<u64, FindingState>,
    pub closed_findings: VecDeque<FindingState>,
    pub next_finding: u64,
    pub mass_loss: Option<(Millis, String)>,
    /// By boot id: hosts that have too little for those that are on them.
    pub host_pressures: BTreeMap<String, journal::HostPressure>,
    /// The last restore from a backup.
    pub restored: Option<RestoredState>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RestoredState {
    pub restored: journal::Restored,
    pub at: Millis,
    /// Agents whose sidecars the backup knows and that have not told again what they have.
    pub waiting: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub struct DeliverableState {
    /// When the generation that added it was applied.
    pub added: Millis,
    pub checks: BTreeMap<String, CheckState>,
    /// A file of its own changed at some time.
    pub touched: bool,
    /// A check of it passed at some time.
    pub ever_passed: bool,
    pub status: v1::DeliverableStatus,
    pub since: Millis,
    pub was_verified: bool,
    pub verified_at: Option<Millis>,
    /// When it last ceased to be verified.
    pub unverified_at: Option<Millis>,
    /// A started agent without workable work waits for it as a root, since then.
    pub waited_since: Option<Millis>,
}

/// The last verdict of one check.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckState {
    /// Of the plan's rule now.
    pub digest: String,
    /// When this rule came into the plan.
    pub added: Millis,
    /// A rule of this id was there before and was changed.
    pub replaced: bool,
    pub verdict: Option<journal::Verdict>,
    /// This rule passed at some time: failing now is a regression.
    pub passed_once: bool,
    pub failing_since: Option<Millis>,
    pub stale: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FindingState {
    pub opened: journal::FindingOpened,
    pub opened_at: Millis,
    pub closed_at: Option<Millis>,
}

impl FindingState {
    pub fn kind(&self) -> v1::FindingKind {
        v1::FindingKind::try_from(self.opened.kind).unwrap_or_default()
    }
}

impl State {
    pub fn new(project: &str, lineage: &str) -> Self {
        Self {
            project: project.into(),
            lineage: lineage.into(),
            sequence: 0,
            at: 0,
            generation: 0,
            plan: Plan {
                project: project.into(),
                windows: crate::plan::ProjectWindows {
                    heartbeat_every_ms: 10_000,
                    start_grace_ms: 30_000,
                    command_expiry_ms: 600_000,
                    result_grace_ms: 60_000,
                    effect_within_ms: 600_000,
                    keep_ms: crate::plan::KEEP_DEFAULT_MS,
                    host_pressure_after_ms: crate::plan::HOST_PRESSURE_AFTER_DEFAULT_MS,
                },
                agents: BTreeMap::new(),
            },
            resolved_json: String::new(),
            source_yaml: String::new(),
            agents: BTreeMap::new(),
            deliverables: BTreeMap::new(),
            commands: BTreeMap::new(),
            ledger: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            leased: BTreeSet::new(),
            next_cursor: 1,
            findings: BTreeMap::new(),
            closed_findings: VecDeque::new(),
            next_finding: 1,
            mass_loss: None,
            host_pressures: BTreeMap::new(),
            restored: None,
        }
    }

    pub fn revision(&self) -> v1::Revision {
        v1::Revision { lineage: self.lineage.clone(), sequence: self.sequence }
    }

    /// Digest over everything in the state, for comparing a replay with the original.
    pub fn digest(&self) -> String {
        let mut text = String::new();
        write!(text, "{self:?}").expect("writing to a String cannot fail");
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    pub fn open_finding(&self, kind: v1::FindingKind, subject: &str) -> Option<&FindingState> {
        self.findings.values().find(|f| f.kind() == kind && f.opened.subject == subject)
    }

    /// Commands of the ledger that have no terminal result, in order.
    pub fn unfinished_commands(&self) -> impl Iterator<Item = &CommandRecord> {
        self.unfinished.iter().filter_map(|cursor| self.commands.get(self.ledger.get(cursor)?))
    }

    /// Commands whose lease is in effect.
    pub fn leased_commands(&self) -> impl Iterator<Item = &CommandRecord> {
        self.leased.iter().filter_map(|id| self.commands.get(id))
    }
}
