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
    // What follows is absent in journals of older versions, and where nothing was said.
    /// Command names of processes that no quota ever kills.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protect: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub processes: BTreeMap<String, NamedProcess>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub health: BTreeMap<String, Health>,
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
    /// What lies in the workspace.
    Disk,
    GpuMemory,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quota {
    pub resource: Resource,
    /// Cores, bytes, or processes.
    pub limit: f64,
    /// How long the use must be above the limit.
    pub for_ms: u64,
    #[serde(default, skip_serializing_if = "OnExceed::is_warn")]
    pub on_exceed: OnExceed,
    /// So long after it did something the sidecar does nothing more for this quota; 0 where it does nothing at all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cooldown_ms: u64,
    /// A first limit below a hard one: told only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub soft: bool,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// What the sidecar does by itself about a use above a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExceed {
    #[default]
    Warn,
    Throttle,
    KillProcess,
    Restart,
    Freeze,
}

impl OnExceed {
    fn is_warn(&self) -> bool {
        *self == Self::Warn
    }
}

/// Processes of an agent by name or command line, taken together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedProcess {
    /// Command name; empty: any.
    pub process: String,
    /// What the command line holds; empty: anything.
    pub command: String,
    pub quotas: Vec<Quota>,
    pub protect: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartOn {
    #[default]
    Never,
    Failure,
    Always,
}

/// How often the sidecar starts an agent again by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub on: RestartOn,
    /// Before the first one; doubled with each further one, up to `backoff_max_ms`.
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
    /// After so long without a restart the count begins anew.
    pub stable_after_ms: u64,
    /// Restarts in a row.
    pub max: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnhealthy {
    #[default]
    Warn,
    Restart,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub rule: Rule,
    pub every_ms: u64,
    pub timeout_ms: u64,
    pub startup_within_ms: u64,
    /// In a row, until it is unhealthy.
    pub failures: u32,
    /// In a row, until it is healthy again.
    pub successes: u32,
    pub on_failure: OnUnhealthy,
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
    Grpc {
        address: String,
        /// Empty: the whole server.
        service: String,
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
