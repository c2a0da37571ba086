//! Commands of operators: checked, given their identity, put into the ledger, or refused with what would help.
use pitwall_proto::{
    journal::{self, event::Body},
    mutant,
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
const START_WITHIN_MAX_MS: u32 = 7 * 24 * 3_600_000;
const THROTTLE_MAX_MS: u32 = 7 * 24 * 3_600_000;
const GRACE_MAX_MS: u32 = 5 * 60_000;
/// Never below 10 % of a core.
const CPU_FLOOR: f64 = 0.1;
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
                if !throttle.cpu_cores.is_finite() || throttle.cpu_cores < CPU_FLOOR - 1e-9 {
                    return bad(
                        "FIELD_OUT_OF_RANGE",
                        format!("cpu_cores is at least {CPU_FLOOR}: an agent is never held below 10 % of a core"),
                    );
                }
                if throttle.for_ms == 0 || throttle.for_ms > THROTTLE_MAX_MS {
                    return bad(
                        "FIELD_OUT_OF_RANGE",
                        "for_ms is above 0 and at most 7 days: every throttle ends by itself".into(),
                    );
                }
                if throttle.ttl_ms > THROTTLE_MAX_MS {
                    return bad("FIELD_OUT_OF_RANGE", "ttl_ms is at most 7 days".into());
                }
            }
            Kind::Kill(kill) => {
                if kill.grace_ms > GRACE_MAX_MS {
                    return bad("FIELD_OUT_OF_RANGE", "grace_ms is at most 5 minutes".into());
                }
                let Some(process) = kill.process.as_mut().filter(|p| p.pid > 1) else {
                    return bad("PROCESS_MISSING", "a kill names a process by its pid, which is above 1".into());
                };
                if process.start_ticks == 0 {
                    let Some(found) = self.identify(agent, process.pid) else {
                        let message = format!(
                            "the latest reading of {agent} has no process {}: see `pitwall hosts`, or give its start time too",
                            process.pid
                        );
                        return Err(refuse(RefusalKind::NotFound, "PROCESS_UNKNOWN", message));
                    };
                    *process = found;
                }
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
            Kind::Activate(_) | Kind::Unthrottle(_) => {}
        }
        Ok(v1::CommandSpec { kind: Some(kind) })
    }

    /// From the latest reading, or from what the journal knows of its quota's and root's process.
    fn identify(&self, agent: &str, pid: i32) -> Option<v1::ProcessIdentity> {
        let top = self.readings.get(agent).into_iter().flat_map(|(_, r)| r.top.iter());
        let of_reading = top.filter_map(|p| p.identity.clone()).find(|p| p.pid == pid);
        let state = &self.state.agents[agent];
        of_reading.or_else(|| {
            let known =
                state.quotas.values().filter_map(|q| q.process.as_ref()).chain(state.seen.as_ref().map(|s| &s.root));
            known.into_iter().find(|p| p.pid == pid).map(view::process)
        })
    }

    /// Only leases replace: a throttle that waits in the queue gives way to the newer one of the same target.
    fn supersede_older(&mut self, id: &str) {
        let new = &self.state.commands[id];
        if !matches!(new.spec.kind, Some(Kind::Throttle(_))) {
            return;
        }
        let (agent, cursor) = (new.issued.agent.clone(), new.issued.cursor);
        let older: Vec<String> = self
            .state
            .unfinished_commands()
            .filter(|c| c.issued.agent == agent && c.issued.cursor < cursor && c.state == CommandState::Queued)
            .filter(|c| matches!(c.spec.kind, Some(Kind::Throttle(_))))
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
        let capability = match command.spec.kind {
            Some(Kind::Throttle(_) | Kind::Unthrottle(_)) => "throttle.cpu",
            Some(Kind::Kill(_)) => "kill",
            Some(Kind::Restart(_)) => "restart",
            // Beside a container an agent is begun by somebody else than its sidecar.
            Some(Kind::Activate(_)) if knows("activate") => "activate",
            Some(Kind::Activate(_)) => "launch",
            // A directive waits for a sidecar until it expires.
            Some(Kind::Directive(_)) | None => return,
        };
        let agent = &self.state.agents[&command.issued.agent];
        let name = &command.issued.agent;
        let why = match (&agent.sidecar, agent.capability(capability)) {
            (None, _) => {
                format!("no sidecar of {name} ever connected; start one beside it: pitwall-sidecar --agent {name} …")
            }
            (Some(_), None) => format!("its sidecar does not know {capability}; a newer pitwall-sidecar may"),
            (Some(_), Some(c)) if !c.available => {
                let enable = if c.enabled_by.is_empty() { String::new() } else { format!("; {}", c.enabled_by) };
                format!("{}: {}{enable}", c.name, c.reason)
            }
            (Some(_), Some(_)) => return,
        };
        self.step(id, CommandState::Rejected, &why);
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

fn promise_text(promise: &Promise, agent: &str) -> String {
    match promise {
        Promise::Verified(id) => format!("{} verified", DeliverableId::to_string(id)),
        Promise::ProcessGone(process) => format!("process {} ({}) gone", process.pid, process.name),
        Promise::CpuBelow(cores) => format!("{agent} at or below {cores:.2} cores"),
        Promise::Seen => format!("{agent} seen"),
        Promise::Reborn { .. } => format!("a new incarnation of {agent} seen"),
        Promise::Nothing => String::new(),
    }
}
