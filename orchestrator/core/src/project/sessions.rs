//! Streams: who may speak for an agent, and what the ledger owes to whom. Level-triggered: after each input
//! every open session is sent what it has not been sent.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::{
    journal::{self, event::Body},
    v1::{self, CommandState, SidecarStatus, connect_request, connect_response},
};

use super::Project;
use crate::{
    io::{Action, Millis, Refusal, RefusalKind, SessionId},
    plan,
};

pub const MAX_MESSAGE_BYTES: u32 = 4 * 1024 * 1024;
pub const MAX_BATCH_FACTS: u32 = 256;
/// A lease is renewed when a third of its time to live has passed.
const RENEWALS_PER_TTL: i64 = 3;
const DEFAULT_TTL_MS: u32 = 60_000;

#[derive(Debug)]
pub(super) struct Session {
    pub agent: String,
    pub instance: String,
    /// Commands that were sent in this session.
    sent: BTreeSet<String>,
    cancels_sent: BTreeSet<String>,
    renewed_at: Option<Millis>,
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: BTreeMap<SessionId, Session>,
}

impl Sessions {
    pub fn remove(&mut self, session: SessionId) {
        self.open.remove(&session);
    }

    pub fn get(&self, session: SessionId) -> Option<&Session> {
        self.open.get(&session)
    }

    fn of_agent(&self, agent: &str) -> Option<SessionId> {
        self.open.iter().find(|(_, s)| s.agent == agent).map(|(id, _)| *id)
    }
}

impl Project {
    pub(super) fn hello(&mut self, session: SessionId, hello: v1::Hello) {
        if let Err(refusal) = self.admit(&hello) {
            self.then(Action::Close { session, refusal });
            return;
        }
        if let Some(older) = self.sessions.of_agent(&hello.agent) {
            self.sessions.remove(older);
            let refusal =
                refuse(RefusalKind::Aborted, "SESSION_SUPERSEDED", "a newer session of this instance took over");
            self.then(Action::Close { session: older, refusal });
        }
        let lost_memory = self.lost_memory(&hello);
        self.record_connection(&hello);
        if lost_memory {
            self.end_sent_commands(&hello.agent);
        }
        self.heard(&hello.agent);
        let name = hello.agent.clone();
        let fact_acked = self.state.agents[&name].fact_acked.get(&hello.instance).copied().unwrap_or(0);
        let welcome = v1::Welcome {
            session: session.to_string(),
            lineage: self.state.lineage.clone(),
            epoch: self.epoch,
            heartbeat_every_ms: u32::try_from(self.state.plan.windows.heartbeat_every_ms).unwrap_or(u32::MAX),
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_batch_facts: MAX_BATCH_FACTS,
            plan: plan::agent_part(&self.state.plan, &name, self.state.generation),
            fact_acked,
        };
        let opened = Session {
            agent: name,
            instance: hello.instance,
            sent: BTreeSet::new(),
            cancels_sent: BTreeSet::new(),
            renewed_at: None,
        };
        self.sessions.open.insert(session, opened);
        self.send(session, connect_response::Body::Welcome(welcome));
    }

    pub(super) fn send(&mut self, session: SessionId, body: connect_response::Body) {
        self.then(Action::Send { session, body });
    }

    fn admit(&mut self, hello: &v1::Hello) -> Result<(), Refusal> {
        use RefusalKind::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
        if !hello.project.is_empty() && hello.project != self.state.project {
            let message = format!("this server owns project {}, not {}", self.state.project, hello.project);
            return Err(refuse(NotFound, "PROJECT_UNKNOWN", message));
        }
        let Some(agent) = self.state.agents.get(&hello.agent) else {
            let known = self.state.agents.keys().cloned().collect::<Vec<_>>().join(", ");
            let message = format!("the plan has no agent {:?}; it has: {known}", hello.agent);
            return Err(refuse(NotFound, "AGENT_UNKNOWN", message));
        };
        if hello.instance.is_empty() || hello.life == 0 {
            return Err(refuse(InvalidArgument, "HELLO_INCOMPLETE", "a hello needs an instance and a life above 0"));
        }
        let resume_epoch = hello.resume.as_ref().map_or(0, |r| r.epoch);
        if resume_epoch > self.epoch {
            let message = format!(
                "the sidecar has seen epoch {resume_epoch}, this orchestrator has {}: another one took over",
                self.epoch
            );
            return Err(refuse(FailedPrecondition, "EPOCH_FENCED", message));
        }
        let Some(sidecar) = &agent.sidecar else { return Ok(()) };
        let same = sidecar.connected.instance == hello.instance;
        if same && hello.life < sidecar.connected.life {
            let message = format!(
                "life {} of this instance was superseded by life {}: two sidecars share one state",
                hello.life, sidecar.connected.life
            );
            return Err(refuse(AlreadyExists, "LIFE_SUPERSEDED", message));
        }
        if !same && sidecar.status != SidecarStatus::Lost {
            let known = agent.refused.as_ref().is_some_and(|(_, instance)| *instance == hello.instance);
            let message = format!(
                "agent {} has a sidecar already (instance {}), which is not lost; stop it, or wait until it is",
                hello.agent, sidecar.connected.instance
            );
            if !known {
                self.emit(Body::InstanceRefused(journal::InstanceRefused {
                    agent: hello.agent.clone(),
                    instance: hello.instance.clone(),
                    reason: message.clone(),
                }));
            }
            return Err(refuse(AlreadyExists, "SECOND_INSTANCE", message));
        }
        Ok(())
    }

    /// A sidecar with lost or older state may have acted on what it does not remember.
    fn lost_memory(&self, hello: &v1::Hello) -> bool {
        let Some(sidecar) = self.state.agents[&hello.agent].sidecar.as_ref() else { return false };
        if sidecar.connected.instance != hello.instance {
            return true;
        }
        let received = self.state.ledger.iter().filter_map(|(cursor, id)| {
            let command = self.state.commands.get(id)?;
            let here = command.issued.agent == hello.agent && command.reached(CommandState::Received).is_some();
            here.then_some(*cursor)
        });
        let resume = hello.resume.clone().unwrap_or_default();
        let same_lineage = resume.lineage == self.state.lineage;
        received.max().is_some_and(|cursor| same_lineage && resume.command_cursor.is_none_or(|held| held < cursor))
    }

    fn end_sent_commands(&mut self, agent: &str) {
        let sent: Vec<String> = self
            .state
            .unfinished_commands()
            .filter(|c| c.issued.agent == agent && c.state != CommandState::Queued)
            .map(|c| c.issued.id.clone())
            .collect();
        for id in sent {
            self.step(&id, CommandState::Unknown, "the sidecar came back without its memory of this command");
        }
    }

    fn record_connection(&mut self, hello: &v1::Hello) {
        let host = hello.host.clone().unwrap_or_default();
        let capabilities = hello.capabilities.iter().take(64).map(|c| journal::Capability {
            name: c.name.clone(),
            available: c.available,
            reason: c.reason.clone(),
            enabled_by: c.enabled_by.clone(),
        });
        let connected = journal::SidecarConnected {
            agent: hello.agent.clone(),
            instance: hello.instance.clone(),
            life: hello.life,
            host_boot_id: host.boot_id,
            hostname: host.hostname,
            incarnation: hello.incarnation,
            version: hello.version.clone(),
            capabilities: capabilities.collect(),
        };
        let known = self.state.agents[&hello.agent].sidecar.as_ref().is_some_and(|s| s.connected == connected);
        if !known {
            self.emit(Body::SidecarConnected(connected));
        }
    }

    pub(super) fn on_message(&mut self, session: SessionId, body: connect_request::Body) {
        let Some(open) = self.sessions.get(session) else { return };
        let (agent, instance) = (open.agent.clone(), open.instance.clone());
        if !self.state.agents.contains_key(&agent) {
            self.sessions.remove(session);
            let message = format!("agent {agent} is no longer in the plan");
            self.then(Action::Close { session, refusal: refuse(RefusalKind::NotFound, "AGENT_UNKNOWN", message) });
            return;
        }
        self.heard(&agent);
        match body {
            connect_request::Body::Hello(_) => {
                self.sessions.remove(session);
                let refusal =
                    refuse(RefusalKind::InvalidArgument, "HELLO_AGAIN", "a stream has one hello, its first message");
                self.then(Action::Close { session, refusal });
            }
            connect_request::Body::Heartbeat(heartbeat) => self.on_heartbeat(&agent, &heartbeat),
            connect_request::Body::Facts(batch) => self.on_facts(session, &agent, &instance, batch),
            connect_request::Body::Readings(readings) => {
                self.readings.insert(agent, (self.now, readings));
            }
            connect_request::Body::CommandUpdate(update) => self.on_update(session, &agent, update),
            // It did not know something that this side said: nothing depends on it.
            connect_request::Body::Unsupported(_) => {}
        }
    }

    pub(super) fn send_plan_to_all(&mut self) {
        for (session, agent) in self.sessions.open.iter().map(|(id, s)| (*id, s.agent.clone())).collect::<Vec<_>>() {
            match plan::agent_part(&self.state.plan, &agent, self.state.generation) {
                Some(part) => self.send(session, connect_response::Body::Plan(part)),
                None => {
                    self.sessions.remove(session);
                    let message = format!("agent {agent} is no longer in the plan");
                    let refusal = refuse(RefusalKind::NotFound, "AGENT_UNKNOWN", message);
                    self.then(Action::Close { session, refusal });
                }
            }
        }
    }

    /// What the ledger owes every open session: deliveries, cancellations, renewals.
    pub(super) fn owe_sessions(&mut self) {
        for session in self.sessions.open.keys().copied().collect::<Vec<_>>() {
            self.owe_commands(session);
            self.owe_cancels(session);
            self.owe_renewals(session);
        }
    }

    fn owe_commands(&mut self, session: SessionId) {
        let Some(open) = self.sessions.open.get(&session) else { return };
        let owed: Vec<_> = self
            .state
            .ledger
            .iter()
            .filter_map(|(cursor, id)| Some((*cursor, self.state.commands.get(id)?)))
            .filter(|(_, c)| c.issued.agent == open.agent && !open.sent.contains(&c.issued.id))
            .filter(|(_, c)| matches!(c.state, CommandState::Queued | CommandState::Sent))
            .filter(|(_, c)| c.issued.expires_ms > self.now)
            .map(|(cursor, c)| (cursor, c.issued.id.clone(), c.spec.clone(), c.state, c.issued.expires_ms))
            .collect();
        for (cursor, id, spec, state, expires) in owed {
            if state == CommandState::Queued {
                self.step(&id, CommandState::Sent, "");
            }
            if let Some(open) = self.sessions.open.get_mut(&session) {
                open.sent.insert(id.clone());
            }
            let start_within_ms = u32::try_from(expires - self.now).unwrap_or(u32::MAX);
            let delivery = v1::CommandDelivery { id, cursor, spec: Some(spec), start_within_ms };
            self.send(session, connect_response::Body::Command(delivery));
        }
    }

    fn owe_cancels(&mut self, session: SessionId) {
        let Some(open) = self.sessions.open.get(&session) else { return };
        let owed: Vec<String> = self
            .state
            .unfinished_commands()
            .filter(|c| c.issued.agent == open.agent && c.cancel_requested && c.state != CommandState::Queued)
            .map(|c| c.issued.id.clone())
            .filter(|id| !open.cancels_sent.contains(id))
            .collect();
        for id in owed {
            if let Some(open) = self.sessions.open.get_mut(&session) {
                open.cancels_sent.insert(id.clone());
            }
            self.send(session, connect_response::Body::Cancel(v1::CancelDelivery { id }));
        }
    }

    fn wanted_leases(&self, agent: &str) -> Vec<(String, Millis)> {
        let wanted = self.state.commands.values().filter(|c| c.issued.agent == agent).filter_map(|c| {
            let (throttle, until) = c.wanted_lease()?;
            let ttl = if throttle.ttl_ms == 0 { DEFAULT_TTL_MS } else { throttle.ttl_ms };
            (until > self.now).then(|| (c.issued.id.clone(), Millis::from(ttl)))
        });
        wanted.collect()
    }

    fn renewal_due(&self, session: &Session) -> Option<Millis> {
        let ttl = self.wanted_leases(&session.agent).into_iter().map(|(_, ttl)| ttl).min()?;
        Some(session.renewed_at.map_or(self.now, |at| at + ttl / RENEWALS_PER_TTL))
    }

    fn owe_renewals(&mut self, session: SessionId) {
        let Some(open) = self.sessions.open.get(&session) else { return };
        if self.renewal_due(open).is_none_or(|due| due > self.now) {
            return;
        }
        let commands = self.wanted_leases(&open.agent).into_iter().map(|(id, _)| id).collect();
        let now = self.now;
        if let Some(open) = self.sessions.open.get_mut(&session) {
            open.renewed_at = Some(now);
        }
        self.send(session, connect_response::Body::LeaseRenewal(v1::LeaseRenewal { commands }));
    }

    pub(super) fn renewal_deadline(&self) -> Option<(Millis, String)> {
        let due = self.sessions.open.values().filter_map(|s| Some((self.renewal_due(s)?, &s.agent)));
        due.map(|(at, agent)| (at, format!("leases of {agent} are to be renewed"))).min()
    }
}

pub(super) fn refuse(kind: RefusalKind, reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { kind, reason, message: message.into() }
}
