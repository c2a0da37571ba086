//! One sidecar beside its agent: carries out the core's actions one at a time, so that anything may strike between two.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pitwall_proto::v1::{self, Resource};
use pitwall_sidecar_core::{
    Core,
    io::{Action, Identity, Input},
    kept,
};

use super::{
    Event, World,
    agent::{Agent, Host, UNLIMITED},
    disk::Disk,
    net::Link,
    steps::step_of,
};
use crate::{
    matrix::{Side, Step},
    model::{CheckName, SetBack},
};

const RUNGS: [&str; 3] = ["throttle.cpu.cgroup2", "throttle.memory.cgroup2", "kill"];
/// What agents are held below here.
pub const HELD: [Resource; 2] = [Resource::Cpu, Resource::Memory];

pub struct Process {
    pub gen_: u64,
    pub core: Core,
    /// With the moment at which each was decided: what it says of ages holds as of then.
    pub actions: VecDeque<(u64, Action)>,
    pub inputs: VecDeque<Input>,
    /// The session whose messages its core takes.
    pub hears: Option<u64>,
    scheduled: bool,
    wakes_at: Option<u64>,
    /// The agent's root is a child of this process.
    pub child: Option<(i32, u64)>,
}

/// A cancel that came in time: by so many samples of the same process from now its command has ended.
pub struct Cancel {
    pub id: String,
    pub of: u64,
    pub samples: u8,
    /// By a disk that was full.
    pub put_off: bool,
}

/// A machine, and the agent on it.
pub struct Home {
    pub agent: Agent,
    pub host: Host,
    /// A second sidecar of the same state is there, and no operator has said yet which of them goes on.
    pub twins: bool,
    /// Limits whose record was lost with a state directory, by cgroup: nobody knows of them.
    pub orphans: BTreeSet<(u64, String)>,
    /// What the agent works in cannot be reached.
    pub workspace_gone: bool,
}

impl Home {
    pub fn new(name: &str, launched: bool) -> Self {
        Self {
            agent: Agent::new(name, launched),
            host: Host::new(name),
            twins: false,
            orphans: BTreeSet::new(),
            workspace_gone: false,
        }
    }

    pub fn is_limited(&self, resource: Resource) -> bool {
        self.agent.stands(resource) != UNLIMITED
    }

    /// Held by a limit that somebody remembers.
    pub fn is_held(&self, resource: Resource) -> bool {
        let value = self.agent.stands(resource);
        self.is_limited(resource) && !self.orphans.contains(&(self.agent.inode, value.to_owned()))
    }

    /// The same of any resource; at which value.
    pub fn held_at(&self) -> Option<&str> {
        HELD.into_iter().find(|r| self.is_held(*r)).map(|r| self.agent.stands(r))
    }
}

pub struct Site {
    pub name: String,
    pub home: usize,
    pub disk: Disk,
    pub link: Link,
    pub process: Option<Process>,
    pub is_clone: bool,
    lives: u64,
    /// Older copies of the state file, as somebody may have made them.
    pub copies: VecDeque<Vec<u8>>,
    /// By check: when it was last seen to pass.
    pub passed: BTreeMap<CheckName, u64>,
    pub start_pending: bool,
    /// Its file was replaced by an older one, and no orchestrator has welcomed it since.
    pub set_back: bool,
    /// It was welcomed; what it makes of that is not durable yet.
    pub met: bool,
    /// The session that was welcomed last, and of which history.
    pub welcomed: Option<(u64, String)>,
    /// A bit of its file has flipped: the instance that it was of, until another one has said hello.
    pub rotten: Option<String>,
    /// It said on stderr that its file is damaged.
    pub told_damage: bool,
    /// Its last write failed.
    pub failing: bool,
    /// Told to stop.
    pub stopping: bool,
    /// Cancels that the core was handed.
    pub cancels: Vec<Cancel>,
    /// Stopped for good.
    pub retired: bool,
}

impl Process {
    pub fn next_action(&self) -> Option<&Action> {
        self.actions.front().map(|(_, action)| action)
    }

    /// The step that was to be taken now is taken later.
    pub fn postpone(&mut self) {
        self.scheduled = true;
    }
}

impl Site {
    pub fn new(name: &str, home: usize) -> Self {
        Self {
            name: name.into(),
            home,
            disk: Disk::default(),
            link: Link::default(),
            process: None,
            is_clone: false,
            lives: 0,
            copies: VecDeque::new(),
            passed: BTreeMap::new(),
            start_pending: true,
            set_back: false,
            met: false,
            welcomed: None,
            rotten: None,
            told_damage: false,
            failing: false,
            stopping: false,
            cancels: Vec::new(),
            retired: false,
        }
    }

    pub fn evidence(&self) -> Vec<(CheckName, u64)> {
        self.passed.iter().map(|(name, at)| (name.clone(), *at)).collect()
    }
}

impl World {
    pub(super) fn gen_of(&self, site: usize) -> u64 {
        self.sites[site].process.as_ref().map_or(0, |p| p.gen_)
    }

    pub(super) fn site_starts_in(&mut self, site: usize, after: u64) {
        if !std::mem::replace(&mut self.sites[site].start_pending, true) {
            self.at(after, Event::SiteStarts(site));
        }
    }

    pub(super) fn site_starts(&mut self, site: usize) {
        self.sites[site].start_pending = false;
        if self.sites[site].process.is_some() || self.sites[site].retired {
            return;
        }
        let seed = self.dice.any();
        let now = self.now;
        let at = &mut self.sites[site];
        let home = &self.homes[at.home];
        at.lives += 1;
        let mut names: Vec<&str> = RUNGS.to_vec();
        if home.agent.launched {
            names.extend(["launch", "restart"]);
        }
        let capability = |name: &&str| v1::Capability { name: (*name).into(), available: true, ..Default::default() };
        let identity = Identity {
            project: "sim".into(),
            agent: home.agent.name.clone(),
            fresh_instance: format!("{}-{}-{:08x}", at.name, at.lives, seed as u32),
            version: "1".into(),
            host: v1::HostUsage { boot_id: home.host.boot_id(), ..Default::default() },
            capabilities: names.iter().map(capability).collect(),
            place: format!("{}/{site}", home.agent.name),
            seed,
        };
        let read = kept::read(&at.disk.bytes);
        at.disk.bytes.truncate(read.valid);
        let core = Core::recover(identity, home.host.clocks(now), read);
        let gen_ = at.lives;
        at.process = Some(Process {
            gen_,
            core,
            actions: VecDeque::new(),
            inputs: VecDeque::new(),
            hears: None,
            scheduled: false,
            wakes_at: None,
            child: None,
        });
        let bytes = std::mem::take(&mut self.sites[site].disk.bytes);
        if self.sites[site].rotten.is_some() {
            self.model.sites[site].set_back(&bytes, SetBack::Damaged, &mut self.model.tally);
        } else {
            self.model.sites[site].read_by_another_process(&bytes);
        }
        self.model.leases[site].retain(&bytes);
        self.sites[site].disk.bytes = bytes;
        self.sites[site].stopping = false;
        let name = self.sites[site].name.clone();
        self.story.note(now, &name, "start", &gen_.to_le_bytes());
        self.tell(&name, || format!("sidecar starts (process {gen_})"));
        self.feed(site, Input::Started);
        self.shows_workspace(site);
        self.at(300, Event::Sampled { site, gen_ });
    }

    /// As the shell finds it: whether it is there, and what the agent claims in it.
    pub(super) fn shows_workspace(&mut self, site: usize) {
        let home = &self.homes[self.sites[site].home];
        let (present, claim) = (!home.workspace_gone, home.agent.claim.clone());
        let reason = if present { String::new() } else { "no such directory".into() };
        self.feed(site, Input::Workspace { present, reason });
        if let Some(claim) = claim.filter(|_| present) {
            self.feed(site, Input::Claim(Ok(claim)));
        }
    }

    pub(super) fn feed(&mut self, site: usize, input: Input) {
        let Some(process) = self.sites[site].process.as_mut() else { return };
        process.inputs.push_back(input);
        self.schedule_site(site);
    }

    fn schedule_site(&mut self, site: usize) {
        let Some(process) = self.sites[site].process.as_mut() else { return };
        if std::mem::replace(&mut process.scheduled, true) {
            return;
        }
        let gen_ = process.gen_;
        let after = self.dice.between(0, 2);
        self.at(after, Event::SiteSteps { site, gen_ });
    }

    pub(super) fn site_wakes(&mut self, site: usize) {
        let now = self.now;
        let Some(process) = self.sites[site].process.as_mut() else { return };
        if process.wakes_at != Some(now) && process.wakes_at.is_none_or(|at| at > now) {
            return;
        }
        process.wakes_at = None;
        process.inputs.push_back(Input::Tick);
        self.schedule_site(site);
    }

    fn set_alarm(&mut self, site: usize) {
        let now = self.now;
        let at = &mut self.sites[site];
        let boot = self.homes[at.home].host.boot_ms(now);
        let Some(process) = at.process.as_mut() else { return };
        let Some((due, _)) = process.core.next_deadline() else { return };
        let wake = now + due.saturating_sub(boot).max(1);
        if process.wakes_at.is_some_and(|at| at > now && at <= wake) {
            return;
        }
        process.wakes_at = Some(wake);
        let gen_ = process.gen_;
        self.at(wake - now, Event::SiteWakes { site, gen_ });
    }

    /// One action is carried out, or one input handed over.
    pub(super) fn site_steps(&mut self, site: usize) {
        let Some(process) = self.sites[site].process.as_mut() else { return };
        process.scheduled = false;
        let step = match (process.actions.front(), process.inputs.front()) {
            (Some((_, action)), _) => step_of(action),
            (None, Some(Input::Received { .. } | Input::Observed(_) | Input::Done { .. })) => Some(Step::Receive),
            (None, Some(_)) => None,
            (None, None) => return,
        };
        let alive = step.is_none_or(|step| self.strike(step, Side::Sidecar, site));
        if !alive || self.sites[site].process.is_none() {
            return;
        }
        let Some(process) = self.sites[site].process.as_mut() else { return };
        if let Some((decided, action)) = process.actions.pop_front() {
            self.carry_out(site, decided, action);
        } else if let Some(input) = process.inputs.pop_front() {
            self.hand_over(site, input);
        }
        self.watch_lease(site);
        if self.sites[site].process.as_ref().is_some_and(|p| !p.actions.is_empty() || !p.inputs.is_empty()) {
            self.schedule_site(site);
        }
    }

    fn hand_over(&mut self, site: usize, input: Input) {
        self.note_input(site, &input);
        let now = self.now;
        let at = &mut self.sites[site];
        let clocks = self.homes[at.home].host.clocks(now);
        let Some(process) = at.process.as_mut() else { return };
        if let Input::Closed { session, .. } = &input {
            process.hears.take_if(|heard| heard == session);
        }
        let actions = process.core.handle(clocks, input);
        for action in &actions {
            match action {
                Action::Connect { session, .. } => process.hears = Some(*session),
                Action::Disconnect { session } => {
                    process.hears.take_if(|heard| heard == session);
                }
                _ => {}
            }
        }
        process.actions.extend(actions.into_iter().map(|action| (now, action)));
        self.set_alarm(site);
    }
}
