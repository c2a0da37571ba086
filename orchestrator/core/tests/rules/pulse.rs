//! A link that carries nothing any more is noticed by silence, in time, on this side too.
use pitwall_core::io::Action;
use pitwall_proto::v1::{SidecarStatus, connect_response::Body};

use crate::support::{World, is_pulse};

const PLAN: &str = "project: p\nagents:\n  a: { deliverables: { d: { checks: [ file: x ] } } }\n";

fn pulses(world: &World) -> usize {
    world.out.iter().filter(|a| is_pulse(a)).count()
}

fn silent(action: &Action) -> bool {
    matches!(action, Action::Close { refusal, .. } if refusal.reason == "SESSION_SILENT")
}

#[test]
fn something_is_said_to_every_sidecar_at_least_once_in_an_interval() {
    let mut world = World::new(PLAN);
    world.connect("a");
    let welcome = world.out.iter().find_map(|a| match a {
        Action::Send { body: Body::Welcome(welcome), .. } => Some(welcome.pulse_every_ms),
        _ => None,
    });
    assert_eq!(welcome, Some(10_000), "and it is told so");
    let mut said = world.out.len();
    for n in 1..=12 {
        world.advance(10_000);
        assert!(world.out.len() > said, "interval {n}");
        said = world.out.len();
    }
    assert!((12..=16).contains(&pulses(&world)), "{}", pulses(&world));
}

#[test]
fn a_pulse_is_said_only_where_nothing_else_was() {
    let mut world = World::new(PLAN);
    world.connect("a");
    for _ in 0..30 {
        world.advance(2_000);
        world.changes("a", &[("d", 1)], 0);
    }
    assert_eq!(pulses(&world), 0, "acknowledgements are as good");
}

#[test]
fn a_stream_that_carries_nothing_any_more_is_given_up_within_50_s() {
    let mut world = World::new(PLAN);
    world.connect("a");
    // Half open: nothing comes, and nobody says that it ended.
    world.sidecar("a").session = None;
    world.advance(39_999);
    assert!(!world.out.iter().any(silent));
    world.advance(1);
    assert!(world.out.iter().any(silent));
    let said = world.out.len();
    world.advance(100_000);
    assert!(!world.out[said..].iter().any(|a| matches!(a, Action::Send { .. })), "nothing is said to it any more");
}

#[test]
fn an_orchestrator_that_stood_still_itself_calls_nobody_silent() {
    let mut world = World::new(PLAN);
    world.connect("a");
    world.advance(15_000);
    // Stopped for ten minutes: no deadline was passed, and what came meanwhile is read afterwards.
    world.now += 600_000;
    world.input(pitwall_core::io::Input::Tick);
    assert!(!world.out.iter().any(silent));
    assert_eq!(world.project.state().agents["a"].sidecar_status(), SidecarStatus::Live);
    // They have one interval less than else.
    world.sidecar("a").session = None;
    world.advance(30_000);
    assert!(world.out.iter().any(silent));
    assert_eq!(world.project.state().agents["a"].sidecar_status(), SidecarStatus::Lost);
}
