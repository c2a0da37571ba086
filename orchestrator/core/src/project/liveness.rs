//! Signs of life and freshness of evidence: volatile clocks whose expiry becomes events. Most of them silent at once is
//! another matter, see `mass_loss`.
use std::collections::BTreeMap;

use pitwall_proto::{
    journal::{self, event::Body},
    mutant,
    v1::{self, SidecarStatus},
};

use super::Project;
use crate::{
    io::Millis,
    plan::DeliverableId,
    state::{AgentState, State},
};

/// Heartbeat intervals without any message.
pub(super) const LATE_AFTER: i64 = 2;
pub(super) const LOST_AFTER: i64 = 4;
/// Since this process began; a restart begins with a grace for everybody.
#[derive(Debug, Default)]
pub(super) struct Signs {
    heard: BTreeMap<String, Millis>,
    /// When each check was last known to be as its verdict says.
    confirmed: BTreeMap<DeliverableId, BTreeMap<String, Millis>>,
    grace_until: Millis,
    /// When this process began.
    began: Millis,
}

impl Signs {
    /// Agents, deliverables and checks that a new generation does not have.
    pub fn forget_removed(&mut self, state: &State) {
        self.heard.retain(|name, _| state.agents.contains_key(name));
        self.confirmed.retain(|id, checks| {
            let Some(now) = state.deliverables.get(id) else { return false };
            checks.retain(|check, _| now.checks.contains_key(check));
            true
        });
    }

    /// Nobody was silent before then.
    pub fn excuse(&mut self, moment: Millis) {
        self.heard.values_mut().for_each(|heard| *heard = (*heard).max(moment));
    }

    fn confirmed(&self, id: &DeliverableId, check: &str) -> Option<Millis> {
        self.confirmed.get(id)?.get(check).copied()
    }

    fn unconfirm(&mut self, id: &DeliverableId, check: &str) {
        if let Some(checks) = self.confirmed.get_mut(id) {
            checks.remove(check);
        }
    }
}

impl Project {
    /// When this check was last known to be as its verdict says, by this process.
    pub(crate) fn confirmed(&self, id: &DeliverableId, check: &str) -> Option<Millis> {
        self.signs.confirmed(id, check)
    }

    pub(super) fn begin_grace(&mut self) {
        let until = self.now + self.state.plan.windows.start_grace_ms as i64;
        (self.signs.grace_until, self.signs.began) = (until, self.now);
        for (name, agent) in &self.state.agents {
            if reporting(agent) {
                self.signs.heard.insert(name.clone(), self.now);
            }
        }
        for (id, deliverable) in &self.state.deliverables {
            let checks = deliverable.checks.keys().map(|check| (check.clone(), self.now)).collect();
            self.signs.confirmed.insert(id.clone(), checks);
        }
    }

    pub(super) fn heard(&mut self, agent: &str) {
        self.signs.heard.insert(agent.into(), self.now);
        let status = self.state.agents.get(agent).map(|a| a.sidecar_status());
        if matches!(status, Some(SidecarStatus::Late | SidecarStatus::Lost)) {
            self.emit_liveness(agent, SidecarStatus::Live);
        }
        self.end_mass_loss();
    }

    pub(super) fn process_began(&self) -> Millis {
        self.signs.began
    }

    /// When something of it was heard last, by this process.
    pub(super) fn last_heard(&self, agent: &str) -> Option<Millis> {
        self.signs.heard.get(agent).copied()
    }

    pub(super) fn emit_liveness(&mut self, agent: &str, status: SidecarStatus) {
        self.emit(Body::SidecarLiveness(journal::SidecarLiveness { agent: agent.into(), status: status as i32 }));
    }

    pub(super) fn unconfirm(&mut self, id: &DeliverableId, check: &str) {
        self.signs.unconfirm(id, check);
    }

    /// It was seen to be so at that moment. Old news does not make evidence fresh.
    pub(super) fn confirm(&mut self, id: DeliverableId, check: &str, at: Millis) {
        let checks = self.signs.confirmed.entry(id.clone()).or_default();
        let confirmed = checks.get(check).copied().map_or(at, |before| before.max(at));
        checks.insert(check.into(), confirmed);
        let Some(window) = self.fresh_for(&id, check) else { return };
        let stale = confirmed + window <= self.now;
        let known = self.state.deliverables.get(&id).and_then(|d| d.checks.get(check));
        if known.is_some_and(|c| c.verdict.is_some() && c.stale != stale) {
            self.emit_staleness(id, check, stale);
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
    pub(super) fn silence(&self, agent: &str) -> Option<(Millis, SidecarStatus)> {
        let every = self.state.plan.windows.heartbeat_every_ms as i64;
        let heard = *self.signs.heard.get(agent)?;
        let (intervals, status) = match self.state.agents.get(agent)?.sidecar_status() {
            SidecarStatus::Live => (LATE_AFTER, SidecarStatus::Late),
            SidecarStatus::Late => (LOST_AFTER, SidecarStatus::Lost),
            SidecarStatus::Lost | SidecarStatus::NeverConnected | SidecarStatus::Unspecified => return None,
        };
        Some(((heard + every * intervals).max(self.signs.grace_until), status))
    }

    /// Its silence has lasted long enough for it to be lost.
    fn is_overdue(&self, agent: &str) -> bool {
        self.silence(agent).is_some_and(|(at, status)| status == SidecarStatus::Lost && at <= self.now)
    }

    pub(super) fn overdue_sidecars(&self) -> Vec<String> {
        self.state.agents.keys().filter(|name| self.is_overdue(name)).cloned().collect()
    }

    pub(super) fn pass_liveness(&mut self) {
        for name in self.state.agents.keys().cloned().collect::<Vec<_>>() {
            if let Some((at, SidecarStatus::Late)) = self.silence(&name)
                && at <= self.now
            {
                self.emit_liveness(&name, SidecarStatus::Late);
            }
        }
        self.end_mass_loss();
        self.pass_losses();
        let stale: Vec<_> = self.stale_now().map(|(id, check)| (id.clone(), check.clone())).collect();
        for (id, check) in stale {
            self.emit_staleness(id, &check, true);
        }
    }

    fn freshness_ends(&self) -> impl Iterator<Item = (Millis, &DeliverableId, &String)> {
        self.state.deliverables.iter().flat_map(move |(id, d)| {
            d.checks.iter().filter(|(_, c)| c.verdict.is_some() && !c.stale).filter_map(move |(check, _)| {
                let confirmed = self.signs.confirmed(id, check)?;
                Some((confirmed + self.fresh_for(id, check)?, id, check))
            })
        })
    }

    fn stale_now(&self) -> impl Iterator<Item = (&DeliverableId, &String)> {
        let now = self.stale_until();
        self.freshness_ends().filter(move |(at, ..)| *at <= now).map(|(_, id, check)| (id, check))
    }

    /// What was fresh until then is stale by now. The grace protects evidence too: nobody could confirm it while this
    /// orchestrator was away.
    fn stale_until(&self) -> Millis {
        if self.now < self.signs.grace_until || mutant!("stale-shown-green") { Millis::MIN } else { self.now }
    }

    /// Whether this check is stale, though it was not told yet.
    pub(super) fn has_grown_stale(&self, id: &DeliverableId, check: &str) -> bool {
        let ends = self.signs.confirmed(id, check).zip(self.fresh_for(id, check));
        ends.is_some_and(|(confirmed, window)| confirmed + window <= self.stale_until())
    }

    pub(super) fn liveness_deadline(&self) -> Option<(Millis, String)> {
        let silence = self.state.agents.keys().filter_map(|name| {
            let (at, status) = self.silence(name)?;
            if status == SidecarStatus::Lost && self.is_of_mass(name) {
                return None;
            }
            Some((at, format!("silence of the sidecar of {name}")))
        });
        let staleness = self
            .freshness_ends()
            .map(|(at, id, check)| (at.max(self.signs.grace_until), format!("evidence of {id} {check} grows stale")));
        let mass_loss = self.mass_loss_ends().map(|at| (at, "the mass loss has lasted for long".to_owned()));
        silence.chain(staleness).chain(mass_loss).min()
    }
}

/// Called live or late, not lost.
pub(super) fn reporting(agent: &AgentState) -> bool {
    matches!(agent.sidecar_status(), SidecarStatus::Live | SidecarStatus::Late)
}
