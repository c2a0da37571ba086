//! Signs of life and freshness of evidence: volatile clocks whose expiry becomes events.
use std::collections::BTreeMap;

use pitwall_proto::{
    journal::{self, event::Body},
    v1::{self, SidecarStatus},
};

use super::Project;
use crate::{io::Millis, plan::DeliverableId};

/// Heartbeat intervals without any message.
const LATE_AFTER: i64 = 2;
const LOST_AFTER: i64 = 4;
/// Below so many live sidecars a loss of most of them says nothing about the network.
const MASS_LOSS_OF_AT_LEAST: usize = 5;
const MASS_LOSS_SHARE: f64 = 0.55;

/// Since this process began; a restart begins with a grace for everybody.
#[derive(Debug, Default)]
pub(super) struct Signs {
    heard: BTreeMap<String, Millis>,
    /// When each check was last known to be as its verdict says.
    confirmed: BTreeMap<(DeliverableId, String), Millis>,
    grace_until: Millis,
}

impl Project {
    pub(super) fn begin_grace(&mut self) {
        let until = self.now + self.state.plan.windows.start_grace_ms as i64;
        self.signs.grace_until = until;
        for (name, agent) in &self.state.agents {
            if matches!(agent.sidecar_status(), SidecarStatus::Live | SidecarStatus::Late) {
                self.signs.heard.insert(name.clone(), self.now);
            }
        }
        for (id, deliverable) in &self.state.deliverables {
            for check in deliverable.checks.keys() {
                self.signs.confirmed.insert((id.clone(), check.clone()), self.now);
            }
        }
    }

    pub(super) fn heard(&mut self, agent: &str) {
        self.signs.heard.insert(agent.into(), self.now);
        let status = self.state.agents.get(agent).map(|a| a.sidecar_status());
        if matches!(status, Some(SidecarStatus::Late | SidecarStatus::Lost)) {
            self.emit_liveness(agent, SidecarStatus::Live);
        }
        if self.state.mass_loss.is_some() && self.overdue_sidecars().is_empty() {
            self.emit(Body::MassLoss(journal::MassLoss { on: false, reason: String::new() }));
        }
    }

    fn emit_liveness(&mut self, agent: &str, status: SidecarStatus) {
        self.emit(Body::SidecarLiveness(journal::SidecarLiveness { agent: agent.into(), status: status as i32 }));
    }

    pub(super) fn confirm(&mut self, id: DeliverableId, check: &str, at: Millis) {
        let confirmed = self.signs.confirmed.entry((id.clone(), check.into())).or_insert(at);
        *confirmed = at.max(*confirmed);
        let confirmed = *confirmed;
        let fresh = self.fresh_for(&id, check).is_some_and(|window| confirmed + window > self.now);
        let stale = self.state.deliverables.get(&id).and_then(|d| d.checks.get(check)).is_some_and(|c| c.stale);
        if stale && fresh {
            self.emit_staleness(id, check, false);
        }
    }

    fn emit_staleness(&mut self, id: DeliverableId, check: &str, stale: bool) {
        let event = journal::Staleness { agent: id.agent, deliverable: id.name, check_id: check.into(), stale };
        self.emit(Body::Staleness(event));
    }

    fn fresh_for(&self, id: &DeliverableId, check: &str) -> Option<Millis> {
        let spec = self.state.plan.deliverable(id)?;
        spec.checks.iter().find(|c| c.id == check).map(|c| c.fresh_for_ms as i64)
    }

    pub(super) fn on_heartbeat(&mut self, agent: &str, heartbeat: &v1::Heartbeat) {
        for check in &heartbeat.checks {
            let id = DeliverableId::new(agent, &check.deliverable);
            let known = self.state.deliverables.get(&id).is_some_and(|d| d.checks.contains_key(&check.check_id));
            if known {
                self.confirm(id, &check.check_id, self.now - i64::from(check.age_ms));
            }
        }
    }

    /// The moment at which a sidecar's silence changes its status.
    fn silence(&self, agent: &str) -> Option<(Millis, SidecarStatus)> {
        let every = self.state.plan.windows.heartbeat_every_ms as i64;
        let heard = *self.signs.heard.get(agent)?;
        let (intervals, status) = match self.state.agents.get(agent)?.sidecar_status() {
            SidecarStatus::Live => (LATE_AFTER, SidecarStatus::Late),
            SidecarStatus::Late => (LOST_AFTER, SidecarStatus::Lost),
            SidecarStatus::Lost | SidecarStatus::NeverConnected | SidecarStatus::Unspecified => return None,
        };
        Some(((heard + every * intervals).max(self.signs.grace_until), status))
    }

    /// Sidecars whose silence has lasted long enough for them to be lost.
    fn overdue_sidecars(&self) -> Vec<String> {
        let due = |name: &&String| {
            self.silence(name).is_some_and(|(at, status)| status == SidecarStatus::Lost && at <= self.now)
        };
        self.state.agents.keys().filter(due).cloned().collect()
    }

    pub(super) fn pass_liveness(&mut self) {
        for name in self.state.agents.keys().cloned().collect::<Vec<_>>() {
            if let Some((at, SidecarStatus::Late)) = self.silence(&name)
                && at <= self.now
            {
                self.emit_liveness(&name, SidecarStatus::Late);
            }
        }
        self.pass_losses();
        let stale: Vec<_> = self.stale_now().map(|(id, check)| (id.clone(), check.clone())).collect();
        for (id, check) in stale {
            self.emit_staleness(id, &check, true);
        }
    }

    /// One after the other, sidecars are lost; most of them at once, it is the network or this orchestrator.
    fn pass_losses(&mut self) {
        let overdue = self.overdue_sidecars();
        if overdue.is_empty() || self.state.mass_loss.is_some() {
            return;
        }
        let reporting =
            |a: &crate::state::AgentState| matches!(a.sidecar_status(), SidecarStatus::Live | SidecarStatus::Late);
        let live = self.state.agents.values().filter(|a| reporting(a)).count();
        // Those that turn late in the same interval vanish together with those that are overdue already.
        let late = self.state.agents.values().filter(|a| a.sidecar_status() == SidecarStatus::Late).count();
        if live >= MASS_LOSS_OF_AT_LEAST && late as f64 > MASS_LOSS_SHARE * live as f64 {
            let reason =
                format!("{late} of {live} sidecars fell silent together: network or orchestrator, statuses are kept");
            self.emit(Body::MassLoss(journal::MassLoss { on: true, reason }));
            return;
        }
        for name in overdue {
            self.emit_liveness(&name, SidecarStatus::Lost);
        }
    }

    fn freshness_ends(&self) -> impl Iterator<Item = (Millis, &DeliverableId, &String)> {
        self.state.deliverables.iter().flat_map(move |(id, d)| {
            d.checks.iter().filter(|(_, c)| c.verdict.is_some() && !c.stale).filter_map(move |(check, _)| {
                let confirmed = self.signs.confirmed.get(&(id.clone(), check.clone()))?;
                Some((confirmed + self.fresh_for(id, check)?, id, check))
            })
        })
    }

    fn stale_now(&self) -> impl Iterator<Item = (&DeliverableId, &String)> {
        // The grace protects evidence too: nobody could confirm it while this orchestrator was away.
        let now = if self.now < self.signs.grace_until { Millis::MIN } else { self.now };
        self.freshness_ends().filter(move |(at, ..)| *at <= now).map(|(_, id, check)| (id, check))
    }

    pub(super) fn liveness_deadline(&self) -> Option<(Millis, String)> {
        let silence = self.state.agents.keys().filter_map(|name| {
            let (at, status) = self.silence(name)?;
            if status == SidecarStatus::Lost && self.state.mass_loss.is_some() {
                return None;
            }
            Some((at, format!("silence of the sidecar of {name}")))
        });
        let staleness = self
            .freshness_ends()
            .map(|(at, id, check)| (at.max(self.signs.grace_until), format!("evidence of {id} {check} grows stale")));
        silence.chain(staleness).min()
    }
}
