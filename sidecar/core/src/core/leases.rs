//! Who wants the agent held, and until when: at `until`, or where nobody renews, after its time to live; never longer,
//! whatever is restarted in between. What really holds it is the one limit (see `limit`), the strictest of all leases.
use pitwall_proto::{
    mutant,
    state::{self, LeaseOrigin, record::Body},
    v1::{self, CommandState, LeaseState, Resource, fact::Kind},
};

use super::{Core, commands::is_terminal};
use crate::{clock, io::Sample, kept::Stated as _};

const TTL_MS: u32 = 60_000;
/// How long the agent's use is measured before a limit is said to hold.
const MEASURE_MS: u64 = 2_000;
/// Without samples for so long, the result says that it was not measured.
const MEASURE_WITHIN_MS: u64 = 15_000;
/// A limit may take so long to bite.
const SETTLE_MS: u64 = 100;
/// It holds when the use is at most so much above what was asked.
const TOLERANCE: f64 = 1.15;
const TOLERANCE_CORES: f64 = 0.03;

/// What the agent used while it was held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    since: u64,
    core_ms: f64,
    over_ms: u64,
}

impl Core {
    pub(super) fn begin_lease(&mut self, id: &str, throttle: &v1::Throttle) {
        self.supersede_leases(id);
        let started = clock::moment(self.now, &self.boot_id);
        self.record(Body::Lease(state::Lease {
            command: id.into(),
            origin: LeaseOrigin::Orchestrator as i32,
            cpu_cores: throttle.cpu_cores,
            started: Some(started.clone()),
            for_ms: throttle.for_ms,
            ttl_ms: if throttle.ttl_ms == 0 { TTL_MS } else { throttle.ttl_ms },
            renewed: Some(started),
            told: false,
            ..Default::default()
        }));
    }

    /// Same origin, same agent, same resource: the newer takes the place of the older.
    fn supersede_leases(&mut self, by: &str) {
        let older = self.kept.leases.values().filter(|l| l.origin() == LeaseOrigin::Orchestrator && l.command != by);
        for id in older.map(|l| l.command.clone()).filter(|_| !mutant!("superseded-still-runs")).collect::<Vec<_>>() {
            let why = format!("{by} took its place");
            self.step(&id, CommandState::Superseded, why.clone());
            self.close_lease(&id, LeaseState::Ended, &why);
        }
    }

    /// When it ends by itself, how, and why.
    fn end_of(&self, lease: &state::Lease) -> (u64, LeaseState, String) {
        let now = self.now.boot_ms;
        let moments = (lease.started.as_ref(), lease.renewed.as_ref());
        let (Some(started), Some(renewed)) = moments else {
            return (now, LeaseState::Ended, "without a time".into());
        };
        if started.boot_id != self.boot_id || renewed.boot_id != self.boot_id {
            return (now, LeaseState::Ended, "the host was restarted".into());
        }
        let passed = u64::try_from(self.now.wall_ms - started.wall_ms).unwrap_or(0);
        let on_wall = now.saturating_sub(passed) + u64::from(lease.for_ms);
        let until =
            if mutant!("lease-on-the-wall-clock") { on_wall } else { started.boot_ms + u64::from(lease.for_ms) };
        let lapse = if mutant!("lapse-ignored") { until } else { renewed.boot_ms + u64::from(lease.ttl_ms) };
        if until <= lapse {
            (until, LeaseState::Ended, format!("its time of {} is over", seconds(lease.for_ms.into())))
        } else {
            (lapse, LeaseState::Lapsed, format!("it was not renewed for {}", seconds(lease.ttl_ms.into())))
        }
    }

    /// Leases that still hold: not at their end, and nobody has ended them.
    pub(super) fn live_leases(&self) -> impl Iterator<Item = &state::Lease> {
        let now = self.now.boot_ms;
        self.kept.leases.values().filter(move |l| !self.limit.is_ending(&l.command) && self.end_of(l).0 > now)
    }

    /// What is wanted in all: the strictest.
    pub(super) fn wanted(&self) -> Option<f64> {
        self.live_leases().map(|l| l.cpu_cores).min_by(f64::total_cmp)
    }

    pub(super) fn leases_deadline(&self) -> Option<u64> {
        self.kept.leases.values().filter(|l| !self.limit.is_ending(&l.command)).map(|l| self.end_of(l).0).min()
    }

    pub(super) fn pass_leases(&mut self) {
        let now = self.now.boot_ms;
        let due = self.kept.leases.values().filter(|l| !self.limit.is_ending(&l.command));
        let due: Vec<_> = due.map(|l| (l.command.clone(), self.end_of(l))).filter(|(_, end)| end.0 <= now).collect();
        for (id, (_, state, why)) in due {
            self.end_lease(&id, state, &why);
        }
    }

    /// It is not wanted any more. Told when it is undone.
    pub(super) fn end_lease(&mut self, id: &str, state: LeaseState, why: &str) {
        if self.kept.leases.contains_key(id) {
            self.limit.end(id, state, why);
        }
    }

    /// It does not hold any more.
    pub(super) fn close_lease(&mut self, id: &str, state: LeaseState, detail: &str) {
        let Some(lease) = self.kept.leases.get(id) else { return };
        // An older state does not know that a newer one told of it.
        let inherited = lease.started.as_ref().is_some_and(|at| at.boot_ms < self.work.born);
        let was_told = lease.told || (inherited && !mutant!("lease-of-an-older-state-ends-untold"));
        self.limit.forget(id);
        self.limit.measures.remove(id);
        self.record(Body::LeaseEnded(state::LeaseEnded { command: id.into() }));
        if was_told {
            self.tell_lease(id, state, detail);
        }
        self.own_lease_closed(id, detail);
        let open = self.kept.commands.get(id).is_some_and(|c| !is_terminal(c.state()));
        if open {
            let (to, detail) = match state {
                LeaseState::Ended if was_told => {
                    (CommandState::Succeeded, format!("held, and undone before its use was measured: {detail}"))
                }
                _ => (CommandState::Failed, detail.to_owned()),
            };
            self.step(id, to, detail);
        }
    }

    pub(super) fn tell_lease(&mut self, id: &str, state: LeaseState, detail: &str) {
        self.tell(Kind::Lease(v1::LeaseFact { command: id.into(), state: state as i32, detail: detail.into() }));
    }

    /// The limit is in effect: the leases that wait for it hold from now on.
    pub(super) fn leases_in_effect(&mut self, detail: &str) {
        let waiting = self.live_leases().filter(|l| !l.told);
        for lease in waiting.cloned().collect::<Vec<_>>() {
            let id = lease.command.clone();
            self.record(Body::Lease(state::Lease { told: true, ..lease }));
            self.tell_lease(&id, LeaseState::Active, detail);
            self.step(&id, CommandState::Running, detail.to_owned());
            self.measure_from_now(&id);
        }
    }

    pub(super) fn measure_from_now(&mut self, id: &str) {
        let since = self.now.boot_ms + SETTLE_MS;
        self.limit.measures.insert(id.into(), Measure { since, core_ms: 0.0, over_ms: 0 });
    }

    pub(super) fn renewed(&mut self, ids: &[String]) {
        let renewed = clock::moment(self.now, &self.boot_id);
        for id in ids {
            // One that has ended is not brought back.
            let live = self.live_leases().find(|l| l.command == *id).cloned();
            if let Some(lease) = live {
                self.record(Body::Lease(state::Lease { renewed: Some(renewed.clone()), ..lease }));
            }
        }
    }

    /// A throttle's result is what was measured.
    pub(super) fn measured(&mut self, sample: &Sample) {
        let now = self.now.boot_ms;
        let began = now.saturating_sub(u64::from(sample.interval_ms));
        // Nothing of the agent runs: it uses nothing.
        let used =
            if sample.root.is_none() && sample.processes.is_empty() { Some(0.0) } else { sample.agent.cpu_cores };
        for (id, mut measure) in self.limit.measures.clone() {
            if let Some(cores) = used.filter(|_| began >= measure.since && sample.interval_ms > 0) {
                measure.core_ms += cores * f64::from(sample.interval_ms);
                measure.over_ms += u64::from(sample.interval_ms);
            }
            self.limit.measures.insert(id.clone(), measure);
            if measure.over_ms >= MEASURE_MS {
                self.limit.measures.remove(&id);
                self.conclude(&id, measure);
            }
        }
        self.pass_measures();
    }

    fn conclude(&mut self, id: &str, measure: Measure) {
        let Some(lease) = self.kept.leases.get(id) else { return };
        let asked = lease.cpu_cores;
        let measured = measure.core_ms / measure.over_ms as f64;
        let holds = measured <= asked * TOLERANCE + TOLERANCE_CORES;
        self.tell(Kind::EffectMeasured(v1::EffectMeasured {
            command: id.into(),
            resource: Resource::Cpu as i32,
            asked,
            measured,
            over_ms: u32::try_from(measure.over_ms).unwrap_or(u32::MAX),
            held: holds,
        }));
        let detail = format!("asked {asked:.2}, measured {measured:.2} over {}", seconds(measure.over_ms));
        if holds {
            self.step(id, CommandState::Succeeded, detail);
        } else {
            let detail = format!("{detail}: the limit does not hold, it is undone");
            self.step(id, CommandState::Failed, detail.clone());
            self.end_lease(id, LeaseState::Ended, &detail);
        }
    }

    fn pass_measures(&mut self) {
        let now = self.now.boot_ms;
        let over = self.limit.measures.iter().filter(|(_, m)| now >= m.since + MEASURE_WITHIN_MS);
        for id in over.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.limit.measures.remove(&id);
            let detail = "the limit is in effect; the agent's use could not be measured".to_owned();
            self.step(&id, CommandState::Succeeded, detail);
        }
    }

    /// Its lease does the work; without one there is nothing left to wait for.
    pub(super) fn proceed_throttle(&mut self, id: &str) {
        self.work.recovered.remove(id);
        self.work.begun.insert(id.into());
        let Some(lease) = self.kept.leases.get(id) else {
            return self.step(id, CommandState::Failed, "its limit ended before it was measured".into());
        };
        // Held by an earlier life, and not measured yet.
        if lease.told && self.limit.is_in_effect(&self.kept) && !self.limit.measures.contains_key(id) {
            self.measure_from_now(id);
        }
    }

    pub(super) fn proceed_unthrottle(&mut self, command: &state::Command) {
        let id = &command.id;
        self.work.recovered.remove(id);
        if self.work.begun.insert(id.clone()) {
            let targets: Vec<String> = self
                .kept
                .leases
                .values()
                .filter(|l| l.origin() == LeaseOrigin::Orchestrator)
                .filter(|l| self.kept.commands.get(&l.command).is_none_or(|c| c.cursor < command.cursor))
                .map(|l| l.command.clone())
                .collect();
            for target in &targets {
                let why = format!("{id} asked for it");
                self.step(target, CommandState::Cancelled, why.clone());
                self.end_lease(target, LeaseState::Ended, &why);
            }
            self.limit.unthrottles.insert(id.clone(), targets);
        }
        let targets = self.limit.unthrottles.get(id).cloned().unwrap_or_default();
        if targets.iter().all(|t| !self.kept.leases.contains_key(t)) {
            self.limit.unthrottles.remove(id);
            let detail = match targets.as_slice() {
                [] => "no throttle was in effect".to_owned(),
                ended => format!("undone: {}", ended.join(", ")),
            };
            self.step(id, CommandState::Succeeded, detail);
        }
    }

    /// An open throttle whose limit could not be brought about.
    pub(super) fn leases_refused(&mut self, why: &str) {
        let waiting: Vec<String> = self.kept.leases.values().filter(|l| !l.told).map(|l| l.command.clone()).collect();
        for id in waiting {
            self.close_lease(&id, LeaseState::Ended, why);
        }
    }
}

fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { format!("{} s", ms / 1_000) } else { format!("{:.1} s", ms as f64 / 1_000.0) }
}
