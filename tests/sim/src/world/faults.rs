//! What goes wrong, and how. Each run draws which faults it has and how often; each strikes just before a step.
use std::collections::BTreeMap;

use pitwall_proto::v1;
use pitwall_sidecar_core::io::{Action, Input};

use super::{Event, World, disk::Write, orchestrator::owner, plans};
use crate::{
    dice::Dice,
    matrix::{FAULTS, Fault, Side, Step, impossible},
    model::{Exemption, SetBack},
};

/// So many claims of this many names overflow a spool.
const FLOOD: (usize, usize) = (11, 900);

/// Which faults a run has.
#[derive(Clone, Debug)]
pub struct Swarm {
    faults: Vec<Fault>,
    one_in: u64,
    /// How often the rare ones have struck.
    struck: BTreeMap<Fault, u32>,
}

impl Swarm {
    pub fn none() -> Self {
        Self { faults: Vec::new(), one_in: 0, struck: BTreeMap::new() }
    }

    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5eed_5eed_5eed_5eed);
        let mut faults: Vec<Fault> = FAULTS.iter().copied().filter(|_| dice.one_in(3)).collect();
        // It is dear.
        let floods = dice.one_in(8);
        faults.retain(|f| *f != Fault::SpoolFlood || floods);
        let one_in = dice.pick(&[40, 80, 160]).unwrap_or(100);
        Self { faults, one_in, struck: BTreeMap::new() }
    }

    pub fn only(faults: &[Fault], one_in: u64) -> Self {
        Self { faults: faults.to_vec(), one_in, struck: BTreeMap::new() }
    }

    fn most(fault: Fault) -> u32 {
        match fault {
            Fault::StateLost | Fault::StateOld | Fault::BitRot | Fault::Restored => 2,
            Fault::StateCloned | Fault::SpoolFlood => 1,
            Fault::PausedOwner | Fault::Terminated | Fault::Blackout | Fault::AgentRemoved => 3,
            Fault::Reboot | Fault::UnsyncedLost | Fault::TornRecord => 4,
            _ => 12,
        }
    }
}

impl World {
    /// Something may go wrong just before this step. `false`: whoever was to take it is gone, or is to take it later.
    pub(super) fn strike(&mut self, step: Step, side: Side, who: usize) -> bool {
        if self.converging || self.swarm.faults.is_empty() || !self.dice.one_in(self.swarm.one_in) {
            return true;
        }
        let swarm = &self.swarm;
        let fits = |f: &Fault| {
            impossible(step, *f, side).is_none() && swarm.struck.get(f).copied().unwrap_or(0) < Swarm::most(*f)
        };
        let fit: Vec<Fault> = self.swarm.faults.iter().copied().filter(fits).collect();
        let Some(fault) = self.dice.pick(&fit) else { return true };
        if side == Side::Sidecar && self.sites[who].is_clone && fault != Fault::Crash {
            return true;
        }
        // Not covered: a state that was set back and ends once more before it has met its orchestrator cannot tell its
        // own numbers of facts from those that were given before.
        let ends = matches!(
            fault,
            Fault::Crash
                | Fault::Terminated
                | Fault::UnsyncedLost
                | Fault::TornRecord
                | Fault::BitRot
                | Fault::Reboot
                | Fault::StateOld
        );
        if side == Side::Sidecar && ends && self.sites[who].set_back {
            self.model.tally.excused(Exemption::NumbersBeforeTheyMet, 1);
            return true;
        }
        *self.swarm.struck.entry(fault).or_default() += 1;
        self.matrix.count(step, fault, side);
        let name = match side {
            Side::Orchestrator => owner(who),
            Side::Sidecar => self.sites[who].name.clone(),
        };
        self.story.note(self.now, &name, "fault", &[fault as u8, step as u8]);
        self.tell(&name, || format!("*** {fault:?} before {step:?}"));
        match side {
            Side::Orchestrator => self.strike_orchestrator(fault, who),
            Side::Sidecar => self.strike_site(fault, who),
        }
    }

    fn strike_orchestrator(&mut self, fault: Fault, id: usize) -> bool {
        match fault {
            Fault::Crash | Fault::UnsyncedLost | Fault::Reboot => {
                self.orchestrator_dies(id, fault == Fault::Crash);
                return false;
            }
            Fault::DiskFull => self.store.full_until = self.now + self.dice.between(200, 6_000),
            Fault::Terminated => self.drain(id),
            Fault::Partition | Fault::Delay | Fault::OneWay | Fault::StreamCut => {
                let site = self.dice.below(self.homes.len());
                self.strike_link(fault, site);
            }
            Fault::Blackout => self.black_out(),
            Fault::ClockAhead | Fault::ClockBack => self.owner_host.wall_skew = self.jump(fault),
            Fault::Suspend => {
                let until = self.now + self.dice.between(500, 20_000);
                return self.freeze_owner(id, until);
            }
            Fault::PausedOwner => {
                let until = self.now + self.dice.between(3_000, 25_000);
                let after = self.dice.between(500, 2_500);
                self.orchestrator_starts_in(after);
                return self.freeze_owner(id, until);
            }
            Fault::Restored => {
                self.restore();
                return false;
            }
            Fault::BitRot => {
                self.rot_the_journal();
                return false;
            }
            Fault::PlanChange | Fault::AgentRemoved => {
                let other = self.dice.below(plans::PLANS);
                self.plan = if fault == Fault::AgentRemoved { plans::WITHOUT_B } else { other };
                if let Some(id) = self.newest() {
                    self.give_plan(id);
                    self.flows.removed(self.plan == plans::WITHOUT_B);
                    self.removed |= self.plan == plans::WITHOUT_B;
                }
            }
            Fault::TornRecord
            | Fault::StateLost
            | Fault::StateOld
            | Fault::StateCloned
            | Fault::AgentExit
            | Fault::AgentReturn
            | Fault::WorkspaceGone
            | Fault::SpoolFlood => {}
        }
        true
    }

    /// What it was about to do it does when it goes on.
    fn freeze_owner(&mut self, id: usize, until: u64) -> bool {
        if let Some(orchestrator) = self.orchestrators[id].as_mut() {
            orchestrator.freeze(until);
        }
        self.schedule_orchestrator(id);
        false
    }

    fn jump(&mut self, fault: Fault) -> i64 {
        let by = self.dice.between(1_000, 7_200_000) as i64;
        if fault == Fault::ClockAhead { by } else { -by }
    }

    /// Nobody hears of anybody for a while.
    fn black_out(&mut self) {
        let until = self.now + self.dice.between(8_000, 40_000);
        for site in 0..self.sites.len() {
            let link = &mut self.sites[site].link;
            (link.up_blocked_until, link.down_blocked_until) = (until, until);
            for stream in self.streams_of_site(site) {
                self.watch_by_keepalive(stream);
            }
        }
    }

    /// More than a spool holds, while nothing can be told: large claims of deliverables that nobody asked for.
    fn flood(&mut self, site: usize) {
        let until = self.now + self.dice.between(5_000, 15_000);
        self.sites[site].link.up_blocked_until = until;
        let name = |n: usize| format!("{n:04}{}", "x".repeat(980));
        for n in 0..FLOOD.0 {
            let deliverables = (0..FLOOD.1).map(|d| (name(d), 0.5)).collect();
            let claim = v1::Claim { text: format!("flood {n} at {}", self.now), deliverables, ..Default::default() };
            self.feed(site, Input::Claim(Ok(claim)));
        }
        let last = v1::Claim { text: format!("after the flood at {}", self.now), ..Default::default() };
        self.homes[self.sites[site].home].agent.claim = Some(last.clone());
        self.feed(site, Input::Claim(Ok(last)));
    }

    fn orchestrator_dies(&mut self, id: usize, killed: bool) {
        let waiting = self.orchestrators[id].as_mut().map(|o| std::mem::take(&mut o.in_flight)).unwrap_or_default();
        let owns = self.orchestrators[id].as_ref().is_some_and(|o| o.epoch == self.store.epoch);
        for (_, events) in waiting {
            // What the engine had begun it ends, though nobody is left to hear of it.
            if !killed || !owns || self.store.full_until > self.now || self.dice.one_in(2) {
                break;
            }
            self.commit(&events);
        }
        self.orchestrator_ends(id, killed, "");
        let after = self.dice.between(50, 8_000);
        self.orchestrator_starts_in(after);
    }

    fn strike_link(&mut self, fault: Fault, site: usize) {
        let until = self.now + self.dice.between(500, 40_000);
        let one_way = self.dice.one_in(2);
        let link = &mut self.sites[site].link;
        match fault {
            Fault::Partition => (link.up_blocked_until, link.down_blocked_until) = (until, until),
            Fault::OneWay if one_way => link.up_blocked_until = until,
            Fault::OneWay => link.down_blocked_until = until,
            Fault::Delay => link.slow_until = until,
            _ => {}
        }
        for stream in self.streams_of_site(site) {
            if fault == Fault::StreamCut {
                self.cut_stream(stream);
            } else if fault != Fault::Delay {
                self.watch_by_keepalive(stream);
            }
        }
    }

    fn strike_site(&mut self, fault: Fault, site: usize) -> bool {
        match fault {
            Fault::Crash => self.site_dies(site, true),
            Fault::Terminated => {
                if !self.sites[site].stopping {
                    self.feed(site, Input::Stop);
                    // It ends the agent that it started; whoever starts it again starts that too.
                    let after = self.dice.between(5_000, 20_000);
                    self.at(after, Event::AgentReturns(site));
                }
                return true;
            }
            Fault::UnsyncedLost | Fault::TornRecord => {
                self.begin_write(site);
                let part = if fault == Fault::TornRecord { self.dice.between(1, 2_000) as usize } else { 0 };
                self.sites[site].disk.lose_unsynced(part);
                self.reboot(site);
            }
            Fault::Reboot => self.reboot(site),
            Fault::BitRot => {
                self.site_dies(site, true);
                let bits = self.sites[site].disk.bytes.len() * 8;
                if bits > 0 {
                    let bit = self.dice.below(bits);
                    self.sites[site].disk.bytes[bit / 8] ^= 1 << (bit % 8);
                    self.sites[site].rotten = Some(self.model.sites[site].instance.clone());
                    self.sites[site].told_damage = false;
                }
                self.set_back(site, SetBack::Damaged);
            }
            Fault::StateLost => {
                self.site_dies(site, true);
                self.sites[site].disk.bytes.clear();
                self.set_back(site, SetBack::Replaced);
            }
            Fault::StateOld => {
                self.site_dies(site, true);
                // Not covered: going back and forth between copies of histories that have parted.
                let chosen = self.dice.below(self.sites[site].copies.len());
                self.sites[site].copies.truncate(chosen + 1);
                if let Some(copy) = self.sites[site].copies.back().cloned() {
                    self.sites[site].disk.bytes = copy;
                    (self.sites[site].set_back, self.sites[site].met) = (true, false);
                    self.set_back(site, SetBack::Replaced);
                }
            }
            Fault::StateCloned => {
                self.clone_state(site);
                return true;
            }
            Fault::DiskFull => {
                self.sites[site].disk.full_until = self.now + self.dice.between(200, 9_000);
                return true;
            }
            Fault::ClockAhead | Fault::ClockBack => {
                let skew = self.jump(fault);
                self.homes[self.sites[site].home].host.wall_skew = skew;
                return true;
            }
            Fault::Suspend => {
                self.homes[self.sites[site].home].host.frozen_until = self.now + self.dice.between(500, 20_000);
                self.model.leases[site].not_running();
                let gen_ = self.gen_of(site);
                if let Some(process) = self.sites[site].process.as_mut() {
                    process.postpone();
                }
                self.at(1, Event::SiteSteps { site, gen_ });
                return false;
            }
            Fault::Partition | Fault::Delay | Fault::OneWay | Fault::StreamCut => {
                self.strike_link(fault, site);
                return true;
            }
            Fault::AgentExit => {
                self.homes[self.sites[site].home].agent.end();
                let after = self.dice.between(500, 20_000);
                self.at(after, Event::AgentReturns(site));
                return true;
            }
            Fault::AgentReturn => {
                self.homes[self.sites[site].home].agent.end();
                self.homes[self.sites[site].home].agent.begin();
                return true;
            }
            Fault::WorkspaceGone => {
                self.homes[self.sites[site].home].workspace_gone = true;
                self.shows_workspace(site);
                let after = self.dice.between(1_000, 25_000);
                self.at(after, Event::WorkspaceReturns(site));
                return true;
            }
            Fault::SpoolFlood => {
                self.flood(site);
                return true;
            }
            Fault::PausedOwner | Fault::Restored | Fault::PlanChange | Fault::AgentRemoved | Fault::Blackout => {
                return true;
            }
        }
        false
    }

    /// The write that was about to begin has begun.
    fn begin_write(&mut self, site: usize) {
        let write = match self.sites[site].process.as_ref().and_then(|p| p.next_action()) {
            Some(Action::Persist { batch, bytes }) => (*batch, Write::Append(bytes.clone())),
            Some(Action::Rewrite { batch, bytes }) => (*batch, Write::Replace(bytes.clone())),
            _ => return,
        };
        self.sites[site].disk.unsynced = Some(write);
    }

    /// The process is gone; what it gave to the kernel is not.
    pub(super) fn site_dies(&mut self, site: usize, synced: bool) {
        if synced {
            self.settle_write(site);
        }
        for stream in self.streams_of_site(site) {
            if self.streams[&stream].site_open {
                self.site_hangs_up(stream, synced);
            }
        }
        self.sites[site].process = None;
        self.model.leases[site].not_running();
        let after = self.dice.between(20, 12_000);
        if !self.sites[site].is_clone {
            self.site_starts_in(site, after);
        }
    }

    fn reboot(&mut self, site: usize) {
        for other in 0..self.sites.len() {
            if self.sites[other].home == self.sites[site].home && self.sites[other].process.is_some() {
                self.site_dies(other, false);
                self.sites[other].disk.unsynced = None;
            }
        }
        let now = self.now;
        self.homes[self.sites[site].home].host.reboot(now);
        self.homes[self.sites[site].home].agent.rebooted();
        self.model.leases[site].forget_all();
        let bytes = self.sites[site].disk.bytes.clone();
        self.model.sites[site].read_by_another_process(&bytes);
        let after = self.dice.between(500, 15_000);
        self.at(after, Event::AgentReturns(site));
    }
}
