//! What the journal says of one agent and of its sidecar.
use std::collections::{BTreeMap, VecDeque};

use pitwall_proto::{journal, v1};

use crate::io::Millis;

/// Sidecar instances of one agent whose facts are told apart; a new one comes when a state directory was lost.
const INSTANCES_KEPT: usize = 8;

#[derive(Clone, Debug)]
pub struct AgentState {
    /// When the generation that added it was applied.
    pub added: Millis,
    pub sidecar: Option<SidecarState>,
    /// Facts in the journal, by the sidecar instance that sent them; the latest instances only, newest last.
    pub(super) fact_acked: VecDeque<(String, u64)>,
    pub seen: Option<Seen>,
    pub exited: Option<Exit>,
    pub claim: Option<ClaimState>,
    /// It said that it waits; cleared by the next file or evidence change.
    pub waiting_since: Option<Millis>,
    pub quiet_since: Option<Millis>,
    pub looping_since: Option<Millis>,
    pub pressure: Option<PressureState>,
    /// Only what is exceeded.
    pub quotas: BTreeMap<QuotaKey, QuotaState>,
    /// What its sidecar did last by itself about each quota, or could not do.
    pub acted: BTreeMap<QuotaKey, journal::QuotaActed>,
    /// Its sidecar does not start it again by itself any more.
    pub gave_up: Option<journal::Restart>,
    pub out_of_memory: Option<journal::OutOfMemory>,
    /// By health check; only what is unhealthy.
    pub unhealthy: BTreeMap<String, journal::Health>,
    /// The highest position in the ledger that was sent to it: a lower one that comes later is to its sidecar one that it
    /// has forgotten.
    pub sent_cursor: u64,
    /// Oldest first; only what a window can still reach.
    pub activity: VecDeque<ActivityBucket>,
    /// Why the workspace is absent.
    pub workspace_absent: Option<(Millis, String)>,
    /// A lease ended because nobody renewed it.
    pub lapsed: Option<(Millis, String)>,
    /// A limit was changed by somebody else.
    pub foreign: Option<(Millis, String)>,
    /// Another instance was refused.
    pub refused: Option<(Millis, String)>,
    /// Two sidecars have one state: both only observe.
    pub cloned: Option<(Millis, journal::SidecarCloned)>,
    /// Which one of two an operator chose.
    pub adopted: Option<journal::SidecarAdopted>,
    /// A join token of it was used again with another key.
    pub token_misused: Option<(Millis, String)>,
    pub dropped: Option<(Millis, u64)>,
    pub status: v1::AgentStatus,
    pub status_reason: String,
    pub since: Millis,
}

#[derive(Clone, Debug)]
pub struct SidecarState {
    pub connected: journal::SidecarConnected,
    pub status: v1::SidecarStatus,
    pub since: Millis,
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub incarnation: u64,
    pub root: journal::Process,
    pub at: Millis,
    pub launched: bool,
}

#[derive(Clone, Debug)]
pub struct Exit {
    pub at: Millis,
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

#[derive(Clone, Debug)]
pub struct ClaimState {
    pub made: Millis,
    pub progress: Option<f64>,
    pub text: String,
    pub waiting_for: String,
    pub deliverables: BTreeMap<String, f64>,
}

#[derive(Clone, Debug)]
pub struct PressureState {
    pub since: Millis,
    pub what: String,
    pub process: Option<journal::Process>,
    /// Whose it is, where it is another agent's.
    pub by_agent: String,
}

/// Which limit of an agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuotaKey {
    /// The named process that it is for; empty: the whole agent.
    pub named: String,
    /// As the wire's.
    pub resource: i32,
    pub soft: bool,
}

#[derive(Clone, Debug)]
pub struct QuotaState {
    pub since: Millis,
    pub limit: f64,
    pub used: f64,
    pub process: Option<journal::Process>,
    pub process_used: f64,
}

#[derive(Clone, Debug)]
pub struct ActivityBucket {
    pub at: Millis,
    pub deliverables: BTreeMap<String, u32>,
    pub unattributed: u32,
    pub examples: Vec<String>,
}

impl AgentState {
    pub fn new(added: Millis) -> Self {
        Self {
            added,
            sidecar: None,
            fact_acked: VecDeque::new(),
            seen: None,
            exited: None,
            claim: None,
            waiting_since: None,
            quiet_since: None,
            looping_since: None,
            pressure: None,
            quotas: BTreeMap::new(),
            acted: BTreeMap::new(),
            gave_up: None,
            out_of_memory: None,
            unhealthy: BTreeMap::new(),
            sent_cursor: 0,
            activity: VecDeque::new(),
            workspace_absent: None,
            lapsed: None,
            foreign: None,
            refused: None,
            cloned: None,
            adopted: None,
            token_misused: None,
            dropped: None,
            status: v1::AgentStatus::Unspecified,
            status_reason: String::new(),
            since: added,
        }
    }

    /// Up to where the facts of this instance are in the journal.
    pub fn fact_acked(&self, instance: &str) -> u64 {
        self.fact_acked.iter().find(|(known, _)| known == instance).map_or(0, |(_, seq)| *seq)
    }

    /// The instance that told anything last.
    pub fn last_teller(&self) -> Option<&str> {
        self.fact_acked.back().map(|(instance, _)| instance.as_str())
    }

    pub(super) fn set_fact_acked(&mut self, instance: &str, seq: u64) {
        self.fact_acked.retain(|(known, _)| known != instance);
        self.fact_acked.push_back((instance.into(), seq));
        while self.fact_acked.len() > INSTANCES_KEPT {
            self.fact_acked.pop_front();
        }
    }

    pub fn sidecar_status(&self) -> v1::SidecarStatus {
        self.sidecar.as_ref().map_or(v1::SidecarStatus::NeverConnected, |s| s.status)
    }

    pub fn incarnation(&self) -> u64 {
        self.seen.as_ref().map_or(0, |s| s.incarnation)
    }

    /// A capability of this name, or the first whose name begins with `name.`; available ones first.
    pub fn capability(&self, name: &str) -> Option<&journal::Capability> {
        let all = &self.sidecar.as_ref()?.connected.capabilities;
        let fits = |c: &&journal::Capability| {
            c.name == name || c.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
        };
        all.iter().filter(fits).find(|c| c.available).or_else(|| all.iter().find(fits))
    }
}
