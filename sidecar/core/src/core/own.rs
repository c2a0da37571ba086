//! What the sidecar does by itself, with the orchestrator there or not: a use that stays above a hard limit is throttled,
//! its largest process killed, the agent frozen or restarted, as the plan says. Each act is in the state file before its
//! effect, has an id of its own, and is told with what came of it; what cannot be done here is told once, with the reason.
//! Nothing is done while this sidecar only observes, or stops.
//!
//! A throttle is a lease of the sidecar's own: renewed for as long as it is wanted, so that it lapses with a sidecar that
//! hangs. How acts go on is in `acts`, restarts in `relaunch`.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::{
    state::{self, ActKind, LeaseOrigin, record::Body},
    v1::{self, OnExceed, Resource, command_spec, fact::Kind},
};

use super::{
    Core,
    acting::{Fitness, identity, process},
};
use crate::{
    clock,
    health::Health,
    io::{Now, Sample},
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
/// As long as a lease may say; it ends when the use stays below, or with the plan.
const HOLDS_MS: u32 = 7 * 24 * 3_600_000;
/// Nothing of a frozen agent runs: never for long.
const FREEZE_MS: u32 = 5_000;
/// Command lines that are remembered, and the bytes of each.
const LINES_MAX: usize = 4_096;
const LINE_BYTES: usize = 4_096;

/// What this process of the sidecar knows of its own policy besides what is kept.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub remedies: Remedies,
    pub health: Health,
    returns: Returns,
    oom: Oom,
    lines: Lines,
    pub disk_bytes: Option<u64>,
    /// The agent's end, where no plan was there to say what follows from it.
    pub ended: Option<v1::AgentExited>,
    /// The latest sample, for what happens in between.
    last: Sample,
    /// When each act's record is durable.
    pub tickets: BTreeMap<String, Ticket>,
    /// Acts of which an effect is under way.
    pub acting: BTreeSet<String>,
    /// Begun by an earlier life, and not taken up yet.
    pub recovered: BTreeSet<String>,
    /// Why the lease of an act is over.
    pub closed: BTreeMap<String, String>,
}

impl Own {
    pub fn recovered(kept: &Kept, now: Now, boot_id: &str) -> Self {
        let mut own = Self { recovered: kept.acts.keys().cloned().collect(), ..Self::default() };
        for act in kept.acts.values() {
            let decided = act.decided.clone().unwrap_or_default();
            own.remedies.acted(clock::on_this_boot(now, boot_id, &decided), &target_of(act));
        }
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

pub(super) fn target_of(act: &state::Act) -> Target {
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
        let (Some(plan), own) = (self.kept.plan.as_ref(), &mut self.own) else { return };
        own.returns.killed(self.now.boot_ms, plan, victim, &own.last, &own.lines);
    }

    /// Quotas, named processes and out-of-memory kills; the use of each named process. Once a sample: the plan is looked
    /// at where it lies.
    pub(super) fn sampled_by_policy(&mut self, sample: &Sample) -> Vec<v1::NamedUsage> {
        let (now, none) = (self.now.boot_ms, v1::AgentPlan::default());
        let plan = self.kept.plan.as_ref().unwrap_or(&none);
        let own = &mut self.own;
        let mut scopes = vec![Scope { disk_bytes: own.disk_bytes, ..Scope::agent(sample, &plan.quotas) }];
        scopes.extend(plan.processes.iter().map(|spec| named::scope(spec, sample, &own.lines)));
        let mut facts: Vec<Kind> = self.quotas.sampled(now, &scopes).into_iter().map(Kind::Quota).collect();
        let returned = own.returns.sampled(now, plan, sample, &own.lines);
        facts.extend(returned.into_iter().map(Kind::ProcessReturned));
        facts.extend(own.oom.sampled(now, sample).map(Kind::OutOfMemory));
        let in_hand: BTreeSet<Target> = self.kept.acts.values().map(target_of).collect();
        let due = own.remedies.sampled(now, &scopes, |target| in_hand.contains(target)).into_iter();
        let due = due.map(|due| {
            let victim = victim(&due, plan, &scopes, &own.lines);
            (due, victim)
        });
        let due: Vec<_> = due.collect();
        let usage = scopes[1..].iter().map(|s| v1::NamedUsage { name: s.named.into(), usage: Some(s.usage) });
        let usage = usage.collect();
        if !plan.processes.is_empty() {
            own.last = sample.clone();
        }
        facts.into_iter().for_each(|fact| {
            self.tell(fact);
        });
        for (due, victim) in due {
            if self.acts_by_itself() {
                self.remedy(due, victim);
            }
        }
        self.release_calm();
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
