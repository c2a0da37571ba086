//! More commands at once than are taken, or carried out.
use pitwall_proto::{
    state::{self, record::Body},
    v1::CommandState as S,
};

use super::{
    scripts::begun,
    world::{World, kill, tell},
};
use crate::{
    core::{acting, commands::COMMANDS_MAX},
    io::{EffectOutcome, Input},
    kept::Stated as _,
};

/// With as many commands as are taken, all ended, and their results not told yet.
fn full() -> World {
    let mut world = begun();
    let core = world.core.as_mut().unwrap();
    for n in 0..COMMANDS_MAX {
        let mut command = state::Command { id: format!("old{n}"), ..Default::default() };
        command.set_state(S::Cancelled);
        core.keep(command);
    }
    world.run(500);
    assert_eq!(world.durable.commands.len(), COMMANDS_MAX);
    world
}

#[test]
fn a_command_that_was_left_for_later_is_not_passed_by_the_next_and_taken_for_forgotten() {
    let mut world = full();
    let first = world.issue(tell("first"), 60_000);
    world.run(500);
    assert_eq!(world.result(&first), None);
    // There is room for one more when the next comes.
    world.core.as_mut().unwrap().record(Body::CommandForgotten(state::CommandForgotten { id: "old0".into() }));
    let second = world.issue(tell("second"), 60_000);
    world.run(30_000);
    assert_eq!([&first, &second].map(|id| world.result(id)), [Some(S::Succeeded); 2]);
    assert_eq!(world.inbox.len(), 2);
}

#[test]
fn with_no_room_for_commands_the_stream_stays_and_it_is_said_once() {
    let mut world = full();
    for n in 0..5 {
        world.issue(tell(&n.to_string()), 60_000);
        world.run(500);
    }
    assert_eq!(world.orchestrator.hellos.len(), 1, "on it the results are acknowledged that make room");
    assert_eq!(world.logs.iter().filter(|l| l.contains("too many commands")).count(), 1, "{:?}", world.logs);
}

#[test]
fn kills_in_any_number_wait_for_each_other_and_hold_up_nothing_else() {
    let mut world = begun();
    world.kills_hang = true;
    let kills: Vec<String> = (0..100).map(|n| world.issue(kill(1_000 + n, 8), 60_000)).collect();
    world.run(2_000);
    assert_eq!(world.hung_kills.len(), acting::KILLS_MAX, "so many at once");
    let note = world.issue(tell("look"), 10_000);
    world.run(1_000);
    assert_eq!(world.result(&note), Some(S::Succeeded), "behind kills that hang");
    world.kills_hang = false;
    for effect in std::mem::take(&mut world.hung_kills) {
        world.inputs.push_back(Input::Done { effect, outcome: EffectOutcome::Ok { detail: "ended".into() } });
    }
    world.run(5_000);
    assert!(kills.iter().all(|id| world.result(id) == Some(S::Succeeded)));
}
