//! One agent's status: the first rule that fits, and its line for people.
use std::collections::BTreeMap;

use pitwall_proto::v1::{AgentStatus, SidecarStatus};

use super::{
    cause::{CauseView, Stall},
    deliverable::DeliverableView,
    root::Root,
};
use crate::{
    clock::Clock,
    io::Millis,
    plan::DeliverableId,
    state::{AgentState, State},
    text,
};

type Views = BTreeMap<DeliverableId, DeliverableView>;

#[derive(Clone, Debug, PartialEq)]
pub struct AgentView {
    pub status: AgentStatus,
    pub reason: String,
    pub verified: f64,
    pub claimed: Option<f64>,
    pub unknown: f64,
}

/// What is known of an agent before causes: they look at their owner's presence and waiting only.
#[derive(Clone, Debug)]
pub struct Early {
    /// `Expected` or `Missing`, while it was never seen.
    pub status: Option<AgentStatus>,
    pub reason: String,
    pub due: Millis,
    pub waiting: bool,
}

pub fn early(state: &State, clock: &Clock) -> BTreeMap<String, Early> {
    state.agents.iter().map(|(name, agent)| (name.clone(), early_one(state, name, agent, clock))).collect()
}

fn early_one(state: &State, name: &str, agent: &AgentState, clock: &Clock) -> Early {
    let windows = &state.plan.agents[name].windows;
    let due = agent.added + windows.expected_within_ms as i64;
    let waiting = agent.waiting_since.is_some_and(|since| {
        !clock.reached(since + windows.waiting_for_ms as i64, || format!("{name} waits unrenewed"))
    });
    if agent.seen.is_some() {
        return Early { status: None, reason: String::new(), due, waiting };
    }
    let reason = match agent.sidecar_status() {
        SidecarStatus::NeverConnected | SidecarStatus::Unspecified => "no sidecar ever connected",
        SidecarStatus::Live | SidecarStatus::Late => "sidecar live, agent not started",
        SidecarStatus::Lost => "sidecar lost before the agent was seen",
    };
    let missing = clock.reached(due, || format!("{name} is due"));
    let status = if missing { AgentStatus::Missing } else { AgentStatus::Expected };
    Early { status: Some(status), reason: reason.into(), due, waiting }
}

pub fn all(
    state: &State,
    views: &Views,
    early: &BTreeMap<String, Early>,
    stalled: &BTreeMap<String, Stall>,
    causes: &BTreeMap<DeliverableId, CauseView>,
    roots: &BTreeMap<DeliverableId, Root>,
    clock: &Clock,
) -> BTreeMap<String, AgentView> {
    let mut agents = BTreeMap::new();
    for (name, agent) in &state.agents {
        let own: Vec<(&DeliverableId, &DeliverableView)> = views.iter().filter(|(id, _)| id.agent == *name).collect();
        let (status, reason) = status(agent, &own, &early[name], stalled.get(name), views, causes, roots, clock);
        let claimed = agent.claim.as_ref().and_then(|claim| {
            claim.progress.or_else(|| {
                let any = own.iter().any(|(_, v)| v.claimed.is_some());
                any.then(|| super::weighted(own.iter().map(|(_, v)| (v.weight, v.claimed.unwrap_or(0.0)))))
            })
        });
        let view = AgentView {
            status,
            reason,
            verified: super::weighted(own.iter().map(|(_, v)| (v.weight, v.verified))),
            claimed,
            unknown: super::weighted(own.iter().map(|(_, v)| (v.weight, v.unknown))),
        };
        agents.insert(name.clone(), view);
    }
    agents
}

#[allow(clippy::too_many_arguments, reason = "the rule reads all of these, and a struct would only rename them")]
fn status(
    agent: &AgentState,
    own: &[(&DeliverableId, &DeliverableView)],
    early: &Early,
    stalled: Option<&Stall>,
    views: &Views,
    causes: &BTreeMap<DeliverableId, CauseView>,
    roots: &BTreeMap<DeliverableId, Root>,
    clock: &Clock,
) -> (AgentStatus, String) {
    if let Some(status) = early.status {
        return (status, early.reason.clone());
    }
    if agent.sidecar_status() == SidecarStatus::Lost {
        return (AgentStatus::Lost, "its sidecar is lost: evidence unknown".into());
    }
    if own.iter().all(|(_, v)| v.verified_now()) {
        return (AgentStatus::Done, "all deliverables verified".into());
    }
    if let Some(exit) = &agent.exited {
        return (AgentStatus::Exited, format!("no process of it is left{}", text::exit(exit)));
    }
    if early.waiting {
        let claim = agent.claim.as_ref().map_or("a person", |c| c.waiting_for.as_str());
        return (AgentStatus::Waiting, format!("says it waits for {claim}"));
    }
    let workable = own.iter().any(|(_, v)| v.workable);
    if let Some(stall) = stalled.filter(|_| workable) {
        let how = if stall.quiet { "no file, evidence or CPU activity" } else { "busy, and nothing changes" };
        return (AgentStatus::Stalled, how.into());
    }
    if workable {
        return (AgentStatus::Active, "has workable work, and moves".into());
    }
    let started = own.iter().any(|(_, v)| v.started);
    let overdue = own.iter().filter(|(_, v)| v.waiting()).flat_map(|(_, v)| v.open_needs()).find(|need| {
        let finish = views.get(*need).and_then(|v| v.planned_finish);
        finish.is_some_and(|finish| clock.reached(finish, || format!("{need} is overdue")))
    });
    let trouble = own
        .iter()
        .filter_map(|(id, _)| roots.get(*id))
        .find(|root| causes.get(root.id()).is_some_and(CauseView::is_trouble));
    let waits = own.iter().find_map(|(id, _)| roots.get(*id)).map(|r| r.chain[0].to_string()).unwrap_or_default();
    if started {
        return (AgentStatus::Blocked, format!("waits for {waits}"));
    }
    if let Some(root) = trouble {
        return (AgentStatus::Blocked, format!("waits for {}", root.chain[0]));
    }
    if let Some(need) = overdue {
        return (AgentStatus::Blocked, format!("waits for {need}, which is overdue"));
    }
    let no_estimate = own
        .iter()
        .flat_map(|(_, v)| v.open_needs())
        .any(|need| views.get(need).is_some_and(|v| v.planned_finish.is_none()));
    let note = if no_estimate { " (no estimate)" } else { "" };
    (AgentStatus::Idle, format!("its turn comes after {waits}{note}"))
}
