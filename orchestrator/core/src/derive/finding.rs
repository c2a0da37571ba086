//! Findings that should be open now. The decider compares them with those that are, and opens or closes.
use std::collections::BTreeMap;

use pitwall_proto::{
    journal, throttle,
    v1::{AgentStatus, Cause, CommandState, DeliverableStatus, FindingKind, SidecarStatus},
};

use super::{agent::AgentView, blocker::BlockerView, cause::CauseView, deliverable::DeliverableView};
use crate::{
    clock::Clock,
    io::Millis,
    plan::DeliverableId,
    state::{AgentState, State},
    text,
};

/// A happening without an end of its own is shown for so long.
const SHOWN_FOR_MS: i64 = 15 * 60_000;

#[derive(Clone, Debug, PartialEq)]
pub struct FindingView {
    pub kind: FindingKind,
    pub subject: String,
    pub message: String,
    pub next: String,
    pub since: Millis,
    pub process: Option<journal::Process>,
    pub used: Option<f64>,
    pub limit: Option<f64>,
}

impl FindingView {
    pub(super) fn new(kind: FindingKind, subject: impl ToString, message: String, next: String, since: Millis) -> Self {
        Self { kind, subject: subject.to_string(), message, next, since, process: None, used: None, limit: None }
    }
}

pub fn all(
    state: &State,
    views: &BTreeMap<DeliverableId, DeliverableView>,
    agents: &BTreeMap<String, AgentView>,
    causes: &BTreeMap<DeliverableId, CauseView>,
    blockers: &[BlockerView],
    clock: &Clock,
) -> Vec<FindingView> {
    let mut found = Vec::new();
    for (name, agent) in &state.agents {
        of_agent(state, name, agent, agents[name].status, &agents[name].reason, clock, &mut found);
    }
    for (id, view) in views {
        of_deliverable(state, id, view, causes.get(id), blockers, &mut found);
    }
    for command in state.commands.values().filter(|c| c.state == CommandState::Unknown) {
        let at = command.reached(CommandState::Unknown).unwrap_or(command.issued_at);
        if shown(at, clock) {
            let message = format!(
                "no result came for {} on {}: it may or may not have taken effect",
                command.issued.id, command.issued.agent
            );
            let next = format!("pitwall commands {}", command.issued.id);
            found.push(FindingView::new(FindingKind::CommandUnknown, &command.issued.id, message, next, at));
        }
    }
    if let Some((at, reason)) = &state.mass_loss {
        let next =
            "check the network between hosts, then the orchestrator itself; your own commands go as ever".to_string();
        found.push(FindingView::new(FindingKind::NetworkOrOrchestrator, &state.project, reason.clone(), next, *at));
    }
    found.extend(super::restored::finding(state, clock));
    found
}

pub(super) fn shown(at: Millis, clock: &Clock) -> bool {
    !clock.reached(at + SHOWN_FOR_MS, || "an old happening is no longer shown".into())
}

fn of_agent(
    state: &State,
    name: &str,
    agent: &AgentState,
    status: AgentStatus,
    reason: &str,
    clock: &Clock,
    found: &mut Vec<FindingView>,
) {
    let mut add = |kind, message: String, next: String, since| {
        found.push(FindingView::new(kind, name, message, next, since));
    };
    match status {
        AgentStatus::Missing => {
            let due = agent.added + state.plan.agents[name].windows.expected_within_ms as i64;
            let next = if agent.sidecar.is_some() {
                format!("pitwall activate {name}")
            } else {
                format!("start pitwall-sidecar --agent {name} beside it")
            };
            add(FindingKind::AgentMissing, format!("never seen: {reason}"), next, due);
        }
        AgentStatus::Exited | AgentStatus::Lost => {
            if let Some(exit) = &agent.exited {
                let message = format!("no process of it is left{}", text::exit(exit));
                add(FindingKind::AgentExited, message, format!("pitwall restart {name}"), exit.at);
            }
        }
        AgentStatus::Stalled => {
            let since = agent.quiet_since.or(agent.looping_since).unwrap_or(agent.since);
            add(FindingKind::AgentStalled, reason.into(), format!("pitwall why {name}"), since);
        }
        AgentStatus::Unspecified
        | AgentStatus::Expected
        | AgentStatus::Done
        | AgentStatus::Waiting
        | AgentStatus::Active
        | AgentStatus::Blocked
        | AgentStatus::Idle => {}
    }
    if let Some(sidecar) = agent.sidecar.as_ref().filter(|s| s.status == SidecarStatus::Lost) {
        let message = format!("no sign of life from the sidecar on {}", sidecar.connected.hostname);
        add(FindingKind::SidecarLost, message, "check that host and its pitwall-sidecar".into(), sidecar.since);
        if let Some(message) = orphaned(state, name) {
            let next = format!("start pitwall-sidecar --agent {name} again: at its start it adopts or undoes it");
            add(FindingKind::LeaseOrphaned, message, next, sidecar.since);
        }
    }
    if let Some((at, why)) = &agent.workspace_absent {
        add(FindingKind::WorkspaceAbsent, why.clone(), "create the workspace, or mend --workspace".into(), *at);
    }
    if let Some((at, why)) = agent.lapsed.as_ref().filter(|(at, _)| shown(*at, clock)) {
        add(
            FindingKind::LeaseLapsed,
            format!("undone, as nobody renewed it: {why}"),
            format!("pitwall throttle {name} again, if it is still wanted"),
            *at,
        );
    }
    if let Some((at, why)) = agent.foreign.as_ref().filter(|(at, _)| shown(*at, clock)) {
        add(
            FindingKind::LeaseForeign,
            format!("changed by somebody else and left alone: {why}"),
            "find out who manages that limit".into(),
            *at,
        );
    }
    if let Some((at, instance)) = agent.refused.as_ref().filter(|(at, _)| shown(*at, clock)) {
        let message = format!("a second sidecar instance {instance} wanted to speak for it and was refused");
        add(FindingKind::SecondInstance, message, "stop one of the two".into(), *at);
    }
    if let Some((at, cloned)) = &agent.cloned {
        let choices = [&cloned.first, &cloned.second].into_iter().flatten();
        let choices: Vec<String> =
            choices.map(|twin| format!("pitwall adopt {name} {}", text::process(&twin.process))).collect();
        let next = format!("{}; then give the other a state directory of its own", choices.join("  or  "));
        add(FindingKind::SidecarCloned, cloned.reason.clone(), next, *at);
    }
    if let Some((at, token)) = agent.token_misused.as_ref().filter(|(at, _)| shown(*at, clock)) {
        let message =
            format!("its join token {token} was used already, and came again with another key: somebody copied it");
        let next = format!("find out who has the token; if in doubt: pitwall identity revoke {name}");
        add(FindingKind::TokenMisused, message, next, *at);
    }
    if let Some((at, count)) = agent.dropped.filter(|(at, _)| shown(*at, clock)) {
        add(
            FindingKind::FactsDropped,
            format!("{count} facts dropped, the sidecar's spool was full"),
            "look at the link to this host".into(),
            at,
        );
    }
    for (resource, quota) in &agent.quotas {
        let word = match resource {
            1 => "cpu",
            2 => "memory",
            _ => "pids",
        };
        let by = quota.process.as_ref().map(|p| {
            format!(", mostly {} (pid {}) with {}", p.name, p.pid, text::amount(*resource, quota.process_used))
        });
        let next = match (&quota.process, resource) {
            (Some(_), 1) | (None, _) => format!("pitwall throttle {name} --cpu {:.2} --for 10m", quota.limit),
            (Some(p), _) => format!("pitwall kill {name} --pid {}", p.pid),
        };
        found.push(FindingView {
            kind: FindingKind::QuotaExceeded,
            subject: format!("{name}/{word}"),
            message: format!(
                "uses {} of {}{}",
                text::amount(*resource, quota.used),
                text::amount(*resource, quota.limit),
                by.unwrap_or_default()
            ),
            next,
            since: quota.since,
            process: quota.process.clone(),
            used: Some(quota.used),
            limit: Some(quota.limit),
        });
    }
}

/// Limits that nobody can undo while their sidecar does not run; one that runs and is cut off undoes them in time.
fn orphaned(state: &State, agent: &str) -> Option<String> {
    let held = state.leased_commands().filter(|c| c.issued.agent == agent);
    let told: Vec<String> =
        held.filter_map(|c| Some(format!("{} ({})", c.issued.id, throttle::of_whom(c.wanted_lease()?.0)))).collect();
    let (lease, is) = if told.len() == 1 { ("lease", "is") } else { ("leases", "are") };
    let words = "its sidecar is lost, and where its process is gone the limit stays until one runs again";
    (!told.is_empty()).then(|| format!("{lease} {} {is} orphaned: {words}", told.join(", ")))
}

fn of_deliverable(
    state: &State,
    id: &DeliverableId,
    view: &DeliverableView,
    cause: Option<&CauseView>,
    blockers: &[BlockerView],
    found: &mut Vec<FindingView>,
) {
    let tell = format!("pitwall tell {} --about {} \"…\"", id.agent, id.name);
    if view.status == DeliverableStatus::Regressed {
        let failed = view.checks.iter().find(|c| c.outcome == super::Seen::Failed);
        let message = format!("was verified, now {} fails", failed.map_or("a check", |c| c.id.as_str()));
        found.push(FindingView::new(
            FindingKind::DeliverableRegressed,
            id,
            message,
            tell.clone(),
            state.deliverables[id].since,
        ));
    }
    if let Some(cause) = cause.filter(|c| c.cause == Cause::Misdirected) {
        let since = cause.since.unwrap_or(state.at);
        found.push(FindingView::new(FindingKind::Misdirected, id, cause.detail.clone(), tell.clone(), since));
    }
    // Only a check that was made and fails shows that something is missing; unknown evidence does not.
    let now = &state.deliverables[id];
    let fails = view.checks.iter().any(|c| c.outcome == super::Seen::Failed);
    let absent = !now.ever_passed && !now.touched && fails;
    let seen = state.agents[&id.agent].seen.is_some();
    let blocked = |b: &&BlockerView| b.root.id() == id && state.agents[&b.waiting.agent].status == AgentStatus::Blocked;
    if !absent || !seen || view.verified_now() {
        return;
    }
    if let Some(blocker) = blockers.iter().filter(blocked).min_by_key(|b| b.since) {
        let first = view.checks.iter().find(|c| c.outcome == super::Seen::Failed);
        let first = first.map_or(String::new(), |c| format!(": {} never passed", c.id));
        let message = format!("{} is blocked by it, and nothing of it is there{first}", blocker.waiting.agent);
        found.push(FindingView::new(FindingKind::MissingDeliverable, id, message, tell, blocker.since));
    }
}
