//! Blockers and findings, each with what to type against it.
use pitwall_proto::v1;

use super::{process, reference};
use crate::{
    derive::{BlockerView, Derived},
    plan::DeliverableId,
    state::{CommandRecord, FindingState, Promise, State},
};

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
pub fn advice(state: &State, root: &DeliverableId, cause: v1::Cause) -> String {
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
