//! What is really there: a host with its clocks, the agent's processes, files, inbox and cgroup.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::v1::{self, Resource};
use pitwall_sidecar_core::io::{Hold, HoldState, Now, Sample};

use crate::dice::Dice;

pub const UNLIMITED: &str = "max 20000";
/// Few, so that they are used again soon.
const PIDS: i32 = 12;
const EPOCH_WALL_MS: i64 = 1_700_000_000_000;

pub type Process = (i32, u64);

#[derive(Clone, Debug)]
pub struct Host {
    pub name: String,
    pub boots: u32,
    booted_at: u64,
    pub wall_skew: i64,
    pub frozen_until: u64,
}

impl Host {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), boots: 1, booted_at: 0, wall_skew: 0, frozen_until: 0 }
    }

    pub fn boot_id(&self) -> String {
        format!("{}-boot-{}", self.name, self.boots)
    }

    pub fn boot_ms(&self, now: u64) -> u64 {
        now.saturating_sub(self.booted_at) + 3_000
    }

    pub fn wall_ms(&self, now: u64) -> i64 {
        EPOCH_WALL_MS + now as i64 + self.wall_skew
    }

    pub fn clocks(&self, now: u64) -> Now {
        Now { boot_ms: self.boot_ms(now), wall_ms: self.wall_ms(now) }
    }

    pub fn reboot(&mut self, now: u64) {
        self.boots += 1;
        self.booted_at = now;
    }
}

#[derive(Clone, Debug)]
pub struct Agent {
    pub name: String,
    /// The sidecar started it itself.
    pub launched: bool,
    /// How often it has begun.
    pub lives: u64,
    pub root: Option<Process>,
    pub workers: Vec<Process>,
    next_pid: i32,
    next_ticks: u64,
    pub files: BTreeSet<String>,
    pub inbox: BTreeMap<String, String>,
    /// What it says of itself, in its workspace.
    pub claim: Option<v1::Claim>,
    /// Where nothing limits it.
    pub cpu: f64,
    /// What stands for its CPU.
    pub value: String,
    /// And for its memory.
    pub memory: String,
    pub inode: u64,
}

pub fn identity(process: Process) -> v1::ProcessIdentity {
    v1::ProcessIdentity { pid: process.0, start_ticks: process.1, name: "agent".into() }
}

impl Agent {
    pub fn new(name: &str, launched: bool) -> Self {
        let mut agent = Self {
            name: name.into(),
            launched,
            lives: 0,
            root: None,
            workers: Vec::new(),
            next_pid: 0,
            next_ticks: 100,
            files: BTreeSet::new(),
            inbox: BTreeMap::new(),
            claim: None,
            cpu: 0.4,
            value: UNLIMITED.into(),
            memory: UNLIMITED.into(),
            inode: 1,
        };
        agent.begin();
        agent
    }

    fn process(&mut self) -> Process {
        self.next_ticks += 1;
        loop {
            self.next_pid = self.next_pid % PIDS + 1;
            let pid = 100 + self.next_pid;
            if !self.alive().any(|(p, _)| p == pid) {
                return (pid, self.next_ticks);
            }
        }
    }

    pub fn alive(&self) -> impl Iterator<Item = Process> + '_ {
        self.root.into_iter().chain(self.workers.iter().copied())
    }

    /// A new life: another root, and where a container engine starts it, another cgroup.
    pub fn begin(&mut self) -> Process {
        let root = self.process();
        self.lives += 1;
        self.root = Some(root);
        self.workers.clear();
        if !self.launched {
            self.inode += 1;
            self.unlimited();
        }
        root
    }

    pub fn end(&mut self) {
        self.root = None;
        self.workers.clear();
    }

    pub fn spawn(&mut self) -> Option<Process> {
        if self.root.is_none() || self.workers.len() > 4 {
            return None;
        }
        let worker = self.process();
        self.workers.push(worker);
        Some(worker)
    }

    /// The same pid, another process.
    pub fn reuse(&mut self, dice: &mut Dice) -> Option<(Process, Process)> {
        let at = dice.below(self.workers.len());
        let old = *self.workers.get(at)?;
        self.next_ticks += 1;
        let new = (old.0, self.next_ticks);
        self.workers[at] = new;
        Some((old, new))
    }

    /// Whether it was alive.
    pub fn kill(&mut self, process: Process) -> bool {
        if self.root == Some(process) {
            self.end();
            return true;
        }
        let before = self.workers.len();
        self.workers.retain(|w| *w != process);
        self.workers.len() < before
    }

    pub fn rebooted(&mut self) {
        self.end();
        self.unlimited();
        self.inode += 1;
    }

    fn unlimited(&mut self) {
        (self.value, self.memory) = (UNLIMITED.into(), UNLIMITED.into());
    }

    /// The value for this resource.
    pub fn stands(&self, resource: Resource) -> &str {
        if resource == Resource::Memory { &self.memory } else { &self.value }
    }

    pub fn put(&mut self, resource: Resource, value: String) {
        *(if resource == Resource::Memory { &mut self.memory } else { &mut self.value }) = value;
    }

    /// What it uses, in cores.
    pub fn uses(&self) -> f64 {
        let limit = self.value.split(' ').next().and_then(|q| q.parse::<f64>().ok()).map(|q| q / 20_000.0);
        if self.root.is_some() { limit.map_or(self.cpu, |l| l.min(self.cpu)) } else { 0.0 }
    }

    pub fn sample(&self, interval_ms: u32) -> Sample {
        let cpu = self.uses();
        let share = cpu / self.alive().count().max(1) as f64;
        let usage = |process| v1::ProcessUsage {
            identity: Some(identity(process)),
            cpu_cores: Some(share),
            ..Default::default()
        };
        Sample {
            interval_ms,
            root: self.root.map(identity),
            processes: self.alive().map(usage).collect(),
            agent: v1::Usage { cpu_cores: Some(cpu), ..Default::default() },
            ..Default::default()
        }
    }

    pub fn state_of(&self, hold: &Hold, boot_id: &str) -> HoldState {
        if hold.inode != self.inode || hold.boot_id != boot_id {
            HoldState::Gone
        } else if self.stands(hold.slot.resource) == hold.new {
            HoldState::Ours
        } else {
            HoldState::Foreign(self.stands(hold.slot.resource).to_owned())
        }
    }
}
