//! The night of the design as messages, for golden tests of every renderer.
use pitwall_proto::v1::{
    self, AgentStatus, Cause, CommandState, DeliverableStatus, FindingKind, InterventionOutcome, NeedState, Outcome,
    SidecarStatus, command_spec::Kind,
};

/// 04:01:07 on some day.
pub const NOW: i64 = 19_000 * 86_400_000 + 14_467_000;
const MINUTE: i64 = 60_000;

fn of(agent: &str, deliverable: &str) -> v1::DeliverableRef {
    v1::DeliverableRef { agent: agent.into(), deliverable: deliverable.into() }
}

fn process(pid: i32, name: &str) -> v1::ProcessIdentity {
    v1::ProcessIdentity { pid, start_ticks: 77, name: name.into() }
}

fn usage(cpu: f64, mib: u64) -> v1::Usage {
    v1::Usage {
        cpu_cores: Some(cpu),
        memory_bytes: Some(mib << 20),
        processes: Some(1),
        threads: Some(12),
        ..Default::default()
    }
}

fn agent(name: &str, status: AgentStatus, verified: f64, next: &str) -> v1::Agent {
    v1::Agent {
        name: name.into(),
        status: status as i32,
        since_unix_ms: NOW - 14 * MINUTE,
        verified,
        sidecar: SidecarStatus::Live as i32,
        next: next.into(),
        ..Default::default()
    }
}

fn check(id: &str, outcome: Outcome, summary: &str) -> v1::CheckResult {
    v1::CheckResult {
        id: id.into(),
        outcome: outcome as i32,
        evidence: Some(v1::Evidence { summary: summary.into(), ..Default::default() }),
        observed_unix_ms: Some(NOW - 2_000),
        required: true,
        weight: 1.0,
    }
}

fn agents() -> Vec<v1::Agent> {
    let waits = "create app/api/talents/route.ts (frontend waits 14m)";
    let mut backend = agent("backend", AgentStatus::Active, 0.38, waits);
    backend.reason = "has workable work, and moves".into();
    backend.claimed = Some(0.86);
    backend.claim_text = "API nearly done".into();
    backend.incarnation = 1;
    backend.root = Some(process(4_000, "node"));
    backend.readout = Some(v1::Readout {
        age_ms: 400,
        interval_ms: 1_000,
        agent: Some(usage(0.6, 922)),
        top: vec![v1::ProcessUsage {
            identity: Some(process(4_242, "next-server")),
            cpu_cores: Some(0.5),
            memory_bytes: Some(800 << 20),
            ..Default::default()
        }],
        ..Default::default()
    });
    backend.capabilities = vec![v1::Capability {
        name: "gpu".into(),
        available: false,
        reason: "no NVML library".into(),
        enabled_by: "install it".into(),
    }];
    backend.deliverables = vec![
        v1::Deliverable {
            name: "models".into(),
            status: DeliverableStatus::Verified as i32,
            verified: 1.0,
            checks: vec![check("file:app/models.ts", Outcome::Passed, "412 bytes")],
            started: true,
            ..Default::default()
        },
        v1::Deliverable {
            name: "talents-api".into(),
            title: "GET /api/talents".into(),
            status: DeliverableStatus::Pending as i32,
            checks: vec![check("file:app/api/talents/route.ts", Outcome::Failed, "no such file")],
            workable: true,
            critical: true,
            planned_finish_unix_ms: Some(NOW - 3 * MINUTE),
            ..Default::default()
        },
    ];
    let mut frontend = agent("frontend", AgentStatus::Blocked, 0.4, "waits for backend/talents-api");
    frontend.reason = "waits for backend/talents-api".into();
    frontend.claimed = Some(0.4);
    frontend.readout =
        Some(v1::Readout { age_ms: 900, interval_ms: 1_000, agent: Some(usage(0.0, 1_229)), ..Default::default() });
    frontend.leases = vec![v1::ActiveLease {
        command: "c4-0a1b2c".into(),
        cpu_cores: 0.5,
        until_unix_ms: NOW + 9 * MINUTE,
        detail: "cpu.max 10000 20000".into(),
        resource: v1::Resource::Cpu as i32,
        amount: 0.5,
        ..Default::default()
    }];
    frontend.leases.push(v1::ActiveLease {
        command: "c5-0a1b2c".into(),
        until_unix_ms: NOW + 4 * MINUTE,
        detail: "memory.max max 1073741824".into(),
        resource: v1::Resource::Memory as i32,
        amount: 1_073_741_824.0,
        process: Some(process(4_242, "next-server")),
        ..Default::default()
    });
    frontend.deliverables = vec![v1::Deliverable {
        name: "talent-list".into(),
        status: DeliverableStatus::Unknown as i32,
        started: true,
        checks: vec![v1::CheckResult {
            id: "http:http://127.0.0.1:3000".into(),
            required: false,
            ..Default::default()
        }],
        needs: vec![v1::Need { on: Some(of("backend", "talents-api")), state: NeedState::Open as i32 }],
        ..Default::default()
    }];
    let missing = "never reported, due 8m ago: pitwall activate design";
    let mut design = agent("design", AgentStatus::Missing, 0.0, missing);
    design.reason = "sidecar live, agent not started".into();
    design.unknown = 1.0;
    vec![backend, frontend, design]
}

fn blocker(rank: u32, waiting: v1::DeliverableRef, root: v1::DeliverableRef, holds: &[&str]) -> v1::Blocker {
    v1::Blocker {
        waiting: Some(waiting),
        on: Some(root.clone()),
        chain: vec![root.clone()],
        root: Some(root),
        since_unix_ms: NOW - 14 * MINUTE,
        holds_agents: holds.iter().map(|h| (*h).into()).collect(),
        holds_deliverables: 2,
        rank,
        ..Default::default()
    }
}

fn blockers() -> Vec<v1::Blocker> {
    let three = ["frontend", "integration", "testing"];
    let misdirected = |waiting, since| v1::Blocker {
        cause: Cause::Misdirected as i32,
        cause_detail: "9 changes in 10m, none on it".into(),
        critical: true,
        since_unix_ms: since,
        expected_clear_unix_ms: Some(NOW + 20 * MINUTE),
        certainty: "if work on it begins now".into(),
        interventions: vec!["c3-0a1b2c".into()],
        next: "pitwall tell backend --about talents-api \"…\"".into(),
        ..blocker(1, waiting, of("backend", "talents-api"), &three)
    };
    let mut second = misdirected(of("integration", "journey"), NOW - 2 * MINUTE);
    second.chain = vec![of("frontend", "talent-list"), of("backend", "talents-api")];
    second.other_roots = vec![of("devops", "gpu")];
    vec![
        misdirected(of("frontend", "talent-list"), NOW - 14 * MINUTE),
        second,
        v1::Blocker {
            cause: Cause::InProgress as i32,
            cause_detail: "62 % verified".into(),
            since_unix_ms: NOW - 5 * MINUTE,
            expected_clear_unix_ms: Some(NOW - MINUTE),
            certainty: "from its estimate and verified share".into(),
            ..blocker(2, of("ai-ml", "matching"), of("devops", "gpu"), &["ai-ml"])
        },
        v1::Blocker {
            cause: Cause::OwnerMissing as i32,
            cause_detail: "sidecar live, agent not started".into(),
            certainty: "no estimate".into(),
            next: "pitwall activate design".into(),
            ..blocker(3, of("frontend", "theme"), of("design", "tokens"), &["frontend"])
        },
    ]
}

fn finding(id: u64, kind: FindingKind, subject: &str, message: &str, next: &str) -> v1::Finding {
    v1::Finding {
        id,
        kind: kind as i32,
        subject: subject.into(),
        message: message.into(),
        next: next.into(),
        since_unix_ms: NOW - 8 * MINUTE,
        opened_unix_ms: NOW - 8 * MINUTE,
        ..Default::default()
    }
}

pub fn night() -> v1::Situation {
    v1::Situation {
        project: "talent-platform".into(),
        at_unix_ms: NOW - 500,
        generation: 1,
        verified: 0.41,
        claimed: Some(0.66),
        agents: agents(),
        blockers: blockers(),
        findings: vec![
            finding(
                3,
                FindingKind::QuotaExceeded,
                "frontend/cpu",
                "uses 2.40 cores of 2.00 cores, mostly next-server (pid 4242) with 2.10 cores",
                "pitwall throttle frontend --cpu 2.00 --for 10m",
            ),
            finding(
                12,
                FindingKind::AgentMissing,
                "design",
                "never seen: agent not started",
                "pitwall activate design",
            ),
        ],
        hosts: vec![host()],
        interventions: ledger().1,
        ..Default::default()
    }
}

pub fn host() -> v1::Host {
    let consumer = |agent: &str, pid, name: &str, cpu, mib: Option<u64>| v1::HostConsumer {
        agent: agent.into(),
        process: Some(v1::ProcessUsage {
            identity: Some(process(pid, name)),
            cpu_cores: cpu,
            memory_bytes: mib.map(|m| m << 20),
            threads: Some(12),
            command: mib.map(|_| format!("{name} start --token ***")).unwrap_or_default(),
            ..Default::default()
        }),
    };
    v1::Host {
        usage: Some(v1::HostUsage {
            boot_id: "2b1f7a80-91aa".into(),
            hostname: "night-box".into(),
            cpus: Some(8),
            cpu_cores: Some(6.8),
            memory_used_bytes: Some(12 << 30),
            memory_total_bytes: Some(16 << 30),
            load_1m: Some(7.25),
        }),
        agents: vec!["backend".into(), "frontend".into()],
        top: vec![
            consumer("frontend", 4_242, "next-server", Some(2.1), Some(3_072)),
            consumer("backend", 17, "node", None, None),
        ],
    }
}

fn command(id: &str, agent: &str, kind: Kind, steps: &[(CommandState, &str)]) -> v1::Command {
    let (state, detail) = steps.last().copied().unwrap_or((CommandState::Queued, ""));
    v1::Command {
        id: id.into(),
        agent: agent.into(),
        spec: Some(v1::CommandSpec { kind: Some(kind) }),
        state: state as i32,
        detail: detail.into(),
        issued_unix_ms: NOW - MINUTE,
        expires_unix_ms: NOW + MINUTE,
        history: steps
            .iter()
            .zip(1..)
            .map(|((state, detail), i)| v1::CommandStep {
                state: *state as i32,
                at_unix_ms: NOW - MINUTE + i * 100,
                detail: (*detail).into(),
            })
            .collect(),
        origin: "ada@night-box".into(),
    }
}

pub fn ledger() -> (Vec<v1::Command>, Vec<v1::Intervention>) {
    use CommandState as S;
    let directive = Kind::Directive(v1::Directive {
        text: "create route.ts first\nthen the rest".into(),
        about: "talents-api".into(),
        priority: v1::Priority::Urgent as i32,
    });
    let kill = Kind::Kill(v1::Kill { process: Some(process(4_242, "next-server")), ..Default::default() });
    let activate = Kind::Activate(v1::Activate::default());
    let note = Kind::Directive(v1::Directive { text: "well done".into(), ..Default::default() });
    let no_sidecar = "no sidecar of docs ever connected; start one beside it: pitwall-sidecar --agent docs …";
    let commands = vec![
        command("c6-0a1b2c", "backend", note, &[(S::Queued, "")]),
        command("c5-0a1b2c", "docs", activate, &[(S::Rejected, no_sidecar)]),
        command("c4-0a1b2c", "frontend", kill, &[(S::Sent, ""), (S::Running, "TERM sent"), (S::Succeeded, "gone")]),
        command(
            "c3-0a1b2c",
            "backend",
            directive,
            &[(S::Queued, ""), (S::Sent, ""), (S::Received, ""), (S::Succeeded, "put into /inbox/URGENT-1.md")],
        ),
    ];
    let base = v1::Intervention {
        issued_unix_ms: NOW - MINUTE,
        delivered_unix_ms: Some(NOW - 50_000),
        window_ends_unix_ms: NOW + 10 * MINUTE,
        ..Default::default()
    };
    let made = |id: &str, kind: &str, target: &str, promise: &str, outcome: InterventionOutcome| v1::Intervention {
        id: id.into(),
        kind: kind.into(),
        target: target.into(),
        promise: promise.into(),
        outcome: outcome as i32,
        ..base.clone()
    };
    let interventions = vec![
        made("c6-0a1b2c", "directive", "backend", "", InterventionOutcome::Undecided),
        made("c5-0a1b2c", "activate", "docs", "docs seen", InterventionOutcome::Rejected),
        v1::Intervention {
            effect_unix_ms: Some(NOW - 44_000),
            evidence: "process 4242 is gone".into(),
            ..made("c4-0a1b2c", "kill", "frontend", "process 4242 (next-server) gone", InterventionOutcome::Effective)
        },
        made(
            "c3-0a1b2c",
            "directive",
            "backend/talents-api",
            "backend/talents-api verified",
            InterventionOutcome::Undecided,
        ),
    ];
    (commands, interventions)
}
