//! What sidecars and operators do.

use pitwall_core::io::{Action, Input, Millis, Refusal, Reply, SessionId};
use pitwall_proto::v1::{self, CommandState, Outcome, Resource, command_spec, connect_request, connect_response, fact};

use super::{LINEAGE, Sidecar, World, id_of};

pub const CAPABILITIES: [&str; 5] = ["directive", "throttle.cpu.cgroup", "kill", "restart", "launch"];

pub fn process(pid: i32, name: &str) -> v1::ProcessIdentity {
    v1::ProcessIdentity { pid, start_ticks: 1_000 + pid as u64, name: name.into() }
}

impl World {
    pub fn sidecar(&mut self, agent: &str) -> &mut Sidecar {
        self.sidecars.entry(agent.into()).or_insert_with(|| Sidecar {
            instance: format!("instance-of-{agent}"),
            life: 1,
            host: "host-1".into(),
            ..Default::default()
        })
    }

    pub fn hello_of(&mut self, agent: &str) -> v1::Hello {
        let lacks = self.sidecar(agent).lacks.clone();
        let also: Vec<String> = self.sidecar(agent).also.iter().cloned().collect();
        let sidecar = self.sidecar(agent);
        v1::Hello {
            project: String::new(),
            agent: agent.into(),
            instance: sidecar.instance.clone(),
            life: sidecar.life,
            host: Some(v1::HostUsage {
                boot_id: sidecar.host.clone(),
                hostname: format!("name-of-{}", sidecar.host),
                ..Default::default()
            }),
            incarnation: sidecar.incarnation,
            process: String::new(),
            place: String::new(),
            version: "0.1.0".into(),
            capabilities: CAPABILITIES
                .into_iter()
                .chain(also.iter().map(String::as_str))
                .map(|name| v1::Capability {
                    name: name.into(),
                    available: !lacks.contains(name),
                    reason: if lacks.contains(name) { "it is not set up".into() } else { String::new() },
                    enabled_by: if lacks.contains(name) { format!("--with-{name}") } else { String::new() },
                })
                .chain(sidecar.beside.then(|| v1::Capability {
                    name: "activate".into(),
                    available: true,
                    ..Default::default()
                }))
                .collect(),
            resume: Some(v1::ResumePoint {
                lineage: LINEAGE.into(),
                command_cursor: sidecar.cursor,
                fact_acked: sidecar.fact_acked,
                epoch: 1,
                ..Default::default()
            }),
        }
    }

    /// A hello of this agent, changed, and what it is answered.
    pub fn hello(
        &mut self,
        agent: &str,
        session: SessionId,
        change: impl FnOnce(&mut v1::Hello),
    ) -> Result<v1::Welcome, Refusal> {
        let mut hello = self.hello_of(agent);
        change(&mut hello);
        let from = self.out.len();
        self.input(Input::Hello { session, hello: Box::new(hello) });
        let answer = self.out[from..].iter().find_map(|action| match action {
            Action::Send { session: to, body: connect_response::Body::Welcome(welcome) } if *to == session => {
                Some(Ok(welcome.clone()))
            }
            Action::Close { session: to, refusal } if *to == session => Some(Err(refusal.clone())),
            _ => None,
        });
        answer.expect("a hello is answered")
    }

    pub fn adopt(&mut self, agent: &str, sidecar: &str) -> Result<v1::AdoptSidecarResponse, Refusal> {
        let token = self.token();
        let request = v1::AdoptSidecarRequest {
            agent: agent.into(),
            sidecar: sidecar.into(),
            origin: "ann".into(),
            ..Default::default()
        };
        self.input(Input::AdoptSidecar { token, request });
        match self.replies[&token].clone()? {
            Reply::Adopted(adopted) => Ok(adopted),
            Reply::Plan { .. } | Reply::Command(_) => panic!("another reply to an adoption"),
        }
    }

    pub fn connect(&mut self, agent: &str) {
        let hello = self.hello_of(agent);
        let session = self.next_session;
        self.next_session += 1;
        let every = self.project.state().plan.windows.heartbeat_every_ms as Millis;
        let now = self.now;
        let sidecar = self.sidecar(agent);
        sidecar.session = Some(session);
        sidecar.next_beat = now + every;
        self.input(Input::Hello { session, hello: Box::new(hello) });
        self.flush(agent);
    }

    /// The stream breaks and does not come back; the sidecar works on.
    pub fn cut(&mut self, agent: &str) {
        if let Some(session) = self.sidecar(agent).session.take() {
            self.input(Input::SessionClosed { session });
        }
    }

    /// The sidecar's process ends and a new one of the same instance connects.
    pub fn new_life(&mut self, agent: &str) {
        self.cut(agent);
        self.sidecar(agent).life += 1;
        self.connect(agent);
    }

    pub fn say(&mut self, agent: &str, body: connect_request::Body) {
        let session = self.sidecars[agent].session.expect("a connected sidecar");
        self.input(Input::FromSidecar { session, body });
    }

    pub fn fact(&mut self, agent: &str, kind: fact::Kind) {
        let now = self.now;
        let sidecar = self.sidecar(agent);
        sidecar.next_fact += 1;
        let seq = sidecar.next_fact;
        sidecar.spool.push((seq, now, kind));
        self.flush(agent);
    }

    fn flush(&mut self, agent: &str) {
        let now = self.now;
        let sidecar = self.sidecar(agent);
        let Some(session) = sidecar.session.filter(|_| !sidecar.spool.is_empty()) else { return };
        let facts = sidecar.spool.iter().map(|(seq, at, kind)| v1::Fact {
            seq: *seq,
            age_ms: (now - at) as u64,
            age_estimated: false,
            kind: Some(kind.clone()),
        });
        let batch = v1::FactBatch { facts: facts.collect() };
        self.input(Input::FromSidecar { session, body: connect_request::Body::Facts(batch) });
    }

    /// Connected, and its agent's process was seen.
    pub fn start(&mut self, agent: &str) {
        self.connect(agent);
        self.seen(agent, 100, agent);
    }

    pub fn start_all(&mut self) {
        for agent in self.project.state().agents.keys().cloned().collect::<Vec<_>>() {
            self.start(&agent);
        }
    }

    pub fn seen(&mut self, agent: &str, pid: i32, name: &str) {
        let sidecar = self.sidecar(agent);
        sidecar.incarnation += 1;
        let incarnation = sidecar.incarnation;
        let seen = v1::AgentSeen { incarnation, root: Some(process(pid, name)), launched: false };
        self.fact(agent, fact::Kind::AgentSeen(seen));
    }

    pub fn exits(&mut self, agent: &str, exit_code: Option<i32>) {
        let incarnation = self.sidecar(agent).incarnation;
        self.fact(agent, fact::Kind::AgentExited(v1::AgentExited { incarnation, exit_code, signal: None }));
    }

    /// Checks of a deliverable, by the part of their id that `which` names; empty: all.
    fn checks(&self, id: &str, which: &str) -> Vec<(String, String)> {
        let checks = &self.project.state().deliverables[&id_of(id)].checks;
        let fit = checks.iter().filter(|(name, _)| which.is_empty() || name.contains(which));
        let found: Vec<_> = fit.map(|(name, c)| (name.clone(), c.digest.clone())).collect();
        assert!(!found.is_empty(), "{id} has no check like {which:?}");
        found
    }

    pub fn verdict(&mut self, id: &str, which: &str, outcome: Outcome, failing: bool, summary: &str) {
        let owner = id_of(id);
        for (check_id, check_digest) in self.checks(id, which) {
            self.sidecar(&owner.agent).told.insert((owner.name.clone(), check_id.clone()));
            let evidence = v1::Evidence { summary: summary.into(), ..Default::default() };
            let verdict = v1::VerdictFact {
                deliverable: owner.name.clone(),
                check_id,
                check_digest,
                outcome: outcome as i32,
                evidence: Some(evidence),
                failing,
            };
            self.fact(&owner.agent, fact::Kind::Verdict(verdict));
        }
    }

    pub fn passes(&mut self, id: &str) {
        self.verdict(id, "", Outcome::Passed, false, "as it should be");
    }

    pub fn fails(&mut self, id: &str) {
        self.verdict(id, "", Outcome::Failed, false, "not there");
    }

    pub fn claim(&mut self, agent: &str, progress: f64, named: &[(&str, f64)], waiting_for: &str) {
        let claim = v1::Claim {
            progress: Some(progress),
            text: "going well".into(),
            waiting_for: waiting_for.into(),
            deliverables: named.iter().map(|(name, share)| (name.to_string(), *share)).collect(),
        };
        self.fact(agent, fact::Kind::Claim(claim));
    }

    /// Files changed: so many of each deliverable, and so many that belong to none.
    pub fn changes(&mut self, agent: &str, own: &[(&str, u32)], unattributed: u32) {
        let activity = v1::ActivityFact {
            window_ms: 1_000,
            deliverables: own
                .iter()
                .map(|(name, changes)| v1::DeliverableActivity { deliverable: name.to_string(), changes: *changes })
                .collect(),
            unattributed,
            examples: vec!["app/other.ts".into()],
        };
        self.fact(agent, fact::Kind::Activity(activity));
    }

    pub fn quiet(&mut self, agent: &str, quiet: bool) {
        self.fact(agent, fact::Kind::AgentMotion(v1::AgentMotion { quiet }));
    }

    pub fn looping(&mut self, agent: &str, looping: bool) {
        self.fact(agent, fact::Kind::AgentLooping(v1::AgentLooping { looping }));
    }

    pub fn pressure(&mut self, agent: &str, on: bool, what: &str, by: Option<v1::ProcessIdentity>) {
        self.fact(agent, fact::Kind::Pressure(v1::PressureFact { on, what: what.into(), process: by, waits: false }));
    }

    pub fn quota(&mut self, agent: &str, resource: Resource, limit: f64, used: f64, by: v1::ProcessIdentity) {
        let quota = v1::QuotaFact {
            exceeded: used > limit,
            resource: resource as i32,
            limit,
            used,
            above_for_ms: 0,
            process: Some(by),
            process_used: used,
            ..Default::default()
        };
        self.fact(agent, fact::Kind::Quota(quota));
    }

    pub fn lease(&mut self, agent: &str, command: &str, state: v1::LeaseState, detail: &str) {
        let lease = v1::LeaseFact { command: command.into(), state: state as i32, detail: detail.into() };
        self.fact(agent, fact::Kind::Lease(lease));
    }

    pub fn reads(&mut self, agent: &str, cpu: f64, top: &[(i32, &str, f64)]) {
        let usage = |cpu| v1::Usage { cpu_cores: Some(cpu), memory_bytes: Some(512 << 20), ..Default::default() };
        let host = self.sidecars[agent].host.clone();
        let readings = v1::Readings {
            interval_ms: 1_000,
            agent: Some(usage(cpu)),
            top: top
                .iter()
                .map(|(pid, name, cpu)| v1::ProcessUsage {
                    identity: Some(process(*pid, name)),
                    cpu_cores: Some(*cpu),
                    ..Default::default()
                })
                .collect(),
            host: Some(v1::HostUsage { boot_id: host, cpus: Some(8), ..Default::default() }),
            ..Default::default()
        };
        self.say(agent, connect_request::Body::Readings(readings));
    }

    pub fn issue(&mut self, agent: &str, kind: command_spec::Kind) -> Result<v1::Command, Refusal> {
        self.issue_with(agent, kind, 0, "")
    }

    pub fn issue_with(
        &mut self,
        agent: &str,
        kind: command_spec::Kind,
        start_within_ms: u32,
        key: &str,
    ) -> Result<v1::Command, Refusal> {
        let token = self.token();
        let request = v1::IssueCommandRequest {
            project: String::new(),
            agent: agent.into(),
            spec: Some(v1::CommandSpec { kind: Some(kind) }),
            start_within_ms,
            idempotency_key: key.into(),
            origin: "operator".into(),
        };
        self.input(Input::IssueCommand { token, request: Box::new(request) });
        self.command_reply(token)
    }

    pub fn cancel(&mut self, id: &str) -> Result<v1::Command, Refusal> {
        let token = self.token();
        self.input(Input::CancelCommand { token, id: id.into() });
        self.command_reply(token)
    }

    fn command_reply(&self, token: u64) -> Result<v1::Command, Refusal> {
        match self.replies[&token].clone()? {
            Reply::Command(command) => Ok(*command),
            Reply::Plan { .. } | Reply::Adopted(_) => panic!("another reply to a command"),
        }
    }

    pub fn tell(&mut self, agent: &str, about: &str, text: &str) -> v1::Command {
        let directive = v1::Directive { text: text.into(), about: about.into(), priority: v1::Priority::Urgent as i32 };
        self.issue(agent, command_spec::Kind::Directive(directive)).unwrap()
    }

    pub fn throttle(&mut self, agent: &str, cpu_cores: f64, for_ms: u32) -> v1::Command {
        let throttle = v1::Throttle { cpu_cores, for_ms, ttl_ms: 0, ..Default::default() };
        self.issue(agent, command_spec::Kind::Throttle(throttle)).unwrap()
    }

    pub fn kill(&mut self, agent: &str, pid: i32) -> Result<v1::Command, Refusal> {
        let process = Some(v1::ProcessIdentity { pid, ..Default::default() });
        self.issue(agent, command_spec::Kind::Kill(v1::Kill { process, ..Default::default() }))
    }

    pub fn update(&mut self, agent: &str, id: &str, state: CommandState, detail: &str) {
        let update = v1::CommandUpdate { id: id.into(), state: state as i32, detail: detail.into(), age_ms: 0 };
        self.say(agent, connect_request::Body::CommandUpdate(update));
    }
}
