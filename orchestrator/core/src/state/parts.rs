//! Agents and deliverables as they are kept in a snapshot, and back.
use pitwall_proto::journal;

use super::{
    ActivityBucket, AgentState, CheckState, ClaimState, DeliverableState, Exit, PressureState, QuotaKey, QuotaState,
    Seen, SidecarState, snapshot::word,
};
use crate::{io::Millis, plan::DeliverableId};

pub(super) fn happening((at, text): &(Millis, String)) -> journal::Happening {
    journal::Happening { at_ms: *at, text: text.clone() }
}

pub(super) fn happening_back(happening: journal::Happening) -> (Millis, String) {
    (happening.at_ms, happening.text)
}

impl AgentState {
    /// The parts are events that would say the same: the agent's name stands beside them, once.
    pub(super) fn to_snapshot(&self, name: &str) -> journal::AgentSnapshot {
        let Self {
            added,
            sidecar,
            fact_acked,
            seen,
            exited,
            claim,
            waiting_since,
            quiet_since,
            looping_since,
            pressure,
            quotas,
            acted,
            gave_up,
            out_of_memory,
            unhealthy,
            sent_cursor,
            activity,
            workspace_absent,
            lapsed,
            foreign,
            refused,
            cloned,
            adopted,
            token_misused,
            dropped,
            status,
            status_reason,
            since,
        } = self;
        let accepted = |(instance, seq): &(String, u64)| journal::FactsAccepted {
            instance: instance.clone(),
            seq: *seq,
            ..Default::default()
        };
        journal::AgentSnapshot {
            name: name.into(),
            added_ms: *added,
            sidecar: sidecar.as_ref().map(sidecar_to),
            fact_acked: fact_acked.iter().map(accepted).collect(),
            seen: seen.as_ref().map(seen_to),
            exited: exited.as_ref().map(|Exit { at, code, signal }| journal::AgentExited {
                exited_ms: *at,
                exit_code: *code,
                signal: *signal,
                ..Default::default()
            }),
            claim: claim.as_ref().map(claim_to),
            waiting_since_ms: *waiting_since,
            quiet_since_ms: *quiet_since,
            looping_since_ms: *looping_since,
            pressure: pressure.as_ref().map(|PressureState { since, what, process, by_agent }| journal::Pressure {
                on: true,
                since_ms: *since,
                what: what.clone(),
                process: process.clone(),
                by_agent: by_agent.clone(),
                ..Default::default()
            }),
            quotas: quotas.iter().map(quota_to).collect(),
            acted: acted.values().cloned().collect(),
            gave_up: gave_up.clone(),
            out_of_memory: out_of_memory.clone(),
            unhealthy: unhealthy.values().cloned().collect(),
            sent_cursor: *sent_cursor,
            activity: activity.iter().map(activity_to).collect(),
            workspace_absent: workspace_absent.as_ref().map(happening),
            lapsed: lapsed.as_ref().map(happening),
            foreign: foreign.as_ref().map(happening),
            refused: refused.as_ref().map(happening),
            cloned: cloned
                .as_ref()
                .map(|(at_ms, cloned)| journal::ClonedSnapshot { at_ms: *at_ms, cloned: Some(cloned.clone()) }),
            adopted: adopted.clone(),
            token_misused: token_misused.as_ref().map(happening),
            dropped: dropped.map(|(at_ms, count)| journal::DroppedSnapshot { at_ms, count }),
            status: *status as i32,
            status_reason: status_reason.clone(),
            since_ms: *since,
        }
    }

    pub(super) fn from_snapshot(from: journal::AgentSnapshot) -> Self {
        Self {
            added: from.added_ms,
            sidecar: from.sidecar.map(|s| SidecarState {
                connected: s.connected.unwrap_or_default(),
                status: word(s.status),
                since: s.since_ms,
            }),
            fact_acked: from.fact_acked.into_iter().map(|f| (f.instance, f.seq)).collect(),
            seen: from.seen.map(|s| Seen {
                incarnation: s.incarnation,
                root: s.root.unwrap_or_default(),
                at: s.seen_ms,
                launched: s.launched,
            }),
            exited: from.exited.map(|e| Exit { at: e.exited_ms, code: e.exit_code, signal: e.signal }),
            claim: from.claim.map(|c| ClaimState {
                made: c.made_ms,
                progress: c.progress,
                text: c.text,
                waiting_for: c.waiting_for,
                deliverables: c.deliverables,
            }),
            waiting_since: from.waiting_since_ms,
            quiet_since: from.quiet_since_ms,
            looping_since: from.looping_since_ms,
            pressure: from.pressure.map(|p| PressureState {
                since: p.since_ms,
                what: p.what,
                process: p.process,
                by_agent: p.by_agent,
            }),
            quotas: from.quotas.into_iter().map(quota_back).collect(),
            acted: from.acted.into_iter().map(|a| (acted_key(&a), a)).collect(),
            gave_up: from.gave_up,
            out_of_memory: from.out_of_memory,
            unhealthy: from.unhealthy.into_iter().map(|h| (h.name.clone(), h)).collect(),
            sent_cursor: from.sent_cursor,
            activity: from.activity.into_iter().map(activity_back).collect(),
            workspace_absent: from.workspace_absent.map(happening_back),
            lapsed: from.lapsed.map(happening_back),
            foreign: from.foreign.map(happening_back),
            refused: from.refused.map(happening_back),
            cloned: from.cloned.map(|c| (c.at_ms, c.cloned.unwrap_or_default())),
            adopted: from.adopted,
            token_misused: from.token_misused.map(happening_back),
            dropped: from.dropped.map(|d| (d.at_ms, d.count)),
            status: word(from.status),
            status_reason: from.status_reason,
            since: from.since_ms,
        }
    }
}

fn sidecar_to(sidecar: &SidecarState) -> journal::SidecarSnapshot {
    let SidecarState { connected, status, since } = sidecar;
    journal::SidecarSnapshot { connected: Some(connected.clone()), status: *status as i32, since_ms: *since }
}

fn seen_to(seen: &Seen) -> journal::AgentSeen {
    let Seen { incarnation, root, at, launched } = seen;
    journal::AgentSeen {
        agent: String::new(),
        incarnation: *incarnation,
        root: Some(root.clone()),
        launched: *launched,
        seen_ms: *at,
    }
}

fn claim_to(claim: &ClaimState) -> journal::ClaimMade {
    let ClaimState { made, progress, text, waiting_for, deliverables } = claim;
    journal::ClaimMade {
        agent: String::new(),
        progress: *progress,
        text: text.clone(),
        waiting_for: waiting_for.clone(),
        deliverables: deliverables.clone(),
        made_ms: *made,
    }
}

pub(super) fn acted_key(acted: &journal::QuotaActed) -> QuotaKey {
    QuotaKey { named: acted.named.clone(), resource: acted.resource, soft: false }
}

fn quota_to((key, quota): (&QuotaKey, &QuotaState)) -> journal::Quota {
    let QuotaState { since, limit, used, process, process_used } = quota;
    journal::Quota {
        agent: String::new(),
        exceeded: true,
        resource: key.resource,
        limit: *limit,
        used: *used,
        process: process.clone(),
        process_used: *process_used,
        since_ms: *since,
        named: key.named.clone(),
        soft: key.soft,
    }
}

fn quota_back(quota: journal::Quota) -> (QuotaKey, QuotaState) {
    let state = QuotaState {
        since: quota.since_ms,
        limit: quota.limit,
        used: quota.used,
        process: quota.process,
        process_used: quota.process_used,
    };
    (QuotaKey { named: quota.named, resource: quota.resource, soft: quota.soft }, state)
}

fn activity_to(bucket: &ActivityBucket) -> journal::Activity {
    let ActivityBucket { at, deliverables, unattributed, examples } = bucket;
    journal::Activity {
        agent: String::new(),
        observed_ms: *at,
        window_ms: 0,
        deliverables: deliverables.clone(),
        unattributed: *unattributed,
        examples: examples.clone(),
    }
}

fn activity_back(activity: journal::Activity) -> ActivityBucket {
    ActivityBucket {
        at: activity.observed_ms,
        deliverables: activity.deliverables,
        unattributed: activity.unattributed,
        examples: activity.examples,
    }
}

pub(super) fn deliverable(id: &DeliverableId, state: &DeliverableState) -> journal::DeliverableSnapshot {
    let DeliverableState {
        added,
        checks,
        touched,
        ever_passed,
        status,
        since,
        was_verified,
        verified_at,
        unverified_at,
        waited_since,
    } = state;
    journal::DeliverableSnapshot {
        agent: id.agent.clone(),
        name: id.name.clone(),
        added_ms: *added,
        checks: checks.iter().map(check).collect(),
        touched: *touched,
        ever_passed: *ever_passed,
        status: *status as i32,
        since_ms: *since,
        was_verified: *was_verified,
        verified_at_ms: *verified_at,
        unverified_at_ms: *unverified_at,
        waited_since_ms: *waited_since,
    }
}

pub(super) fn deliverable_back(from: journal::DeliverableSnapshot) -> DeliverableState {
    DeliverableState {
        added: from.added_ms,
        checks: from.checks.into_iter().map(check_back).collect(),
        touched: from.touched,
        ever_passed: from.ever_passed,
        status: word(from.status),
        since: from.since_ms,
        was_verified: from.was_verified,
        verified_at: from.verified_at_ms,
        unverified_at: from.unverified_at_ms,
        waited_since: from.waited_since_ms,
    }
}

fn check((id, state): (&String, &CheckState)) -> journal::CheckSnapshot {
    let CheckState { digest, added, replaced, verdict, passed_once, failing_since, stale } = state;
    journal::CheckSnapshot {
        id: id.clone(),
        digest: digest.clone(),
        added_ms: *added,
        replaced: *replaced,
        verdict: verdict.clone(),
        passed_once: *passed_once,
        failing_since_ms: *failing_since,
        stale: *stale,
    }
}

fn check_back(from: journal::CheckSnapshot) -> (String, CheckState) {
    let state = CheckState {
        digest: from.digest,
        added: from.added_ms,
        replaced: from.replaced,
        verdict: from.verdict,
        passed_once: from.passed_once,
        failing_since: from.failing_since_ms,
        stale: from.stale,
    };
    (from.id, state)
}
