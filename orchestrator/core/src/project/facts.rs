//! Facts of a sidecar become events: once each, stamped by age, and acknowledged only after they are durable.
use std::collections::BTreeMap;

use pitwall_proto::{
    journal::{self, event::Body},
    mutant,
    v1::{self, Outcome, connect_response, fact},
};

use super::Project;
use crate::{
    io::{Millis, SessionId},
    plan::DeliverableId,
};

/// Text of a sidecar that is kept: longer is cut, as a journal must not grow at a peer's will.
const TEXT_MAX: usize = 1_000;
const EXAMPLES_MAX: usize = 5;

impl Project {
    pub(super) fn on_facts(&mut self, session: SessionId, agent: &str, instance: &str, batch: v1::FactBatch) {
        let acked = self.state.agents[agent].fact_acked(instance);
        let mut latest = acked;
        for fact in batch.facts {
            // Sent again because our acknowledgement was lost: it is in the journal already.
            if fact.seq <= latest {
                continue;
            }
            latest = fact.seq;
            let age = Millis::try_from(fact.age_ms).unwrap_or(Millis::MAX);
            // Never before the agent was in the plan: an absurd age must not rewrite history.
            let told = self.now.saturating_sub(age);
            // Across a reboot an age is a guess from a clock that anybody may set: it makes no evidence fresh.
            let guessed = fact.age_estimated && !mutant!("guessed-ages-trusted");
            let seen = if guessed { Millis::MIN / 2 } else { told };
            let observed = told.max(self.state.agents[agent].added.min(self.now));
            if let Some(kind) = fact.kind {
                self.on_fact(agent, kind, observed, seen);
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

    fn on_fact(&mut self, agent: &str, kind: fact::Kind, observed: Millis, seen: Millis) {
        let agent = agent.to_owned();
        let body = match kind {
            fact::Kind::Verdict(verdict) => return self.on_verdict(agent, verdict, observed, seen),
            fact::Kind::Claim(claim) => Body::ClaimMade(journal::ClaimMade {
                progress: claim.progress.filter(|p| p.is_finite()).map(|p| p.clamp(0.0, 1.0)),
                text: cut(claim.text),
                waiting_for: cut(claim.waiting_for),
                // What the plan does not know cannot be claimed.
                deliverables: claim
                    .deliverables
                    .into_iter()
                    .filter(|(name, share)| share.is_finite() && self.owes(&agent, name))
                    .map(|(name, share)| (name, share.clamp(0.0, 1.0)))
                    .collect(),
                made_ms: observed,
                agent,
            }),
            fact::Kind::AgentSeen(alive) => Body::AgentSeen(journal::AgentSeen {
                agent,
                incarnation: alive.incarnation,
                root: alive.root.map(process),
                launched: alive.launched,
                seen_ms: observed,
            }),
            // One that nobody ever saw has not ended.
            fact::Kind::AgentExited(_) if self.state.agents[&agent].seen.is_none() => return,
            // Facts come in order: it is the one that is thought to be alive, however a sidecar counts that lost its state.
            fact::Kind::AgentExited(exit) => Body::AgentExited(journal::AgentExited {
                incarnation: exit.incarnation.max(self.state.agents[&agent].incarnation()),
                agent,
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
            fact::Kind::Pressure(pressure) => self.pressure(agent, pressure, observed),
            // A resource of a newer protocol than this one.
            fact::Kind::Quota(quota) if !super::policy::has_quotas(quota.resource()) => return,
            // What is no number was not measured.
            fact::Kind::Quota(quota) if !(quota.limit.is_finite() && quota.used.is_finite()) => return,
            fact::Kind::EffectMeasured(effect)
                if !(effect.asked.is_finite() && effect.measured.is_none_or(f64::is_finite)) =>
            {
                return;
            }
            // Of a service that the plan does not have: nothing that a peer sends may add names of its own.
            fact::Kind::Quota(quota) if !self.names(&agent, &quota.named) => return,
            fact::Kind::QuotaActed(_)
            | fact::Kind::Restart(_)
            | fact::Kind::ProcessReturned(_)
            | fact::Kind::OutOfMemory(_)
            | fact::Kind::Health(_) => return self.on_policy_fact(agent, kind, observed),
            fact::Kind::Quota(quota) => Body::Quota(journal::Quota {
                agent,
                exceeded: quota.exceeded,
                resource: quota.resource,
                limit: quota.limit,
                used: quota.used,
                process: quota.process.map(process),
                process_used: if quota.process_used.is_finite() { quota.process_used } else { 0.0 },
                since_ms: observed - Millis::from(quota.above_for_ms),
                named: quota.named,
                soft: quota.soft,
            }),
            fact::Kind::Activity(activity) => self.activity(agent, activity, observed),
            fact::Kind::Lease(lease) => Body::Lease(journal::Lease {
                agent,
                command: cut(lease.command),
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
                command: cut(effect.command),
                resource: effect.resource,
                asked: effect.asked,
                // Older sidecars do not tell a measured 0 from none, but over which time.
                measured: effect.measured.or((effect.over_ms > 0).then_some(0.0)),
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

    fn owes(&self, agent: &str, deliverable: &str) -> bool {
        self.state.plan.agents.get(agent).is_some_and(|spec| spec.deliverables.contains_key(deliverable))
    }

    /// Changes on a deliverable of another generation belong to none now.
    fn activity(&self, agent: String, activity: v1::ActivityFact, observed: Millis) -> Body {
        let mut deliverables: BTreeMap<String, u32> = BTreeMap::new();
        let mut unattributed = activity.unattributed;
        for one in activity.deliverables {
            if self.owes(&agent, &one.deliverable) {
                let count = deliverables.entry(one.deliverable).or_default();
                *count = count.saturating_add(one.changes);
            } else {
                unattributed = unattributed.saturating_add(one.changes);
            }
        }
        Body::Activity(journal::Activity {
            agent,
            observed_ms: observed,
            window_ms: activity.window_ms,
            deliverables,
            unattributed,
            examples: activity.examples.into_iter().take(EXAMPLES_MAX).map(cut).collect(),
        })
    }

    fn on_verdict(&mut self, agent: String, verdict: v1::VerdictFact, observed: Millis, seen: Millis) {
        let id = DeliverableId::new(&agent, &verdict.deliverable);
        let known = self.state.deliverables.get(&id).and_then(|d| d.checks.get(&verdict.check_id));
        // Of a rule that another generation had: it proves nothing now. Counted, not kept.
        let Some(known) = known.filter(|check| check.digest == verdict.check_digest) else {
            self.foreign_verdicts += 1;
            return;
        };
        // Only what passed can be inside its hysteresis; what had grown stale, be it told or not (this process may have stood
        // still), is not green once more because it fails.
        let fresh =
            !(known.stale || self.has_grown_stale(&id, &verdict.check_id)) || mutant!("failing-makes-stale-green");
        let passed = known.verdict.as_ref().is_some_and(|v| v.outcome == Outcome::Passed as i32);
        let counts = fresh && (passed || known.failing_since.is_some());
        let failing = verdict.failing && verdict.outcome() == Outcome::Failed && counts;
        // What was confirmed of another outcome says nothing of this one, which may be older.
        let changed = known.verdict.as_ref().is_some_and(|v| v.outcome != verdict.outcome);
        let evidence = verdict.evidence.unwrap_or_default();
        let check = verdict.check_id.clone();
        self.emit(Body::Verdict(journal::Verdict {
            agent,
            deliverable: verdict.deliverable,
            check_id: verdict.check_id,
            check_digest: verdict.check_digest,
            outcome: verdict.outcome,
            failing,
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
        if changed && !mutant!("confirmed-by-another-outcome") {
            self.unconfirm(&id, &check);
        }
        // Evidence of before the agent came into the plan is as old as it is.
        self.confirm(id, &check, if mutant!("added-makes-evidence-fresh") { observed } else { seen });
    }
}

pub(super) fn process(identity: v1::ProcessIdentity) -> journal::Process {
    journal::Process { pid: identity.pid, start_ticks: identity.start_ticks, name: cut(identity.name) }
}

/// At most [`TEXT_MAX`] bytes, without control characters other than the line's end.
pub(super) fn cut(text: String) -> String {
    let end = text.floor_char_boundary(TEXT_MAX);
    text[..end].chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
