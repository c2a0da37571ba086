//! The plan with every default filled in: what the rules read and what the journal keeps.
//! How an operator writes it is `raw.rs`; nothing here can be missing or contradictory.
use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// One deliverable, named by its owner. Prints as `agent/deliverable`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeliverableId {
    pub agent: String,
    pub name: String,
}

impl DeliverableId {
    pub fn new(agent: impl Into<String>, name: impl Into<String>) -> Self {
        Self { agent: agent.into(), name: name.into() }
    }
}

impl fmt::Display for DeliverableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.agent, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub project: String,
    pub windows: ProjectWindows,
    pub agents: BTreeMap<String, AgentPlan>,
}

/// Windows that belong to no single agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectWindows {
    pub heartbeat_every_ms: u64,
    /// After an orchestrator start nobody is called late or lost for so long.
    pub start_grace_ms: u64,
    /// A command must start within so long unless it says otherwise.
    pub command_expiry_ms: u64,
    /// Dead-link time plus a margin: added to the expiry before a command without result is UNKNOWN.
    pub result_grace_ms: u64,
    /// A promised effect must be verified within so long after delivery.
    pub effect_within_ms: u64,
    /// Events older than this are compacted into a snapshot. Plans in older journals do not have it.
    #[serde(default = "keep_default")]
    pub keep_ms: u64,
    /// A host is under pressure when it was short for so long. Plans in older journals do not have it.
    #[serde(default = "host_pressure_after_default")]
    pub host_pressure_after_ms: u64,
}

/// A week: last night, and the same night of last week to compare it with.
pub const KEEP_DEFAULT_MS: u64 = 7 * 24 * 3_600_000;
/// Less would take away what people look at while they work.
pub const KEEP_MIN_MS: u64 = 3_600_000;

fn keep_default() -> u64 {
    KEEP_DEFAULT_MS
}

/// As long as an agent's own pressure is judged over.
pub const HOST_PRESSURE_AFTER_DEFAULT_MS: u64 = 10_000;

fn host_pressure_after_default() -> u64 {
    HOST_PRESSURE_AFTER_DEFAULT_MS
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentPlan {
    pub windows: AgentWindows,
    /// Where directives are put, as the agent sees it; for people.
    pub inbox: Option<String>,
    pub quotas: Vec<Quota>,
    pub deliverables: BTreeMap<String, Deliverable>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentWindows {
    pub expected_within_ms: u64,
    pub stall_after_ms: u64,
    pub misdirected_after_ms: u64,
    /// WAITING ends by itself after so long unrenewed.
    pub waiting_for_ms: u64,
    pub activity_every_ms: u64,
    pub sample_every_ms: u64,
    pub rescan_every_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Cpu,
    Memory,
    Pids,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quota {
    pub resource: Resource,
    /// Cores, bytes, or processes.
    pub limit: f64,
    /// How long the use must be above the limit.
    pub for_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deliverable {
    pub title: String,
    pub weight: f64,
    pub estimate_ms: Option<u64>,
    pub needs: Vec<DeliverableId>,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Unique in its deliverable, for example `file:app/x.ts`.
    pub id: String,
    /// Of the rule alone (not of weight or windows): changed rules lose their evidence.
    pub digest: String,
    pub weight: f64,
    pub required: bool,
    pub every_ms: u64,
    pub fresh_for_ms: u64,
    pub hysteresis_ms: u64,
    pub timeout_ms: u64,
    pub rule: Rule,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    File {
        /// Relative to the workspace; may be a glob.
        path: String,
        min_bytes: Option<u64>,
        max_bytes: Option<u64>,
        contains: Vec<String>,
        forbids: Vec<String>,
    },
    Directory {
        path: String,
        min_files: u32,
    },
    Http {
        url: String,
        status: u16,
        /// Pointer to the JSON text it must equal, or `None` where it must merely be present.
        json: BTreeMap<String, Option<String>>,
    },
    Tcp {
        address: String,
    },
    Process {
        name: String,
    },
}

impl Plan {
    pub fn deliverable(&self, id: &DeliverableId) -> Option<&Deliverable> {
        self.agents.get(&id.agent)?.deliverables.get(&id.name)
    }

    /// All deliverables in the order of their ids.
    pub fn deliverables(&self) -> impl Iterator<Item = (DeliverableId, &Deliverable)> {
        self.agents.iter().flat_map(|(agent, spec)| {
            spec.deliverables.iter().map(move |(name, d)| (DeliverableId::new(agent, name), d))
        })
    }
}
