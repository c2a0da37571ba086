//! A project with everything around it played: its journal, sidecars with a spool, operators, a watcher.
//! Appends are answered at once unless held, and every journaled event goes through its encoding.
pub mod mirror;
pub mod play;
pub mod random;
pub mod render;
pub mod script;

use std::collections::{BTreeMap, BTreeSet};

use mirror::Mirror;
use pitwall_core::{
    io::{Action, Input, Millis, Refusal, Reply, SessionId, Token},
    plan::{self, DeliverableId},
    project::Project,
    state::State,
};
use pitwall_proto::{
    journal,
    v1::{self, connect_request, connect_response, fact},
};
use prost::Message as _;

pub const START: Millis = 1_700_000_000_000;
pub const LINEAGE: &str = "a1b2c3d4";

pub struct World {
    pub project: Project,
    pub now: Millis,
    pub journal: Vec<journal::Event>,
    /// Everything that was released, in order.
    pub out: Vec<Action>,
    pub replies: BTreeMap<Token, Result<Reply, Refusal>>,
    pub sidecars: BTreeMap<String, Sidecar>,
    /// While set, batches wait for their append.
    pub hold: bool,
    pub held: Vec<(u64, Vec<journal::Event>)>,
    pub mirror: Mirror,
    epoch: u64,
    next_session: SessionId,
    next_token: Token,
}

/// A sidecar as the orchestrator can know it.
#[derive(Default)]
pub struct Sidecar {
    pub instance: String,
    pub life: u64,
    pub session: Option<SessionId>,
    pub host: String,
    pub incarnation: u64,
    pub lacks: BTreeSet<String>,
    /// What it can do besides.
    pub also: BTreeSet<String>,
    /// Of a container: it activates an agent that it does not launch.
    pub beside: bool,
    /// Facts that were not acknowledged, with the moment at which they came up.
    spool: Vec<(u64, Millis, fact::Kind)>,
    next_fact: u64,
    fact_acked: u64,
    /// Checks that were told; a heartbeat says that they are still so.
    told: BTreeSet<(String, String)>,
    next_beat: Millis,
    /// Heartbeats name no checks: their evidence grows old.
    pub mute_checks: bool,
    /// Its newest verdict waits still: so far beyond what was told.
    pub verdict_ahead: u64,
    pub cursor: Option<u64>,
    pub received: Vec<v1::CommandDelivery>,
    pub cancelled: Vec<String>,
    pub renewed: Vec<String>,
}

impl Sidecar {
    /// Facts that came up so far.
    pub fn told_facts(&self) -> u64 {
        self.next_fact
    }
}

pub fn plan_of(yaml: &str) -> plan::Plan {
    plan::parse(yaml, "plan.yaml").unwrap_or_else(|m| panic!("{}", m.render(false))).plan
}

impl World {
    pub fn new(yaml: &str) -> Self {
        let plan = plan_of(yaml);
        let project = Project::replay(&plan.project, LINEAGE, 1, []);
        let mirror = Mirror::new(project.situation(START));
        let mut world = Self {
            project,
            now: START,
            journal: Vec::new(),
            out: Vec::new(),
            replies: BTreeMap::new(),
            sidecars: BTreeMap::new(),
            hold: false,
            held: Vec::new(),
            mirror,
            epoch: 1,
            next_session: 1,
            next_token: 1,
        };
        world.input(Input::Started);
        world.apply_plan(yaml).unwrap();
        world
    }

    pub fn input(&mut self, input: Input) {
        let actions = self.project.handle(self.now, input);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Append { batch, events } if self.hold => self.held.push((batch, events)),
                Action::Append { batch, events } => self.append(batch, events),
                released => self.release(released),
            }
        }
    }

    fn append(&mut self, batch: u64, events: Vec<journal::Event>) {
        for event in events {
            let again = journal::Event::decode(event.encode_to_vec().as_slice()).unwrap();
            assert_eq!(again, event, "an event must survive its encoding");
            self.journal.push(again);
        }
        self.input(Input::Appended { batch });
    }

    pub fn append_held(&mut self) {
        self.hold = false;
        for (batch, events) in std::mem::take(&mut self.held) {
            self.append(batch, events);
        }
    }

    fn release(&mut self, action: Action) {
        match &action {
            Action::Send { session, body } => self.hear(*session, body),
            Action::Close { session, .. } => {
                for sidecar in self.sidecars.values_mut().filter(|s| s.session == Some(*session)) {
                    sidecar.session = None;
                }
            }
            Action::Reply { token, reply } => {
                self.replies.insert(*token, reply.clone());
            }
            Action::Publish { change } => self.mirror.apply(change),
            Action::Append { .. } => {}
        }
        self.out.push(action);
    }

    fn hear(&mut self, session: SessionId, body: &connect_response::Body) {
        let Some(sidecar) = self.sidecars.values_mut().find(|s| s.session == Some(session)) else { return };
        match body {
            connect_response::Body::FactAck(ack) => {
                sidecar.fact_acked = ack.seq;
                sidecar.spool.retain(|(seq, ..)| *seq > ack.seq);
            }
            connect_response::Body::Command(delivery) => {
                sidecar.cursor = Some(delivery.cursor);
                sidecar.received.push(delivery.clone());
            }
            connect_response::Body::Cancel(cancel) => sidecar.cancelled.push(cancel.id.clone()),
            connect_response::Body::LeaseRenewal(renewal) => sidecar.renewed.extend(renewal.commands.clone()),
            connect_response::Body::Welcome(_)
            | connect_response::Body::CommandUpdateAck(_)
            | connect_response::Body::Plan(_)
            | connect_response::Body::GoAway(_)
            | connect_response::Body::Pulse(_)
            | connect_response::Body::Conduct(_)
            | connect_response::Body::Unsupported(_) => {}
        }
    }

    /// Time goes on: heartbeats of connected sidecars, and every deadline that the project names.
    pub fn advance(&mut self, ms: Millis) {
        let until = self.now + ms;
        let mut ticks = 0;
        loop {
            let beat = self.sidecars.values().filter(|s| s.session.is_some()).map(|s| s.next_beat).min();
            let deadline = self.project.next_deadline().map(|(at, _)| at);
            let next = [beat, deadline].into_iter().flatten().min().filter(|at| *at <= until);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if beat.is_some_and(|at| at <= self.now) {
                self.beat();
            }
            self.input(Input::Tick);
            ticks += 1;
            assert!(ticks < 50_000, "a deadline does not pass: {:?}", self.project.next_deadline());
        }
        self.now = until;
        self.input(Input::Tick);
    }

    fn beat(&mut self) {
        let every = self.project.state().plan.windows.heartbeat_every_ms as Millis;
        let due: Vec<String> = self
            .sidecars
            .iter()
            .filter(|(_, s)| s.session.is_some() && s.next_beat <= self.now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            let sidecar = self.sidecars.get_mut(&name).unwrap();
            sidecar.next_beat = self.now + every;
            let session = sidecar.session.unwrap();
            let told = if sidecar.mute_checks { BTreeSet::new() } else { sidecar.told.clone() };
            let checks =
                told.into_iter().map(|(deliverable, check_id)| v1::CheckAge { deliverable, check_id, age_ms: 0 });
            let verdict_revision = sidecar.fact_acked.min(1) + sidecar.verdict_ahead;
            let heartbeat = v1::Heartbeat { verdict_revision, checks: checks.collect() };
            self.input(Input::FromSidecar { session, body: connect_request::Body::Heartbeat(heartbeat) });
        }
    }

    /// The same, and the next one has a snapshot of this part of the journal, and only the events behind it.
    pub fn restart_from_snapshot(&mut self, share: f64) {
        let cut = (self.journal.len() as f64 * share) as usize;
        let name = self.project.state().project.clone();
        let mut before = State::new(&name, LINEAGE);
        self.journal[..cut].iter().for_each(|event| before.apply(event));
        self.restart_as(|journal, epoch| {
            let mut state = State::from_snapshot(&name, LINEAGE, &before.to_snapshot()).unwrap();
            journal[cut..].iter().for_each(|event| state.apply(event));
            Project::resume(state, epoch)
        });
    }

    /// The orchestrator dies, with whatever was not durable, and another process begins from the journal.
    pub fn restart_orchestrator(&mut self) {
        let name = self.project.state().project.clone();
        self.restart_as(|journal, epoch| Project::replay(&name, LINEAGE, epoch, journal.to_vec()));
    }

    fn restart_as(&mut self, start: impl FnOnce(&[journal::Event], u64) -> Project) {
        let whole = self.held.is_empty();
        self.held.clear();
        let before = self.project.state_digest();
        self.epoch += 1;
        self.project = start(&self.journal, self.epoch);
        if whole {
            assert_eq!(self.project.state_digest(), before, "replay gives the same state");
        }
        self.mirror = Mirror::new(self.project.situation(0));
        for sidecar in self.sidecars.values_mut() {
            sidecar.session = None;
        }
        self.input(Input::Started);
    }

    /// Replay of the journal decides nothing and gives the same state and the same situation; a watcher has seen it.
    pub fn check_replay(&self) {
        assert!(self.held.is_empty());
        let name = &self.project.state().project;
        let again = Project::replay(name, LINEAGE, self.epoch, self.journal.clone());
        assert_eq!(again.state_digest(), self.project.state_digest(), "state after replay");
        assert_eq!(format!("{:?}", again.derived()), format!("{:?}", self.project.derived()), "situation after replay");
        self.mirror.compare(&self.project);
    }

    pub fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    pub fn apply_plan(&mut self, yaml: &str) -> Result<Reply, Refusal> {
        let token = self.token();
        self.input(Input::ApplyPlan { token, plan: Box::new(plan_of(yaml)), source_yaml: yaml.into() });
        self.replies[&token].clone()
    }

    pub fn status(&self, agent: &str) -> v1::AgentStatus {
        self.project.derived().agents[agent].status
    }

    pub fn reason(&self, agent: &str) -> String {
        self.project.derived().agents[agent].reason.clone()
    }

    pub fn deliverable(&self, id: &str) -> pitwall_core::derive::DeliverableView {
        self.project.derived().deliverables[&id_of(id)].clone()
    }

    pub fn cause(&self, id: &str) -> Option<v1::Cause> {
        self.project.derived().causes.get(&id_of(id)).map(|c| c.cause)
    }

    /// Kinds and subjects of open findings.
    pub fn findings(&self) -> Vec<String> {
        let open = self.project.findings(false);
        open.iter()
            .map(|f| format!("{} {}", render::word(f.kind().as_str_name(), "FINDING_KIND_"), f.subject))
            .collect()
    }

    pub fn command(&self, id: &str) -> v1::Command {
        self.project.commands("", id, 1).remove(0)
    }

    pub fn outcome(&self, id: &str) -> v1::InterventionOutcome {
        self.project.interventions().into_iter().find(|i| i.id == id).unwrap().outcome()
    }
}

pub fn is_pulse(action: &Action) -> bool {
    matches!(action, Action::Send { body: connect_response::Body::Pulse(_), .. })
}

/// `agent/deliverable`.
pub fn id_of(text: &str) -> DeliverableId {
    let (agent, name) = text.split_once('/').unwrap_or_else(|| panic!("{text} is no agent/deliverable"));
    DeliverableId::new(agent, name)
}
