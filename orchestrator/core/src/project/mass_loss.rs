//! Most sidecars silent within one interval: that is told as *network or orchestrator*, and not believed of each of them.
//!
//! It begins when more than 55 % of at least 5 sidecars (called live or late) fell silent within one heartbeat interval and
//! would be lost by now; it ends when more than 55 % of them can be reached again, or fewer than 5 are left. A sidecar can
//! be reached that is live, or where one was refused since (another instance, or the same state from another place): then
//! neither network nor orchestrator was it.
//!
//! It is about those that were silent (called late or worse) when it began. Who falls silent later is lost one by one, or
//! begins another: with those that were left, or with those of the first after a start of this orchestrator. It ends by
//! itself after [`LASTS_AT_MOST`] (counted anew by an orchestrator that starts meanwhile: nobody listened before), and then
//! its silent ones are lost.
//!
//! While it lasts the orchestrator begins nothing destructive by itself:
//! - nobody of it is called lost, so that no status changes and no other instance takes the place of a silent one;
//! - no command is issued but by operators, whose commands go as ever;
//! - what only keeps books goes on: expiry, UNKNOWN, evidence that grows stale; and leases of those that are there are
//!   renewed, as an end of them would change what an agent may use.
use pitwall_proto::{
    journal::{self, event::Body},
    mutant,
    v1::SidecarStatus,
};

use super::{
    Project,
    liveness::{LATE_AFTER, reporting},
};
use crate::{io::Millis, state::AgentState};

/// Below so many live sidecars a loss of most of them says nothing about the network.
const OF_AT_LEAST: usize = 5;
const SHARE: f64 = 0.55;
/// Networks and hosts that come back by themselves do so sooner. What is silent for longer is gone for whoever waits for its
/// work, whatever the cause, and its place must not be kept from another sidecar for ever.
const LASTS_AT_MOST: Millis = 15 * 60_000;

impl Project {
    /// Why the orchestrator holds back with what it would do by itself.
    pub(super) fn held_back(&self) -> Option<&str> {
        self.state.mass_loss.as_ref().map(|(_, reason)| reason.as_str())
    }

    /// One after the other, sidecars are lost; most of them at once, it is the network or this orchestrator.
    pub(super) fn pass_losses(&mut self) {
        if self.mass_loss_ends().is_some_and(|at| at <= self.now) {
            let silent = self.of_mass().cloned().collect::<Vec<_>>();
            self.emit(Body::MassLoss(journal::MassLoss { on: false, reason: String::new() }));
            self.lose(silent);
        }
        let mut overdue = self.overdue_sidecars();
        overdue.retain(|name| !self.is_of_mass(name));
        if overdue.is_empty() {
            return;
        }
        let together = self.silent_together(&overdue);
        if let Some((silent, all)) = together.filter(|_| !mutant!("mass-loss-ignored")) {
            let reason = format!(
                "{silent} of {all} sidecars fell silent together: network or orchestrator; statuses are kept, and \
                 nothing is begun by itself until most are back, for {} min at most",
                LASTS_AT_MOST / 60_000
            );
            self.emit(Body::MassLoss(journal::MassLoss { on: true, reason }));
            return;
        }
        self.lose(overdue);
    }

    /// How many, of how many, where that is most. Looked at among those that no earlier mass loss holds back; and among all,
    /// with those of the earlier that were heard last when these were: after a start of this process it cannot tell them
    /// apart.
    fn silent_together(&self, overdue: &[String]) -> Option<(usize, usize)> {
        let last = overdue.iter().filter_map(|name| self.last_heard(name)).max()?;
        let all = self.reporting();
        let silent = self.silent_by(last + self.every());
        let left = (silent, all - self.of_mass().count());
        let with_these = |name: &&String| {
            let near = self.last_heard(name).is_some_and(|heard| (heard - last).abs() <= self.every());
            near && self.state.agents.get(*name).is_some_and(|agent| !self.can_be_reached(name, agent))
        };
        let whole = (silent + self.of_mass().filter(with_these).count(), all);
        [left, whole].into_iter().find(|(silent, all)| is_most(*silent, *all))
    }

    fn lose(&mut self, silent: Vec<String>) {
        for name in silent {
            self.emit_liveness(&name, SidecarStatus::Lost);
        }
    }

    /// It was silent when the mass loss began, and still is.
    pub(super) fn is_of_mass(&self, agent: &str) -> bool {
        let Some((begun, _)) = &self.state.mass_loss else { return false };
        let sidecar = self.state.agents.get(agent).and_then(|a| a.sidecar.as_ref());
        sidecar.is_some_and(|s| s.status == SidecarStatus::Late && s.since <= *begun)
    }

    fn of_mass(&self) -> impl Iterator<Item = &String> {
        self.state.agents.keys().filter(|name| self.is_of_mass(name))
    }

    /// After so long of this process, as nobody listened before; and not before each of its silent ones would be lost.
    pub(super) fn mass_loss_ends(&self) -> Option<Millis> {
        let (begun, _) = self.state.mass_loss.as_ref()?;
        let silences = self.of_mass().filter_map(|name| self.silence(name)).map(|(at, _)| at);
        Some(silences.fold((*begun).max(self.process_began()) + LASTS_AT_MOST, Millis::max))
    }

    /// Those that are still silent are then lost one by one.
    pub(super) fn end_mass_loss(&mut self) {
        if self.held_back().is_none() {
            return;
        }
        let all = self.reporting();
        let reached = self.state.agents.iter().filter(|(n, a)| reporting(a) && self.can_be_reached(n, a)).count();
        if all < OF_AT_LEAST || is_most(reached, all) {
            self.emit(Body::MassLoss(journal::MassLoss { on: false, reason: String::new() }));
        }
    }

    fn reporting(&self) -> usize {
        self.state.agents.values().filter(|a| reporting(a)).count()
    }

    fn every(&self) -> Millis {
        self.state.plan.windows.heartbeat_every_ms as Millis
    }

    fn can_be_reached(&self, name: &str, agent: &AgentState) -> bool {
        let Some(sidecar) = &agent.sidecar else { return false };
        // Late is called so long after the last that was heard.
        let silent_since = sidecar.since - LATE_AFTER * self.every();
        // After a start of this orchestrator whoever is refused knocks again soon.
        let knocked = self.knocks.get(name).is_some_and(|knock| knock.at >= silent_since);
        sidecar.status == SidecarStatus::Live || (sidecar.status == SidecarStatus::Late && knocked)
    }

    /// Sidecars that were heard last by that moment, and are not of an earlier mass loss.
    fn silent_by(&self, moment: Millis) -> usize {
        let silent = |(name, agent): &(&String, &AgentState)| {
            agent.sidecar_status() == SidecarStatus::Late
                && !self.is_of_mass(name)
                && !self.can_be_reached(name, agent)
                && self.last_heard(name).is_some_and(|heard| heard <= moment)
        };
        self.state.agents.iter().filter(silent).count()
    }
}

fn is_most(part: usize, all: usize) -> bool {
    all >= OF_AT_LEAST && part as f64 > SHARE * all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_is_more_than_55_percent_of_at_least_5() {
        let table = [(4, 4, false), (3, 5, true), (2, 5, false), (4, 7, true), (11, 20, false), (12, 20, true)];
        for (part, all, most) in table {
            assert_eq!(is_most(part, all), most, "{part} of {all}");
        }
    }
}
