//! One project's decider. Takes `(now, Input)`, decides events, applies them to its state and answers with
//! actions; whatever may be seen outside waits until the events behind it are durable (`Input::Appended`).
//! Volatile things (streams, readings, signs of life) live beside the state and are never journaled.
mod facts;
mod issue;
mod ledger;
mod liveness;
mod publish;
mod sessions;
mod settle;

use std::collections::{BTreeMap, VecDeque};

use pitwall_proto::{
    journal::{self, event::Body},
    v1,
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
    pub(crate) readings: BTreeMap<String, (Millis, v1::Readings)>,
    published: publish::Published,
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
        let derived = derive::derive(&state);
        let now = state.at;
        let mut replayed = Self {
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
            readings: BTreeMap::new(),
            published: publish::Published::default(),
            foreign_verdicts: 0,
        };
        replayed.published = replayed.snapshot_published();
        replayed
    }

    /// Takes one input and says what to do, in order.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Action> {
        // Project time never runs backwards.
        self.now = self.now.max(now);
        match input {
            Input::Started => self.begin_grace(),
            Input::ApplyPlan { token, plan, source_yaml } => self.apply_plan(token, *plan, source_yaml),
            Input::Hello { session, hello } => self.hello(session, *hello),
            Input::FromSidecar { session, body } => self.on_message(session, body),
            Input::SessionClosed { session } => self.sessions.remove(session),
            Input::IssueCommand { token, request } => self.issue(token, *request),
            Input::CancelCommand { token, id } => self.cancel(token, &id),
            Input::Appended { batch } => return self.appended(batch),
            Input::Tick => self.pass_deadlines(),
        }
        self.settle();
        self.owe_sessions();
        self.close_batch()
    }

    /// When something changes by itself next, and why.
    pub fn next_deadline(&self) -> Option<(Millis, String)> {
        [self.derived.next_deadline.clone(), self.liveness_deadline(), self.ledger_deadline(), self.renewal_deadline()]
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

    pub fn derived(&self) -> &Derived {
        &self.derived
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
        let released = std::mem::take(&mut self.after);
        if events.is_empty() && self.waiting.is_empty() {
            return released;
        }
        // Also without events of its own: what it tells may rest on a batch that is not durable yet.
        let batch = self.next_batch;
        self.next_batch += 1;
        self.waiting.push_back((batch, released));
        if events.is_empty() {
            // Rides on the batch before it.
            let (_, released) = self.waiting.pop_back().expect("pushed just now");
            self.next_batch -= 1;
            self.waiting.back_mut().expect("not empty").1.extend(released);
            return Vec::new();
        }
        vec![Action::Append { batch, events }]
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
        self.send_plan_to_all();
        self.reply(token, Ok(Reply::Plan { generation, differences }));
    }
}
