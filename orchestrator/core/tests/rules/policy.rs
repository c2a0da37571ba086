//! What sidecars did by themselves: told, shown as long as it helps, kept in a snapshot, and bounded by the plan.
use pitwall_core::state::State;
use pitwall_proto::v1::{self, FindingKind, OnExceed, Resource, RestartState, fact};

use crate::support::{World, play::process};

const PLAN: &str = r#"
project: p
defaults: { expected_within: 1m, stall_after: 2h }
agents:
  o:
    quota: { memory: { soft: 1GiB, hard: 2GiB, on_exceed: kill_process } }
    processes: { web: { match: next-server, quota: { cpu: 1 } } }
    health: { api: { tcp: "o:1" } }
    deliverables: { part: { checks: [ file: part ] } }
"#;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

fn world() -> World {
    let mut world = World::new(PLAN);
    world.start_all();
    world.advance(5_000);
    world
}

fn quota(world: &mut World, used: f64, limit: f64, soft: bool, named: &str) {
    let quota = v1::QuotaFact {
        exceeded: used > limit,
        resource: if named.is_empty() { Resource::Memory } else { Resource::Cpu } as i32,
        limit,
        used,
        process: Some(process(812, "next-server")),
        process_used: used,
        soft,
        named: named.into(),
        ..Default::default()
    };
    world.fact("o", fact::Kind::Quota(quota));
}

fn acted(done: bool, detail: &str) -> fact::Kind {
    fact::Kind::QuotaActed(v1::QuotaActed {
        id: "quota-memory-1".into(),
        resource: Resource::Memory as i32,
        action: OnExceed::KillProcess as i32,
        used: 2.1 * GIB,
        limit: 2.0 * GIB,
        process: Some(process(812, "next-server")),
        process_used: 1.9 * GIB,
        done,
        detail: detail.into(),
        ..Default::default()
    })
}

fn message(world: &World, kind: FindingKind) -> String {
    let all = world.project.findings(false);
    let found = all.iter().find(|f| f.kind() == kind).unwrap_or_else(|| panic!("no {kind:?} among {all:#?}"));
    format!("{}: {}", found.subject, found.message)
}

fn restart(state: RestartState) -> fact::Kind {
    fact::Kind::Restart(v1::RestartFact {
        id: "restart-3".into(),
        cause: "It had ended with code 3.".into(),
        state: state as i32,
        attempt: 2,
        max: 2,
        incarnation: 4,
        detail: "2 times".into(),
    })
}

fn health(name: &str, healthy: bool) -> fact::Kind {
    fact::Kind::Health(v1::HealthFact { name: name.into(), healthy, detail: "refused".into() })
}

#[test]
fn an_act_is_news_and_stays_shown_for_a_while_after_the_use_fell() {
    let mut world = world();
    quota(&mut world, 2.1 * GIB, 2.0 * GIB, false, "");
    let exceeded = "o/memory: uses 2.1 GiB of 2.0 GiB, mostly next-server (pid 812) with 2.1 GiB";
    assert_eq!(message(&world, FindingKind::QuotaExceeded), exceeded);
    world.fact("o", acted(true, "ended on TERM"));
    let killed = format!("{exceeded}; killed next-server (pid 812)");
    assert_eq!(message(&world, FindingKind::QuotaExceeded), killed);
    quota(&mut world, 0.2 * GIB, 2.0 * GIB, false, "");
    let used = "o/memory: used 2.1 GiB of 2.0 GiB: killed next-server (pid 812)";
    assert_eq!(message(&world, FindingKind::QuotaExceeded), used);
    assert_eq!(world.findings().iter().filter(|f| f.starts_with("quota")).count(), 1, "one finding all the way");
    world.advance(16 * 60_000);
    assert!(world.findings().is_empty(), "{:?}", world.findings());
}

#[test]
fn what_was_not_done_is_shown_with_its_reason() {
    let mut world = world();
    quota(&mut world, 2.1 * GIB, 2.0 * GIB, false, "");
    world.fact("o", acted(false, "kill is not possible here: no pidfd"));
    let told = message(&world, FindingKind::QuotaExceeded);
    assert!(told.ends_with("; not killed: kill is not possible here: no pidfd"), "{told}");
}

#[test]
fn a_soft_limit_gives_way_to_the_hard_one_and_comes_back() {
    let mut world = world();
    quota(&mut world, 1.5 * GIB, GIB, true, "");
    assert!(message(&world, FindingKind::QuotaExceeded).contains("1.5 GiB of 1.0 GiB, the soft limit"));
    quota(&mut world, 2.1 * GIB, 2.0 * GIB, false, "");
    assert!(message(&world, FindingKind::QuotaExceeded).contains("2.1 GiB of 2.0 GiB, mostly"));
    quota(&mut world, 1.8 * GIB, 2.0 * GIB, false, "");
    assert!(message(&world, FindingKind::QuotaExceeded).contains("the soft limit"));
    assert_eq!(world.project.findings(true).len(), 1);
}

#[test]
fn named_processes_are_told_apart_and_names_that_the_plan_does_not_have_are_dropped() {
    let mut world = world();
    quota(&mut world, 1.4, 1.0, false, "web");
    assert!(message(&world, FindingKind::QuotaExceeded).starts_with("o/web/cpu: uses 1.40 cores of 1.00 cores"));
    for n in 0..100 {
        quota(&mut world, 1.4, 1.0, false, &format!("invented-{n}"));
        world.fact("o", health(&format!("invented-{n}"), false));
    }
    assert_eq!(world.findings(), ["quota_exceeded o/web/cpu"]);
    let agent = &world.project.state().agents["o"];
    assert_eq!((agent.quotas.len(), agent.unhealthy.len()), (1, 0));
    // A plan without it: it is exceeded no more.
    world
        .apply_plan(&PLAN.replace("processes: { web: { match: next-server, quota: { cpu: 1 } } }", "protect: sshd"))
        .unwrap();
    assert!(world.findings().is_empty(), "{:?}", world.findings());
}

#[test]
fn giving_up_opens_and_a_new_beginning_closes() {
    let mut world = world();
    world.fact("o", restart(RestartState::Waiting));
    world.fact("o", restart(RestartState::Failed));
    assert!(world.findings().is_empty());
    world.fact("o", restart(RestartState::GaveUp));
    let told = message(&world, FindingKind::RestartsGaveUp);
    assert_eq!(told, "o: It had ended with code 3. The sidecar gave up: 2 times");
    world.advance(3_600_000);
    assert!(world.findings().contains(&"restarts_gave_up o".to_owned()), "until it is over");
    for over in [RestartState::Reset, RestartState::Done] {
        world.fact("o", restart(RestartState::GaveUp));
        world.fact("o", restart(over));
        assert!(!world.findings().contains(&"restarts_gave_up o".to_owned()), "{over:?}");
    }
}

#[test]
fn out_of_memory_names_who_and_how_large() {
    let mut world = world();
    let oom = |process| v1::OutOfMemory { kills: 1, process, memory_bytes: Some(1 << 30), agent_bytes: Some(3 << 30) };
    world.fact("o", fact::Kind::OutOfMemory(oom(Some(process(7, "tsc")))));
    let told = message(&world, FindingKind::OutOfMemory);
    assert_eq!(told, "o: out of memory: the kernel killed tsc (pid 7), which had 1.0 GiB; the agent had 3.0 GiB");
    world.fact("o", fact::Kind::OutOfMemory(v1::OutOfMemory { memory_bytes: None, ..oom(None) }));
    assert!(message(&world, FindingKind::OutOfMemory).contains("1 process, which no sample had seen"));
    world.advance(16 * 60_000);
    assert!(world.findings().is_empty());
}

#[test]
fn who_is_unhealthy_is_shown_until_it_is_well() {
    let mut world = world();
    world.fact("o", health("api", false));
    assert_eq!(message(&world, FindingKind::Unhealthy), "o/api: its health check api fails: refused");
    world.advance(3_600_000);
    world.fact("o", health("api", true));
    assert!(!world.findings().iter().any(|f| f.starts_with("unhealthy")), "{:?}", world.findings());
}

#[test]
fn all_of_it_is_told_in_words_and_comes_back_from_a_snapshot() {
    let mut world = world();
    quota(&mut world, 1.5 * GIB, GIB, true, "");
    quota(&mut world, 2.5, 1.0, false, "web");
    world.fact("o", acted(true, "ended on TERM"));
    world.fact("o", restart(RestartState::GaveUp));
    world.fact("o", health("api", false));
    world.fact("o", fact::Kind::OutOfMemory(v1::OutOfMemory { kills: 2, ..Default::default() }));
    world.fact(
        "o",
        fact::Kind::ProcessReturned(v1::ProcessReturned {
            named: "web".into(),
            process: Some(process(900, "next-server")),
            after_ms: 3_000,
            killed: Some(process(812, "next-server")),
        }),
    );
    let state = world.project.state();
    let back = State::from_snapshot(&state.project, &state.lineage, &state.to_snapshot()).unwrap();
    assert_eq!(back.digest(), state.digest());
    let agent = &back.agents["o"];
    assert_eq!((agent.quotas.len(), agent.acted.len(), agent.unhealthy.len()), (2, 1, 1));
    assert!(agent.gave_up.is_some() && agent.out_of_memory.is_some());
}

#[test]
fn what_is_no_number_is_dropped() {
    let mut world = world();
    let fact::Kind::QuotaActed(good) = acted(true, "") else { panic!("it is one") };
    for bad in [
        v1::QuotaActed { used: f64::NAN, ..good.clone() },
        v1::QuotaActed { limit: f64::INFINITY, ..good.clone() },
        v1::QuotaActed { resource: 99, ..good.clone() },
        v1::QuotaActed { named: "nobody".into(), ..good },
    ] {
        world.fact("o", fact::Kind::QuotaActed(bad));
    }
    assert!(world.project.state().agents["o"].acted.is_empty());
}
