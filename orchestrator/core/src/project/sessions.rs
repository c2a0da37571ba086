//! Streams: opened by a hello that is admitted (`fencing`, `clones`) and judged (`resume`), then messages in order. A newer
//! one of the same instance ends the older; what comes from one that has ended is dropped.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::{
    journal::{self, event::Body},
    mutant,
    v1::{self, connect_request, connect_response},
};

use super::{Project, facts::cut, fencing::REFUSAL_AGAIN_MS};
use crate::{
    io::{Action, Millis, Refusal, RefusalKind, SessionId},
    plan,
};

pub const MAX_MESSAGE_BYTES: u32 = 4 * 1024 * 1024;
pub const MAX_BATCH_FACTS: u32 = 256;
const CAPABILITIES_MAX: usize = 64;
#[derive(Debug)]
pub(super) struct Session {
    pub agent: String,
    pub instance: String,
    /// Commands that were sent in this session.
    pub sent: BTreeSet<String>,
    pub cancels_sent: BTreeSet<String>,
    pub renewed_at: Option<Millis>,
    /// When anything was heard in it, and said.
    pub heard_at: Millis,
    pub said_at: Millis,
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

    pub fn get_mut(&mut self, session: SessionId) -> Option<&mut Session> {
        self.open.get_mut(&session)
    }

    pub fn ids(&self) -> Vec<SessionId> {
        self.open.keys().copied().collect()
    }

    pub fn all(&self) -> impl Iterator<Item = &Session> {
        self.open.values()
    }

    /// Nobody was silent before then.
    pub fn excuse(&mut self, moment: Millis) {
        self.open.values_mut().for_each(|s| s.heard_at = s.heard_at.max(moment));
    }

    pub fn silent_since(&self, moment: Millis) -> Vec<SessionId> {
        self.open.iter().filter(|(_, s)| s.heard_at <= moment).map(|(id, _)| *id).collect()
    }

    pub fn of_agent(&self, agent: &str) -> Option<SessionId> {
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
        self.notice_older_copy(&hello);
        let outdated = self.outdated(&hello);
        let newest_life = self.newest_life(&hello);
        self.record_connection(&hello, newest_life);
        self.end_forgotten_leases(&hello);
        if outdated.is_some() {
            self.end_sent_commands(&hello.agent);
        }
        self.heard(&hello.agent);
        if self.knocks.get(&hello.agent).is_some_and(|knock| knock.is_of(&hello)) {
            self.knocks.remove(&hello.agent);
        }
        self.recognise_clone(&hello.agent);
        let name = hello.agent.clone();
        let fact_acked = self.state.agents[&name].fact_acked(&hello.instance);
        // Until it has told something: the welcome of its first hello may never have arrived.
        let another = self.state.agents[&name].last_teller().is_some_and(|last| last != hello.instance);
        let retell = another.then(|| "another instance told last".to_owned());
        let welcome = v1::Welcome {
            session: session.to_string(),
            lineage: self.state.lineage.clone(),
            epoch: self.epoch,
            heartbeat_every_ms: u32::try_from(self.state.plan.windows.heartbeat_every_ms).unwrap_or(u32::MAX),
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_batch_facts: MAX_BATCH_FACTS,
            plan: plan::agent_part(&self.state.plan, &name, self.state.generation),
            fact_acked,
            pulse_every_ms: self.pulse_every(),
            outdated: outdated.or(retell).unwrap_or_default(),
            newest_life,
            conduct: self.conduct_of(&name),
        };
        let opened = Session {
            agent: name,
            instance: hello.instance,
            sent: BTreeSet::new(),
            cancels_sent: BTreeSet::new(),
            renewed_at: None,
            heard_at: self.now,
            said_at: self.now,
        };
        self.sessions.open.insert(session, opened);
        self.send(session, connect_response::Body::Welcome(welcome));
    }

    pub(super) fn send(&mut self, session: SessionId, body: connect_response::Body) {
        if let Some(open) = self.sessions.get_mut(session) {
            open.said_at = self.now;
        }
        self.then(Action::Send { session, body });
    }

    /// Journaled, so that it becomes a finding; the same token once in a while only.
    pub(super) fn token_misused(&mut self, agent: String, token: String, key: String) {
        let Some(known) = self.state.agents.get(&agent) else { return };
        let told = |at: &Millis| *at + REFUSAL_AGAIN_MS > self.now;
        if known.token_misused.as_ref().is_some_and(|(at, other)| *other == token && told(at)) {
            return;
        }
        self.emit(Body::TokenMisused(journal::TokenMisused { agent, token: cut(token), key: cut(key) }));
    }

    /// Of this instance, where it is not that of the hello: a state that was set back counts on above it.
    fn newest_life(&self, hello: &v1::Hello) -> u64 {
        let known = self.state.agents[&hello.agent].sidecar.as_ref().map(|s| &s.connected);
        known.filter(|k| k.instance == hello.instance).map_or(hello.life, |k| k.life.max(hello.life))
    }

    /// What the sidecar does not have any more holds nothing: how it ended waits in its spool, or was lost with its state.
    fn end_forgotten_leases(&mut self, hello: &v1::Hello) {
        let held = hello.resume.as_ref().map_or(&[][..], |r| &r.active_leases);
        let shown = self.state.leased_commands().filter(|c| c.issued.agent == hello.agent);
        let gone =
            shown.map(|c| c.issued.id.clone()).filter(|id| !held.contains(id) && !mutant!("lease-shown-for-ever"));
        for command in gone.collect::<Vec<_>>() {
            let (agent, state) = (hello.agent.clone(), v1::LeaseState::Ended as i32);
            let detail = "the sidecar came back without it".into();
            self.emit(Body::Lease(journal::Lease { agent, command, state, detail }));
        }
    }

    fn record_connection(&mut self, hello: &v1::Hello, newest_life: u64) {
        let host = hello.host.clone().unwrap_or_default();
        let capabilities = hello.capabilities.iter().take(CAPABILITIES_MAX).map(|c| journal::Capability {
            name: cut(c.name.clone()),
            available: c.available,
            reason: cut(c.reason.clone()),
            enabled_by: cut(c.enabled_by.clone()),
        });
        let connected = journal::SidecarConnected {
            agent: hello.agent.clone(),
            instance: hello.instance.clone(),
            life: newest_life,
            host_boot_id: cut(host.boot_id),
            hostname: cut(host.hostname),
            incarnation: hello.incarnation,
            version: cut(hello.version.clone()),
            capabilities: capabilities.collect(),
            process: cut(hello.process.clone()),
            place: cut(hello.place.clone()),
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
        let now = self.now;
        if let Some(open) = self.sessions.get_mut(session) {
            open.heard_at = now;
        }
        self.heard(&agent);
        self.recognise_clone(&agent);
        match body {
            connect_request::Body::Hello(_) => {
                self.sessions.remove(session);
                let refusal =
                    refuse(RefusalKind::InvalidArgument, "HELLO_AGAIN", "a stream has one hello, its first message");
                self.then(Action::Close { session, refusal });
            }
            connect_request::Body::Heartbeat(heartbeat) => {
                self.on_heartbeat(&agent, &heartbeat);
                self.on_beat_after_restore(session, &agent, &instance, &heartbeat);
            }
            connect_request::Body::Facts(batch) => self.on_facts(session, &agent, &instance, batch),
            connect_request::Body::Readings(readings) => {
                self.readings.insert(agent.clone(), (self.now, readings));
                self.judge_host_of(&agent);
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
}

pub(super) fn refuse(kind: RefusalKind, reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { kind, reason, message: message.into() }
}
