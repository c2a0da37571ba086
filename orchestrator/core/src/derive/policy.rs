//! Findings about what an agent may use and how it fares: quotas exceeded, with what its sidecar did about them by itself;
//! kills for want of memory; restarts that were given up; health.
use std::collections::BTreeSet;

use pitwall_proto::{journal, v1::FindingKind};

use super::finding::{FindingView, shown};
use crate::{
    clock::Clock,
    state::{AgentState, QuotaKey, QuotaState},
    text,
};

pub(super) fn findings(name: &str, agent: &AgentState, clock: &Clock, found: &mut Vec<FindingView>) {
    // One finding for each resource: the hard limit before the soft one, and what was done about it a while longer.
    let keys: BTreeSet<QuotaKey> =
        agent.quotas.keys().chain(agent.acted.keys()).map(|key| QuotaKey { soft: false, ..key.clone() }).collect();
    for key in keys {
        let soft = QuotaKey { soft: true, ..key.clone() };
        let exceeded =
            agent.quotas.get(&key).map(|q| (q, false)).or_else(|| agent.quotas.get(&soft).map(|q| (q, true)));
        let acted = agent.acted.get(&key).filter(|acted| shown(acted.at_ms, clock));
        found.extend(quota(name, &key, exceeded, acted));
    }
    if let Some(oom) = agent.out_of_memory.as_ref().filter(|oom| shown(oom.at_ms, clock)) {
        let next = format!(
            "raise its memory limit, or let a quota act before the kernel does: quota: {{ memory: {{ hard: …, on_exceed: \
             kill_process }} }} for {name}"
        );
        let mut finding = FindingView::new(FindingKind::OutOfMemory, name, text::out_of_memory(oom), next, oom.at_ms);
        finding.process.clone_from(&oom.process);
        found.push(finding);
    }
    if let Some(gave_up) = &agent.gave_up {
        let next = format!("find out why, then: pitwall restart {name}");
        let message = text::restart(gave_up);
        found.push(FindingView::new(FindingKind::RestartsGaveUp, name, message, next, gave_up.at_ms));
    }
    for (check, health) in &agent.unhealthy {
        let why = if health.detail.is_empty() { String::new() } else { format!(": {}", health.detail) };
        let message = format!("its health check {check} fails{why}");
        let next = format!("pitwall why {name}; if nothing else helps: pitwall restart {name}");
        let subject = format!("{name}/{check}");
        found.push(FindingView::new(FindingKind::Unhealthy, subject, message, next, health.since_ms));
    }
}

fn quota(
    name: &str,
    key: &QuotaKey,
    exceeded: Option<(&QuotaState, bool)>,
    acted: Option<&journal::QuotaActed>,
) -> Option<FindingView> {
    let resource = key.resource;
    let word = text::resource(resource);
    let subject = if key.named.is_empty() { format!("{name}/{word}") } else { format!("{name}/{}/{word}", key.named) };
    let amount = |value| text::amount(resource, value);
    let done = acted.map(text::acted);
    let Some((quota, soft)) = exceeded else {
        let acted = acted?;
        let steady = done.unwrap_or_default();
        return Some(FindingView {
            process: acted.process.clone(),
            used: Some(acted.used),
            limit: Some(acted.limit),
            ..FindingView::new(
                FindingKind::QuotaExceeded,
                subject,
                format!("used {} of {}: {steady}", amount(acted.used), amount(acted.limit)),
                format!("pitwall why {name}"),
                acted.at_ms,
            )
        });
    };
    let by = quota
        .process
        .as_ref()
        .map(|p| format!(", mostly {} (pid {}) with {}", p.name, p.pid, amount(quota.process_used)));
    let next = match (&quota.process, resource) {
        (Some(_), 1) | (None, 1) => format!("pitwall throttle {name} --cpu {:.2} --for 10m", quota.limit),
        (_, 9) => format!("clear the workspace of {name}, or raise its quota"),
        (Some(p), _) => format!("pitwall kill {name} --pid {}", p.pid),
        (None, _) => format!("pitwall why {name}"),
    };
    let soft = if soft { ", the soft limit" } else { "" };
    let steady = done.map(|done| format!("; {done}")).unwrap_or_default();
    let message =
        format!("uses {} of {}{soft}{}{steady}", amount(quota.used), amount(quota.limit), by.unwrap_or_default());
    Some(FindingView {
        process: quota.process.clone(),
        used: Some(quota.used),
        limit: Some(quota.limit),
        steady,
        ..FindingView::new(FindingKind::QuotaExceeded, subject, message, next, quota.since)
    })
}
