//! Facts of a sidecar become events: once each, stamped by age, and acknowledged only after they are durable.
use pitwall_proto::{
    journal::{self, event::Body},
    v1::{self, connect_response, fact},
};

use super::Project;
use crate::{
    io::{Millis, SessionId},
    plan::DeliverableId,
};

/// Text of a sidecar that is kept: longer is cut, as a journal must not grow at a peer's will.
const TEXT_MAX: usize = 1_000;
const EXAMPLES_MAX: usize = 5;
const CLAIMS_MAX: usize = 1_000;

impl Project {
    pub(super) fn on_facts(&mut self, session: SessionId, agent: &str, instance: &str, batch: v1::FactBatch) {
        let acked = self.state.agents[agent].fact_acked.get(instance).copied().unwrap_or(0);
        let mut latest = acked;
        for fact in batch.facts {
            // Sent again because our acknowledgement was lost: it is in the journal already.
            if fact.seq <= latest {
                continue;
            }
            latest = fact.seq;
            let age = Millis::try_from(fact.age_ms).unwrap_or(Millis::MAX);
            // Never before the agent was in the plan: an absurd age must not rewrite history.
            let observed = self.now.saturating_sub(age).max(self.state.agents[agent].added.min(self.now));
            if let Some(kind) = fact.kind {
                self.on_fact(agent, kind, observed);
            }
        }
        if latest > acked {
            self.emit(Body::FactsAccepted(journal::FactsAccepted {
                agent: agent.into(),
                instance: instance.into(),
                seq: latest,
            }));
        }
        self.send(session, connect_response::Body::FactAck(v1::FactAck { seq: latest }));
    }

    fn on_fact(&mut self, agent: &str, kind: fact::Kind, observed: Millis) {
        let agent = agent.to_owned();
        let body = match kind {
            fact::Kind::Verdict(verdict) => return self.on_verdict(agent, verdict, observed),
            fact::Kind::Claim(claim) => Body::ClaimMade(journal::ClaimMade {
                agent,
                progress: claim.progress.filter(|p| p.is_finite()).map(|p| p.clamp(0.0, 1.0)),
                text: cut(claim.text),
                waiting_for: cut(claim.waiting_for),
                deliverables: claim
                    .deliverables
                    .into_iter()
                    .filter(|(_, share)| share.is_finite())
                    .take(CLAIMS_MAX)
                    .map(|(name, share)| (cut(name), share.clamp(0.0, 1.0)))
                    .collect(),
                made_ms: observed,
            }),
            fact::Kind::AgentSeen(seen) => Body::AgentSeen(journal::AgentSeen {
                agent,
                incarnation: seen.incarnation,
                root: seen.root.map(process),
                launched: seen.launched,
                seen_ms: observed,
            }),
            fact::Kind::AgentExited(exit) => Body::AgentExited(journal::AgentExited {
                agent,
                incarnation: exit.incarnation,
                exit_code: exit.exit_code,
                signal: exit.signal,
                exited_ms: observed,
            }),
            fact::Kind::AgentMotion(motion) => {
                Body::AgentMotion(journal::AgentMotion { agent, quiet: motion.quiet, since_ms: observed })
            }
            fact::Kind::AgentLooping(loops) => {
                Body::AgentLooping(journal::AgentLooping { agent, looping: loops.looping, since_ms: observed })
            }
            fact::Kind::Pressure(pressure) => Body::Pressure(journal::Pressure {
                agent,
                on: pressure.on,
                what: cut(pressure.what),
                process: pressure.process.map(process),
                since_ms: observed,
            }),
            fact::Kind::Quota(quota) => Body::Quota(journal::Quota {
                agent,
                exceeded: quota.exceeded,
                resource: quota.resource,
                limit: quota.limit,
                used: quota.used,
                process: quota.process.map(process),
                process_used: quota.process_used,
                since_ms: observed - Millis::from(quota.above_for_ms),
            }),
            fact::Kind::Activity(activity) => Body::Activity(journal::Activity {
                agent,
                observed_ms: observed,
                window_ms: activity.window_ms,
                deliverables: activity.deliverables.into_iter().map(|d| (cut(d.deliverable), d.changes)).collect(),
                unattributed: activity.unattributed,
                examples: activity.examples.into_iter().take(EXAMPLES_MAX).map(cut).collect(),
            }),
            fact::Kind::Lease(lease) => Body::Lease(journal::Lease {
                agent,
                command: lease.command,
                state: lease.state,
                detail: cut(lease.detail),
            }),
            fact::Kind::ProcessGone(gone) => Body::ProcessGone(journal::ProcessGone {
                agent,
                process: gone.process.map(process),
                observed_ms: observed,
            }),
            fact::Kind::EffectMeasured(effect) => Body::EffectMeasured(journal::EffectMeasured {
                agent,
                command: effect.command,
                resource: effect.resource,
                asked: effect.asked,
                measured: effect.measured,
                over_ms: effect.over_ms,
                held: effect.held,
                observed_ms: observed,
            }),
            fact::Kind::FactsDropped(dropped) => {
                Body::FactsDropped(journal::FactsDropped { agent, count: dropped.count })
            }
            fact::Kind::Workspace(workspace) => {
                Body::Workspace(journal::Workspace { agent, present: workspace.present, reason: cut(workspace.reason) })
            }
        };
        self.emit(body);
    }

    fn on_verdict(&mut self, agent: String, verdict: v1::VerdictFact, observed: Millis) {
        let id = DeliverableId::new(&agent, &verdict.deliverable);
        let digest = self
            .state
            .deliverables
            .get(&id)
            .and_then(|d| d.checks.get(&verdict.check_id))
            .map(|check| check.digest.clone());
        // Of a rule that another generation had: it proves nothing now. Counted, not kept.
        if digest.as_ref() != Some(&verdict.check_digest) {
            self.foreign_verdicts += 1;
            return;
        }
        let evidence = verdict.evidence.unwrap_or_default();
        let check = verdict.check_id.clone();
        self.emit(Body::Verdict(journal::Verdict {
            agent,
            deliverable: verdict.deliverable,
            check_id: verdict.check_id,
            check_digest: verdict.check_digest,
            outcome: verdict.outcome,
            failing: verdict.failing,
            observed_ms: observed,
            evidence: Some(journal::Evidence {
                summary: cut(evidence.summary),
                size_bytes: evidence.size_bytes,
                digest: cut(evidence.digest),
                modified_unix_ms: evidence.modified_unix_ms,
                http_status: evidence.http_status,
                excerpt: cut(evidence.excerpt),
                files: evidence.files,
                latency_ms: evidence.latency_ms,
            }),
        }));
        self.confirm(id, &check, observed);
    }
}

fn process(identity: v1::ProcessIdentity) -> journal::Process {
    journal::Process { pid: identity.pid, start_ticks: identity.start_ticks, name: cut(identity.name) }
}

/// At most [`TEXT_MAX`] bytes, without control characters other than the line's end.
fn cut(text: String) -> String {
    let end = text.floor_char_boundary(TEXT_MAX);
    text[..end].chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
