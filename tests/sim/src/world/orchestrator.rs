//! The orchestrator's process and its journal. As in the shell: what is decided is appended, and what a durable batch
//! releases is carried out; an owner that another has followed cannot append.
use std::collections::{BTreeMap, VecDeque};

use pitwall_core::{
    io::{Action, Input, Millis},
    plan,
    project::Project,
};
use pitwall_proto::{
    journal::{self, event::Body as Journaled},
    v1::{CommandState, SidecarStatus, command_spec::Kind},
};

use super::{Event, World, owner_steps::step_of, plans};
use crate::{
    matrix::{Side, Step},
    model::{CheckName, FactKey, Invariant, Victim, is_end},
};

/// How often an owner looks whether it still is one.
const RENEW_MS: u64 = 5_000;

/// What all owners share: events, whose they are, and who may append.
#[derive(Debug)]
pub struct Store {
    pub lineage: String,
    pub epoch: u64,
    pub events: Vec<journal::Event>,
    pub full_until: u64,
    pub lineages: u32,
}

impl Store {
    pub fn new(random: u64) -> Self {
        Self { lineage: format!("{random:016x}"), epoch: 0, events: Vec::new(), full_until: 0, lineages: 1 }
    }
}

/// What the sender of a frame knew of its checks: how long ago each was last seen to pass, as of its sending.
pub type Evidence = Vec<(CheckName, u64)>;

/// Sidecars that an owner calls lost at once, and of which it had called so just before that they report.
#[derive(Debug, Default)]
pub struct Losses {
    pub lost: Vec<String>,
    pub reporting: Vec<String>,
}

pub struct Orchestrator {
    core: Project,
    pub epoch: u64,
    base: Millis,
    started: u64,
    pub actions: VecDeque<Action>,
    inputs: VecDeque<(Input, Evidence)>,
    pub in_flight: VecDeque<(u64, Vec<journal::Event>)>,
    pub committed_at: u64,
    scheduled: bool,
    wakes_at: Option<u64>,
    pub frozen_until: u64,
    /// Not judged before: it stood still.
    pub resumed_at: u64,
    /// When its grace began.
    pub graced_at: u64,
    /// It was told to stop: it says nothing and takes nothing more.
    pub draining: bool,
    /// By agent: when anything of its sidecar was last handed to it.
    pub heard: BTreeMap<String, u64>,
    /// The same with what may have been refused.
    pub heard_at_most: BTreeMap<String, u64>,
    /// By agent, as its events say.
    pub sidecars: BTreeMap<String, SidecarStatus>,
}

impl Orchestrator {
    fn now(&self, now: u64) -> Millis {
        self.base + (now - self.started) as Millis
    }

    pub fn core(&self) -> &Project {
        &self.core
    }

    /// What is decided and not in the journal yet, in order.
    pub fn decided(&self) -> Vec<journal::Event> {
        let begun = self.in_flight.iter().flat_map(|(_, events)| events.clone());
        let next = self.actions.iter().flat_map(|action| match action {
            Action::Append { events, .. } => events.clone(),
            _ => Vec::new(),
        });
        begun.chain(next).collect()
    }

    /// What its events say of sidecars; those that it calls lost with them.
    fn follow(&mut self, events: &[journal::Event]) -> Losses {
        let reports = |status: &SidecarStatus| matches!(status, SidecarStatus::Live | SidecarStatus::Late);
        let reporting = self.sidecars.iter().filter(|(_, status)| reports(status)).map(|(agent, _)| agent.clone());
        let reporting = reporting.collect();
        let mut lost = Vec::new();
        for event in events {
            match &event.body {
                Some(Journaled::SidecarConnected(c)) => {
                    self.sidecars.insert(c.agent.clone(), SidecarStatus::Live);
                }
                Some(Journaled::PlanApplied(plan)) => {
                    self.sidecars.retain(|agent, _| plan.source_yaml.contains(&format!("\n  {agent}:\n")));
                }
                Some(Journaled::SidecarLiveness(l)) => {
                    let status = SidecarStatus::try_from(l.status).unwrap_or_default();
                    self.sidecars.insert(l.agent.clone(), status);
                    lost.extend((status == SidecarStatus::Lost).then(|| l.agent.clone()));
                }
                _ => {}
            }
        }
        Losses { lost, reporting }
    }

    pub fn freeze(&mut self, until: u64) {
        self.frozen_until = until;
        self.resumed_at = until;
    }
}

impl World {
    pub(super) fn newest(&self) -> Option<usize> {
        (0..self.orchestrators.len()).rev().find(|id| self.orchestrators[*id].is_some())
    }

    pub(super) fn orchestrator_starts_in(&mut self, after: u64) {
        if !std::mem::replace(&mut self.start_pending, true) {
            self.at(after, Event::OrchestratorStarts);
        }
    }

    /// Takes the project over and replays it.
    pub(super) fn orchestrator_starts(&mut self) {
        self.start_pending = false;
        if self.store.full_until > self.now {
            return self.orchestrator_starts_in(1_000);
        }
        let wall = self.owner_host.wall_ms(self.now);
        self.store.epoch = (self.store.epoch + 1).max(u64::try_from(wall / 1_000).unwrap_or(0));
        let epoch = self.store.epoch;
        let core = Project::replay("sim", &self.store.lineage, epoch, self.store.events.iter().cloned());
        let base = wall.max(core.state().at);
        let id = self.orchestrators.len();
        self.orchestrators.push(Some(Orchestrator {
            core,
            epoch,
            base,
            started: self.now,
            actions: VecDeque::new(),
            inputs: VecDeque::new(),
            in_flight: VecDeque::new(),
            committed_at: 0,
            scheduled: false,
            wakes_at: None,
            frozen_until: 0,
            resumed_at: self.now,
            graced_at: self.now,
            draining: false,
            heard: BTreeMap::new(),
            heard_at_most: BTreeMap::new(),
            sidecars: BTreeMap::new(),
        }));
        if let Some(orchestrator) = self.orchestrators[id].as_mut() {
            orchestrator.follow(&self.store.events);
        }
        self.story.note(self.now, "owner", "start", &epoch.to_le_bytes());
        let lineage = self.store.lineage.clone();
        self.tell(&owner(id), || format!("starts with epoch {epoch} of {lineage}"));
        self.at(RENEW_MS, Event::OwnerRenews(id));
        self.give_plan(id);
        self.give(id, Input::Started);
    }

    pub(super) fn give_plan(&mut self, id: usize) {
        let source_yaml = plans::text(self.plan, self.agents);
        match plan::parse(&source_yaml, "plan.yaml") {
            Ok(parsed) => {
                self.give(id, Input::ApplyPlan { token: 0, plan: Box::new(parsed.plan), source_yaml });
            }
            Err(mistakes) => panic!("a plan of the simulator is wrong: {}", mistakes.render(false)),
        }
    }

    pub(super) fn give(&mut self, id: usize, input: Input) {
        self.give_frame(id, input, Vec::new());
    }

    /// With the moment at which it was sent, on the clock of evidence.
    pub(super) fn give_frame(&mut self, id: usize, input: Input, evidence: Evidence) {
        let Some(Some(orchestrator)) = self.orchestrators.get_mut(id) else { return };
        orchestrator.inputs.push_back((input, evidence));
        self.schedule_orchestrator(id);
    }

    pub(super) fn schedule_orchestrator(&mut self, id: usize) {
        let Some(orchestrator) = self.orchestrators[id].as_mut() else { return };
        if !std::mem::replace(&mut orchestrator.scheduled, true) {
            let after = self.dice.between(0, 1);
            self.at(after, Event::OrchestratorSteps(id));
        }
    }

    /// An owner that has nothing to append learns all the same that another one follows it.
    pub(super) fn owner_renews(&mut self, id: usize) {
        let Some(orchestrator) = self.orchestrators[id].as_ref() else { return };
        if self.now < orchestrator.resumed_at + RENEW_MS {
            return self.at(RENEW_MS, Event::OwnerRenews(id));
        }
        if orchestrator.epoch != self.store.epoch {
            self.tell(&owner(id), || "cannot renew: another owner took over; it ends".into());
            return self.orchestrator_ends(id, true, "STORE_FAILED");
        }
        self.at(RENEW_MS, Event::OwnerRenews(id));
    }

    pub(super) fn orchestrator_wakes(&mut self, id: usize) {
        let now = self.now;
        let Some(orchestrator) = self.orchestrators[id].as_mut() else { return };
        if orchestrator.wakes_at.is_none_or(|at| at > now) {
            return;
        }
        orchestrator.wakes_at = None;
        orchestrator.inputs.push_back((Input::Tick, Vec::new()));
        self.schedule_orchestrator(id);
    }

    fn set_owner_alarm(&mut self, id: usize) {
        let now = self.now;
        let Some(orchestrator) = self.orchestrators[id].as_mut() else { return };
        let Some((due, _)) = orchestrator.core.next_deadline() else { return };
        let wait = u64::try_from(due - orchestrator.now(now)).unwrap_or(0).max(5);
        if orchestrator.wakes_at.is_some_and(|at| at > now && at <= now + wait) {
            return;
        }
        orchestrator.wakes_at = Some(now + wait);
        self.at(wait, Event::OrchestratorWakes(id));
    }

    pub(super) fn orchestrator_steps(&mut self, id: usize) {
        let Some(orchestrator) = self.orchestrators[id].as_mut() else { return };
        orchestrator.scheduled = false;
        let step = match (orchestrator.actions.front(), orchestrator.inputs.front()) {
            (Some(action), _) => Some(step_of(action)),
            (None, Some((Input::FromSidecar { .. } | Input::Hello { .. } | Input::IssueCommand { .. }, _))) => {
                Some(Step::Receive)
            }
            (None, Some(_)) => None,
            (None, None) => return,
        };
        if !step.is_none_or(|step| self.strike(step, Side::Orchestrator, id)) {
            return;
        }
        let now = self.now;
        let Some(orchestrator) = self.orchestrators[id].as_mut() else { return };
        if let Some(action) = orchestrator.actions.pop_front() {
            self.carry_out_for(id, action);
        } else if let Some((input, evidence)) = orchestrator.inputs.pop_front() {
            let dropped = match &input {
                // Of a session that was ended: dropped.
                Input::FromSidecar { session, .. } => !self.streams.get(session).is_some_and(|s| s.orchestrator_open),
                _ => false,
            };
            let draining = orchestrator.draining && !matches!(input, Input::Appended { .. });
            if !dropped && !draining {
                match &input {
                    Input::Hello { session, hello } => {
                        if let Some(stream) = self.streams.get_mut(session) {
                            stream.hello_at = now;
                        }
                        orchestrator.heard_at_most.insert(hello.agent.clone(), now);
                        let journal = &self.model.journal;
                        let other = journal.connected.get(&hello.agent).is_some_and(|(i, _)| *i != hello.instance);
                        if other || journal.places.get(&hello.agent).is_some_and(|place| *place != hello.place) {
                            self.knocked.insert(hello.agent.clone());
                        }
                    }
                    Input::FromSidecar { session, .. } => {
                        if let Some(stream) = self.streams.get(session) {
                            let agent = self.homes[self.sites[stream.site].home].agent.name.clone();
                            self.knocked.remove(&agent);
                            self.last_heard.insert(agent.clone(), now);
                            orchestrator.heard.insert(agent, now);
                        }
                    }
                    _ => {}
                }
                for (check, age) in evidence {
                    let credit = self.model.evidence.entry(check).or_default();
                    *credit = (*credit).max(now.saturating_sub(age));
                }
                if matches!(input, Input::Started) {
                    orchestrator.graced_at = now;
                }
                let actions = orchestrator.core.handle(orchestrator.now(now), input);
                let losses = actions.iter().filter_map(|action| match action {
                    Action::Append { events, .. } => Some(orchestrator.follow(events)),
                    _ => None,
                });
                let losses: Vec<Losses> = losses.collect();
                orchestrator.actions.extend(actions);
                losses.iter().for_each(|losses| self.check_losses(id, losses));
                self.set_owner_alarm(id);
            }
        }
        let waits = |o: &Orchestrator| !o.actions.is_empty() || !o.inputs.is_empty();
        if self.orchestrators[id].as_ref().is_some_and(waits) {
            self.schedule_orchestrator(id);
        } else {
            self.watch_green(id);
        }
    }

    pub(super) fn committed(&mut self, id: usize) {
        let now = self.now;
        let Some(orchestrator) = self.orchestrators[id].as_mut() else { return };
        let Some((batch, events)) = orchestrator.in_flight.pop_front() else { return };
        if orchestrator.epoch != self.store.epoch {
            self.tell(&owner(id), || "is fenced: another owner took over; it ends".into());
            return self.orchestrator_ends(id, true, "STORE_FAILED");
        }
        if self.store.full_until > now {
            self.tell(&owner(id), || "cannot append: no space".into());
            self.orchestrator_ends(id, true, "STORE_FAILED");
            return self.orchestrator_starts_in(500);
        }
        self.commit(&events);
        if let Some(orchestrator) = self.orchestrators[id].as_mut() {
            orchestrator.inputs.push_front((Input::Appended { batch }, Vec::new()));
        }
        self.schedule_orchestrator(id);
    }

    pub(super) fn commit(&mut self, events: &[journal::Event]) {
        let now = self.now;
        self.store.events.extend(events.iter().cloned());
        self.flows.committed(events);
        let breaches = self.model.journal.append(events);
        let stepped = std::mem::take(&mut self.model.journal.stepped);
        let of_keys = std::mem::take(&mut self.model.journal.issued);
        self.model.tally.judged(Invariant::CommandMovesForward, stepped.len() as u64);
        self.model.tally.judged(Invariant::OneKeyOneCommand, of_keys);
        let sent = stepped.iter().filter(|(_, state)| *state == CommandState::Sent).count() as u64;
        self.model.tally.judged(Invariant::NumbersOnlyRise, sent);
        self.model.tally.judged(Invariant::ActsOvertakeDirectives, sent);
        for (invariant, text) in breaches {
            self.model.breach(invariant, now, text);
        }
        for event in events {
            if let Some(Journaled::MassLoss(mass)) = &event.body {
                self.mass_since = mass.on.then_some(now);
            }
            if let Some(Journaled::CommandIssued(issued)) = &event.body {
                let lives = self.lives_of(&issued.agent) - u64::from(self.lives_unseen(&issued.agent));
                self.lives_before.insert(issued.id.clone(), lives);
            }
        }
        for (id, state) in stepped {
            if is_end(state) {
                let alive = self.victim_lives(&id);
                let agent = self.model.journal.commands.get(&id).map(|c| c.agent.clone()).unwrap_or_default();
                let reborn = self.lives_before.get(&id).is_some_and(|before| self.lives_of(&agent) > *before);
                self.model.ended(&id, state, now, Victim { alive, reborn });
            }
        }
    }

    fn lives_of(&self, agent: &str) -> u64 {
        self.homes.iter().find(|h| h.agent.name == agent).map_or(0, |h| h.agent.lives)
    }

    /// It began once more, and nobody has told so yet: to whoever commands it is the next life.
    fn lives_unseen(&self, agent: &str) -> bool {
        let root = self.homes.iter().find(|h| h.agent.name == agent).and_then(|h| h.agent.root);
        let told = |(pid, ticks): (i32, u64)| {
            self.model.journal.facts.keys().any(|key| {
                matches!(key, FactKey::Seen { agent: a, pid: p, ticks: t, .. } if a == agent && (*p, *t) == (pid, ticks))
            })
        };
        root.is_some_and(|root| !told(root))
    }

    /// The process that a kill is aimed at.
    fn victim_lives(&self, id: &str) -> bool {
        let Some(command) = self.model.journal.commands.get(id) else { return false };
        let Some(Kind::Kill(kill)) = &command.spec.kind else { return false };
        let home = self.homes.iter().find(|h| h.agent.name == command.agent);
        let victim = kill.process.as_ref().map(|p| (p.pid, p.start_ticks));
        home.is_some_and(|h| h.agent.alive().any(|p| Some(p) == victim))
    }

    /// SIGTERM: goodbye to every stream, nothing more is taken, what is on its way to the disk is waited for. Another one
    /// starts later.
    pub(super) fn drain(&mut self, id: usize) {
        let now = self.now;
        let Some(orchestrator) = self.orchestrators[id].as_mut().filter(|o| !o.draining) else { return };
        let goodbyes = orchestrator.core.handle(orchestrator.now(now), Input::Drain { reason: "it stops".into() });
        orchestrator.actions.extend(goodbyes);
        orchestrator.draining = true;
        self.schedule_orchestrator(id);
        let after = self.dice.between(1_500, 6_000);
        self.at(after, Event::DrainEnds(id));
    }

    /// What was on its way to the disk is there by now.
    pub(super) fn drain_ends(&mut self, id: usize) {
        if self.orchestrators[id].as_ref().is_some_and(|o| o.draining) {
            self.tell(&owner(id), || "ends in good order".into());
            self.orchestrator_ends(id, true, "");
            let after = self.dice.between(50, 3_000);
            self.orchestrator_starts_in(after);
        }
    }

    /// The process is gone; `told`: its kernel says so to the other ends.
    pub(super) fn orchestrator_ends(&mut self, id: usize, told: bool, refusal: &'static str) {
        self.orchestrators[id] = None;
        let refusal = (!refusal.is_empty()).then_some(refusal);
        let open: Vec<u64> =
            self.streams.iter().filter(|(_, s)| s.orchestrator == id && s.orchestrator_open).map(|(s, _)| *s).collect();
        for stream in open {
            self.orchestrator_hangs_up(stream, told, "the orchestrator ended", refusal);
        }
    }
}

pub fn owner(id: usize) -> String {
    format!("orchestrator {id}")
}
