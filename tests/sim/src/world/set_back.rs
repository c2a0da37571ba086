//! Memories that are not what they were: state files that are lost, older, damaged or copied, and a journal from a backup.
use std::collections::BTreeSet;

use pitwall_core::{
    io::{Action as CoreAction, Input},
    project::Project,
};

use super::{
    Event, World,
    site::{HELD, Site},
};
use crate::model::{Exemption, Journal, SetBack, is_end};

impl World {
    /// The server is stopped, and starts from a backup: an earlier part of the journal, with a lineage of its own.
    pub(super) fn restore(&mut self) {
        let all = self.store.events.len();
        let kept = self.dice.between(all as u64 / 2, all as u64) as usize;
        self.restore_up_to(kept);
    }

    /// A row of the journal is not what its checksum says: no owner goes on with it, and an operator restores a backup that
    /// is older than the damage.
    pub(super) fn rot_the_journal(&mut self) {
        let rotten = self.dice.below(self.store.events.len());
        let event = rotten + 1;
        self.tell("owner", || format!("event {event} of the journal fails its checksum: it will not start"));
        let oldest = rotten - rotten / 4;
        let kept = self.dice.between(oldest as u64, rotten as u64) as usize;
        self.restore_up_to(kept);
    }

    fn restore_up_to(&mut self, kept: usize) {
        for id in 0..self.orchestrators.len() {
            if self.orchestrators[id].is_some() {
                self.orchestrator_ends(id, true, "");
            }
        }
        let all = self.store.events.len();
        self.store.events.truncate(kept);
        self.store.lineages += 1;
        let fresh = self.dice.any();
        self.store.lineage = format!("{fresh:016x}");
        self.tell("owner", || format!("restored from a backup: {kept} of {all} events"));
        self.mark_restored();
        let events = self.store.events.clone();
        self.model.journal = Journal::default();
        self.model.journal.append(&events);
        let journal = &self.model.journal;
        self.model.promised.retain(|_, id| journal.commands.contains_key(id));
        let after = self.dice.between(500, 5_000);
        self.orchestrator_starts_in(after);
    }

    /// As the tool that restores does, before any server starts.
    fn mark_restored(&mut self) {
        let epoch = self.store.epoch;
        let mut core = Project::replay("sim", &self.store.lineage, epoch, self.store.events.iter().cloned());
        let now = core.state().at;
        for action in core.handle(now, Input::Restored) {
            if let CoreAction::Append { events, .. } = action {
                self.store.events.extend(events);
            }
        }
    }

    /// The file of a sidecar that does not run is another one now.
    pub(super) fn set_back(&mut self, site: usize, how: SetBack) {
        let bytes = self.sites[site].disk.bytes.clone();
        let before = self.model.sites[site].commands.clone();
        self.model.sites[site].set_back(&bytes, how, &mut self.model.tally);
        // What the older file takes for unfinished is gone on with where nothing speaks against it.
        let after = &self.model.sites[site].commands;
        let reopened = after.iter().filter(|(id, now)| {
            let same = before.get(*id).is_some_and(|b| b.state == now.state && b.step == now.step);
            !is_end(now.state) && !same && how == SetBack::Replaced
        });
        for (id, _) in reopened {
            self.model.excused.insert(id.clone(), Exemption::ReopenedByAnOlderCopy);
        }
        if how == SetBack::Replaced {
            self.sites[site].rotten = None;
        }
        self.model.leases[site].retain(&bytes);
        let home = &mut self.homes[self.sites[site].home];
        for resource in HELD {
            let limit = self.model.sites[site].limits.get(&(resource as i32));
            let value = home.agent.stands(resource).to_owned();
            let recorded = limit.and_then(|l| l.hold.as_ref());
            let known = recorded.is_some_and(|h| h.new == value && h.inode == home.agent.inode);
            if home.is_held(resource) && !known {
                home.orphans.insert((home.agent.inode, value));
            }
        }
    }

    /// Somebody copies the state directory, and starts another sidecar of the same agent with it.
    pub(super) fn clone_state(&mut self, site: usize) {
        let original = &self.sites[site];
        let mut clone = Site::new(&format!("{}'", original.name), original.home);
        clone.disk.bytes = original.disk.bytes.clone();
        clone.is_clone = true;
        clone.passed = original.passed.clone();
        let home = &mut self.homes[original.home];
        home.twins = true;
        let model = self.model.sites[site].copy_of(&clone.disk.bytes);
        self.model.sites[site].copied();
        // Two sidecars of one state beside each other go on with what was open.
        for (id, _) in model.commands.iter().filter(|(_, c)| !is_end(c.state)) {
            self.model.excused.entry(id.clone()).or_insert(Exemption::TwinsOfOneState);
        }
        self.sites.push(clone);
        self.model.sites.push(model);
        self.model.leases.push(Default::default());
        let id = self.sites.len() - 1;
        self.at(100, Event::SiteStarts(id));
        let after = self.dice.between(3_000, 20_000);
        self.at(after, Event::CloneEnds(id));
    }

    pub(super) fn clone_ends(&mut self, site: usize) {
        if self.sites[site].process.is_some() {
            self.site_dies(site, true);
        }
        if !std::mem::replace(&mut self.sites[site].retired, true) {
            self.model.sites[site].thrown_away(&mut self.model.tally);
        }
    }

    /// Its orchestrator takes it for one of two, or it was one of two.
    fn is_superseded(&self, site: usize) -> bool {
        let model = &self.model.sites[site];
        let connected = self.model.journal.connected.get(&model.agent);
        connected.is_some_and(|(instance, life)| *instance == model.instance && *life > model.life)
    }

    /// From here on nothing goes wrong, and what had is repaired as an operator would.
    pub(super) fn heal(&mut self) {
        self.converging = true;
        self.tell("world", || "*** everything is healed".into());
        self.store.full_until = 0;
        let twins: BTreeSet<usize> = (0..self.homes.len()).filter(|home| self.homes[*home].twins).collect();
        for site in 0..self.sites.len() {
            if self.sites[site].is_clone {
                self.clone_ends(site);
                continue;
            }
            self.sites[site].disk.full_until = 0;
            self.sites[site].link = Default::default();
            if twins.contains(&self.sites[site].home) || self.is_superseded(site) {
                self.gets_a_directory_of_its_own(site);
            }
            self.workspace_returns(site);
            if self.sites[site].process.is_none() {
                self.site_starts_in(site, 100);
            }
        }
        for home in &mut self.homes {
            home.twins = false;
        }
        self.at(25_000, Event::OperatorRepairs);
        self.plan = super::plans::RESTING;
        match self.newest() {
            Some(id) => self.give_plan(id),
            None => self.orchestrator_starts_in(10),
        }
    }

    fn gets_a_directory_of_its_own(&mut self, site: usize) {
        let name = self.sites[site].name.clone();
        self.tell(&name, || "the operator gives it a state directory of its own".into());
        self.site_dies(site, true);
        self.sites[site].disk.bytes.clear();
        self.set_back(site, SetBack::Replaced);
        self.site_starts_in(site, 100);
    }

    /// What an orchestrator says only when it goes on again after the rest was healed.
    pub(super) fn operator_repairs(&mut self) {
        for site in 0..self.sites.len() {
            if !self.sites[site].is_clone && self.is_superseded(site) {
                self.gets_a_directory_of_its_own(site);
            }
        }
    }

    pub(super) fn workspace_returns(&mut self, site: usize) {
        if std::mem::take(&mut self.homes[self.sites[site].home].workspace_gone) {
            let name = self.sites[site].name.clone();
            self.tell(&name, || "the workspace is there again".into());
            self.shows_workspace(site);
        }
    }
}
