//! Commands of operators: checked, given their identity, put into the ledger, or refused with what would help.
use pitwall_proto::{
    journal::{self, event::Body},
    mutant, throttle,
    v1::{self, CommandState, Priority, command_spec::Kind},
};
use prost::Message as _;

use super::{Project, sessions::refuse};
use crate::{
    io::{Millis, Refusal, RefusalKind, Reply, Token},
    plan::DeliverableId,
    state::{CommandRecord, Promise},
    text, view,
};

const TEXT_MAX: usize = 64 * 1024;
const KEY_MAX: usize = 128;
const VIA_MAX: usize = 64;
const START_WITHIN_MAX_MS: u32 = 7 * 24 * 3_600_000;
const GRACE_MAX_MS: u32 = 5 * 60_000;
/// Commands of one agent that wait for their end; more is a client gone wild.
const UNFINISHED_MAX: usize = 1_000;

impl Project {
    pub(super) fn issue(&mut self, token: Token, request: v1::IssueCommandRequest) {
        let key = request.idempotency_key.clone();
        if !key.is_empty()
            && !mutant!("idempotency-key-ignored")
            && let Some(known) = self.state.commands.values().find(|c| c.issued.idempotency_key == key)
        {
            let reply = if known.issued.agent == request.agent {
                Ok(Reply::Command(Box::new(view::command(known))))
            } else {
                let message = format!("idempotency key {key:?} was used for {} already", known.issued.agent);
                Err(refuse(RefusalKind::AlreadyExists, "IDEMPOTENCY_KEY_REUSED", message))
            };
            return self.reply(token, reply);
        }
        match self.checked(&request) {
            Err(refusal) => self.reply(token, Err(refusal)),
            Ok(spec) => {
                let id = self.record(&request, spec);
                self.supersede_older(&id);
                self.reject_incapable(&id);
                let reply = view::command(&self.state.commands[&id]);
                self.reply(token, Ok(Reply::Command(Box::new(reply))));
            }
        }
    }

    fn record(&mut self, request: &v1::IssueCommandRequest, spec: v1::CommandSpec) -> String {
        let windows = &self.state.plan.windows;
        let start_within = match request.start_within_ms {
            0 => windows.command_expiry_ms as Millis,
            ms => Millis::from(ms),
        };
        let cursor = self.state.next_cursor;
        // Unique across lineages too: a sidecar remembers ids of a history that was lost.
        let lineage = self.state.lineage.get(..6).unwrap_or(&self.state.lineage);
        let id = format!("c{cursor}-{lineage}");
        let window_ms = u32::try_from(windows.effect_within_ms).unwrap_or(u32::MAX);
        let mut issued = journal::CommandIssued {
            id: id.clone(),
            cursor,
            agent: request.agent.clone(),
            spec: spec.encode_to_vec(),
            expires_ms: self.now + start_within,
            idempotency_key: request.idempotency_key.clone(),
            origin: request.origin.clone(),
            promise: String::new(),
            window_ms,
        };
        issued.promise = promise_text(&CommandRecord::new(issued.clone(), self.now).promise(), &request.agent);
        self.emit(Body::CommandIssued(issued));
        id
    }

    /// The command as it goes into the ledger, every identity filled in.
    fn checked(&self, request: &v1::IssueCommandRequest) -> Result<v1::CommandSpec, Refusal> {
        let agent = &request.agent;
        let bad = |reason, message: String| Err(refuse(RefusalKind::InvalidArgument, reason, message));
        let Some(state) = self.state.agents.get(agent) else {
            let known = self.state.agents.keys().cloned().collect::<Vec<_>>().join(", ");
            let message = format!("the plan has no agent {agent:?}; it has: {known}");
            return Err(refuse(RefusalKind::NotFound, "AGENT_UNKNOWN", message));
        };
        if request.idempotency_key.len() > KEY_MAX || request.origin.len() > KEY_MAX {
            return bad("FIELD_TOO_LONG", format!("idempotency_key and origin hold at most {KEY_MAX} bytes"));
        }
        if request.start_within_ms > START_WITHIN_MAX_MS {
            return bad("FIELD_OUT_OF_RANGE", "start_within_ms is at most 7 days".into());
        }
        if self.state.unfinished_commands().filter(|c| c.issued.agent == *agent).count() >= UNFINISHED_MAX {
            let message = format!("{agent} has {UNFINISHED_MAX} commands that did not end: cancel some first");
            return Err(refuse(RefusalKind::ResourceExhausted, "TOO_MANY_COMMANDS", message));
        }
        let Some(mut kind) = request.spec.clone().and_then(|s| s.kind) else {
            return bad(
                "COMMAND_EMPTY",
                "name one kind of command: directive, throttle, unthrottle, kill, restart or activate".into(),
            );
        };
        match &mut kind {
            Kind::Directive(directive) => {
                if directive.text.trim().is_empty() {
                    return bad("DIRECTIVE_EMPTY", "a directive needs a text".into());
                }
                if directive.text.len() > TEXT_MAX {
                    return bad("FIELD_TOO_LONG", format!("a directive holds at most {TEXT_MAX} bytes"));
                }
                if Priority::try_from(directive.priority).is_err() {
                    return bad("FIELD_OUT_OF_RANGE", "priority is PRIORITY_NORMAL or PRIORITY_URGENT".into());
                }
                let own = &self.state.plan.agents[agent].deliverables;
                if !directive.about.is_empty() && !own.contains_key(&directive.about) {
                    let known = own.keys().cloned().collect::<Vec<_>>().join(", ");
                    let message = format!("{agent} has no deliverable {:?}; it has: {known}", directive.about);
                    return Err(refuse(RefusalKind::NotFound, "DELIVERABLE_UNKNOWN", message));
                }
            }
            Kind::Throttle(throttle) => {
                let meant = match throttle::checked(throttle) {
                    Ok(meant) => meant,
                    Err(why) => return bad("FIELD_OUT_OF_RANGE", why),
                };
                if throttle.via.len() > VIA_MAX {
                    return bad("FIELD_TOO_LONG", format!("via names a rung, in at most {VIA_MAX} bytes"));
                }
                if let Some(process) = &mut throttle.process {
                    *process = self.identified(agent, process)?;
                }
                if throttle.process.is_some() || !throttle.via.is_empty() {
                    // So that a sidecar which knows neither refuses it, and does not hold the whole agent.
                    (throttle.resource, throttle.amount) = (meant.resource as i32, meant.amount);
                    throttle.cpu_cores = 0.0;
                }
            }
            Kind::Unthrottle(unthrottle) => {
                let resource = v1::Resource::try_from(unthrottle.resource).ok();
                if resource.is_none_or(|r| r != v1::Resource::Unspecified && !throttle::is_held(r)) {
                    let known: Vec<&str> = throttle::RESOURCES.iter().map(|(_, word)| *word).collect();
                    return bad("FIELD_OUT_OF_RANGE", format!("a throttle is of one of these: {}", known.join(", ")));
                }
            }
            Kind::Kill(kill) => {
                if kill.grace_ms > GRACE_MAX_MS {
                    return bad("FIELD_OUT_OF_RANGE", "grace_ms is at most 5 minutes".into());
                }
                kill.process = Some(self.identified(agent, &kill.process.clone().unwrap_or_default())?);
            }
            Kind::Restart(restart) => {
                if restart.grace_ms > GRACE_MAX_MS {
                    return bad("FIELD_OUT_OF_RANGE", "grace_ms is at most 5 minutes".into());
                }
                if restart.incarnation == 0 {
                    restart.incarnation = state.incarnation();
                }
                if restart.incarnation == 0 {
                    let message = format!("{agent} was never seen: `pitwall activate {agent}` starts it");
                    return Err(refuse(RefusalKind::FailedPrecondition, "AGENT_NEVER_SEEN", message));
                }
            }
            Kind::Activate(_) if state.seen.is_some() => {
                let message = format!("{agent} was seen already: `pitwall restart {agent}` starts it again");
                return Err(refuse(RefusalKind::FailedPrecondition, "AGENT_SEEN", message));
            }
            Kind::Activate(_) => {}
        }
        Ok(v1::CommandSpec { kind: Some(kind) })
    }

    /// Only leases replace: a throttle that waits in the queue gives way to the newer one of the same target and resource.
    fn supersede_older(&mut self, id: &str) {
        let new = &self.state.commands[id];
        let Some(slot) = new.slot() else { return };
        let (agent, cursor) = (new.issued.agent.clone(), new.issued.cursor);
        let older: Vec<String> = self
            .state
            .unfinished_commands()
            .filter(|c| c.issued.agent == agent && c.issued.cursor < cursor && c.state == CommandState::Queued)
            .filter(|c| c.slot() == Some(slot))
            .map(|c| c.issued.id.clone())
            .collect();
        for older in older {
            self.step(&older, CommandState::Superseded, &format!("{id} took its place"));
        }
    }

    /// What no sidecar of the agent ever announced a capability for is rejected unsent.
    fn reject_incapable(&mut self, id: &str) {
        let command = &self.state.commands[id];
        let knows = |name| self.state.agents[&command.issued.agent].capability(name).is_some();
        let mut besides = String::new();
        let capability = match &command.spec.kind {
            Some(Kind::Throttle(throttle)) => {
                let resource = throttle::meant(throttle).resource;
                if !throttle.via.is_empty() {
                    besides = self.rungs(&command.issued.agent, resource);
                }
                throttle::capability(resource, &throttle.via)
            }
            Some(Kind::Unthrottle(unthrottle)) if unthrottle.resource == v1::Resource::Unspecified as i32 => {
                "throttle".into()
            }
            Some(Kind::Unthrottle(unthrottle)) => throttle::capability(unthrottle.resource(), ""),
            Some(Kind::Kill(_)) => "kill".into(),
            Some(Kind::Restart(_)) => "restart".into(),
            // Beside a container an agent is begun by somebody else than its sidecar.
            Some(Kind::Activate(_)) if knows("activate") => "activate".into(),
            Some(Kind::Activate(_)) => "launch".into(),
            // A directive waits for a sidecar until it expires.
            Some(Kind::Directive(_)) | None => return,
        };
        let agent = &self.state.agents[&command.issued.agent];
        let name = &command.issued.agent;
        let why = match (&agent.sidecar, agent.capability(&capability)) {
            (None, _) => {
                format!("no sidecar of {name} ever connected; start one beside it: pitwall-sidecar --agent {name} …")
            }
            (Some(_), None) if !besides.is_empty() => format!("its sidecar has no {capability}; {besides}"),
            (Some(_), None) => format!("its sidecar does not know {capability}; a newer pitwall-sidecar may"),
            (Some(_), Some(c)) if !c.available => {
                let besides = if besides.is_empty() { besides } else { format!("; {besides}") };
                format!("{}{besides}", why_not(c))
            }
            (Some(_), Some(_)) => return,
        };
        self.step(id, CommandState::Rejected, &why);
    }

    /// By which rungs this resource can be held, and why not by the others.
    fn rungs(&self, agent: &str, resource: v1::Resource) -> String {
        let prefix = throttle::capability(resource, "") + ".";
        let connected = self.state.agents[agent].sidecar.as_ref().map(|s| &s.connected);
        let all = connected.into_iter().flat_map(|c| &c.capabilities).filter(|c| c.name.starts_with(&prefix));
        let told: Vec<String> = all
            .map(|c| match c.available {
                true => format!("there is {}", &c.name[prefix.len()..]),
                false => why_not(c),
            })
            .collect();
        if told.is_empty() { format!("it cannot hold {} at all", throttle::word(resource)) } else { told.join("; ") }
    }

    pub(super) fn cancel(&mut self, token: Token, id: &str) {
        let Some(command) = self.state.commands.get(id) else {
            let message = format!("the ledger has no command {id:?}: see `pitwall commands`");
            return self.reply(token, Err(refuse(RefusalKind::NotFound, "COMMAND_UNKNOWN", message)));
        };
        if command.is_terminal() && command.wanted_lease().is_none() {
            let state = text::state_word(command.state);
            let message = format!("{id} has ended already: {state}");
            return self.reply(token, Err(refuse(RefusalKind::FailedPrecondition, "COMMAND_ENDED", message)));
        }
        if command.is_terminal() {
            let message = format!(
                "{id} has succeeded, its throttle is in effect: `pitwall unthrottle {}` ends it",
                command.issued.agent
            );
            return self.reply(token, Err(refuse(RefusalKind::FailedPrecondition, "COMMAND_ENDED", message)));
        }
        if command.state == CommandState::Queued {
            self.step(id, CommandState::Cancelled, "before it was sent");
        } else if !command.cancel_requested {
            self.emit(Body::CancelRequested(journal::CancelRequested { id: id.into() }));
        }
        let reply = view::command(&self.state.commands[id]);
        self.reply(token, Ok(Reply::Command(Box::new(reply))));
    }

    /// The agent leaves the plan: what waits for it ends. Its sidecar is told by the end of its stream, and leases
    /// that nobody renews undo themselves.
    pub(super) fn release_agent(&mut self, agent: &str) {
        let open: Vec<(String, CommandState)> = self
            .state
            .unfinished_commands()
            .filter(|c| c.issued.agent == agent)
            .map(|c| (c.issued.id.clone(), c.state))
            .collect();
        for (id, state) in open {
            let end = if state == CommandState::Queued { CommandState::Cancelled } else { CommandState::Unknown };
            self.step(&id, end, "the agent left the plan");
        }
    }
}

/// Why it is not possible, and what would enable it.
fn why_not(capability: &journal::Capability) -> String {
    let journal::Capability { name, reason, enabled_by, .. } = capability;
    if enabled_by.is_empty() { format!("{name}: {reason}") } else { format!("{name}: {reason}; {enabled_by}") }
}

fn promise_text(promise: &Promise, agent: &str) -> String {
    match promise {
        Promise::Verified(id) => format!("{} verified", DeliverableId::to_string(id)),
        Promise::ProcessGone(process) => format!("process {} ({}) gone", process.pid, process.name),
        Promise::Held { resource, amount, process } => {
            let whose = process.as_ref().map(|p| format!("process {} ({}) of ", p.pid, p.name)).unwrap_or_default();
            let shown = throttle::shown(*resource, *amount);
            match resource {
                v1::Resource::Freeze => format!("{whose}{agent} frozen"),
                v1::Resource::CpuWeight => format!("{whose}{agent} at {shown}"),
                _ => format!("{whose}{agent} at or below {shown}"),
            }
        }
        Promise::Seen => format!("{agent} seen"),
        Promise::Reborn { .. } => format!("a new incarnation of {agent} seen"),
        Promise::Nothing => String::new(),
    }
}
