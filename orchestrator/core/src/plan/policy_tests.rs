//! What the sidecar may do by itself, as an operator writes it: every form, every mistake with its place.
use super::*;

/// A plan of one agent, with this beside its deliverable.
fn with(agent: &str) -> String {
    format!("project: p\nagents:\n  a:\n    deliverables: {{ d: {{ checks: [ file: x ] }} }}\n{agent}")
}

fn agent(text: &str) -> AgentPlan {
    let parsed = parse(&with(text), "plan.yaml").unwrap_or_else(|m| panic!("{text}\n{}", m.render(false)));
    parsed.plan.agents["a"].clone()
}

/// Resource, limit, soft, what is done, after how long, and the cooldown.
fn quotas(text: &str) -> Vec<(Resource, f64, bool, OnExceed, u64, u64)> {
    agent(text)
        .quotas
        .iter()
        .map(|q| (q.resource, q.limit, q.soft, q.on_exceed, q.for_ms / 1_000, q.cooldown_ms / 1_000))
        .collect()
}

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

#[test]
fn a_quota_may_be_a_number_or_say_all() {
    use OnExceed as O;
    use Resource as R;
    assert_eq!(
        quotas("    quota: { cpu: 1.5, memory: 2GiB, pids: 100 }"),
        [
            (R::Cpu, 1.5, false, O::Warn, 30, 0),
            (R::Memory, 2.0 * GIB, false, O::Warn, 30, 0),
            (R::Pids, 100.0, false, O::Warn, 30, 0)
        ]
    );
    assert_eq!(
        quotas(
            "    quota: { cpu: 1.5, memory: { soft: 1GiB, hard: 2GiB, for: 10s, on_exceed: kill_process, cooldown: 5m } }"
        ),
        [
            (R::Cpu, 1.5, false, O::Warn, 30, 0),
            (R::Memory, GIB, true, O::Warn, 10, 0),
            (R::Memory, 2.0 * GIB, false, O::KillProcess, 10, 300)
        ]
    );
    // What a limit does not say its quota says.
    assert_eq!(
        quotas("    quota: { cpu: 1, disk: { hard: 1GiB, on_exceed: warn }, for: 5s, on_exceed: throttle }"),
        [(R::Cpu, 1.0, false, O::Throttle, 5, 120), (R::Disk, GIB, false, O::Warn, 5, 0)]
    );
    // What is said for all limits is about hard ones.
    assert_eq!(
        quotas("    quota: { on_exceed: kill_process, memory: { hard: 2GiB }, pids: { soft: 100 } }"),
        [(R::Memory, 2.0 * GIB, false, O::KillProcess, 30, 120), (R::Pids, 100.0, false, O::Warn, 30, 0)]
    );
    // One limit that says what it does is the limit, whatever it is called.
    assert_eq!(
        quotas("    quota: { gpu_memory: { soft: 1GiB, on_exceed: restart } }"),
        [(R::GpuMemory, GIB, false, O::Restart, 30, 120)]
    );
}

#[test]
fn what_an_agent_does_not_say_the_defaults_say() {
    let text = with("    quota: { cpu: { hard: 1, on_exceed: throttle } }\n    protect: [postgres]").replace(
        "agents:",
        "defaults:\n  quota: { memory: 1GiB, for: 7s, cooldown: 1m }\n  protect: sshd\n  restart: { on: failure }\nagents:",
    );
    let plan = parse(&text, "p").unwrap_or_else(|m| panic!("{}", m.render(false))).plan;
    let agent = &plan.agents["a"];
    let acts: Vec<_> = agent.quotas.iter().map(|q| (q.resource, q.on_exceed, q.for_ms, q.cooldown_ms)).collect();
    assert_eq!(
        acts,
        [(Resource::Cpu, OnExceed::Throttle, 7_000, 60_000), (Resource::Memory, OnExceed::Warn, 7_000, 0)]
    );
    assert_eq!(agent.protect, ["postgres", "sshd"]);
    let restart = agent.restart.as_ref().expect("from the defaults");
    assert_eq!((restart.on, restart.backoff_ms, restart.max), (RestartOn::Failure, 1_000, 5));
}

#[test]
fn named_processes_restarts_and_health_checks() {
    let agent = agent(
        "    processes:
      next-server: { quota: { memory: 1GiB }, on_exceed: kill_process }
      db: { match: { name: postgres, command: -D /data }, protect: true }
      build: { match: tsc }
    restart: { on: always, backoff: 2s, backoff_max: 1m, stable_after: 5m, max: 3 }
    health:
      web: { http: \"http://localhost:3000/health\", startup: { within: 20s }, every: 5s, failures: 2, on_failure: restart }
      api: { grpc: { address: \"localhost:50051\", service: talents } }
      db: { tcp: \"localhost:5432\", timeout: 1s, successes: 2 }
      self: { process: next-server }",
    );
    let named: Vec<_> =
        agent.processes.iter().map(|(n, p)| (n.as_str(), p.process.as_str(), p.command.as_str(), p.protect)).collect();
    assert_eq!(
        named,
        [("build", "tsc", "", false), ("db", "postgres", "-D /data", true), ("next-server", "next-server", "", false)]
    );
    assert_eq!(agent.processes["next-server"].quotas[0].on_exceed, OnExceed::KillProcess);
    let restart = agent.restart.as_ref().expect("said");
    assert_eq!((restart.on, restart.backoff_ms, restart.backoff_max_ms), (RestartOn::Always, 2_000, 60_000));
    assert_eq!((restart.stable_after_ms, restart.max), (300_000, 3));
    let web = &agent.health["web"];
    assert_eq!((web.every_ms, web.timeout_ms, web.startup_within_ms), (5_000, 5_000, 20_000));
    assert_eq!((web.failures, web.successes, web.on_failure), (2, 1, OnUnhealthy::Restart));
    let grpc = Rule::Grpc { address: "localhost:50051".into(), service: "talents".into() };
    assert_eq!(agent.health["api"].rule, grpc);
    assert_eq!((agent.health["db"].successes, agent.health["db"].on_failure), (2, OnUnhealthy::Warn));
}

#[test]
fn a_sidecar_gets_all_of_it() {
    let text = with(
        "    quota: { memory: { soft: 1GiB, hard: 2GiB, on_exceed: freeze } }
    protect: sshd
    processes: { web: { quota: { cpu: 1 }, on_exceed: throttle } }
    restart: { on: failure }
    health: { web: { tcp: \"h:1\", on_failure: restart } }",
    );
    let plan = parse(&text, "p").unwrap_or_else(|m| panic!("{}", m.render(false))).plan;
    let part = agent_part(&plan, "a", 3).expect("it has the agent");
    use pitwall_proto::v1;
    let acts: Vec<_> = part.quotas.iter().map(|q| (q.soft, q.on_exceed(), q.cooldown_ms)).collect();
    assert_eq!(acts, [(true, v1::OnExceed::Warn, 0), (false, v1::OnExceed::Freeze, 120_000)]);
    assert_eq!((part.protect.as_slice(), part.processes.len()), (&["sshd".to_owned()][..], 1));
    assert_eq!(part.processes[0].quotas[0].on_exceed(), v1::OnExceed::Throttle);
    assert_eq!(part.restart.map(|r| (r.on(), r.max)), Some((v1::RestartOn::Failure, 5)));
    let health = &part.health[0];
    assert!(matches!(health.probe.as_ref().and_then(|p| p.rule.as_ref()), Some(v1::check::Rule::Tcp(_))));
    assert_eq!((health.on_failure(), health.startup_within_ms), (v1::OnUnhealthy::Restart, 30_000));
    // And the operator is told when it changes.
    let other = parse(&text.replace("on: failure", "on: always").replace("sshd", "tini"), "p").expect("valid").plan;
    assert_eq!(diff(&plan, &other), ["agent a: protected processes changed", "agent a: restarts changed"]);
}

/// A journal of before any of this.
#[test]
fn an_older_plan_is_read_and_a_plain_one_is_written_as_ever() {
    let plan = parse(&with("    quota: { cpu: 2 }"), "p").expect("valid").plan;
    let json = serde_json::to_value(&plan).expect("it is JSON");
    let agent = json["agents"]["a"].as_object().expect("a table");
    assert_eq!(agent.keys().collect::<Vec<_>>(), ["deliverables", "inbox", "quotas", "windows"]);
    assert_eq!(agent["quotas"][0].to_string(), r#"{"for_ms":30000,"limit":2.0,"resource":"cpu"}"#);
    assert_eq!(serde_json::from_value::<Plan>(json).expect("read back"), plan);
}

#[test]
fn one_mistake_one_place_one_message() {
    let table: [(&str, u32, u32, &str, &str); 24] = [
        ("    quotas: { cpu: 1 }", 5, 5, "unknown key `quotas`", "did you mean `quota`?"),
        ("    quota: { cpu: { hard: 1, on_exced: throttle } }", 5, 30, "unknown key `on_exced`", "`on_exceed`?"),
        (
            "    quota: { cpu: { hard: 1, on_exceed: throtle } }",
            5,
            41,
            "\"throtle\" is not",
            "did you mean `throttle`?",
        ),
        ("    quota: { cpu: { hard: 1, on_exceed: [warn] } }", 5, 41, "expected what a quota can do", "one of warn"),
        ("    quota: { cpu: { for: 10s } }", 5, 19, "this quota has no limit", "`hard:`"),
        (
            "    quota: { memory: { soft: 2GiB, hard: 1GiB } }",
            5,
            30,
            "soft limit for memory is not below",
            "told first",
        ),
        ("    quota: { cpu: { hard: 0.05, on_exceed: throttle } }", 5, 27, "below 0.1 cores", "raise the limit"),
        ("    quota: { disk: { hard: 1GiB, on_exceed: throttle } }", 5, 45, "disk cannot be throttled", "freeze"),
        ("    quota: { cpu: 1, disk: 1GiB, on_exceed: throttle }", 5, 28, "disk cannot be throttled", "freeze"),
        ("    quota: { disk: { hard: 1GiB, on_exceed: kill_process } }", 5, 45, "fills the disk", "use warn"),
        ("    quota: { gpu_memory: { hard: 1GiB, on_exceed: throttle } }", 5, 51, "gpu_memory cannot", "freeze"),
        ("    protect: [ /usr/bin/x ]", 5, 16, "expected a command name", "ps -o comm"),
        ("    processes: { web: { match: { } } }", 5, 32, "which processes are web", "`name:` or `command:`"),
        ("    processes: { web: { match: { nam: x } } }", 5, 34, "unknown key `nam`", "did you mean `name`?"),
        ("    processes: { \"a/b\": { protect: true } }", 5, 18, "no name for a process", "letters"),
        ("    processes: { web: { on_exceed: restart } }", 5, 36, "no quota that could be exceeded", "add `quota:"),
        (
            "    processes: { web: { quota: { memory: 1GiB }, on_exceed: restart } }",
            5,
            42,
            "one process alone cannot be restarted",
            "use kill_process",
        ),
        (
            "    processes: { web: { quota: { memory: 1GiB }, on_exceed: kill_process, protect: true } }",
            5,
            42,
            "it is protected",
            "one of the two",
        ),
        ("    restart: { on: sometimes }", 5, 20, "\"sometimes\" is not when to restart", "one of never"),
        ("    restart: { max: 0 }", 5, 21, "0 restarts in a row", "on: never"),
        ("    restart: { backoff: 10m, backoff_max: 1m }", 5, 14, "backoff is above", "shortest"),
        ("    health: { web: { every: 1s } }", 5, 20, "has 0 rules", "exactly one of http, tcp"),
        ("    health: { web: { tcp: db } }", 5, 27, "no host:port", "qdrant:6333"),
        ("    health: { web: { tcp: \"db:1\", failures: 0 } }", 5, 45, "0 in a row", "1 to 1000"),
    ];
    for (text, line, column, message, help) in table {
        let mistakes = parse(&with(text), "plan.yaml").expect_err(text);
        let told: Vec<_> =
            mistakes.list.iter().map(|m| (m.line, m.column, m.message.as_str(), m.help.as_str())).collect();
        let [(l, c, m, h)] = told[..] else { panic!("{text}\n{told:?}") };
        assert!(m.contains(message) && h.contains(help), "{text}\n{told:?}");
        assert_eq!((l, c), (line, column), "{text}\n{told:?}");
    }
}

#[test]
fn many_mistakes_of_it_are_told_at_once() {
    let text = with(
        "    quota: { memory: { soft: 2GiB, hard: 1GiB, on_exceed: kil_process }, cpu: { for: 3s } }
    processes: { web: { match: { port: 3000 }, quota: { disk: 1GiB } } }
    restart: { on: failed, max: 0 }
    health: { web: { http: \"ftp://x\", startup: { with: 3s } } }",
    );
    let mistakes = parse(&text, "night.yaml").expect_err("many mistakes");
    insta::assert_snapshot!(mistakes.render(false));
}

#[test]
fn the_schema_knows_every_key_of_it() {
    let schema = schema().to_string();
    for key in [
        "soft",
        "hard",
        "on_exceed",
        "cooldown",
        "disk",
        "gpu_memory",
        "protect",
        "processes",
        "match",
        "command",
        "restart",
        "backoff_max",
        "stable_after",
        "health",
        "grpc",
        "startup",
        "within",
        "on_failure",
        "kill_process",
    ] {
        assert!(schema.contains(&format!("\"{key}\"")), "{key}");
    }
}
