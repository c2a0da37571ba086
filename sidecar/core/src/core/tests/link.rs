//! When a stream is given up, and when the next one is tried.
use pitwall_proto::v1::{self, connect_response::Body as Down};

use super::{scripts::begun, world::World};

/// From now until the next hello, in steps of 100 ms.
fn until_hello(world: &mut World, within: u64) -> Option<u64> {
    let (before, from) = (world.orchestrator.hellos.len(), world.boot_ms);
    while world.boot_ms < from + within {
        world.run(100);
        if world.orchestrator.hellos.len() > before {
            return Some(world.boot_ms - from);
        }
    }
    None
}

#[test]
fn a_link_on_which_nothing_is_heard_is_dead_within_50_s_though_nothing_is_owed() {
    let mut world = World::new();
    world.orchestrator.pulse_every_ms = 10_000;
    world.run(3_000);
    // A black hole: frames go out, nothing comes.
    world.orchestrator.mute = true;
    let (_, why) = world.core.as_ref().unwrap().next_deadline().expect("a deadline");
    assert!(!why.is_empty());
    let noticed = until_hello(&mut world, 60_000).expect("it tries again");
    // Heard last at the welcome; the wait before another try is drawn from at most 100 ms here.
    assert!((36_000..=41_000).contains(&noticed), "{noticed}");
    assert!(world.logs.iter().any(|l| l.contains("does not answer")), "{:?}", world.logs);
}

#[test]
fn pulses_keep_a_link_on_which_nothing_else_is_said() {
    let mut world = World::new();
    world.orchestrator.pulse_every_ms = 1_000;
    world.run(3_000);
    for _ in 0..60 {
        world.say(Down::Pulse(v1::Pulse {}));
        world.run(1_000);
    }
    assert_eq!(world.orchestrator.hellos.len(), 1);
}

#[test]
fn where_no_pulses_are_promised_silence_is_no_sign() {
    let mut world = World::new();
    world.run(3_000);
    world.orchestrator.mute = true;
    assert_eq!(until_hello(&mut world, 60_000), None);
}

#[test]
fn a_goodbye_is_honoured_with_its_spread_drawn_evenly_inside_it() {
    let mut waits = Vec::new();
    let mut world = begun();
    for _ in 0..40 {
        world.say(Down::GoAway(v1::GoAway { reason: "drain".into(), reconnect_within_ms: 10_000 }));
        waits.push(until_hello(&mut world, 20_000).expect("it comes back"));
        world.run(1_000);
    }
    assert!(waits.iter().all(|w| *w <= 10_100), "{waits:?}");
    let early = waits.iter().filter(|w| **w < 5_000).count();
    assert!((8..=32).contains(&early), "spread, not together: {waits:?}");
    assert!(world.logs.iter().any(|l| l.contains("drain")), "{:?}", world.logs);
}

#[test]
fn no_goodbye_sends_a_sidecar_away_for_ever() {
    let mut world = begun();
    world.say(Down::GoAway(v1::GoAway { reason: "drain".into(), reconnect_within_ms: u32::MAX }));
    assert!(until_hello(&mut world, 601_000).is_some());
}

#[test]
fn tries_spread_over_a_bound_that_grows_to_its_cap_and_begins_anew_after_a_stable_session() {
    let mut world = begun();
    let mut waits = Vec::new();
    for _ in 0..30 {
        world.lose_connection();
        waits.push(until_hello(&mut world, 20_000).expect("it tries again"));
    }
    // Heartbeats of 1 s: base 100 ms, cap 12 s.
    assert!(waits[..3].iter().all(|w| *w <= 500), "{waits:?}");
    assert!(waits.iter().all(|w| *w <= 12_100), "{waits:?}");
    let late = &waits[10..];
    assert!(late.iter().any(|w| *w < 4_000) && late.iter().any(|w| *w > 8_000), "drawn after the cap: {waits:?}");
    world.run(5_000);
    world.lose_connection();
    assert!(until_hello(&mut world, 20_000).is_some_and(|w| w <= 200));
}
