//! How far each limit has come, and what is known of its leases besides what is kept (see [`crate::slot`] for what a slot
//! is, `limit` for what moves it).
use std::collections::BTreeMap;

use pitwall_proto::{state, v1::LeaseState};

use super::{
    acting::{identity, process},
    proof::Proof,
};
use crate::{
    io::{Hold, Slot},
    kept::Kept,
    slot::SlotKey,
    store::Ticket,
};

/// What is wanted of a slot in all: the strictest of its leases.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Want {
    pub amount: f64,
    pub via: String,
    /// With the name, which the key has not.
    pub process: Option<state::Process>,
}

impl Want {
    pub fn slot(&self, key: SlotKey) -> Slot {
        Slot { resource: key.resource(), process: self.process.as_ref().map(identity), via: self.via.clone() }
    }

    /// Whether this hold is what is wanted: as much, by the rung that was asked for.
    pub fn is_met_by(&self, amount: f64, via: &str, rung: &str) -> bool {
        amount == self.amount && (via == self.via || rung == self.via)
    }
}

pub(super) fn kept_hold(hold: &Hold) -> state::Hold {
    state::Hold {
        rung: hold.rung.clone(),
        place: hold.place.clone(),
        inode: hold.inode,
        boot_id: hold.boot_id.clone(),
        old: hold.old.clone(),
        new: hold.new.clone(),
        amount: hold.amount,
        resource: hold.slot.resource as i32,
        process: hold.slot.process.as_ref().map(process),
        via: hold.slot.via.clone(),
    }
}

pub(super) fn hold_of(kept: &state::Hold) -> Hold {
    Hold {
        slot: Slot {
            resource: SlotKey::of_hold(kept).resource(),
            process: kept.process.as_ref().map(identity),
            via: kept.via.clone(),
        },
        rung: kept.rung.clone(),
        place: kept.place.clone(),
        inode: kept.inode,
        boot_id: kept.boot_id.clone(),
        old: kept.old.clone(),
        new: kept.new.clone(),
        amount: kept.amount,
    }
}

pub(super) fn same_place(a: &state::Hold, b: &state::Hold) -> bool {
    a.rung == b.rung && a.place == b.place && a.inode == b.inode && a.boot_id == b.boot_id
}

pub(super) fn shown(hold: &Hold) -> String {
    let line = |value: &str| if value.is_empty() { "no limit".to_owned() } else { value.replace('\n', " ") };
    format!("{} {}: {} -> {}", hold.rung, hold.place, line(&hold.old), line(&hold.new))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Idle,
    /// An effect is under way.
    Busy,
    /// The limit is written once its record is durable.
    Recording(Ticket),
}

/// How far one limit has come.
#[derive(Debug, Default)]
pub(super) struct Driver {
    pub phase: Phase,
    /// Look before anything else: what is there is not known.
    pub look: bool,
    /// An earlier life left it: leases that still hold are adopted.
    pub inherited: bool,
    /// It is being written at another place, or again.
    pub again: bool,
    pub verify_at: u64,
    pub retry_at: u64,
    pub failures: u32,
    pub said: String,
}

/// All limits, and what is known of their leases besides what is kept.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub drivers: BTreeMap<SlotKey, Driver>,
    /// Leases that are not wanted any more: how they ended, and why.
    ending: BTreeMap<String, (LeaseState, String)>,
    /// Leases whose effect is to be shown.
    pub proofs: BTreeMap<String, Proof>,
    /// Leases that each unthrottle waits for.
    pub unthrottles: BTreeMap<String, Vec<String>>,
}

impl Limits {
    pub fn recovered(kept: &Kept) -> Self {
        let left = |key: &SlotKey| (*key, Driver { look: true, inherited: true, ..Driver::default() });
        Self { drivers: kept.limits.keys().map(left).collect(), ..Self::default() }
    }

    pub fn driver(&mut self, key: SlotKey) -> &mut Driver {
        self.drivers.entry(key).or_default()
    }

    pub fn look_again(&mut self) {
        self.drivers.values_mut().for_each(|driver| driver.look = true);
    }

    pub fn is_ending(&self, command: &str) -> bool {
        self.ending.contains_key(command)
    }

    pub fn end(&mut self, command: &str, state: LeaseState, why: &str) {
        self.ending.entry(command.into()).or_insert_with(|| (state, why.into()));
    }

    pub fn forget(&mut self, command: &str) {
        self.ending.remove(command);
    }

    /// Of one slot.
    pub fn ended(&self, kept: &Kept, key: SlotKey) -> Vec<(String, LeaseState, String)> {
        let of_slot = |id: &String| kept.leases.get(id).is_some_and(|l| SlotKey::of_lease(l) == key);
        let ended = self.ending.iter().filter(|(id, _)| of_slot(id));
        ended.map(|(id, (state, why))| (id.clone(), *state, why.clone())).collect()
    }

    pub fn is_in_effect(&self, kept: &Kept, key: SlotKey) -> bool {
        let looked = self.drivers.get(&key).is_none_or(|driver| !driver.look);
        looked && kept.limits.get(&key).is_some_and(|l| l.confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_meets_a_want_by_amount_and_rung() {
        let want = |via: &str| Want { amount: 0.5, via: via.into(), process: None };
        let table = [
            ("", 0.5, "", "cgroup2", true),
            ("cgroup2", 0.5, "", "cgroup2", true),
            ("cgroup2", 0.5, "cgroup2", "cgroup2", true),
            ("affinity", 0.5, "", "cgroup2", false),
            // The best that is there may be another one by now.
            ("", 0.5, "affinity", "affinity", false),
            ("", 0.4, "", "cgroup2", false),
        ];
        for (wanted, amount, via, rung, met) in table {
            assert_eq!(want(wanted).is_met_by(amount, via, rung), met, "{wanted:?} by {via:?} {rung}");
        }
    }
}
