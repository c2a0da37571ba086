//! Each limit, brought in line with what its leases want: examined, recorded, written, looked at again, put back. Recorded
//! before it is written, so that after a crash it is adopted, applied again, or undone; the value of somebody else is left
//! alone. Limits of different slots know nothing of each other.
use std::collections::BTreeSet;

use pitwall_proto::{
    mutant,
    state::{self, record::Body},
    v1::LeaseState,
};

use super::{
    Core,
    acting::{Purpose, failure},
    slots::{Driver, Phase, hold_of, kept_hold, same_place, shown},
};
use crate::{
    io::{Effect, EffectOutcome, Hold, HoldState},
    slot::SlotKey,
    store::Ticket,
};

/// How often it is looked whether the value is still ours.
const VERIFY_EVERY_MS: u64 = 5_000;
const RETRY_BASE_MS: u64 = 500;
const RETRY_CAP_MS: u64 = 30_000;

impl Core {
    fn driver(&mut self, key: SlotKey) -> &mut Driver {
        self.limits.driver(key)
    }

    fn current(&self, key: SlotKey) -> Option<(Hold, bool)> {
        let limit = self.kept.limits.get(&key)?;
        Some((hold_of(limit.hold.as_ref()?), limit.confirmed))
    }

    /// Wanted, held, or on the way from one to the other.
    fn slots(&self) -> BTreeSet<SlotKey> {
        let leases = self.kept.leases.values().map(SlotKey::of_lease);
        leases.chain(self.kept.limits.keys().copied()).chain(self.limits.drivers.keys().copied()).collect()
    }

    pub(super) fn settle_limits(&mut self) {
        self.pass_leases();
        for key in self.slots() {
            self.settle_limit(key);
            let over = self.driver(key).phase == Phase::Idle && !self.kept.limits.contains_key(&key);
            if over && !self.kept.leases.values().any(|l| SlotKey::of_lease(l) == key) {
                self.limits.drivers.remove(&key);
            }
        }
    }

    fn settle_limit(&mut self, key: SlotKey) {
        self.finish_ended(key);
        match self.driver(key).phase {
            Phase::Busy => return,
            Phase::Recording(ticket) => {
                if self.store.is_durable(ticket) {
                    self.write_recorded(key);
                } else {
                    self.release_unwanted(key);
                }
                return;
            }
            Phase::Idle => {}
        }
        if mutant!("lease-not-undone-at-start") && self.driver(key).inherited {
            return;
        }
        let now = self.now.boot_ms;
        let wanted = self.wanted(key);
        let driver = self.driver(key);
        let (look, verify_at) = (driver.look, driver.verify_at);
        if now < driver.retry_at {
            return;
        }
        match (self.current(key), wanted) {
            (None, None) => self.driver(key).look = false,
            (Some((hold, _)), _) if look => self.undertake(key, Purpose::Verify(key), Effect::Verify(hold)),
            (Some((hold, _)), None) => self.undertake(key, Purpose::Release(key), Effect::Release(hold)),
            (Some((hold, true)), Some(want)) if want.is_met_by(hold.amount, &hold.slot.via, &hold.rung) => {
                // Somebody else wants what is held already: looked at for it too.
                let waits = |l: &state::Lease| !l.told && SlotKey::of_lease(l) == key;
                if now >= verify_at || self.live_leases().any(waits) {
                    self.undertake(key, Purpose::Verify(key), Effect::Verify(hold));
                }
            }
            (_, Some(want)) => {
                let what = Effect::Examine { slot: want.slot(key), amount: want.amount };
                self.undertake(key, Purpose::Examine(key), what);
            }
        }
    }

    fn undertake(&mut self, key: SlotKey, purpose: Purpose, what: Effect) {
        self.driver(key).phase = Phase::Busy;
        self.act(purpose, what);
    }

    fn record_limit(&mut self, hold: state::Hold, confirmed: bool, before: Option<state::Hold>) -> Ticket {
        self.record(Body::Limit(state::Limit { hold: Some(hold), confirmed, before }))
    }

    fn record_gone(&mut self, key: SlotKey) {
        let hold = self.kept.limits.get(&key).and_then(|l| l.hold.clone()).unwrap_or_default();
        let gone = state::LimitGone { resource: hold.resource, process: hold.process, via: hold.via };
        self.record(Body::LimitGone(gone));
    }

    /// What is in effect while the state file cannot be written, and is stricter than anybody wants by now, is not kept
    /// waiting for the disk. Its own record is durable; the new one's says what it follows.
    fn release_unwanted(&mut self, key: SlotKey) {
        if mutant!("full-disk-holds-the-agent") {
            return;
        }
        let wanted = self.wanted(key);
        let stricter = |before: &state::Hold| wanted.as_ref().is_none_or(|want| before.amount < want.amount);
        if let Some(before) = self.kept.limits.get(&key).and_then(|l| l.before.clone()).filter(stricter) {
            self.undertake(key, Purpose::Release(key), Effect::Release(hold_of(&before)));
        }
    }

    /// Recorded and durable. Meanwhile it may have become unwanted: then it is put back, as it may not be written.
    fn write_recorded(&mut self, key: SlotKey) {
        self.driver(key).phase = Phase::Idle;
        let Some((hold, _)) = self.current(key) else { return };
        let wanted = self.wanted(key);
        if wanted.is_some_and(|want| want.is_met_by(hold.amount, &hold.slot.via, &hold.rung)) {
            self.undertake(key, Purpose::Hold(key), Effect::Hold(hold));
        } else if let Some(before) = self.kept.limits.get(&key).and_then(|l| l.before.clone()) {
            // Nothing was written: what was in effect before still is.
            self.record_limit(before, true, None);
        } else {
            self.record_gone(key);
        }
    }

    pub(super) fn examined(&mut self, key: SlotKey, outcome: EffectOutcome) {
        self.driver(key).phase = Phase::Idle;
        let hold = match outcome {
            EffectOutcome::Examined(hold) => hold,
            other => return self.limit_failed(key, "the agent cannot be limited", &failure(other)),
        };
        // Wanted otherwise meanwhile: examined again.
        if !self.wanted(key).is_some_and(|want| want.is_met_by(hold.amount, &hold.slot.via, &hold.rung)) {
            return;
        }
        let mut kept = kept_hold(&hold);
        if SlotKey::of_hold(&kept) != key {
            return self.limit_failed(
                key,
                "the agent cannot be limited",
                "another limit was examined than was asked for",
            );
        }
        if let Some(other) = self.standing_in_the_way(key, &kept) {
            let why = format!("{} is limited for {other} already: end that first", hold.place);
            return self.limit_failed(key, "the agent cannot be limited", &why);
        }
        let mut before = None;
        if let Some(limit) = self.kept.limits.get(&key).cloned()
            && let Some(current) = limit.hold
        {
            if !same_place(&current, &kept) {
                return self.undertake(key, Purpose::Release(key), Effect::Release(hold_of(&current)));
            }
            // What stands there now is ours: its end brings back what was there first.
            kept.old.clone_from(&current.old);
            before = if limit.confirmed { Some(current) } else { limit.before };
        }
        let ticket = self.record_limit(kept, false, before);
        self.driver(key).phase = Phase::Recording(ticket);
    }

    /// Another slot has this very place: each would take the other's value for what stood there first.
    fn standing_in_the_way(&self, key: SlotKey, hold: &state::Hold) -> Option<String> {
        let mut others = self.kept.limits.iter().filter(|(other, _)| **other != key && other.resource == key.resource);
        let (other, _) = others.find(|(_, l)| l.hold.as_ref().is_some_and(|held| same_place(held, hold)))?;
        Some(other.target.map_or_else(|| "the whole agent".into(), |(pid, _)| format!("pid {pid}")))
    }

    pub(super) fn held(&mut self, key: SlotKey, outcome: EffectOutcome) {
        self.driver(key).phase = Phase::Idle;
        match outcome {
            EffectOutcome::Ok { .. } => self.in_effect(key),
            other => {
                // It may be half written: looked at before anything else is done.
                self.driver(key).look = true;
                self.limit_failed(key, "the limit cannot be written", &failure(other));
            }
        }
    }

    fn in_effect(&mut self, key: SlotKey) {
        let Some((hold, confirmed)) = self.current(key) else { return };
        let verify_at = self.now.boot_ms + VERIFY_EVERY_MS;
        let driver = self.driver(key);
        let (inherited, again) = (driver.inherited, driver.again);
        *driver = Driver { verify_at, ..Driver::default() };
        if !confirmed {
            self.record_limit(kept_hold(&hold), true, None);
        }
        let detail = shown(&hold);
        if inherited || again {
            let (state, detail) = if again {
                (LeaseState::Active, format!("applied again: {detail}"))
            } else {
                (LeaseState::Adopted, format!("adopted: {detail}"))
            };
            let told = self.live_leases().filter(|l| l.told && SlotKey::of_lease(l) == key);
            for id in told.map(|l| l.command.clone()).collect::<Vec<_>>() {
                self.tell_lease(&id, state, &detail);
            }
        }
        self.leases_in_effect(key, &detail);
    }

    /// What was written is to be read back before long.
    pub(super) fn verify_soon(&mut self, key: SlotKey) {
        let now = self.now.boot_ms;
        self.driver(key).verify_at = now;
    }

    /// Leases that were never in effect end as failed; those that held before are tried again until their end.
    fn limit_failed(&mut self, key: SlotKey, what: &str, why: &str) {
        self.leases_refused(key, &format!("{what}: {why}"));
        self.retry_later(key, what, why);
    }

    fn retry_later(&mut self, key: SlotKey, what: &str, why: &str) {
        let now = self.now.boot_ms;
        let text = format!("{}: {what}: {why}; trying again while it is wanted", key.word());
        let driver = self.driver(key);
        let wait = (RETRY_BASE_MS << driver.failures.min(16)).min(RETRY_CAP_MS);
        driver.failures += 1;
        driver.retry_at = now + wait;
        if driver.said != text {
            driver.said.clone_from(&text);
            self.log(true, text);
        }
    }

    pub(super) fn verified(&mut self, key: SlotKey, outcome: EffectOutcome) {
        self.driver(key).phase = Phase::Idle;
        let state = match outcome {
            EffectOutcome::Verified(state) => state,
            other => return self.retry_later(key, "the limit cannot be looked at", &failure(other)),
        };
        self.driver(key).look = false;
        let Some(limit) = self.kept.limits.get(&key).cloned() else { return };
        match state {
            HoldState::Ours => {
                if self.wanted(key).is_some() {
                    self.in_effect(key);
                    self.read_back(key);
                } else if !limit.confirmed {
                    self.record(Body::Limit(state::Limit { confirmed: true, before: None, ..limit }));
                }
            }
            // The agent was restarted: what time is left holds at its new place. A process does not come back.
            HoldState::Gone => {
                self.record_gone(key);
                let driver = self.driver(key);
                driver.inherited = false;
                driver.again = key.target.is_none();
                if key.target.is_some() {
                    self.close_leases(key, LeaseState::Ended, "its process is gone");
                }
            }
            HoldState::Foreign(value) => self.found_foreign(key, &limit, &value, false),
        }
    }

    /// `undone`: what stood there before is what should.
    fn found_foreign(&mut self, key: SlotKey, limit: &state::Limit, value: &str, undone: bool) {
        let Some(hold) = &limit.hold else { return };
        if !limit.confirmed {
            // Recorded, and never written: what is there is what was there before.
            if let Some(before) = limit.before.clone().filter(|b| b.new == value) {
                self.record_limit(before, true, None);
                self.driver(key).look = true;
                return;
            }
        }
        let inherited = std::mem::take(&mut self.driver(key).inherited);
        // Never written, or undone and the record of that lost: nothing of ours stands there. Where this very life saw it in
        // effect, it was somebody else.
        if hold.old == value && (undone || inherited || !limit.confirmed) {
            self.record_gone(key);
            self.driver(key).again = self.wanted(key).is_some();
            return;
        }
        let detail = format!(
            "{}: somebody else changed {} to {}; it is left alone",
            hold.place,
            hold.new.replace('\n', " "),
            value.replace('\n', " ")
        );
        // A limit of several parts (threads, devices) may have lost one of them: what is still ours is put back first.
        if !undone {
            return self.end_leases(key, LeaseState::Foreign, &detail);
        }
        self.record_gone(key);
        self.close_leases(key, LeaseState::Foreign, &detail);
    }

    pub(super) fn released(&mut self, key: SlotKey, outcome: EffectOutcome) {
        self.driver(key).phase = Phase::Idle;
        let state = match outcome {
            EffectOutcome::Released(state) => state,
            other => return self.retry_later(key, "the limit cannot be undone", &failure(other)),
        };
        let Some(limit) = self.kept.limits.get(&key).cloned() else { return };
        let driver = self.driver(key);
        (driver.failures, driver.retry_at) = (0, 0);
        match state {
            // Undone by somebody else, or by an earlier try: there is nothing left to do.
            HoldState::Foreign(value) => self.found_foreign(key, &limit, &value, true),
            HoldState::Ours | HoldState::Gone => {
                self.record_gone(key);
                // Still wanted: it is written where the agent is now.
                let again = self.wanted(key).is_some();
                let driver = self.driver(key);
                (driver.inherited, driver.again) = (false, again);
            }
        }
        self.finish_ended(key);
    }

    /// Leases that are not wanted are over once the limit no longer comes from them.
    fn finish_ended(&mut self, key: SlotKey) {
        let undone = match (self.current(key), self.wanted(key)) {
            (None, _) => true,
            (Some((hold, confirmed)), Some(want)) => confirmed && hold.amount == want.amount,
            (Some(_), None) => false,
        };
        if undone {
            for (id, state, why) in self.limits.ended(&self.kept, key) {
                self.close_lease(&id, state, &why);
            }
        }
    }

    /// Nothing is held, and nothing is about to be.
    pub(super) fn nothing_held(&self) -> bool {
        let idle = self.limits.drivers.values().all(|driver| driver.phase == Phase::Idle);
        idle && self.kept.limits.is_empty() && self.kept.leases.is_empty()
    }

    pub(super) fn limits_deadline(&self) -> Option<u64> {
        let next = self.limits.drivers.iter().filter_map(|(key, driver)| match driver.phase {
            Phase::Busy | Phase::Recording(_) => None,
            Phase::Idle => {
                let waits = self.kept.limits.contains_key(key) || self.wanted(*key).is_some();
                let at = driver.retry_at.max(if driver.failures > 0 { 0 } else { driver.verify_at });
                waits.then_some(at)
            }
        });
        next.chain(self.leases_deadline()).min()
    }
}
