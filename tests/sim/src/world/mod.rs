//! Everything around the cores, driven by one queue of events on the true clock: no event happens but through it, and
//! what is random in it comes from the dice.
mod agent;
mod disk;
mod effects;
mod faults;
mod heard;
mod judge;
mod net;
mod operator;
mod orchestrator;
mod owner_says;
mod owner_steps;
mod plans;
mod set_back;
mod site;
mod site_acts;
mod steps;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::v1;
use pitwall_sidecar_core::io::{Effect, EffectId, EffectOutcome, SessionId};

pub use faults::Swarm;

use crate::{
    dice::Dice,
    flows::Flows,
    matrix::Matrix,
    model::{Model, SiteModel},
    story::Story,
};
use agent::Host;
use net::{Direction, Stream};
use operator::Operator;
use orchestrator::{Orchestrator, Store};
use site::{Home, Site};

/// Faults strike until then.
pub const FAULTS_MS: u64 = 90_000;
/// From then on everything is healed, and must have come to rest within this (see README: the longest expiry, its grace,
/// the command's own limit; a stream that was never welcomed, and the longest wait for another try).
pub const CONVERGE_MS: u64 = 170_000;

#[derive(Clone, Debug)]
pub enum Event {
    OrchestratorStarts,
    OrchestratorSteps(usize),
    OrchestratorWakes(usize),
    OwnerRenews(usize),
    Committed(usize),
    SiteStarts(usize),
    SiteSteps { site: usize, gen_: u64 },
    SiteWakes { site: usize, gen_: u64 },
    Synced { site: usize, gen_: u64, batch: u64 },
    Sampled { site: usize, gen_: u64 },
    Probed { site: usize, gen_: u64, deliverable: String, check: Box<v1::Check> },
    EffectHappens { site: usize, gen_: u64, effect: EffectId, what: Effect },
    EffectOver { site: usize, gen_: u64, effect: EffectId, outcome: EffectOutcome },
    FilesSeen { site: usize, gen_: u64, paths: Vec<String> },
    Unreachable { site: usize, gen_: u64, session: SessionId },
    Arrives { stream: u64, to: Direction },
    Keepalive { stream: u64 },
    AgentLives(usize),
    AgentReturns(usize),
    OperatorLives,
    OperatorAsksAgain(usize),
    CloneEnds(usize),
    DrainEnds(usize),
    StopIsDue { site: usize, gen_: u64 },
    WorkspaceReturns(usize),
    OperatorRepairs,
}

pub struct World {
    pub now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    order: u64,
    dice: Dice,
    pub story: Story,
    pub matrix: Matrix,
    pub model: Model,
    pub flows: Flows,
    swarm: Swarm,
    store: Store,
    /// Newest last; `None`: ended.
    orchestrators: Vec<Option<Orchestrator>>,
    owner_host: Host,
    homes: Vec<Home>,
    sites: Vec<Site>,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    operator: Operator,
    plan: usize,
    /// By command: how often its agent had begun when it was issued.
    lives_before: BTreeMap<String, u64>,
    /// Agents of which another instance, or a copy of the same, said hello last: they can be reached, whatever their sidecars say.
    pub knocked: BTreeSet<String>,
    /// When each agent's sidecar was heard last, by whatever orchestrator; and since when a mass loss stands.
    pub last_heard: BTreeMap<String, u64>,
    pub mass_since: Option<u64>,
    /// An agent left the plan once: it is known anew since.
    removed: bool,
    agents: &'static [&'static str],
    start_pending: bool,
    converging: bool,
}

impl World {
    pub fn new(seed: u64, swarm: Swarm, tell: bool) -> Self {
        let mut dice = Dice::new(seed);
        let agents: &[&str] = if dice.one_in(8) { &plans::CROWD } else { &plans::PAIR };
        // The first is started by its sidecar, the others by an engine.
        let homes: Vec<Home> = agents.iter().map(|name| Home::new(name, *name == "a")).collect();
        let sites: Vec<Site> = agents.iter().enumerate().map(|(n, name)| Site::new(name, n)).collect();
        let model = Model {
            sites: sites.iter().map(|s| SiteModel::of(&homes[s.home].agent.name)).collect(),
            leases: vec![Default::default(); sites.len()],
            ..Default::default()
        };
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            story: Story::new(tell),
            matrix: Matrix::default(),
            model,
            flows: Flows::default(),
            swarm,
            store: Store::new(dice.any()),
            orchestrators: Vec::new(),
            owner_host: Host::new("owner"),
            homes,
            sites,
            streams: BTreeMap::new(),
            next_stream: 1,
            operator: Operator::default(),
            plan: 0,
            lives_before: BTreeMap::new(),
            knocked: BTreeSet::new(),
            last_heard: BTreeMap::new(),
            mass_since: None,
            removed: false,
            agents,
            start_pending: false,
            converging: false,
            dice,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.orchestrator_starts_in(1);
        for site in 0..self.sites.len() {
            let after = self.dice.between(0, 2_000);
            self.at(after, Event::SiteStarts(site));
            self.at(3_000 + after, Event::AgentLives(site));
        }
        self.at(4_000, Event::OperatorLives);
    }

    fn at(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.insert((self.now + after, self.order), event);
    }

    /// Runs to the end of everything. The model holds what was found.
    pub fn run(&mut self) {
        self.run_until(FAULTS_MS);
        self.heal();
        self.run_until(FAULTS_MS + CONVERGE_MS);
        if self.model.violations.is_empty() {
            self.judge();
        }
    }

    fn run_until(&mut self, end: u64) {
        while let Some((&(at, order), _)) = self.queue.first_key_value() {
            if at > end || !self.model.violations.is_empty() {
                break;
            }
            let Some(event) = self.queue.remove(&(at, order)) else { break };
            self.now = at;
            if let Some(later) = self.frozen_until(&event) {
                self.at(later.saturating_sub(self.now).max(1), event);
                continue;
            }
            self.happens(event);
        }
        self.now = end;
    }

    /// What belongs to a machine or a process that stands still waits.
    fn frozen_until(&self, event: &Event) -> Option<u64> {
        let until = match event {
            Event::OrchestratorSteps(id)
            | Event::OrchestratorWakes(id)
            | Event::OwnerRenews(id)
            | Event::DrainEnds(id)
            | Event::Committed(id) => self.orchestrators[*id].as_ref().map_or(0, |o| o.frozen_until),
            Event::SiteSteps { site, .. }
            | Event::SiteWakes { site, .. }
            | Event::Synced { site, .. }
            | Event::Sampled { site, .. }
            | Event::Probed { site, .. }
            | Event::EffectHappens { site, .. }
            | Event::EffectOver { site, .. }
            | Event::FilesSeen { site, .. }
            | Event::Unreachable { site, .. }
            | Event::WorkspaceReturns(site)
            | Event::SiteStarts(site)
            | Event::AgentLives(site)
            | Event::AgentReturns(site) => self.homes[self.sites[*site].home].host.frozen_until,
            _ => 0,
        };
        (until > self.now).then_some(until)
    }

    fn happens(&mut self, event: Event) {
        self.story.steps += 1;
        match event {
            Event::OrchestratorStarts => self.orchestrator_starts(),
            Event::OrchestratorSteps(id) => self.orchestrator_steps(id),
            Event::OrchestratorWakes(id) => self.orchestrator_wakes(id),
            Event::OwnerRenews(id) => self.owner_renews(id),
            Event::Committed(id) => self.committed(id),
            Event::SiteStarts(site) => self.site_starts(site),
            Event::SiteSteps { site, gen_ } if self.runs(site, gen_) => self.site_steps(site),
            Event::SiteWakes { site, gen_ } if self.runs(site, gen_) => self.site_wakes(site),
            Event::Synced { site, gen_, batch } if self.runs(site, gen_) => self.synced(site, batch),
            Event::Sampled { site, gen_ } if self.runs(site, gen_) => self.sampled(site),
            Event::Probed { site, gen_, deliverable, check } if self.runs(site, gen_) => {
                self.probed(site, deliverable, &check);
            }
            Event::EffectHappens { site, gen_, effect, what } if self.runs(site, gen_) => {
                self.effect_happens(site, effect, what);
            }
            Event::EffectOver { site, gen_, effect, outcome } if self.runs(site, gen_) => {
                self.effect_over(site, effect, outcome);
            }
            Event::FilesSeen { site, gen_, paths } if self.runs(site, gen_) => self.files_seen(site, paths),
            Event::Unreachable { site, gen_, session } if self.runs(site, gen_) => self.unreachable(site, session),
            // Of a process that is gone.
            Event::SiteSteps { .. }
            | Event::SiteWakes { .. }
            | Event::Synced { .. }
            | Event::Sampled { .. }
            | Event::Probed { .. }
            | Event::EffectHappens { .. }
            | Event::EffectOver { .. }
            | Event::FilesSeen { .. }
            | Event::Unreachable { .. } => {}
            Event::Arrives { stream, to } => self.arrives(stream, to),
            Event::Keepalive { stream } => self.keepalive(stream),
            Event::AgentLives(site) => self.agent_lives(site),
            Event::AgentReturns(site) => self.agent_returns(site),
            Event::OperatorLives => self.operator_lives(),
            Event::OperatorAsksAgain(ask) => self.operator_asks_again(ask),
            Event::CloneEnds(site) => self.clone_ends(site),
            Event::DrainEnds(id) => self.drain_ends(id),
            Event::StopIsDue { site, gen_ } => self.stop_is_due(site, gen_),
            Event::WorkspaceReturns(site) => self.workspace_returns(site),
            Event::OperatorRepairs => self.operator_repairs(),
        }
    }

    fn runs(&self, site: usize, gen_: u64) -> bool {
        self.sites[site].process.as_ref().is_some_and(|p| p.gen_ == gen_)
    }

    fn tell(&self, who: &str, line: impl FnOnce() -> String) {
        self.story.tell(self.now, who, line);
    }
}
