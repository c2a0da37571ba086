//! Throttles of several resources, of processes and by rungs: checked, filled in, replaced, renewed, shown, orphaned.
use pitwall_proto::v1::{self, CommandState as C, LeaseState, Resource, command_spec::Kind, fact};

use crate::support::{World, play::process};

const PLAN: &str = r#"
project: p
windows: { command_expiry: 2m, result_grace: 30s, effect_within: 5m }
agents:
  a: { deliverables: { d: { checks: [ file: x ] } } }
  b: { deliverables: { e: { checks: [ file: y ] } } }
"#;

const RUNGS: [&str; 5] = [
    "throttle.memory.cgroup1",
    "throttle.pids.cgroup1",
    "throttle.cpu.affinity",
    "throttle.freeze.cgroup1",
    "throttle.gpu-power.nvml",
];

fn world() -> World {
    let mut world = World::new(PLAN);
    world.sidecar("a").also.extend(RUNGS.map(String::from));
    world.start("a");
    world.fails("a/d");
    world.reads("a", 2.0, &[(812, "next-server", 1.0), (813, "worker", 0.5), (814, "worker", 0.4)]);
    world
}

fn of(resource: Resource, amount: f64) -> v1::Throttle {
    v1::Throttle { resource: resource as i32, amount, for_ms: 60_000, ..Default::default() }
}

fn named(pid: i32, name: &str) -> Option<v1::ProcessIdentity> {
    Some(v1::ProcessIdentity { pid, name: name.into(), ..Default::default() })
}

fn throttle_of(command: &v1::Command) -> v1::Throttle {
    match command.spec.clone().unwrap().kind.unwrap() {
        Kind::Throttle(throttle) => throttle,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_held_is_refused_saying_what_can() {
    let mut world = world();
    let table = [
        (of(Resource::Memory, 0.0), "FIELD_OUT_OF_RANGE", "above 0"),
        (of(Resource::Pids, 1.5), "FIELD_OUT_OF_RANGE", "whole number"),
        (of(Resource::CpuWeight, 0.0), "FIELD_OUT_OF_RANGE", "from 1 to 10000"),
        (of(Resource::Disk, 1e9), "FIELD_OUT_OF_RANGE", "quota"),
        (v1::Throttle { for_ms: 60_001, ..of(Resource::Freeze, 1.0) }, "FIELD_OUT_OF_RANGE", "at most 60 s"),
        (v1::Throttle { cpu_cores: 0.5, ..of(Resource::Memory, 1e9) }, "FIELD_OUT_OF_RANGE", "for the CPU alone"),
        (v1::Throttle { resource: 99, ..of(Resource::Cpu, 0.5) }, "FIELD_OUT_OF_RANGE", "not known here"),
        (v1::Throttle { via: "x".repeat(65), ..of(Resource::Cpu, 0.5) }, "FIELD_TOO_LONG", "64 bytes"),
        (v1::Throttle { process: named(1, ""), ..of(Resource::Cpu, 0.5) }, "PROCESS_MISSING", "above 1"),
        (v1::Throttle { process: named(99, ""), ..of(Resource::Cpu, 0.5) }, "PROCESS_UNKNOWN", "no process 99"),
        (v1::Throttle { process: named(0, "java"), ..of(Resource::Cpu, 0.5) }, "PROCESS_UNKNOWN", "named \"java\""),
        (
            v1::Throttle { process: named(0, "worker"), ..of(Resource::Cpu, 0.5) },
            "PROCESS_AMBIGUOUS",
            "one of 813, 814",
        ),
    ];
    for (throttle, reason, what) in table {
        let refusal = world.issue("a", Kind::Throttle(throttle.clone())).expect_err(reason);
        assert_eq!(refusal.reason, reason, "{throttle:?}: {}", refusal.message);
        assert!(refusal.message.contains(what), "{throttle:?}: {}", refusal.message);
    }
    let refusal = world.issue("a", Kind::Unthrottle(v1::Unthrottle { resource: 9 })).expect_err("disk");
    assert!(refusal.message.contains("gpu-clock"), "{}", refusal.message);
    assert!(world.project.commands("", "", 10).is_empty(), "nothing of it is in the ledger");
}

#[test]
fn a_process_is_filled_in_by_pid_or_by_name() {
    let mut world = world();
    let by = |process| Kind::Throttle(v1::Throttle { process, cpu_cores: 0.5, for_ms: 1_000, ..Default::default() });
    for asked in [named(812, ""), named(0, "next-server")] {
        let command = world.issue("a", by(asked)).unwrap();
        let throttle = throttle_of(&command);
        assert_eq!(throttle.process, Some(process(812, "next-server")));
        // A sidecar that knows no processes would hold the whole agent by it.
        assert_eq!((throttle.cpu_cores, throttle.resource(), throttle.amount), (0.0, Resource::Cpu, 0.5));
    }
    let kill = world.issue("a", Kind::Kill(v1::Kill { process: named(0, "next-server"), grace_ms: 0, tree: true }));
    let Some(Kind::Kill(kill)) = kill.unwrap().spec.unwrap().kind else { panic!() };
    assert_eq!((kill.process, kill.tree), (Some(process(812, "next-server")), true));
}

#[test]
fn a_rung_that_its_sidecar_lacks_is_rejected_naming_those_that_are_there() {
    let mut world = world();
    world.sidecar("a").also.insert("throttle.memory.cgroup2".into());
    world.sidecar("a").lacks.insert("throttle.memory.cgroup2".into());
    world.new_life("a");
    let via = |via: &str| v1::Throttle { via: via.into(), ..of(Resource::Memory, 1e9) };
    let state = |world: &mut World, throttle| {
        let command = world.issue("a", Kind::Throttle(throttle)).unwrap();
        (command.state(), command.detail)
    };
    assert_eq!(state(&mut world, via("")).0, C::Queued);
    assert_eq!(state(&mut world, via("cgroup1")).0, C::Queued);
    let (rejected, why) = state(&mut world, via("cgroup2"));
    assert_eq!(rejected, C::Rejected);
    for part in ["throttle.memory.cgroup2: it is not set up", "--with-", "there is cgroup1"] {
        assert!(why.contains(part), "{why}");
    }
    let (rejected, why) = state(&mut world, via("magic"));
    assert!(rejected == C::Rejected && why.contains("no throttle.memory.magic") && why.contains("cgroup1"), "{why}");
    let (rejected, why) = state(&mut world, of(Resource::Io, 1e6));
    assert!(rejected == C::Rejected && why.contains("throttle.io"), "{why}");
    let unthrottle = world.issue("a", Kind::Unthrottle(v1::Unthrottle { resource: Resource::Io as i32 })).unwrap();
    assert_eq!(unthrottle.state(), C::Rejected);
    let unthrottle = world.issue("a", Kind::Unthrottle(v1::Unthrottle::default())).unwrap();
    assert_eq!(unthrottle.state(), C::Queued);
}

#[test]
fn only_throttles_of_the_same_resource_and_target_replace_each_other() {
    let mut world = world();
    let one = || v1::Throttle { process: Some(process(812, "next-server")), ..of(Resource::Cpu, 0.5) };
    let all = [of(Resource::Cpu, 0.5), of(Resource::Memory, 1e9), one(), of(Resource::Pids, 50.0)];
    let ids: Vec<String> = all.iter().map(|t| world.issue("a", Kind::Throttle(t.clone())).unwrap().id).collect();
    for id in &ids {
        world.update("a", id, C::Succeeded, "");
        world.lease("a", id, LeaseState::Active, "file");
    }
    let shown = |world: &World| {
        let leases = world.project.situation(0).agents[0].leases.clone();
        leases.iter().map(|l| (l.resource(), l.amount, l.process.as_ref().map(|p| p.pid))).collect::<Vec<_>>()
    };
    let held = [
        (Resource::Cpu, 0.5, None),
        (Resource::Memory, 1e9, None),
        (Resource::Cpu, 0.5, Some(812)),
        (Resource::Pids, 50.0, None),
    ];
    assert_eq!(shown(&world), held);
    world.advance(21_000);
    let renewed = world.sidecars["a"].renewed.clone();
    assert!(ids.iter().all(|id| renewed.contains(id)), "each is renewed: {renewed:?}");
    // Of the same resource and target, whatever rung: it takes the place of the first, in the queue as in effect.
    world.cut("a");
    let queued = world.issue("a", Kind::Throttle(of(Resource::Memory, 2e9))).unwrap().id;
    let via = v1::Throttle { via: "cgroup1".into(), ..of(Resource::Memory, 3e9) };
    let newest = world.issue("a", Kind::Throttle(via)).unwrap().id;
    let other = world.issue("a", Kind::Throttle(of(Resource::Pids, 60.0))).unwrap().id;
    let states = [&queued, &newest, &other].map(|id| world.command(id).state());
    assert_eq!(states, [C::Superseded, C::Queued, C::Queued]);
    world.connect("a");
    world.lease("a", &newest, LeaseState::Active, "file");
    assert!(shown(&world).contains(&(Resource::Memory, 3e9, None)) && !shown(&world).contains(&held[1]));
    world.check_replay();
}

#[test]
fn what_is_read_back_is_credited_and_has_no_measure() {
    let mut world = world();
    let id = world.issue("a", Kind::Throttle(of(Resource::Memory, 1024.0 * 1024.0 * 1024.0))).unwrap().id;
    let shown = |world: &World| world.project.interventions().into_iter().find(|i| i.id == id).unwrap();
    assert_eq!(shown(&world).promise, "a at or below 1.0 GiB");
    world.update("a", &id, C::Received, "");
    world.advance(100);
    let effect = v1::EffectMeasured {
        command: id.clone(),
        resource: Resource::Memory as i32,
        asked: 1024.0 * 1024.0 * 1024.0,
        held: true,
        ..Default::default()
    };
    world.fact("a", fact::Kind::EffectMeasured(effect));
    world.advance(1);
    let told = shown(&world);
    assert_eq!(told.outcome(), v1::InterventionOutcome::Effective);
    assert_eq!(told.evidence, "asked 1.0 GiB, read back");
    // Of the CPU, a use of 0 is one: older sidecars do not write it.
    let id = world.throttle("a", 0.5, 60_000).id;
    world.update("a", &id, C::Received, "");
    world.advance(100);
    let effect = v1::EffectMeasured {
        command: id.clone(),
        resource: Resource::Cpu as i32,
        asked: 0.5,
        over_ms: 5_000,
        held: true,
        ..Default::default()
    };
    world.fact("a", fact::Kind::EffectMeasured(effect));
    let evidence = world.project.interventions().into_iter().find(|i| i.id == id).unwrap().evidence;
    assert_eq!(evidence, "asked 0.50, measured 0.00 over 5000 ms");
    world.check_replay();
}

#[test]
fn a_lease_of_a_sidecar_that_is_lost_is_orphaned_and_said_so() {
    let mut world = world();
    let id = world.issue("a", Kind::Throttle(of(Resource::Freeze, 1.0))).unwrap().id;
    world.update("a", &id, C::Succeeded, "");
    world.lease("a", &id, LeaseState::Active, "cgroup.freeze");
    let next = |w: &World| w.project.situation(0).agents[0].next.clone();
    let orphaned = |w: &World| w.project.situation(0).agents[0].leases.iter().any(|l| l.orphaned);
    world.cut("a");
    assert!(!orphaned(&world));
    world.advance(60_000);
    assert!(world.findings().contains(&"lease_orphaned a".to_owned()), "{:?}", world.findings());
    let all = world.project.findings(false);
    let told = all.iter().find(|f| f.kind() == v1::FindingKind::LeaseOrphaned).unwrap();
    assert!(told.message.contains(&format!("lease {id} (freeze) is orphaned")), "{}", told.message);
    assert!(orphaned(&world) && next(&world).contains("is orphaned"), "{}", next(&world));
    // Past its end too: nobody is there to undo it.
    world.advance(600_000);
    assert!(world.findings().contains(&"lease_orphaned a".to_owned()));
    world.connect("a");
    assert!(!world.findings().contains(&"lease_orphaned a".to_owned()), "{:?}", world.findings());
    world.check_replay();
}
