//! The journal as the disk has it: every event in order, and what they say in the plainest form.
use std::collections::BTreeMap;

use pitwall_proto::{
    journal::{Event, event::Body},
    v1::{self, CommandState as S},
};
use prost::Message as _;

use super::{FactKey, Invariant};

#[derive(Clone, Debug)]
pub struct Ledgered {
    pub agent: String,
    pub cursor: u64,
    pub spec: v1::CommandSpec,
    pub key: String,
    pub expires_ms: i64,
    pub states: Vec<S>,
    pub cancel_requested: bool,
}

impl Ledgered {
    pub fn last(&self) -> S {
        self.states.last().copied().unwrap_or(S::Queued)
    }
}

pub fn is_end(state: S) -> bool {
    use S::{Cancelled, Expired, Failed, Rejected, Succeeded, Superseded, Unknown};
    matches!(state, Succeeded | Failed | Rejected | Expired | Cancelled | Superseded | Unknown)
}

fn rank(state: S) -> u8 {
    match state {
        S::Unspecified => 0,
        S::Queued => 1,
        S::Sent => 2,
        S::Received => 3,
        S::Accepted => 4,
        S::Running => 5,
        _ => 6,
    }
}

#[derive(Debug, Default)]
pub struct Journal {
    pub last: u64,
    pub commands: BTreeMap<String, Ledgered>,
    keys: BTreeMap<String, String>,
    /// By agent and instance.
    pub accepted: BTreeMap<(String, String), u64>,
    pub facts: BTreeMap<FactKey, u64>,
    /// By agent: the instance and life that connected last.
    pub connected: BTreeMap<String, (String, u64)>,
    /// And from where.
    pub places: BTreeMap<String, String>,
    /// By command: the instance that it was sent to first.
    pub sent_to: BTreeMap<String, String>,
    /// By agent: the highest number that was sent.
    highest_sent: BTreeMap<String, u64>,
    /// Commands that got a step in the batch applied last, and how many were issued in it.
    pub stepped: Vec<(String, S)>,
    pub issued: u64,
}

impl Journal {
    /// The breaches, if any.
    pub fn append(&mut self, events: &[Event]) -> Vec<(Invariant, String)> {
        let mut breaches = Vec::new();
        self.stepped.clear();
        self.issued = 0;
        for event in events {
            self.last = event.sequence;
            let Some(body) = &event.body else { continue };
            if let Some(key) = FactKey::of_event(body) {
                *self.facts.entry(key).or_default() += 1;
            }
            match body {
                Body::FactsAccepted(facts) => {
                    let to = self.accepted.entry((facts.agent.clone(), facts.instance.clone())).or_default();
                    *to = (*to).max(facts.seq);
                }
                Body::SidecarConnected(sidecar) => {
                    self.connected.insert(sidecar.agent.clone(), (sidecar.instance.clone(), sidecar.life));
                    self.places.insert(sidecar.agent.clone(), sidecar.place.clone());
                }
                Body::CommandIssued(issued) => {
                    self.issued += 1;
                    let command = Ledgered {
                        agent: issued.agent.clone(),
                        cursor: issued.cursor,
                        spec: v1::CommandSpec::decode(issued.spec.as_slice()).unwrap_or_default(),
                        key: issued.idempotency_key.clone(),
                        expires_ms: issued.expires_ms,
                        states: vec![S::Queued],
                        cancel_requested: false,
                    };
                    if let Some(other) = self.keys.insert(command.key.clone(), issued.id.clone()) {
                        let text = format!("{} and {other} have the key {}", issued.id, command.key);
                        breaches.push((Invariant::OneKeyOneCommand, text));
                    }
                    self.commands.insert(issued.id.clone(), command);
                }
                Body::CommandStep(step) => {
                    let state = S::try_from(step.state).unwrap_or_default();
                    let Some(command) = self.commands.get_mut(&step.id) else { continue };
                    let last = command.last();
                    let refined = last == S::Unknown && is_end(state) && state != S::Unknown;
                    let forward = !is_end(last) && rank(state) > rank(last);
                    if !(forward || refined) {
                        let text = format!("{} went from {last:?} to {state:?}", step.id);
                        breaches.push((Invariant::CommandMovesForward, text));
                    }
                    if step.cursor != 0 {
                        command.cursor = step.cursor;
                    }
                    let (agent, cursor) = (command.agent.clone(), command.cursor);
                    command.states.push(state);
                    if state == S::Sent {
                        breaches.extend(self.sent(&step.id, agent, cursor, event.at_ms));
                    }
                    self.stepped.push((step.id.clone(), state));
                }
                Body::CancelRequested(cancel) => {
                    if let Some(command) = self.commands.get_mut(&cancel.id) {
                        command.cancel_requested = true;
                    }
                }
                _ => {}
            }
        }
        breaches
    }

    /// A sidecar takes a number below one that it has for one that it has forgotten. And what acts never waits behind a
    /// directive that was not sent.
    fn sent(&mut self, id: &str, agent: String, cursor: u64, at: i64) -> Option<(Invariant, String)> {
        if let Some((instance, _)) = self.connected.get(&agent) {
            self.sent_to.insert(id.to_owned(), instance.clone());
        }
        let is_directive = |c: &Ledgered| matches!(c.spec.kind, Some(v1::command_spec::Kind::Directive(_)));
        let may_go = |c: &Ledgered| c.last() == S::Queued && !c.cancel_requested && c.expires_ms > at;
        let waits = |c: &&Ledgered| c.agent == agent && may_go(c) && !is_directive(c);
        let overtaken =
            self.commands.get(id).filter(|c| is_directive(c)).and_then(|_| self.commands.values().find(waits));
        if let Some(act) = overtaken {
            let text = format!("{id}, a directive, is sent while {:?} with number {} waits", act.spec.kind, act.cursor);
            return Some((Invariant::ActsOvertakeDirectives, text));
        }
        let highest = self.highest_sent.entry(agent).or_default();
        let before = std::mem::replace(highest, (*highest).max(cursor));
        (cursor <= before)
            .then(|| (Invariant::NumbersOnlyRise, format!("{id} is sent with number {cursor}, behind {before}")))
    }
}
