//! One project's decider. Takes `(now, Input)`, decides events, applies them to its state and answers with
//! actions; whatever may be seen outside waits until the events behind it are durable (`Input::Appended`).
//! Volatile things (streams, readings, signs of life) live beside the state and are never journaled.
mod clones;
mod drain;
mod facts;
mod fencing;
mod host_pressure;
mod identify;
mod issue;
mod lease;
mod ledger;
mod liveness;
mod mass_loss;
mod outbox;
mod policy;
mod publish;
mod pulse;
mod restored;
mod resume;
mod sessions;
mod settle;

use std::collections::{BTreeMap, VecDeque};

use pitwall_proto::{
    journal::{self, event::Body},
    mutant, v1,
};

use crate::{
    derive::{self, Derived},
    io::{Action, Input, Millis, Refusal, RefusalKind, Reply, Token},
    plan::{self, Plan},
    state::State,
};

#[derive(Debug)]
pub struct Project {
    pub(crate) state: State,
    pub(crate) derived: Derived,
    epoch: u64,
    now: Millis,
    /// Events of the batch that is being decided.
    batch: Vec<journal::Event>,
    /// What the batch releases once durable.
    after: Vec<Action>,
    next_batch: u64,
    /// Batches that are not durable yet, oldest first, and what each releases.
    waiting: VecDeque<(u64, Vec<Action>)>,
    sessions: sessions::Sessions,
    signs: liveness::Signs,
    knocks: clones::Knocks,
    pub(crate) readings: BTreeMap<String, (Millis, v1::Readings)>,
    shortages: host_pressure::Shortages,
    published: publish::Published,
    resyncs: restored::Resyncs,
    /// Verdicts for rules of another generation: dropped, and counted.
    pub(crate) foreign_verdicts: u64,
}

impl Project {
    /// The state that a journal adds up to. Decides nothing.
    pub fn replay(project: &str, lineage: &str, epoch: u64, events: impl IntoIterator<Item = journal::Event>) -> Self {
        let mut state = State::new(project, lineage);
        for event in events {
            state.apply(&event);
        }
        Self::resume(state, epoch)
    }

    /// Goes on from a state that was read from a journal. Decides nothing.
    pub fn resume(state: State, epoch: u64) -> Self {
        let derived = derive::derive(&state);
        let now = state.at;
        let mut resumed = Self {
            state,
            derived,
            epoch,
            now,
            batch: Vec::new(),
            after: Vec::new(),
            next_batch: 1,
            waiting: VecDeque::new(),
            sessions: sessions::Sessions::default(),
            signs: liveness::Signs::default(),
            knocks: clones::Knocks::default(),
            readings: BTreeMap::new(),
            shortages: host_pressure::Shortages::default(),
            published: publish::Published::default(),
            resyncs: restored::Resyncs::default(),
            foreign_verdicts: 0,
        };
        resumed.published = resumed.snapshot_published();
        resumed
    }

    /// Takes one input and says what to do, in order.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Action> {
        self.excuse_standstill(now);
        // Project time never runs backwards.
        self.now = self.now.max(now);
        // Without events only a new stream or time makes anything due to a sidecar.
        let due = matches!(input, Input::Started | Input::Hello { .. } | Input::Tick);
        match input {
            Input::Started => self.begin_grace(),
            Input::Restored => self.restored(),
            Input::ApplyPlan { token, plan, source_yaml } => self.apply_plan(token, *plan, source_yaml),
            Input::Hello { session, hello } => self.hello(session, *hello),
            Input::FromSidecar { session, body } => self.on_message(session, body),
            Input::SessionClosed { session } => self.sessions.remove(session),
            Input::IssueCommand { token, request } => self.issue(token, *request),
            Input::CancelCommand { token, id } => self.cancel(token, &id),
            Input::AdoptSidecar { token, request } => self.adopt(token, &request),
            // It rests on nothing that waits for the disk.
            Input::Drain { reason } => return self.drain(&reason),
            Input::TokenMisused { agent, token, key } => self.token_misused(agent, token, key),
            Input::Appended { batch } => return self.appended(batch),
            Input::Tick => self.pass_deadlines(),
        }
        if due || !self.batch.is_empty() {
            self.owe_sessions();
        }
        self.settle();
        self.close_batch()
    }

    /// When something changes by itself next, and why.
    pub fn next_deadline(&self) -> Option<(Millis, String)> {
        [
            self.derived.next_deadline.clone(),
            self.liveness_deadline(),
            self.ledger_deadline(),
            self.renewal_deadline(),
            self.pulse_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub fn revision(&self) -> v1::Revision {
        self.state.revision()
    }

    pub fn state_digest(&self) -> String {
        self.state.digest()
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// Of the owner that this one decides for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn derived(&self) -> &Derived {
        &self.derived
    }

    /// Verdicts for rules of another generation: dropped, and counted since this process began.
    pub fn foreign_verdicts(&self) -> u64 {
        self.foreign_verdicts
    }

    /// What is kept beside the state of agents and checks that are no longer in the plan.
    fn forget_removed(&mut self) {
        self.readings.retain(|name, _| self.state.agents.contains_key(name));
        self.knocks.retain(|name, _| self.state.agents.contains_key(name));
        self.signs.forget_removed(&self.state);
        self.resyncs.forget_removed(&self.state);
    }

    /// Decides an event: it is part of the batch and of the state from here on.
    fn emit(&mut self, body: Body) {
        let event =
            journal::Event { sequence: self.state.sequence + 1, at_ms: self.now.max(self.state.at), body: Some(body) };
        self.state.apply(&event);
        self.batch.push(event);
    }

    /// Something to do once everything decided so far is durable.
    fn then(&mut self, action: Action) {
        self.after.push(action);
    }

    fn reply(&mut self, token: Token, reply: Result<Reply, Refusal>) {
        self.then(Action::Reply { token, reply });
    }

    fn close_batch(&mut self) -> Vec<Action> {
        if !self.batch.is_empty()
            && let Some(change) = self.change()
        {
            self.after.push(Action::Publish { change: Box::new(change) });
        }
        let events = std::mem::take(&mut self.batch);
        let mut released = std::mem::take(&mut self.after);
        let too_early = released.extract_if(.., |action| leaks(action)).collect::<Vec<_>>();
        if events.is_empty() {
            // What it tells may rest on a batch that is not durable yet: it rides on the latest.
            released.extend(too_early);
            match self.waiting.back_mut() {
                Some((_, before)) => before.extend(released),
                None => return released,
            }
            return Vec::new();
        }
        let batch = self.next_batch;
        self.next_batch += 1;
        self.waiting.push_back((batch, released));
        too_early.into_iter().chain([Action::Append { batch, events }]).collect()
    }

    fn appended(&mut self, batch: u64) -> Vec<Action> {
        let mut released = Vec::new();
        while self.waiting.front().is_some_and(|(n, _)| *n <= batch) {
            if let Some((_, actions)) = self.waiting.pop_front() {
                released.extend(actions);
            }
        }
        released
    }

    fn apply_plan(&mut self, token: Token, plan: Plan, source_yaml: String) {
        if plan.project != self.state.project {
            let message = format!("this is the plan of {}, the server owns {}", plan.project, self.state.project);
            let refusal = Refusal { kind: RefusalKind::InvalidArgument, reason: "PROJECT_MISMATCH", message };
            return self.reply(token, Err(refusal));
        }
        let differences = if self.state.generation == 0 {
            plan.agents.keys().map(|name| format!("agent {name} added")).collect()
        } else {
            plan::diff(&self.state.plan, &plan)
        };
        if differences.is_empty() && self.state.generation > 0 {
            return self.reply(token, Ok(Reply::Plan { generation: self.state.generation, differences }));
        }
        let resolved_json = serde_json::to_string(&plan).expect("a plan is made of strings, numbers and maps");
        let generation = self.state.generation + 1;
        for gone in self.state.agents.keys().filter(|a| !plan.agents.contains_key(*a)).cloned().collect::<Vec<_>>() {
            self.release_agent(&gone);
        }
        self.emit(Body::PlanApplied(journal::PlanApplied { generation, resolved_json, source_yaml }));
        self.forget_removed();
        self.end_mass_loss();
        self.send_plan_to_all();
        self.reply(token, Ok(Reply::Plan { generation, differences }));
    }
}

/// Deliberate bugs (see [`pitwall_proto::mutant!`]): what is told before it is durable. Nothing, else.
fn leaks(action: &Action) -> bool {
    use v1::connect_response::Body as Said;
    match action {
        Action::Send { body: Said::FactAck(_) | Said::CommandUpdateAck(_), .. } => mutant!("acknowledge-before-append"),
        Action::Publish { .. } => mutant!("publish-before-append"),
        _ => false,
    }
}
