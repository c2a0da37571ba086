//! After everything was healed and time went by: everything must have come to rest, at what is true.
use std::collections::BTreeMap;

use pitwall_core::{derive::Seen, plan::DeliverableId, project::Project};
use pitwall_proto::v1::{AgentStatus, CommandState, DeliverableStatus, SidecarStatus};

use super::{
    World,
    plans::{QUOTA_CORES, truth},
    site::Home,
};
use crate::model::{Exemption, FactKey, Invariant, is_end};

impl World {
    pub(super) fn judge(&mut self) {
        self.judge_commands();
        self.judge_facts();
        self.judge_situation();
        self.judge_replay();
    }

    fn judge_commands(&mut self) {
        let now = self.now;
        let all = &self.model.journal.commands;
        let judged = all.len() as u64;
        let open: Vec<String> =
            all.iter().filter(|(_, c)| !is_end(c.last())).map(|(id, c)| format!("{id} is {:?}", c.states)).collect();
        self.model.require_none(Invariant::EveryCommandEnds, judged, now, open);
        let (mut differing, mut judged, mut reopened) = (Vec::new(), 0, 0);
        for (site, model) in self.sites.iter().zip(&self.model.sites).filter(|(s, _)| !s.is_clone) {
            for (id, held) in &model.commands {
                let Some(ledger) = self.model.journal.commands.get(id) else { continue };
                if held.state != ledger.last() && self.model.excused.contains_key(id) {
                    reopened += 1;
                    continue;
                }
                judged += 1;
                // Where one of them only knows that it does not know, the other's word must have reached it; a sidecar
                // whose memory has a hole may know less than it told once.
                let hole = held.state == CommandState::Unknown;
                if !is_end(held.state) || (ledger.last() != held.state && !hole) {
                    differing.push(format!(
                        "{id} is {:?} on the disk of {}, {:?} in the journal",
                        held.state,
                        site.name,
                        ledger.last()
                    ));
                }
            }
        }
        self.model.tally.excused(Exemption::ResultOfAnOlderCopy, reopened);
        self.model.require_none(Invariant::EveryResultArrives, judged, now, differing);
    }

    fn judge_facts(&mut self) {
        let lineage = self.store.lineage.clone();
        let mut owed: BTreeMap<FactKey, Vec<String>> = BTreeMap::new();
        for site in 0..self.sites.len() {
            for (key, place) in self.model.sites[site].owed_to(&lineage, &mut self.model.tally) {
                owed.entry(key.clone()).or_default().push(place);
            }
        }
        let judged = owed.values().map(|places| places.len() as u64).sum();
        let journaled = &self.model.journal.facts;
        let (mut missing, mut unseen) = (Vec::new(), 0);
        for (key, places) in owed {
            let times = places.len() as u64;
            let there = journaled.get(&key).copied().unwrap_or(0);
            // A history that does not know the agent takes no end of it: it is told of both once more, in order.
            let began_anew = self.store.lineages > 1 || self.removed;
            let least = if began_anew && matches!(key, FactKey::Exited { .. }) { 0 } else { times };
            unseen += times.saturating_sub(there.max(least));
            if there < least {
                missing.push(format!("{key:?}: {there} are in the journal, durable were {}", places.join("; ")));
            }
        }
        self.model.tally.excused(Exemption::NeverSeenAlive, unseen);
        self.model.require_none(Invariant::EveryDurableFactArrives, judged, self.now, missing);
        let untold = self.sites.iter().zip(&self.model.sites).filter(|(s, m)| !s.is_clone && m.untold > 0);
        let untold = untold.map(|(s, m)| format!("{} facts of {} were dropped and never told", m.untold, s.name));
        let untold: Vec<String> = untold.collect();
        self.model.require_none(Invariant::OverflowIsCounted, 1, self.now, untold);
    }

    fn judge_situation(&mut self) {
        let now = self.now;
        let told = |home: &Home| Some(format!("{} is held at {}", home.agent.name, home.held_at()?));
        let held: Vec<String> = self.homes.iter().filter_map(told).collect();
        self.model.require_none(Invariant::LeasesEndWithTheirOwners, self.homes.len() as u64, now, held);
        let Some(core) = self.newest().and_then(|id| self.orchestrators[id].as_ref()).map(|o| o.core()) else {
            return self.model.breach(Invariant::SituationEqualsTruth, now, "no orchestrator runs".into());
        };
        let mut wrong = Vec::new();
        let mut judged = 0;
        if core.state().mass_loss.is_some() {
            wrong.push("most sidecars are shown as silent".into());
        }
        let open =
            core.state().leased_commands().map(|c| format!("the lease of {} is shown as in effect", c.issued.id));
        wrong.extend(open);
        for home in &self.homes {
            wrong.extend(self.wrong_of_files(core, home, &mut judged));
            wrong.extend(self.wrong_of_agent(core, home, &mut judged));
        }
        self.model.require_none(Invariant::SituationEqualsTruth, judged, now, wrong);
    }

    /// Every check, and what follows of them, against the files of the agent.
    fn wrong_of_files(&self, core: &Project, home: &Home, judged: &mut u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let (name, files) = (&home.agent.name, &home.agent.files);
        for (deliverable, needed) in truth(name) {
            *judged += 1;
            let id = DeliverableId::new(name, deliverable);
            let Some(shown) = core.derived().deliverables.get(&id) else {
                wrong.push(format!("{name}/{deliverable} is not shown"));
                continue;
            };
            let there = needed.iter().filter(|f| files.contains(*f)).count();
            let fits = match shown.status {
                DeliverableStatus::Verified => there == needed.len(),
                DeliverableStatus::Regressed => there < needed.len(),
                DeliverableStatus::Partial => there > 0 && there < needed.len(),
                DeliverableStatus::Pending => there == 0,
                DeliverableStatus::Unknown | DeliverableStatus::Unspecified => false,
            };
            let verified = if there == needed.len() { 1.0 } else { there as f64 / needed.len() as f64 };
            if !fits || (shown.verified - verified).abs() > 0.011 {
                wrong.push(format!("{id} is {:?}, verified {}, its files are {files:?}", shown.status, shown.verified));
            }
            for check in &shown.checks {
                let passed = matches!(check.outcome, Seen::Passed);
                let file = check.id.trim_start_matches("file:");
                if passed != files.contains(file) {
                    wrong.push(format!("{id} {} is {:?}, its files are {files:?}", check.id, check.outcome));
                }
            }
        }
        wrong
    }

    fn wrong_of_agent(&self, core: &Project, home: &Home, judged: &mut u64) -> Vec<String> {
        let mut wrong = Vec::new();
        *judged += 1;
        let (name, alive) = (&home.agent.name, home.agent.root);
        let Some(agent) = core.state().agents.get(name) else { return vec![format!("agent {name} is not shown")] };
        if agent.sidecar_status() != SidecarStatus::Live {
            wrong.push(format!("the sidecar of {name} is {:?}", agent.sidecar_status()));
        }
        let exited = agent.exited.is_some();
        // One that ended before anybody saw it was never there.
        if exited == alive.is_some() && (exited || agent.seen.is_some()) {
            wrong.push(format!("agent {name} has {alive:?}, told to have exited: {exited}"));
        }
        let root = agent.seen.as_ref().map(|s| (s.root.pid, s.root.start_ticks));
        if alive.is_some() && root != alive {
            wrong.push(format!("agent {name} is {alive:?}, seen was {root:?}"));
        }
        if let Some((_, why)) = &agent.workspace_absent {
            wrong.push(format!("the workspace of {name} is shown as absent: {why}"));
        }
        let (claims, shown) = (home.agent.claim.as_ref(), agent.claim.as_ref());
        if claims.map(|c| &c.text) != shown.map(|c| &c.text) {
            wrong.push(format!("{name} claims {claims:?}, shown is {shown:?}"));
        }
        let (uses, told) = (home.agent.uses(), !agent.quotas.is_empty());
        if (uses > QUOTA_CORES) != told {
            wrong.push(format!("{name} uses {uses} cores, its quota is shown as exceeded: {told}"));
        }
        let done = truth(name).iter().all(|(_, needed)| needed.iter().all(|f| home.agent.files.contains(f)));
        let status = core.derived().agents.get(name).map_or(AgentStatus::Unspecified, |a| a.status);
        let fits = match status {
            AgentStatus::Done => done,
            AgentStatus::Exited => !done && alive.is_none(),
            AgentStatus::Missing | AgentStatus::Expected => agent.seen.is_none(),
            AgentStatus::Lost | AgentStatus::Unspecified => false,
            _ => !done && alive.is_some(),
        };
        if !fits {
            wrong.push(format!("agent {name} is shown as {status:?}; alive: {alive:?}, done: {done}"));
        }
        wrong
    }

    fn judge_replay(&mut self) {
        let Some(owner) = self.newest().and_then(|id| self.orchestrators[id].as_ref()) else { return };
        let decided = owner.decided();
        let events = self.store.events.iter().cloned().chain(decided);
        let again = Project::replay("sim", &self.store.lineage, owner.epoch, events).state_digest();
        let live = owner.core().state_digest();
        let now = self.now;
        self.model.require(again == live, Invariant::ReplayEqualsLive, now, || {
            "the journal replayed is another state than the live one".into()
        });
    }
}
