//! Who wants the agent held, and until when: at `until`, or where nobody renews, after its time to live; never longer,
//! whatever is restarted in between. What really holds it is the limit of the slot (see `limit`), the strictest of its
//! leases.
use std::collections::BTreeMap;

use pitwall_proto::{
    mutant,
    state::{self, LeaseOrigin, record::Body},
    throttle,
    v1::{self, CommandState, LeaseState, Resource, fact::Kind},
};

use super::{Core, acting::process, commands::is_terminal, proof::seconds, slots::Want};
use crate::{
    clock,
    kept::Stated as _,
    slot::{SlotKey, amount_of},
};

const TTL_MS: u32 = 60_000;

impl Core {
    pub(super) fn begin_lease(&mut self, id: &str, throttle: &v1::Throttle) {
        let meant = throttle::meant(throttle);
        self.supersede_leases(id, SlotKey::of_throttle(throttle));
        let started = clock::moment(self.now, &self.boot_id);
        self.record(Body::Lease(state::Lease {
            command: id.into(),
            origin: LeaseOrigin::Orchestrator as i32,
            cpu_cores: if meant.resource == Resource::Cpu { meant.amount } else { 0.0 },
            started: Some(started.clone()),
            for_ms: throttle.for_ms,
            ttl_ms: if throttle.ttl_ms == 0 { TTL_MS } else { throttle.ttl_ms },
            renewed: Some(started),
            told: false,
            resource: meant.resource as i32,
            amount: meant.amount,
            process: throttle.process.as_ref().map(process),
            via: throttle.via.clone(),
        }));
    }

    /// Same origin, same target, same resource: the newer takes the place of the older, by whatever rung.
    fn supersede_leases(&mut self, by: &str, key: SlotKey) {
        let older = self
            .kept
            .leases
            .values()
            .filter(|l| l.origin() == LeaseOrigin::Orchestrator && l.command != by && SlotKey::of_lease(l) == key);
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
        // What stands still by a sidecar's will does not for longer than that sidecar is there.
        if SlotKey::of_lease(lease).resource() == Resource::Freeze && started.boot_ms < self.work.born {
            return (now, LeaseState::Ended, "a freeze ends with its sidecar, which was started again".into());
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
        self.kept.leases.values().filter(move |l| !self.limits.is_ending(&l.command) && self.end_of(l).0 > now)
    }

    /// What is wanted of a slot in all: the strictest, for every resource the smallest amount. Of equal ones that which
    /// names a rung.
    pub(super) fn wanted(&self, key: SlotKey) -> Option<Want> {
        let of_slot = self.live_leases().filter(|l| SlotKey::of_lease(l) == key);
        let rank = |l: &state::Lease| (l.via.is_empty(), l.via.clone());
        let strictest =
            of_slot.min_by(|a, b| amount_of(a).total_cmp(&amount_of(b)).then_with(|| rank(a).cmp(&rank(b))))?;
        let (via, process) = (strictest.via.clone(), strictest.process.clone());
        Some(Want { amount: amount_of(strictest), via, process })
    }

    pub(super) fn leases_deadline(&self) -> Option<u64> {
        self.kept.leases.values().filter(|l| !self.limits.is_ending(&l.command)).map(|l| self.end_of(l).0).min()
    }

    pub(super) fn pass_leases(&mut self) {
        let now = self.now.boot_ms;
        let due = self.kept.leases.values().filter(|l| !self.limits.is_ending(&l.command));
        let due: Vec<_> = due.map(|l| (l.command.clone(), self.end_of(l))).filter(|(_, end)| end.0 <= now).collect();
        for (id, (_, state, why)) in due {
            self.end_lease(&id, state, &why);
        }
    }

    /// It is not wanted any more. Told when it is undone.
    pub(super) fn end_lease(&mut self, id: &str, state: LeaseState, why: &str) {
        if self.kept.leases.contains_key(id) {
            self.limits.end(id, state, why);
        }
    }

    /// It does not hold any more.
    pub(super) fn close_lease(&mut self, id: &str, state: LeaseState, detail: &str) {
        let Some(lease) = self.kept.leases.get(id) else { return };
        // An older state does not know that a newer one told of it.
        let inherited = lease.started.as_ref().is_some_and(|at| at.boot_ms < self.work.born);
        let was_told = lease.told || (inherited && !mutant!("lease-of-an-older-state-ends-untold"));
        self.limits.forget(id);
        self.limits.proofs.remove(id);
        self.record(Body::LeaseEnded(state::LeaseEnded { command: id.into() }));
        if was_told {
            self.tell_lease(id, state, detail);
        }
        self.own_lease_closed(id, detail);
        let open = self.kept.commands.get(id).is_some_and(|c| !is_terminal(c.state()));
        if open {
            let (to, detail) = match state {
                LeaseState::Ended if was_told => {
                    (CommandState::Succeeded, format!("held, and undone before that was shown: {detail}"))
                }
                _ => (CommandState::Failed, detail.to_owned()),
            };
            self.step(id, to, detail);
        }
    }

    pub(super) fn tell_lease(&mut self, id: &str, state: LeaseState, detail: &str) {
        self.tell(Kind::Lease(v1::LeaseFact { command: id.into(), state: state as i32, detail: detail.into() }));
    }

    /// The limit of a slot is in effect: the leases that wait for it, and for no stricter one, hold from now on.
    pub(super) fn leases_in_effect(&mut self, key: SlotKey, detail: &str) {
        let Some(held) = self.kept.limits.get(&key).and_then(|l| l.hold.as_ref()).map(|h| h.amount) else { return };
        let waiting = self.live_leases().filter(|l| !l.told && SlotKey::of_lease(l) == key && held <= amount_of(l));
        for lease in waiting.cloned().collect::<Vec<_>>() {
            let id = lease.command.clone();
            self.record(Body::Lease(state::Lease { told: true, ..lease }));
            self.tell_lease(&id, LeaseState::Active, detail);
            self.step(&id, CommandState::Running, detail.to_owned());
            self.prove_from_now(&id);
        }
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

    /// Its lease does the work; without one there is nothing left to wait for.
    pub(super) fn proceed_throttle(&mut self, id: &str) {
        self.work.recovered.remove(id);
        self.work.begun.insert(id.into());
        let Some(lease) = self.kept.leases.get(id) else {
            return self.step(id, CommandState::Failed, "its limit ended before it was seen to hold".into());
        };
        // Held by an earlier life, and not seen to hold yet.
        let in_effect = lease.told && self.limits.is_in_effect(&self.kept, SlotKey::of_lease(lease));
        if in_effect && !self.limits.proofs.contains_key(id) {
            self.prove_from_now(id);
        }
    }

    pub(super) fn proceed_unthrottle(&mut self, command: &state::Command, unthrottle: &v1::Unthrottle) {
        let id = &command.id;
        let all = unthrottle.resource == Resource::Unspecified as i32;
        self.work.recovered.remove(id);
        if self.work.begun.insert(id.clone()) {
            let targets: Vec<String> = self
                .kept
                .leases
                .values()
                .filter(|l| l.origin() == LeaseOrigin::Orchestrator)
                .filter(|l| all || SlotKey::of_lease(l).resource == unthrottle.resource)
                .filter(|l| self.kept.commands.get(&l.command).is_none_or(|c| c.cursor < command.cursor))
                .map(|l| l.command.clone())
                .collect();
            for target in &targets {
                let why = format!("{id} asked for it");
                self.step(target, CommandState::Cancelled, why.clone());
                self.end_lease(target, LeaseState::Ended, &why);
            }
            self.limits.unthrottles.insert(id.clone(), targets);
        }
        let targets = self.limits.unthrottles.get(id).cloned().unwrap_or_default();
        if targets.iter().all(|t| !self.kept.leases.contains_key(t)) {
            self.limits.unthrottles.remove(id);
            let detail = match targets.as_slice() {
                [] if all => "no throttle was in effect".to_owned(),
                [] => format!("no throttle of {} was in effect", throttle::word(unthrottle.resource())),
                ended => format!("undone: {}", ended.join(", ")),
            };
            self.step(id, CommandState::Succeeded, detail);
        }
    }

    /// Open throttles whose limit could not be brought about.
    pub(super) fn leases_refused(&mut self, key: SlotKey, why: &str) {
        let waiting = self.kept.leases.values().filter(|l| !l.told && SlotKey::of_lease(l) == key);
        for id in waiting.map(|l| l.command.clone()).collect::<Vec<_>>() {
            self.close_lease(&id, LeaseState::Ended, why);
        }
    }

    /// That it began waits to be told, and its record, or that it ended, stood in what cannot be read: nobody else would
    /// ever say that it holds nothing any more.
    pub(super) fn end_leases_without_a_record(&mut self) {
        let mut last: BTreeMap<String, LeaseState> = BTreeMap::new();
        for kind in self.kept.spool.waiting() {
            if let Kind::Lease(lease) = kind {
                last.insert(lease.command.clone(), lease.state());
            }
        }
        last.retain(|id, state| {
            matches!(state, LeaseState::Active | LeaseState::Adopted) && !self.kept.leases.contains_key(id)
        });
        for id in last.keys() {
            self.tell_lease(id, LeaseState::Ended, "its record was lost with the damaged state file");
        }
    }

    /// All of a slot.
    /// None of this slot is wanted any more: told when it is undone.
    pub(super) fn end_leases(&mut self, key: SlotKey, state: LeaseState, why: &str) {
        let of_slot = self.kept.leases.values().filter(|l| SlotKey::of_lease(l) == key);
        for id in of_slot.map(|l| l.command.clone()).collect::<Vec<_>>() {
            self.end_lease(&id, state, why);
        }
    }

    pub(super) fn close_leases(&mut self, key: SlotKey, state: LeaseState, why: &str) {
        let of_slot = self.kept.leases.values().filter(|l| SlotKey::of_lease(l) == key);
        for id in of_slot.map(|l| l.command.clone()).collect::<Vec<_>>() {
            self.close_lease(&id, state, why);
        }
    }
}
