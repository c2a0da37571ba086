//! What a new process of the sidecar takes over from the earlier ones, and from when on.
//!
//! A state file may have been set back, or copied, and then says of commands that they are unfinished which ended long ago.
//! So whatever an earlier process had not ended rests: nothing of it is begun or gone on with before a welcome has
//! said that this state is the newest there was. If it is not, all of it ends UNKNOWN. Leases do not rest, as they end by
//! themselves in any case; those of a state that is not the newest are undone.
//!
//! A directory that lies at another place than when it was written was moved or copied: nothing of it is gone on with at
//! all, and the agent is started only once the orchestrator has welcomed this sidecar. It counts as moved until then, through
//! any number of processes.
//!
//! Not recognised: a copy, or a set-back, of everything including the place, whose original never told of what it did since.
use std::collections::BTreeSet;

use pitwall_proto::{
    state::{self, record::Body},
    v1::{self, CommandState, LeaseState},
};

use super::{Core, commands::is_terminal};
use crate::{
    clock,
    io::{Action, Identity},
    kept::{Kept, Stated as _},
};

/// Left by earlier processes, until it is known whether their state was the newest.
#[derive(Debug)]
pub(super) struct Resting {
    commands: BTreeSet<String>,
    leases: BTreeSet<String>,
    /// No orchestrator has welcomed this process yet.
    unconfirmed: bool,
    /// Why the agent is not started yet.
    start_held: Option<String>,
}

impl Resting {
    pub fn recovered(kept: &Kept, identity: &Identity) -> Self {
        let is_lease = |id: &String| kept.leases.contains_key(id);
        let open = kept.commands.values().filter(|c| !is_terminal(c.state())).map(|c| c.id.clone());
        let commands = open.filter(|id| !is_lease(id)).collect();
        let start_held = if moved(kept, identity) {
            Some("its state directory was moved or copied".to_owned())
        } else {
            kept.life.only_observes.then(|| "another sidecar has the same state".to_owned())
        };
        Self { commands, leases: kept.leases.keys().cloned().collect(), unconfirmed: true, start_held }
    }

    pub fn rests(&self, command: &str) -> bool {
        self.commands.contains(command)
    }
}

/// Written at another place than this one.
pub(super) fn moved(kept: &Kept, identity: &Identity) -> bool {
    let (before, now) = (&kept.life.place, &identity.place);
    !before.is_empty() && !now.is_empty() && before != now
}

impl Core {
    pub(super) fn hello(&self) -> v1::Hello {
        let cursor = &self.kept.cursor;
        let unfinished = || self.kept.commands.values().filter(|c| !c.acked);
        let held = unfinished().map(|c| v1::HeldCommand { id: c.id.clone(), state: c.state });
        v1::Hello {
            project: self.identity.project.clone(),
            agent: self.identity.agent.clone(),
            instance: self.kept.life.instance.clone(),
            life: self.kept.life.life,
            host: Some(self.identity.host.clone()),
            incarnation: self.presence.incarnation,
            version: self.identity.version.clone(),
            capabilities: self.identity.capabilities.clone(),
            process: format!("{:016x}", clock::Jitter::new(self.identity.seed).up_to(u64::MAX)),
            place: self.identity.place.clone(),
            resume: Some(v1::ResumePoint {
                lineage: cursor.lineage.clone(),
                command_cursor: cursor.command_cursor,
                in_flight: unfinished().map(|c| c.id.clone()).collect(),
                held: held.collect(),
                active_leases: self.kept.leases.keys().cloned().collect(),
                fact_acked: self.kept.spool.acked,
                last_fact: self.kept.spool.last_seq,
                generation: self.kept.plan.as_ref().map_or(0, |p| p.generation),
                epoch: cursor.epoch,
            }),
        }
    }

    /// May the shell start the agent right away? Else it is told when.
    pub fn starts_agent_at_once(&self) -> bool {
        self.resting.start_held.is_none()
    }

    /// At the start of this process.
    pub(super) fn rest(&mut self) {
        if let Some(why) = self.resting.start_held.clone() {
            self.log(true, format!("{why}: the agent is not started until the orchestrator has welcomed this sidecar"));
        }
        if self.was_moved {
            self.give_up_resting("the sidecar's state directory was moved or copied");
            self.forget_acts();
        }
    }

    /// The first welcome tells whether this state is the newest there was.
    pub(super) fn resumed(&mut self, welcome: &v1::Welcome) {
        if welcome.newest_life > self.kept.life.life {
            let life = state::Life { life: welcome.newest_life + 1, ..self.kept.life.clone() };
            self.life = self.record(Body::Life(life));
        }
        if !std::mem::take(&mut self.resting.unconfirmed) {
            return;
        }
        if !welcome.outdated.is_empty() {
            self.log(true, format!("the state is not the newest there was: {}", welcome.outdated));
            self.give_up_resting("the sidecar's state is older than what it did");
            self.forget_acts();
            for id in std::mem::take(&mut self.resting.leases) {
                self.end_lease(&id, LeaseState::Ended, "the sidecar's state is not the newest there was");
            }
        }
        self.resting.commands.clear();
    }

    fn give_up_resting(&mut self, why: &str) {
        for id in std::mem::take(&mut self.resting.commands) {
            self.step(&id, CommandState::Unknown, format!("{why}: it may or may not have taken effect"));
        }
    }

    /// Welcomed, and not to observe only: from now on the directory belongs where it lies.
    pub(super) fn start_held_agent(&mut self) {
        if moved(&self.kept, &self.identity) {
            let place = self.identity.place.clone();
            self.life = self.record(Body::Life(state::Life { place, ..self.kept.life.clone() }));
        }
        if self.resting.start_held.take().is_some() {
            self.out.push(Action::StartAgent);
        }
    }
}
