//! Two processes with one state: the same instance speaks from two places, or from a life that another one followed.
//! Neither can be trusted to act: both only observe, nothing is delivered to either, until an operator adopts one. The
//! other is refused while the adopted one is not lost, and needs a state directory of its own.
//!
//! A state directory is known by its place. A hello from another place than the last one waits until that is lost (it was
//! moved, or brought back from a backup), or is heard again (it was copied). Lives are compared where a place is not known:
//! a lower one waits likewise. Set back, at its old place, it is one sidecar and no clone: see `resume`.
//!
//! The one that is let in where another is lost is told that it is outdated. When that one comes again, both are alive: they
//! are clones then. So it is with an adopted one too: what an operator chose holds while it is followed, or has still to
//! come, and is over with the first that is let in from another place (`State::apply`).
//!
//! Not recognised: a machine that was copied while it ran, with its sidecar in its memory; two copies that are never
//! heard within the time after which the first is lost; and a copy of a whole volume that is mounted by itself, where no
//! machine id is to be seen: its root has the same inode.
use std::collections::BTreeMap;

use pitwall_proto::{
    journal::{self, event::Body},
    v1::{self, SidecarStatus, connect_response},
};

use super::{Project, facts::cut, sessions::refuse};
use crate::{
    io::{Action, Millis, Refusal, RefusalKind, Reply, Token},
    text::{process, twin as shown},
};

/// Who came last for an agent and was not let in.
#[derive(Clone, Debug)]
pub(super) struct Knock {
    /// When it came last.
    pub at: Millis,
    instance: String,
    twin: journal::Twin,
}

impl Knock {
    fn of(hello: &v1::Hello, at: Millis) -> Self {
        let host = hello.host.clone().unwrap_or_default();
        let twin = journal::Twin {
            life: hello.life,
            process: cut(hello.process.clone()),
            place: cut(hello.place.clone()),
            hostname: cut(host.hostname),
            host_boot_id: cut(host.boot_id),
        };
        Self { at, instance: cut(hello.instance.clone()), twin }
    }

    pub fn is_of(&self, hello: &v1::Hello) -> bool {
        self.instance == hello.instance && self.twin.process == hello.process
    }
}

/// By agent. One each, so that nobody makes it grow.
pub(super) type Knocks = BTreeMap<String, Knock>;

fn twin_of(known: &journal::SidecarConnected) -> journal::Twin {
    journal::Twin {
        life: known.life,
        process: known.process.clone(),
        place: known.place.clone(),
        hostname: known.hostname.clone(),
        host_boot_id: known.host_boot_id.clone(),
    }
}

/// Both are known, and differ.
fn apart(a: &str, b: &str) -> bool {
    !a.is_empty() && !b.is_empty() && a != b
}

/// Of one process, or of one directory, which one process at a time can hold. One that names neither has only its life.
fn is_same(twin: &journal::Twin, hello: &v1::Hello) -> bool {
    if twin.place.is_empty() || hello.place.is_empty() {
        return twin.process == hello.process && (!twin.process.is_empty() || twin.life == hello.life);
    }
    twin.place == hello.place
}

impl Project {
    pub(super) fn only_observes(&self, agent: &str) -> bool {
        self.state.agents.get(agent).is_some_and(|a| a.cloned.is_some())
    }

    pub(super) fn conduct_of(&self, agent: &str) -> Option<v1::Conduct> {
        let (_, cloned) = self.state.agents.get(agent)?.cloned.as_ref()?;
        Some(v1::Conduct { only_observe: true, reason: cloned.reason.clone() })
    }

    /// A hello of the instance that is known. Is it the same sidecar?
    pub(super) fn admit_twin(&mut self, hello: &v1::Hello) -> Result<(), Refusal> {
        let agent = &self.state.agents[&hello.agent];
        let Some(sidecar) = &agent.sidecar else { return Ok(()) };
        let (known, live) = (&sidecar.connected, sidecar.status != SidecarStatus::Lost);
        let adopted = agent.adopted.as_ref().filter(|a| a.instance == hello.instance);
        if let Some(chosen) = adopted.and_then(|a| a.chosen.as_ref()) {
            let newer = chosen.place.is_empty() && hello.life > known.life;
            if agent.cloned.is_none() && (is_same(chosen, hello) || newer) {
                return Ok(());
            }
            // Lost may be the other one, which was followed when this one was chosen.
            let gone = !live && !apart(&chosen.place, &known.place);
            if apart(&chosen.place, &hello.place) && !gone {
                let reason = format!(
                    "an operator adopted {} of this instance: give this one a state directory of its own, or `pitwall adopt {} {}`",
                    shown(chosen),
                    hello.agent,
                    process(&hello.process)
                );
                self.knocked(hello);
                return Err(refuse(RefusalKind::AlreadyExists, "NOT_ADOPTED", reason));
            }
        }
        let followed = is_same(&twin_of(known), hello);
        if followed && !apart(&known.place, &hello.place) {
            return Ok(());
        }
        if agent.cloned.is_some() {
            return Err(self.refuse_clone(hello));
        }
        if hello.life < known.life && live {
            self.clone_found(&hello.agent, Knock::of(hello, self.now));
            return Err(self.refuse_clone(hello));
        }
        if apart(&known.place, &hello.place) && live {
            let message = format!(
                "the state of this instance was at another place, on {}, whose sidecar is not lost: if it was moved, this \
                 one is let in when that is lost; if it was copied, give it a state directory of its own",
                known.hostname
            );
            self.knocked(hello);
            return Err(refuse(RefusalKind::AlreadyExists, "STATE_MOVED", message));
        }
        Ok(())
    }

    /// Whoever is refused is there all the same: neither network nor orchestrator keeps this one away.
    pub(super) fn knocked(&mut self, hello: &v1::Hello) {
        self.knocks.insert(hello.agent.clone(), Knock::of(hello, self.now));
        self.end_mass_loss();
    }

    fn refuse_clone(&mut self, hello: &v1::Hello) -> Refusal {
        self.knocked(hello);
        let reason = self.conduct_of(&hello.agent).map(|c| c.reason).unwrap_or_default();
        refuse(RefusalKind::AlreadyExists, "LIFE_SUPERSEDED", reason)
    }

    /// The sidecar that is followed is heard, and meanwhile its state has spoken from another place: both are alive.
    pub(super) fn recognise_clone(&mut self, agent: &str) {
        let Some(knock) = self.knocks.get(agent) else { return };
        let Some(sidecar) = self.state.agents.get(agent).and_then(|a| a.sidecar.as_ref()) else { return };
        let known = &sidecar.connected;
        let cloned = knock.instance == known.instance
            && apart(&knock.twin.place, &known.place)
            && !self.only_observes(agent)
            && self.state.agents[agent].adopted.as_ref().is_none_or(|a| a.instance != known.instance);
        if cloned {
            let knock = knock.clone();
            self.clone_found(agent, knock);
        }
    }

    fn clone_found(&mut self, agent: &str, second: Knock) {
        let Some(sidecar) = &self.state.agents[agent].sidecar else { return };
        let first = twin_of(&sidecar.connected);
        let reason = format!(
            "two sidecars have one state (instance {}): {} and {}; both only observe until one is adopted",
            second.instance,
            shown(&first),
            shown(&second.twin)
        );
        self.emit(Body::SidecarCloned(journal::SidecarCloned {
            agent: agent.into(),
            instance: second.instance.clone(),
            first: Some(first),
            second: Some(second.twin),
            reason,
        }));
        self.tell_conduct(agent);
    }

    fn tell_conduct(&mut self, agent: &str) {
        if let Some(session) = self.sessions.of_agent(agent) {
            let conduct = self.conduct_of(agent).unwrap_or_default();
            self.send(session, connect_response::Body::Conduct(conduct));
        }
    }

    /// An operator says which one goes on.
    pub(super) fn adopt(&mut self, token: Token, request: &v1::AdoptSidecarRequest) {
        let reply = self.adopted(request);
        self.reply(token, reply.map(Reply::Adopted));
    }

    fn adopted(&mut self, request: &v1::AdoptSidecarRequest) -> Result<v1::AdoptSidecarResponse, Refusal> {
        use RefusalKind::{FailedPrecondition, InvalidArgument, NotFound};
        let name = &request.agent;
        let Some(agent) = self.state.agents.get(name) else {
            let known = self.state.agents.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(refuse(NotFound, "AGENT_UNKNOWN", format!("the plan has no agent {name:?}; it has: {known}")));
        };
        let followed = agent.sidecar.as_ref().map(|s| (s.connected.instance.clone(), twin_of(&s.connected)));
        let cloned = agent.cloned.iter().flat_map(|(_, c)| {
            [&c.first, &c.second].into_iter().flatten().map(|twin| (c.instance.clone(), twin.clone()))
        });
        let knocked = self.knocks.get(name).map(|k| (k.instance.clone(), k.twin.clone()));
        let mut choices: Vec<(String, journal::Twin)> = Vec::new();
        for choice in followed.clone().into_iter().chain(cloned).chain(knocked) {
            if choices.iter().all(|c| c.1.process != choice.1.process) {
                choices.push(choice);
            }
        }
        if choices.len() < 2 {
            let message = format!("{name} has no two sidecars to choose from");
            return Err(refuse(FailedPrecondition, "NOTHING_TO_ADOPT", message));
        }
        let mut fit =
            choices.iter().filter(|c| !request.sidecar.is_empty() && c.1.process.starts_with(&request.sidecar));
        let (Some((instance, chosen)), None) = (fit.next(), fit.next()) else {
            let all: Vec<String> = choices.iter().map(|(_, twin)| shown(twin)).collect();
            let message = format!("name one sidecar of {name} by its process: {}", all.join(", "));
            return Err(refuse(InvalidArgument, "SIDECAR_AMBIGUOUS", message));
        };
        let response = v1::AdoptSidecarResponse {
            agent: name.clone(),
            instance: instance.clone(),
            life: chosen.life,
            process: chosen.process.clone(),
            hostname: chosen.hostname.clone(),
        };
        let is_followed = followed.is_some_and(|(_, twin)| twin.process == chosen.process);
        self.emit(Body::SidecarAdopted(journal::SidecarAdopted {
            agent: name.clone(),
            instance: instance.clone(),
            chosen: Some(chosen.clone()),
            by: cut(request.origin.clone()),
        }));
        self.knocks.remove(name);
        if is_followed {
            self.tell_conduct(name);
        } else if let Some(session) = self.sessions.of_agent(name) {
            self.sessions.remove(session);
            let message = format!("an operator adopted {} in its place", shown(chosen));
            self.then(Action::Close { session, refusal: refuse(RefusalKind::Aborted, "NOT_ADOPTED", message) });
        }
        Ok(response)
    }
}
