//! What was seen of the agent, given to the machine that judges it; their answers become facts.
use pitwall_proto::{
    state::{self, record::Body},
    v1::{self, check::Rule, connect_request, fact::Kind},
};
use prost::Message as _;

use super::Core;
use crate::{
    activity::Paths,
    clock,
    io::{Action, Now, Observation, Sample},
    kept::Kept,
    motion::{self, Motion},
    presence::{self, Presence},
    pressure::Pressure,
    quota::Quotas,
    readings,
    spool::Topic,
};

const STALL_AFTER_MS: u64 = 300_000;
const ACTIVITY_EVERY_MS: u64 = 10_000;
const TEXT_BYTES: usize = 1_000;
const CLAIMS_MAX: usize = 1_000;

/// As an earlier life told it.
pub(super) fn presence(kept: &Kept, boot_id: &str) -> Presence {
    let seen = kept.spool.told(&Topic::Seen).and_then(|f| match &f.kind {
        Kind::AgentSeen(seen) => Some((seen, f.at.boot_id == boot_id)),
        _ => None,
    });
    let exited = kept.spool.told(&Topic::Exited).and_then(|f| match &f.kind {
        Kind::AgentExited(exited) => Some(exited),
        _ => None,
    });
    Presence::new(seen, exited)
}

pub(super) fn told_before(kept: &Kept, now: Now, boot_id: &str) -> (Motion, Quotas, Pressure) {
    let told = |topic: &Topic| kept.spool.told(topic).map(|f| &f.kind);
    let quiet = matches!(told(&Topic::Motion), Some(Kind::AgentMotion(m)) if m.quiet);
    let looping = matches!(told(&Topic::Looping), Some(Kind::AgentLooping(l)) if l.looping);
    let pressed = matches!(told(&Topic::Pressure), Some(Kind::Pressure(p)) if p.on);
    let mut quotas = Quotas::default();
    quotas.told_before(kept.spool.all_told().filter_map(|(_, f)| match &f.kind {
        Kind::Quota(quota) => Some((clock::on_this_boot(now, boot_id, &f.at), quota)),
        _ => None,
    }));
    (Motion::new(quiet, looping), quotas, Pressure::new(pressed))
}

impl Core {
    fn windows(&self) -> v1::Windows {
        self.kept.plan.as_ref().and_then(|p| p.windows).unwrap_or_default()
    }

    fn stall_after(&self) -> u64 {
        match self.windows().stall_after_ms {
            0 => STALL_AFTER_MS,
            ms => u64::from(ms),
        }
    }

    pub(super) fn activity_every(&self) -> u64 {
        match self.windows().activity_every_ms {
            0 => ACTIVITY_EVERY_MS,
            ms => u64::from(ms),
        }
    }

    /// A part of the plan from the orchestrator; the one held already changes nothing.
    pub(super) fn plan(&mut self, part: v1::AgentPlan) {
        if self.kept.plan.as_ref() == Some(&part) {
            return;
        }
        if part.agent != self.identity.agent && !part.agent.is_empty() {
            let text =
                format!("a plan for agent {} came to the sidecar of {}: ignored", part.agent, self.identity.agent);
            return self.log(true, text);
        }
        if self.kept.plan.as_ref().is_some_and(|held| held.generation > part.generation) && !self.link.resynced() {
            return self.log(false, format!("plan generation {} is older than the one held: ignored", part.generation));
        }
        self.record(Body::Plan(state::Plan { part: part.encode_to_vec() }));
        self.adopt();
    }

    /// Works from the part of the plan that is kept.
    pub(super) fn adopt(&mut self) {
        self.refresh_checks();
        if let Some(plan) = self.kept.plan.clone() {
            self.paths = Paths::of(&plan);
            self.out.push(Action::Adopt { plan: Box::new(plan) });
            self.look_back_at_end();
        }
    }

    /// What was told last of each check is in the spool.
    pub(super) fn refresh_checks(&mut self) {
        let (now, boot_id, spool) = (self.now, &self.boot_id, &self.kept.spool);
        let Some(plan) = &self.kept.plan else { return };
        self.checks.adopt(now.boot_ms, plan, |(deliverable, check)| {
            let topic = Topic::Verdict { deliverable: deliverable.clone(), check: check.clone() };
            let fact = spool.told(&topic)?;
            let Kind::Verdict(verdict) = &fact.kind else { return None };
            Some((clock::on_this_boot(now, boot_id, &fact.at), fact.seq, verdict))
        });
    }

    pub(super) fn settle_watch(&mut self) {
        let every = self.activity_every();
        if let Some(fact) = self.activity.due(self.now.boot_ms, every) {
            self.tell(Kind::Activity(fact));
        }
        if self.stop.is_none() {
            for (deliverable, check) in self.checks.start_due(self.now.boot_ms) {
                self.out.push(Action::Probe { deliverable, check: Box::new(check) });
            }
        }
    }

    pub(super) fn observed(&mut self, observation: Observation) {
        let now = self.now.boot_ms;
        if observation.deliverable.is_empty() {
            return self.health_observed(&observation);
        }
        let Some(verdict) = self.checks.observed(now, observation) else { return };
        let seq = self.tell(Kind::Verdict(verdict.clone()));
        self.checks.told(now, &verdict, seq);
        let changes = self.motion.evidence_changed(now);
        self.motion_changed(changes);
    }

    pub(super) fn files_changed(&mut self, paths: &[String], more: u32) {
        let now = self.now.boot_ms;
        if paths.is_empty() && more == 0 {
            return;
        }
        self.activity.changed(now, &self.paths, paths, more);
        for path in paths {
            for (deliverable, check) in self.paths.checks_of(path) {
                self.checks.hint(now, &(deliverable.to_owned(), check.to_owned()));
            }
        }
        if more > 0 {
            // Which ones is not known: all that look at files.
            self.hint_files();
        }
        let changes = self.motion.file_event(now);
        self.motion_changed(changes);
    }

    fn hint_files(&mut self) {
        self.checks.hint_kind(self.now.boot_ms, |rule| matches!(rule, Rule::File(_) | Rule::Directory(_)));
    }

    pub(super) fn workspace(&mut self, present: bool, mut reason: String) {
        reason.truncate(reason.floor_char_boundary(TEXT_BYTES));
        let fact = Kind::Workspace(v1::WorkspaceFact { present, reason });
        let before = self.told(&Topic::Workspace);
        let was_present = !matches!(before, Some(Kind::Workspace(w)) if !w.present);
        // Present is what everybody expects: told only after it was absent.
        if before == Some(&fact) || (before.is_none() && present) {
            return;
        }
        self.tell(fact);
        if was_present != present {
            self.hint_files();
        }
    }

    pub(super) fn claim(&mut self, claim: Result<v1::Claim, String>) {
        match claim {
            Ok(claim) => {
                self.claim_error.clear();
                let fact = Kind::Claim(bounded(claim));
                if self.told(&Topic::Claim) != Some(&fact) {
                    self.tell(fact);
                }
            }
            Err(why) => {
                if self.claim_error != why {
                    self.log(false, format!("the agent's claim cannot be read, the one before stands: {why}"));
                    self.claim_error = why;
                }
            }
        }
    }

    pub(super) fn sampled(&mut self, sample: &Sample) {
        let now = self.now.boot_ms;
        let change = self.presence.sampled(sample.root.as_ref(), self.launches());
        self.presence_changed(change);
        let stall_after = self.stall_after();
        let interval = u64::from(sample.interval_ms);
        let changes = self.motion.sampled(now, interval, sample.agent.cpu_cores, stall_after);
        self.motion_changed(changes);
        let named = self.sampled_by_policy(sample);
        if let Some(fact) = self.pressure.sampled(now, sample, stall_after) {
            self.tell(Kind::Pressure(fact));
        }
        self.measured(sample);
        self.look_for_killed(sample);
        let (every, now) = (self.heartbeat_every(), self.now.boot_ms);
        if self.link.is_welcomed()
            && let Some(session) = self.link.stream().map(|s| s.session)
            && self.readings.is_due(session, now, sample, every)
        {
            self.send(connect_request::Body::Readings(v1::Readings { named, ..readings::of(sample) }));
        }
    }

    pub(super) fn presence_changed(&mut self, change: Option<presence::Change>) {
        let now = self.now.boot_ms;
        match change {
            None => return,
            Some(presence::Change::Known) => {
                self.own.health.lives(Some(now));
                let changes = self.motion.began(now, false);
                self.motion_changed(changes);
            }
            Some(presence::Change::Seen(seen)) => {
                self.tell(Kind::AgentSeen(seen));
                self.own.health.lives(Some(now));
                let changes = self.motion.began(now, true);
                self.motion_changed(changes);
                // Where a limit was written may be another place now.
                self.limits.look_again();
            }
            Some(presence::Change::Exited(exited)) => {
                self.tell(Kind::AgentExited(exited));
                self.own.health.lives(None);
                self.ended_by_itself(&exited);
                let changes = self.motion.ended();
                self.motion_changed(changes);
            }
        }
        self.checks.hint_kind(now, |rule| matches!(rule, Rule::Process(_)));
    }

    fn motion_changed(&mut self, changes: Vec<motion::Change>) {
        for change in changes {
            self.tell(match change {
                motion::Change::Quiet(quiet) => Kind::AgentMotion(v1::AgentMotion { quiet }),
                motion::Change::Looping(looping) => Kind::AgentLooping(v1::AgentLooping { looping }),
            });
        }
    }
}

/// An agent writes its claim itself: nothing of it may grow without bound, nor be no number.
fn bounded(mut claim: v1::Claim) -> v1::Claim {
    claim.text.truncate(claim.text.floor_char_boundary(TEXT_BYTES));
    claim.waiting_for.truncate(claim.waiting_for.floor_char_boundary(TEXT_BYTES));
    claim.progress = claim.progress.filter(|p| p.is_finite()).map(|p| p.clamp(0.0, 1.0));
    let deliverables = std::mem::take(&mut claim.deliverables).into_iter();
    claim.deliverables = deliverables
        .filter(|(name, share)| name.len() <= TEXT_BYTES && share.is_finite())
        .take(CLAIMS_MAX)
        .map(|(name, share)| (name, share.clamp(0.0, 1.0)))
        .collect();
    claim
}
