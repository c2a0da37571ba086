//! What is looked at while time goes by: cancels that must be kept, limits that must be undone, evidence that must not be
//! shown green, silence that must be told.
use pitwall_proto::v1;

use super::{
    Event, World,
    orchestrator::Losses,
    plans::{FRESH_FOR_MS, HEARTBEAT_MS, HYSTERESIS_MS},
    site::HELD,
};
use crate::model::{Exemption, Invariant, is_end};

/// A tick is as late as a step may be.
const GREEN_SLACK_MS: u64 = 400;
/// Rule 8, less what a frame may be late.
const TOGETHER_MS: u64 = HEARTBEAT_MS - 1_000;
const LOST_AFTER_MS: u64 = 4 * HEARTBEAT_MS;
/// How far project time may be ahead.
const TICK_MS: u64 = 50;
const MASS: (usize, f64) = (5, 0.55);
/// The stop of a sidecar, and one step.
pub const STOP_WITHIN_MS: u64 = 10_500;

impl World {
    /// What was cancelled before it started ends as that, where the process and its disk go on.
    pub(super) fn watch_cancels(&mut self, site: usize) {
        let gen_ = self.gen_of(site);
        let full = self.sites[site].failing;
        let (mut due, mut never) = (Vec::new(), 0);
        self.sites[site].cancels.retain_mut(|cancel| {
            cancel.put_off |= full;
            cancel.samples -= u8::from(!full);
            let same = cancel.of == gen_;
            if cancel.samples == 0 && same {
                due.push(cancel.id.clone());
            }
            never += u64::from(!same && cancel.put_off);
            same && cancel.samples > 0
        });
        self.model.tally.excused(Exemption::DiskFullWhileCancelled, never);
        for id in due {
            let state = self.model.sites[site].commands.get(&id).map(|c| c.state);
            if self.sites[site].process.is_some() {
                self.model.require(state.is_some_and(is_end), Invariant::CancelIsKept, self.now, || {
                    format!("the cancel of {id} came before its start, and it is {state:?}")
                });
            }
        }
    }

    /// Nothing holds the agent past the end of its lease while its sidecar runs.
    pub(super) fn watch_lease(&mut self, site: usize) {
        let at = &self.sites[site];
        if at.process.is_none() {
            return self.model.leases[site].not_running();
        }
        let home = &self.homes[at.home];
        let boot = home.host.boot_ms(self.now);
        for resource in HELD {
            let home = &self.homes[self.sites[site].home];
            let limited = home.is_limited(resource);
            if limited && (home.twins || !home.is_held(resource)) {
                let exemption = if home.twins { Exemption::LimitOfTwins } else { Exemption::RecordOfTheLimitLost };
                self.model.tally.excused(exemption, 1);
                self.model.leases[site].overheld(boot, resource as i32, false);
                continue;
            }
            let (name, value) = (&self.sites[site].name, home.agent.stands(resource));
            let overheld = self.model.leases[site].overheld(boot, resource as i32, limited);
            self.model.require(!overheld, Invariant::NoLeasePastItsEnd, self.now, || {
                format!("agent of {name} is still held at {value:?}")
            });
        }
    }

    /// A sidecar that was told to stop has ended, and holds nothing any more.
    pub(super) fn stop_is_due(&mut self, site: usize, gen_: u64) {
        let frozen = self.homes[self.sites[site].home].host.frozen_until;
        if self.now < frozen + 1_500 {
            return self.at(1_500, Event::StopIsDue { site, gen_ });
        }
        let name = self.sites[site].name.clone();
        let ended = !self.runs(site, gen_);
        self.model.require(ended, Invariant::StopIsBounded, self.now, || {
            format!("{name} was told to stop {STOP_WITHIN_MS} ms ago, and still runs")
        });
    }

    /// Evidence that is shown green was seen to pass not longer ago than it is fresh for.
    pub(super) fn watch_green(&mut self, id: usize) {
        let now = self.now;
        let Some(orchestrator) = self.orchestrators[id].as_ref() else { return };
        // Due and not handed over, as the process stood still, or takes nothing more.
        let ends = orchestrator.draining;
        if ends || now < orchestrator.resumed_at + GREEN_SLACK_MS || orchestrator.frozen_until > now {
            return self.model.tally.excused(Exemption::OwnerStoodStill, 1);
        }
        let (mut stale, mut judged) = (Vec::new(), 0);
        for (deliverable, view) in &orchestrator.core().derived().deliverables {
            if view.status != v1::DeliverableStatus::Verified {
                continue;
            }
            for check in &view.checks {
                judged += 1;
                let name = (deliverable.agent.clone(), deliverable.name.clone(), check.id.clone());
                let passed = self.model.evidence.get(&name).copied().unwrap_or(0).max(orchestrator.graced_at);
                let failing = matches!(check.outcome, pitwall_core::derive::Seen::Failing(_));
                let hysteresis = if failing { HYSTERESIS_MS } else { 0 };
                if now > passed + FRESH_FOR_MS + hysteresis + GREEN_SLACK_MS {
                    stale.push(format!(
                        "{deliverable} {} is green, last seen to pass {} ms ago",
                        check.id,
                        now - passed
                    ));
                }
            }
        }
        self.model.require_none(Invariant::StaleIsNeverGreen, judged, now, stale);
    }

    /// A sidecar that is called lost was silent for long, and is not one of most that fell silent together.
    pub(super) fn check_losses(&mut self, id: usize, losses: &Losses) {
        let Some(owner) = self.orchestrators[id].as_ref() else { return };
        let mut wrong = Vec::new();
        for lost in &losses.lost {
            let heard = |agent: &str| owner.heard.get(agent).copied().unwrap_or(0).max(owner.graced_at);
            // A hello that waits for its welcome, or was refused, may count as heard.
            let at_most = |agent: &str| owner.heard_at_most.get(agent).copied().unwrap_or(0).max(heard(agent));
            let silent_for = self.now - heard(lost);
            // Neither network nor orchestrator keeps one away that knocks.
            let together = |a: &str| *a == **lost || at_most(a).abs_diff(heard(lost)) <= TOGETHER_MS;
            let with_it = |a: &&String| together(a) && !self.knocked.contains(*a);
            let (together, of) = (losses.reporting.iter().filter(with_it).count(), losses.reporting.len());
            // One that came back since most fell silent, and fell silent again, is not of those.
            let came_back = |since: u64| self.last_heard.get(lost).is_some_and(|at| *at > since);
            let mass = self.mass_since.is_none_or(|since| !came_back(since))
                && of >= MASS.0
                && together as f64 > MASS.1 * of as f64;
            if mass || silent_for + TICK_MS < LOST_AFTER_MS {
                wrong.push(format!(
                    "the sidecar of {lost} is called lost after {silent_for} ms; {together} of {of} fell silent with it"
                ));
            }
        }
        self.model.require_none(Invariant::MassLossIsNotLoss, losses.lost.len() as u64, self.now, wrong);
    }
}
