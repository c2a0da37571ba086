//! The orchestrator's side of the stream, as far as a sidecar sees it, and what it holds a sidecar to.
use std::collections::BTreeMap;

use pitwall_proto::v1::{
    self, CommandState, command_spec::Kind as Spec, connect_request::Body as Up, connect_response::Body as Down, fact,
};

use super::world::World;
use crate::{core::commands::is_terminal, io::Input};

/// The orchestrator's side, as far as the stream shows it.
#[derive(Clone, Default)]
pub struct Orchestrator {
    pub lineage: String,
    pub epoch: u64,
    /// By position in the ledger.
    pub commands: BTreeMap<u64, v1::CommandDelivery>,
    pub states: BTreeMap<String, Vec<CommandState>>,
    pub details: BTreeMap<String, String>,
    /// By number; what came twice came with the same words.
    pub facts: BTreeMap<u64, fact::Kind>,
    pub fact_acked: u64,
    pub readings: u32,
    pub beats: u32,
    pub hellos: Vec<v1::Hello>,
    pub plan: Option<v1::AgentPlan>,
    pub sent: Vec<String>,
    /// It says nothing any more, and answers no hello.
    pub mute: bool,
    /// What its next welcomes say besides.
    pub pulse_every_ms: u32,
    pub outdated: String,
    pub only_observe: bool,
    pub newest_life: u64,
}

impl World {
    pub fn hello(&mut self, session: u64, frame: v1::ConnectRequest) {
        assert_eq!(frame.seq, 1);
        let Some(Up::Hello(hello)) = frame.body else { panic!("hello first") };
        assert_eq!(hello.life, self.durable.life.life, "a life is durable before it connects");
        self.orchestrator.hellos.push(hello);
        self.orchestrator.sent.clear();
        self.session = Some(session);
        self.seq = 0;
        let o = &self.orchestrator;
        if o.mute {
            return;
        }
        let welcome = v1::Welcome {
            session: session.to_string(),
            lineage: o.lineage.clone(),
            epoch: o.epoch,
            heartbeat_every_ms: 1_000,
            plan: o.plan.clone(),
            fact_acked: o.fact_acked,
            pulse_every_ms: o.pulse_every_ms,
            outdated: o.outdated.clone(),
            newest_life: o.newest_life,
            conduct: o.only_observe.then(|| v1::Conduct { only_observe: true, reason: "twins".into() }),
            ..Default::default()
        };
        self.say(Down::Welcome(welcome));
        self.owe();
    }

    pub fn say(&mut self, body: Down) {
        if let Some(session) = self.session.filter(|_| !self.orchestrator.mute) {
            self.seq += 1;
            let frame = v1::ConnectResponse { seq: self.seq, ack: 0, body: Some(body) };
            self.inputs.push_back(Input::Received { session, frame });
        }
    }

    pub fn lose_connection(&mut self) {
        if let Some(session) = self.session.take() {
            self.inputs.retain(|i| !matches!(i, Input::Received { .. }));
            self.inputs.push_back(Input::Closed { session, why: "cut".into(), refusal: None });
        }
    }

    pub fn connected(&self) -> bool {
        self.session.is_some()
    }

    /// Into the ledger; delivered in this session or the next.
    pub fn issue(&mut self, spec: Spec, start_within_ms: u32) -> String {
        let cursor = self.orchestrator.commands.len() as u64 + 1;
        let id = format!("c{cursor}");
        let spec = Some(v1::CommandSpec { kind: Some(spec) });
        let delivery = v1::CommandDelivery { id: id.clone(), cursor, spec, start_within_ms };
        self.orchestrator.commands.insert(cursor, delivery);
        self.owe();
        id
    }

    pub fn owe(&mut self) {
        if self.session.is_none() || self.orchestrator.mute {
            return;
        }
        let owed: Vec<v1::CommandDelivery> = self
            .orchestrator
            .commands
            .values()
            .filter(|c| !self.orchestrator.sent.contains(&c.id) && !self.orchestrator.states.contains_key(&c.id))
            .cloned()
            .collect();
        for delivery in owed {
            self.orchestrator.sent.push(delivery.id.clone());
            self.say(Down::Command(delivery));
        }
    }

    pub fn receive(&mut self, frame: v1::ConnectRequest) {
        match frame.body.expect("a body") {
            Up::Hello(_) => panic!("one hello only"),
            Up::Heartbeat(_) => self.orchestrator.beats += 1,
            Up::Readings(_) => self.orchestrator.readings += 1,
            Up::Unsupported(_) => {}
            Up::Facts(batch) => {
                for fact in batch.facts {
                    // Invariant 2: told only after it was durable.
                    assert!(fact.seq <= self.durable.spool.last_seq, "fact {} is not durable", fact.seq);
                    let kind = fact.kind.expect("a kind");
                    let o = &mut self.orchestrator;
                    if fact.seq > o.fact_acked {
                        assert_eq!(fact.seq, o.fact_acked + 1, "no gap");
                        o.facts.insert(fact.seq, kind);
                        o.fact_acked = fact.seq;
                    } else {
                        assert_eq!(o.facts.get(&fact.seq), Some(&kind), "a number is never used twice");
                    }
                }
                let seq = self.orchestrator.fact_acked;
                self.say(Down::FactAck(v1::FactAck { seq }));
            }
            Up::CommandUpdate(update) => {
                let recorded = self.durable.commands.get(&update.id).expect("told only after it was durable");
                assert!(recorded.state >= update.state, "{update:?} is ahead of {recorded:?}");
                let outdated = !self.orchestrator.outdated.is_empty();
                let states = self.orchestrator.states.entry(update.id.clone()).or_default();
                let state = update.state();
                if let Some(end) = states.iter().find(|s| is_terminal(**s)) {
                    assert!(
                        !is_terminal(state) || *end == state || outdated,
                        "{} ended as {end:?} and {state:?}",
                        update.id
                    );
                }
                if !states.contains(&state) {
                    states.push(state);
                }
                self.orchestrator.details.insert(update.id.clone(), update.detail);
                self.say(Down::CommandUpdateAck(v1::CommandUpdateAck { id: update.id, state: update.state }));
            }
        }
    }

    pub fn result(&self, id: &str) -> Option<CommandState> {
        self.orchestrator.states.get(id)?.iter().copied().find(|s| is_terminal(*s))
    }

    pub fn leases(&self) -> Vec<v1::LeaseState> {
        let leases = self.orchestrator.facts.values().filter_map(|f| match f {
            fact::Kind::Lease(lease) => Some(lease.state()),
            _ => None,
        });
        leases.collect()
    }
}
