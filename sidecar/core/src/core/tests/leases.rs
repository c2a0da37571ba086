//! Leases of several origins, by the boot clock alone; and what goes before what.
use pitwall_proto::{
    state::{self, LeaseOrigin, Record, record::Body},
    v1::{
        self, CommandState as S, LeaseState as L, Resource, command_spec::Kind as Spec, connect_response::Body as Down,
        fact,
    },
};

use super::{
    scripts::begun,
    world::{FREE, OLD, World, kill, limit, renewal, tell, throttle},
};
use crate::{clock, io::Input, kept};

/// A lease of the sidecar's own quota policy is in its file.
fn with_a_quota_lease(cpu_cores: f64, for_ms: u32) -> World {
    let mut world = begun();
    world.crash(0);
    let started = Some(clock::moment(world.now(), &world.boot_id));
    let lease = state::Lease {
        command: "quota-cpu-1".into(),
        origin: LeaseOrigin::Quota as i32,
        cpu_cores,
        renewed: started.clone(),
        started,
        for_ms,
        ttl_ms: for_ms,
        told: false,
        ..Default::default()
    };
    kept::encode(vec![Record { body: Some(Body::Lease(lease)) }], &mut world.file);
    world.start();
    world.run(2_000);
    world
}

#[test]
fn leases_of_different_origins_overlap_and_the_strictest_holds() {
    let mut world = with_a_quota_lease(0.3, 60_000);
    assert_eq!(world.value, "6000 20000");
    let stricter = world.issue(throttle(0.1, 20_000, 20_000), 10_000);
    world.run(7_000);
    assert_eq!(world.value, "2000 20000");
    let milder = world.issue(throttle(0.5, 60_000, 60_000), 10_000);
    world.run(5_000);
    // The newer took the place of the older of its origin, and of no other.
    assert_eq!(world.durable.leases.keys().cloned().collect::<Vec<_>>(), [milder, "quota-cpu-1".to_owned()]);
    assert_eq!((world.value.as_str(), world.result(&stricter)), ("6000 20000", Some(S::Succeeded)));
    world.issue(Spec::Unthrottle(v1::Unthrottle::default()), 10_000);
    world.run(3_000);
    assert_eq!(world.value, "6000 20000", "an operator's unthrottle ends what operators asked for");
    world.run(60_000);
    assert_eq!(world.value, OLD, "and the own one ends by itself");
}

#[test]
fn only_leases_supersede_directives_and_kills_never_do() {
    let mut world = begun();
    world.processes.extend([(101, 8), (102, 9)]);
    world.run(2_000);
    let ids = [tell("one"), tell("two"), kill(101, 8), kill(102, 9)].map(|spec| world.issue(spec, 10_000));
    world.run(3_000);
    for id in ids {
        assert_eq!(world.result(&id), Some(S::Succeeded), "{id}");
    }
    assert_eq!((world.inbox.len(), world.killed.len()), (2, 2));
}

#[test]
fn the_wall_clock_never_moves_the_end_of_a_lease() {
    for jump in [7_200_000, -7_200_000] {
        let mut world = begun();
        world.issue(throttle(0.2, 20_000, 60_000), 10_000);
        world.run(5_000);
        assert_ne!(world.value, OLD);
        world.wall_skew_ms += jump;
        world.run(10_000);
        assert_ne!(world.value, OLD, "a jump of {jump} ms is no end");
        // Also for a new process.
        world.crash(0);
        world.start();
        world.run(2_000);
        assert_ne!(world.value, OLD, "adopted after a jump of {jump} ms");
        world.run(4_000);
        assert_eq!(world.value, OLD, "it ends at its time after a jump of {jump} ms");
    }
}

#[test]
fn a_lease_is_renewed_by_the_boot_clock_whatever_the_wall_clock_says() {
    let mut world = begun();
    let id = world.issue(throttle(0.2, 60_000, 6_000), 10_000);
    for n in 0..8 {
        world.wall_skew_ms += if n % 2 == 0 { 3_600_000 } else { -7_000_000 };
        world.run(4_000);
        assert_ne!(world.value, OLD, "renewed {n} times");
        world.say(renewal(&[&id]));
    }
    world.run(7_000);
    assert_eq!(world.value, OLD, "not renewed any more");
}

#[test]
fn a_command_expires_by_the_boot_clock_too() {
    let mut world = World::new();
    let id = world.issue(tell("look"), 60_000);
    world.wall_skew_ms = 7_200_000;
    world.run(3_000);
    assert_eq!(world.result(&id), Some(S::Succeeded));
}

#[test]
fn a_kill_is_never_behind_a_flood_of_others() {
    let mut world = begun();
    world.inbox_hangs = true;
    for n in 0..40 {
        world.issue(tell(&format!("note {n}")), 60_000);
    }
    world.run(3_000);
    assert_eq!(world.hanging, 16, "so many at once");
    let id = world.issue(kill(100, 7), 60_000);
    world.run(1_000);
    assert_eq!((world.result(&id), world.hanging), (Some(S::Succeeded), 16));
}

#[test]
fn a_cancel_overtakes_what_has_not_begun() {
    let mut world = begun();
    world.inbox_hangs = true;
    let ids: Vec<String> = (0..20).map(|n| world.issue(tell(&format!("note {n}")), 60_000)).collect();
    world.run(2_000);
    let last = ids.last().expect("twenty");
    world.say(Down::Cancel(v1::CancelDelivery { id: last.clone() }));
    world.run(1_000);
    assert_eq!(world.result(last), Some(S::Cancelled), "it waited for its turn");
    let first = &ids[0];
    world.say(Down::Cancel(v1::CancelDelivery { id: first.clone() }));
    world.run(1_000);
    assert_eq!(world.result(first), None, "what has begun goes on to its result");
    let before_it_came = "c99";
    let cancel = v1::CancelDelivery { id: before_it_came.into() };
    world.say(Down::Cancel(cancel));
    world.run(1_000);
    assert_eq!(world.result(before_it_came), Some(S::Cancelled));
}

/// Of another rung, for the same resource.
fn via(cpu_cores: f64, via: &str) -> Spec {
    Spec::Throttle(v1::Throttle { cpu_cores, via: via.into(), for_ms: 60_000, ttl_ms: 60_000, ..Default::default() })
}

#[test]
fn limits_of_several_resources_hold_at_once_and_each_ends_by_itself() {
    let mut world = begun();
    let ids = [
        limit(Resource::Memory, 1e9, None, 20_000, 60_000),
        limit(Resource::Pids, 50.0, None, 30_000, 60_000),
        limit(Resource::CpuWeight, 10.0, None, 40_000, 60_000),
        throttle(0.2, 40_000, 60_000),
    ]
    .map(|spec| world.issue(spec, 10_000));
    world.run(1_000);
    let details = |world: &World| ids.clone().map(|id| world.orchestrator.details[&id].clone());
    let told = details(&world);
    assert_eq!(told[..3], ["asked 954 MiB, read back", "asked 50 processes, read back", "asked weight 10, read back"]);
    assert_eq!(world.result(&ids[3]), None, "the CPU's use is measured");
    world.run(7_000);
    assert_eq!(ids.clone().map(|id| world.result(&id)), [Some(S::Succeeded); 4]);
    let measured: Vec<_> = world
        .orchestrator
        .facts
        .values()
        .filter_map(|f| match f {
            fact::Kind::EffectMeasured(m) => Some((m.resource(), m.held, m.measured.is_some(), m.over_ms > 0)),
            _ => None,
        })
        .collect();
    assert_eq!(measured.len(), 4);
    for (resource, held, is_measured, over) in measured {
        let cpu = resource == Resource::Cpu;
        assert_eq!((held, is_measured, over), (true, cpu, cpu), "{resource:?}: what is read back has no measure");
    }
    world.run(13_000);
    let stands = |world: &mut World| {
        [Resource::Memory, Resource::Pids, Resource::CpuWeight].map(|resource| world.stands_for(resource))
    };
    assert_eq!(stands(&mut world), [FREE, "50", "10"], "the memory's time is over, the others' is not");
    world.run(30_000);
    assert!(world.is_free(), "{:?}", world.others);
}

#[test]
fn what_somebody_else_makes_of_one_limit_is_no_matter_of_the_others() {
    let mut world = begun();
    let memory = world.issue(limit(Resource::Memory, 1e9, None, 60_000, 60_000), 10_000);
    let cpu = world.issue(throttle(0.2, 60_000, 60_000), 10_000);
    world.run(8_000);
    world.others.values_mut().for_each(|value| *value = "7".into());
    world.run(8_000);
    assert_eq!(world.durable.leases.keys().collect::<Vec<_>>(), [&cpu]);
    assert_eq!((world.stands_for(Resource::Memory).as_str(), world.value.as_str()), ("7", "4000 20000"));
    assert_eq!(world.leases().iter().filter(|l| **l == L::Foreign).count(), 1);
    assert_eq!(world.result(&memory), Some(S::Succeeded));
}

#[test]
fn a_limit_that_cannot_be_fails_and_the_milder_one_stays() {
    let mut world = begun();
    let milder = world.issue(limit(Resource::Memory, 2e9, None, 60_000, 60_000), 10_000);
    world.run(1_000);
    let key = *world.durable.limits.keys().next().expect("held");
    world.in_use.insert(key, 1.5e9);
    // Of another origin it would overlap; of the same one the newer takes the place of the older first.
    let stricter = world.issue(limit(Resource::Memory, 1e9, None, 60_000, 60_000), 10_000);
    world.run(2_000);
    assert_eq!((world.result(&milder), world.result(&stricter)), (Some(S::Succeeded), Some(S::Failed)));
    assert!(world.orchestrator.details[&stricter].contains("more than that is in use"));
    assert!(world.is_free());
}

#[test]
fn an_unthrottle_of_one_resource_leaves_the_others() {
    let mut world = begun();
    let unthrottle = |resource: Resource| Spec::Unthrottle(v1::Unthrottle { resource: resource as i32 });
    world.issue(limit(Resource::Memory, 1e9, None, 60_000, 60_000), 10_000);
    world.issue(throttle(0.2, 60_000, 60_000), 10_000);
    world.run(8_000);
    let of_memory = world.issue(unthrottle(Resource::Memory), 10_000);
    let of_pids = world.issue(unthrottle(Resource::Pids), 10_000);
    world.run(1_000);
    assert_eq!((world.stands_for(Resource::Memory).as_str(), world.value.as_str()), (FREE, "4000 20000"));
    assert!(world.orchestrator.details[&of_memory].starts_with("undone: "));
    assert_eq!(world.orchestrator.details[&of_pids], "no throttle of pids was in effect");
    world.issue(unthrottle(Resource::Unspecified), 10_000);
    world.run(1_000);
    assert!(world.is_free());
}

#[test]
fn one_process_is_held_beside_its_agent_measured_by_its_own_use_and_let_go_when_it_ends() {
    let mut world = begun();
    world.processes.push((101, 8));
    world.run(1_000);
    let whole = world.issue(throttle(0.3, 60_000, 60_000), 10_000);
    let one = world.issue(limit(Resource::Cpu, 0.1, Some((101, 8)), 60_000, 60_000), 10_000);
    world.run(8_000);
    assert_eq!((world.result(&whole), world.result(&one)), (Some(S::Succeeded), Some(S::Succeeded)));
    assert_eq!(world.orchestrator.details[&one], "asked 0.10, measured 0.10 over 5 s");
    world.processes.retain(|p| *p != (101, 8));
    world.run(7_000);
    assert_eq!(world.durable.leases.keys().collect::<Vec<_>>(), [&whole], "its process is gone");
    assert_eq!(world.value, "6000 20000");
    let gone = world.issue(limit(Resource::Cpu, 0.1, Some((101, 8)), 60_000, 60_000), 10_000);
    world.run(1_000);
    assert_eq!(world.result(&gone), Some(S::Failed));
}

#[test]
fn another_rung_takes_the_place_of_the_first_which_is_put_back_before() {
    let mut world = begun();
    let first = world.issue(throttle(0.2, 60_000, 60_000), 10_000);
    world.run(8_000);
    // The same rung by its name changes nothing.
    let holds = world.holds.len();
    world.issue(via(0.2, "cgroup2"), 10_000);
    world.run(8_000);
    assert_eq!((world.value.as_str(), world.holds.len()), ("4000 20000", holds));
    world.issue(via(1.0, "affinity"), 10_000);
    world.run(8_000);
    assert_eq!(world.value, OLD, "two rungs never hold the same resource at once");
    assert_eq!(world.others.values().collect::<Vec<_>>(), ["20000 20000"]);
    assert_eq!(world.durable.limits.len(), 1);
    assert_eq!(world.result(&first), Some(S::Succeeded));
    world.issue(Spec::Unthrottle(v1::Unthrottle::default()), 10_000);
    world.run(1_000);
    assert!(world.is_free());
}

#[test]
fn a_freeze_ends_with_its_sidecar_and_what_else_is_held_goes_on() {
    let mut world = begun();
    let freeze = world.issue(limit(Resource::Freeze, 1.0, None, 60_000, 60_000), 10_000);
    world.issue(limit(Resource::Memory, 1e9, None, 60_000, 60_000), 10_000);
    world.run(8_000);
    assert!(world.others.values().all(|value| value != FREE), "{:?}", world.others);
    world.crash(0);
    world.start();
    world.run(3_000);
    let held: Vec<Resource> = world.durable.limits.keys().map(|slot| slot.resource()).collect();
    assert_eq!(held, [Resource::Memory]);
    assert_eq!(world.others.values().filter(|value| *value != FREE).count(), 1, "{:?}", world.others);
    assert_eq!(world.result(&freeze), Some(S::Succeeded));
}

#[test]
fn a_rung_that_is_not_there_is_rejected_naming_those_that_are() {
    let mut world = begun();
    let wrong = world.issue(via(0.5, "cgroup1"), 10_000);
    let none = world.issue(limit(Resource::GpuPower, 200.0, None, 60_000, 60_000), 10_000);
    let long = world.issue(limit(Resource::Freeze, 1.0, None, 61_000, 60_000), 10_000);
    world.run(1_000);
    assert_eq!([&wrong, &none, &long].map(|id| world.result(id)), [Some(S::Rejected); 3]);
    assert!(world.orchestrator.details[&wrong].contains("there is: cgroup2, affinity"));
    assert!(world.orchestrator.details[&none].contains("throttle.gpu-power"));
    assert!(world.orchestrator.details[&long].contains("at most 60 s"));
}

#[test]
fn more_limits_than_there_is_room_for_are_rejected() {
    let mut world = begun();
    world.processes.extend((0..70).map(|n| (200 + n, 5)));
    world.run(1_000);
    let of = |n| limit(Resource::Pids, 5.0, Some((200 + n, 5)), 60_000, 60_000);
    let ids: Vec<String> = (0..65).map(|n| world.issue(of(n), 10_000)).collect();
    world.run(3_000);
    assert_eq!(ids.iter().filter(|id| world.result(id) == Some(S::Succeeded)).count(), 64);
    let last = ids.last().expect("many");
    assert_eq!(world.result(last), Some(S::Rejected));
    assert!(world.orchestrator.details[last].contains("64 limits"));
    // In the place of one that is there, there is room.
    let again = world.issue(of(3), 10_000);
    world.run(1_000);
    assert_eq!(world.result(&again), Some(S::Succeeded));
}

#[test]
fn without_samples_of_it_a_limit_is_in_effect_and_said_not_to_be_measured() {
    let mut world = begun();
    let io = world.issue(throttle(0.2, 60_000, 60_000), 10_000);
    for _ in 0..20 {
        let mut sample = world.sample();
        sample.agent.cpu_cores = None;
        world.boot_ms += 1_000;
        world.inputs.push_back(Input::Sampled(sample));
        world.owe();
        world.drain();
    }
    assert_eq!(world.result(&io), Some(S::Succeeded));
    assert!(world.orchestrator.details[&io].contains("could not be measured"), "absent is never 0");
}
