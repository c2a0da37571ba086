//! Acts of the sidecar's own policy on their way: each once its record is durable, told with what came of it, and taken up
//! by the next life where this one dies. Leases are renewed while they are wanted. What is decided is in `own`.
use pitwall_proto::{
    state::{self, ActKind, ActStep},
    v1::{self, LeaseState, OnExceed, fact::Kind},
};

use super::{
    Core,
    acting::{Purpose, failure, identity, shown},
    own::target_of,
};
use crate::{
    clock,
    io::{Action, Effect, EffectOutcome, Observation},
    named,
    quota::Target,
    spool::Topic,
};

const RENEW_EVERY_MS: u64 = 10_000;
const KILL_GRACE_MS: u32 = 2_000;
/// What was decided begins within this, or not at all.
const ACT_WITHIN_MS: u64 = 30_000;

impl Core {
    /// Told once for the same reason, until something else came of it.
    pub(super) fn tell_acted(&mut self, act: &state::Act, done: bool, detail: &str) {
        let before = match self.told(&Topic::Acted(target_of(act))) {
            Some(Kind::QuotaActed(before)) => Some((before.done, before.detail.clone())),
            _ => None,
        };
        if !done && before.is_some_and(|(was_done, why)| !was_done && why == detail) {
            return;
        }
        self.tell(Kind::QuotaActed(v1::QuotaActed {
            id: act.id.clone(),
            resource: act.resource,
            action: act.action,
            named: act.named.clone(),
            used: act.used,
            limit: act.limit,
            process: act.process.as_ref().map(identity),
            process_used: act.process_used,
            done,
            detail: detail.into(),
        }));
    }

    /// Own leases go on while they are wanted, and end when the use has stayed below.
    pub(super) fn release_calm(&mut self) {
        let now = self.now.boot_ms;
        let held =
            self.kept.acts.values().filter(|a| a.kind() == ActKind::Lease && a.action == OnExceed::Throttle as i32);
        for act in held.cloned().collect::<Vec<_>>() {
            let target = target_of(&act);
            let Some(lease) = self.kept.leases.get(&act.id).cloned() else { continue };
            let for_ms = self.kept.plan.as_ref().map_or(0, |plan| for_of(plan, &target));
            if self.own.remedies.is_calm(now, &target, for_ms) {
                self.own.remedies.acted(now, &target);
                self.end_lease(&act.id, LeaseState::Ended, "the use has stayed below the quota");
            } else if self.acts_by_itself() {
                let renewed = lease.renewed.as_ref().map_or(0, |at| at.boot_ms);
                if now.saturating_sub(renewed) >= RENEW_EVERY_MS {
                    self.renewed(std::slice::from_ref(&act.id));
                }
            }
        }
    }

    pub(super) fn own_lease_closed(&mut self, id: &str, detail: &str) {
        if self.kept.acts.contains_key(id) {
            self.own.closed.insert(id.into(), detail.into());
        }
    }

    pub(super) fn is_act_durable(&self, id: &str) -> bool {
        self.own.tickets.get(id).is_none_or(|ticket| self.store.is_durable(*ticket))
    }

    pub(super) fn settle_own(&mut self) {
        if self.stop.is_none() {
            let plan = self.kept.plan.as_ref().map_or(&[][..], |p| &p.health);
            let (probes, gone) = self.own.health.start_due(self.now.boot_ms, plan);
            for check in probes {
                self.out.push(Action::Probe { deliverable: String::new(), check: Box::new(check) });
            }
            gone.into_iter().for_each(|fact| {
                self.tell(Kind::Health(fact));
            });
        }
        for act in self.kept.acts.values().cloned().collect::<Vec<_>>() {
            if self.own.acting.contains(&act.id) || !self.is_act_durable(&act.id) {
                continue;
            }
            match act.kind() {
                ActKind::Lease => self.settle_lease(act),
                ActKind::Kill if self.acts_by_itself() => self.settle_kill(&act),
                ActKind::Restart if self.acts_by_itself() => self.settle_restart(act),
                ActKind::Kill | ActKind::Restart => {}
                ActKind::Unspecified => self.end_act(&act.id),
            }
        }
    }

    fn settle_lease(&mut self, mut act: state::Act) {
        let held = act.step() == ActStep::Held;
        match self.kept.leases.get(&act.id).map(|l| l.told) {
            Some(true) if !held => {
                act.set_step(ActStep::Held);
                self.tell_acted(&act, true, "");
                self.keep_act(act);
            }
            Some(_) => {}
            None => {
                if !held {
                    let why = self.own.closed.get(&act.id).cloned();
                    let why = why.unwrap_or_else(|| "its limit ended before it was in effect".into());
                    self.tell_acted(&act, false, &why);
                }
                self.own.remedies.acted(self.now.boot_ms, &target_of(&act));
                self.end_act(&act.id);
            }
        }
    }

    /// Decided by a sidecar that ended, or was only observing since.
    pub(super) fn is_too_old(&self, act: &state::Act) -> bool {
        let decided = act.decided.clone().unwrap_or_default();
        let (age, other_boot) = clock::age(self.now, &self.boot_id, &decided);
        other_boot || age > ACT_WITHIN_MS + act.after_ms
    }

    fn settle_kill(&mut self, act: &state::Act) {
        let Some(target) = act.process.as_ref().map(identity) else { return self.end_act(&act.id) };
        if self.is_too_old(act) {
            self.tell_acted(act, false, "it was decided too long ago: whether it is still wanted is judged anew");
            return self.end_act(&act.id);
        }
        if self.own.recovered.contains(&act.id) {
            // Whether it is still there is seen first.
            let Some(alive) = &self.work.alive else { return };
            if !alive.contains(&named::id(&target)) {
                self.tell_acted(act, true, &format!("{} was gone when the sidecar came back", shown(&target)));
                self.tell(Kind::ProcessGone(v1::ProcessGone { process: Some(target) }));
                self.own.remedies.acted(self.now.boot_ms, &target_of(act));
                return self.end_act(&act.id);
            }
            self.own.recovered.remove(&act.id);
        }
        self.own.acting.insert(act.id.clone());
        self.act(Purpose::Own(act.id.clone()), Effect::Kill { process: target, grace_ms: KILL_GRACE_MS, tree: false });
    }

    pub(super) fn own_done(&mut self, id: &str, outcome: EffectOutcome) {
        self.own.acting.remove(id);
        let Some(act) = self.kept.acts.get(id).cloned() else { return };
        if act.kind() == ActKind::Restart {
            return self.restart_done(act, outcome);
        }
        match (outcome, act.process.as_ref().map(identity)) {
            (EffectOutcome::Ok { detail }, Some(victim)) => {
                self.watch_for_return(&victim);
                self.tell_acted(&act, true, &detail);
                self.tell(Kind::ProcessGone(v1::ProcessGone { process: Some(victim) }));
            }
            (other, _) => self.tell_acted(&act, false, &failure(other)),
        }
        // The cooldown counts from when it was done.
        self.own.remedies.acted(self.now.boot_ms, &target_of(&act));
        self.end_act(id);
    }

    pub(super) fn health_observed(&mut self, observation: &Observation) {
        let plan = self.kept.plan.as_ref().map_or(&[][..], |p| &p.health);
        let Some(change) = self.own.health.observed(self.now.boot_ms, plan, observation) else { return };
        let told = matches!(self.told(&Topic::Health(change.fact.name.clone())),
            Some(Kind::Health(before)) if before.healthy == change.fact.healthy);
        if !told {
            self.tell(Kind::Health(change.fact.clone()));
        }
        if change.restart && self.acts_by_itself() {
            let why = format!("Its health check {} failed: {}.", change.fact.name, change.fact.detail);
            if let Err(why) = self.want_restart(&why) {
                self.log(true, format!("{} is unhealthy, and the agent is not restarted: {why}", change.fact.name));
            }
        }
    }

    pub(super) fn own_deadline(&self) -> Option<u64> {
        let health = self.own.health.deadline().filter(|_| self.stop.is_none());
        health.into_iter().chain(self.relaunch_deadline().filter(|_| self.acts_by_itself())).min()
    }
}

/// How long a quota of the plan must be exceeded; 0 where it is gone.
fn for_of(plan: &v1::AgentPlan, target: &Target) -> u64 {
    let of_agent = plan.quotas.iter().map(|q| ("", q));
    let of_named = plan.processes.iter().flat_map(|n| n.quotas.iter().map(|q| (n.name.as_str(), q)));
    let mut all = of_agent.chain(of_named);
    all.find(|(named, q)| Target::of(named, q) == *target).map_or(0, |(_, q)| u64::from(q.for_ms))
}
