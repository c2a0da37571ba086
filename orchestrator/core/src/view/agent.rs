//! One agent with its deliverables, checks and leases, and the line that says what comes next.
use pitwall_proto::{
    throttle,
    v1::{self, AgentStatus},
};

use super::{process, reference};
use crate::{
    derive::{CheckView, DeliverableView, Derived, Seen},
    io::Millis,
    plan::DeliverableId,
    state::{DeliverableState, State},
    text,
};

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
    let held = state.leased_commands().filter(|c| c.issued.agent == agent);
    let orphaned = state.agents.get(agent).is_some_and(|a| a.sidecar_status() == v1::SidecarStatus::Lost);
    held.filter_map(|c| {
        let (throttle, until) = c.wanted_lease()?;
        let detail = c.lease.as_ref().map(|(_, _, detail)| detail.clone()).unwrap_or_default();
        let throttle::Meant { resource, amount } = throttle::meant(throttle);
        Some(v1::ActiveLease {
            command: c.issued.id.clone(),
            cpu_cores: if resource == v1::Resource::Cpu { amount } else { 0.0 },
            until_unix_ms: until,
            detail,
            resource: resource as i32,
            amount,
            process: throttle.process.clone(),
            via: throttle.via.clone(),
            orphaned,
        })
    })
    .collect()
}

/// One line: what it waits for, what it should do, or what the operator should type.
fn next_of(state: &State, derived: &Derived, name: &str, now: Millis) -> String {
    let agent = &state.agents[name];
    let view = &derived.agents[name];
    let failing = derived
        .deliverables
        .iter()
        .filter(|(id, _)| id.agent == name)
        .find_map(|(id, d)| Some(format!("{} verified, failing {}", id.name, text::ago(now, d.failing_since?))));
    let finding = |kind| state.open_finding(kind, name).map(|f| f.opened.next.clone()).unwrap_or_default();
    match view.status {
        AgentStatus::Missing => {
            let due = agent.added + state.plan.agents[name].windows.expected_within_ms as Millis;
            let next = finding(v1::FindingKind::AgentMissing);
            format!("{}, due {} ago: {next}", view.reason, text::ago(now, due))
        }
        AgentStatus::Lost => match state.open_finding(v1::FindingKind::LeaseOrphaned, name) {
            Some(orphaned) => format!("{}; {}", view.reason, orphaned.opened.message),
            None => view.reason.clone(),
        },
        AgentStatus::Active | AgentStatus::Done if failing.is_some() => failing.unwrap_or_default(),
        AgentStatus::Exited => format!("{}: pitwall restart {name}", view.reason),
        AgentStatus::Stalled => format!("{}: pitwall why {name}", view.reason),
        AgentStatus::Active => active_next(derived, name, now),
        AgentStatus::Blocked
        | AgentStatus::Idle
        | AgentStatus::Expected
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
    let first = |which: &[Seen]| view.checks.iter().find(|c| which.contains(&c.outcome));
    let open = first(&[Seen::Failed]).or_else(|| first(&[Seen::Unknown, Seen::NotYet]));
    let what = open.map_or_else(
        || id.name.clone(),
        |check| match check.id.split_once(':') {
            _ if check.outcome == Seen::Unknown => format!("{} cannot be seen", check.id),
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

fn check(state: &DeliverableState, view: &CheckView) -> v1::CheckResult {
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
