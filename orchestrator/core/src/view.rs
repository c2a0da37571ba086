//! State and what is derived from it, in the wire's words. No rule lives here.
use std::collections::BTreeSet;

use pitwall_proto::{
    journal,
    v1::{self, AgentStatus, SidecarStatus},
};

use crate::{
    derive::{self, BlockerView, DeliverableView, Derived, Seen},
    io::Millis,
    plan::DeliverableId,
    project::Project,
    state::{AgentState, CommandRecord, FindingState, Promise, State, kind_name},
    text,
};

/// Decided interventions that a situation still shows.
const INTERVENTIONS_SHOWN: usize = 20;
/// Consumers of a host that are named.
const CONSUMERS_SHOWN: usize = 10;

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
        claimed: anyone.then(|| over(&|a| a.claimed.unwrap_or(0.0))),
        unknown: over(&|a| a.unknown),
    }
}

pub fn reference(id: &DeliverableId) -> v1::DeliverableRef {
    v1::DeliverableRef { agent: id.agent.clone(), deliverable: id.name.clone() }
}

pub fn process(process: &journal::Process) -> v1::ProcessIdentity {
    v1::ProcessIdentity { pid: process.pid, start_ticks: process.start_ticks, name: process.name.clone() }
}

pub fn agent(state: &State, derived: &Derived, name: &str, now: Millis) -> v1::Agent {
    let (Some(agent), Some(view)) = (state.agents.get(name), derived.agents.get(name)) else {
        return v1::Agent { name: name.into(), ..Default::default() };
    };
    let connected = agent.sidecar.as_ref().map(|s| &s.connected);
    let capabilities = connected.into_iter().flat_map(|c| &c.capabilities).map(|c| v1::Capability {
        name: c.name.clone(),
        available: c.available,
        reason: c.reason.clone(),
        enabled_by: c.enabled_by.clone(),
    });
    let own = derived.deliverables.iter().filter(|(id, _)| id.agent == name);
    v1::Agent {
        name: name.into(),
        status: view.status as i32,
        reason: view.reason.clone(),
        since_unix_ms: agent.since,
        verified: view.verified,
        claimed: view.claimed,
        claim_text: agent.claim.as_ref().map(|c| c.text.clone()).unwrap_or_default(),
        unknown: view.unknown,
        sidecar: agent.sidecar_status() as i32,
        host_boot_id: connected.map(|c| c.host_boot_id.clone()).unwrap_or_default(),
        incarnation: agent.incarnation(),
        root: agent.seen.as_ref().map(|s| process(&s.root)),
        deliverables: own.map(|(id, view)| deliverable(state, id, view)).collect(),
        next: next_of(state, derived, name, now),
        capabilities: capabilities.collect(),
        readout: None,
        quiet: agent.quiet_since.is_some(),
        looping: agent.looping_since.is_some(),
        leases: leases(state, name),
    }
}

fn leases(state: &State, agent: &str) -> Vec<v1::ActiveLease> {
    let held = state.commands.values().filter(|c| c.issued.agent == agent);
    held.filter_map(|c| {
        let (throttle, until) = c.wanted_lease()?;
        let detail = c.lease.as_ref().map(|(_, _, detail)| detail.clone()).unwrap_or_default();
        Some(v1::ActiveLease {
            command: c.issued.id.clone(),
            cpu_cores: throttle.cpu_cores,
            until_unix_ms: until,
            detail,
        })
    })
    .collect()
}

/// One line: what it waits for, what it should do, or what the operator should type.
fn next_of(state: &State, derived: &Derived, name: &str, now: Millis) -> String {
    let agent = &state.agents[name];
    let view = &derived.agents[name];
    let finding = |kind| state.open_finding(kind, name).map(|f| f.opened.next.clone()).unwrap_or_default();
    match view.status {
        AgentStatus::Missing => {
            let due = agent.added + state.plan.agents[name].windows.expected_within_ms as Millis;
            let next = finding(v1::FindingKind::AgentMissing);
            format!("{}, due {} ago: {next}", view.reason, text::ago(now, due))
        }
        AgentStatus::Exited => format!("{}: pitwall restart {name}", view.reason),
        AgentStatus::Stalled => format!("{}: pitwall why {name}", view.reason),
        AgentStatus::Active => active_next(derived, name, now),
        AgentStatus::Blocked
        | AgentStatus::Idle
        | AgentStatus::Expected
        | AgentStatus::Lost
        | AgentStatus::Done
        | AgentStatus::Waiting
        | AgentStatus::Unspecified => view.reason.clone(),
    }
}

/// The workable deliverable that most others wait for, by its first check that does not pass.
fn active_next(derived: &Derived, name: &str, now: Millis) -> String {
    let own = derived.deliverables.iter().filter(|(id, view)| id.agent == name && view.workable);
    let waiters = |id: &DeliverableId| derived.blockers.iter().filter(|b| b.root.id() == id).min_by_key(|b| b.since);
    let count = |id: &DeliverableId| derived.blockers.iter().filter(|b| b.root.id() == id).count();
    let Some((id, view)) = own.max_by(|a, b| count(a.0).cmp(&count(b.0)).then(b.0.cmp(a.0))) else {
        return String::new();
    };
    let open = view.checks.iter().find(|c| matches!(c.outcome, Seen::Failed | Seen::Unknown | Seen::NotYet));
    let what = open.map_or_else(
        || id.name.clone(),
        |check| match check.id.split_once(':') {
            Some(("file", path)) => format!("create {path}"),
            Some(("directory", path)) => format!("fill {path}"),
            Some((_, rest)) => format!("make {rest} answer"),
            None => id.name.clone(),
        },
    );
    match waiters(id) {
        Some(b) => format!("{what} ({} waits {})", b.waiting.agent, text::ago(now, b.since)),
        None => what,
    }
}

fn deliverable(state: &State, id: &DeliverableId, view: &DeliverableView) -> v1::Deliverable {
    let now = &state.deliverables[id];
    let spec = state.plan.deliverable(id);
    let observed = now.checks.values().filter_map(|c| c.verdict.as_ref()).map(|v| v.observed_ms).min();
    v1::Deliverable {
        name: id.name.clone(),
        title: spec.map(|s| s.title.clone()).unwrap_or_default(),
        status: view.status as i32,
        since_unix_ms: now.since,
        verified: view.verified,
        claimed: view.claimed,
        weight: view.weight,
        checks: view.checks.iter().map(|c| check(now, c)).collect(),
        needs: view.needs.iter().map(|(on, s)| v1::Need { on: Some(reference(on)), state: *s as i32 }).collect(),
        workable: view.workable,
        started: view.started,
        critical: view.critical,
        planned_finish_unix_ms: view.planned_finish,
        expected_finish_unix_ms: view.expected_finish,
        evidence_at_unix_ms: observed,
        failing_since_unix_ms: view.failing_since,
    }
}

fn check(state: &crate::state::DeliverableState, view: &derive::CheckView) -> v1::CheckResult {
    let verdict = state.checks.get(&view.id).and_then(|c| c.verdict.as_ref());
    let evidence = verdict.and_then(|v| v.evidence.as_ref()).map(|e| v1::Evidence {
        summary: e.summary.clone(),
        size_bytes: e.size_bytes,
        digest: e.digest.clone(),
        modified_unix_ms: e.modified_unix_ms,
        http_status: e.http_status,
        excerpt: e.excerpt.clone(),
        files: e.files,
        latency_ms: e.latency_ms,
    });
    v1::CheckResult {
        id: view.id.clone(),
        outcome: view.outcome.outcome() as i32,
        evidence,
        observed_unix_ms: verdict.map(|v| v.observed_ms),
        required: view.required,
        weight: view.weight,
    }
}

pub fn blockers(state: &State, derived: &Derived) -> Vec<v1::Blocker> {
    derived.blockers.iter().map(|b| blocker(state, b)).collect()
}

fn blocker(state: &State, view: &BlockerView) -> v1::Blocker {
    let root = view.root.id();
    let on_root = |c: &&CommandRecord| !c.decided && c.promise() == Promise::Verified(root.clone());
    let certainty = match view.expected_clear {
        None => "no estimate".to_string(),
        Some(_) if view.cause.is_trouble() => "if work on it begins now".to_string(),
        Some(_) => "from its estimate and verified share".to_string(),
    };
    v1::Blocker {
        waiting: Some(reference(&view.waiting)),
        on: view.root.chain.first().map(reference),
        chain: view.root.chain.iter().map(reference).collect(),
        root: Some(reference(root)),
        cause: view.cause.cause as i32,
        cause_detail: view.cause.detail.clone(),
        since_unix_ms: view.since,
        holds_agents: view.holds_agents.iter().cloned().collect(),
        holds_deliverables: u32::try_from(view.holds_deliverables).unwrap_or(u32::MAX),
        critical: view.critical,
        expected_clear_unix_ms: view.expected_clear,
        certainty,
        interventions: state.commands.values().filter(on_root).map(|c| c.issued.id.clone()).collect(),
        next: advice(state, root, view.cause.cause),
        other_roots: view.root.all.iter().filter(|r| *r != root).map(reference).collect(),
        rank: view.rank,
    }
}

/// What to type against a cause.
fn advice(state: &State, root: &DeliverableId, cause: v1::Cause) -> String {
    use v1::Cause as C;
    let agent = &root.agent;
    let connected = state.agents.get(agent).is_some_and(|a| a.sidecar.is_some());
    match cause {
        C::OwnerMissing if connected => format!("pitwall activate {agent}"),
        C::OwnerMissing => format!("start pitwall-sidecar --agent {agent} beside it"),
        C::OwnerLost => format!("check the host of {agent} and its pitwall-sidecar"),
        C::OwnerExited => format!("pitwall restart {agent}"),
        C::OwnerStalled | C::EvidenceUnknown | C::ResourcePressure => format!("pitwall why {agent}"),
        C::OwnerWaiting => format!("answer {agent}: pitwall tell {agent} \"…\""),
        C::Regressed | C::Misdirected | C::Overdue | C::NotStarted => {
            format!("pitwall tell {agent} --about {} \"…\"", root.name)
        }
        C::InProgress | C::Unspecified => String::new(),
    }
}

pub fn finding(finding: &FindingState) -> v1::Finding {
    let opened = &finding.opened;
    v1::Finding {
        id: opened.id,
        kind: opened.kind,
        subject: opened.subject.clone(),
        message: opened.message.clone(),
        next: opened.next.clone(),
        opened_unix_ms: finding.opened_at,
        since_unix_ms: opened.since_ms,
        closed_unix_ms: finding.closed_at,
        process: opened.process.as_ref().map(process),
        used: opened.used,
        limit: opened.limit,
    }
}

pub fn command(command: &CommandRecord) -> v1::Command {
    let steps = command.steps.iter().map(|(state, at, detail)| v1::CommandStep {
        state: *state as i32,
        at_unix_ms: *at,
        detail: detail.clone(),
    });
    v1::Command {
        id: command.issued.id.clone(),
        agent: command.issued.agent.clone(),
        spec: Some(command.spec.clone()),
        state: command.state as i32,
        detail: command.steps.last().map(|(_, _, detail)| detail.clone()).unwrap_or_default(),
        issued_unix_ms: command.issued_at,
        expires_unix_ms: command.issued.expires_ms,
        history: steps.collect(),
        origin: command.issued.origin.clone(),
    }
}

pub fn intervention(command: &CommandRecord) -> v1::Intervention {
    let target = match command.promise() {
        Promise::Verified(id) => id.to_string(),
        _ => command.issued.agent.clone(),
    };
    let delivered = command.delivered();
    v1::Intervention {
        id: command.issued.id.clone(),
        kind: kind_name(&command.spec).into(),
        target,
        promise: command.issued.promise.clone(),
        outcome: command.outcome as i32,
        issued_unix_ms: command.issued_at,
        received_unix_ms: command.reached(v1::CommandState::Received),
        delivered_unix_ms: delivered,
        effect_unix_ms: command.effect.as_ref().map(|(at, _)| *at),
        window_ends_unix_ms: delivered.unwrap_or(command.issued.expires_ms) + Millis::from(command.issued.window_ms),
        evidence: command.effect.as_ref().map(|(_, text)| text.clone()).unwrap_or_default(),
    }
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

    /// The latest readings of agents whose sidecar is heard, and the hosts they are on.
    pub fn readouts(&self, now: Millis) -> v1::ReadoutUpdate {
        let now = now.max(self.state.at);
        let live = self.readings.iter().filter(|(name, _)| {
            let status = self.state.agents.get(*name).map(AgentState::sidecar_status);
            matches!(status, Some(SidecarStatus::Live | SidecarStatus::Late))
        });
        let readouts = live.map(|(name, (at, r))| {
            let readout = v1::Readout {
                age_ms: u32::try_from(now - at).unwrap_or(u32::MAX),
                interval_ms: r.interval_ms,
                agent: r.agent,
                top: r.top.clone(),
                other: r.other,
                gpus: r.gpus.clone(),
                sidecar: r.sidecar,
            };
            (name.clone(), readout)
        });
        v1::ReadoutUpdate { agents: readouts.collect(), hosts: self.hosts() }
    }

    fn hosts(&self) -> Vec<v1::Host> {
        let boots: BTreeSet<&str> = self
            .state
            .agents
            .values()
            .filter_map(|a| a.sidecar.as_ref())
            .map(|s| s.connected.host_boot_id.as_str())
            .collect();
        boots.into_iter().map(|boot| self.host(boot)).collect()
    }

    fn host(&self, boot: &str) -> v1::Host {
        let on_it = |a: &AgentState| a.sidecar.as_ref().is_some_and(|s| s.connected.host_boot_id == boot);
        let agents: Vec<String> =
            self.state.agents.iter().filter(|(_, a)| on_it(a)).map(|(name, _)| name.clone()).collect();
        let readings = || agents.iter().filter_map(|name| Some((name, self.readings.get(name)?)));
        let newest = readings().max_by_key(|(_, (at, _))| *at).and_then(|(_, (_, r))| r.host.clone());
        let known = self.state.agents.values().find(|a| on_it(a)).and_then(|a| a.sidecar.as_ref());
        let usage = newest.unwrap_or_else(|| v1::HostUsage {
            boot_id: boot.into(),
            hostname: known.map(|s| s.connected.hostname.clone()).unwrap_or_default(),
            ..Default::default()
        });
        let mut top: Vec<v1::HostConsumer> = readings()
            .flat_map(|(name, (_, r))| {
                r.top.iter().map(move |p| v1::HostConsumer { agent: name.clone(), process: Some(p.clone()) })
            })
            .collect();
        let size = |c: &v1::HostConsumer| {
            let process = c.process.as_ref();
            (process.and_then(|p| p.cpu_cores).unwrap_or(0.0), process.and_then(|p| p.memory_bytes).unwrap_or(0))
        };
        top.sort_by(|a, b| {
            let (a, b) = (size(a), size(b));
            b.0.total_cmp(&a.0).then(b.1.cmp(&a.1))
        });
        top.truncate(CONSUMERS_SHOWN);
        v1::Host { usage: Some(usage), agents, top }
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
        all.map(intervention).collect()
    }

    /// Open ones by age; then the closed ones, latest first.
    pub fn findings(&self, include_closed: bool) -> Vec<v1::Finding> {
        let open = self.state.findings.values();
        let closed = self.state.closed_findings.iter().filter(|_| include_closed);
        open.chain(closed).map(finding).collect()
    }
}
