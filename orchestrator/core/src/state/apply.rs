//! One event applied. No decision is made here: what an event says is so.
mod commands;
mod leases;

use std::collections::BTreeMap;

use pitwall_proto::{
    journal::{self, event::Body},
    v1,
};

use super::{
    ActivityBucket, AgentState, CLOSED_FINDINGS_KEPT, CheckState, ClaimState, DeliverableState, Exit, FindingState,
    PressureState, Promise, QuotaKey, QuotaState, RestoredState, Seen, SidecarState, State,
};
use crate::{
    io::Millis,
    plan::{DeliverableId, Plan},
    text,
};

/// Buckets of file activity that are kept of one agent, whatever its windows: a peer may send many.
const ACTIVITY_KEPT: usize = 2_000;

impl State {
    pub fn apply(&mut self, event: &journal::Event) {
        self.sequence = event.sequence;
        self.at = self.at.max(event.at_ms);
        let at = self.at;
        let Some(body) = &event.body else { return };
        match body {
            Body::PlanApplied(e) => self.apply_plan(e, at),
            Body::SidecarConnected(e) => self.with_agent(&e.agent, |a| {
                let (status, since) = a.sidecar.as_ref().map_or((v1::SidecarStatus::Live, at), |s| (s.status, s.since));
                a.sidecar = Some(SidecarState { connected: e.clone(), status, since });
                // It came from another place than the one that was chosen, and was let in: that one was lost.
                let over = |adopted: &mut journal::SidecarAdopted| {
                    let chosen = adopted.chosen.as_ref().map_or("", |twin| twin.place.as_str());
                    let known = !chosen.is_empty() && !e.place.is_empty();
                    adopted.instance == e.instance && known && chosen != e.place
                };
                a.adopted.take_if(over);
            }),
            Body::SidecarLiveness(e) => self.with_agent(&e.agent, |a| {
                if let Some(sidecar) = &mut a.sidecar {
                    sidecar.status = v1::SidecarStatus::try_from(e.status).unwrap_or_default();
                    sidecar.since = at;
                }
            }),
            Body::FactsAccepted(e) => self.with_agent(&e.agent, |a| {
                a.set_fact_acked(&e.instance, e.seq);
            }),
            Body::Verdict(e) => self.apply_verdict(e),
            Body::Staleness(e) => {
                if let Some(check) = self.check_mut(&e.agent, &e.deliverable, &e.check_id) {
                    check.stale = e.stale;
                }
            }
            Body::ClaimMade(e) => self.with_agent(&e.agent, |a| {
                a.waiting_since = (!e.waiting_for.is_empty()).then_some(e.made_ms);
                a.claim = Some(ClaimState {
                    made: e.made_ms,
                    progress: e.progress,
                    text: e.text.clone(),
                    waiting_for: e.waiting_for.clone(),
                    deliverables: e.deliverables.clone(),
                });
            }),
            Body::AgentSeen(e) => self.apply_seen(e),
            Body::AgentExited(e) => self.with_agent(&e.agent, |a| {
                if e.incarnation >= a.incarnation() {
                    a.exited = Some(Exit { at: e.exited_ms, code: e.exit_code, signal: e.signal });
                    // What it left on the disk is still there.
                    a.quotas.retain(|key, _| key.resource == v1::Resource::Disk as i32);
                    a.pressure = None;
                }
            }),
            Body::AgentMotion(e) => self.with_agent(&e.agent, |a| a.quiet_since = e.quiet.then_some(e.since_ms)),
            Body::AgentLooping(e) => self.with_agent(&e.agent, |a| a.looping_since = e.looping.then_some(e.since_ms)),
            Body::Pressure(e) => self.with_agent(&e.agent, |a| {
                a.pressure = e.on.then(|| PressureState {
                    since: e.since_ms,
                    what: e.what.clone(),
                    process: e.process.clone(),
                    by_agent: e.by_agent.clone(),
                });
            }),
            Body::HostPressure(e) if e.on => {
                self.host_pressures.insert(e.boot_id.clone(), e.clone());
            }
            Body::HostPressure(e) => {
                self.host_pressures.remove(&e.boot_id);
            }
            Body::Quota(e) => self.with_agent(&e.agent, |a| {
                if e.exceeded {
                    let quota = QuotaState {
                        since: e.since_ms,
                        limit: e.limit,
                        used: e.used,
                        process: e.process.clone(),
                        process_used: e.process_used,
                    };
                    a.quotas.insert(quota_key(e), quota);
                } else {
                    a.quotas.remove(&quota_key(e));
                }
            }),
            Body::QuotaActed(e) => self.with_agent(&e.agent, |a| {
                a.acted.insert(super::parts::acted_key(e), e.clone());
            }),
            Body::Restart(e) => self.with_agent(&e.agent, |a| match v1::RestartState::try_from(e.state) {
                Ok(v1::RestartState::GaveUp) => a.gave_up = Some(e.clone()),
                Ok(v1::RestartState::Reset | v1::RestartState::Done) => a.gave_up = None,
                Ok(_) | Err(_) => {}
            }),
            Body::ProcessReturned(_) => {}
            Body::OutOfMemory(e) => self.with_agent(&e.agent, |a| a.out_of_memory = Some(e.clone())),
            Body::Health(e) => self.with_agent(&e.agent, |a| {
                if e.healthy {
                    a.unhealthy.remove(&e.name);
                } else {
                    a.unhealthy.insert(e.name.clone(), e.clone());
                }
            }),
            Body::Activity(e) => self.apply_activity(e),
            Body::Lease(e) => self.apply_lease(e, at),
            Body::ProcessGone(e) => self.apply_process_gone(e),
            Body::EffectMeasured(e) => {
                if let Some(command) = self.commands.get_mut(&e.command)
                    && command.issued.agent == e.agent
                    && e.held
                    && command.awaits_effect()
                {
                    command.effect = Some((e.observed_ms, text::effect(e)));
                }
            }
            Body::FactsDropped(e) => self.with_agent(&e.agent, |a| {
                a.dropped = Some((at, a.dropped.map_or(0, |(_, n)| n).saturating_add(e.count)));
            }),
            Body::Workspace(e) => self.with_agent(&e.agent, |a| {
                a.workspace_absent = (!e.present).then(|| (at, e.reason.clone()));
            }),
            Body::CommandIssued(e) => self.apply_issued(e, at),
            Body::CommandStep(e) => self.apply_step(e, at),
            Body::CancelRequested(e) => {
                if let Some(command) = self.commands.get_mut(&e.id) {
                    command.cancel_requested = true;
                }
            }
            Body::AgentStatusChanged(e) => self.with_agent(&e.agent, |a| {
                a.status_reason.clone_from(&e.reason);
                if e.from != e.to {
                    a.since = at;
                }
                a.status = v1::AgentStatus::try_from(e.to).unwrap_or_default();
            }),
            Body::DeliverableStatusChanged(e) => self.apply_deliverable_status(e, at),
            Body::WaitChanged(e) => {
                if let Some(d) = self.deliverables.get_mut(&DeliverableId::new(&e.agent, &e.deliverable)) {
                    d.waited_since = e.waited_for.then_some(at);
                }
            }
            Body::FindingOpened(e) => {
                self.next_finding = e.id.saturating_add(1);
                self.findings.insert(e.id, FindingState { opened: e.clone(), opened_at: at, closed_at: None });
            }
            Body::FindingUpdated(e) => {
                if let Some(finding) = self.findings.get_mut(&e.id) {
                    let opened = &mut finding.opened;
                    opened.message.clone_from(&e.message);
                    opened.next.clone_from(&e.next);
                    opened.process.clone_from(&e.process);
                    (opened.used, opened.limit) = (e.used, e.limit);
                }
            }
            Body::FindingClosed(e) => {
                if let Some(mut finding) = self.findings.remove(&e.id) {
                    finding.closed_at = Some(at);
                    self.closed_findings.push_front(finding);
                    self.closed_findings.truncate(CLOSED_FINDINGS_KEPT);
                }
            }
            Body::InterventionDecided(e) => {
                if let Some(command) = self.commands.get_mut(&e.command) {
                    command.outcome = v1::InterventionOutcome::try_from(e.outcome).unwrap_or_default();
                    command.decided = true;
                    if let Some(effect) = e.effect_ms {
                        command.effect = Some((effect, e.evidence.clone()));
                    }
                }
            }
            Body::DeadlinePassed(_) => {}
            Body::InstanceRefused(e) => {
                self.with_agent(&e.agent, |a| a.refused = Some((at, e.instance.clone())));
            }
            Body::TokenMisused(e) => {
                self.with_agent(&e.agent, |a| a.token_misused = Some((at, e.token.clone())));
            }
            Body::SidecarCloned(e) => self.with_agent(&e.agent, |a| {
                a.cloned = Some((at, e.clone()));
                a.adopted = None;
            }),
            Body::SidecarAdopted(e) => self.with_agent(&e.agent, |a| {
                a.cloned = None;
                a.adopted = Some(e.clone());
            }),
            Body::MassLoss(e) => self.mass_loss = e.on.then(|| (at, e.reason.clone())),
            Body::Restored(e) => {
                let known = |(name, agent): (&String, &AgentState)| agent.sidecar.is_some().then(|| name.clone());
                let waiting = self.agents.iter().filter_map(known).collect();
                self.next_cursor = self.next_cursor.max(e.next_cursor);
                self.restored = Some(RestoredState { restored: e.clone(), at, waiting });
            }
            Body::SidecarResynced(e) => {
                if let Some(restored) = &mut self.restored {
                    restored.waiting.remove(&e.agent);
                }
            }
        }
    }

    fn with_agent(&mut self, name: &str, change: impl FnOnce(&mut AgentState)) {
        if let Some(agent) = self.agents.get_mut(name) {
            change(agent);
        }
    }

    fn check_mut(&mut self, agent: &str, deliverable: &str, check: &str) -> Option<&mut CheckState> {
        self.deliverables.get_mut(&DeliverableId::new(agent, deliverable))?.checks.get_mut(check)
    }

    fn apply_plan(&mut self, event: &journal::PlanApplied, at: Millis) {
        let Ok(plan) = serde_json::from_str::<Plan>(&event.resolved_json) else { return };
        self.generation = event.generation;
        self.resolved_json.clone_from(&event.resolved_json);
        self.source_yaml.clone_from(&event.source_yaml);
        if let Some(restored) = &mut self.restored {
            restored.waiting.retain(|name| plan.agents.contains_key(name));
        }
        self.agents.retain(|name, _| plan.agents.contains_key(name));
        for (name, spec) in &plan.agents {
            if let Some(agent) = self.agents.get_mut(name) {
                let has = |key: &QuotaKey| key.named.is_empty() || spec.processes.contains_key(&key.named);
                agent.quotas.retain(|key, _| has(key));
                agent.acted.retain(|key, _| has(key));
                agent.unhealthy.retain(|check, _| spec.health.contains_key(check));
            }
            self.agents.entry(name.clone()).or_insert_with(|| AgentState::new(at));
        }
        let mut kept = std::mem::take(&mut self.deliverables);
        for (id, spec) in plan.deliverables() {
            let mut state = kept.remove(&id).unwrap_or_else(|| DeliverableState::new(at));
            let mut old = std::mem::take(&mut state.checks);
            for check in &spec.checks {
                let before = old.remove(&check.id);
                let known = before.is_some();
                let same = before.filter(|c| c.digest == check.digest);
                let fresh = CheckState {
                    digest: check.digest.clone(),
                    added: at,
                    replaced: known,
                    verdict: None,
                    passed_once: false,
                    failing_since: None,
                    stale: false,
                };
                state.checks.insert(check.id.clone(), same.unwrap_or(fresh));
            }
            self.deliverables.insert(id, state);
        }
        self.plan = plan;
        // Nobody renews the leases of an agent that left: they undo themselves.
        let gone: Vec<String> = self
            .leased_commands()
            .filter(|c| !self.agents.contains_key(&c.issued.agent))
            .map(|c| c.issued.id.clone())
            .collect();
        for id in gone {
            self.end_lease(&id, at, "the agent left the plan");
        }
    }

    fn apply_verdict(&mut self, event: &journal::Verdict) {
        let id = DeliverableId::new(&event.agent, &event.deliverable);
        let Some(deliverable) = self.deliverables.get_mut(&id) else { return };
        let Some(check) = deliverable.checks.get_mut(&event.check_id) else { return };
        if check.digest != event.check_digest {
            return;
        }
        check.failing_since = match (event.failing, check.failing_since) {
            (true, Some(since)) => Some(since),
            (true, None) => Some(event.observed_ms),
            (false, _) => None,
        };
        let changed = check.verdict.as_ref().is_none_or(|before| evidence_moved(before, event));
        let first = check.verdict.is_none();
        check.verdict = Some(event.clone());
        check.stale = false;
        let passed = event.outcome == v1::Outcome::Passed as i32;
        check.passed_once |= passed;
        deliverable.ever_passed |= passed;
        if changed && !first {
            self.moved(&event.agent, event.observed_ms);
        }
    }

    /// A file or evidence change, at the earliest at this moment: if it said before that it waits for a person, it
    /// no longer does.
    fn moved(&mut self, agent: &str, at: Millis) {
        self.with_agent(agent, |a| a.waiting_since = a.waiting_since.filter(|since| *since > at));
    }

    fn apply_seen(&mut self, event: &journal::AgentSeen) {
        self.with_agent(&event.agent, |a| {
            a.seen = Some(Seen {
                incarnation: event.incarnation,
                root: event.root.clone().unwrap_or_default(),
                at: event.seen_ms,
                launched: event.launched,
            });
            a.exited = None;
            a.quiet_since = None;
            a.looping_since = None;
            a.waiting_since = None;
        });
        for command in self.commands.values_mut().filter(|c| c.issued.agent == event.agent && c.awaits_effect()) {
            let hit = match command.promise() {
                Promise::Seen => true,
                Promise::Reborn { after_incarnation } => event.incarnation > after_incarnation,
                Promise::Verified(_) | Promise::ProcessGone(_) | Promise::Held { .. } | Promise::Nothing => false,
            };
            if hit {
                command.effect = Some((event.seen_ms, format!("seen as incarnation {}", event.incarnation)));
            }
        }
    }

    fn apply_activity(&mut self, event: &journal::Activity) {
        for (name, changes) in &event.deliverables {
            if *changes > 0
                && let Some(d) = self.deliverables.get_mut(&DeliverableId::new(&event.agent, name))
            {
                d.touched = true;
            }
        }
        let reach = self.plan.agents.get(&event.agent).map_or(0, |a| a.windows.misdirected_after_ms) as i64;
        let at = self.at;
        self.with_agent(&event.agent, |a| {
            a.activity.push_back(ActivityBucket {
                at: event.observed_ms,
                deliverables: event.deliverables.clone(),
                unattributed: event.unattributed,
                examples: event.examples.clone(),
            });
            // One window beyond what a rule can look at: a shorter plan window must not lose the past.
            while a.activity.len() > ACTIVITY_KEPT || a.activity.front().is_some_and(|b| b.at + 2 * reach < at) {
                a.activity.pop_front();
            }
        });
        self.moved(&event.agent, event.observed_ms - Millis::from(event.window_ms));
    }

    fn apply_process_gone(&mut self, event: &journal::ProcessGone) {
        let Some(gone) = &event.process else { return };
        for command in self.commands.values_mut().filter(|c| c.issued.agent == event.agent && c.awaits_effect()) {
            if let Promise::ProcessGone(target) = command.promise()
                && target.pid == gone.pid
                && target.start_ticks == gone.start_ticks
            {
                command.effect = Some((event.observed_ms, format!("pid {} is gone", gone.pid)));
            }
        }
    }

    fn apply_deliverable_status(&mut self, event: &journal::DeliverableStatusChanged, at: Millis) {
        let id = DeliverableId::new(&event.agent, &event.deliverable);
        let Some(d) = self.deliverables.get_mut(&id) else { return };
        let was = std::mem::replace(&mut d.status, v1::DeliverableStatus::try_from(event.to).unwrap_or_default());
        d.since = at;
        if d.status != v1::DeliverableStatus::Verified {
            if was == v1::DeliverableStatus::Verified {
                d.unverified_at = Some(at);
            }
            return;
        }
        d.was_verified = true;
        d.verified_at = Some(at);
        for command in self.commands.values_mut().filter(|c| c.awaits_effect()) {
            if command.promise() == Promise::Verified(id.clone()) {
                command.effect = Some((at, format!("{id} verified")));
            }
        }
    }
}

impl DeliverableState {
    pub fn new(added: Millis) -> Self {
        Self {
            added,
            checks: BTreeMap::new(),
            touched: false,
            ever_passed: false,
            status: v1::DeliverableStatus::Unspecified,
            since: added,
            was_verified: false,
            verified_at: None,
            unverified_at: None,
            waited_since: None,
        }
    }
}

fn quota_key(quota: &journal::Quota) -> QuotaKey {
    QuotaKey { named: quota.named.clone(), resource: quota.resource, soft: quota.soft }
}

fn evidence_moved(before: &journal::Verdict, now: &journal::Verdict) -> bool {
    let (Some(a), Some(b)) = (&before.evidence, &now.evidence) else { return true };
    before.outcome != now.outcome
        || a.digest != b.digest
        || a.size_bytes != b.size_bytes
        || a.http_status != b.http_status
        || a.files != b.files
}
