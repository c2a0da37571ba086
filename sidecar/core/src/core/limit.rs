//! The one limit on the agent's CPU, brought in line with what the leases want: examined, recorded, written, looked at
//! again, put back. Recorded before it is written, so that after a crash it is adopted, applied again, or undone; the
//! value of somebody else is left alone.
use std::collections::BTreeMap;

use pitwall_proto::{
    mutant,
    state::{self, record::Body},
    v1::{LeaseState, Resource},
};

use super::{
    Core,
    acting::{Purpose, failure, identity, process},
    leases::Measure,
};
use crate::{
    io::{Effect, EffectOutcome, Hold, HoldState, Slot},
    kept::Kept,
    store::Ticket,
};

/// How often it is looked whether the value is still ours.
const VERIFY_EVERY_MS: u64 = 5_000;
const RETRY_BASE_MS: u64 = 500;
const RETRY_CAP_MS: u64 = 30_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// An effect is under way.
    Busy,
    /// The limit is written once its record is durable.
    Recording(Ticket),
}

#[derive(Debug)]
pub(super) struct Driver {
    phase: Phase,
    /// Look before anything else: what is there is not known.
    look: bool,
    /// An earlier life left it: leases that still hold are adopted.
    inherited: bool,
    /// It is being written at another place, or again.
    again: bool,
    verify_at: u64,
    retry_at: u64,
    failures: u32,
    said: String,
    /// Leases that are not wanted any more: how they ended, and why.
    ending: BTreeMap<String, (LeaseState, String)>,
    pub measures: BTreeMap<String, Measure>,
    /// Leases that each unthrottle waits for.
    pub unthrottles: BTreeMap<String, Vec<String>>,
}

impl Driver {
    pub fn recovered(kept: &Kept) -> Self {
        let inherited = kept.limit.is_some();
        Self {
            phase: Phase::Idle,
            look: inherited,
            inherited,
            again: false,
            verify_at: 0,
            retry_at: 0,
            failures: 0,
            said: String::new(),
            ending: BTreeMap::new(),
            measures: BTreeMap::new(),
            unthrottles: BTreeMap::new(),
        }
    }

    pub fn look_again(&mut self) {
        self.look = true;
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

    pub fn is_in_effect(&self, kept: &Kept) -> bool {
        !self.look && kept.limit.as_ref().is_some_and(|l| l.confirmed)
    }
}

fn kept_hold(hold: &Hold) -> state::Hold {
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

fn hold_of(kept: &state::Hold) -> Hold {
    Hold {
        slot: Slot {
            // Files of older versions know no other resource.
            resource: Resource::try_from(kept.resource)
                .ok()
                .filter(|r| *r != Resource::Unspecified)
                .unwrap_or(Resource::Cpu),
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

/// The CPU of the whole agent, by whatever rung.
fn whole_cpu() -> Slot {
    Slot { resource: Resource::Cpu, process: None, via: String::new() }
}

fn same_place(a: &state::Hold, b: &state::Hold) -> bool {
    a.rung == b.rung && a.place == b.place && a.inode == b.inode && a.boot_id == b.boot_id
}

fn shown(hold: &Hold) -> String {
    let line = |value: &str| if value.is_empty() { "no limit".to_owned() } else { value.replace('\n', " ") };
    format!("{} {}: {} -> {}", hold.rung, hold.place, line(&hold.old), line(&hold.new))
}

impl Core {
    fn current(&self) -> Option<(Hold, bool)> {
        let limit = self.kept.limit.as_ref()?;
        Some((hold_of(limit.hold.as_ref()?), limit.confirmed))
    }

    pub(super) fn settle_limit(&mut self) {
        self.pass_leases();
        self.finish_ended();
        match self.limit.phase {
            Phase::Busy => return,
            Phase::Recording(ticket) => {
                if self.store.is_durable(ticket) {
                    self.write_recorded();
                } else {
                    self.release_unwanted();
                }
                return;
            }
            Phase::Idle => {}
        }
        if mutant!("lease-not-undone-at-start") && self.limit.inherited {
            return;
        }
        let now = self.now.boot_ms;
        let wanted = self.wanted();
        if now < self.limit.retry_at {
            return;
        }
        match (self.current(), wanted) {
            (None, None) => self.limit.look = false,
            (None, Some(cores)) => {
                self.undertake(Purpose::Examine, Effect::Examine { slot: whole_cpu(), amount: cores })
            }
            (Some((hold, _)), _) if self.limit.look => self.undertake(Purpose::Verify, Effect::Verify(hold)),
            (Some((hold, _)), None) => self.undertake(Purpose::Release, Effect::Release(hold)),
            (Some((hold, true)), Some(cores)) if hold.amount == cores => {
                if now >= self.limit.verify_at {
                    self.undertake(Purpose::Verify, Effect::Verify(hold));
                }
            }
            (Some(_), Some(cores)) => {
                self.undertake(Purpose::Examine, Effect::Examine { slot: whole_cpu(), amount: cores })
            }
        }
    }

    fn undertake(&mut self, purpose: Purpose, what: Effect) {
        self.limit.phase = Phase::Busy;
        self.act(purpose, what);
    }

    /// What is in effect while the state file cannot be written, and is stricter than anybody wants by now, is not kept
    /// waiting for the disk. Its own record is durable; the new one's says what it follows.
    fn release_unwanted(&mut self) {
        if mutant!("full-disk-holds-the-agent") {
            return;
        }
        let wanted = self.wanted();
        let stricter = |before: &state::Hold| wanted.is_none_or(|cores| before.amount < cores);
        if let Some(before) = self.kept.limit.as_ref().and_then(|l| l.before.clone()).filter(stricter) {
            self.undertake(Purpose::Release, Effect::Release(hold_of(&before)));
        }
    }

    /// Recorded and durable. Meanwhile it may have become unwanted: then it is put back, as it may not be written.
    fn write_recorded(&mut self) {
        self.limit.phase = Phase::Idle;
        let Some((hold, _)) = self.current() else { return };
        if self.wanted() == Some(hold.amount) {
            self.undertake(Purpose::Hold, Effect::Hold(hold));
        } else if let Some(before) = self.kept.limit.as_ref().and_then(|l| l.before.clone()) {
            // Nothing was written: what was in effect before still is.
            let limit = state::Limit { hold: Some(before), confirmed: true, before: None };
            self.record(Body::Limit(limit));
        } else {
            self.record(Body::LimitGone(state::LimitGone::default()));
        }
    }

    pub(super) fn examined(&mut self, outcome: EffectOutcome) {
        self.limit.phase = Phase::Idle;
        let hold = match outcome {
            EffectOutcome::Examined(hold) => hold,
            other => return self.limit_failed("the agent cannot be limited", &failure(other)),
        };
        // Wanted otherwise meanwhile: examined again.
        if self.wanted() != Some(hold.amount) {
            return;
        }
        let mut kept = kept_hold(&hold);
        let mut before = None;
        if let Some(limit) = self.kept.limit.clone()
            && let Some(current) = limit.hold
        {
            if !same_place(&current, &kept) {
                return self.undertake(Purpose::Release, Effect::Release(hold_of(&current)));
            }
            // What stands there now is ours: its end brings back what was there first.
            kept.old.clone_from(&current.old);
            before = if limit.confirmed { Some(current) } else { limit.before };
        }
        let ticket = self.record(Body::Limit(state::Limit { hold: Some(kept), confirmed: false, before }));
        self.limit.phase = Phase::Recording(ticket);
    }

    pub(super) fn held(&mut self, outcome: EffectOutcome) {
        self.limit.phase = Phase::Idle;
        match outcome {
            EffectOutcome::Ok { .. } => self.in_effect(),
            other => {
                // It may be half written: looked at before anything else is done.
                self.limit.look = true;
                self.limit_failed("the limit cannot be written", &failure(other));
            }
        }
    }

    fn in_effect(&mut self) {
        let Some((hold, confirmed)) = self.current() else { return };
        self.limit.failures = 0;
        self.limit.retry_at = 0;
        self.limit.look = false;
        self.limit.said.clear();
        self.limit.verify_at = self.now.boot_ms + VERIFY_EVERY_MS;
        if !confirmed {
            let limit = state::Limit { hold: Some(kept_hold(&hold)), confirmed: true, before: None };
            self.record(Body::Limit(limit));
        }
        let detail = shown(&hold);
        let inherited = std::mem::take(&mut self.limit.inherited);
        let again = std::mem::take(&mut self.limit.again);
        if inherited || again {
            let (state, detail) = if again {
                (LeaseState::Active, format!("applied again: {detail}"))
            } else {
                (LeaseState::Adopted, format!("adopted: {detail}"))
            };
            let told = self.live_leases().filter(|l| l.told).map(|l| l.command.clone());
            for id in told.collect::<Vec<_>>() {
                self.tell_lease(&id, state, &detail);
            }
        }
        self.leases_in_effect(&detail);
    }

    /// Leases that were never in effect end as failed; those that held before are tried again until their end.
    fn limit_failed(&mut self, what: &str, why: &str) {
        self.leases_refused(&format!("{what}: {why}"));
        self.retry_later(what, why);
    }

    fn retry_later(&mut self, what: &str, why: &str) {
        let wait = (RETRY_BASE_MS << self.limit.failures.min(16)).min(RETRY_CAP_MS);
        self.limit.failures += 1;
        self.limit.retry_at = self.now.boot_ms + wait;
        let text = format!("{what}: {why}; trying again while it is wanted");
        if self.limit.said != text {
            self.limit.said.clone_from(&text);
            self.log(true, text);
        }
    }

    pub(super) fn verified(&mut self, outcome: EffectOutcome) {
        self.limit.phase = Phase::Idle;
        let state = match outcome {
            EffectOutcome::Verified(state) => state,
            other => return self.retry_later("the limit cannot be looked at", &failure(other)),
        };
        self.limit.look = false;
        let Some(limit) = self.kept.limit.clone() else { return };
        match state {
            HoldState::Ours => {
                if self.wanted().is_some() {
                    self.in_effect();
                } else if !limit.confirmed {
                    self.record(Body::Limit(state::Limit { confirmed: true, before: None, ..limit }));
                }
            }
            // The agent was restarted: what time is left holds at its new place.
            HoldState::Gone => {
                self.record(Body::LimitGone(state::LimitGone::default()));
                self.limit.inherited = false;
                self.limit.again = true;
            }
            HoldState::Foreign(value) => self.found_foreign(&limit, &value),
        }
    }

    fn found_foreign(&mut self, limit: &state::Limit, value: &str) {
        let Some(hold) = &limit.hold else { return };
        if !limit.confirmed {
            // Recorded, and never written: what is there is what was there before.
            if let Some(before) = limit.before.clone().filter(|b| b.new == value) {
                let limit = state::Limit { hold: Some(before), confirmed: true, before: None };
                self.record(Body::Limit(limit));
                self.limit.look = true;
                return;
            }
        }
        // Never written, or undone and the record of that lost: nothing of ours stands there.
        if hold.old == value {
            self.record(Body::LimitGone(state::LimitGone::default()));
            self.limit.inherited = false;
            self.limit.again = self.wanted().is_some();
            return;
        }
        let detail = format!(
            "{}: somebody else changed {} to {}; it is left alone",
            hold.place,
            hold.new.replace('\n', " "),
            value.replace('\n', " ")
        );
        self.record(Body::LimitGone(state::LimitGone::default()));
        self.limit.inherited = false;
        for id in self.kept.leases.keys().cloned().collect::<Vec<_>>() {
            self.close_lease(&id, LeaseState::Foreign, &detail);
        }
    }

    pub(super) fn released(&mut self, outcome: EffectOutcome) {
        self.limit.phase = Phase::Idle;
        let state = match outcome {
            EffectOutcome::Released(state) => state,
            other => return self.retry_later("the limit cannot be undone", &failure(other)),
        };
        let Some(limit) = self.kept.limit.clone() else { return };
        self.limit.failures = 0;
        self.limit.retry_at = 0;
        match state {
            HoldState::Foreign(value) => self.found_foreign(&limit, &value),
            HoldState::Ours | HoldState::Gone => {
                self.record(Body::LimitGone(state::LimitGone::default()));
                self.limit.inherited = false;
                // Still wanted: it is written where the agent is now.
                self.limit.again = self.wanted().is_some();
            }
        }
        self.finish_ended();
    }

    /// Leases that are not wanted are over once the limit no longer comes from them.
    fn finish_ended(&mut self) {
        let undone = match (&self.kept.limit, self.wanted()) {
            (None, _) => true,
            (Some(limit), Some(cores)) => limit.confirmed && limit.hold.as_ref().is_some_and(|h| h.amount == cores),
            (Some(_), None) => false,
        };
        if undone {
            for (id, (state, why)) in std::mem::take(&mut self.limit.ending) {
                self.close_lease(&id, state, &why);
            }
        }
    }

    /// Nothing is held, and nothing is about to be.
    pub(super) fn nothing_held(&self) -> bool {
        self.kept.limit.is_none() && self.kept.leases.is_empty() && self.limit.phase == Phase::Idle
    }

    pub(super) fn limit_deadline(&self) -> Option<u64> {
        let lease = self.leases_deadline();
        let next = match self.limit.phase {
            Phase::Busy | Phase::Recording(_) => None,
            Phase::Idle => {
                let waits = self.kept.limit.is_some() || self.wanted().is_some();
                let at = self.limit.retry_at.max(if self.limit.failures > 0 { 0 } else { self.limit.verify_at });
                waits.then_some(at)
            }
        };
        lease.into_iter().chain(next).min()
    }
}
