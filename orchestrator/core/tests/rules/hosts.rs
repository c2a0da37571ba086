//! A host that has too little: told once for each episode, with who uses most of it, whoever that belongs to.
use pitwall_proto::v1::{self, FindingKind, connect_request, fact};

use crate::support::{World, play::process};

const PLAN: &str = r#"
project: p
defaults: { expected_within: 1m, stall_after: 2m }
windows: { host_pressure_after: 3s }
agents:
  o: { deliverables: { part: { checks: [ file: part ] } } }
  w: { deliverables: { own: { checks: [ file: own ] }, whole: { needs: [o/part], checks: [ file: whole ] } } }
"#;
const SECOND: i64 = 1_000;

fn world() -> World {
    let mut world = World::new(PLAN);
    world.start_all();
    world.fails("o/part");
    world.passes("w/own");
    world
}

/// A reading of an agent on a host of 4 CPUs.
fn reads(world: &mut World, agent: &str, host: (f64, f64), top: &[(i32, &str, f64)]) {
    let processes = top.iter().map(|(pid, name, cores)| v1::ProcessUsage {
        identity: Some(process(*pid, name)),
        cpu_cores: Some(*cores),
        memory_bytes: Some(1 << 30),
        ..Default::default()
    });
    let boot_id = world.sidecars[agent].host.clone();
    let usage = v1::HostUsage {
        hostname: format!("name-of-{boot_id}"),
        boot_id,
        cpus: Some(4),
        cpu_cores: Some(host.0 * 4.0),
        memory_used_bytes: Some((host.1 * 1e9) as u64),
        memory_total_bytes: Some(1_000_000_000),
        ..Default::default()
    };
    let readings =
        v1::Readings { interval_ms: 1_000, top: processes.collect(), host: Some(usage), ..Default::default() };
    world.say(agent, connect_request::Body::Readings(readings));
}

fn open(world: &World) -> Option<v1::Finding> {
    world.project.findings(false).into_iter().find(|f| f.kind() == FindingKind::HostPressure)
}

/// One second after the other, both agents are read.
fn seconds(world: &mut World, of: &[(f64, f64)]) {
    for host in of {
        reads(world, "o", *host, &[(7, "tsc", 0.4), (8, "idle", 0.0)]);
        reads(world, "w", *host, &[(812, "next-server", 3.2)]);
        world.advance(SECOND);
    }
}

#[test]
fn a_host_is_told_once_with_the_largest_of_all_its_agents_in_order() {
    let mut world = world();
    seconds(&mut world, &[(0.97, 0.5); 3]);
    assert_eq!(open(&world), None, "for less than its window");
    seconds(&mut world, &[(0.97, 0.5); 4]);
    let finding = open(&world).unwrap();
    assert_eq!(finding.subject, "name-of-host-1");
    assert_eq!(
        finding.message,
        "97 % of its 4 CPUs in use: most by next-server (pid 812) of w with 3.20 cores, 1.0 GiB; tsc (pid 7) of o with \
         0.40 cores, 1.0 GiB"
    );
    // It swings about the limit, and another becomes the largest: the same episode.
    seconds(&mut world, &[(0.90, 0.5), (0.99, 0.5), (0.86, 0.5)]);
    reads(&mut world, "o", (0.99, 0.5), &[(7, "tsc", 3.9)]);
    assert_eq!(open(&world).map(|f| (f.id, f.message)), Some((finding.id, finding.message)));
    seconds(&mut world, &[(0.5, 0.5)]);
    assert_eq!(open(&world), None);
    // The next one is another.
    seconds(&mut world, &[(0.99, 0.5); 5]);
    assert!(open(&world).is_some_and(|f| f.id != finding.id));
    world.check_replay();
}

#[test]
fn memory_comes_first_a_break_begins_anew_and_what_is_not_measured_is_no_pressure() {
    let mut world = world();
    seconds(&mut world, &[(0.97, 0.1), (0.97, 0.1), (0.2, 0.1), (0.97, 0.1), (0.97, 0.1)]);
    assert_eq!(open(&world), None);
    seconds(&mut world, &[(0.97, 0.95); 4]);
    assert!(open(&world).unwrap().message.starts_with("95 % of its memory in use: most by "));
    let silent = v1::Readings {
        host: Some(v1::HostUsage { boot_id: "host-1".into(), ..Default::default() }),
        ..Default::default()
    };
    world.say("o", connect_request::Body::Readings(silent));
    assert_eq!(open(&world), None, "nobody says that it is short any more");
}

#[test]
fn a_host_that_nobody_speaks_of_is_not_under_pressure_and_nobody_speaks_for_another() {
    let mut world = world();
    seconds(&mut world, &[(0.97, 0.5); 5]);
    assert!(open(&world).is_some());
    // Both were taken to another machine.
    for agent in ["o", "w"] {
        world.sidecar(agent).host = "host-2".into();
        world.new_life(agent);
        reads(&mut world, agent, (0.1, 0.1), &[]);
    }
    assert_eq!(open(&world), None);
    world.sidecar("o").host = "host-3".into();
    for _ in 0..6 {
        reads(&mut world, "o", (0.99, 0.99), &[]);
        world.advance(SECOND);
    }
    assert_eq!(open(&world), None, "its hello named another host");
}

#[test]
fn an_agent_that_waits_is_pointed_to_who_uses_most_of_its_host() {
    for (waits, other_host, by) in [
        (true, false, ", caused by next-server (812) of w"),
        // Its own limit or its own size hurts it.
        (false, false, ", caused by tsc (7)"),
        (true, true, ", caused by tsc (7)"),
    ] {
        let mut world = world();
        if other_host {
            world.sidecar("w").host = "host-2".into();
            world.new_life("w");
        }
        seconds(&mut world, &[(0.97, 0.5)]);
        let what = "waited for a resource 62 % of 10 s";
        let pressure = v1::PressureFact { on: true, what: what.into(), process: Some(process(7, "tsc")), waits };
        world.fact("o", fact::Kind::Pressure(pressure));
        let told = world.project.situation(0).blockers[0].cause_detail.clone();
        assert_eq!(told, format!("{what}{by}"), "waits {waits}, other host {other_host}");
        world.check_replay();
    }
}

#[test]
fn who_is_lost_is_blamed_for_nothing_and_says_nothing_of_its_host() {
    let mut world = world();
    seconds(&mut world, &[(0.97, 0.5); 5]);
    assert!(open(&world).is_some());
    world.cut("w");
    for _ in 0..60 {
        reads(&mut world, "o", (0.97, 0.5), &[(7, "tsc", 0.4)]);
        world.advance(SECOND);
    }
    assert!(open(&world).is_some(), "the other one still says so");
    let pressure = v1::PressureFact { on: true, what: "waited".into(), process: None, waits: true };
    world.fact("o", fact::Kind::Pressure(pressure));
    let known = world.project.state().agents["o"].pressure.clone().unwrap();
    assert_eq!((known.process.unwrap().name.as_str(), known.by_agent.as_str()), ("tsc", ""));
}
