//! What comes in is decided by the core, and what it says is carried out, in order.
use std::collections::VecDeque;

use pitwall_core::{
    io::{Action, Input, Refusal, Reply, SessionId, Token},
    project::Project,
};
use pitwall_proto::v1::{self, connect_response};
use tonic::Status;

use super::{
    super::{
        hub::Start,
        mailbox::{Answer, Call, Held, Message},
        status,
    },
    Done, FromStore, Mode, Task,
};

impl Task {
    pub(super) async fn on_call(&mut self, call: Call) {
        match call {
            Call::Ask(ask) => {
                let now = self.clock.now();
                let held = ask(self.readable().map(|project| (project, now)));
                self.hold(held);
            }
            Call::Apply { plan, source_yaml, answer } => {
                let token = self.token(answer);
                self.decide(Input::ApplyPlan { token, plan, source_yaml }).await;
            }
            Call::Issue { request, answer } => {
                let token = self.token(answer);
                self.decide(Input::IssueCommand { token, request }).await;
            }
            Call::Cancel { id, answer } => {
                let token = self.token(answer);
                self.decide(Input::CancelCommand { token, id }).await;
            }
            Call::Adopt { request, answer } => {
                let token = self.token(answer);
                self.decide(Input::AdoptSidecar { token, request: *request }).await;
            }
            Call::TokenMisused(misuse) => {
                let (agent, token, key) = (misuse.agent, misuse.token, misuse.key);
                self.decide(Input::TokenMisused { agent, token, key }).await;
            }
            Call::Watch { from, answer } => {
                let missed = from.and_then(|from| self.hub.missed(&from));
                let start = match missed {
                    Some(missed) => Ok(missed),
                    None => self.readable().map(|core| Start::Snapshot(Box::new(core.situation(self.clock.now())))),
                };
                // Subscribed now, answered when the snapshot is durable: nothing in between is missed.
                let watching = start.map(|start| self.hub.watch(start));
                self.hold(Box::new(move || {
                    let _ = answer.send(watching);
                }));
            }
            Call::Shutdown { reason } => self.begin_end(reason).await,
        }
    }

    pub(super) async fn on_message(&mut self, message: Message) {
        match message {
            Message::Opened { session, seq, hello, out } => {
                if let Mode::Down { why, .. } = &self.mode {
                    return out.end(status::store_failed(why));
                }
                self.sessions.insert(session, out);
                self.decide(Input::Hello { session, hello }).await;
                self.acknowledge(session, seq);
            }
            Message::Unknown { session, seq } => {
                let reason = "this message has no body that this orchestrator knows; it was ignored".to_owned();
                let body = connect_response::Body::Unsupported(v1::Unsupported { seq, reason });
                let mut follow_ups = VecDeque::new();
                self.send(session, body, &mut follow_ups);
                for input in follow_ups {
                    self.decide(input).await;
                }
                self.acknowledge(session, seq);
            }
            Message::Body { session, seq, body, room: _room } => {
                // Of a session that was ended: dropped.
                if self.sessions.contains_key(&session) {
                    self.readouts_dirty |= matches!(*body, v1::connect_request::Body::Readings(_));
                    self.decide(Input::FromSidecar { session, body: *body }).await;
                    self.acknowledge(session, seq);
                }
            }
            Message::Closed { session, told } => {
                if let (Some(out), Some(told)) = (self.sessions.remove(&session), told) {
                    out.end(told);
                }
                self.decide(Input::SessionClosed { session }).await;
            }
        }
    }

    /// The other side's message was processed, as soon as what it led to is durable.
    fn acknowledge(&mut self, session: SessionId, seq: u64) {
        if let Some(out) = self.sessions.get(&session) {
            let ack = out.acknowledge(seq);
            self.hold(Box::new(ack));
        }
    }

    /// Lets the core decide, and carries out what it says. While the journal fails, answers for it.
    pub(super) async fn decide(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            match &mut self.mode {
                Mode::Down { why, .. } => {
                    let token = match input {
                        Input::ApplyPlan { token, .. }
                        | Input::IssueCommand { token, .. }
                        | Input::CancelCommand { token, .. }
                        | Input::AdoptSidecar { token, .. } => token,
                        Input::Started
                        | Input::Restored
                        | Input::Hello { .. }
                        | Input::FromSidecar { .. }
                        | Input::SessionClosed { .. }
                        | Input::TokenMisused { .. }
                        | Input::Drain { .. }
                        | Input::Appended { .. }
                        | Input::Tick => continue,
                    };
                    let told = status::store_failed(why);
                    self.answer(token, Err(told));
                }
                Mode::Up(core) => {
                    let actions = core.handle(self.clock.now(), input);
                    self.carry_out(actions, &mut inputs).await;
                }
            }
        }
    }

    async fn carry_out(&mut self, actions: Vec<Action>, follow_ups: &mut VecDeque<Input>) {
        for action in actions {
            match action {
                Action::Append { batch, events } => {
                    self.in_flight += 1;
                    self.last_batch = batch;
                    let (tell, epoch) = (self.tell.clone(), self.owner.epoch);
                    let done = Box::new(move |result| {
                        // The task may have ended.
                        let _ = tell.send(FromStore { epoch, done: Done::Appended { batch }, result });
                    });
                    self.journal.append(&self.name, epoch, events, done).await;
                }
                Action::Send { session, body: body @ connect_response::Body::GoAway(_) } => {
                    if let Some(out) = self.sessions.get(&session) {
                        // Without room for it the end itself says the reason.
                        let _ = out.send(body);
                    }
                }
                Action::Send { session, body } => self.send(session, body, follow_ups),
                Action::Close { session, refusal } => {
                    // Nobody looks at a sidecar's log for what is wrong here; every sidecar would say the same.
                    if refusal.reason == "EPOCH_FENCED" && !std::mem::replace(&mut self.fenced_told, true) {
                        tracing::error!(project = %self.name, "a sidecar was refused: {}", refusal.message);
                    }
                    if let Some(out) = self.sessions.remove(&session) {
                        out.end(status::refused(&refusal));
                    }
                }
                Action::Reply { token, reply } => self.answer(token, reply.map_err(|r: Refusal| status::refused(&r))),
                Action::Publish { change } => self.hub.publish(*change),
            }
        }
    }

    fn send(&mut self, session: SessionId, body: connect_response::Body, follow_ups: &mut VecDeque<Input>) {
        let Some(out) = self.sessions.get(&session) else { return };
        if out.send(body).is_err() {
            tracing::warn!(session, "the sidecar does not read what it is sent: disconnected");
            if let Some(out) = self.sessions.remove(&session) {
                out.end_too_slow();
            }
            follow_ups.push_back(Input::SessionClosed { session });
        }
    }

    fn readable(&self) -> Result<&Project, Status> {
        match &self.mode {
            Mode::Up(core) => Ok(core),
            Mode::Down { durable: Some(core), .. } => Ok(core),
            Mode::Down { durable: None, why, .. } => Err(status::store_failed(why)),
        }
    }

    /// Keeps what rests on decisions that are not durable yet.
    fn hold(&mut self, release: Held) {
        if self.durable_batch >= self.last_batch || matches!(self.mode, Mode::Down { .. }) {
            release();
        } else {
            self.held.push_back((self.last_batch, release));
        }
    }

    pub(super) fn token(&mut self, answer: Answer<Reply>) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.waiting.insert(token, answer);
        token
    }

    fn answer(&mut self, token: Token, reply: Result<Reply, Status>) {
        if let Some(answer) = self.waiting.remove(&token) {
            // The client may be gone.
            let _ = answer.send(reply);
        }
    }
}
