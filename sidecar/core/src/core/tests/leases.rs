//! Leases of several origins, by the boot clock alone; and what goes before what.
use pitwall_proto::{
    state::{self, LeaseOrigin, Record, record::Body},
    v1::{self, CommandState as S, command_spec::Kind as Spec, connect_response::Body as Down},
};

use super::{
    scripts::begun,
    world::{OLD, World, kill, renewal, tell, throttle},
};
use crate::{clock, kept};

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
    let stricter = world.issue(throttle(0.1, 10_000, 10_000), 10_000);
    world.run(5_000);
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
