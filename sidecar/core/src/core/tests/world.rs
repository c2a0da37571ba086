//! What surrounds the core: carries out its actions one at a time, so that a test can crash between any two of them.
use std::collections::{BTreeMap, VecDeque};

use pitwall_proto::v1::{self, command_spec::Kind as Spec, connect_response::Body as Down};

use super::orchestrator::Orchestrator;
use crate::{
    Core,
    io::{Action, Effect, EffectOutcome, Hold, HoldState, Identity, Input, Now, Sample, Slot},
    kept,
    slot::SlotKey,
};

pub const OLD: &str = "max 20000";
/// Of every other limit than the CPU's of the whole agent.
pub const FREE: &str = "free";

pub struct World {
    pub boot_ms: u64,
    pub boot_id: String,
    pub file: Vec<u8>,
    pub durable: kept::Kept,
    pub core: Option<Core>,
    pub lives: u64,
    pub actions: VecDeque<Action>,
    pub inputs: VecDeque<Input>,
    pub orchestrator: Orchestrator,
    pub session: Option<u64>,
    pub seq: u64,
    pub inbox: BTreeMap<String, String>,
    /// pid and start ticks of what is alive; the first is the root.
    pub processes: Vec<(i32, u64)>,
    pub killed: Vec<(i32, u64)>,
    pub launches: u32,
    /// The agent is in a container of its own, which its engine starts again.
    pub beside: bool,
    pub ended: u32,
    /// The agent's cgroup.
    pub value: String,
    pub inode: u64,
    /// What stands at all other places: by slot and rung.
    pub others: BTreeMap<(SlotKey, String), String>,
    /// Examining these finds that they cannot be held so low.
    pub in_use: BTreeMap<SlotKey, f64>,
    pub holds: Vec<u64>,
    pub cpu: f64,
    pub logs: Vec<String>,
    pub exited: Option<u8>,
    pub write_fails: bool,
    pub probes: Vec<String>,
    pub adopted: u32,
    /// Somebody set the clock.
    pub wall_skew_ms: i64,
    /// No write into the inbox comes to an end.
    pub inbox_hangs: bool,
    pub hanging: u32,
    /// No kill comes to an end; these did not.
    pub kills_hang: bool,
    pub hung_kills: Vec<u64>,
    /// Where the state directory lies.
    pub place: String,
    pub starts: u32,
    /// Command names of processes that are not called `agent`, and what they use where it is not an even share.
    pub names: BTreeMap<i32, &'static str>,
    pub uses: BTreeMap<i32, f64>,
    /// Rungs that are not there.
    without: Vec<&'static str>,
}

const RUNGS: [&str; 6] = [
    "throttle.cpu.cgroup2",
    "throttle.cpu.affinity",
    "throttle.memory.cgroup2",
    "throttle.pids.cgroup2",
    "throttle.weight.nice",
    "throttle.freeze.cgroup2",
];

pub fn process(pid: i32, start_ticks: u64) -> v1::ProcessIdentity {
    v1::ProcessIdentity { pid, start_ticks, name: "agent".into() }
}

impl World {
    pub fn new() -> Self {
        Self::without(&[])
    }

    /// These rungs are not there.
    pub fn without(rungs: &[&'static str]) -> Self {
        let mut world = World {
            boot_ms: 1_000_000,
            boot_id: "boot".into(),
            file: Vec::new(),
            durable: kept::Kept::default(),
            core: None,
            lives: 0,
            actions: VecDeque::new(),
            inputs: VecDeque::new(),
            orchestrator: Orchestrator { lineage: "l1".into(), epoch: 5, ..Default::default() },
            session: None,
            seq: 0,
            inbox: BTreeMap::new(),
            processes: vec![(100, 7)],
            killed: Vec::new(),
            launches: 0,
            beside: false,
            ended: 0,
            value: OLD.into(),
            inode: 1,
            others: BTreeMap::new(),
            in_use: BTreeMap::new(),
            holds: Vec::new(),
            cpu: 0.4,
            logs: Vec::new(),
            exited: None,
            write_fails: false,
            probes: Vec::new(),
            adopted: 0,
            wall_skew_ms: 0,
            inbox_hangs: false,
            hanging: 0,
            kills_hang: false,
            hung_kills: Vec::new(),
            place: "m/1".into(),
            starts: 0,
            names: BTreeMap::new(),
            uses: BTreeMap::new(),
            without: rungs.to_vec(),
        };
        world.start();
        world
    }

    pub fn now(&self) -> Now {
        Now { boot_ms: self.boot_ms, wall_ms: 1_700_000_000_000 + self.boot_ms as i64 + self.wall_skew_ms }
    }

    pub fn start(&mut self) {
        self.lives += 1;
        let capability = |name: &str| v1::Capability { name: name.into(), available: true, ..Default::default() };
        let identity = Identity {
            project: "p".into(),
            agent: "a".into(),
            fresh_instance: format!("instance-{}", self.lives),
            version: "1".into(),
            host: v1::HostUsage { boot_id: self.boot_id.clone(), ..Default::default() },
            capabilities: RUNGS
                .into_iter()
                .filter(|name| !self.without.contains(name))
                .chain(["kill", if self.beside { "activate" } else { "launch" }, "restart"])
                .map(capability)
                .collect(),
            place: self.place.clone(),
            seed: self.lives,
        };
        let read = kept::read(&self.file);
        // As the shell does: what cannot be read, or is another's, is left alone.
        if read.usable_by(&identity.agent).is_err() {
            self.exited = Some(1);
            return;
        }
        self.file.truncate(read.valid);
        self.core = Some(Core::recover(identity, self.now(), read));
        self.inputs.push_back(Input::Started);
    }

    /// kill -9: nothing under way is finished; what was being written is torn after `kept` bytes.
    pub fn crash(&mut self, kept: usize) {
        let front = self.actions.pop_front();
        if let Some(Action::Persist { bytes, .. }) = front {
            let kept = kept.min(bytes.len());
            self.file.extend(&bytes[..kept]);
            self.reread();
        }
        self.core = None;
        self.actions.clear();
        self.inputs.clear();
        self.session = None;
    }

    fn reread(&mut self) {
        self.durable = kept::read(&self.file).kept;
    }

    pub fn feed(&mut self, input: Input) {
        let now = self.now();
        let actions = self.core.as_mut().expect("it runs").handle(now, input);
        self.actions.extend(actions);
    }

    /// Carries out one action, or gives one input. Whether there was any.
    pub fn step(&mut self) -> bool {
        if self.core.is_none() {
            return false;
        }
        if let Some(action) = self.actions.pop_front() {
            self.carry_out(action);
            return true;
        }
        if let Some(input) = self.inputs.pop_front() {
            self.feed(input);
            return true;
        }
        false
    }

    pub fn drain(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Time goes by in steps of 100 ms, with a sample each second.
    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.boot_ms += 100;
            if self.boot_ms.is_multiple_of(1_000) {
                let sample = self.sample();
                self.inputs.push_back(Input::Sampled(sample));
            }
            self.owe();
            self.inputs.push_back(Input::Tick);
            self.drain();
        }
    }

    pub fn sample(&self) -> Sample {
        let limit = self.value.split(' ').next().and_then(|q| q.parse::<f64>().ok()).map(|q| q / 20_000.0);
        let cpu = limit.map_or(self.cpu, |l| l.min(self.cpu));
        let usage = |(pid, ticks): &(i32, u64)| {
            let name = self.names.get(pid).copied().unwrap_or("agent").to_owned();
            let share = self.own_limit((*pid, *ticks)).min(cpu / self.processes.len() as f64);
            v1::ProcessUsage {
                identity: Some(v1::ProcessIdentity { name, ..process(*pid, *ticks) }),
                cpu_cores: Some(self.uses.get(pid).copied().unwrap_or(share)),
                ..Default::default()
            }
        };
        Sample {
            interval_ms: 1_000,
            root: self.processes.first().map(|(pid, ticks)| process(*pid, *ticks)),
            processes: self.processes.iter().map(usage).collect(),
            agent: v1::Usage { cpu_cores: Some(cpu), ..Default::default() },
            ..Default::default()
        }
    }

    fn own_limit(&self, process: (i32, u64)) -> f64 {
        let key = SlotKey { resource: v1::Resource::Cpu as i32, target: Some(process) };
        let value = self.others.get(&(key, "cgroup2".into()));
        value.and_then(|value| value.parse().ok()).unwrap_or(f64::INFINITY)
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Persist { batch, bytes } => {
                if self.write_fails {
                    self.inputs.push_back(Input::PersistFailed { batch, why: "no space".into() });
                } else {
                    self.file.extend(bytes);
                    self.reread();
                    self.inputs.push_back(Input::Persisted { batch });
                }
            }
            Action::Rewrite { batch, bytes } => {
                if self.write_fails {
                    self.inputs.push_back(Input::PersistFailed { batch, why: "no space".into() });
                } else {
                    self.file = bytes;
                    self.reread();
                    self.inputs.push_back(Input::Persisted { batch });
                }
            }
            Action::Connect { session, hello } => self.hello(session, hello),
            Action::Send { session, frame } => {
                if self.session == Some(session) {
                    self.receive(frame);
                }
            }
            Action::Disconnect { session } => {
                if self.session == Some(session) {
                    self.session = None;
                }
            }
            Action::Probe { deliverable, check } => self.probes.push(format!("{deliverable}/{}", check.id)),
            Action::Adopt { .. } => self.adopted += 1,
            Action::Do { what: Effect::PutDirective { .. }, .. } if self.inbox_hangs => self.hanging += 1,
            Action::Do { effect, what: Effect::Kill { .. } } if self.kills_hang => self.hung_kills.push(effect),
            Action::Do { effect, what } => {
                let outcome = self.effect(what);
                self.inputs.push_back(Input::Done { effect, outcome });
            }
            Action::StartAgent => self.starts += 1,
            Action::Log { text, .. } => self.logs.push(text),
            Action::Exit { code } => {
                self.exited = Some(code);
                self.core = None;
                self.actions.clear();
                self.inputs.clear();
            }
        }
    }

    fn effect(&mut self, what: Effect) -> EffectOutcome {
        match what {
            Effect::PutDirective { file_name, text } => {
                let there = self.inbox.entry(file_name.clone()).or_insert_with(|| text.clone());
                if *there == text {
                    EffectOutcome::Ok { detail: file_name }
                } else {
                    EffectOutcome::Failed { why: "another file of that name".into() }
                }
            }
            Effect::Examine { slot, amount } => self.examine(slot, amount),
            Effect::Hold(hold) => {
                // Invariant 2, here: the value it will have to put back is in the file.
                let recorded = self.durable.limits.get(&key_of(&hold.slot)).and_then(|l| l.hold.as_ref());
                let recorded = recorded.expect("recorded before");
                assert_eq!((&recorded.new, &recorded.old), (&hold.new, &hold.old));
                if self.state_of(&hold) == HoldState::Gone {
                    return EffectOutcome::Failed { why: "it is gone".into() };
                }
                self.holds.push(self.boot_ms);
                *self.stands(&hold.slot, &hold.rung) = hold.new;
                EffectOutcome::Ok { detail: "written".into() }
            }
            Effect::Verify(hold) => EffectOutcome::Verified(self.state_of(&hold)),
            Effect::Release(hold) => {
                let state = self.state_of(&hold);
                if state == HoldState::Ours {
                    *self.stands(&hold.slot, &hold.rung) = hold.old;
                }
                EffectOutcome::Released(state)
            }
            Effect::Kill { process, .. } => {
                let target = (process.pid, process.start_ticks);
                if self.processes.contains(&target) {
                    self.processes.retain(|p| *p != target);
                    self.killed.push(target);
                }
                EffectOutcome::Ok { detail: "ended".into() }
            }
            Effect::Launch => {
                self.launches += 1;
                let root = (1_000 + self.launches as i32, self.boot_ms);
                self.processes = vec![root];
                EffectOutcome::Launched { root: process(root.0, root.1) }
            }
            Effect::EndAgent { root, .. } => {
                if self.processes.contains(&(root.pid, root.start_ticks)) {
                    self.ended += 1;
                    self.processes.clear();
                }
                EffectOutcome::Ok { detail: "ended".into() }
            }
            Effect::CleanUp => EffectOutcome::Ok { detail: String::new() },
        }
    }

    fn examine(&mut self, slot: Slot, amount: f64) -> EffectOutcome {
        let key = key_of(&slot);
        if !self.is_there(key) {
            return EffectOutcome::Failed { why: "no such process".into() };
        }
        if self.in_use.get(&key).is_some_and(|used| amount < *used) {
            return EffectOutcome::Failed { why: "more than that is in use".into() };
        }
        let best = if key.resource() == v1::Resource::CpuWeight { "nice" } else { "cgroup2" };
        let rung = if slot.via.is_empty() { best.to_owned() } else { slot.via.clone() };
        let whole_cpu = key.resource() == v1::Resource::Cpu && key.target.is_none();
        EffectOutcome::Examined(Hold {
            place: key.target.map_or_else(|| "/cg".into(), |(pid, _)| format!("/cg/{pid}")),
            inode: self.inode,
            boot_id: self.boot_id.clone(),
            old: self.stands(&slot, &rung).clone(),
            new: if whole_cpu { format!("{} 20000", (amount * 20_000.0) as u64) } else { amount.to_string() },
            amount,
            slot,
            rung,
        })
    }

    fn is_there(&self, key: SlotKey) -> bool {
        key.target.is_none_or(|target| self.processes.contains(&target))
    }

    /// The value at the place where this rung would write.
    fn stands(&mut self, slot: &Slot, rung: &str) -> &mut String {
        let key = key_of(slot);
        if key.resource() == v1::Resource::Cpu && key.target.is_none() && rung == "cgroup2" {
            return &mut self.value;
        }
        self.others.entry((key, rung.into())).or_insert_with(|| FREE.into())
    }

    /// What stands for this resource of the whole agent, by the rung that is best.
    pub fn stands_for(&mut self, resource: v1::Resource) -> String {
        let rung = if resource == v1::Resource::CpuWeight { "nice" } else { "cgroup2" };
        self.stands(&Slot { resource, process: None, via: String::new() }, rung).clone()
    }

    /// Nothing of ours is left anywhere; where a process is gone, nothing can be.
    pub fn is_free(&self) -> bool {
        self.value == OLD && self.others.iter().all(|((key, _), value)| !self.is_there(*key) || value == FREE)
    }

    fn state_of(&mut self, hold: &Hold) -> HoldState {
        if hold.inode != self.inode || hold.boot_id != self.boot_id || !self.is_there(key_of(&hold.slot)) {
            return HoldState::Gone;
        }
        let now = self.stands(&hold.slot, &hold.rung).clone();
        if now == hold.new { HoldState::Ours } else { HoldState::Foreign(now) }
    }
}

pub fn throttle(cpu_cores: f64, for_ms: u32, ttl_ms: u32) -> Spec {
    Spec::Throttle(v1::Throttle { cpu_cores, for_ms, ttl_ms, ..Default::default() })
}

/// Of the whole agent, or of one process.
pub fn limit(resource: v1::Resource, amount: f64, of: Option<(i32, u64)>, for_ms: u32, ttl_ms: u32) -> Spec {
    let process = of.map(|(pid, ticks)| process(pid, ticks));
    Spec::Throttle(v1::Throttle { resource: resource as i32, amount, process, for_ms, ttl_ms, ..Default::default() })
}

fn key_of(slot: &Slot) -> SlotKey {
    let target = slot.process.as_ref().map(|p| (p.pid, p.start_ticks));
    SlotKey { resource: slot.resource as i32, target }
}

pub fn tell(text: &str) -> Spec {
    Spec::Directive(v1::Directive { text: text.into(), ..Default::default() })
}

pub fn kill(pid: i32, start_ticks: u64) -> Spec {
    Spec::Kill(v1::Kill { process: Some(process(pid, start_ticks)), ..Default::default() })
}

pub fn renewal(ids: &[&str]) -> Down {
    Down::LeaseRenewal(v1::LeaseRenewal { commands: ids.iter().map(|id| (*id).into()).collect() })
}
