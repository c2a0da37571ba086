//! What the sidecar does by itself, with the orchestrator there or not: a use that stays above a hard limit is throttled,
//! its largest process killed, the agent frozen or restarted, as the plan says. Each act is in the state file before its
//! effect, has an id of its own, and is told with what came of it; what cannot be done here is told once, with the reason.
//! Nothing is done while this sidecar only observes, or stops.
//!
//! A throttle is a lease of the sidecar's own: renewed for as long as it is wanted, so that it lapses with a sidecar that
//! hangs. Restarts are in `relaunch`.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::{
    state::{self, ActKind, ActStep, LeaseOrigin, record::Body},
    v1::{self, LeaseState, OnExceed, Resource, command_spec, fact::Kind},
};

use super::{
    Core,
    acting::{Fitness, Purpose, failure, identity, process, shown},
};
use crate::{
    clock,
    health::Health,
    io::{Action, Effect, EffectOutcome, Now, Observation, Sample},
    kept::Kept,
    named::{self, Lines, Returns},
    oom::Oom,
    quota::{self, Scope, Target},
    remedy::{Due, Remedies},
    spool::Topic,
    store::Ticket,
};

/// Not renewed for so long, an own lease lapses.
const TTL_MS: u32 = 30_000;
const RENEW_EVERY_MS: u64 = 10_000;
/// As long as a lease may say; it ends when the use stays below, or with the plan.
const HOLDS_MS: u32 = 7 * 24 * 3_600_000;
/// Nothing of a frozen agent runs: never for long.
const FREEZE_MS: u32 = 5_000;
const KILL_GRACE_MS: u32 = 2_000;
/// Command lines that are remembered, and the bytes of each.
const LINES_MAX: usize = 4_096;
const LINE_BYTES: usize = 4_096;

/// What this process of the sidecar knows of its own policy besides what is kept.
#[derive(Debug, Default)]
pub(super) struct Own {
    remedies: Remedies,
    pub health: Health,
    returns: Returns,
    oom: Oom,
    lines: Lines,
    pub disk_bytes: Option<u64>,
    /// The latest sample, for what happens in between.
    last: Sample,
    /// When each act's record is durable.
    tickets: BTreeMap<String, Ticket>,
    /// Acts of which an effect is under way.
    pub acting: BTreeSet<String>,
    /// Begun by an earlier life, and not taken up yet.
    pub recovered: BTreeSet<String>,
    /// Why the lease of an act is over.
    closed: BTreeMap<String, String>,
}

impl Own {
    pub fn recovered(kept: &Kept, now: Now, boot_id: &str) -> Self {
        let mut own = Self { recovered: kept.acts.keys().cloned().collect(), ..Self::default() };
        for (topic, fact) in kept.spool.all_told() {
            match (topic, &fact.kind) {
                (Topic::Acted(target), _) => {
                    own.remedies.acted(clock::on_this_boot(now, boot_id, &fact.at), target);
                }
                (Topic::Health(_), Kind::Health(health)) => own.health.told_before([health]),
                _ => {}
            }
        }
        own
    }
}

fn target_of(act: &state::Act) -> Target {
    Target { named: act.named.clone(), resource: act.resource, soft: false }
}

fn word(resource: Resource) -> &'static str {
    match resource {
        Resource::Cpu => "cpu",
        Resource::Memory => "memory",
        Resource::Pids => "pids",
        Resource::Disk => "disk",
        Resource::GpuMemory => "gpu-memory",
        Resource::Io
        | Resource::CpuWeight
        | Resource::Freeze
        | Resource::GpuPower
        | Resource::GpuClock
        | Resource::Unspecified => "use",
    }
}

impl Core {
    fn plan_part(&self) -> v1::AgentPlan {
        self.kept.plan.clone().unwrap_or_default()
    }

    /// May this sidecar do anything by itself?
    pub(super) fn acts_by_itself(&self) -> bool {
        self.stop.is_none() && !self.only_observes() && self.starts_agent_at_once()
    }

    /// An id that no other act of this sidecar has or had.
    pub(super) fn next_act(&mut self, prefix: &str) -> String {
        let policy = state::OwnPolicy { last_act: self.kept.policy.last_act + 1, ..self.kept.policy.clone() };
        let id = format!("{prefix}-{}", policy.last_act);
        self.record(Body::OwnPolicy(policy));
        id
    }

    pub(super) fn keep_act(&mut self, act: state::Act) {
        let id = act.id.clone();
        let ticket = self.record(Body::Act(act));
        self.own.tickets.insert(id, ticket);
    }

    pub(super) fn end_act(&mut self, id: &str) {
        self.own.tickets.remove(id);
        self.own.acting.remove(id);
        self.own.recovered.remove(id);
        self.own.closed.remove(id);
        self.record(Body::ActEnded(state::ActEnded { id: id.into() }));
    }

    /// Of what an earlier process had begun by itself nothing is gone on with. Leases end by themselves.
    pub(super) fn forget_acts(&mut self) {
        for id in self.own.recovered.clone() {
            if self.kept.acts.get(&id).is_some_and(|act| act.kind() != ActKind::Lease) {
                self.end_act(&id);
            }
        }
    }

    pub(super) fn command_lines(&mut self, lines: Vec<(v1::ProcessIdentity, String)>) {
        self.own.lines = lines
            .into_iter()
            .take(LINES_MAX)
            .map(|(process, mut line)| {
                line.truncate(line.floor_char_boundary(LINE_BYTES));
                (named::id(&process), line)
            })
            .collect();
    }

    /// A process was killed that may come back.
    pub(super) fn watch_for_return(&mut self, victim: &v1::ProcessIdentity) {
        let plan = self.plan_part();
        let own = &mut self.own;
        own.returns.killed(self.now.boot_ms, &plan, victim, &own.last, &own.lines);
    }

    /// Quotas, named processes and out-of-memory kills; the use of each named process.
    pub(super) fn sampled_by_policy(&mut self, sample: &Sample) -> Vec<v1::NamedUsage> {
        let (now, plan) = (self.now.boot_ms, self.plan_part());
        let lines = std::mem::take(&mut self.own.lines);
        let mut scopes = vec![Scope { disk_bytes: self.own.disk_bytes, ..Scope::agent(sample, &plan.quotas) }];
        scopes.extend(plan.processes.iter().map(|spec| named::scope(spec, sample, &lines)));
        for fact in self.quotas.sampled(now, &scopes) {
            self.tell(Kind::Quota(fact));
        }
        for fact in self.own.returns.sampled(now, &plan, sample, &lines) {
            self.tell(Kind::ProcessReturned(fact));
        }
        if let Some(fact) = self.own.oom.sampled(now, sample) {
            self.tell(Kind::OutOfMemory(fact));
        }
        let in_hand: BTreeSet<Target> = self.kept.acts.values().map(target_of).collect();
        let due = self.own.remedies.sampled(now, &scopes, |target| in_hand.contains(target));
        let usage = scopes[1..].iter().map(|s| v1::NamedUsage { name: s.named.into(), usage: Some(s.usage) });
        let usage = usage.collect();
        let due: Vec<_> = due
            .into_iter()
            .map(|due| {
                let victim = victim(&due, &plan, &scopes, &lines);
                (due, victim)
            })
            .collect();
        self.own.lines = lines;
        self.own.last = sample.clone();
        for (due, victim) in due {
            if self.acts_by_itself() {
                self.remedy(due, victim);
            }
        }
        self.release_calm(&plan);
        self.budget_passed(sample);
        usage
    }

    fn remedy(&mut self, due: Due, victim: Option<(v1::ProcessIdentity, f64)>) {
        let (now, resource) = (self.now.boot_ms, due.quota.resource());
        self.own.remedies.acted(now, &due.target);
        let mut act = state::Act {
            resource: due.target.resource,
            action: due.quota.on_exceed,
            named: due.target.named.clone(),
            used: due.used,
            limit: due.quota.limit,
            process: victim.as_ref().map(|(p, _)| process(p)),
            process_used: victim.as_ref().map_or(0.0, |(_, used)| *used),
            decided: Some(clock::moment(self.now, &self.boot_id)),
            ..Default::default()
        };
        let prefix = format!("quota-{}", word(resource));
        match due.quota.on_exceed() {
            OnExceed::Throttle | OnExceed::Freeze => self.lease_of(act, &due, &prefix),
            OnExceed::KillProcess => match (self.can("kill"), act.process.is_some()) {
                (Err(why), _) => self.tell_acted(&act, false, &why),
                (Ok(()), false) => self.tell_acted(&act, false, "no process of it may be killed: all are protected"),
                (Ok(()), true) => {
                    act.id = self.next_act(&prefix);
                    act.set_kind(ActKind::Kill);
                    self.keep_act(act);
                }
            },
            OnExceed::Restart => {
                let amounts = format!("{} of {}", amount(resource, due.used), amount(resource, due.quota.limit));
                let seconds = f64::from(due.quota.for_ms) / 1_000.0;
                let why = format!("It used {amounts} ({}) for {seconds:.0} s or longer.", word(resource));
                match self.want_restart(&why) {
                    Ok(detail) => self.tell_acted(&act, true, &detail),
                    Err(why) => self.tell_acted(&act, false, &why),
                }
            }
            OnExceed::Unspecified | OnExceed::Warn => {}
        }
    }

    fn lease_of(&mut self, mut act: state::Act, due: &Due, prefix: &str) {
        let freeze = due.quota.on_exceed() == OnExceed::Freeze;
        let (resource, amount) = if freeze { (Resource::Freeze, 1.0) } else { (due.quota.resource(), due.quota.limit) };
        let of = if due.target.named.is_empty() { None } else { act.process.as_ref().map(identity) };
        let (for_ms, cpu_cores) =
            (if freeze { FREEZE_MS } else { HOLDS_MS }, if resource == Resource::Cpu { amount } else { 0.0 });
        let throttle = v1::Throttle {
            cpu_cores,
            for_ms,
            ttl_ms: TTL_MS,
            resource: resource as i32,
            amount,
            process: of.clone(),
            via: String::new(),
        };
        if let Fitness::Never(why) = self.fitness(&command_spec::Kind::Throttle(throttle)) {
            return self.tell_acted(&act, false, &why);
        }
        if !due.target.named.is_empty() && of.is_none() {
            return self.tell_acted(&act, false, "no process of it is known");
        }
        act.id = self.next_act(prefix);
        act.set_kind(ActKind::Lease);
        let started = act.decided.clone();
        self.keep_act(act.clone());
        self.record(Body::Lease(state::Lease {
            command: act.id,
            origin: LeaseOrigin::Quota as i32,
            cpu_cores,
            started: started.clone(),
            for_ms,
            ttl_ms: TTL_MS,
            renewed: started,
            told: false,
            resource: resource as i32,
            amount,
            process: of.as_ref().map(process),
            via: String::new(),
        }));
    }

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
    fn release_calm(&mut self, plan: &v1::AgentPlan) {
        let now = self.now.boot_ms;
        let held =
            self.kept.acts.values().filter(|a| a.kind() == ActKind::Lease && a.action == OnExceed::Throttle as i32);
        for act in held.cloned().collect::<Vec<_>>() {
            let target = target_of(&act);
            let Some(lease) = self.kept.leases.get(&act.id).cloned() else { continue };
            let for_ms = for_of(plan, &target);
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
        let plan = self.kept.plan.as_ref().map_or(&[][..], |p| &p.health).to_vec();
        if self.stop.is_none() {
            let (probes, gone) = self.own.health.start_due(self.now.boot_ms, &plan);
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

    fn settle_kill(&mut self, act: &state::Act) {
        let Some(target) = act.process.as_ref().map(identity) else { return self.end_act(&act.id) };
        if self.own.recovered.contains(&act.id) {
            // Whether it is still there is seen first.
            let Some(alive) = &self.work.alive else { return };
            if !alive.contains(&named::id(&target)) {
                self.tell_acted(act, true, &format!("{} was gone when the sidecar came back", shown(&target)));
                self.tell(Kind::ProcessGone(v1::ProcessGone { process: Some(target) }));
                return self.end_act(&act.id);
            }
            self.own.recovered.remove(&act.id);
        }
        self.own.acting.insert(act.id.clone());
        self.act(Purpose::Own(act.id.clone()), Effect::Kill { process: target, grace_ms: KILL_GRACE_MS });
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
        let plan = self.kept.plan.as_ref().map_or(&[][..], |p| &p.health).to_vec();
        let Some(change) = self.own.health.observed(self.now.boot_ms, &plan, observation) else { return };
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

/// The largest process that may be killed for this, or, of a named process, that is held.
fn victim(due: &Due, plan: &v1::AgentPlan, scopes: &[Scope<'_>], lines: &Lines) -> Option<(v1::ProcessIdentity, f64)> {
    let scope = scopes.iter().find(|s| s.named == due.target.named)?;
    let kill = due.quota.on_exceed() == OnExceed::KillProcess;
    let spared = |p: &v1::ProcessUsage| {
        kill && p.identity.as_ref().is_none_or(|identity| named::is_protected(plan, identity, lines))
    };
    quota::largest(due.quota.resource(), scope.processes.iter().copied().filter(|p| !spared(p)))
}

/// As people read it.
fn amount(resource: Resource, value: f64) -> String {
    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
    match resource {
        Resource::Cpu => format!("{value:.2} cores"),
        Resource::Memory | Resource::Disk | Resource::GpuMemory if value >= GIB => format!("{:.1} GiB", value / GIB),
        Resource::Memory | Resource::Disk | Resource::GpuMemory => format!("{:.0} MiB", value / GIB * 1024.0),
        _ => format!("{value:.0}"),
    }
}
