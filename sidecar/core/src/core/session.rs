//! One stream at a time: hello first (`resume`), a welcome that is judged (`welcome`, `fencing`), then frames both ways. When
//! it is opened again is in `reconnect`, when it is dead in `link`, what is sent in `outbox`, what came of that in
//! `acknowledgement`. Here is only the order of all these.
use std::collections::{BTreeSet, VecDeque};

use pitwall_proto::v1::{self, connect_request, connect_response};

use super::{Core, link::DEAD_AFTER};
use crate::io::{Action, SessionId};

const WELCOME_WITHIN_MS: u64 = 10_000;

#[derive(Debug)]
pub(super) struct Stream {
    pub session: SessionId,
    since: u64,
    pub heard_at: u64,
    seq_out: u64,
    seq_in: u64,
    pub welcomed: Option<Welcomed>,
}

#[derive(Debug)]
pub(super) struct Welcomed {
    pub at: u64,
    pub facts_max: usize,
    pub bytes_max: usize,
    pub next_heartbeat: u64,
    /// Highest fact that was sent in this session, or acknowledged before.
    pub sent: u64,
    /// Last fact of each batch without acknowledgement.
    pub in_flight: VecDeque<u64>,
    /// Updates without acknowledgement.
    pub awaiting: BTreeSet<(String, i32)>,
    /// Since when an answer is owed.
    pub asked_at: Option<u64>,
    /// Of another lineage than before.
    pub resynced: bool,
    /// A command was not taken, and none is any more in this session.
    pub left_for_later: bool,
    /// What had waited for this session is sent.
    pub caught_up: bool,
    /// The other side says something at least so often; 0: it does not promise that.
    pub pulse_every: u64,
}

#[derive(Debug)]
pub(super) enum Phase {
    Waiting { at: u64 },
    Streaming(Stream),
}

#[derive(Debug)]
pub(super) struct Link {
    pub phase: Phase,
    last_session: SessionId,
    pub attempts: u32,
    /// What was said last of why there is no session.
    pub said: String,
}

impl Link {
    pub fn new(now: u64) -> Self {
        Self { phase: Phase::Waiting { at: now }, last_session: 0, attempts: 0, said: String::new() }
    }

    pub fn stream(&mut self) -> Option<&mut Stream> {
        match &mut self.phase {
            Phase::Streaming(stream) => Some(stream),
            Phase::Waiting { .. } => None,
        }
    }

    pub fn welcomed(&mut self) -> Option<&mut Welcomed> {
        self.stream()?.welcomed.as_mut()
    }

    pub fn is_welcomed(&self) -> bool {
        matches!(&self.phase, Phase::Streaming(Stream { welcomed: Some(_), .. }))
    }

    pub fn resynced(&self) -> bool {
        matches!(&self.phase, Phase::Streaming(Stream { welcomed: Some(w), .. }) if w.resynced)
    }

    pub fn connected(&mut self) {
        self.said.clear();
    }
}

impl Core {
    fn connect(&mut self) {
        self.link.last_session += 1;
        let session = self.link.last_session;
        let hello = connect_request::Body::Hello(self.hello());
        let hello = v1::ConnectRequest { seq: 1, ack: 0, body: Some(hello) };
        let now = self.now.boot_ms;
        self.link.phase =
            Phase::Streaming(Stream { session, since: now, heard_at: now, seq_out: 1, seq_in: 0, welcomed: None });
        self.out.push(Action::Connect { session, hello });
    }

    /// Only in a session that was welcomed; else it is nothing that waits.
    pub(super) fn send(&mut self, body: connect_request::Body) {
        if self.link.is_welcomed()
            && let Some(stream) = self.link.stream()
        {
            stream.seq_out += 1;
            let frame = v1::ConnectRequest { seq: stream.seq_out, ack: stream.seq_in, body: Some(body) };
            let session = stream.session;
            self.out.push(Action::Send { session, frame });
        }
    }

    pub(super) fn received(&mut self, session: SessionId, frame: v1::ConnectResponse) {
        let now = self.now.boot_ms;
        let Some(stream) = self.link.stream().filter(|s| s.session == session) else { return };
        stream.heard_at = now;
        stream.seq_in = stream.seq_in.max(frame.seq);
        if stream.welcomed.is_none() {
            match frame.body {
                Some(connect_response::Body::Welcome(welcome)) => self.welcome(welcome),
                Some(connect_response::Body::GoAway(go)) => self.go_away(&go),
                Some(_) | None => self.drop_stream("the first message of the orchestrator was no welcome"),
            }
            return;
        }
        match frame.body {
            Some(connect_response::Body::Welcome(_)) => self.drop_stream("the orchestrator welcomed twice"),
            Some(connect_response::Body::FactAck(ack)) => self.facts_acked(ack.seq),
            Some(connect_response::Body::Command(delivery)) => self.delivered(delivery),
            Some(connect_response::Body::Cancel(cancel)) => self.cancelled(&cancel.id),
            Some(connect_response::Body::CommandUpdateAck(ack)) => self.update_acked(&ack),
            Some(connect_response::Body::Plan(part)) => self.plan(part),
            Some(connect_response::Body::LeaseRenewal(renewal)) => self.renewed(&renewal.commands),
            Some(connect_response::Body::GoAway(go)) => self.go_away(&go),
            Some(connect_response::Body::Pulse(v1::Pulse {})) => {}
            Some(connect_response::Body::Conduct(conduct)) => self.conducted(&conduct),
            Some(connect_response::Body::Unsupported(other)) => {
                self.log(false, format!("the orchestrator did not know a message of this sidecar: {}", other.reason));
            }
            None => {
                let reason = "this sidecar does not know this message".into();
                self.send(connect_request::Body::Unsupported(v1::Unsupported { seq: frame.seq, reason }));
            }
        }
    }

    pub(super) fn settle_session(&mut self) {
        let now = self.now.boot_ms;
        let life_durable = self.store.is_durable(self.life);
        let stopping = self.stop.is_some();
        match &self.link.phase {
            Phase::Waiting { at } => {
                if *at <= now && life_durable && !stopping {
                    self.connect();
                }
                return;
            }
            Phase::Streaming(stream) if stream.welcomed.is_none() => {
                if now >= stream.since + self.welcome_within() {
                    self.drop_stream("no welcome came");
                }
                return;
            }
            Phase::Streaming(_) => {}
        }
        if self.link_is_dead() {
            return self.drop_stream("the orchestrator does not answer");
        }
        if self.has_room_for_what_was_left() {
            return self.drop_stream("there is room again for the commands that were left for later");
        }
        self.beat();
        self.send_updates();
        self.send_facts();
        self.catch_up();
    }

    fn welcome_within(&self) -> u64 {
        (self.heartbeat_every() * DEAD_AFTER).max(WELCOME_WITHIN_MS)
    }

    pub(super) fn session_deadline(&self) -> Option<u64> {
        match &self.link.phase {
            Phase::Waiting { at } => (self.store.is_durable(self.life) && self.stop.is_none()).then_some(*at),
            Phase::Streaming(Stream { since, welcomed: None, .. }) => Some(since + self.welcome_within()),
            Phase::Streaming(Stream { welcomed: Some(w), heard_at, .. }) => {
                let unanswered = w.asked_at.map(|at| at + self.heartbeat_every() * DEAD_AFTER);
                let silent = (w.pulse_every > 0).then_some(heard_at + w.pulse_every * DEAD_AFTER);
                [Some(w.next_heartbeat), unanswered, silent].into_iter().flatten().min()
            }
        }
    }
}
